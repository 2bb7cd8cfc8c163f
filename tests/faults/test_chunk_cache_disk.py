"""The read cache on a disk that is really full: chunks get its room, at once, before anybody hears of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.small_disk import MIB, SmallDisk, mounted

from meshhold.chunkstore.cache import ChunkCache
from meshhold.chunkstore.disk import DiskChunkStore
from meshhold.chunkstore.places import cache_folder
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import StorageFullError
from meshhold.model.ids import ChunkId, VaultId

VAULT = VaultId("a" * 32)
SIZE = 48 * MIB
CACHE = 8 * MIB


def sealed(seed: int) -> tuple[ChunkId, bytes]:
    raw = seed.to_bytes(4, "big") * (MIB // 4)
    return ChunkId(hash_bytes(raw)), raw


@pytest.fixture(params=["tmpfs", pytest.param("ext4", marks=pytest.mark.slow)])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(request.param, tmp_path / "disk", SIZE) as found:
        yield found


def open_both(disk: SmallDisk, reserve: int) -> tuple[DiskChunkStore, ChunkCache]:
    root = disk.path / "chunks"
    cache = ChunkCache(Path(cache_folder(str(root))), CACHE, reserve_bytes=reserve)
    return DiskChunkStore(root, reserve_bytes=reserve, reclaimable=cache), cache


def fill_up(store: DiskChunkStore) -> int:
    """Put chunks until the store refuses; return how many."""
    for seed in range(1000, 1000 + SIZE // MIB):
        try:
            store.put(VAULT, *sealed(seed))
        except StorageFullError:
            return seed - 1000
    pytest.fail("the disk is not full")


@pytest.mark.parametrize("reserve", [0, 2 * MIB])
def test_chunks_get_the_room_of_the_cache(disk: SmallDisk, reserve: int) -> None:
    """With no reserve it is the file system that refuses, with one it is the store."""
    store, cache = open_both(disk, reserve)
    store.put(VAULT, *sealed(0))
    for seed in range(100, 120):
        assert cache.put(VAULT, *sealed(seed))
    assert CACHE - MIB < cache.used <= CACHE
    if reserve:
        disk.leave(reserve + MIB // 2)
    else:
        disk.exhaust()
    assert store.put(VAULT, *sealed(1))
    assert cache.used == 0
    assert not cache.put(VAULT, *sealed(200)), "there is no room to spare"
    assert fill_up(store) < CACHE // MIB
    assert store.get(VAULT, sealed(1)[0]) == sealed(1)[1]
    disk.empty()
    assert cache.put(VAULT, *sealed(200))
    assert cache.get(sealed(200)[0]) == sealed(200)[1]


def test_it_stops_where_as_much_is_free_as_it_may_take(disk: SmallDisk) -> None:
    _, cache = open_both(disk, 2 * MIB)
    disk.leave(2 * MIB + CACHE + 3 * MIB)
    (disk.path / "chunks" / "cache").mkdir()
    before = disk.free()
    for seed in range(20):
        cache.put(VAULT, *sealed(seed))
    assert MIB <= cache.used <= 3 * MIB
    assert disk.free() >= 2 * MIB + CACHE
    assert before - disk.free() <= 3 * MIB + 64 * 1024, "its folders take little"
    disk.leave(2 * MIB + CACHE - MIB)
    cache.tend({VAULT})
    assert cache.used <= 2 * MIB
    assert os.listdir(disk.path / "chunks" / "cache") == ["0"]  # noqa: PTH208 - names only


def test_a_disk_without_a_byte_is_a_miss(disk: SmallDisk) -> None:
    _, cache = open_both(disk, 0)
    assert cache.put(VAULT, *sealed(1))
    disk.exhaust()
    assert cache.get(sealed(1)[0]) == sealed(1)[1]
    for seed in range(2, 6):
        assert not cache.put(VAULT, *sealed(seed))
    assert cache.used == 0
