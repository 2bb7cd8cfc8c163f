"""Reusing chunks safely: before an entry refers to chunks that are already stored, their age starts anew.

Otherwise a collection that began before the reuse could take them for dead. Knows no entry and no schedule.
"""

from __future__ import annotations

from typing import Final

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ChunkMissingError, UnavailableError
from meshhold.model.ids import ChunkId, VaultId
from meshhold.replication.chunks.copies import Copies
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.replication.chunks.walk import walk_refs
from meshhold.replication.chunks.writer import Flight
from meshhold.sealing.content import Content

_BATCH: Final = 512  # chunks per hop to a thread, or per message to other nodes


class Renewal:
    """Renews the chunks that a content refers to; without `copies`, those of this node's store.

    Resources: borrows the store, the reader and the copies.
    """

    def __init__(
        self, chunks: ChunkStore, reader: ChunkReader, run_blocking: RunBlocking, *, copies: Copies | None = None
    ) -> None:
        self._chunks = chunks
        self._reader = reader
        self._run_blocking = run_blocking
        self._copies = copies

    async def renew(self, keys: VaultKeys, content: Content) -> None:
        """Renew every chunk of the content.

        Errors: `ChunkMissingError` if one is nowhere: then refer to none. With other nodes those of `Copies.renew`.
        """
        batch: list[ChunkId] = []
        async for ref in walk_refs(self._reader, keys, content):
            batch.append(ref.chunk)
            if len(batch) >= _BATCH:
                await self._renew_all(keys.vault_id, batch)
                batch = []
        if batch:
            await self._renew_all(keys.vault_id, batch)

    async def _renew_all(self, vault: VaultId, batch: list[ChunkId]) -> None:
        if self._copies is not None:
            await self._copies.renew(vault, batch)
        else:
            await self._run_blocking(self._renew_here, vault, batch)

    async def renew_written(self, keys: VaultKeys, content: Content, flight: Flight) -> None:
        """Renew what a write made, if it took so long that others may soon take its first chunks for dead.

        Errors: `UnavailableError` if one is gone: the client is to send the body again; those of `renew`.
        """
        if not flight.is_long:
            return
        try:
            await self.renew(keys, content)
        except ChunkMissingError as error:
            raise UnavailableError(
                f"the upload took so long that a part of it was removed: {error.message}", "upload it again, in parts"
            ) from error

    def _renew_here(self, vault: VaultId, batch: list[ChunkId]) -> None:
        for chunk in batch:
            if not self._chunks.renew(vault, chunk):
                raise ChunkMissingError(f"chunk {chunk.hex()} of vault {vault} is missing")
