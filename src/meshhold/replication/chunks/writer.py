"""How a body becomes durable chunks: cut, hash, seal and keep in a bounded pipeline. Knows no index and no HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.model.entry import INLINE_SIZE_MAX, INLINE_WHERE_DEAR_MAX, Ref
from meshhold.model.ids import ChunkId, VaultId
from meshhold.replication.chunks.copies import Copies
from meshhold.replication.tasks import open_tasks
from meshhold.sealing.chunker import Chunker
from meshhold.sealing.content import Content, PartRow, encode_parts
from meshhold.sealing.manifest import REFS_IN_ENTRY_MAX, encode_refs, group_refs
from meshhold.sealing.sealer import seal_chunk

_PENDING: Final = Ref(0, ChunkId(b""), b"", 0)
LONG_WRITE_S: Final = 6 * 3600.0
"""A quarter of the grace after which a chunk that nothing refers to is removed: three quarters are left to commit."""
ON_LOOP_MAX: Final = 128 * 1024
"""Bytes that are hashed and sealed on the event loop where the chunk then goes to others: 0.2 ms for 64 KiB. A thread
takes as long, and beside a busy loop costs more than that again."""
CHUNKS_IN_FLIGHT: Final = 3  # per request: one being hashed, one sealed and written, one arriving; 2 MiB each at most
AHEAD_OF_LINKS: Final = 8
"""More of them for writes to other nodes, shared by all requests: at two fsyncs of 20 ms on the slowest of the nodes,
three chunks at a time are 75 MB/s at the most, and eleven as much as two processors seal and send."""


class Source(Protocol):
    """A body on its way in."""

    async def receive(self) -> bytes:
        """Return the next piece, or `b""` at the end. Errors: whatever is wrong with the body so far."""

    def digest(self, block: bytes) -> None:
        """Hash a block. Called in order, one at a time, off the event loop for large blocks."""


@dataclass(frozen=True, slots=True)
class Written:
    """Content that is durable, and its plaintext bytes."""

    content: Content
    size: int


class Flight:
    """A write that is under way. `began_s` counts since 1970, as the ages of chunks do."""

    __slots__ = ("_began", "_now_s", "began_s")

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._began = trio.current_time()
        self.began_s = now_s()

    @property
    def is_long(self) -> bool:
        """Whether other nodes may soon take its first chunks for dead; a clock that was set back hides no time."""
        return max(self._now_s() - self.began_s, trio.current_time() - self._began) > LONG_WRITE_S


class ChunkWriter:
    """Writes bodies of one node. Without `copies` it keeps all chunks in its own store.

    Resources: borrows the chunk store and the copies. `oldest_start_s` protects the chunks of writes in flight from
    this node's collector. `is_index_dear` tells whether a vault's index has more replicas than its chunks have copies.
    """

    def __init__(
        self,
        chunks: ChunkStore,
        run_blocking: RunBlocking,
        *,
        copies: Copies | None = None,
        is_index_dear: Callable[[VaultId], bool] = lambda _: False,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._is_index_dear = is_index_dear
        self._chunks = chunks
        self._run_blocking = run_blocking
        self._copies = copies
        self._now_s = now_s
        self._flights: set[Flight] = set()
        self._ahead = trio.Semaphore(AHEAD_OF_LINKS)

    @property
    def oldest_start_s(self) -> float:
        """When (seconds since 1970) the oldest write in flight began; infinity if there is none."""
        return min((flight.began_s for flight in self._flights), default=float("inf"))

    async def write(
        self, keys: VaultKeys, source: Source, *, before_waiting: Callable[[], None] | None = None
    ) -> Written:
        """Read the source to its end and return its content, every chunk of it durable.

        A body up to 16 KiB, or 4 KiB where the index is dear, stays inline: nothing is written then. For every other
        one `before_waiting` is called once, before anything is waited for but the first chunk's bytes.
        Memory: a few chunks, whatever the body's size.
        Errors: what the source raises; `UnavailableError` of the chunk store and of the copies. Chunks written before
        an error stay until the collector finds that nothing refers to them.
        """
        with self.in_flight():
            return await self._write(keys, source, before_waiting or _nothing)

    @contextmanager
    def in_flight(self) -> Iterator[Flight]:
        """Keep this node's collector from every chunk that is put inside the block.

        Whoever refers to what it wrote holds this until its entry is durable: a body that took longer than the grace to
        arrive has chunks that are old before anything refers to them. Other nodes know nothing of it: the chunks of a
        long flight are renewed before the entry refers to them.
        """
        flight = Flight(self._now_s)
        self._flights.add(flight)
        try:
            yield flight
        finally:
            self._flights.discard(flight)

    async def _write(self, keys: VaultKeys, source: Source, before_waiting: Callable[[], None]) -> Written:
        chunker = Chunker()
        blocks: list[bytes] = []
        while not blocks:
            piece = await source.receive()
            if not piece:
                return await self._write_short(keys, source, chunker.finish(), before_waiting)
            blocks = chunker.feed(piece)
        before_waiting()
        return await self._write_long(keys, source, chunker, blocks)

    async def _write_short(
        self, keys: VaultKeys, source: Source, block: bytes, before_waiting: Callable[[], None]
    ) -> Written:
        """Write a body of less than one chunk: no pipeline, and one hop to a thread where this node keeps it alone."""
        if len(block) <= INLINE_SIZE_MAX and (
            len(block) <= INLINE_WHERE_DEAR_MAX or not self._is_index_dear(keys.vault_id)
        ):
            source.digest(block)
            return Written(Content(inline=block), len(block))
        before_waiting()
        if self._copies is None or self._is_alone(keys):
            ref = await self._run_blocking(self._hash_and_store, keys, source, block)
        else:
            if len(block) <= ON_LOOP_MAX:
                ref, sealed = _hash_and_seal(keys, source, block)
            else:
                ref, sealed = await self._run_blocking(_hash_and_seal, keys, source, block)
            await self._copies.keep(keys.vault_id, ref.chunk, sealed)
        return Written(Content(inline=None, refs=(ref,)), len(block))

    async def _write_long(self, keys: VaultKeys, source: Source, chunker: Chunker, blocks: list[bytes]) -> Written:
        """Receive, hash in order, and seal and store side by side, at most `CHUNKS_IN_FLIGHT` blocks at a time.

        Where other nodes are waited for, what is free of `AHEAD_OF_LINKS` is used besides.
        """
        refs: list[Ref] = []
        own = trio.Semaphore(CHUNKS_IN_FLIGHT)
        spare = own if self._is_alone(keys) else self._ahead
        to_hash, hashing = trio.open_memory_channel[bytes](1)

        async def hash_in_order() -> None:
            async with hashing:
                async for block in hashing:
                    await self._run_blocking(source.digest, block)

        async def store(block: bytes, at: int, slot: trio.Semaphore) -> None:
            try:
                refs[at] = await self.store_block(keys, block)
            finally:
                slot.release()

        size = 0
        async with open_tasks() as nursery, to_hash:
            nursery.start_soon(hash_in_order)
            while blocks:
                for block in blocks:
                    slot = await _take_slot(own, spare)
                    size += len(block)
                    refs.append(_PENDING)
                    nursery.start_soon(store, block, len(refs) - 1, slot)
                    await to_hash.send(block)
                blocks = await _next_blocks(source, chunker)
        return Written(await self.pack(keys, refs), size)

    async def pack(self, keys: VaultKeys, refs: Sequence[Ref], parts: Sequence[PartRow] = ()) -> Content:
        """Return content for these refs: in the entry while few, else below manifest chunks that this makes durable.

        With `parts` the part table becomes a chunk of its own.
        """
        return await self.with_parts(keys, Content(inline=None, refs=await self._raise_tree(keys, refs)), parts)

    async def with_parts(self, keys: VaultKeys, content: Content, parts: Sequence[PartRow]) -> Content:
        """Return the content with a part table, durable; without parts, unchanged."""
        if not parts:
            return content
        return replace(content, part_table=await self.store_block(keys, encode_parts(parts)))

    async def _raise_tree(self, keys: VaultKeys, refs: Sequence[Ref]) -> tuple[Ref, ...]:
        level = list(refs)
        while len(level) > REFS_IN_ENTRY_MAX:
            nodes = []
            for group in group_refs(level):
                depth = max(ref.depth for ref in group) + 1
                span = sum(ref.span for ref in group)
                nodes.append(await self._keep(keys, encode_refs(group), depth, span))
            level = nodes
        return tuple(level)

    async def store_block(self, keys: VaultKeys, block: bytes) -> Ref:
        """Make one block of plaintext durable as a data chunk."""
        return await self._keep(keys, block, 0, len(block))

    async def _keep(self, keys: VaultKeys, plaintext: bytes, depth: int, span: int) -> Ref:
        if self._copies is None or self._is_alone(keys):
            return await self._run_blocking(self._store, keys, plaintext, depth, span)
        ref, sealed = await self._run_blocking(seal_chunk, keys, plaintext, depth, span)
        await self._copies.keep(keys.vault_id, ref.chunk, sealed)
        return ref

    def _is_alone(self, keys: VaultKeys) -> bool:
        return self._copies is None or self._copies.is_alone(keys.vault_id)

    def _hash_and_store(self, keys: VaultKeys, source: Source, block: bytes) -> Ref:
        source.digest(block)
        return self._store(keys, block, 0, len(block))

    def _store(self, keys: VaultKeys, plaintext: bytes, depth: int, span: int) -> Ref:
        ref, sealed = seal_chunk(keys, plaintext, depth, span)
        self._chunks.put(keys.vault_id, ref.chunk, sealed)
        return ref


def _nothing() -> None:
    """Do nothing before waiting: nobody asked for it."""


def _hash_and_seal(keys: VaultKeys, source: Source, block: bytes) -> tuple[Ref, bytes]:
    source.digest(block)
    return seal_chunk(keys, block)


async def _take_slot(own: trio.Semaphore, spare: trio.Semaphore) -> trio.Semaphore:
    """Wait for one of the request's own slots, or take one of the spare ones if none is free; return which."""
    for slot in (own, spare):
        try:
            slot.acquire_nowait()
        except trio.WouldBlock:
            continue
        return slot
    await own.acquire()
    return own


async def _next_blocks(source: Source, chunker: Chunker) -> list[bytes]:
    """Return the next full blocks, at the end the rest, and after it nothing."""
    while True:
        piece = await source.receive()
        if not piece:
            rest = chunker.finish()
            return [rest] if rest else []
        blocks = chunker.feed(piece)
        if blocks:
            return blocks
