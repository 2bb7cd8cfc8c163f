"""What is asked of a node that keeps chunks, this one or another: the part that writing and reading need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from meshhold.model.ids import ChunkId, VaultId


class Holding(Protocol):
    """The chunks of one node.

    Errors of all methods: `PeerError` of the link, in bounded time; `CallRefusedError` with the node's words.
    """

    async def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes, /) -> object:
        """Let the node keep a chunk; durable there when this returns. A chunk that is there is renewed."""

    async def get(self, vault: VaultId, chunk: ChunkId, size_hint: int, /) -> bytes:
        """Return a chunk's sealed bytes, about `size_hint` of them, verified against its id.

        Errors besides: `IntegrityError` if it has none; of these `ChunkCorruptError` if it sent other bytes.
        """

    async def has(self, vault: VaultId, chunks: Sequence[ChunkId], /) -> list[bool]:
        """Tell of each chunk whether the node keeps a copy."""

    async def renew(self, vault: VaultId, chunks: Sequence[ChunkId], /) -> list[bool]:
        """Let the age of these chunks begin anew; False for one that is not there."""
