"""Several acceptors and proposers in pure code, under random schedules: nothing chosen is ever lost or done twice.

Each change appends its own label to the register's history, so the histories of chosen entries tell all: in ballot
order each one must begin with the one before. Bugs planted in the rules must be found by the same checks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from meshhold.model.entry import Entry, Upload
from meshhold.model.ids import NodeId, OpId
from meshhold.model.stamp import ZERO, Clock, Stamp
from meshhold.register.acceptor import Acceptor, NeedHorizon, Promised, Skewed, Stale, Take, Taken
from meshhold.register.lineage import Outcome, outcome, succeed
from meshhold.register.rounds import Answer, judge

NAME = "key"
START_MS = 1_700_000_000_000
History = tuple[str, ...]


class ViolationError(AssertionError):
    """A promise to users was broken."""


@dataclass
class Member:
    """One replica: what a crash keeps, and the acceptor that it loses."""

    number: int
    bugs: frozenset[str]
    accepted: Stamp = ZERO
    entry: Entry | None = None
    horizon: Stamp = ZERO
    acceptor: Acceptor = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        horizon = ZERO if "forgets promises" in self.bugs else self.horizon
        self.acceptor = Acceptor(b"member%02d" % self.number, horizon, promises_max=2)
        if "forgets promises" in self.bugs:
            self.acceptor.extend(self.horizon)

    def crowd(self, other: str, ballot: Stamp, now_ms: int) -> None:
        """Promise for another register, so that this one's promise may be evicted."""
        decision = self.acceptor.prepare(other, ballot, ZERO, now_ms)
        if isinstance(decision, NeedHorizon):
            self.extend(decision)
            self.acceptor.prepare(other, ballot, ZERO, now_ms)
        if "evicts without floor" in self.bugs:
            self.acceptor._floor = ZERO

    def extend(self, need: NeedHorizon) -> None:
        self.horizon = need.until
        self.acceptor.extend(need.until)

    def prepare(self, ballot: Stamp, now_ms: int) -> tuple[Stamp, Entry | None] | Stale:
        while True:
            decision = self.acceptor.prepare(NAME, ballot, self.accepted, now_ms)
            match decision:
                case NeedHorizon():
                    self.extend(decision)
                case Promised():
                    return self.accepted, self.entry
                case Stale():
                    return decision
                case Skewed():
                    raise ViolationError("clocks in this model are within the window")

    def accept(self, ballot: Stamp, entry: Entry, now_ms: int) -> bool | Stale:
        while True:
            decision = self.acceptor.accept(NAME, ballot, self.accepted, now_ms)
            match decision:
                case NeedHorizon():
                    self.extend(decision)
                case Take():
                    self.accepted, self.entry = ballot, entry
                    self.acceptor.release(NAME, ballot)
                    return True
                case Taken():
                    return True
                case Stale() if "takes late messages" in self.bugs and ballot > self.accepted:
                    self.accepted, self.entry = ballot, entry
                    return True
                case Stale():
                    return decision
                case Skewed():
                    raise ViolationError("clocks in this model are within the window")


Call = Callable[[Member], object]
Client = Generator[Call, list[Any], None]


def history_of(entry: Entry | None) -> History:
    if entry is None:
        return ()
    assert isinstance(entry.value, Upload)
    return tuple(entry.value.initiator.split())


