"""New files: the same bytes by way of the system's memory and past it, also where the file system refuses one."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from meshhold.chunkstore import new_file
from meshhold.chunkstore.new_file import BLOCK, DIRECT_MIN, open_with

SIZES = (0, 1, BLOCK, DIRECT_MIN - 1, DIRECT_MIN, DIRECT_MIN + 5, (1 << 20) + 17, new_file.SPARE_SIZE_MAX + 1)


def pattern(seed: int, size: int) -> bytes:
    return (seed.to_bytes(2, "big") * (size // 2 + 1))[:size]


@pytest.fixture(autouse=True)
def no_buffers() -> None:
    new_file._spare.clear()


class FakeOs:
    """The real `os`, whose writes are short; opening or writing past the system's memory is refused."""

    def __init__(self, refused: str) -> None:
        self.refused = refused
        self.is_direct: dict[int, bool] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int) -> int:
        fd = os.open(path, flags, mode)
        self.is_direct[fd] = bool(flags & os.O_DIRECT)
        if self.refused == "open" and self.is_direct[fd]:  # some make the file first
            os.close(fd)
            raise OSError(errno.EINVAL, "Invalid argument")
        return fd

    def write(self, fd: int, raw: memoryview) -> int:
        if self.refused == "write" and self.is_direct[fd]:
            raise OSError(errno.EINVAL, "Invalid argument")
        return os.write(fd, raw[: 64 << 10])


@pytest.mark.parametrize("refused", ["", "open", "write"])
@pytest.mark.parametrize("size", SIZES)
def test_the_file_has_the_bytes_and_is_for_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, refused: str
) -> None:
    monkeypatch.setattr(new_file, "os", FakeOs(refused))
    for seed in (1, 2):  # the second finds a buffer that the first one used
        path = tmp_path / str(seed)
        fd = open_with(str(path), pattern(seed, size))
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        assert path.read_bytes() == pattern(seed, size)
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("size", SIZES)
def test_large_ones_alone_go_past_the_systems_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    fake = FakeOs("")
    monkeypatch.setattr(new_file, "os", fake)
    os.close(open_with(str(tmp_path / "file"), pattern(1, size)))
    assert set(fake.is_direct.values()) == {size >= DIRECT_MIN}


def test_a_shorter_one_after_a_longer_one_has_none_of_its_bytes(tmp_path: Path) -> None:
    for seed, size in ((1, DIRECT_MIN + BLOCK + 5), (2, DIRECT_MIN + 5), (3, DIRECT_MIN)):
        os.close(open_with(str(tmp_path / str(seed)), pattern(seed, size)))
        assert (tmp_path / str(seed)).read_bytes() == pattern(seed, size)


def test_threads_do_not_share_a_buffer_while_they_write(tmp_path: Path) -> None:
    size, threads, each = DIRECT_MIN + 17, 12, 4

    def write(thread: int) -> None:
        for number in range(each):
            seed = thread * each + number
            os.close(open_with(str(tmp_path / str(seed)), pattern(seed, size)))

    running = [threading.Thread(target=write, args=(thread,)) for thread in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for seed in range(threads * each):
        assert (tmp_path / str(seed)).read_bytes() == pattern(seed, size)
    assert len(new_file._spare) <= 8


def test_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    for size in (1, DIRECT_MIN):
        with pytest.raises(FileExistsError):
            open_with(str(path), bytes(size))
        assert path.read_bytes() == b"old"
