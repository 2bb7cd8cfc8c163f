"""The disk store when the system refuses: each call in turn, full disks, failed fsyncs, kills, damaged files."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshhold.chunkstore import disk, new_file, syscalls
from meshhold.chunkstore.disk import DiskChunkStore
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import (
    ChunkCorruptError,
    ChunkMissingError,
    InvalidError,
    MeshHoldError,
    StorageFailedError,
    StorageFullError,
    SyncFailedError,
)
from meshhold.model.ids import ChunkId, VaultId

VAULT = VaultId("a" * 32)
RAW = b"sealed bytes " * 1000
CHUNK = ChunkId(hash_bytes(RAW))
LARGE = RAW * 30
LARGE_CHUNK = ChunkId(hash_bytes(LARGE))
"""It goes past the system's memory."""
CALLS = (
    *("open", "close", "write", "read", "fsync", "fstat", "stat"),
    *("utime", "rename", "mkdir", "statvfs", "unlink", "ftruncate"),
)


class FaultyOs:
    """The real `os`, but call number `at` of those the store makes fails; `trail` lists the calls made."""

    def __init__(self, at: int, code: int, names: tuple[str, ...] = CALLS) -> None:
        self.at, self.code, self.names = at, code, names
        self.trail: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._counted(name, real) if name in self.names else real

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.trail.append(name)
            if len(self.trail) == self.at:
                if name == "close":
                    real(*args, **named)  # Linux frees the descriptor whatever close answers
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **named)

        return call


@contextmanager
def faulty(at: int, code: int, names: tuple[str, ...] = CALLS) -> Iterator[FaultyOs]:
    fake = FaultyOs(at, code, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "os", fake)
        patch.setattr(syscalls, "os", fake)
        patch.setattr(new_file, "os", fake)
        yield fake


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def path_of(root: Path, chunk: ChunkId = CHUNK) -> Path:
    return root / VAULT / chunk.hex()[:2] / chunk.hex()[2:]


def prepare_empty(root: Path) -> None:
    """Leave it as it is: no root yet."""


def prepare_good(root: Path) -> None:
    """Put a good copy there."""
    DiskChunkStore(root).put(VAULT, CHUNK, RAW)


def prepare_bad(root: Path) -> None:
    """Put a damaged copy there."""
    prepare_good(root)
    path_of(root).write_bytes(RAW[:-1] + b"?")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE])
@pytest.mark.parametrize("prepare", [prepare_empty, prepare_good, prepare_bad])
def test_put_survives_the_failure_of_each_call(tmp_path: Path, prepare: Callable[[Path], None], code: int) -> None:
    """Call 1, 2, 3 … fails, until a put needs fewer: nothing half-written, nothing leaked, and a retry works."""
    for at in range(1, 1000):
        root = tmp_path / str(at)
        prepare(root)
        store = DiskChunkStore(root, capacity_bytes=1 << 20)
        if prepare is not prepare_empty or at > 3:  # the 257 mkdirs of a new vault fail alike: three of them will do
            store.put(VAULT, ChunkId(hash_bytes(b"")), b"")
        files = open_files()
        with faulty(at, code) as fake:
            met = attempt(store)
        if len(fake.trail) < at:
            break
        absorbed = met is None and absorbs(prepare, fake.trail, at)
        assert absorbed or type(met) is expected(fake.trail, at, code), (at, fake.trail, met)
        assert met is None or met.fix
        assert open_files() == files, f"a descriptor leaked when call {at} ({fake.trail[at - 1]}) failed"
        assert_whole_or_absent(store, root, prepare)
        store.put(VAULT, CHUNK, RAW)
        assert store.get(VAULT, CHUNK) == RAW
        assert list((root / "tmp").iterdir()) == []
        assert store.usage().free == (1 << 20) - len(RAW)
    else:
        pytest.fail("a put never succeeded")
    assert met is None
    assert at > 5


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EINVAL])
def test_put_of_a_large_chunk_survives_the_failure_of_each_call(tmp_path: Path, code: int) -> None:
    """As above; a file system that refuses to be written past the system's memory is written in the usual way."""
    store = DiskChunkStore(tmp_path)
    store.put(VAULT, CHUNK, RAW)
    absorbed = []
    for at in range(1, 100):
        files = open_files()
        with faulty(at, code) as fake:
            met = attempt(store, LARGE_CHUNK, LARGE)
        if len(fake.trail) < at:
            break
        if met is None:
            absorbed.append(fake.trail[at - 1])
        else:
            assert type(met) is expected(fake.trail, at, code), (at, fake.trail, met)
        assert open_files() == files, f"a descriptor leaked when call {at} ({fake.trail[at - 1]}) failed"
        store.put(VAULT, LARGE_CHUNK, LARGE)
        assert store.get(VAULT, LARGE_CHUNK) == LARGE
        assert list((tmp_path / "tmp").iterdir()) == []
        assert store.remove_if_unused_since(VAULT, LARGE_CHUNK, float("inf"))
    assert absorbed == (["open", "write", "ftruncate"] if code == errno.EINVAL else [])
    assert at > 8


