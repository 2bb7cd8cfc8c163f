"""Reusing chunks safely: before an entry refers to chunks that are already stored, their age starts anew.

Otherwise a collection that began before the reuse could take them for dead. Knows no entry and no schedule.
"""

from __future__ import annotations

from typing import Final

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ChunkMissingError
from meshhold.model.ids import ChunkId
from meshhold.replication.reader import ChunkReader
from meshhold.replication.walk import walk_refs
from meshhold.sealing.content import Content

_BATCH: Final = 128  # chunks per hop to a thread


class Renewal:
    """Renews the chunks that a content refers to. Resources: borrows the store and the reader."""

    def __init__(self, chunks: ChunkStore, reader: ChunkReader, run_blocking: RunBlocking) -> None:
        self._chunks = chunks
        self._reader = reader
        self._run_blocking = run_blocking

    async def renew(self, keys: VaultKeys, content: Content) -> None:
        """Renew every chunk of the content. Errors: `ChunkMissingError` if one is not there: then refer to none."""
        batch: list[ChunkId] = []
        async for ref in walk_refs(self._reader, keys, content):
            batch.append(ref.chunk)
            if len(batch) >= _BATCH:
                await self._run_blocking(self._renew_all, keys, batch)
                batch = []
        await self._run_blocking(self._renew_all, keys, batch)

    def _renew_all(self, keys: VaultKeys, batch: list[ChunkId]) -> None:
        for chunk in batch:
            if not self._chunks.renew(keys.vault_id, chunk):
                raise ChunkMissingError(f"chunk {chunk.hex()} of vault {keys.vault_id} is missing")
