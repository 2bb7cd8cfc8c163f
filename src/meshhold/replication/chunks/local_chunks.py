"""This node's own chunks, asked like another node's. Blocking work leaves the event loop; knows no peer and no ring."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import ChunkCorruptError, ChunkMissingError, StorageFailedError
from meshhold.model.ids import ChunkId, VaultId
from meshhold.replication.chunks.bulk import BATCH_SIZE
from meshhold.replication.chunks.chunk_wire import IDS_MAX, batches, partition_in
from meshhold.replication.chunks.holder_contract import Collected, Collecting, Digester, Digests, Held, Leases

ON_LOOP_MAX: Final = 128 * 1024
"""Bytes that are read on the event loop where memory holds them: less than a hop to a thread costs."""


class LocalChunks:
    """The chunks of this node; see `Holder`.

    `damaged` is told of a vault a copy of which went to quarantine.
    Resources: borrows all.
    """

    def __init__(
        self,
        chunks: ChunkStore,
        run_blocking: RunBlocking,
        digester: Digester,
        leases: Leases,
        collecting: Collecting,
        damaged: Callable[[VaultId], None] = lambda _vault: None,
    ) -> None:
        self._chunks = chunks
        self._run_blocking = run_blocking
        self._digester = digester
        self._leases = leases
        self._collecting = collecting
        self._damaged = damaged

    async def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes, touched_s: float | None = None) -> bool:
        """Keep a chunk durably; the caller vouches for the bytes."""
        return await self._run_blocking(self._chunks.put, vault, chunk, sealed, touched_s)

    async def take(self, vault: VaultId, chunk: ChunkId, sealed: bytes, touched_s: float | None) -> bool:
        """Keep a chunk for whose bytes nobody vouches. Errors besides: `ChunkCorruptError`, then nothing is kept."""
        return await self._run_blocking(self._take, vault, chunk, sealed, touched_s)

    def _take(self, vault: VaultId, chunk: ChunkId, sealed: bytes, touched_s: float | None) -> bool:
        if hash_bytes(sealed) != chunk:
            raise ChunkCorruptError(f"what came as chunk {chunk.hex()} are other bytes", "send it again")
        return self._chunks.put(vault, chunk, sealed, touched_s)

    async def get(self, vault: VaultId, chunk: ChunkId, size_hint: int) -> bytes:
        """Return a chunk's bytes, verified."""
        if size_hint <= ON_LOOP_MAX:
            sealed = self._chunks.get_cached(vault, chunk, ON_LOOP_MAX)
            if sealed is not None:
                return sealed
        try:
            return await self._run_blocking(self._chunks.get, vault, chunk)
        except ChunkCorruptError:
            self._damaged(vault)  # whoever asked goes to another node, and tells nobody
            raise

    async def get_many(self, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bytes | None]:
        """Return the bytes of the first of these chunks, read in one thread and verified; see `Holder`."""
        pieces, is_damaged = await self._run_blocking(self._read_many, vault, chunks)
        if is_damaged:
            self._damaged(vault)
        return pieces

    def _read_many(self, vault: VaultId, chunks: Sequence[ChunkId]) -> tuple[list[bytes | None], bool]:
        pieces: list[bytes | None] = []
        size, is_damaged = 0, False
        for chunk in chunks:
            sealed = None
            try:
                sealed = self._chunks.get(vault, chunk)
            except ChunkCorruptError:
                is_damaged = True
            except (ChunkMissingError, StorageFailedError):  # a bad spot of the disk is that of one chunk
                pass
            size += 0 if sealed is None else len(sealed)
            if pieces and size > BATCH_SIZE:  # what was read too much is read again when it is asked for
                break
            pieces.append(sealed)
        return pieces, is_damaged

    async def has(self, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bool]:
        """Tell of each chunk whether a copy is there."""
        return await self._ask_each(self._chunks.has, vault, chunks)

    async def renew(self, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bool]:
        """Let the age of these chunks begin anew."""
        return await self._ask_each(self._chunks.renew, vault, chunks)

    async def _ask_each(
        self, ask: Callable[[VaultId, ChunkId], bool], vault: VaultId, chunks: Sequence[ChunkId]
    ) -> list[bool]:
        def answers(batch: Sequence[ChunkId]) -> list[bool]:
            return [ask(vault, chunk) for chunk in batch]

        return [flag for batch in batches(chunks, IDS_MAX) for flag in await self._run_blocking(answers, batch)]

    async def verify(self, vault: VaultId, chunks: Sequence[ChunkId], view_version: str) -> list[bool]:
        """Grant a lease, then read and hash, chunk by chunk: other work of the disk comes in between."""
        return [
            self._leases.grant(vault, chunk, view_version)
            and await self._run_blocking(self._chunks.verify, vault, chunk)
            for chunk in chunks
        ]

    async def digests(self, vault: VaultId, bits: int) -> Digests:
        """Return what this node has in each partition."""
        return await self._digester.digests(vault, bits)

    async def names(self, vault: VaultId, bits: int, partition: int) -> list[Held]:
        """Return what this node has in a partition, in the order of ids."""
        found: list[Held] = []
        is_last = False
        while not is_last:
            after = found[-1].chunk if found else b""
            page, is_last = await self.names_page(vault, bits, partition, after)
            found += page
        return found

    async def names_page(self, vault: VaultId, bits: int, partition: int, after: bytes) -> tuple[list[Held], bool]:
        """Return up to `IDS_MAX` of a partition's chunks, from the first after `after` on, and whether they end here.

        A page that does not end it is never empty.
        """
        return await self._run_blocking(self._read_page, vault, bits, partition, after)

    def _read_page(self, vault: VaultId, bits: int, partition: int, after: bytes) -> tuple[list[Held], bool]:
        found: list[Held] = []
        for first in _slices(bits, partition):
            if after and first < after[0]:
                continue
            for chunk in self._chunks.list_slice(vault, first):
                if chunk <= after or partition_in(chunk, bits) != partition:
                    continue
                if len(found) == IDS_MAX:
                    return found, False
                stat = self._chunks.stat(vault, chunk)
                if stat is not None:  # it may have gone since it was listed
                    found.append(Held(chunk, stat.touched_s))
        return found, True

    async def names_in(self, vault: VaultId, bits: int, partitions: Sequence[int]) -> list[list[Held]]:
        """Return what this node has in the first of these partitions; see `Holder`."""
        found = await self.names_of_first(vault, bits, partitions)
        return found or [await self.names(vault, bits, partitions[0])]

    async def names_of_first(self, vault: VaultId, bits: int, partitions: Sequence[int]) -> list[list[Held]]:
        """Return what is in the first of these partitions, as many as have `IDS_MAX` chunks; none if one has more."""
        return await self._run_blocking(self._read_first, vault, bits, partitions)

    def _read_first(self, vault: VaultId, bits: int, partitions: Sequence[int]) -> list[list[Held]]:
        found: list[list[Held]] = []
        room = IDS_MAX
        for names in ids_in(self._chunks, vault, bits, partitions):
            room -= len(names)
            if room < 0:
                break
            stats = (self._chunks.stat(vault, chunk) for chunk in names)  # it may have gone since it was listed
            found.append([Held(stat.chunk, stat.touched_s) for stat in stats if stat is not None])
        return found

    async def collect(self, vault: VaultId, marks: bytes) -> Collected:
        """Remove what these marks do not name and what is older than the grace."""
        return Collected(*await self._collecting.obey(vault, marks))


def ids_in(chunks: ChunkStore, vault: VaultId, bits: int, partitions: Sequence[int]) -> Iterator[list[ChunkId]]:
    """Yield the ids in each of these partitions, in order. Blocks; neighbours share the reading of a slice."""
    read, names = -1, list[ChunkId]()
    for partition in partitions:
        found: list[ChunkId] = []
        low, high = ((at << (32 - bits)).to_bytes(5, "big") for at in (partition, partition + 1))
        for first in _slices(bits, partition):
            if first != read:
                read, names = first, chunks.list_slice(vault, first)
            begin = bisect_left(names, low[1:])
            end = len(names) if high[0] else bisect_left(names, high[1:])
            found += names[begin:end]
        yield found


def _slices(bits: int, partition: int) -> range:
    """Return the first bytes of a partition's ids."""
    if bits > 8:
        first = partition >> (bits - 8)
        return range(first, first + 1)
    width = 1 << (8 - bits)
    return range(partition * width, (partition + 1) * width)
