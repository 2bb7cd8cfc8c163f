"""What a node that keeps chunks of a vault is asked, be it this one or another. Knows neither wire nor disk.

Times are by the asker's clock: between nodes ages travel, so clocks that differ make no copy older or younger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from meshhold.model.ids import ChunkId, VaultId


class Digests(NamedTuple):
    """What a holder tells of all its chunks of a vault: one digest of `DIGEST_SIZE` bytes for each partition.

    `view_version` is that of the holder's view of the vault; `is_full`: it has no room for more.
    """

    view_version: str
    is_full: bool
    digests: list[bytes]


class Collected(NamedTuple):
    """What an order to collect has removed: chunks, and their bytes."""

    removed: int
    size: int


class Held(NamedTuple):
    """A chunk that a holder has, and when (seconds since 1970 by the asker's clock) it was last put or renewed."""

    chunk: ChunkId
    touched_s: float


class Holding(Protocol):
    """The chunks of one node, as writing and reading need them.

    Errors of every method: `StorageFailedError` of this node; of another one `PeerError`, in bounded time, and
    `CallRefusedError` with its words: its `kind` is the name of the error over there, say `StorageFullError`.
    """

    async def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes, /) -> object:
        """Let the node keep a chunk: durable there when this returns. A chunk that is there is renewed.

        The caller vouches for the bytes. Errors besides: `StorageFullError` of this node.
        """

    async def get(self, vault: VaultId, chunk: ChunkId, size_hint: int, /) -> bytes:
        """Return a chunk's bytes, verified against its id; `size_hint` is how many are expected.

        Errors besides: `ChunkMissingError`; `ChunkCorruptError`, which the holder's own bad copy makes missing.
        """

    async def has(self, vault: VaultId, chunks: Sequence[ChunkId], /) -> list[bool]:
        """Tell of each chunk whether the node has a copy, not verified."""

    async def renew(self, vault: VaultId, chunks: Sequence[ChunkId], /) -> list[bool]:
        """Let the age of these chunks begin anew; False for one that is not there."""


class Holder(Holding, Protocol):
    """The chunks of one node, as repair and collection need them besides."""

    async def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes, touched_s: float | None = None, /) -> bool:
        """Let the node keep a chunk; True if it had no good copy; see `Holding.put`.

        `touched_s` is that of the copy that this one is made of; None: now.
        """

    async def verify(self, vault: VaultId, chunks: Sequence[ChunkId], view_version: str) -> list[bool]:
        """Tell of each chunk whether the node has a good copy, read and hashed now, and will not itself move it away.

        A yes is a lease (see `Leases`). All are no if the node's view of the vault has another version.
        """

    async def digests(self, vault: VaultId, bits: int) -> Digests:
        """Return what the node has in each of 2^`bits` partitions."""

    async def names(self, vault: VaultId, bits: int, partition: int) -> list[Held]:
        """Return what the node has in a partition, in the order of ids."""

    async def names_in(self, vault: VaultId, bits: int, partitions: Sequence[int]) -> list[list[Held]]:
        """Return what the node has in the first of some partitions, which are in order; ids in order.

        How many are asked about, and answered, at the most: `bulk.PARTITIONS_MAX`, and as many as have
        `chunk_wire.IDS_MAX` chunks together, at least one.
        """

    async def get_many(self, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bytes | None]:
        """Return the bytes of the first of these up to `bulk.BATCH_MAX` chunks: as many as make `bulk.BATCH_SIZE`.

        At least one; None stands for one that the node has no good copy of. What another node sends is not verified:
        whoever keeps it does that, in a thread.
        """

    async def collect(self, vault: VaultId, marks: bytes) -> Collected:
        """Order the node to remove what these packed marks do not name and what is older than the grace."""


class Digester(Protocol):
    """Whoever knows what this node has, partition by partition."""

    async def digests(self, vault: VaultId, bits: int) -> Digests:
        """Return what this node has in each of 2^`bits` partitions."""


class Leases(Protocol):
    """Whoever removes surplus copies here, and promises not to for a while."""

    def grant(self, vault: VaultId, chunk: ChunkId, view_version: str) -> bool:
        """Promise not to begin to remove this chunk as surplus for a time; asked before the copy is read and hashed.

        False if the chunk is leaving, or this node's view of the vault has another version.
        """


class Collecting(Protocol):
    """Whoever removes chunks that nothing refers to."""

    async def obey(self, vault: VaultId, packed: bytes, /) -> tuple[int, int]:
        """Carry out an order; return chunks and bytes removed. Errors: `UnknownFormatError`, `ConflictError`."""
