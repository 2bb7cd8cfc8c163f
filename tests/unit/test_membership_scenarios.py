"""One node's membership, told this and that: the scenarios that every SWIM must get right, by name."""

from __future__ import annotations

import random
from dataclasses import replace

from tests.simulation.membership_world import member_of, node_id, sign_as, verify
from tests.unit.membership_lab import ME, SETTINGS, Lab, changes, dead, sent, stated, suspect, told_to

from meshhold.membership.machine import Membership
from meshhold.membership.member import INCARNATION_MAX, State, first_incarnation
from meshhold.membership.messages import (
    Action,
    Bucket,
    Conflict,
    Gossip,
    Ping,
    Raised,
    Refused,
    Send,
    Suspect,
)
from meshhold.membership.roster import bucket_of

# -- alive ----------------------------------------------------------------------------------------------------------


def test_alive_new_node() -> None:
    lab = Lab()
    assert changes(lab.hear(stated(1))) == [(None, State.ALIVE)]
    assert lab.state(1) is State.ALIVE


def test_alive_replay_changes_nothing_and_is_not_repeated() -> None:
    lab = Lab([1])
    lab.wait(10, answering=[1])
    assert not lab.it.has_rumors
    assert changes(lab.hear(stated(1))) == []
    assert changes(lab.hear(stated(1, incarnation=4))) == []
    assert not lab.it.has_rumors


def test_alive_of_a_higher_incarnation_clears_a_suspicion() -> None:
    lab = Lab([1, 2])
    lab.hear(suspect(1))
    assert lab.state(1) is State.SUSPECT
    assert changes(lab.hear(stated(1, incarnation=6))) == [(State.SUSPECT, State.ALIVE)]
    assert lab.it.accusers(node_id(1)) == ()


def test_alive_of_the_same_incarnation_does_not_clear_a_suspicion() -> None:
    lab = Lab([1, 2])
    lab.hear(suspect(1))
    lab.hear(stated(1))
    assert lab.state(1) is State.SUSPECT


def test_alive_with_other_attributes_updates_the_entry() -> None:
    lab = Lab([1])
    moved = replace(member_of(1, 6, 1), zone="cellar", addresses=("10.9.9.9:7777",)).signed(sign_as(node_id(1)))
    assert changes(lab.hear(moved)) == [(State.ALIVE, State.ALIVE)]
    entry = lab.it.entry(node_id(1))
    assert entry is not None
    assert entry.member.zone == "cellar"


def test_alive_that_its_owner_did_not_sign_is_refused_and_named() -> None:
    lab = Lab([1])
    forged = replace(stated(1, incarnation=6), capacity=1)
    assert lab.hear(forged, sender=2)[0] == Refused(node_id(2), "a member's statement is not signed by that member")
    assert lab.incarnation(1) == 5


def test_alive_beyond_the_largest_roster_is_refused() -> None:
    me = member_of(ME, 5, 1)
    it = Membership(me, replace(SETTINGS, roster_max=2), random.Random(1), sign_as(me.node), verify)
    it.start(0.0)
    it.handle(Gossip((stated(1),)), node_id(1), 0.0)
    actions = it.handle(Gossip((stated(2),)), node_id(1), 0.0)
    assert Refused(node_id(1), "more than 2 members") in actions
    assert it.entry(node_id(2)) is None


# -- suspect --------------------------------------------------------------------------------------------------------


def test_suspect_of_an_unknown_node_is_ignored() -> None:
    lab = Lab()
    assert changes(lab.hear(suspect(1))) == []


def test_suspect_marks_and_is_repeated() -> None:
    lab = Lab([1, 2, 3, 4])
    assert changes(lab.hear(suspect(1))) == [(State.ALIVE, State.SUSPECT)]
    spread = [rumor for _, message in sent(lab.wait(1), Gossip) for rumor in message.rumors]  # type: ignore[union-attr] # only Gossip is left
    assert suspect(1) in spread


def test_suspect_twice_by_one_accuser_confirms_nothing() -> None:
    lab = Lab([1, 2, 3, 4])
    lab.hear(suspect(1, 5, 2))
    lab.hear(suspect(1, 5, 2))
    assert lab.it.accusers(node_id(1)) == (node_id(2),)


def test_suspect_of_an_old_incarnation_is_ignored_and_its_sender_corrected() -> None:
    lab = Lab([1])
    lab.hear(newer := stated(1, incarnation=6))
    actions = lab.hear(suspect(1, 5), sender=2)
    assert lab.state(1) is State.ALIVE
    assert newer in told_to(actions, 2)


def test_suspect_of_an_incarnation_that_nobody_stated_counts_as_one_of_the_known() -> None:
    lab = Lab([1, 2])
    lab.hear(suspect(1, INCARNATION_MAX))
    assert (lab.state(1), lab.incarnation(1)) == (State.SUSPECT, 5)
    lab.hear(stated(1, incarnation=6))
    assert lab.state(1) is State.ALIVE


