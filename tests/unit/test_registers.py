"""Reads and changes through one real replica on the in-memory index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from tests.unit.store_kit import nobody_else

from meshhold.errors import (
    ContentionError,
    NoMajorityError,
    PreconditionFailedError,
    StorageFullError,
    UnavailableError,
    UnknownOutcomeError,
)
from meshhold.index.contract import Counts, Index, Listed
from meshhold.index.sqlite import SqliteIndex, open_index
from meshhold.model.entry import ANCESTORS_KEPT, Checksums, Entry, ObjectVersion, Space, Upload, Value, decode_entry
from meshhold.model.ids import NodeId, OpId, VaultId
from meshhold.model.stamp import COUNTER_BITS, Clock, Stamp
from meshhold.register.acceptor import HORIZON_STEP_MS, WINDOW_MS, Skewed, Stale
from meshhold.register.lineage import succeed
from meshhold.register.rounds import Answer
from meshhold.replication.index.contract import Refusal, Register
from meshhold.replication.index.registers import KEEP, Change, Registers, Write
from meshhold.replication.index.replica import LocalReplica
from meshhold.replication.index.seats import Seats

VAULT = VaultId("a" * 32)
NODE = b"own-node"
NODE_ID = NodeId("own")
PEER = b"peernode"
KEY = b"photo.jpg"
NAME = Register(VAULT, Space.OBJECTS, KEY)


class Wall:
    """A wall clock that tests set."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


class Node:
    """A replica and its registers over one index; made again, it is a restarted node."""

    def __init__(self, index: Index, wall: Wall, sleep: Callable[[float], Awaitable[object]] = trio.sleep) -> None:
        self.clock = Clock(NODE)
        self.seats = Seats(NODE_ID, index)
        self.replica = LocalReplica(index, self.seats, self.clock, wall, node=NODE)
        self.registers = Registers(
            self.replica,
            self.seats,
            nobody_else,
            self.clock,
            wall,
            sleep=sleep,
            chance=lambda: 1.0,
            deadline_s=2.0,
        )

    async def put(self, key: bytes, text: str = "x") -> None:
        await self.registers.change(VAULT, Space.OBJECTS, key, lambda _: Write(version(text)))

    async def delete(self, key: bytes) -> None:
        await self.registers.change(VAULT, Space.OBJECTS, key, lambda _: Write(None))


async def listed(node: Node) -> list[Listed]:
    return await node.registers.open_reading(VAULT).rows(b"", b"", 9)


def version(text: str) -> ObjectVersion:
    return ObjectVersion(len(text), text, 1, text.encode(), checksums=Checksums(values={"CRC32": "AAAAAA=="}))


def only_if_absent(current: Value | None) -> Change:
    if current is not None:
        raise PreconditionFailedError("it exists", "If-None-Match")
    return Write(version("created"))


@pytest.fixture
async def index() -> AsyncIterator[SqliteIndex]:
    async with open_index(None) as opened:
        await Seats(NODE_ID, opened).found(VAULT)
        yield opened


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def node(index: SqliteIndex, wall: Wall) -> Node:
    return Node(index, wall)


async def test_a_change_is_read_back_with_its_entry_before_and_after(node: Node) -> None:
    first = await node.registers.change(VAULT, Space.OBJECTS, KEY, lambda _: Write(version("one")))
    second = await node.registers.change(VAULT, Space.OBJECTS, KEY, lambda _: Write(version("two")))
    assert first.before is None
    assert second.before == first.after
    assert second.after is not None
    assert first.after is not None
    assert (second.after.generation, second.after.ancestors) == (2, (first.after.op,))
    assert await node.registers.read(VAULT, Space.OBJECTS, KEY) == second.after
    assert await listed(node) == [Listed(KEY, 3, "two", 1, "CRC32:FULL_OBJECT")]
    assert await node.registers.counts(VAULT) == Counts(1, 3)


