"""Collection in a mesh: everybody's dead chunks go, nobody's live ones, whoever writes where meanwhile."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial, wraps

import pytest
import trio
from tests.unit.collect_lab import BUCKET, VAULT, CollectLab, CollectNode, open_collect_lab
from tests.unit.store_kit import KIB, BytesBody
from trio.testing import MockClock

from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import IntegrityError, MeshHoldError, RefusedError, UnavailableError
from meshhold.model.configuration import Configuration, Mode, Seat
from meshhold.model.entry import Space, decode_entry
from meshhold.model.ids import NodeId
from meshhold.register.rounds import Answer
from meshhold.replication.chunks.walk import Rows, walk_values
from meshhold.replication.collecting.sources import OneReplica, Sources
from meshhold.replication.index.contract import Register

LARGE = bytes(range(256)) * 100
SEEDS = range(16)
WALK = "meshhold.replication.collecting.collector.walk_values"


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test under a clock that jumps while everybody waits, its tasks in an order that is the same each time."""

    @wraps(test)
    def run(*arguments: object, **named: object) -> None:
        trio._core._run._r.seed(1)  # the scheduler's own shuffling
        trio.run(partial(test, *arguments, **named), clock=MockClock(autojump_threshold=0))

    return run


# -- what is done ------------------------------------------------------------------------------------------------------


@virtual
async def test_dead_chunks_go_on_every_member_also_one_without_index() -> None:
    async with open_collect_lab(("a", "b", "c", "d")) as lab:
        await lab["c"].put(b"dead", LARGE)
        await lab["a"].put(b"live", LARGE + b"!")
        await lab["b"].objects.delete(BUCKET, b"dead")
        assert len(lab.stored()) == 2
        await trio.sleep(1001)
        assert await lab["a"].collect() == 2
        assert len(lab.stored()) == 1
        assert await lab["d"].get(b"live") == LARGE + b"!"
        assert {target for _, target in lab.orders} == {"b", "c", "d"}


@virtual
async def test_a_member_without_index_collects_when_asked() -> None:
    async with open_collect_lab(("a", "b", "c", "d")) as lab:
        await lab["a"].put(b"live", LARGE)
        await lab["a"].put(b"dead", LARGE + b"?")
        await lab["a"].objects.delete(BUCKET, b"dead")
        await trio.sleep(1001)
        assert await lab["d"].collect() == 2
        assert await lab["b"].get(b"live") == LARGE


@virtual
async def test_the_first_live_replica_leads() -> None:
    async with open_collect_lab(("a", "b", "c", "d")) as lab:
        assert [node.id for node in lab if node.collector.leads(VAULT)] == ["a"]
        lab.lab.isolate("a")
        assert [node.id for node in lab if node.collector.leads(VAULT)] == ["a", "b"]
        unknown = [node.collector.leads(type(VAULT)("z" * 32)) for node in lab]
        assert unknown == [False] * 4


@virtual
async def test_without_a_quorum_nothing_goes_anywhere() -> None:
    async with open_collect_lab() as lab:
        await lab["a"].put(b"dead", LARGE)
        await lab["a"].objects.delete(BUCKET, b"dead")
        await trio.sleep(5000)
        lab.lab.isolate("a")
        with pytest.raises(UnavailableError):
            await lab["a"].collect()
        assert len(lab.stored()) == 1
        assert lab.orders == []


@virtual
async def test_a_row_that_one_replica_alone_accepted_keeps_its_chunks_since_it_may_come_into_force() -> None:
    async with open_collect_lab() as lab:
        await lab["a"].put(b"key", LARGE)
        register = Register(VAULT, Space.OBJECTS, b"key")
        await trio.sleep(1)  # a quorum was enough: the third replica may hear a moment later
        row = lab["c"].member.index.load(*register)
        assert row is not None
        await lab["a"].objects.delete(BUCKET, b"key")
        await trio.sleep(5000)
        replica, ballot = lab["c"].member.replica, lab["c"].member.clock.tick(lab["c"].member.now_ms())
        assert isinstance(await replica.prepare(1, register, ballot), Answer)
        assert await replica.accept(1, register, ballot, decode_entry(row.entry)) is None
        assert await lab["a"].collect() == 0
        assert await lab["c"].get(b"key") == LARGE


@virtual
async def test_while_a_replica_is_away_nothing_goes() -> None:
    async with open_collect_lab() as lab:
        await lab["a"].put(b"dead", LARGE)
        await lab["a"].objects.delete(BUCKET, b"dead")
        await trio.sleep(5000)
        lab.lab.isolate("c")
        with pytest.raises(UnavailableError):
            await lab["a"].collect()
        lab.lab.heal()
        assert await lab["a"].collect() == 2


