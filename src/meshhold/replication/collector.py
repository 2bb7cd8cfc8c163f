"""Which chunks does nothing refer to any more? Marks by walking the index, then sweeps the store. Knows no schedule.

A chunk goes only if no entry and no part refers to it and it was last put before the cutoff. Two orders keep live
chunks: parts are marked before objects, and objects before those that lost in a merge and are kept (a completion moves
refs from parts to an object, a merge from an object to what is kept, neither back); and whoever reuses a chunk renews
it first (`ChunkStore.put`, `ChunkStore.renew`), so that it is newer than the cutoff.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStat, ChunkStore
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.model.entry import Space
from meshhold.model.ids import ChunkId, VaultId
from meshhold.replication.reader import ChunkReader
from meshhold.replication.registers import Registers
from meshhold.replication.walk import walk_refs, walk_values
from meshhold.replication.writer import ChunkWriter

_WORDS: Final = struct.Struct(">6I8x")
_BITS_PER_CHUNK: Final = 16  # with 6 probes 1 in 1,000 dead chunks looks alive; the next round has another salt
_SWEEP_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class Collected:
    """What one round removed: chunks, and bytes of their sealed form."""

    removed: int
    bytes: int


class Marks:
    """A set of chunk ids that may claim too much and never too little (Bloom, 1970), in 2 bytes per chunk.

    Chunk ids are uniform hashes already: their words, mixed with a salt, are the probes.
    """

    def __init__(self, expected: int, salt: int) -> None:
        self._size = max(1024, expected) * _BITS_PER_CHUNK
        self._bits = bytearray(self._size // 8 + 1)
        self._salt = salt | 1

    def _positions(self, chunk: ChunkId) -> Iterator[int]:
        return ((word * self._salt >> 7) % self._size for word in _WORDS.unpack(chunk))

    def add(self, chunk: ChunkId) -> None:
        """Mark a chunk as referred to."""
        for position in self._positions(chunk):
            self._bits[position >> 3] |= 1 << (position & 7)

    def __contains__(self, chunk: ChunkId) -> bool:
        return all(self._bits[position >> 3] >> (position & 7) & 1 for position in self._positions(chunk))


class Collector:
    """Removes dead chunks of one node. Resources: borrows its collaborators; memory is 2 bytes per stored chunk."""

    def __init__(
        self,
        registers: Registers,
        chunks: ChunkStore,
        reader: ChunkReader,
        writer: ChunkWriter,
        run_blocking: RunBlocking,
    ) -> None:
        self._registers = registers
        self._chunks = chunks
        self._reader = reader
        self._writer = writer
        self._run_blocking = run_blocking

    async def collect(self, keys: VaultKeys, cutoff_s: float, salt: int) -> Collected:
        """Remove the vault's chunks that nothing refers to and that were last put before `cutoff_s` (since 1970).

        What lost in a merge and was kept long enough goes first. Writes in flight are safe: the cutoff is moved before
        the oldest of them.
        Errors: `IntegrityError` when a manifest cannot be read: its chunks are then unknown, and nothing is removed.
        """
        cutoff_s = min(cutoff_s, self._writer.oldest_start_s)
        await self._registers.expire_conflicts(keys.vault_id)
        stored = await self._run_blocking(self._count, keys.vault_id)
        marks = Marks(stored, salt)
        for space in (Space.PARTS, Space.OBJECTS, Space.CONFLICTS):  # this order: see the module's docstring
            async for _, _, content in walk_values(self._registers, keys, space):
                async for ref in walk_refs(self._reader, keys, content):
                    marks.add(ref.chunk)
        return await self._sweep(keys.vault_id, marks, min(cutoff_s, self._writer.oldest_start_s))

    async def _sweep(self, vault: VaultId, marks: Marks, cutoff_s: float) -> Collected:
        removed = size = 0
        stats = self._chunks.scan(vault)
        while batch := await self._run_blocking(_take, stats):
            for stat in batch:
                if stat.touched_s < cutoff_s and stat.chunk not in marks:
                    gone = await self._run_blocking(self._chunks.remove_if_unused_since, vault, stat.chunk, cutoff_s)
                    removed += gone
                    size += stat.size if gone else 0
        return Collected(removed, size)

    def _count(self, vault: VaultId) -> int:
        return sum(1 for _ in self._chunks.scan(vault))


def _take(stats: Iterator[ChunkStat]) -> list[ChunkStat]:
    return list(islice(stats, _SWEEP_BATCH))