async def test_a_register_never_written_reads_as_none_and_a_tombstone_as_an_entry(node: Node) -> None:
    assert await node.registers.read(VAULT, Space.OBJECTS, KEY) is None
    await node.put(KEY)
    await node.delete(KEY)
    entry = await node.registers.read(VAULT, Space.OBJECTS, KEY)
    assert entry is not None
    assert entry.value is None
    assert await listed(node) == []
    assert [key for key, _ in await node.registers.scan(VAULT, Space.OBJECTS, b"", b"", 9)] == [KEY]


async def test_deleting_what_is_not_there_writes_nothing(node: Node) -> None:
    changed = await node.registers.change(VAULT, Space.OBJECTS, KEY, lambda _: Write(None))
    assert changed == (None, None)
    assert await node.registers.scan(VAULT, Space.OBJECTS, b"", b"", 9) == []
    await node.put(KEY)
    await node.delete(KEY)
    again = await node.registers.change(VAULT, Space.OBJECTS, KEY, lambda _: Write(None))
    assert again.before == again.after
    assert again.after is not None
    assert again.after.generation == 2


async def test_keep_leaves_the_register_as_it_is(node: Node) -> None:
    await node.put(KEY)
    before = await node.registers.read(VAULT, Space.OBJECTS, KEY)
    assert await node.registers.change(VAULT, Space.OBJECTS, KEY, lambda _: KEEP) == (before, before)


async def test_a_failed_condition_writes_nothing_and_gives_the_turn_back(node: Node) -> None:
    await node.put(KEY, "first")
    with pytest.raises(PreconditionFailedError):
        await node.registers.change(VAULT, Space.OBJECTS, KEY, only_if_absent)
    await node.put(KEY, "second")
    entry = await node.registers.read(VAULT, Space.OBJECTS, KEY)
    assert entry is not None
    assert (entry.value, entry.generation) == (version("second"), 2)


async def test_of_many_creators_exactly_one_wins(node: Node) -> None:
    outcomes: list[bool] = []

    async def create() -> None:
        try:
            await node.registers.change(VAULT, Space.OBJECTS, KEY, only_if_absent)
            outcomes.append(True)
        except PreconditionFailedError:
            outcomes.append(False)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(create)
    assert sorted(outcomes) == [False] * 19 + [True]


async def test_uploads_and_parts_are_not_listed(node: Node) -> None:
    await node.registers.change(VAULT, Space.UPLOADS, KEY, lambda _: Write(Upload(1, "someone")))
    assert await listed(node) == []
    assert await node.registers.counts(VAULT) == Counts(0, 0)


async def test_dropping_a_vault_empties_it(node: Node) -> None:
    await node.put(KEY)
    await node.registers.drop_vault(VAULT)
    with pytest.raises(NoMajorityError):
        await node.registers.read(VAULT, Space.OBJECTS, KEY)
    await node.seats.found(VAULT)
    assert await node.registers.read(VAULT, Space.OBJECTS, KEY) is None


# -- restarts and clocks -----------------------------------------------------------------------------------------------


async def test_a_restarted_node_writes_at_once_though_its_clock_was_set_back(
    index: SqliteIndex, wall: Wall, node: Node
) -> None:
    await node.put(KEY, "before")
    wall.ms -= 100 * WINDOW_MS
    restarted = Node(index, wall, sleep=_never_sleeps)
    await restarted.put(KEY, "after")
    entry = await restarted.registers.read(VAULT, Space.OBJECTS, KEY)
    assert entry is not None
    assert entry.value == version("after")


async def test_a_restarted_replica_keeps_the_promises_it_forgot(index: SqliteIndex, wall: Wall, node: Node) -> None:
    promised = Stamp(wall.ms + 50 << COUNTER_BITS, PEER)
    assert isinstance(await node.replica.prepare(1, NAME, promised), Answer)
    restarted = Node(index, wall)
    older = Stamp(wall.ms + 40 << COUNTER_BITS, PEER)
    assert isinstance(await restarted.replica.accept(1, NAME, older, Entry(OpId(bytes(16)), None)), Stale)