@virtual
async def test_a_member_that_is_away_keeps_its_chunks_until_the_next_time() -> None:
    async with open_collect_lab(("a", "b", "c", "d")) as lab:
        await lab["d"].put(b"dead", LARGE)  # on d and a
        await lab["a"].objects.delete(BUCKET, b"dead")
        await trio.sleep(1001)
        lab.lab.isolate("d")
        assert await lab["b"].collect() == 1
        lab.lab.heal()
        assert len(lab.stored()) == 1
        assert await lab["b"].collect() == 1
        assert not lab.stored()


@virtual
async def test_a_change_of_the_replicas_during_the_walk_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_collect_lab() as lab:
        await lab["a"].put(b"dead", LARGE)
        await lab["a"].objects.delete(BUCKET, b"dead")
        await trio.sleep(1001)
        seats = lab["a"].member.seats

        async def changed(*arguments: object) -> AsyncIterator[object]:
            async for row in walk_values(*arguments):  # type: ignore[arg-type]  # handed on as they came
                yield row
            await seats.adopt(VAULT, Configuration(7, tuple(Seat(NodeId(name), 1) for name in "abc")))

        monkeypatch.setattr(WALK, changed)
        with pytest.raises(MeshHoldError):
            await lab["a"].collect()
        assert len(lab.stored()) == 1


@virtual
async def test_where_each_side_goes_on_alone_every_replica_is_read() -> None:
    async with open_collect_lab(("a", "b"), 2, mode=Mode.AVAILABLE) as lab:
        lab.lab.isolate("b")
        await lab["a"].put(b"ours", LARGE)
        await lab["b"].put(b"theirs", LARGE + b"!")
        await trio.sleep(5000)
        with pytest.raises(MeshHoldError):
            await lab["a"].collect()
        lab.lab.heal()
        assert await lab["a"].collect() == 0  # nothing has been merged yet
        assert await lab["b"].get(b"theirs") == LARGE + b"!"
        await lab["b"].objects.delete(BUCKET, b"theirs")
        assert await lab["a"].collect() == 2


@virtual
async def test_a_slow_order_counts_from_when_the_walk_began() -> None:
    """A put while the order is on its way is young enough, however long that takes."""
    async with open_collect_lab(grace_s=100.0) as lab:
        lab.order_delay_s = 20.0
        await lab["c"].put(b"old", LARGE)
        await lab["a"].objects.delete(BUCKET, b"old")
        await trio.sleep(95)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lab["a"].collect)
            await trio.lowlevel.checkpoint()
        assert len(lab.stored()) == 1


@virtual
async def test_clocks_that_differ_change_nothing() -> None:
    async with open_collect_lab(grace_s=10_000.0) as lab:
        lab["b"].skew_s, lab["c"].skew_s = 500.0, -500.0
        await lab["b"].put(b"dead", LARGE)  # on b and c
        await lab["a"].objects.delete(BUCKET, b"dead")
        await trio.sleep(9_999)
        assert await lab["a"].collect() == 0
        await trio.sleep(2)
        assert await lab["a"].collect() == 2


@virtual
async def test_a_member_whose_clock_is_wrong_keeps_everything() -> None:
    async with open_collect_lab(grace_s=4_000.0) as lab:
        await lab["b"].put(b"dead", LARGE)
        await lab["a"].objects.delete(BUCKET, b"dead")
        lab["b"].skew_s = 100_000.0
        await trio.sleep(4_001)
        assert await lab["a"].collect() == 1  # on c
        assert len(lab.stored()) == 1


# -- whatever happens meanwhile ----------------------------------------------------------------------------------------


