"""Digests tell which partitions differ; what was read once is read again only where names changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from tests.unit.repair_lab import VAULT, chunk_of

from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.errors import StorageFullError
from meshhold.model.ids import ChunkId, VaultId
from meshhold.placement.planner import plan_ring
from meshhold.replication.repair.inventory import SLICES, Inventory

_T = TypeVar("_T")


class Watched(MemoryChunkStore):
    """Counts the slices that are read; `blurred` slices cannot tell whether they changed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.listed = 0
        self.blurred: set[int] = set()

    def list_slice(self, vault: VaultId, first: int) -> list[ChunkId]:
        """Count, and list."""
        self.listed += 1
        return super().list_slice(vault, first)

    def slice_mark(self, vault: VaultId, first: int) -> int | None:
        """Return the mark."""
        return None if first in self.blurred else super().slice_mark(vault, first)


async def inline(function: Callable[..., _T], /, *arguments: Any) -> _T:
    return function(*arguments)


def stocked(count: int, **settings: Any) -> tuple[Watched, Inventory, list[ChunkId]]:
    """Return a store of so many chunks, and its inventory."""
    store = Watched(**settings)
    chunks = []
    for number in range(count):
        chunk, sealed = chunk_of(str(number))
        store.put(VAULT, chunk, sealed)
        chunks.append(chunk)
    return store, Inventory(store, inline, lambda _vault: "v1", room_bytes=100), chunks


@pytest.mark.parametrize("bits", [3, 8, 11])
async def test_digests_and_counts_are_those_of_the_names_in_each_partition(bits: int) -> None:
    _, inventory, chunks = stocked(300)
    ring = plan_ring([], bits)
    table = await inventory.table(VAULT, bits)
    expected, counts = [0] * (1 << bits), [0] * (1 << bits)
    for chunk in chunks:
        expected[ring.partition_of(chunk)] ^= int.from_bytes(chunk[8:16], "big")
        counts[ring.partition_of(chunk)] += 1
    assert table.digests == [digest.to_bytes(8, "big") for digest in expected]
    assert table.counts == counts
    told = await inventory.digests(VAULT, bits)
    assert (told.view_version, told.is_full, told.digests) == ("v1", False, table.digests)
    for partition in {ring.partition_of(chunk) for chunk in chunks[:20]}:
        names = await inventory.names(VAULT, bits, partition)
        assert names == sorted(chunk for chunk in chunks if ring.partition_of(chunk) == partition)


async def test_only_slices_with_other_names_are_read_again() -> None:
    store, inventory, chunks = stocked(50)
    before = await inventory.table(VAULT, 10)
    assert store.listed == SLICES
    assert await inventory.table(VAULT, 10) == before
    assert store.listed == SLICES
    store.remove_if_unused_since(VAULT, chunks[0], float("inf"))
    after = await inventory.table(VAULT, 10)
    assert store.listed == SLICES + 1
    assert sum(after.counts) == 49
    assert sum(one != other for one, other in zip(before.digests, after.digests, strict=True)) == 1


async def test_a_slice_that_cannot_tell_is_read_each_time() -> None:
    """A change that a mark would not show must be seen all the same."""
    store, inventory, chunks = stocked(1)
    store.blurred.add(chunks[0][0])
    await inventory.table(VAULT, 10)
    store.remove_if_unused_since(VAULT, chunks[0], float("inf"))
    assert sum((await inventory.table(VAULT, 10)).counts) == 0
    assert store.listed == SLICES + 1


async def test_what_was_read_agrees_with_the_store_whatever_happens() -> None:
    """Puts and removals in any order, two widths asked in turn, blurred slices coming and going."""
    chance = random.Random(7)
    store, inventory, _ = stocked(40)
    for _ in range(24):
        chunk, sealed = chunk_of(str(chance.randrange(80)))
        if chance.random() < 0.5:
            store.put(VAULT, chunk, sealed)
        else:
            store.remove_if_unused_since(VAULT, chunk, float("inf"))
        if chance.random() < 0.3:
            store.blurred = {chunk[0]}
        bits = chance.choice((5, 9))
        fresh = Inventory(store, inline, lambda _vault: "v1")
        assert await inventory.table(VAULT, bits) == await fresh.table(VAULT, bits)


async def test_full_is_remembered_until_there_is_room_again() -> None:
    """One chunk that goes makes a full node not ask for the next one at once."""
    store, inventory, chunks = stocked(100, capacity_bytes=190 + 100)
    filler = b"x" * 100
    store.put(VAULT, ChunkId(b"\0" * 32), filler)
    assert not await inventory.is_full(), "nothing was refused yet"
    with pytest.raises(StorageFullError):
        store.put(VAULT, ChunkId(b"\1" * 32), filler)
    inventory.note_full()
    store.remove_if_unused_since(VAULT, chunks[-1], float("inf"))
    assert await inventory.is_full()
    assert (await inventory.digests(VAULT, 4)).is_full
    store.remove_if_unused_since(VAULT, ChunkId(b"\0" * 32), float("inf"))
    assert not await inventory.is_full()


async def test_a_ring_of_impossible_width_is_refused() -> None:
    _, inventory, _ = stocked(1)
    with pytest.raises(ValueError, match="partitions"):
        await inventory.table(VAULT, 17)
