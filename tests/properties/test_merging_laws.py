"""Replicas that go on alone, with writes and messages in any order: equal in the end, and nothing unseen is lost."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.replica_lab import version
from tests.unit.store_kit import run_inline

from meshhold.index.contract import Name, Row
from meshhold.index.sqlite import SqliteIndex, open_index
from meshhold.model.configuration import Mode, found_configuration
from meshhold.model.entry import Entry, ObjectVersion, Space, decode_entry, encode_entry
from meshhold.model.ids import NodeId, OpId, VaultId
from meshhold.model.stamp import Clock, Stamp
from meshhold.register.lineage import succeed
from meshhold.replication.index.contract import Register
from meshhold.replication.index.merging import merge, split_conflict_key
from meshhold.replication.index.replica import LocalReplica, Wrote
from meshhold.replication.index.seats import Seats

VAULT = VaultId("v" * 32)
NAMES = [NodeId("a"), NodeId("b"), NodeId("c")]
ALONE = replace(found_configuration(NAMES), mode=Mode.AVAILABLE)
KEYS = (b"k", b"l")
NODE = st.integers(0, 2)
WRITE = st.tuples(st.just("write"), NODE, st.sampled_from(KEYS))
DELETE = st.tuples(st.just("delete"), NODE, st.sampled_from(KEYS))
OVERWRITE = st.tuples(st.just("overwrite"), NODE, st.sampled_from(KEYS))  # more often than an entry remembers
DELIVER = st.tuples(st.just("deliver"), NODE, st.integers(0, 1_000))
COMPARE = st.tuples(st.just("compare"), NODE, NODE)
RESTART = st.tuples(st.just("restart"), NODE, st.just(0))
STEPS = st.lists(WRITE | WRITE | DELETE | OVERWRITE | DELIVER | DELIVER | COMPARE | RESTART, max_size=24)


class Side:
    """One replica, with a clock that is wrong by some seconds."""

    def __init__(self, number: int, index: SqliteIndex, world: World) -> None:
        self.number = number
        self.index = index
        self.world = world
        self.start()

    def start(self) -> None:
        """Begin with what is durable."""
        node = NAMES[self.number].encode() * 8
        self.seats = Seats(NAMES[self.number], self.index)
        self.replica = LocalReplica(self.index, self.seats, Clock(node), self.now_ms, node=node)

    def now_ms(self) -> int:
        """Return the time by this side's clock."""
        return self.world.ms + self.number * 7_000

    def all_rows(self) -> dict[Name, Row]:
        """Return every row by its name."""
        return {
            Name(space, key, row.accepted): row
            for space in (Space.OBJECTS, Space.CONFLICTS)
            for key, row in self.index.scan(VAULT, space, b"", b"", 1_000)
        }


class World:
    """Three sides, the messages that may arrive late, twice and in any order, and what was acknowledged."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000
        self.sides: list[Side] = []
        self.sent: list[tuple[bytes, Stamp, Entry]] = []
        self.acknowledged: dict[OpId, tuple[bytes, Entry]] = {}
        self.before: dict[OpId, set[OpId]] = {}

    async def write(self, side: Side, key: bytes, *, deletes: bool = False) -> None:
        """Change a key on one side alone."""

        def follow(current: Entry | None, ballot: Stamp) -> Entry:
            return succeed(current, OpId(ballot.pack()), None if deletes else version(f"{len(self.acknowledged)}"))

        wrote = await side.replica.write_alone(1, Register(VAULT, Space.OBJECTS, key), follow)
        assert isinstance(wrote, Wrote)
        assert wrote.holds
        assert wrote.after is not None
        self.acknowledged[wrote.after.op] = key, wrote.after
        seen = set() if wrote.before is None else {wrote.before.op, *self.before.get(wrote.before.op, ())}
        self.before[wrote.after.op] = seen
        self.sent.append((key, wrote.ballot, wrote.after))

    async def compare(self, one: Side, other: Side) -> None:
        """Let one side take all that the other one holds."""
        await one.replica.take_copies(VAULT, [(name, row, True) for name, row in other.all_rows().items()])

    async def step(self, what: str, at: int, where: bytes | int) -> None:
        """Do one thing."""
        self.ms += 3_000
        side = self.sides[at]
        if what == "deliver" and self.sent:
            key, ballot, entry = self.sent[int(where) % len(self.sent)]
            await side.replica.merge(1, Register(VAULT, Space.OBJECTS, key), ballot, entry)
        elif what == "compare" and where != at:
            await self.compare(side, self.sides[int(where)])
        elif what == "restart":
            side.start()
        elif isinstance(where, bytes):
            for _ in range(18 if what == "overwrite" else 1):
                await self.write(side, where, deletes=what == "delete")

    def check(self) -> None:
        """Check the laws, once everybody has compared with everybody."""
        first, *others = (side.all_rows() for side in self.sides)
        assert all(other == first for other in others)
        followed = set().union(*self.before.values())
        unseen = {op for op, (_, entry) in self.acknowledged.items() if entry.value is not None and op not in followed}
        assert unseen <= {decode_entry(row.entry).op for row in first.values()}
        for name, row in first.items():
            entry = decode_entry(row.entry)
            key = name.key if name.space is Space.OBJECTS else split_conflict_key(name.key)[0]
            assert self.acknowledged[entry.op] == (key, entry)
            if name.space is Space.CONFLICTS:
                assert split_conflict_key(name.key)[1] == entry.op
                assert isinstance(entry.value, ObjectVersion)
        for key in KEYS:
            ballots = [ballot for each, ballot, _ in self.sent if each == key]
            current = [name.accepted for name in first if name.space is Space.OBJECTS and name.key == key]
            assert current == ([max(ballots)] if ballots else [])


async def play(steps: list[tuple[str, int, bytes | int]]) -> None:
    world = World()
    async with AsyncExitStack() as stack:
        for number in range(3):
            index = await stack.enter_async_context(open_index(None, run_blocking=run_inline))
            world.sides.append(side := Side(number, index, world))
            await side.seats.adopt(VAULT, ALONE)
            await side.seats.enrol(VAULT, 1)
        for step in steps:
            await world.step(*step)
        for _ in range(2):
            for one in world.sides:
                for other in world.sides:
                    await world.compare(one, other)
        world.check()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_sides_end_equal_and_nothing_that_nobody_saw_is_lost(steps: list[tuple[str, int, bytes | int]]) -> None:
    trio.run(play, steps)


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    """Rows of one register, each built on nothing or on some earlier one."""
    entries: list[Entry] = []
    for number in range(draw(st.integers(1, 6))):
        base = draw(st.sampled_from([None, *entries]))
        value = draw(st.sampled_from([None, version(f"{number}")]))
        entries.append(succeed(base, OpId(b"%016d" % number), value))
    return [Row(Stamp(number, b"nodenode"), encode_entry(entry)) for number, entry in enumerate(entries)]


@given(histories(), st.randoms(use_true_random=False))
def test_what_stays_does_not_depend_on_the_order(history: list[Row], chance: object) -> None:
    """Nor on how often a row comes; and what is lost is never what stays, nor on the way to it."""
    shuffle = getattr(chance, "shuffle")  # noqa: B009 - hypothesis' random has no public type
    arrivals = [*history, *history]
    shuffle(arrivals)
    current: Row | None = None
    for arrival in arrivals:
        current, lost = merge(current, arrival)
        winner = decode_entry(current.entry)
        assert lost is None or (lost.op != winner.op and lost.op not in winner.ancestors)
    assert current == history[-1]