class Play:
    """Clients of several nodes, links that break, and collections, in an order that a seed gives."""

    def __init__(self, lab: CollectLab, seed: int) -> None:
        self.lab = lab
        self.chance = random.Random(seed)
        self.expected: dict[bytes, set[bytes]] = {}

    def node(self) -> CollectNode:
        return self.lab[self.chance.choice("abc")]

    async def client(self, number: int) -> None:
        for step in range(6):
            key = b"%d-%d" % (number, self.chance.randrange(3))
            content = bytes([self.chance.randrange(3)]) * (20 * KIB + self.chance.randrange(2))
            acts = (self.put, self.put_slowly, self.copy, self.multipart, self.delete)
            act = self.chance.choice(acts)
            before = self.expected.get(key, set())
            self.expected[key] = before | {content, b"" if act == self.delete else content}
            with suppress(MeshHoldError):
                await act(key, content)
            await trio.sleep(self.chance.random() * 150 * (step % 2))

    async def put(self, key: bytes, content: bytes) -> None:
        await self.node().put(key, content)

    async def put_slowly(self, key: bytes, content: bytes) -> None:
        async def pause(_: int) -> None:
            await trio.sleep(self.chance.random() * 4)

        await self.node().put(key, content, BytesBody(content, 8 * KIB, before=pause))

    async def copy(self, key: bytes, content: bytes) -> None:
        node = self.node()
        source = key + b"-source"
        await node.put(source, content)
        await trio.sleep(self.chance.choice((0, 130)))
        node = self.node()
        version = await node.objects.find(BUCKET, source)
        await node.objects.copy(BUCKET, source, version, BUCKET, key, None)
        await node.objects.delete(BUCKET, source)

    async def multipart(self, key: bytes, content: bytes) -> None:
        upload_id, claims = await self.node().upload(key, content)
        await trio.sleep(self.chance.choice((0, 130)))
        await self.node().complete(key, upload_id, claims)

    async def delete(self, key: bytes, _content: bytes) -> None:
        await self.node().objects.delete(BUCKET, key)

    async def collector(self) -> None:
        while True:
            await trio.sleep(self.chance.random() * 40)
            with suppress(MeshHoldError):
                await self.node().collect(self.chance.randrange(2**32))

    async def trouble(self) -> None:
        while True:
            await trio.sleep(self.chance.random() * 60)
            self.lab.lab.isolate(self.chance.choice("abc"))
            await trio.sleep(self.chance.random() * 20)
            self.lab.lab.heal()

    async def damage(self) -> list[bytes]:
        """Return the keys whose object cannot be read as one of those that were put."""
        wrong = []
        self.lab.lab.heal()
        for key in sorted(self.expected):
            try:
                content = await self.lab["a"].get(key)
            except RefusedError:
                continue
            except MeshHoldError:
                wrong.append(key)
                continue
            if content not in self.expected[key]:
                wrong.append(key)
        return wrong


async def play(seed: int) -> list[bytes]:
    async with open_collect_lab(grace_s=100.0, seed=seed) as lab:
        lab.drag(0.3)
        game = Play(lab, seed)
        async with trio.open_nursery() as nursery:
            for each in (game.collector, game.collector, game.trouble):
                nursery.start_soon(each)
            async with trio.open_nursery() as clients:
                for number in range(3):
                    clients.start_soon(game.client, number)
            nursery.cancel_scope.cancel()
        lab.lab.heal()
        await trio.sleep(300)
        await lab["b"].collect()
        return await game.damage()


@pytest.fixture
def slow_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshhold.replication.chunks.walk.PAGE", 1)


@pytest.mark.usefixtures("slow_walk")
@pytest.mark.parametrize("seed", SEEDS[:4])
@virtual
async def test_no_live_chunk_is_collected(seed: int) -> None:
    assert await play(seed) == []


def ignore_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take uploads in progress for nothing."""

    async def skipping(rows: Rows, keys: VaultKeys, space: Space) -> AsyncIterator[object]:
        if space is not Space.PARTS:
            async for found in walk_values(rows, keys, space):
                yield found

    monkeypatch.setattr(WALK, skipping)


def objects_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Miss what moves from parts to objects at both places."""
    swapped = {Space.PARTS: Space.OBJECTS, Space.OBJECTS: Space.PARTS}

    def swapping(rows: Rows, keys: VaultKeys, space: Space) -> object:
        return walk_values(rows, keys, swapped.get(space, space))

    monkeypatch.setattr(WALK, swapping)


def own_replica_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe a replica that missed a write."""

    def one(sources: Sources) -> list[Rows]:
        registers = sources._registers
        node = registers.seats.node
        return [OneReplica(node, registers.replica(node), sources.epoch)]

    monkeypatch.setattr(Sources, "all", one)


async def complete_while_collecting() -> list[int]:
    """Complete an old upload at each moment of a collection; return those after which the object is damaged."""
    damaged = []
    for after_s in range(6):
        async with open_collect_lab(grace_s=100.0) as lab:
            for key in b"alnpqrstuvwxyz":  # between the object in its space and its part in another
                await lab["a"].put(bytes([key]), b"in its entry")
                await lab["a"].upload(bytes([key]), b"in its entry")
            upload_id, claims = await lab["b"].upload(b"k", LARGE)
            await trio.sleep(200)
            lab.drag(0.3)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lab["a"].collect)
                await trio.sleep(after_s)
                await lab["c"].complete(b"k", upload_id, claims)
            try:
                assert await lab["b"].get(b"k") == LARGE
            except IntegrityError:
                damaged.append(after_s)
    return damaged


@pytest.mark.usefixtures("slow_walk")
@virtual
async def test_a_completion_at_any_moment_keeps_its_parts() -> None:
    assert await complete_while_collecting() == []


@pytest.mark.usefixtures("slow_walk")
@pytest.mark.parametrize("plant", [ignore_parts, objects_first])
@virtual
async def test_bugs_about_uploads_are_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert await complete_while_collecting()


@pytest.mark.usefixtures("slow_walk")
@virtual
async def test_a_walk_of_the_own_replica_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    own_replica_only(monkeypatch)
    for seed in SEEDS:
        if await play(seed):
            return
    pytest.fail(f"it was not found in {len(SEEDS)} seeds")
