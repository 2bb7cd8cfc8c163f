"""How content becomes bytes again: walk the manifest, fetch, verify and open chunks one ahead. Knows no index."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.crypto.bulk import SEAL_OVERHEAD
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.model.entry import Ref
from meshhold.replication.tasks import open_tasks
from meshhold.sealing.content import Content, PartRow, decode_parts
from meshhold.sealing.manifest import open_node, select
from meshhold.sealing.sealer import open_chunk

Sink = Callable[[bytes], Awaitable[None]]
ON_LOOP_MAX: Final = 128 * 1024
"""Bytes that are opened on the event loop where memory holds them: 0.1 ms, less than a hop to a thread costs."""
AHEAD: Final = 2
"""Chunks read or being read while one is sent: a thread that is woken late leaves no gap on the wire."""


class _Fetch:
    """A piece that is being read."""

    __slots__ = ("done", "piece")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.piece = b""


class ChunkReader:
    """Reads content of one node. Resources: borrows the chunk store."""

    def __init__(self, chunks: ChunkStore, run_blocking: RunBlocking) -> None:
        self._chunks = chunks
        self._run_blocking = run_blocking

    async def copy(self, keys: VaultKeys, content: Content, start: int, stop: int, sink: Sink) -> None:
        """Hand the plaintext bytes `start` to `stop` to the sink, in order, in pieces of at most one chunk.

        Only the chunks that the range needs are read. At most `AHEAD` + 1 chunks are in memory.
        Errors: `ChunkMissingError`, `ChunkCorruptError`, `SealBrokenError`, `StorageFailedError`; what the sink raises.
        """
        if content.inline is not None:
            if stop > start:
                await sink(content.inline if stop - start == len(content.inline) else content.inline[start:stop])
            return
        if len(content.refs) == 1 and content.refs[0].depth == 0:
            if stop > start:
                await sink(await self._piece(keys, content.refs[0], start, stop))
            return
        await self._copy_ahead(keys, content.refs, start, stop, sink)

    async def _copy_ahead(self, keys: VaultKeys, refs: tuple[Ref, ...], start: int, stop: int, sink: Sink) -> None:
        """Fetch side by side, hand on in order."""
        send, receive = trio.open_memory_channel[_Fetch](AHEAD - 1)

        async def fetch(slot: _Fetch, ref: Ref, first: int, end: int) -> None:
            slot.piece = await self._piece(keys, ref, first, end)
            slot.done.set()

        async with open_tasks() as nursery:

            async def begin() -> None:
                async with send, aclosing(self.leaves(keys, refs, start, stop)) as leaves:
                    async for leaf in leaves:
                        slot = _Fetch()
                        await send.send(slot)
                        nursery.start_soon(fetch, slot, *leaf)

            nursery.start_soon(begin)
            async with receive:
                async for slot in receive:
                    await slot.done.wait()
                    piece, slot.piece = slot.piece, b""
                    await sink(piece)

    async def leaves(
        self, keys: VaultKeys, refs: tuple[Ref, ...], start: int, stop: int
    ) -> AsyncGenerator[tuple[Ref, int, int], None]:
        """Yield the data chunks of a range as (ref, first byte inside it, end inside it), in order."""
        stack = [iter(select(refs, start, stop))]
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
                continue
            ref, first, end = step
            if ref.depth == 0:
                yield step
            else:
                stack.append(iter(select(await self.node(keys, ref), first, end)))

    async def node(self, keys: VaultKeys, ref: Ref) -> tuple[Ref, ...]:
        """Return the refs inside a manifest chunk."""
        return await self._run_blocking(self._open_node, keys, ref)

    async def part_table(self, keys: VaultKeys, content: Content) -> list[PartRow]:
        """Return the part table of an object that was uploaded in parts; empty for one that was not."""
        if content.part_table is None:
            return []
        ref = content.part_table
        return decode_parts(await self._piece(keys, ref, 0, ref.span))

    async def _piece(self, keys: VaultKeys, ref: Ref, first: int, end: int) -> bytes:
        if ref.span <= ON_LOOP_MAX:
            sealed = self._chunks.get_cached(keys.vault_id, ref.chunk, ON_LOOP_MAX + SEAL_OVERHEAD)
            if sealed is not None:
                return open_chunk(ref, sealed)[first:end]
        return await self._run_blocking(self._open_chunk, keys, ref, first, end)

    def _open_chunk(self, keys: VaultKeys, ref: Ref, first: int, end: int) -> bytes:
        plaintext = open_chunk(ref, self._chunks.get(keys.vault_id, ref.chunk))
        return plaintext if end - first == len(plaintext) else plaintext[first:end]

    def _open_node(self, keys: VaultKeys, ref: Ref) -> tuple[Ref, ...]:
        return open_node(ref, self._chunks.get(keys.vault_id, ref.chunk))
