"""The read cache: who goes first, what it may use, what a bad file is, and that nothing of it lasts."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshhold.chunkstore import cache as cache_module
from meshhold.chunkstore import new_file
from meshhold.chunkstore.cache import ChunkCache
from meshhold.chunkstore.contract import Usage
from meshhold.chunkstore.disk import DiskChunkStore
from meshhold.chunkstore.places import cache_folder
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import StorageFullError
from meshhold.model.ids import ChunkId, VaultId

VAULT, OTHER = VaultId("a" * 32), VaultId("b" * 32)
BLOCK = 4096
RESERVE = 10 * BLOCK


def sealed(seed: int, size: int = BLOCK) -> tuple[ChunkId, bytes]:
    raw = seed.to_bytes(4, "big") * (size // 4)
    return ChunkId(hash_bytes(raw)), raw


CHUNKS = [sealed(seed) for seed in range(1, 11)]
CHUNK, RAW = CHUNKS[0]


class FakeDisk:
    """The real `os`, on a disk with `size` bytes of which `others` use some; calls in `broken` fail with `code`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.others = 0
        self.broken: set[str] = set()
        self.code = errno.EIO
        self.cache: ChunkCache | None = None

    def __getattr__(self, name: str) -> Any:
        return self._fail if name in self.broken else getattr(os, name)

    def _fail(self, *_: Any, **__: Any) -> None:
        raise OSError(self.code, os.strerror(self.code))

    def statvfs(self, _path: str) -> Any:
        if "statvfs" in self.broken:
            self._fail()
        used = 0 if self.cache is None else self.cache.used
        return SimpleNamespace(f_frsize=1, f_blocks=self.size, f_bavail=self.size - self.others - used)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDisk]:
    fake = FakeDisk(1000 * BLOCK)
    for module in (cache_module, new_file):
        monkeypatch.setattr(module, "os", fake)
    yield fake
    assert fake.cache is None or fake.cache.used == used_on_disk(fake.cache)


def used_on_disk(cache: ChunkCache) -> int:
    """Return what the files take that the cache may know of."""
    folder = Path(cache._folder)
    return sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in folder.iterdir()) if folder.exists() else 0


def open_cache(tmp_path: Path, blocks: int, disk: FakeDisk | None = None, **words: Any) -> ChunkCache:
    cache = ChunkCache(tmp_path / "cache", blocks * BLOCK, reserve_bytes=RESERVE if disk else 0, **words)
    if disk is not None:
        disk.cache = cache
    return cache


def fill(cache: ChunkCache, count: int, vault: VaultId = VAULT) -> None:
    for chunk, raw in CHUNKS[:count]:
        assert cache.put(vault, chunk, raw)


def kept(cache: ChunkCache) -> list[int]:
    """Return which chunks are there, without a read that would count."""
    return [number for number, (chunk, _) in enumerate(CHUNKS) if chunk in cache._kept]


def file_of(cache: ChunkCache, chunk: ChunkId) -> Path:
    return Path(cache._path(cache._kept[chunk].number))


def test_what_was_put_is_read_and_counted(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 10)
    assert cache.get(CHUNK) is None
    assert cache.put(VAULT, CHUNK, RAW)
    assert cache.put(VAULT, CHUNK, RAW), "it is there already"
    assert cache.get(CHUNK) == RAW
    assert cache.get_cached(CHUNK, len(RAW)) in (RAW, None), "None: the file system cannot tell what memory has"
    assert cache.get_cached(CHUNK, len(RAW) - 1) is None
    use = cache.use()
    assert (use.used, use.size_max, use.chunks, use.misses) == (BLOCK, 10 * BLOCK, 1, 1)
    assert use.hits in (1, 2)
    assert file_of(cache, CHUNK).read_bytes() == RAW


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 3)
    fill(cache, 3)
    cache.get(CHUNKS[0][0])
    cache.get_cached(CHUNKS[1][0], 0)  # a look is a use, also where a thread has to read
    assert cache.put(VAULT, *CHUNKS[3])
    assert kept(cache) == [0, 1, 3]
    assert cache.put(VAULT, *CHUNKS[4])
    assert kept(cache) == [1, 3, 4]
    assert used_on_disk(cache) == cache.used == 3 * BLOCK


def test_a_large_one_takes_the_place_of_several(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 4)
    fill(cache, 4)
    large = sealed(99, 3 * BLOCK)
    assert cache.put(VAULT, *large)
    assert kept(cache) == [3]
    assert cache.get(large[0]) == large[1]
    assert not cache.put(VAULT, *sealed(98, 5 * BLOCK)), "larger than the cache"
    assert cache.use().chunks == 2


