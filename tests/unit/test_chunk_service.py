"""Chunks between two nodes on the network in memory, and what a hostile one can do: nothing."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.mesh_nodes import Node, until, virtual_time
from tests.unit.store_kit import run_inline

from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import (
    CallRefusedError,
    CallTimeoutError,
    ChunkCorruptError,
    ChunkMissingError,
    ConflictError,
    MeshHoldError,
    OverloadedError,
    PeerUnreachableError,
    ProtocolError,
    StorageFailedError,
    TooLargeError,
)
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.peering.streams import PeerStream
from meshhold.replication.chunks import bulk, remote_chunks
from meshhold.replication.chunks import chunk_wire as wire
from meshhold.replication.chunks.bulk import BATCH_MAX, BATCH_SIZE, PARTITIONS_MAX
from meshhold.replication.chunks.chunk_service import READING_MAX, ROOM_PER_PEER_MAX, UNSIZED_MAX, ChunkService
from meshhold.replication.chunks.holder_contract import Digests, Held, Holder
from meshhold.replication.chunks.remote_chunks import STREAMS_SIZE_MAX, RemoteChunks
from meshhold.transport.memory import MemoryNetwork

VAULT = VaultId("a" * 32)
FOREIGN = VaultId("b" * 32)
CAPACITY = 100 << 20
BIG = wire.IN_CALL_MAX + 1


def make_chunk(size: int, seed: int = 0) -> tuple[ChunkId, bytes]:
    sealed = (seed.to_bytes(4, "big") + bytes(range(256)) * (size // 256 + 1))[:size]
    return ChunkId(hash_bytes(sealed)), sealed


class Others:
    """The parts of a node that other rooms bring, as a test wants them to answer."""

    def __init__(self) -> None:
        self.version = "view 1"
        self.is_full = False
        self.leased: list[ChunkId] = []
        self.leaving: set[ChunkId] = set()
        self.orders: list[bytes] = []
        self.work_s = 0.0
        self.error: Exception | None = None
        self.trusted = True
        self.is_leaving = False

    async def digests(self, _vault: VaultId, bits: int) -> Digests:
        return Digests(self.version, self.is_full, [at.to_bytes(8, "big") for at in range(1 << bits)])

    def grant(self, _vault: VaultId, chunk: ChunkId, view_version: str) -> bool:
        if view_version != self.version or chunk in self.leaving:
            return False
        self.leased.append(chunk)
        return True

    async def obey(self, _vault: VaultId, packed: bytes, /) -> tuple[int, int]:
        self.orders.append(packed)
        await trio.sleep(self.work_s)
        if self.error is not None:
            raise self.error
        return 3, 4 << 30


class Side:
    """One node with a chunk store in memory and a clock of its own."""

    def __init__(self, name: str, now_s: float) -> None:
        self.now_s = now_s
        self.node = Node(name)
        self.store = MemoryChunkStore(capacity_bytes=CAPACITY, now=self.now)
        self.others = Others()
        self.damaged: list[VaultId] = []
        self.service = ChunkService(
            self.store,
            run_inline,
            lambda vault, _peer: vault == VAULT,
            lambda _vault, _peer: self.others.trusted,
            self.others,
            self.others,
            self.others,
            now=self.now,
            damaged=self.damaged.append,
            is_leaving=lambda _vault: self.others.is_leaving,
        )
        self.service.register(self.node.dispatch)

    def now(self) -> float:
        return self.now_s

    def remote(self, other: Side) -> RemoteChunks:
        return RemoteChunks(self.node.peering, other.node.node_id, now=self.now)


@pytest.fixture
async def sides() -> AsyncIterator[tuple[Side, Side]]:
    """Two linked nodes; the clock of the second is an hour ahead."""
    network = MemoryNetwork(seed=1, latency_s=(0.001, 0.003))
    a, b = Side("a", 1_800_000_000.0), Side("b", 1_800_003_600.0)
    async with AsyncExitStack() as stack:
        for side in (a, b):
            await stack.enter_async_context(side.node.up(network))
        a.node.knows(b.node)
        yield a, b


@virtual_time
class TestLeaving:
    """A node that hands over all that it has takes nothing from whoever has not heard of that."""

    @pytest.mark.parametrize("size", [4096, BIG])
    async def test_it_refuses_chunks(self, sides: tuple[Side, Side], size: int) -> None:
        a, b = sides
        chunk, sealed = make_chunk(size)
        b.others.is_leaving = True
        with pytest.raises(CallRefusedError, match="is leaving vault aaaaaaaa"):
            await a.remote(b).put(VAULT, chunk, sealed)
        assert not b.store.has(VAULT, chunk)
        assert not b.service.may_take(VAULT)

    async def test_what_was_on_its_way_is_told_of_until_it_is_there(self, sides: tuple[Side, Side]) -> None:
        a, b = sides
        chunk, sealed = make_chunk(1 << 20)
        assert b.service.may_take(VAULT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.remote(b).put, VAULT, chunk, sealed)
            while not b.others.is_leaving:  # it begins to leave once the chunk is on its way
                await trio.sleep(0.0005)
                assert not b.store.has(VAULT, chunk), "the transfer was over before anybody looked"
                b.others.is_leaving = True
                b.others.is_leaving = b.service.may_take(VAULT)
            assert not b.store.has(VAULT, chunk)
            while b.service.may_take(VAULT):  # noqa: ASYNC110 - the count has no event
                await trio.sleep(0.0005)
            assert b.store.has(VAULT, chunk)


@dataclass
class Bench:
    """A holder, the side that has its chunks, and the clock of whoever asks."""

    holder: Holder
    keeper: Side
    asker_now: Callable[[], float]


@pytest.fixture(params=["local", "remote"])
def bench(request: pytest.FixtureRequest, sides: tuple[Side, Side]) -> Bench:
    a, b = sides
    return Bench(b.service.local, b, b.now) if request.param == "local" else Bench(a.remote(b), b, a.now)


@virtual_time
class TestEveryHolder:
    """This node and another one are asked alike and answer alike."""

    @pytest.mark.parametrize("size", [0, 1, 4096, wire.IN_CALL_MAX, BIG, (1 << 20) + 16, wire.SEALED_MAX])
    async def test_what_is_put_is_got(self, bench: Bench, size: int) -> None:
        chunk, sealed = make_chunk(size)
        assert await bench.holder.put(VAULT, chunk, sealed)
        assert bench.keeper.store.get(VAULT, chunk) == sealed
        assert await bench.holder.get(VAULT, chunk, size) == sealed
        assert not await bench.holder.put(VAULT, chunk, sealed)

    @pytest.mark.parametrize("hint", [0, 4096, wire.SEALED_MAX])
    @pytest.mark.parametrize("size", [4096, 1 << 20])
    async def test_a_wrong_hint_costs_time_only(self, bench: Bench, size: int, hint: int) -> None:
        chunk, sealed = make_chunk(size)
        await bench.holder.put(VAULT, chunk, sealed)
        assert await bench.holder.get(VAULT, chunk, hint) == sealed

    @pytest.mark.parametrize("size", [4096, BIG])
    async def test_a_copy_keeps_its_age_between_clocks_that_differ(self, bench: Bench, size: int) -> None:
        chunk, sealed = make_chunk(size)
        await bench.holder.put(VAULT, chunk, sealed, bench.asker_now() - 5000.25)
        stat = bench.keeper.store.stat(VAULT, chunk)
        assert stat is not None
        assert stat.touched_s == bench.keeper.now_s - 5000.25
        assert await bench.holder.names(VAULT, 0, 0) == [Held(chunk, bench.asker_now() - 5000.25)]

    async def test_a_copy_from_the_future_is_new(self, bench: Bench) -> None:
        chunk, sealed = make_chunk(100)
        bench.keeper.store.put(VAULT, chunk, sealed, bench.keeper.now_s + 50)
        ((_, touched_s),) = await bench.holder.names(VAULT, 0, 0)
        assert touched_s - bench.asker_now() in {0, 50}

    @pytest.mark.parametrize("hint", [100, BIG])
    async def test_a_chunk_that_is_not_there_or_damaged_is_missing(self, bench: Bench, hint: int) -> None:
        chunk, sealed = make_chunk(100)
        with pytest.raises(ChunkMissingError):
            await bench.holder.get(VAULT, chunk, hint)
        bench.keeper.store.put(VAULT, chunk, b"other bytes")
        with pytest.raises((ChunkMissingError, ChunkCorruptError)):
            await bench.holder.get(VAULT, chunk, hint)
        assert bench.keeper.store.quarantined(VAULT) == [chunk.hex()]
        assert await bench.holder.put(VAULT, chunk, sealed)

    async def test_has_and_renew_answer_in_the_order_of_the_question(self, bench: Bench) -> None:
        """Also where one message does not hold it."""
        chunks = [make_chunk(8, seed)[0] for seed in range(wire.IDS_MAX + 500)]
        there = set(chunks[::3])
        for seed in range(0, len(chunks), 3):
            bench.keeper.store.put(VAULT, *make_chunk(8, seed), bench.keeper.now_s - 1000)
        expected = [chunk in there for chunk in chunks]
        assert await bench.holder.has(VAULT, chunks) == expected
        assert await bench.holder.renew(VAULT, chunks) == expected
        assert {stat.touched_s for stat in bench.keeper.store.scan(VAULT)} == {bench.keeper.now_s}
        assert await bench.holder.has(VAULT, []) == []

    async def test_a_yes_to_verify_is_a_lease_on_a_good_copy(self, bench: Bench) -> None:
        chunks = [make_chunk(100, seed)[0] for seed in range(40)]
        for seed in range(40):
            bench.keeper.store.put(VAULT, *make_chunk(100, seed))
        damaged, absent = make_chunk(7)[0], make_chunk(8)[0]
        bench.keeper.store.put(VAULT, damaged, b"other bytes")
        bench.keeper.others.leaving = {chunks[3]}
        asked = [*chunks, damaged, absent]
        answers = await bench.holder.verify(VAULT, asked, "view 1")
        assert answers == [chunk not in {chunks[3], damaged, absent} for chunk in asked]
        assert set(bench.keeper.others.leased) == set(asked) - {chunks[3]}

    async def test_a_holder_of_another_view_verifies_nothing(self, bench: Bench) -> None:
        chunk, sealed = make_chunk(100)
        bench.keeper.store.put(VAULT, chunk, sealed)
        assert await bench.holder.verify(VAULT, [chunk], "view 2") == [False]
        assert bench.keeper.others.leased == []

    @pytest.mark.parametrize("bits", [0, 10, 16])
    async def test_digests_come_whole_with_the_state_of_the_holder(self, bench: Bench, bits: int) -> None:
        bench.keeper.others.is_full = True
        assert await bench.holder.digests(VAULT, bits) == await bench.keeper.others.digests(VAULT, bits)

    @pytest.mark.parametrize("bits", [0, 3, 8, 11])
    async def test_names_of_all_partitions_are_all_names(self, bench: Bench, bits: int) -> None:
        count = wire.IDS_MAX + 1 if bits == 0 else 50
        chunks = sorted(make_chunk(8, seed)[0] for seed in range(count))
        for seed in range(count):
            bench.keeper.store.put(VAULT, *make_chunk(8, seed))
        wanted = {wire.partition_in(chunk, bits) for chunk in chunks}
        found = [await bench.holder.names(VAULT, bits, partition) for partition in sorted(wanted)]
        assert [held.chunk for page in found for held in page] == chunks

    @pytest.mark.parametrize("bits", [0, 3, 8, 11])
    async def test_names_of_many_partitions_come_together_as_an_answer_holds(self, bench: Bench, bits: int) -> None:
        count = wire.IDS_MAX + 1 if bits == 0 else 1_200
        chunks = sorted(make_chunk(8, seed)[0] for seed in range(count))
        for seed in range(count):
            bench.keeper.store.put(VAULT, *make_chunk(8, seed), 5_000.0)
        left = list(range(1 << bits))
        found: list[list[Held]] = []
        while left:
            lists = await bench.holder.names_in(VAULT, bits, left[:PARTITIONS_MAX])
            assert 0 < len(lists) <= PARTITIONS_MAX
            assert [
                {wire.partition_in(held.chunk, bits) for held in names} - {at}
                for at, names in zip(left, lists, strict=False)
            ] == [set()] * len(lists)
            found += lists
            left = left[len(lists) :]
        assert [held.chunk for names in found for held in names] == chunks
        ages = {bench.asker_now() - held.touched_s for names in found for held in names}
        assert max(ages) - min(ages) < 0.01

    async def test_a_partition_of_too_many_chunks_ends_an_answer(self, bench: Bench) -> None:
        few = [chunk for chunk in (make_chunk(8, seed)[0] for seed in range(64)) if chunk[0] < 128]
        for seed in range(2 * wire.IDS_MAX + 200):
            chunk, sealed = make_chunk(8, seed)
            if chunk[0] >= 128 or chunk in few:
                bench.keeper.store.put(VAULT, chunk, sealed)
        (names,) = await bench.holder.names_in(VAULT, 1, [0, 1])
        assert [held.chunk for held in names] == sorted(few)
        (names,) = await bench.holder.names_in(VAULT, 1, [1])
        assert len(names) > wire.IDS_MAX

    async def test_many_chunks_come_together_as_a_batch_holds(self, bench: Bench) -> None:
        made = [make_chunk(100_000, seed) for seed in range(12)]
        for chunk, sealed in made:
            bench.keeper.store.put(VAULT, chunk, sealed)
        asked = [chunk for chunk, _ in made]
        assert await bench.holder.get_many(VAULT, asked) == [sealed for _, sealed in made[:10]]
        assert await bench.holder.get_many(VAULT, asked[10:]) == [sealed for _, sealed in made[10:]]

    @pytest.mark.parametrize("size", [0, 1, BATCH_SIZE, BATCH_SIZE + 16, wire.SEALED_MAX])
    async def test_a_chunk_of_any_size_comes_alone_at_least(self, bench: Bench, size: int) -> None:
        chunk, sealed = make_chunk(size)
        small, small_sealed = make_chunk(9, 1)
        bench.keeper.store.put(VAULT, chunk, sealed)
        bench.keeper.store.put(VAULT, small, small_sealed)
        pieces = await bench.holder.get_many(VAULT, [chunk, small])
        assert pieces == ([sealed, small_sealed] if size < BATCH_SIZE else [sealed])

    async def test_what_is_absent_or_damaged_is_left_out_of_a_batch(self, bench: Bench) -> None:
        good, damaged, absent = make_chunk(9), make_chunk(9, 1)[0], make_chunk(9, 2)[0]
        bench.keeper.store.put(VAULT, *good)
        bench.keeper.store.put(VAULT, damaged, b"other bytes")
        pieces = await bench.holder.get_many(VAULT, [damaged, absent, good[0]])
        assert pieces == [None, None, good[1]]
        assert bench.keeper.damaged == [VAULT]
        assert await bench.holder.get_many(VAULT, [absent]) == [None]

    async def test_a_bad_spot_of_the_disk_is_that_of_one_chunk(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (bad, sealed), good = make_chunk(9), make_chunk(9, 1)
        bench.keeper.store.put(VAULT, bad, sealed)
        bench.keeper.store.put(VAULT, *good)
        get = bench.keeper.store.get

        def read(vault: VaultId, chunk: ChunkId) -> bytes:
            if chunk == bad:
                raise StorageFailedError("the disk does not answer", "look at its cable")
            return get(vault, chunk)

        monkeypatch.setattr(bench.keeper.store, "get", read)
        assert await bench.holder.get_many(VAULT, [bad, good[0]]) == [None, good[1]]

    async def test_an_order_to_collect_is_obeyed_and_answered(self, bench: Bench) -> None:
        marks = b"marks" * 300_000
        assert await bench.holder.collect(VAULT, marks) == (3, 4 << 30)
        assert bench.keeper.others.orders == [marks]


@virtual_time
class TestRefusals:
    @pytest.mark.parametrize("size", [4096, BIG])
    async def test_a_full_node_says_so_and_gives_its_stream_back(self, sides: tuple[Side, Side], size: int) -> None:
        a, b = sides
        b.store.put(VAULT, *make_chunk(CAPACITY - 10))
        remote = a.remote(b)
        for _ in range(150):  # more than a link has places for
            with pytest.raises(CallRefusedError, match="capacity") as met:
                await remote.put(VAULT, *make_chunk(size))
            assert met.value.kind == "StorageFullError"

    @pytest.mark.parametrize("size", [100, BIG])
    async def test_other_bytes_than_the_chunks_are_not_kept(self, sides: tuple[Side, Side], size: int) -> None:
        a, b = sides
        chunk, _ = make_chunk(size)
        with pytest.raises(CallRefusedError) as met:
            await a.remote(b).put(VAULT, chunk, make_chunk(size, seed=1)[1])
        assert met.value.kind == "ChunkCorruptError"
        assert list(b.store.scan(VAULT)) == []

    @pytest.mark.parametrize("size", [100, BIG])
    async def test_a_copy_that_a_peer_finds_damaged_is_told_of_here(self, sides: tuple[Side, Side], size: int) -> None:
        """The peer asks elsewhere; a missing one is no damage."""
        a, b = sides
        chunk, _ = make_chunk(size)
        b.store.put(VAULT, chunk, make_chunk(size, seed=1)[1])
        for _ in range(2):
            with pytest.raises(MeshHoldError):
                await a.remote(b).get(VAULT, chunk, size)
        assert b.damaged == [VAULT]

    async def test_a_stranger_to_the_vault_is_refused_everything(self, sides: tuple[Side, Side]) -> None:
        a, b = sides
        remote, chunk = a.remote(b), make_chunk(1)[0]
        b.store.put(FOREIGN, *make_chunk(1))
        asked: list[Callable[[], Any]] = [
            lambda: remote.put(FOREIGN, *make_chunk(1)),
            lambda: remote.put(FOREIGN, *make_chunk(BIG)),
            lambda: remote.get(FOREIGN, chunk, 1),
            lambda: remote.get(FOREIGN, chunk, BIG),
            lambda: remote.has(FOREIGN, [chunk]),
            lambda: remote.renew(FOREIGN, [chunk]),
            lambda: remote.verify(FOREIGN, [chunk], "view 1"),
            lambda: remote.digests(FOREIGN, 0),
            lambda: remote.names(FOREIGN, 0, 0),
            lambda: remote.names_in(FOREIGN, 0, [0]),
            lambda: remote.get_many(FOREIGN, [chunk]),
            lambda: remote.collect(FOREIGN, b"marks"),
        ]
        for ask in asked:
            with pytest.raises(CallRefusedError) as met:
                await ask()
            assert met.value.kind == "DeniedError"
        assert b.others.orders == []
        assert b.store.has(FOREIGN, chunk)

    async def test_few_batches_are_read_at_once(self, sides: tuple[Side, Side]) -> None:
        """Who asks for much leaves threads to others."""
        a, b = sides
        chunk, sealed = make_chunk(9)
        b.store.put(VAULT, chunk, sealed)
        running = most = 0
        get_many = b.service.local.get_many

        async def read(vault: VaultId, chunks: Sequence[ChunkId]) -> list[bytes | None]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await trio.sleep(1)
            running -= 1
            return await get_many(vault, chunks)

        b.service.local.get_many = read  # type: ignore[method-assign]  # counts those that read
        remote = a.remote(b)
        async with trio.open_nursery() as nursery:
            for _ in range(3 * READING_MAX):
                nursery.start_soon(remote.get_many, VAULT, [chunk])
        assert most == READING_MAX

    async def test_who_is_not_trusted_orders_no_collection(self, sides: tuple[Side, Side]) -> None:
        a, b = sides
        b.others.trusted = False
        with pytest.raises(CallRefusedError, match="not trusted"):
            await a.remote(b).collect(VAULT, b"marks")
        assert b.others.orders == []

    async def test_a_collection_that_is_refused_says_why(self, sides: tuple[Side, Side]) -> None:
        a, b = sides
        b.others.error = ConflictError("the clocks differ")
        b.others.work_s = 100
        with pytest.raises(CallRefusedError, match="the clocks differ") as met:
            await a.remote(b).collect(VAULT, b"marks")
        assert met.value.kind == "ConflictError"

    async def test_a_long_collection_is_waited_for_and_a_second_one_refused(self, sides: tuple[Side, Side]) -> None:
        a, b = sides
        b.others.work_s = 300
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.remote(b).collect, VAULT, b"marks")
            await until(lambda: b.others.orders)
            with pytest.raises(CallRefusedError) as met:
                await a.remote(b).collect(VAULT, b"marks")
            assert met.value.kind == "OverloadedError"
        assert await a.remote(b).collect(VAULT, b"again") == (3, 4 << 30)
        assert b.others.orders == [b"marks", b"again"]

    async def test_marks_that_do_not_travel_are_not_sent(self, sides: tuple[Side, Side]) -> None:
        a, b = sides
        with pytest.raises(TooLargeError):
            await a.remote(b).collect(VAULT, bytes(wire.MARKS_MAX + 1))
        assert b.others.orders == []

    async def test_a_peer_gets_no_more_memory_than_its_share(self, sides: tuple[Side, Side]) -> None:
        """Each of its streams announces what it does not send; the one beyond its share is refused at once."""
        a, b = sides
        body = {"v": VAULT, "c": make_chunk(1)[0], "n": wire.SEALED_MAX}
        async with AsyncExitStack() as stack:
            for _ in range(ROOM_PER_PEER_MAX // wire.SEALED_MAX):
                opened = a.node.peering.open_stream(b.node.node_id, wire.PUT_STREAM, body, timeout_s=5)
                await stack.enter_async_context(opened)
            await until(lambda: any(room.free == 0 for room in b.service._rooms.values()))
            with pytest.raises(CallRefusedError) as met:
                await a.remote(b).put(VAULT, *make_chunk(BIG))
            assert met.value.kind == "OverloadedError"
        await until(lambda: not b.service._rooms)
        await a.remote(b).put(VAULT, *make_chunk(BIG))


CHUNK = make_chunk(100)[0]
BAD_IDS: list[Any] = [b"", bytes(33), bytes(32 * 2001), []]
HOSTILE: list[tuple[str, Any]] = [
    (wire.PUT, None),
    (wire.PUT, {"v": 7}),
    (wire.PUT, {"v": VAULT}),
    (wire.PUT, {"v": VAULT, "c": CHUNK}),
    (wire.PUT, {"v": VAULT, "c": CHUNK[1:], "x": b""}),
    (wire.PUT, {"v": VAULT, "c": CHUNK.hex(), "x": b""}),
    (wire.PUT, {"v": VAULT, "c": CHUNK, "x": bytes(wire.IN_CALL_MAX + 1)}),
    *((wire.PUT, {"v": VAULT, "c": CHUNK, "x": b"", "a": a}) for a in (-1, 1.5, float("nan"), True, "1", 2**63)),
    (wire.GET, {"v": VAULT, "c": b""}),
    *((name, {"v": VAULT, "c": c}) for name in (wire.HAS, wire.RENEW) for c in BAD_IDS),
    (wire.VERIFY, {"v": VAULT, "c": CHUNK}),
    (wire.VERIFY, {"v": VAULT, "c": CHUNK, "w": "w" * 129}),
    (wire.VERIFY, {"v": VAULT, "c": CHUNK * 17, "w": "view 1"}),
    *((wire.DIGESTS, {"v": VAULT, "b": bits, "p": 0}) for bits in (-1, 17, True, 2**64 - 1, None)),
    *((wire.DIGESTS, {"v": VAULT, "b": 10, "p": p}) for p in (-1, 1024, None)),
    *((wire.NAMES, {"v": VAULT, "b": 10, "p": p, "f": b""}) for p in (-1, 1024, True)),
    *((wire.NAMES, {"v": VAULT, "b": 10, "p": 0, "f": f}) for f in (None, b"x", bytes(33))),
]
HOSTILE_STREAMS: list[tuple[str, Any, bytes]] = [
    (wire.PUT_STREAM, {"v": VAULT, "c": CHUNK}, b""),
    (wire.PUT_STREAM, {"v": VAULT, "c": CHUNK, "n": -1}, b""),
    (wire.PUT_STREAM, {"v": VAULT, "c": CHUNK, "n": wire.SEALED_MAX + 1}, b""),
    (wire.PUT_STREAM, {"v": VAULT, "c": CHUNK, "n": 10}, bytes(9)),
    (wire.PUT_STREAM, {"v": VAULT, "c": CHUNK, "n": 10}, bytes(11)),
    (wire.PUT_STREAM, {"v": VAULT, "c": CHUNK, "n": 10, "a": -1}, bytes(10)),
    (wire.GET_STREAM, {"v": VAULT, "c": CHUNK[1:]}, b""),
    (wire.COLLECT_STREAM, {"v": VAULT, "n": wire.MARKS_MAX + 1}, b""),
    (wire.COLLECT_STREAM, {"v": VAULT, "n": 10}, bytes(9)),
]


@virtual_time
class TestHostilePeers:
    @pytest.mark.parametrize(("name", "body"), HOSTILE)
    async def test_a_question_out_of_bounds_is_refused(self, sides: tuple[Side, Side], name: str, body: Any) -> None:
        a, b = sides
        with pytest.raises(CallRefusedError) as met:
            await a.node.peering.call(b.node.node_id, name, body, timeout_s=5)
        assert met.value.kind == "ProtocolError"
        assert list(b.store.scan(VAULT)) == []

    @pytest.mark.parametrize(("name", "body", "data"), HOSTILE_STREAMS)
    async def test_a_stream_out_of_bounds_is_refused(
        self, sides: tuple[Side, Side], name: str, body: Any, data: bytes
    ) -> None:
        a, b = sides
        async with a.node.peering.open_stream(b.node.node_id, name, body, timeout_s=5) as stream:
            with pytest.raises(CallRefusedError) as met:  # noqa: PT012 - the refusal may come at either step
                await stream.send_all(data)
                await stream.send_eof()
                await stream.receive_all(100)
        assert met.value.kind == "ProtocolError"
        assert list(b.store.scan(VAULT)) == []
        assert b.others.orders == []

    async def test_a_sender_that_stands_still_loses_its_place(self, sides: tuple[Side, Side]) -> None:
        a, b = sides
        body = {"v": VAULT, "c": CHUNK, "n": 100}
        async with a.node.peering.open_stream(b.node.node_id, wire.PUT_STREAM, body, timeout_s=5) as stream:
            await stream.send_all(b"half")
            began_s = trio.current_time()
            with pytest.raises(CallTimeoutError):
                await stream.receive_all(100)
            assert trio.current_time() - began_s == pytest.approx(10, abs=0.1)

    async def test_a_sender_of_single_bytes_holds_its_place_for_a_bounded_time(self, sides: tuple[Side, Side]) -> None:
        a, b = sides
        body = {"v": VAULT, "c": CHUNK, "n": 100}
        async with a.node.peering.open_stream(b.node.node_id, wire.PUT_STREAM, body, timeout_s=5) as stream:
            began_s = trio.current_time()
            with pytest.raises(CallTimeoutError):  # noqa: PT012 - it comes at some step
                while True:
                    await stream.send_all(b"x")
                    await trio.sleep(9)
            assert 300 <= trio.current_time() - began_s <= 310

    async def test_a_slow_line_that_goes_on_is_waited_for(self, sides: tuple[Side, Side]) -> None:
        a, b = sides
        chunk, sealed = make_chunk(700)
        body = {"v": VAULT, "c": chunk, "n": len(sealed)}
        async with a.node.peering.open_stream(b.node.node_id, wire.PUT_STREAM, body, timeout_s=5) as stream:
            for at in range(0, len(sealed), 100):
                await stream.send_all(sealed[at : at + 100])
                await trio.sleep(8)
            await stream.send_eof()
            assert await stream.receive_all(1) == b"\x01"
        assert b.store.get(VAULT, chunk) == sealed

    async def test_a_reader_that_takes_nothing_loses_its_place(self, sides: tuple[Side, Side]) -> None:
        a, b = sides
        chunk, sealed = make_chunk(wire.SEALED_MAX)
        b.store.put(VAULT, chunk, sealed)
        body = {"v": VAULT, "c": chunk}
        async with a.node.peering.open_stream(b.node.node_id, wire.GET_STREAM, body, timeout_s=5) as stream:
            await trio.sleep(15)
            assert not b.service._rooms
            with pytest.raises(CallRefusedError):
                await stream.receive_all(wire.SEALED_MAX)
        assert await a.remote(b).get(VAULT, chunk, len(sealed)) == sealed

    async def test_few_chunks_are_read_before_it_is_known_whether_there_is_room(
        self, sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever asks for many at once makes this node hold no more than its room and a few of the largest."""
        a, b = sides
        chunk, sealed = make_chunk(wire.SEALED_MAX)
        b.store.put(VAULT, chunk, sealed)
        get, at_once, most = b.service.local.get, 0, 0

        async def read(vault: VaultId, chunk: ChunkId, size_hint: int) -> bytes:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await trio.sleep(0.1)
            found = await get(vault, chunk, size_hint)
            at_once -= 1
            return found

        monkeypatch.setattr(b.service.local, "get", read)
        outcomes: list[str] = []

        async def ask() -> None:
            body = {"v": VAULT, "c": chunk}
            async with a.node.peering.open_stream(b.node.node_id, wire.GET_STREAM, body, timeout_s=5) as stream:
                try:
                    outcomes.append("" if await stream.receive_all(len(sealed)) == sealed else "other bytes")
                except CallRefusedError as error:
                    outcomes.append(error.kind)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)
        assert most == UNSIZED_MAX // wire.SEALED_MAX
        assert set(outcomes) <= {"", "OverloadedError"}
        assert outcomes.count("") >= most
        assert not b.service._rooms


