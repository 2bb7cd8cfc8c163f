"""The small islands of membership: awareness, suspicion, rumors, the order of probes, the roster."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tests.simulation.membership_world import member_of, node_id, sign_as

from meshhold.membership.awareness import Awareness
from meshhold.membership.detector import ProbeOrder
from meshhold.membership.member import State
from meshhold.membership.messages import NEWS_SIZE_BYTES_MAX, RUMORS_MAX, News, Suspect, size_bytes
from meshhold.membership.roster import Entry, Roster
from meshhold.membership.rumors import TAKEN_MAX, Rumors
from meshhold.membership.settings import Settings
from meshhold.membership.suspicion import Suspicion
from meshhold.model.ids import NodeId


def news(number: int, size: int = 10) -> News:
    return News("registry", number.to_bytes(16), bytes(size))


def roster_of(size: int) -> Roster:
    roster = Roster(node_id(0))
    for number in range(size):
        member = member_of(number, 5).signed(sign_as(node_id(number)))
        roster.put(Entry(member, State.ALIVE, 0.0))
    return roster


def test_awareness_stays_within_its_bounds() -> None:
    awareness = Awareness(8)
    found = []
    for delta in (0, -1, 1, 10, -1, -10):
        awareness.apply(delta)
        found.append(awareness.multiplier)
    assert found == [1, 1, 2, 8, 7, 1]


def test_suspicion_shrinks_with_each_new_accuser_as_the_formula_says() -> None:
    suspicion = Suspicion(100.0, wanted=3, min_s=2.0, max_s=30.0)
    deadlines = []
    for accuser in ("first", "second", "third", "fourth", "fifth"):
        suspicion.accuse([NodeId(accuser)])
        deadlines.append(round(suspicion.deadline_s - 100, 2))
    assert deadlines == [30.0, 16.0, 7.81, 2.0, 2.0]


def test_suspicion_counts_each_accuser_once() -> None:
    suspicion = Suspicion(0.0, wanted=3, min_s=2.0, max_s=30.0)
    assert suspicion.accuse([NodeId("a"), NodeId("b")])
    assert not suspicion.accuse([NodeId("b"), NodeId("a")])
    assert suspicion.confirmations == 1


def test_suspicion_without_others_to_confirm_is_short_from_the_start() -> None:
    assert Suspicion(0.0, wanted=0, min_s=4.0, max_s=24.0).deadline_s == 4.0


@pytest.mark.parametrize(("members", "seconds"), [(1, 4.0), (10, 4.0), (20, 5.204), (100, 8.0), (2000, 13.204)])
def test_suspicion_grows_with_the_logarithm_of_the_mesh(members: int, seconds: float) -> None:
    assert Settings().suspicion_min_s(members) == pytest.approx(seconds, abs=0.001)


@pytest.mark.parametrize(("members", "sends"), [(1, 8), (5, 12), (20, 16), (100, 20), (2000, 28)])
def test_rumors_are_repeated_with_the_logarithm_of_the_mesh(members: int, sends: int) -> None:
    assert Settings().sends_max(members) == sends


def test_rumors_sent_least_often_go_first_and_end() -> None:
    rumors = Rumors()
    rumors.add(news(1))
    room = size_bytes(news(1))
    assert rumors.take(room, 3) == (news(1),)
    rumors.add(news(2))
    assert rumors.take(room, 3) == (news(2),)
    taken = [rumors.take(room, 3) for _ in range(5)]
    assert taken == [(news(1),), (news(2),), (news(1),), (news(2),), ()]
    assert len(rumors) == 0


def test_rumors_fill_the_room_and_skip_what_is_too_large() -> None:
    rumors = Rumors()
    for each in (news(1, 500), news(2, 900), news(3, 100)):
        rumors.add(each)
    assert set(rumors.take(800, 8)) == {news(1, 500), news(3, 100)}


def test_rumors_about_one_member_replace_each_other() -> None:
    rumors = Rumors()
    rumors.add(member_of(1, 5))
    rumors.add(Suspect(node_id(1), 5, (node_id(2),)))
    assert rumors.take(10_000, 8) == (Suspect(node_id(1), 5, (node_id(2),)),)


def accusation(number: int) -> Suspect:
    return Suspect(node_id(number), 5, (node_id(number + 1),))


def test_news_are_told_though_newer_accusations_never_end() -> None:
    """A mesh that loses many messages accuses more than its messages hold; each accusation is newer than the news."""
    rumors = Rumors()
    rumors.add(news(1))
    found = []
    for turn in range(20):
        for number in range(10):
            rumors.add(accusation(10 * turn + number))
        taken = rumors.take(1024, 8)
        found.append(news(1) in taken)
        assert any(isinstance(each, Suspect) for each in taken)
    assert found == [True] * 8 + [False] * 12


def test_an_accusation_is_told_though_newer_news_never_end() -> None:
    rumors = Rumors()
    rumors.add(accusation(1))
    found = []
    for turn in range(10):
        for number in range(20):
            rumors.add(news(20 * turn + number, 40))
        found.append(accusation(1) in rumors.take(1024, 8))
    assert found == [True] * 8 + [False] * 2


def test_room_that_one_kind_of_rumor_does_not_need_is_the_others() -> None:
    rumors = Rumors()
    for number in range(40):
        rumors.add(news(number))
    alone = len(rumors.take(1024, 8))
    assert alone == 1024 // size_bytes(news(0))
    rumors.add(accusation(1))
    assert len(rumors.take(1024, 8)) == alone // 2 + 1
    few = Rumors()
    few.add(news(1))
    for number in range(40):
        few.add(accusation(number))
    assert len(few.take(1024, 8)) == 1 + (1024 - size_bytes(news(1))) // size_bytes(accusation(1))


def test_both_kinds_of_rumors_together_leave_places_in_a_message() -> None:
    rumors = Rumors()
    for number in range(RUMORS_MAX):
        rumors.add(news(number))
        rumors.add(accusation(number))
    taken = rumors.take(10**6, 8)
    assert len(taken) == TAKEN_MAX
    assert sum(isinstance(each, Suspect) for each in taken) == TAKEN_MAX // 2


def test_rumors_are_bounded_and_those_most_sent_give_way() -> None:
    rumors = Rumors(queue_max=2)
    rumors.add(news(1))
    rumors.take(10_000, 8)
    rumors.add(news(2))
    rumors.add(news(3))
    assert set(rumors.take(10_000, 8)) == {news(2), news(3)}


def test_the_largest_news_fit_into_gossip_and_leave_probes_in_one_packet() -> None:
    settings = Settings()
    assert size_bytes(news(1, NEWS_SIZE_BYTES_MAX)) < settings.gossip_size_bytes_max
    assert settings.piggyback_size_bytes_max < 1400


def test_each_round_probes_everybody_once() -> None:
    roster = roster_of(12)
    order = ProbeOrder(random.Random(1))
    for _ in range(3):
        assert sorted(str(order.next(roster)) for _ in range(11)) == roster.live


def test_rounds_differ_in_order() -> None:
    roster = roster_of(12)
    order = ProbeOrder(random.Random(1))
    assert [order.next(roster) for _ in range(11)] != [order.next(roster) for _ in range(11)]


def test_the_dead_are_not_probed_and_an_empty_mesh_has_no_probe() -> None:
    roster = roster_of(3)
    order = ProbeOrder(random.Random(1))
    entry = roster.get(node_id(1))
    assert entry is not None
    roster.put(replace(entry, state=State.DEAD))
    assert {order.next(roster) for _ in range(6)} == {node_id(2)}
    roster.drop(node_id(2))
    assert order.next(roster) is None


def test_everybody_is_somebodys_neighbour() -> None:
    everyone = {node_id(number) for number in range(12)}
    watched = set()
    for me in everyone:
        roster = Roster(me)
        for number in range(12):
            roster.put(Entry(member_of(number, 5), State.ALIVE, 0.0))
        watched.add(roster.neighbour())
    assert watched == everyone


def test_the_digest_is_that_of_the_living_whatever_the_history() -> None:
    roster, other = roster_of(6), roster_of(5)
    roster.drop(node_id(5))
    assert roster.marks == other.marks
    entry = roster.get(node_id(4))
    assert entry is not None
    roster.put(replace(entry, state=State.SUSPECT))
    assert roster.marks == other.marks
    roster.put(replace(entry, state=State.DEAD))
    other.drop(node_id(4))
    assert roster.marks == other.marks
    assert (list(roster.dead), len(roster.live)) == ([node_id(4)], 3)


def test_a_sample_holds_different_living_members_and_not_the_excluded_one() -> None:
    roster = roster_of(6)
    entry = roster.get(node_id(1))
    assert entry is not None
    roster.put(replace(entry, state=State.SUSPECT))
    for seed in range(50):
        drawn = roster.sample(3, random.Random(seed), without=node_id(2))
        assert len(set(drawn)) == 3
        assert set(drawn) <= {node_id(3), node_id(4), node_id(5)}