def test_files_count_in_whole_blocks(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 3)
    assert cache.put(VAULT, *sealed(1, 8))
    assert cache.put(VAULT, *sealed(2, BLOCK + 4))
    assert cache.used == 3 * BLOCK


def test_the_number_of_chunks_is_bounded_too(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 100, entries_max=2)
    fill(cache, 5)
    assert kept(cache) == [3, 4]


def test_a_cache_of_size_0_keeps_nothing_and_makes_no_folder(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 0)
    assert not cache.put(VAULT, CHUNK, RAW)
    assert cache.get(CHUNK) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [RAW[:-1], RAW + b"x", b"", bytes(len(RAW))])
def test_a_bad_file_is_a_miss_and_goes(tmp_path: Path, damage: bytes) -> None:
    cache = open_cache(tmp_path, 10)
    fill(cache, 2)
    path = file_of(cache, CHUNK)
    path.write_bytes(damage)
    assert cache.get_cached(CHUNK, 1 << 20) is None
    assert cache.get(CHUNK) is None
    assert not path.exists()
    assert kept(cache) == [1]
    assert cache.put(VAULT, CHUNK, RAW)
    assert cache.get(CHUNK) == RAW


def test_nothing_outlives_the_process(tmp_path: Path) -> None:
    before = open_cache(tmp_path, 10)
    fill(before, 3)
    (tmp_path / "cache" / "stray").mkdir()
    after = open_cache(tmp_path, 10)
    assert after.get(CHUNK) is None
    fill(after, 1)
    after.sweep()
    assert after.get(CHUNK) == RAW
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["1"]
    after.sweep()


def test_what_was_left_goes_first_when_room_is_needed(tmp_path: Path) -> None:
    fill(open_cache(tmp_path, 10), 3)
    cache = open_cache(tmp_path, 10)
    assert cache.give_back()
    assert list((tmp_path / "cache").iterdir()) == []
    assert not cache.give_back()


def test_files_and_folders_are_private(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 10)
    fill(cache, 1)
    assert [path.stat().st_mode & 0o777 for path in ((tmp_path / "cache"), Path(cache._folder))] == [0o700, 0o700]
    assert file_of(cache, CHUNK).stat().st_mode & 0o777 == 0o600


# -- room -----------------------------------------------------------------------------------------------------------


def test_it_grows_only_while_as_much_is_free_as_it_may_take(tmp_path: Path, disk: FakeDisk) -> None:
    cache = open_cache(tmp_path, 5, disk)
    disk.others = disk.size - RESERVE - 8 * BLOCK  # 8 blocks for it and for what is to stay free: 3 and 5
    fill(cache, 5)
    assert kept(cache) == [2, 3, 4]
    disk.others += BLOCK
    assert cache.put(VAULT, *CHUNKS[5])
    assert kept(cache) == [4, 5], "it gives way to others at the next put"
    disk.others += 2 * BLOCK
    assert not cache.put(VAULT, *CHUNKS[6])
    assert kept(cache) == []
    disk.others = 0
    fill(cache, 5)
    assert kept(cache) == [0, 1, 2, 3, 4]


def test_it_gives_way_without_a_put(tmp_path: Path, disk: FakeDisk) -> None:
    cache = open_cache(tmp_path, 5, disk)
    cache.tend({VAULT})
    fill(cache, 5)
    cache.tend({VAULT})
    assert kept(cache) == [0, 1, 2, 3, 4]
    disk.others = disk.size - RESERVE - 7 * BLOCK
    cache.tend({VAULT})
    assert kept(cache) == [3, 4]
    disk.others = disk.size - 2 * BLOCK  # others are in the reserve
    cache.tend({VAULT})
    assert kept(cache) == []


def test_a_vault_that_goes_takes_its_chunks_along(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 10)
    fill(cache, 2)
    for chunk, raw in CHUNKS[2:4]:
        cache.put(OTHER, chunk, raw)
    cache.drop_vault(VaultId("c" * 32))
    assert kept(cache) == [0, 1, 2, 3]
    cache.drop_vault(VAULT)
    assert kept(cache) == [2, 3]
    cache.tend({OTHER, VAULT})
    assert kept(cache) == [2, 3]
    cache.tend({VAULT})
    assert kept(cache) == []
    assert used_on_disk(cache) == cache.used == 0


def open_both(tmp_path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch) -> tuple[DiskChunkStore, ChunkCache]:
    """Return a store and a cache that are on one disk."""
    root = tmp_path / "chunks"
    cache = disk.cache = ChunkCache(Path(cache_folder(str(root))), 5 * BLOCK, reserve_bytes=RESERVE)
    store = DiskChunkStore(root, reserve_bytes=RESERVE, reclaimable=cache)

    def free_bytes() -> tuple[int, int]:
        return disk.size, disk.statvfs("").f_bavail

    monkeypatch.setattr(store._room, "_free_bytes", free_bytes)
    return store, cache


