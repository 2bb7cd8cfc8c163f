"""What membership keeps up to date instead of counting anew is what counting anew would give."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgpack
import pytest
from tests.simulation.membership_world import World, member_of, node_id, sign_as

from meshhold.membership.member import INCARNATION_MAX, State
from meshhold.membership.messages import BUCKETS, Ack, Dead, Gossip, Message, Ping, Suspect, encode_rumor, size_bytes
from meshhold.membership.roster import Entry, Roster, bucket_of
from meshhold.membership.suspicion import Suspicion, Suspicions

SIGNED = [[member_of(number, life).signed(sign_as(node_id(number))) for life in (1, 2)] for number in range(12)]


def marks_of(entries: Sequence[Entry]) -> list[int]:
    marks = [0] * BUCKETS
    for entry in entries:
        marks[bucket_of(entry.member.node)] ^= entry.member.mark
    return marks


@pytest.mark.parametrize("seed", range(5))
def test_a_roster_s_lists_are_those_of_its_entries(seed: int) -> None:
    rng = random.Random(seed)
    roster = Roster(node_id(0))
    for step in range(300):
        number = rng.randrange(12)
        if rng.random() < 0.15:
            roster.drop(node_id(number))
        else:
            roster.put(Entry(rng.choice(SIGNED[number]), rng.choice(list(State)), float(step)))
        entries = list(roster)
        living = [entry for entry in entries if entry.is_live]
        assert roster.live == sorted(entry.member.node for entry in living if entry.member.node != node_id(0))
        assert roster.marks == marks_of(living)
        for gone, state in ((roster.dead, State.DEAD), (roster.left, State.LEFT)):
            named = [entry for entry in entries if entry.state is state]
            assert list(gone.values()) == sorted(named, key=lambda entry: entry.since_s)
        found = [entry for part in roster.in_buckets(range(BUCKETS)).values() for entry in part]
        assert len(found) == len(entries) == len(roster)
        assert all(entry in found for entry in entries)


def test_a_roster_forgets_who_is_gone_for_long() -> None:
    roster = Roster(node_id(0))
    for number, state in enumerate((State.DEAD, State.LEFT, State.ALIVE, State.DEAD, State.LEFT)):
        roster.put(Entry(SIGNED[number][0], state, float(number)))
    roster.forget(3.0)
    assert {entry.member.node for entry in roster} == {node_id(2), node_id(3), node_id(4)}


@pytest.mark.parametrize("seed", range(5))
def test_the_next_end_of_a_suspicion_is_the_earliest_of_all(seed: int) -> None:
    rng = random.Random(seed)
    suspicions = Suspicions()
    expected: dict[str, Suspicion] = {}
    for step in range(400):
        now_s = step / 10
        node = node_id(rng.randrange(12))
        known = suspicions.get(node)
        match rng.randrange(6):
            case 0 | 1 if known is None:
                expected[node] = Suspicion(now_s, wanted=2, min_s=3.0, max_s=20.0)
                suspicions.begin(node, expected[node])
            case 2 if known is not None:
                suspicions.accuse(node, known, [node_id(rng.randrange(20, 30))])
            case 3:
                suspicions.close(node)
                expected.pop(node, None)
            case 4 if rng.random() < 0.1:
                suspicions.postpone(1.5)
        overdue = [node for node, each in expected.items() if each.deadline_s <= now_s]
        overdue.sort(key=lambda node: (expected[node].deadline_s, node))
        assert suspicions.close_overdue(now_s) == overdue
        for gone in overdue:
            del expected[gone]
        assert set(suspicions) == set(expected)
        assert suspicions.due_s == min((each.deadline_s for each in expected.values()), default=float("inf"))


def test_suspicions_that_come_and_go_leave_nothing_behind() -> None:
    suspicions = Suspicions()
    for step in range(2_000):
        suspicions.begin(node_id(1), Suspicion(float(step), wanted=0, min_s=1e6, max_s=1e6))
        suspicions.close(node_id(1))
    assert len(suspicions._deadlines) < 100


@pytest.mark.parametrize("incarnation", [0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, INCARNATION_MAX])
def test_the_size_of_an_accusation_is_that_of_its_wire_form(incarnation: int) -> None:
    for count in range(1, 9):
        accusation = Suspect(node_id(1), incarnation, tuple(map(node_id, range(2, 2 + count))))
        assert size_bytes(accusation) == len(msgpack.packb(encode_rumor(accusation)))
    verdict = Dead(node_id(1), incarnation, node_id(2))
    assert size_bytes(verdict) == len(msgpack.packb(encode_rumor(verdict)))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 40])
def test_the_simulation_weighs_messages_as_they_are(count: int) -> None:
    rumors = tuple(SIGNED[number % 12][0] for number in range(count))
    messages: list[Message] = [Ping(2**31, rumors), Ack(2**31, rumors), Gossip(rumors)]
    world = World(1, seed=1, weigh=True)
    assert [world._size_of(message) for message in messages] == [size_bytes(message) for message in messages]