def attempt(store: DiskChunkStore, chunk: ChunkId = CHUNK, raw: bytes = RAW) -> MeshHoldError | None:
    try:
        store.put(VAULT, chunk, raw)
    except MeshHoldError as error:
        return error
    return None


def absorbs(prepare: Callable[[Path], None], trail: list[str], at: int) -> bool:
    """Tell whether a put may go on: a copy that cannot be read is replaced."""
    return prepare is not prepare_empty and trail[at - 1] in ("read", "fstat") and "write" not in trail[: at - 1]


def expected(trail: list[str], at: int, code: int) -> type[MeshHoldError]:
    """Return the error that the failure of call `at` must become."""
    full = code in (errno.ENOSPC, errno.EDQUOT)
    if trail[at - 1] == "fsync":
        unseen = "write" in trail[: at - 1] and "rename" not in trail[: at - 1]
        return StorageFullError if full and unseen else SyncFailedError
    return StorageFullError if full else StorageFailedError


def assert_whole_or_absent(store: DiskChunkStore, root: Path, prepare: Callable[[Path], None]) -> None:
    path = path_of(root)
    if prepare is prepare_bad:
        assert path.read_bytes() in (RAW, RAW[:-1] + b"?")
    elif path.exists():
        assert store.get(VAULT, CHUNK) == RAW
    else:
        assert prepare is prepare_empty
        with pytest.raises(ChunkMissingError):
            store.get(VAULT, CHUNK)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("at", [1, 2])
def test_a_new_vault_whose_folders_are_not_durable_is_not_relied_on(tmp_path: Path, at: int, code: int) -> None:
    store = DiskChunkStore(tmp_path)
    with faulty(at, code, ("fsync",)), pytest.raises(SyncFailedError):
        store.put(VAULT, CHUNK, RAW)
    assert not store.has(VAULT, CHUNK)
    with faulty(0, 0) as fake:
        store.put(VAULT, CHUNK, RAW)
    assert fake.trail.count("fsync") == 4, "the folders are synced again"


@pytest.mark.parametrize("at", range(1, 5))
def test_get_tells_a_refusing_disk_from_a_missing_chunk(tmp_path: Path, at: int) -> None:
    prepare_good(tmp_path)
    store = DiskChunkStore(tmp_path)
    files = open_files()
    with faulty(at, errno.EIO), pytest.raises(StorageFailedError, match="Input/output error"):
        store.get(VAULT, CHUNK)
    assert open_files() == files
    assert store.get(VAULT, CHUNK) == RAW
    assert store.quarantined(VAULT) == []


def test_a_copy_that_cannot_be_read_is_replaced_by_a_put(tmp_path: Path) -> None:
    prepare_good(tmp_path)
    store = DiskChunkStore(tmp_path)
    with faulty(1, errno.EIO, ("read",)):
        assert store.put(VAULT, CHUNK, RAW)
    assert store.get(VAULT, CHUNK) == RAW