def test_a_put_that_finds_no_room_takes_the_caches(
    tmp_path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cache = open_both(tmp_path, disk, monkeypatch)
    fill(cache, 4)
    disk.others = disk.size - RESERVE - 4 * BLOCK
    assert store.usage() == Usage(disk.size, 4 * BLOCK), "what the cache uses is free for chunks"
    chunk, raw = sealed(50, 3 * BLOCK)
    assert store.put(VAULT, chunk, raw)
    assert store.get(VAULT, chunk) == raw
    assert cache.used == 0
    disk.others += 3 * BLOCK
    with pytest.raises(StorageFullError, match="reserve"):
        store.put(VAULT, *sealed(51, 3 * BLOCK))
    store.drop_vault(VAULT)


def test_no_more_is_taken_than_it_takes(tmp_path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """To remove a large cache of small files takes seconds, and a client waits."""
    store, cache = open_both(tmp_path, disk, monkeypatch)
    monkeypatch.setattr(cache_module, "GIVEN_BACK_AT_ONCE", BLOCK)
    fill(cache, 5)
    disk.others = disk.size - RESERVE - 5 * BLOCK
    assert store.put(VAULT, *sealed(50, 2 * BLOCK))
    assert kept(cache) == [2, 3, 4]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_that_is_full_takes_the_caches_room_too(
    tmp_path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store, cache = open_both(tmp_path, disk, monkeypatch)
    fill(cache, 2)

    def write_unseen(path: str, content: bytes, stamp_ns: int | None = None) -> None:
        del stamp_ns
        if cache.used:
            raise OSError(code, os.strerror(code))
        Path(path).write_bytes(content)

    monkeypatch.setattr("meshhold.chunkstore.disk.write_unseen", write_unseen)
    assert store.put(VAULT, CHUNK, RAW)
    assert cache.used == 0
    assert store.get(VAULT, CHUNK) == RAW


def test_a_new_vaults_folders_find_room_too(tmp_path: Path, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    store, cache = open_both(tmp_path, disk, monkeypatch)
    fill(cache, 2)

    class Quota(FakeDisk):
        def mkdir(self, path: str, mode: int) -> None:
            if cache.used:
                raise OSError(errno.EDQUOT, "Disk quota exceeded")
            Path(path).mkdir(mode)

    monkeypatch.setattr("meshhold.chunkstore.disk.os", Quota(disk.size))
    assert store.put(VAULT, CHUNK, RAW)
    assert cache.used == 0


def test_a_capacity_counts_chunks_only(tmp_path: Path) -> None:
    root = tmp_path / "chunks"
    cache = ChunkCache(Path(cache_folder(str(root))), 5 * BLOCK, reserve_bytes=0)
    root.mkdir()
    fill(cache, 3)
    store = DiskChunkStore(root, reserve_bytes=0, capacity_bytes=2 * BLOCK, reclaimable=cache)
    assert store.usage() == Usage(2 * BLOCK, 2 * BLOCK)
    assert list(store.scan(VAULT)) == []
    assert not store.has(VAULT, CHUNK)
    for number in (1, 2):
        assert store.put(VAULT, *CHUNKS[number])
    with pytest.raises(StorageFullError, match=r"node\.capacity"):
        store.put(VAULT, *CHUNKS[3])
    assert kept(cache) == [0, 1, 2], "a capacity is not the disk: emptying the cache would not help"
    store.drop_vault(VAULT)
    assert cache.used == 0


# -- a disk that fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("call", ["open", "write", "close", "statvfs", "mkdir", "ftruncate"])
def test_a_disk_that_refuses_writes_is_no_error(tmp_path: Path, disk: FakeDisk, call: str, code: int) -> None:
    cache = open_cache(tmp_path, 100, disk)
    chunk, raw = sealed(1, 70 * BLOCK if call == "ftruncate" else BLOCK)
    disk.broken, disk.code = {call}, code
    assert not cache.put(VAULT, chunk, raw)
    assert cache.get(chunk) is None
    disk.broken = set()
    assert used_on_disk(cache) == 0, "nothing half-written stays"
    assert cache.put(VAULT, chunk, raw)
    assert cache.get(chunk) == raw


def test_a_disk_that_refuses_reads_is_a_miss(tmp_path: Path, disk: FakeDisk) -> None:
    cache = open_cache(tmp_path, 10, disk)
    fill(cache, 2)
    disk.broken = {"open"}
    assert cache.get(CHUNK) is None
    disk.broken = set()
    assert kept(cache) == [1], "it is fetched anew, and written where the disk is better"
    assert cache.get(CHUNKS[1][0]) == CHUNKS[1][1]


def test_a_disk_that_refuses_to_remove_or_to_tell_is_no_error(tmp_path: Path, disk: FakeDisk) -> None:
    cache = open_cache(tmp_path, 3, disk)
    fill(cache, 3)
    disk.broken = {"statvfs"}
    cache.tend({VAULT})
    assert kept(cache) == [0, 1, 2]
    disk.broken = {"unlink"}
    assert cache.give_back()
    assert kept(cache) == []
    disk.broken = {"listdir"}
    assert ChunkCache(tmp_path / "cache", BLOCK, reserve_bytes=0).get(CHUNK) is None
    disk.broken, disk.cache = set(), None  # what could not be removed goes at the next start
    open_cache(tmp_path, 3).sweep()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_vanished_is_a_miss_and_made_again(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 10)
    fill(cache, 2)
    (tmp_path / "cache").rename(tmp_path / "away")
    assert cache.get(CHUNK) is None
    assert cache.put(VAULT, CHUNK, RAW)
    assert cache.get(CHUNK) == RAW


def test_a_disk_that_was_taken_away_is_not_written_beside(tmp_path: Path) -> None:
    """Where chunks are on a disk of their own that is gone, its mount point stays empty."""
    cache = ChunkCache(tmp_path / "chunks" / "cache", 10 * BLOCK, reserve_bytes=0)
    assert not cache.put(VAULT, CHUNK, RAW)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_disk_is_told_of_once_a_minute(
    tmp_path: Path, disk: FakeDisk, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    cache = open_cache(tmp_path, 10, disk, now_s=lambda: now[0])
    disk.broken = {"open"}
    with caplog.at_level(logging.WARNING, "meshhold.chunks"):
        for now[0] in (1000.0, 1030.0, 1059.9, 1060.0, 1119.0):
            cache.put(VAULT, CHUNK, RAW)
    cause, fix = "(Input/output error); reads go on without it", "or turn it off with node.cache_size: 0"
    assert [(cause in record.message, fix in record.message) for record in caplog.records] == [(True, True)] * 2
    assert str(tmp_path / "cache") in caplog.records[0].message


# -- threads ----------------------------------------------------------------------------------------------------------


def run_side_by_side(*works: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again by who waits for the thread
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_threads_that_put_read_and_clear_leave_a_sound_cache(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, 4)

    def put() -> None:
        for turn in range(60):
            cache.put(VAULT, *CHUNKS[turn % len(CHUNKS)])

    def read() -> None:
        for turn in range(200):
            chunk, raw = CHUNKS[turn * 7 % len(CHUNKS)]
            assert cache.get(chunk) in (raw, None)
            assert cache.get_cached(chunk, BLOCK) in (raw, None)
            assert cache.used <= 4 * BLOCK

    def clear() -> None:
        for turn in range(20):
            (cache.give_back, lambda: cache.drop_vault(VAULT), lambda: cache.tend(()))[turn % 3]()

    run_side_by_side(put, put, read, clear)
    assert used_on_disk(cache) == cache.used
    assert cache.use().chunks == len(kept(cache))
    cache.give_back()
    assert cache.use()[:3] == (0, 4 * BLOCK, 0)
    assert not cache._of_vault


def test_a_chunk_that_two_threads_bring_is_written_once(tmp_path: Path, disk: FakeDisk) -> None:
    cache = open_cache(tmp_path, 10, disk)
    run_side_by_side(*[lambda: fill(cache, 1)] * 4)
    assert cache.used == BLOCK
    assert used_on_disk(cache) == BLOCK


def test_room_is_given_back_only_after_a_write_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its bytes would come onto the disk after the chunk store has been told that they are free."""
    cache = open_cache(tmp_path, 10)
    fill(cache, 1)
    is_writing, may_go_on = threading.Event(), threading.Event()

    def open_slowly(path: str, raw: bytes) -> int:
        is_writing.set()
        may_go_on.wait()
        return new_file.open_with(path, raw)

    monkeypatch.setattr(cache_module, "open_with", open_slowly)
    writer = threading.Thread(target=cache.put, args=(VAULT, *CHUNKS[1]))
    writer.start()
    is_writing.wait()
    clearer = threading.Thread(target=cache.give_back)
    clearer.start()
    clearer.join(0.02)  # a cache that did not wait would be done by then; one that does is never
    assert clearer.is_alive()
    assert cache.get(CHUNK) == RAW, "reads do not wait"
    may_go_on.set()
    writer.join()
    clearer.join()
    assert used_on_disk(cache) == cache.used == 0
