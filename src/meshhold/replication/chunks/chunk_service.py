"""Which chunks do other nodes get, and leave, here? Answers them from this node's store; knows no ring and no key.

Members of a vault, also those that are not trusted, exchange its chunks; only trusted ones order a collection. A node
that was given up with what it had, and came back, may hand that over, and ask whether it arrived; it gets nothing.

A node that is leaving takes nothing: whoever has not heard yet would leave a copy with one that nobody asks any more.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.errors import DeniedError, MeshHoldError, OverloadedError, TooLargeError
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.streams import PeerStream
from meshhold.replication.chunks import bulk
from meshhold.replication.chunks import chunk_wire as wire
from meshhold.replication.chunks.byte_budget import ByteBudget
from meshhold.replication.chunks.chunk_streams import held_now, receive_announced, send_bytes
from meshhold.replication.chunks.holder_contract import Collected, Collecting, Digester, Leases
from meshhold.replication.chunks.local_chunks import LocalChunks
from meshhold.replication.chunks.remote_chunks import COLLECT_S

MayExchange = Callable[[VaultId, NodeId], bool]
"""Tells of a vault and a peer whether the vault's rules let it ask."""

_Handler = Callable[[VaultId, Any], Awaitable[Any]]
ROOM_MAX: Final = 96 << 20
"""Bytes of streamed chunks in memory; beyond it streams are refused. Calls are bounded by their session."""
ROOM_PER_PEER_MAX: Final = 24 << 20
"""More than a peer of this release sends or asks for at once; four hostile ones are needed to fill the whole."""
READING_MAX: Final = 2
"""Batches that are read at once: other peers' questions come in between, also where the disk is slow."""
UNSIZED_MAX: Final = 4 * wire.SEALED_MAX
"""Room for chunks that are read without asking for their size before, which would be a turn of a thread for each."""
SIGN_OF_LIFE_S: Final = 3.0
HANDING: Final = frozenset({wire.PUT, wire.HAS, wire.VERIFY, wire.DIGESTS})
"""What a node asks that only hands over: none of the answers holds a chunk, or the name of one."""