def test_short_writes_and_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sipping(FaultyOs):
        def write(self, fd: int, raw: bytes) -> int:
            return os.write(fd, memoryview(raw)[:997])

        def read(self, fd: int, size: int) -> bytes:
            return os.read(fd, min(size, 991))

    for module in (syscalls, new_file):
        monkeypatch.setattr(module, "os", Sipping(0, 0))
    store = DiskChunkStore(tmp_path)
    for chunk, raw in ((CHUNK, RAW), (LARGE_CHUNK, LARGE)):
        store.put(VAULT, chunk, raw)
        assert path_of(tmp_path, chunk).read_bytes() == raw
        assert store.get(VAULT, chunk) == raw


@pytest.mark.parametrize(("chunk", "raw"), [(CHUNK, RAW), (LARGE_CHUNK, LARGE)])
def test_order_of_a_put(tmp_path: Path, chunk: ChunkId, raw: bytes) -> None:
    """Write, fsync, rename, fsync of the folder: durable before acknowledged."""
    store = DiskChunkStore(tmp_path)
    store.put(VAULT, ChunkId(hash_bytes(b"")), b"")
    with faulty(0, 0) as fake:
        store.put(VAULT, chunk, raw)
    steps = [name for name in fake.trail if name in ("write", "fsync", "rename")]
    assert steps == ["write", "fsync", "rename", "fsync"]


def test_a_new_vault_is_durable_up_to_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = syscalls.sync

    def sync(fd: int, path: str) -> None:
        synced.append(path)
        real(fd, path)

    monkeypatch.setattr(syscalls, "sync", sync)
    root = tmp_path / "chunks"
    DiskChunkStore(root).put(VAULT, CHUNK, RAW)
    assert synced == [str(tmp_path), str(root / VAULT), str(root), str(path_of(root).parent)]