def test_suspect_refute() -> None:
    lab = Lab([1])
    actions = lab.hear(suspect(ME), sender=1)
    assert Raised(6) in actions
    assert lab.it.me.incarnation == 6
    assert lab.it.me in told_to(actions, 1)
    assert lab.it.awareness.score == 1


def test_suspect_of_me_with_an_old_incarnation_is_answered_without_a_new_one() -> None:
    lab = Lab([1])
    actions = lab.hear(suspect(ME, 4), sender=1)
    assert lab.it.me in told_to(actions, 1)
    assert lab.it.me.incarnation == 5


def test_suspect_of_me_with_the_largest_incarnation_does_not_drag_me_there() -> None:
    lab = Lab([1])
    lab.hear(suspect(ME, INCARNATION_MAX), sender=1)
    assert lab.it.me.incarnation == 5


def test_suspect_that_nobody_confirms_dies_late_and_confirmed_ones_early() -> None:
    def seconds_to_death(*accusers: int) -> float:
        lab = Lab(range(1, 6))
        lab.hear(suspect(1, 5, *accusers))
        start_s = lab.now_s
        while lab.state(1) is State.SUSPECT:
            lab.wait(0.1, answering=range(2, 6))
        return lab.now_s - start_s

    shortest_s = SETTINGS.suspicion_min_s(6)
    assert shortest_s <= seconds_to_death(2, 3, 4) < shortest_s + 0.2
    assert seconds_to_death(2) < 3 * shortest_s, "this node's own failed probe confirms"


def test_suspect_ping_carries_the_accusation_so_that_it_can_be_refuted() -> None:
    lab = Lab([1, 2])
    lab.hear(suspect(1, 5, 2))
    pings = [message for to, message in sent(lab.wait(2), Ping) if to == node_id(1)]
    assert pings
    assert all(suspect(1, 5, 2).node in {r.node for r in m.rumors if isinstance(r, Suspect)} for m in pings)  # type: ignore[union-attr] # only Ping is left


# -- dead -----------------------------------------------------------------------------------------------------------


def test_dead_of_an_unknown_node_is_ignored() -> None:
    lab = Lab()
    assert changes(lab.hear(dead(1))) == []


def test_dead_is_taken_and_repeated() -> None:
    lab = Lab([1, 2, 3])
    assert changes(lab.hear(dead(1))) == [(State.ALIVE, State.DEAD)]
    assert any(dead(1) in told_to([action], number) for action in lab.wait(1) for number in (2, 3))


def test_dead_twice_changes_nothing() -> None:
    lab = Lab([1])
    lab.hear(dead(1))
    assert changes(lab.hear(dead(1, accuser=2))) == []


def test_dead_of_an_old_incarnation_is_ignored() -> None:
    lab = Lab([1])
    lab.hear(stated(1, incarnation=6))
    lab.hear(dead(1, 5))
    assert lab.state(1) is State.ALIVE


def test_dead_then_alive_replay_of_the_same_incarnation_stays_dead() -> None:
    lab = Lab([1])
    lab.hear(dead(1))
    lab.hear(stated(1))
    assert lab.state(1) is State.DEAD


def test_dead_then_suspect_stays_dead() -> None:
    lab = Lab([1])
    lab.hear(dead(1))
    assert changes(lab.hear(suspect(1))) == []


def test_dead_refute() -> None:
    lab = Lab([1])
    actions = lab.hear(dead(ME), sender=1)
    assert lab.state(ME) is State.ALIVE
    assert lab.it.me.incarnation == 6
    assert lab.it.me in told_to(actions, 1)


def test_dead_that_calls_is_told_and_returns_by_its_refutation() -> None:
    lab = Lab([1])
    lab.hear(dead(1))
    told = told_to(lab.get(Ping(7), sender=1), 1)
    assert dead(1, accuser=ME) in told
    assert changes(lab.hear(stated(1, incarnation=6), sender=1)) == [(State.DEAD, State.ALIVE)]


def test_dead_is_tried_again_and_again() -> None:
    lab = Lab([1])
    lab.hear(dead(1))
    calls = [told_to([action], 1) for action in lab.wait(30) if isinstance(action, Send) and action.to == node_id(1)]
    assert len(calls) >= 5
    assert all(dead(1, accuser=ME) in call for call in calls)


def test_dead_is_forgotten_in_the_end() -> None:
    lab = Lab([1])
    lab.hear(dead(1))
    lab.now_s += SETTINGS.forget_s + 1
    lab.wait(2 * SETTINGS.revive_interval_s)
    assert lab.state(1) is None


# -- leaving --------------------------------------------------------------------------------------------------------


def test_leave_is_told_to_others_at_once_and_goes_quiet() -> None:
    lab = Lab([1, 2, 3])
    actions = lab.it.leave(lab.now_s)
    assert lab.it.me.left
    assert any(lab.it.me in told_to(actions, number) for number in (1, 2, 3))
    lab.wait(10)
    assert not lab.it.has_rumors
    assert not sent(lab.wait(10), Ping)


