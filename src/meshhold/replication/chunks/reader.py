"""How content becomes bytes again: walk the manifest, fetch, verify and open chunks ahead. Knows no index."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.cache import ChunkCache
from meshhold.chunkstore.contract import ChunkStore
from meshhold.crypto.bulk import SEAL_OVERHEAD
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ChunkCorruptError, ChunkMissingError, StorageFailedError
from meshhold.model.entry import Ref
from meshhold.model.ids import ChunkId, VaultId
from meshhold.replication.chunks.copies import Copies
from meshhold.replication.tasks import open_tasks
from meshhold.sealing.chunker import CHUNK_SIZE
from meshhold.sealing.content import Content, PartRow, decode_parts
from meshhold.sealing.manifest import open_node, select
from meshhold.sealing.sealer import open_chunk

Sink = Callable[[bytes], Awaitable[None]]
ON_LOOP_MAX: Final = 128 * 1024
"""Bytes that are opened on the event loop where memory holds them: 0.1 ms, less than a hop to a thread costs."""
AHEAD: Final = 2
"""Chunks read or being read while one is sent: a thread that is woken late leaves no gap on the wire."""
AHEAD_OF_LINKS: Final = 4
"""The same where chunks come from other nodes: 4 MiB on their way fill 300 Mbit/s at a round trip of 100 ms."""
NODES_MAX_BYTES: Final = 8 << 20
"""Manifest nodes kept opened, for a film that is read range by range: 32 GiB of content."""
_REF_BYTES: Final = 256
"""What a ref takes in memory (230 measured): two byte strings of 32, an object and a number."""
_MANIFEST_SIZE: Final = CHUNK_SIZE
"""A manifest node's size is not known before it is read; it is smaller than this."""


class _Fetch:
    """A piece that is being read."""

    __slots__ = ("done", "piece")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.piece = b""


class ChunkReader:
    """Reads content. Without `copies` it knows the chunks of its own store only.

    With a `cache`, what others sent is kept there, and looked for there before others are asked. It is for what clients
    read: who judges what there is, or mends it, must not see it.
    Resources: borrows all of them.
    """

    def __init__(
        self,
        chunks: ChunkStore,
        run_blocking: RunBlocking,
        *,
        copies: Copies | None = None,
        cache: ChunkCache | None = None,
    ) -> None:
        self._chunks = chunks
        self._run_blocking = run_blocking
        self._copies = copies
        self._cache = cache
        self._nodes: OrderedDict[tuple[VaultId, Ref], tuple[Ref, ...]] = OrderedDict()
        self._nodes_refs = 0
        self.reading = 0
        """Pieces that somebody waits for right now; those that memory has at once are not counted."""

    async def copy(self, keys: VaultKeys, content: Content, start: int, stop: int, sink: Sink) -> None:
        """Hand the plaintext bytes `start` to `stop` to the sink, in order, in pieces of at most one chunk.

        Only the chunks that the range needs are read. At most `AHEAD` + 1 chunks are in memory, `AHEAD_OF_LINKS` + 1
        where others have some of them.
        Errors: `ChunkMissingError`, `ChunkCorruptError`, `SealBrokenError`, `StorageFailedError`,
        `ContentElsewhereError`; what the sink raises.
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
        is_here = self._copies is None or self._copies.is_complete(keys.vault_id)
        send, receive = trio.open_memory_channel[_Fetch]((AHEAD if is_here else AHEAD_OF_LINKS) - 1)

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
        """Return the refs inside a manifest chunk, which may have been read a while ago."""
        name = (keys.vault_id, ref)
        refs = self._nodes.get(name)
        if refs is None:
            refs = await self._open_node(keys, ref)
            self._remember(name, refs)
        else:
            self._nodes.move_to_end(name)
        return refs

    def _remember(self, name: tuple[VaultId, Ref], refs: tuple[Ref, ...]) -> None:
        if name in self._nodes:  # read twice at once
            return
        self._nodes[name] = refs
        self._nodes_refs += len(refs)
        while self._nodes_refs * _REF_BYTES > NODES_MAX_BYTES:
            _, oldest = self._nodes.popitem(last=False)
            self._nodes_refs -= len(oldest)

    async def part_table(self, keys: VaultKeys, content: Content) -> list[PartRow]:
        """Return the part table of an object that was uploaded in parts; empty for one that was not."""
        if content.part_table is None:
            return []
        ref = content.part_table
        return decode_parts(await self._piece(keys, ref, 0, ref.span))

    async def _piece(self, keys: VaultKeys, ref: Ref, first: int, end: int) -> bytes:
        if ref.span <= ON_LOOP_MAX:
            sealed = self._chunks.get_cached(keys.vault_id, ref.chunk, ON_LOOP_MAX + SEAL_OVERHEAD)
            if sealed is None and self._cache is not None:
                sealed = self._cache.get_cached(ref.chunk, ON_LOOP_MAX + SEAL_OVERHEAD)
            if sealed is not None:
                return open_chunk(ref, sealed)[first:end]
        self.reading += 1
        try:
            return await self._read_piece(keys, ref, first, end)
        finally:
            self.reading -= 1

    async def _read_piece(self, keys: VaultKeys, ref: Ref, first: int, end: int) -> bytes:
        try:
            return await self._run_blocking(self._open_chunk, keys, ref, first, end)
        except (ChunkMissingError, ChunkCorruptError, StorageFailedError) as error:
            if self._copies is None:
                raise
            size = ref.span + SEAL_OVERHEAD
            sealed = await self._copies.fetch_elsewhere(keys.vault_id, ref.chunk, size, error, self._cache)
        if ref.span <= ON_LOOP_MAX:
            return open_chunk(ref, sealed)[first:end]
        return await self._run_blocking(_open_part, ref, sealed, first, end)

    def _open_chunk(self, keys: VaultKeys, ref: Ref, first: int, end: int) -> bytes:
        return _open_part(ref, self._get_here(keys.vault_id, ref.chunk), first, end)

    async def _open_node(self, keys: VaultKeys, ref: Ref) -> tuple[Ref, ...]:
        try:
            return await self._run_blocking(self._open_node_here, keys, ref)
        except (ChunkMissingError, ChunkCorruptError, StorageFailedError) as error:
            if self._copies is None:
                raise
            sealed = await self._copies.fetch_elsewhere(keys.vault_id, ref.chunk, _MANIFEST_SIZE, error, self._cache)
        return await self._run_blocking(open_node, ref, sealed)

    def _open_node_here(self, keys: VaultKeys, ref: Ref) -> tuple[Ref, ...]:
        return open_node(ref, self._get_here(keys.vault_id, ref.chunk))

    def _get_here(self, vault: VaultId, chunk: ChunkId) -> bytes:
        """Return sealed bytes from this machine. A damaged copy is reported, and not covered up by a cached one."""
        try:
            return self._chunks.get(vault, chunk)
        except ChunkMissingError:
            sealed = None if self._cache is None else self._cache.get(chunk)
            if sealed is None:
                raise
            return sealed


def _open_part(ref: Ref, sealed: bytes, first: int, end: int) -> bytes:
    plaintext = open_chunk(ref, sealed)
    return plaintext if end - first == len(plaintext) else plaintext[first:end]