def test_files_and_folders_are_private(tmp_path: Path) -> None:
    root = tmp_path / "chunks"
    DiskChunkStore(root).put(VAULT, CHUNK, RAW)
    modes = {path.relative_to(root): stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert {mode for path, mode in modes.items() if (root / path).is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if (root / path).is_file()} == {0o600}


def test_the_reserve_stays_free(tmp_path: Path) -> None:
    store = DiskChunkStore(tmp_path, reserve_bytes=1 << 60)
    with pytest.raises(StorageFullError, match="reserve"):
        store.put(VAULT, CHUNK, RAW)
    assert store.usage().free == 0
    assert not store.has(VAULT, CHUNK)


def test_writing_goes_on_when_space_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskChunkStore(tmp_path, reserve_bytes=1000)
    free = [500]
    monkeypatch.setattr(store._room, "_free_bytes", lambda: (1 << 30, free[0]))
    with pytest.raises(StorageFullError):
        store.put(VAULT, CHUNK, RAW)
    free[0] = 1 << 20
    assert store.put(VAULT, CHUNK, RAW)


def test_capacity_counts_what_an_earlier_process_left(tmp_path: Path) -> None:
    prepare_good(tmp_path)
    store = DiskChunkStore(tmp_path, capacity_bytes=len(RAW) + 10)
    assert store.usage().free == 10
    with pytest.raises(StorageFullError, match=r"node\.capacity"):
        store.put(VAULT, ChunkId(hash_bytes(b"other chunk")), b"other chunk")


def test_leftovers_go_at_start_and_foreign_files_stay(tmp_path: Path) -> None:
    prepare_good(tmp_path)
    (tmp_path / "tmp" / "17").write_bytes(b"half")
    (tmp_path / "tmp" / "3-gone").mkdir()
    note = path_of(tmp_path).parent / "README"
    note.write_bytes(b"not a chunk")
    store = DiskChunkStore(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert [found.chunk for found in store.scan(VAULT)] == [CHUNK]
    assert note.exists()


def test_folders_that_vanish_are_made_again_by_a_retry(tmp_path: Path) -> None:
    prepare_good(tmp_path)
    store = DiskChunkStore(tmp_path)
    store.put(VAULT, CHUNK, RAW)
    (tmp_path / VAULT).rename(tmp_path.parent / f"{tmp_path.name}-away")
    with pytest.raises(StorageFailedError):
        store.put(VAULT, CHUNK, RAW)
    assert store.put(VAULT, CHUNK, RAW)
    assert store.get(VAULT, CHUNK) == RAW


def test_a_file_larger_than_any_chunk_is_not_read(tmp_path: Path) -> None:
    prepare_good(tmp_path)
    with path_of(tmp_path).open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    store = DiskChunkStore(tmp_path)
    with pytest.raises(ChunkCorruptError):
        store.get(VAULT, CHUNK)
    assert store.quarantined(VAULT) == [CHUNK.hex()]


def test_hostile_names_never_become_paths(tmp_path: Path) -> None:
    store = DiskChunkStore(tmp_path / "chunks")
    for vault in ("..", "", "tmp", "a" * 31 + "/", "A" * 32, "a" * 32 + "\n"):
        with pytest.raises(InvalidError):
            store.put(VaultId(vault), CHUNK, RAW)
    for chunk in (b"", b"short", bytes(33)):
        with pytest.raises(InvalidError):
            store.get(VAULT, ChunkId(chunk))
    with pytest.raises(InvalidError, match="at most"):
        store.put(VAULT, CHUNK, bytes(disk.SEALED_SIZE_MAX + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["chunks"]


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailedError, match=r"file/chunks.*Not a directory"):
        DiskChunkStore(tmp_path / "file" / "chunks")


def test_a_put_that_overtakes_a_removal_wins(tmp_path: Path) -> None:
    """The removal has begun and waits; a put is acknowledged; the chunk stays, whatever the cutoff says."""
    store = DiskChunkStore(tmp_path)
    store.put(VAULT, CHUNK, RAW)
    gate, result = store._stripes[CHUNK[0]], list[bool]()
    with gate:
        removal = threading.Thread(
            target=lambda: result.append(store.remove_if_unused_since(VAULT, CHUNK, float("inf")))
        )
        removal.start()
        while not store._removals:
            os.sched_yield()
        # What a put does last, under the same lock.
        store._removals.pop((VAULT, CHUNK))
    removal.join()
    assert result == [False]
    assert store.get(VAULT, CHUNK) == RAW
    assert store.remove_if_unused_since(VAULT, CHUNK, float("inf"))


WRITER = """
import sys
from pathlib import Path
from meshhold.chunkstore.disk import DiskChunkStore
from meshhold.crypto.hashing import hash_bytes
store = DiskChunkStore(Path(sys.argv[1]))
for number in range(100_000):
    raw = number.to_bytes(4, "big") * 30_000
    chunk = hash_bytes(raw)
    store.put("a" * 32, chunk, raw)
    sys.stdout.write(chunk.hex() + "\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("acknowledged", [1, 7, 30])
def test_kill_in_the_middle_of_writes_loses_nothing_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    """Kill -9 a writer that never stops: every acknowledged chunk is whole, and so is every other that shows."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        names = [writer.stdout.readline() for _ in range(acknowledged)]
        writer.send_signal(signal.SIGKILL)
        names += writer.stdout.read().splitlines(keepends=True)
    done = [ChunkId(bytes.fromhex(name.decode())) for name in names if name.endswith(b"\n")]
    assert len(done) >= acknowledged
    store = DiskChunkStore(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []
    shown = [found.chunk for found in store.scan(VAULT)]
    assert set(done) <= set(shown)
    for chunk in shown:
        assert hash_bytes(store.get(VAULT, chunk)) == chunk
    assert store.quarantined(VAULT) == []