class Liar:
    """A peer that answers every call with the same."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def call(self, _peer: NodeId, _name: str, _body: Any, *, timeout_s: float) -> Any:
        assert timeout_s > 0
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @asynccontextmanager
    async def open_stream(
        self, _peer: NodeId, _name: str, _body: Any, *, timeout_s: float
    ) -> AsyncIterator[PeerStream]:
        raise PeerUnreachableError(f"no stream within {timeout_s} s")
        yield


def lied_to(*answers: Any) -> RemoteChunks:
    return RemoteChunks(Liar(*answers), NodeId("liar"), now=lambda: 1000.0)


def page(chunks: Sequence[bytes], *, ages: bytes | None = None, is_last: Any = True) -> list[Any]:
    return [b"".join(chunks), bytes(8 * len(chunks)) if ages is None else ages, is_last]


def many(
    lists: Sequence[Sequence[bytes]], *, counts: Sequence[int] | None = None, ages: bytes | None = None
) -> list[Any]:
    joined = b"".join(chunk for chunks in lists for chunk in chunks)
    told = bulk.pack_partitions([len(chunks) for chunks in lists] if counts is None else counts)
    return [told, joined, bytes(len(joined) // 4) if ages is None else ages]


class TestLies:
    @pytest.mark.parametrize("answer", [None, 1, "x", b"", b"\x01\x01", [True]])
    async def test_flags_of_another_form(self, answer: Any) -> None:
        with pytest.raises(ProtocolError):
            await lied_to(answer).has(VAULT, [CHUNK])
        with pytest.raises(ProtocolError):
            await lied_to(answer).put(VAULT, CHUNK, b"")
        with pytest.raises(ProtocolError):
            await lied_to(answer).verify(VAULT, [CHUNK], "view 1")

    async def test_a_flag_that_is_no_yes_is_a_no(self) -> None:
        assert await lied_to(b"\x02").verify(VAULT, [CHUNK], "view 1") == [False]

    async def test_other_bytes_than_those_of_the_chunk(self) -> None:
        with pytest.raises(ChunkCorruptError, match="other bytes"):
            await lied_to(b"other").get(VAULT, CHUNK, 100)
        with pytest.raises(ProtocolError):
            await lied_to(None).get(VAULT, CHUNK, 100)

    @pytest.mark.parametrize(
        "answer", [None, [], ["v", True], ["v" * 129, False, bytes(16)], ["v", 1, bytes(16)], ["v", False, bytes(15)]]
    )
    async def test_digests_of_another_form(self, answer: Any) -> None:
        with pytest.raises(ProtocolError):
            await lied_to(answer).digests(VAULT, 1)

    @pytest.mark.parametrize(
        "answer",
        [
            None,
            [],
            page([bytes(32)], is_last=1),
            page([bytes(31)]),
            page([bytes(32)], ages=bytes(7)),
            page([b"\x01" + bytes(31), bytes(32)]),
            page([bytes(32), bytes(32)]),
            page([b"\xff" + bytes(31)]),
            page([], is_last=False),
            page([at.to_bytes(32, "big") for at in range(2001)]),
        ],
    )
    async def test_names_of_another_form(self, answer: Any) -> None:
        with pytest.raises(ProtocolError):
            await lied_to(answer).names(VAULT, 1, 0)

    async def test_names_that_go_round(self) -> None:
        with pytest.raises(ProtocolError, match="in order"):
            await lied_to(page([bytes(32)], is_last=False)).names(VAULT, 1, 0)

    async def test_names_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire, "NAMES_MAX", 7)
        pages = [
            page([(2 * at + 1).to_bytes(32, "big"), (2 * at + 2).to_bytes(32, "big")], is_last=False) for at in range(4)
        ]
        with pytest.raises(ProtocolError, match="over"):
            await lied_to(*pages).names(VAULT, 1, 0)

    async def test_an_age_beyond_all_time_is_the_oldest(self) -> None:
        ages = struct.pack(">Q", 2**64 - 1)
        assert await lied_to(page([bytes(32)], ages=ages)).names(VAULT, 1, 0) == [Held(ChunkId(bytes(32)), 0.0)]

    @pytest.mark.parametrize(
        "answer",
        [
            None,
            [],
            many([[bytes(32)]])[:2],
            many([[bytes(32)]], counts=[2]),
            many([[bytes(32)]], counts=[0]),
            many([[bytes(32)]], ages=bytes(7)),
            many([[bytes(32)], [b"\xff" * 32], []]),
            many([[b"\xff" * 32]]),
            many([[b"\x01" + bytes(31), bytes(32)]]),
            many([[bytes(32), bytes(32)]]),
            many([[at.to_bytes(32, "big") for at in range(2001)]]),
            [bytes(3), b"", b""],
            [struct.pack(">I", 2**32 - 1), b"", b""],
        ],
    )
    async def test_names_of_partitions_of_another_form(self, answer: Any) -> None:
        with pytest.raises(ProtocolError):
            await lied_to(answer).names_in(VAULT, 1, [0, 1])

    async def test_ages_in_partitions_beyond_all_time_are_the_oldest(self) -> None:
        ages = struct.pack(">Q", 2**64 - 1)
        assert await lied_to(many([[bytes(32)]], ages=ages)).names_in(VAULT, 1, [0, 1]) == [
            [Held(ChunkId(bytes(32)), 0.0)]
        ]

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            bytes(3),
            bytes(4 * 3),
            struct.pack(">I", 5) + b"four",
            struct.pack(">I", 3) + b"four",
            struct.pack(">I", 2**32 - 2),
            struct.pack(">III", 0, 0, 0) + b"x",
        ],
    )
    def test_batches_of_another_form(self, raw: bytes) -> None:
        with pytest.raises(ProtocolError):
            bulk.read_pieces(raw, 2)

    @given(st.lists(st.none() | st.binary(max_size=40), min_size=1, max_size=BATCH_MAX))
    def test_batches_come_as_they_were_sent(self, pieces: list[bytes | None]) -> None:
        assert bulk.read_pieces(bulk.pack_pieces(pieces), BATCH_MAX) == pieces

    @given(st.binary(max_size=60), st.integers(1, 5))
    def test_bytes_of_anybody_are_whole_chunks_or_refused(self, raw: bytes, most: int) -> None:
        try:
            pieces = bulk.read_pieces(raw, most)
        except ProtocolError:
            return
        assert 0 < len(pieces) <= most
        assert bulk.pack_pieces(pieces) == raw

    @pytest.mark.parametrize(
        "packed",
        [
            None,
            0,
            b"",
            bytes(3),
            bytes(4 * 65),
            bulk.pack_partitions([1, 1]),
            bulk.pack_partitions([2, 1]),
            bulk.pack_partitions([8]),
        ],
    )
    def test_questions_that_name_partitions_in_another_form(self, packed: Any) -> None:
        with pytest.raises(ProtocolError):
            bulk.partitions_of({"p": packed}, 3)
        assert bulk.partitions_of({"p": bulk.pack_partitions([0, 3, 7])}, 3) == [0, 3, 7]


@virtual_time
class TestPeersThatStall:
    @asynccontextmanager
    async def _pair(self, handler: Any) -> AsyncIterator[tuple[Node, RemoteChunks]]:
        network = MemoryNetwork(seed=1, latency_s=(0.001, 0.003))
        a, b = Node("a"), Node("b")
        for name in (wire.PUT_STREAM, wire.GET_STREAM, bulk.GET_MANY_STREAM, wire.COLLECT_STREAM):
            b.dispatch.on_stream(name, handler)
        async with a.up(network), b.up(network):
            a.knows(b)
            yield a, RemoteChunks(a.peering, b.node_id)

    async def test_a_peer_that_takes_nothing_and_says_nothing_costs_seconds(self) -> None:
        async def sleep(_peer: NodeId, _body: Any, _stream: PeerStream) -> None:
            await trio.sleep_forever()

        async with self._pair(sleep) as (_, remote):
            chunk, sealed = make_chunk(wire.SEALED_MAX)
            for ask in (
                lambda: remote.put(VAULT, chunk, sealed),
                lambda: remote.get(VAULT, chunk, len(sealed)),
                lambda: remote.get_many(VAULT, [chunk]),
                lambda: remote.collect(VAULT, b"marks"),
            ):
                for _ in range(70):  # more than places: each is given back
                    began_s = trio.current_time()
                    with pytest.raises(CallTimeoutError):
                        await ask()
                    assert trio.current_time() - began_s < 25

    @pytest.mark.parametrize("answer", [b"", b"\x00", b"\x01", b"\x00" * 17 + b"\x02" * 17, b"\x01" * 18])
    async def test_a_report_of_another_form_is_none(self, answer: bytes) -> None:
        async def report(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
            await stream.receive_all(100)
            await stream.send_all(answer)
            await stream.send_eof()

        async with self._pair(report) as (_, remote):
            with pytest.raises(ProtocolError):
                await remote.collect(VAULT, b"marks")

    async def test_signs_of_life_without_end_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote_chunks, "COLLECT_S", 600.0)

        async def work(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
            while True:
                await stream.send_all(wire.WORKING)
                await trio.sleep(5)

        async with self._pair(work) as (_, remote):
            began_s = trio.current_time()
            with pytest.raises(CallTimeoutError):
                await remote.collect(VAULT, b"marks")
            assert 600 <= trio.current_time() - began_s <= 610

    async def test_no_more_is_under_way_than_a_node_takes(self) -> None:
        at_once = most = 0

        async def take(_peer: NodeId, body: Any, stream: PeerStream) -> None:
            nonlocal at_once, most
            at_once += body["n"]
            most = max(most, at_once)
            await stream.receive_all(wire.SEALED_MAX)
            await trio.sleep(1)
            at_once -= body["n"]
            await stream.send_all(b"\x01")
            await stream.send_eof()

        async with self._pair(take) as (_, remote), trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(remote.put, VAULT, *make_chunk(1 << 20))
        assert most == STREAMS_SIZE_MAX

    async def test_who_waits_too_long_behind_others_is_told(self) -> None:
        async def drip(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
            while True:
                await stream.send_all(b"x")
                await trio.sleep(9)

        async with self._pair(drip) as (_, remote):
            met: list[type[Exception]] = []

            async def get() -> None:
                try:
                    await remote.get(VAULT, CHUNK, wire.SEALED_MAX)
                except (CallTimeoutError, OverloadedError) as error:
                    met.append(type(error))

            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(get)
            assert met.count(CallTimeoutError) == 8
            assert met.count(OverloadedError) == 4
