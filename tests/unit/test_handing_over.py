"""A node that was given up with its chunks, and is back: it may bring them, and gets nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from tests.mesh_nodes import Node, virtual_time
from tests.unit.store_kit import run_inline
from tests.unit.test_chunk_service import VAULT, Others, make_chunk

from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.errors import CallRefusedError
from meshhold.model.ids import VaultId
from meshhold.replication.chunks import chunk_wire as wire
from meshhold.replication.chunks.chunk_service import ChunkService
from meshhold.replication.chunks.remote_chunks import RemoteChunks
from meshhold.transport.memory import MemoryNetwork

SMALL, LARGE = make_chunk(1000), make_chunk(wire.IN_CALL_MAX + 1)


class Member:
    """A member of a vault, and the returned node's way to it."""

    def __init__(self) -> None:
        self.node, self.store, self.others = Node("member"), MemoryChunkStore(), Others()
        self.returned = Node("returned")
        service = ChunkService(
            self.store,
            run_inline,
            lambda _vault, _peer: False,
            lambda _vault, _peer: True,
            self.others,
            self.others,
            self.others,
            may_hand_over=lambda vault, _peer: vault == VAULT,
        )
        service.register(self.node.dispatch)

    @property
    def chunks(self) -> RemoteChunks:
        """The member's chunks as the returned node reaches them."""
        return RemoteChunks(self.returned.peering, self.node.node_id)


@pytest.fixture
async def member() -> AsyncIterator[Member]:
    member = Member()
    network = MemoryNetwork(seed=1, latency_s=(0.001, 0.003))
    async with AsyncExitStack() as stack:
        for node in (member.node, member.returned):
            await stack.enter_async_context(node.up(network))
        member.returned.knows(member.node)
        yield member


@virtual_time
class TestHandingOver:
    """One that was given up, and a member."""

    async def test_it_brings_what_a_member_lacks_and_learns_that_it_arrived(self, member: Member) -> None:
        ids = [SMALL[0], LARGE[0]]
        assert await member.chunks.has(VAULT, ids) == [False, False]
        for chunk, sealed in (SMALL, LARGE):
            await member.chunks.put(VAULT, chunk, sealed, None)
        assert await member.chunks.has(VAULT, ids) == [True, True]
        assert await member.chunks.verify(VAULT, ids, "view 1") == [True, True]
        assert member.others.leased == ids
        assert (await member.chunks.digests(VAULT, 3)).view_version == "view 1"

    async def test_it_gets_neither_chunks_nor_names_and_orders_nothing(self, member: Member) -> None:
        for chunk, sealed in (SMALL, LARGE):
            member.store.put(VAULT, chunk, sealed)
        asked: list[Callable[[], Awaitable[object]]] = [
            lambda: member.chunks.get(VAULT, SMALL[0], 1000),
            lambda: member.chunks.get(VAULT, LARGE[0], wire.IN_CALL_MAX + 1),
            lambda: member.chunks.names(VAULT, 3, 0),
            lambda: member.chunks.renew(VAULT, [SMALL[0]]),
            lambda: member.chunks.collect(VAULT, b"marks"),
        ]
        for ask in asked:
            with pytest.raises(CallRefusedError) as met:
                await ask()
            assert met.value.kind == "DeniedError"
        assert member.others.orders == []

    async def test_of_other_vaults_it_brings_nothing(self, member: Member) -> None:
        foreign = VaultId("b" * 32)
        for chunk, sealed in (SMALL, LARGE):
            with pytest.raises(CallRefusedError, match="not both members"):
                await member.chunks.put(foreign, chunk, sealed, None)
        assert not member.store.has(foreign, SMALL[0])