class World:
    """A schedule drawn from one seed, with the checks."""

    def __init__(self, seed: int, bugs: frozenset[str] = frozenset()) -> None:
        self.random = random.Random(seed)
        self.bugs = bugs
        self.members = [Member(number, bugs) for number in range(self.random.choice([3, 3, 5]))]
        self.majority = len(self.members) // 2 + 1
        self.now_ms = START_MS
        self.holders: dict[Stamp, set[int]] = {}
        self.entries: dict[Stamp, Entry] = {}
        self.chosen: dict[Stamp, History] = {}
        self.acknowledged: list[History] = []
        self.drop = self.random.choice([0.0, 0.1, 0.3])
        self.crash = self.random.choice([0.0, 0.02])

    # -- clients -------------------------------------------------------------------------------------------------------

    def client(self, number: int) -> Client:
        clock = Clock(b"client%02d" % number)
        skew_ms = self.random.randrange(-3_000, 3_000)
        for turn in range(4):
            yield from self.operation(f"{number}.{turn}", clock, skew_ms, writes=self.random.random() < 0.6)

    def operation(self, label: str, clock: Clock, skew_ms: int, *, writes: bool) -> Client:
        op, base, sent = OpId(label.encode().rjust(16)), 0, False
        before = list(self.acknowledged)
        for _ in range(5):
            ballot = clock.tick(self.now_ms + skew_ms)
            answers = yield partial(self.ask, ballot)
            promises = [answer for answer in answers if isinstance(answer, tuple) and not isinstance(answer, Stale)]
            for stale in answers:
                if isinstance(stale, Stale):
                    clock.observe(stale.ballot)
            seen = judge(
                {NodeId(str(at)): Answer(stamp, stamp.pack()) for at, (stamp, _) in enumerate(promises)},
                lambda nodes: len(nodes) >= self.majority,
            )
            if seen is None:
                continue
            current = self.entries.get(seen.highest.accepted)
            verdict = outcome(current, op, base) if sent else Outcome.NOT_YET
            if verdict is Outcome.UNKNOWN:
                return
            if writes and (verdict is Outcome.NOT_YET or "ignores lineage" in self.bugs):
                history = (*history_of(current), label)
                entry = succeed(current, op, Upload(0, " ".join(history)))
                base = base if sent else entry.generation - 1
                sent = True
            elif current is None:
                return
            else:
                entry = current
            reliable = seen.chosen or "trusts a minority" in self.bugs
            if entry is not current or not reliable:
                answers = yield partial(self.take, ballot, entry)
                if sum(answer is True for answer in answers) < self.majority:
                    continue
            self.acknowledge(before, history_of(entry), label if writes else None)
            return

    def ask(self, ballot: Stamp, member: Member) -> tuple[Stamp, Entry | None] | Stale:
        return member.prepare(ballot, self.now_ms)

    def take(self, ballot: Stamp, entry: Entry, member: Member) -> bool | Stale:
        answer = member.accept(ballot, entry, self.now_ms)
        if answer is True:
            self.entries[ballot] = entry
            self.holders.setdefault(ballot, set()).add(member.number)
            if len(self.holders[ballot]) >= self.majority:
                self.chosen[ballot] = history_of(entry)
        return answer

    # -- checks --------------------------------------------------------------------------------------------------------

    def acknowledge(self, before: list[History], seen: History, label: str | None) -> None:
        for earlier in before:
            if seen[: len(earlier)] != earlier:
                raise ViolationError(f"acknowledged {earlier} is missing from {seen}")
        if label is not None and label not in seen:
            raise ViolationError(f"{label} was acknowledged and is not in {seen}")
        if not any(history[: len(seen)] == seen for history in self.chosen.values()):
            raise ViolationError(f"{seen} was acknowledged and never chosen")
        self.acknowledged.append(seen)

    def check(self) -> None:
        last: History = ()
        for _, history in sorted(self.chosen.items()):
            if history[: len(last)] != last:
                raise ViolationError(f"chosen {last} was lost: {history} was chosen after it")
            if len(set(history)) != len(history):
                raise ViolationError(f"a change took effect twice: {history}")
            last = history

    # -- the schedule --------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run to the end; return how many operations were acknowledged."""
        clients = [self.client(number) for number in range(3)]
        answers: dict[int, list[tuple[int, object]]] = {}
        waiting: dict[int, int] = {}  # client → messages that are still under way
        pool: list[tuple[int, int, Member, Call]] = []
        rounds = dict.fromkeys(range(len(clients)), 0)

        def advance(number: int, given: list[object] | None) -> None:
            rounds[number] += 1
            try:
                call = next(clients[number]) if given is None else clients[number].send(given)
            except StopIteration:
                waiting.pop(number, None)
                return
            answers[number], waiting[number] = [], len(self.members)
            for member in self.members:
                copies = 2 if self.random.random() < 0.1 else 1
                pool.extend((number, rounds[number], member, call) for _ in range(copies))

        for number in range(len(clients)):
            advance(number, None)
        while waiting:
            self.now_ms += self.random.randrange(200)
            self.disturb()
            if pool and self.random.random() < 0.9:
                number, sent_in, member, call = pool.pop(self.random.randrange(len(pool)))
                if self.random.random() < self.drop:
                    continue
                answer = call(member)
                if sent_in == rounds[number] and self.random.random() >= self.drop:
                    answers[number].append((member.number, answer))
            else:
                number = self.random.choice(sorted(waiting))
                given = dict(answers[number])
                if len(given) >= self.majority or self.random.random() < 0.2:
                    advance(number, list(given.values()))
        self.check()
        return len(self.acknowledged)

    def disturb(self) -> None:
        member = self.random.choice(self.members)
        if self.random.random() < self.crash:
            member.restart()
        if self.random.random() < 0.05:
            member.crowd(f"other {self.random.randrange(9)}", Clock(b"stranger").tick(self.now_ms), self.now_ms)


def test_no_schedule_loses_or_repeats_a_chosen_change() -> None:
    acknowledged = sum(World(seed).run() for seed in range(150))
    assert acknowledged > 150 * 3, "the schedules must let operations through for the checks to mean something"


@pytest.mark.parametrize(
    "bug",
    ["forgets promises", "evicts without floor", "takes late messages", "ignores lineage", "trusts a minority"],
)
def test_a_planted_bug_is_found(bug: str) -> None:
    for seed in range(4_000):
        try:
            World(seed, frozenset({bug})).run()
        except ViolationError:
            return
    pytest.fail(f"no schedule shows the bug: {bug}")