def test_leave_of_another_is_final_until_it_returns() -> None:
    lab = Lab([1])
    assert changes(lab.hear(stated(1, 6, left=True))) == [(State.ALIVE, State.LEFT)]
    lab.hear(suspect(1, 6), dead(1, 6))
    assert lab.state(1) is State.LEFT
    assert changes(lab.hear(stated(1, 7, life=2))) == [(State.LEFT, State.ALIVE)]


def test_leave_replay_does_not_remove_who_returned() -> None:
    lab = Lab([1])
    lab.hear(farewell := stated(1, 6, left=True))
    lab.hear(stated(1, 7, life=2))
    assert changes(lab.hear(farewell)) == []
    assert lab.state(1) is State.ALIVE


def test_alive_replay_does_not_bring_back_who_left() -> None:
    lab = Lab([1])
    lab.hear(stated(1, 6, left=True))
    lab.hear(stated(1))
    assert lab.state(1) is State.LEFT


def test_leave_said_by_another_is_refused() -> None:
    lab = Lab([1])
    forged = replace(member_of(1, 6, 1), left=True).signed(sign_as(node_id(2)))
    lab.hear(forged, sender=2)
    assert lab.state(1) is State.ALIVE


def test_a_leaving_node_does_not_refute() -> None:
    lab = Lab([1])
    lab.it.leave(lab.now_s)
    lab.hear(dead(ME, lab.it.me.incarnation), sender=1)
    assert lab.it.me.incarnation == 6


# -- restarts and copies --------------------------------------------------------------------------------------------


def test_a_restart_begins_above_its_earlier_lives() -> None:
    assert first_incarnation(stored=7, wall_ms=1_700_000_000_000) == 1_700_000_000_000
    assert first_incarnation(stored=1_700_000_000_000, wall_ms=5) == 1_700_000_000_001
    assert first_incarnation(stored=INCARNATION_MAX, wall_ms=5) == INCARNATION_MAX


def test_a_restart_that_fell_behind_rises_above_what_others_show_it() -> None:
    lab = Lab([1])
    lab.hear(stated(ME, 50, life=99), sender=1)
    assert lab.it.me.incarnation == 51
    lab.hear(stated(ME, 60, life=98, left=True), sender=1)
    assert (lab.it.me.incarnation, lab.it.me.left) == (61, False)


def test_a_restart_while_held_alive_is_no_conflict() -> None:
    lab = Lab([1])
    actions = lab.hear(stated(1, 6, life=2))
    assert not [each for each in actions if isinstance(each, Conflict)]


def test_conflict_seen_by_others_when_a_replaced_life_returns() -> None:
    lab = Lab([1])
    lab.hear(stated(1, 6, life=2))
    actions = lab.hear(stated(1, 7, life=1))
    assert Conflict(stated(1, 6, life=2), stated(1, 7, life=1)) in actions


def test_conflict_within_one_incarnation_is_kept_alike_by_all() -> None:
    one, other = stated(1, 5, life=1), stated(1, 5, life=2)
    kept = []
    for order in ((one, other), (other, one)):
        lab = Lab()
        actions = lab.hear(*order)
        entry = lab.it.entry(node_id(1))
        assert entry is not None
        kept.append(entry.member)
        assert len([each for each in actions if isinstance(each, Conflict)]) == (entry.member is order[1])
    assert kept[0] == kept[1]


def test_conflict_of_two_nodes_with_one_id_is_noticed_by_both_and_does_not_escalate() -> None:
    lab = Lab([1])
    seen: list[Action] = []
    for _ in range(100):  # the copy refutes whatever this node says
        seen += lab.hear(stated(ME, lab.it.me.incarnation + 1, life=99), sender=1)
    assert len([each for each in seen if isinstance(each, Conflict)]) == 1
    assert len([each for each in seen if isinstance(each, Raised)]) == 2


def test_ones_own_id_reflected_is_refused() -> None:
    lab = Lab([1])
    assert lab.get(Ping(1), sender=ME) == [Refused(node_id(ME), "a message comes from this node's own id")]


# -- banning --------------------------------------------------------------------------------------------------------


def test_banned_is_out_and_neither_speaks_nor_is_spoken_of() -> None:
    lab = Lab([1, 2])
    assert changes(lab.it.ban(node_id(1))) == [(State.ALIVE, State.LEFT)]
    assert lab.get(Ping(1), sender=1) == [Refused(node_id(1), "a message comes from a banned member")]
    lab.hear(stated(1, 6), sender=2)
    bucket = Bucket(bucket_of(node_id(1)), ((stated(1, 7), State.ALIVE),), final=True)
    lab.get(bucket, sender=2)
    assert lab.state(1) is None
    assert lab.it.contact(node_id(1), lab.now_s) == []


def test_unbanned_is_taken_in_again() -> None:
    lab = Lab([1])
    lab.it.ban(node_id(1))
    lab.it.unban(node_id(1))
    assert changes(lab.hear(stated(1), sender=1)) == [(None, State.ALIVE)]