class ChunkService:
    """Serves a chunk store to peers.

    `may_exchange` tells whether a peer and this node are both members of a vault, `may_hand_over` whether the peer may
    at least give what it has of it (None: members only), `is_trusted` whether it is trusted with it. `is_leaving` tells
    of a vault whether this node is. `now` gives seconds since 1970 by the store's clock; `damaged` is told of a vault a
    copy of which was found damaged here.
    """

    def __init__(
        self,
        chunks: ChunkStore,
        run_blocking: RunBlocking,
        may_exchange: MayExchange,
        is_trusted: MayExchange,
        digester: Digester,
        leases: Leases,
        collecting: Collecting,
        now: Callable[[], float] = time.time,
        damaged: Callable[[VaultId], None] = lambda _vault: None,
        *,
        may_hand_over: MayExchange | None = None,
        is_leaving: Callable[[VaultId], bool] = lambda _vault: False,
    ) -> None:
        self.local = LocalChunks(chunks, run_blocking, digester, leases, collecting, damaged)
        """This node as a holder."""
        self._may_exchange = may_exchange
        self._may_hand_over = may_hand_over or may_exchange
        self._is_trusted = is_trusted
        self._is_leaving = is_leaving
        self._taking: Counter[VaultId] = Counter()
        self._now = now
        self._room = ByteBudget(ROOM_MAX)
        self._rooms: dict[NodeId, ByteBudget] = {}
        self._reading = trio.CapacityLimiter(READING_MAX)
        self._unsized = ByteBudget(UNSIZED_MAX)
        self._is_collecting = False

    def register(self, dispatch: Dispatch) -> None:
        """Answer peers' calls and streams."""
        handlers: dict[str, _Handler] = {
            wire.PUT: self._put,
            wire.GET: self._get,
            wire.HAS: self._has,
            wire.RENEW: self._renew,
            wire.VERIFY: self._verify,
            wire.DIGESTS: self._digests,
            wire.NAMES: self._names,
            bulk.NAMES_OF_MANY: self._names_of_many,
        }
        for name, handler in handlers.items():
            may = self._may_hand_over if name in HANDING else self._may_exchange
            dispatch.on_call(name, self._guarded(handler, may))
        dispatch.on_stream(wire.PUT_STREAM, self._take)
        dispatch.on_stream(wire.GET_STREAM, self._give)
        dispatch.on_stream(bulk.GET_MANY_STREAM, self._give_many)
        dispatch.on_stream(wire.COLLECT_STREAM, self._collect)

    def may_take(self, vault: VaultId) -> bool:
        """Tell whether a chunk of the vault may still come: this node is not leaving, or one is on its way."""
        return not self._is_leaving(vault) or vault in self._taking

    def _guarded(self, handler: _Handler, may: MayExchange) -> Callable[[NodeId, Any], Awaitable[Any]]:
        async def answer(peer: NodeId, body: Any) -> Any:
            return await handler(self._vault(peer, body, may), body)

        return answer

    def _vault(self, peer: NodeId, body: Any, may: MayExchange | None = None) -> VaultId:
        vault = wire.vault_of(body)
        if not (may or self._may_exchange)(vault, peer):
            raise DeniedError(
                f"node {short_id(peer)} and this one are not both members of vault {short_id(vault)}",
                "see `meshhold vault show`; a change of members takes seconds to spread",
            )
        return vault

    # -- calls ------------------------------------------------------------------------------------------------------

    async def _put(self, vault: VaultId, body: Any) -> Any:
        chunk, sealed = wire.chunk_of(body), wire.sealed_of(body)
        with self._open_to(vault):
            is_new = await self.local.take(vault, chunk, sealed, wire.touched_of(body, self._now()))
        return bytes([is_new])

    async def _get(self, vault: VaultId, body: Any) -> Any:
        sealed = await self.local.get(vault, wire.chunk_of(body), 0)
        if len(sealed) > wire.IN_CALL_MAX:
            raise TooLargeError(f"a chunk of {len(sealed)} bytes does not travel in one message", "ask for a stream")
        return sealed

    async def _has(self, vault: VaultId, body: Any) -> Any:
        return bytes(await self.local.has(vault, wire.chunks_of(body)))

    async def _renew(self, vault: VaultId, body: Any) -> Any:
        return bytes(await self.local.renew(vault, wire.chunks_of(body)))

    async def _verify(self, vault: VaultId, body: Any) -> Any:
        chunks, version = wire.chunks_of(body, wire.VERIFIED_MAX), wire.version_of(body)
        return bytes(await self.local.verify(vault, chunks, version))

    async def _digests(self, vault: VaultId, body: Any) -> Any:
        bits = wire.bits_of(body)
        first = wire.partition_of(body, bits)
        return wire.pack_digests(await self.local.digests(vault, bits), first)

    async def _names(self, vault: VaultId, body: Any) -> Any:
        bits = wire.bits_of(body)
        partition, after = wire.partition_of(body, bits), wire.after_of(body)
        found, is_last = await self.local.names_page(vault, bits, partition, after)
        return wire.pack_names(found, self._now(), is_last=is_last)

    async def _names_of_many(self, vault: VaultId, body: Any) -> Any:
        bits = wire.bits_of(body)
        found = await self.local.names_of_first(vault, bits, bulk.partitions_of(body, bits))
        return bulk.pack_names(found, self._now())

    # -- streams ----------------------------------------------------------------------------------------------------

    async def _take(self, peer: NodeId, body: Any, stream: PeerStream) -> None:
        vault = self._vault(peer, body, self._may_hand_over)
        chunk, size = wire.chunk_of(body), wire.size_of(body, wire.SEALED_MAX)
        touched_s = wire.touched_of(body, self._now())
        with self._open_to(vault), self._room_for(peer, size):
            sealed = await receive_announced(stream, size)
            is_new = await self.local.take(vault, chunk, sealed, touched_s)
        await send_bytes(stream, bytes([is_new]))

    async def _give(self, peer: NodeId, body: Any, stream: PeerStream) -> None:
        vault, chunk = self._vault(peer, body), wire.chunk_of(body)
        with self._room_for(peer, wire.IN_CALL_MAX):  # nothing is read for a peer without room for the least
            async with self._unsized.held(wire.SEALED_MAX):
                sealed = await self.local.get(vault, chunk, wire.SEALED_MAX)
            with self._room_for(peer, max(len(sealed) - wire.IN_CALL_MAX, 0)):
                await send_bytes(stream, sealed)

    async def _give_many(self, peer: NodeId, body: Any, stream: PeerStream) -> None:
        vault, chunks = self._vault(peer, body), wire.chunks_of(body, bulk.BATCH_MAX)
        with self._room_for(peer, bulk.BATCH_SIZE):
            async with self._reading:
                packed = bulk.pack_pieces(await self.local.get_many(vault, chunks))
            with self._room_for(peer, max(len(packed) - bulk.BATCH_SIZE, 0)):  # of a chunk that is larger than a batch
                await send_bytes(stream, packed)

    @contextmanager
    def _open_to(self, vault: VaultId) -> Iterator[None]:
        """Take a chunk inside the block. Errors: `DeniedError` if this node is leaving."""
        if self._is_leaving(vault):
            raise DeniedError(
                f"this node is leaving vault {short_id(vault)} and takes no chunk of it any more",
                "give it to another member; the news takes seconds to spread",
            )
        self._taking[vault] += 1
        try:
            yield
        finally:
            self._taking[vault] -= 1
            if not self._taking[vault]:
                del self._taking[vault]

    @contextmanager
    def _room_for(self, peer: NodeId, size: int) -> Iterator[None]:
        """Hold memory for chunks. Errors: `OverloadedError`."""
        room = self._rooms.setdefault(peer, ByteBudget(ROOM_PER_PEER_MAX))
        try:
            with held_now((room, self._room), size):
                yield
        finally:
            if room.free == room.size:
                self._rooms.pop(peer, None)

    async def _collect(self, peer: NodeId, body: Any, stream: PeerStream) -> None:
        vault, size = self._vault(peer, body), wire.size_of(body, wire.MARKS_MAX)
        if not self._is_trusted(vault, peer):
            raise DeniedError(
                f"node {short_id(peer)} is not trusted with vault {short_id(vault)}, so it orders no collection",
                "see `meshhold vault show`",
            )
        if self._is_collecting:
            raise OverloadedError("this node takes the marks of one collection at a time", "ask again later")
        self._is_collecting = True
        try:
            marks = await receive_announced(stream, size, COLLECT_S)
            collected = await self._obey(vault, marks, stream)
        finally:
            self._is_collecting = False
        await send_bytes(stream, wire.pack_collected(collected))

    async def _obey(self, vault: VaultId, marks: bytes, stream: PeerStream) -> Collected:
        """Collect, and tell the peer now and then that this goes on. A peer that has left stops it."""
        met: MeshHoldError | None = None
        collected = Collected(0, 0)

        async def tell() -> None:
            nonlocal met
            try:
                while True:
                    await trio.sleep(SIGN_OF_LIFE_S)
                    stream.send_soon(wire.WORKING)
            except MeshHoldError as error:
                met = error
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            try:
                collected = await self.local.collect(vault, marks)
            except MeshHoldError as error:
                met = error
            nursery.cancel_scope.cancel()
        if met is not None:
            raise met
        return collected
