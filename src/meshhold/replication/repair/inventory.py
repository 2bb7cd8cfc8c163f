"""What does this node keep, partition by partition, and has it room for more? Knows no peer and no ring.

A partition's digest is the XOR of eight bytes of each id in it: ids are hashes, so equal digests mean equal sets but
for one case in 2^64. Reading all names of a large vault takes seconds, so what was read is kept per slice (the ids
that share their first byte) for as long as the store's mark of the slice stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.model.ids import ChunkId, VaultId
from meshhold.placement.ring import BITS_MAX, partition_of
from meshhold.replication.chunks.chunk_wire import DIGEST_SIZE
from meshhold.replication.chunks.holder_contract import Digests
from meshhold.replication.chunks.local_chunks import ids_in

ROOM_BYTES: Final = 256 << 20
"""A node that was full is not again before it has this much room: else each chunk that goes would call for another."""
SLICES: Final = 256
SLICES_AT_ONCE: Final = 16
"""Slices read by one call in a thread: a fraction of a second, after which others get their turn."""
TABLES_MAX: Final = 16
"""Tables kept, one per vault and number of bits: 3 MiB each at 2^16 partitions."""
_SLICE_BITS: Final = 8


class Slice(NamedTuple):
    """What was read of one slice: digests and counts of the partitions that it touches, 2^(bits - 8), or 1 of them."""

    mark: int | None
    digests: list[int]
    counts: list[int]


class Table(NamedTuple):
    """Digests (8 bytes each) and numbers of chunks, one of each per partition."""

    digests: list[bytes]
    counts: list[int]


class Inventory:
    """The chunks of this node, by partition; tells peers (`digests`) and repair.

    `view_version` tells the version of this node's view of a vault. Resources: borrows the chunk store.
    """

    def __init__(
        self,
        chunks: ChunkStore,
        run_blocking: RunBlocking,
        view_version: Callable[[VaultId], str | None],
        *,
        room_bytes: int = ROOM_BYTES,
    ) -> None:
        self._chunks = chunks
        self._run_blocking = run_blocking
        self._view_version = view_version
        self._room_bytes = room_bytes
        self._has_been_full = False
        self._read: OrderedDict[tuple[VaultId, int], list[Slice | None]] = OrderedDict()

    # -- room ---------------------------------------------------------------------------------------------------------

    def note_full(self) -> None:
        """Remember that the store refused a chunk for want of room."""
        self._has_been_full = True

    async def is_full(self) -> bool:
        """Tell whether a chunk was refused and there is no room again since."""
        if self._has_been_full:
            usage = await self._run_blocking(self._chunks.usage)
            self._has_been_full = usage.free < min(self._room_bytes, usage.total // 8)
        return self._has_been_full

    # -- names --------------------------------------------------------------------------------------------------------

    async def digests(self, vault: VaultId, bits: int) -> Digests:
        """Return what a peer is told: the view's version, whether this node is full, and a digest per partition.

        Errors: `StorageFailedError`.
        """
        table = await self.table(vault, bits)
        return Digests(self._view_version(vault) or "", await self.is_full(), table.digests)

    async def table(self, vault: VaultId, bits: int) -> Table:
        """Return digests and counts of all 2^`bits` partitions. Errors: `StorageFailedError`."""
        slices = self._slices(vault, bits)
        for first in range(0, SLICES, SLICES_AT_ONCE):
            held = slices[first : first + SLICES_AT_ONCE]
            slices[first : first + SLICES_AT_ONCE] = await self._run_blocking(self._look, vault, bits, first, held)
        digests, counts = [0] * (1 << bits), [0] * (1 << bits)
        for first, found in enumerate(slices):
            if found is not None:
                base = _first_partition(first, bits)
                for at, (digest, count) in enumerate(zip(found.digests, found.counts, strict=True), base):
                    digests[at] ^= digest
                    counts[at] += count
        return Table([digest.to_bytes(DIGEST_SIZE, "big") for digest in digests], counts)

    async def names(self, vault: VaultId, bits: int, partition: int) -> list[ChunkId]:
        """Return the ids in a partition, in order. Errors: `StorageFailedError`."""
        (names,) = await self.names_in(vault, bits, [partition])
        return names

    async def names_in(self, vault: VaultId, bits: int, partitions: Sequence[int]) -> list[list[ChunkId]]:
        """Return the ids in each of these partitions, which are in order. Errors: `StorageFailedError`."""
        return await self._run_blocking(lambda: list(ids_in(self._chunks, vault, bits, partitions)))

    def _slices(self, vault: VaultId, bits: int) -> list[Slice | None]:
        """Return a copy of what was read before, which the caller brings up to date, and keep the copy for later."""
        if not 0 <= bits <= BITS_MAX:
            raise ValueError(f"a ring has up to 2^{BITS_MAX} partitions, not 2^{bits}")
        name = (vault, bits)
        slices = self._read[name] = list(self._read.get(name, [None] * SLICES))
        self._read.move_to_end(name)
        while len(self._read) > TABLES_MAX:
            self._read.popitem(last=False)
        return slices

    def _look(self, vault: VaultId, bits: int, first: int, held: list[Slice | None]) -> list[Slice | None]:
        return [self._look_at(vault, bits, at, known) for at, known in enumerate(held, first)]

    def _look_at(self, vault: VaultId, bits: int, first: int, known: Slice | None) -> Slice:
        # The mark is taken first: what changes while names are read has another mark next time.
        mark = self._chunks.slice_mark(vault, first)
        if known is not None and mark is not None and known.mark == mark:
            return known
        base, width = _first_partition(first, bits), 1 << max(bits - _SLICE_BITS, 0)
        digests, counts = [0] * width, [0] * width
        for chunk in self._chunks.list_slice(vault, first):
            at = partition_of(chunk, bits) - base
            digests[at] ^= int.from_bytes(chunk[8 : 8 + DIGEST_SIZE], "big")
            counts[at] += 1
        return Slice(mark, digests, counts)


def _first_partition(first: int, bits: int) -> int:
    """Return the first of the partitions that a slice touches."""
    return first << (bits - _SLICE_BITS) if bits >= _SLICE_BITS else first >> (_SLICE_BITS - bits)