async def test_the_horizon_costs_one_commit_per_step(
    index: SqliteIndex, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    save_setting = index.save_setting

    async def counted(name: str, value: bytes) -> None:
        saved.append(name)
        await save_setting(name, value)

    monkeypatch.setattr(index, "save_setting", counted)
    node = Node(index, wall)
    for _ in range(10):
        wall.ms += HORIZON_STEP_MS // 8
        await node.put(KEY)
    assert len(saved) == 2


async def test_another_nodes_ballot_outside_the_window_names_its_clock(wall: Wall, node: Node) -> None:
    far = Stamp(wall.ms + 2 * WINDOW_MS << COUNTER_BITS, PEER)
    assert await node.replica.prepare(1, NAME, far) == Skewed(PEER, 2 * WINDOW_MS)


async def test_a_round_waits_for_the_entry_that_is_being_saved(
    index: SqliteIndex, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(index, wall)
    await node.put(b"other")  # extends the horizon
    disk = trio.Event()
    save = index.save

    async def slow(*arguments: Any, **facts: Any) -> None:
        await disk.wait()
        await save(*arguments, **facts)

    monkeypatch.setattr(index, "save", slow)
    answers: list[object] = []

    async def prepare() -> None:
        answers.append(await node.replica.prepare(1, NAME, Stamp(wall.ms + 50 << COUNTER_BITS, PEER)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.put, KEY, "saved")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(prepare)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        disk.set()
    assert isinstance(answers[0], Answer)
    assert answers[0].entry is not None
    assert decode_entry(answers[0].entry).value == version("saved")


async def test_a_cancelled_change_that_was_being_saved_is_there_and_frees_the_key(node: Node) -> None:
    with trio.CancelScope() as scope:

        def decide(_: Value | None) -> Change:
            scope.cancel()
            return Write(version("cancelled"))

        await node.registers.change(VAULT, Space.OBJECTS, KEY, decide)
    with pytest.raises(PreconditionFailedError):
        await node.registers.change(VAULT, Space.OBJECTS, KEY, only_if_absent)


# -- others are faster -------------------------------------------------------------------------------------------------


class Rival:
    """Another node that writes into the replica between a prepare and its accept."""

    def __init__(self, node: Node, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node = node
        self.wall = wall
        self.clock = Clock(PEER)
        self.sleeps: list[float] = []
        self.on_accept: list[Callable[[Stamp, Entry], Awaitable[Stale | Skewed | None]]] = []
        self.accept = node.replica.accept
        monkeypatch.setattr(node.replica, "accept", self._accept)

    async def _accept(self, epoch: int, name: Register, ballot: Stamp, entry: Entry) -> Refusal | None:
        if self.on_accept:
            return await self.on_accept.pop(0)(ballot, entry)
        return await self.accept(epoch, name, ballot, entry)

    async def write(self, text: str, times: int = 1) -> Stamp:
        ballot = self.clock.tick(self.wall.ms + 1)
        for number in range(times):
            answer = await self.node.replica.prepare(1, NAME, ballot)
            while isinstance(answer, Stale):
                self.clock.observe(answer.ballot)
                ballot = self.clock.tick(self.wall.ms)
                answer = await self.node.replica.prepare(1, NAME, ballot)
            assert isinstance(answer, Answer)
            current = decode_entry(answer.entry) if answer.entry else None
            op = OpId(b"rival" + b"%011d" % (number + ballot.time % 10**6))
            assert await self.accept(1, NAME, ballot, succeed(current, op, version(text))) is None
        return ballot

    async def overtakes(self, _ballot: Stamp, _entry: Entry) -> Stale:
        """Write before the accept arrives: it is refused and has no effect."""
        return Stale(await self.write("rival"))

    async def builds_on_it(self, ballot: Stamp, entry: Entry) -> Stale:
        """Let the accept take effect, write on top of it, and lose the answer."""
        assert await self.accept(1, NAME, ballot, entry) is None
        return Stale(await self.write("rival"))

    async def buries_it(self, ballot: Stamp, entry: Entry) -> Stale:
        assert await self.accept(1, NAME, ballot, entry) is None
        return Stale(await self.write("rival", times=ANCESTORS_KEPT + 2))


@pytest.fixture
def rival(node: Node, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> Rival:
    return Rival(node, wall, monkeypatch)


async def test_an_overtaken_change_is_decided_again_on_the_new_value(node: Node, rival: Rival) -> None:
    rival.on_accept = [rival.overtakes]
    with pytest.raises(PreconditionFailedError):
        await node.registers.change(VAULT, Space.OBJECTS, KEY, only_if_absent)
    entry = await node.registers.read(VAULT, Space.OBJECTS, KEY)
    assert entry is not None
    assert (entry.value, entry.generation) == (version("rival"), 1)


async def test_a_change_that_took_effect_unnoticed_is_not_done_twice(node: Node, rival: Rival) -> None:
    rival.on_accept = [rival.builds_on_it]
    changed = await node.registers.change(VAULT, Space.OBJECTS, KEY, only_if_absent)
    assert changed.after is not None
    assert changed.after.value == version("created")
    entry = await node.registers.read(VAULT, Space.OBJECTS, KEY)
    assert entry is not None
    assert (entry.value, entry.generation) == (version("rival"), 2)


async def test_a_change_overtaken_too_often_has_an_unknown_outcome(node: Node, rival: Rival) -> None:
    rival.on_accept = [rival.buries_it]
    with pytest.raises(UnknownOutcomeError, match=r"photo\.jpg"):
        await node.registers.change(VAULT, Space.OBJECTS, KEY, lambda _: Write(version("x")))


async def test_endless_contention_ends_at_the_deadline_with_growing_pauses(
    index: SqliteIndex,
    wall: Wall,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - pytest-trio finds the clock by the argument
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await trio.sleep(seconds)

    node = Node(index, wall, sleep)

    async def always_stale(_epoch: int, _name: Register, ballot: Stamp, _known: Stamp) -> Stale:
        return Stale(ballot)

    monkeypatch.setattr(node.replica, "prepare", always_stale)
    with pytest.raises(ContentionError, match="nothing was written"):
        await node.put(KEY)
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.5


async def test_a_change_in_flight_at_the_deadline_has_an_unknown_outcome(
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - pytest-trio finds the clock by the argument
) -> None:
    async def always_stale(_epoch: int, _name: Register, ballot: Stamp, _entry: Entry) -> Stale:
        return Stale(ballot)

    monkeypatch.setattr(node.replica, "accept", always_stale)
    with pytest.raises(UnknownOutcomeError):
        await node.put(KEY)


async def test_a_replica_that_finds_our_clock_wrong_is_quoted(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def skewed(*_: object) -> Skewed:
        return Skewed(NODE, -700_000)

    monkeypatch.setattr(node.replica, "prepare", skewed)
    with pytest.raises(UnavailableError, match="700 s behind"):
        await node.put(KEY)


async def test_a_full_disk_fails_the_change_and_the_next_one_works(
    index: SqliteIndex, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object, **__: object) -> None:
        raise StorageFullError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(index, "save", full)
        await node.replica.prepare(1, Register(VAULT, Space.OBJECTS, b"horizon"), node.clock.tick(1))
        with pytest.raises(StorageFullError):
            await node.put(KEY)
    assert await node.registers.read(VAULT, Space.OBJECTS, KEY) is None
    await node.put(KEY)
    assert await node.registers.counts(VAULT) == Counts(1, 1)


async def _never_sleeps(_: float) -> None:
    pytest.fail("no pause is needed")
