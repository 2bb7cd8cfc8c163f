"""How one node probes, doubts itself, joins, exchanges rosters and passes news on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.simulation.membership_world import member_of, node_id, sign_as, verify
from tests.unit.membership_lab import ME, SETTINGS, Lab, Named, changes, exchange, sent, stated, suspect, told_to

from meshhold.errors import InvalidError
from meshhold.membership.member import Member, State
from meshhold.membership.messages import (
    MESSAGE_SIZE_BYTES_MAX,
    Ack,
    Bucket,
    Deliver,
    Gossip,
    Nack,
    News,
    Ping,
    PingFor,
    Raised,
    Send,
    Sync,
    Vouch,
    decode,
    encode,
    size_bytes,
)
from meshhold.membership.roster import bucket_of

# -- probes ---------------------------------------------------------------------------------------------------------


def test_probe_answered_leaves_the_member_alive() -> None:
    lab = Lab([1])
    lab.wait(30, answering=[1])
    assert lab.state(1) is State.ALIVE
    assert lab.it.rtt_s(node_id(1)) == 0


def test_probe_unanswered_asks_relays_then_suspects() -> None:
    lab = Lab(range(1, 6))
    actions = lab.wait(2.6, answering=range(2, 6))
    asked = [to for to, message in sent(actions, PingFor) if message.target == node_id(1)]  # type: ignore[union-attr] # only PingFor is left
    assert len(asked) >= SETTINGS.relays
    assert node_id(1) not in asked
    assert lab.state(1) is State.SUSPECT


def test_probe_answered_to_a_relay_leaves_the_member_alive() -> None:
    lab = Lab(range(1, 6))
    for _ in range(40):
        for to, message in sent(lab.wait(0.1, answering=range(2, 6)), PingFor):
            assert isinstance(message, PingFor)
            lab.it.handle(Vouch(message.seq), next(n for n in map(node_id, range(1, 6)) if n == to), lab.now_s)
    assert lab.state(1) is State.ALIVE


def pings_to(lab: Lab, number: int, seconds: float) -> list[tuple[float, int]]:
    """Return when the next probe of that member pinged it, counted from its first ping, and with which numbers."""
    found: list[tuple[float, int]] = []
    start_s = lab.now_s
    while lab.now_s < start_s + seconds:
        for to, message in sent(lab.wait(0.05, answering=range(2, 6)), Ping):
            if to == node_id(number) and isinstance(message, Ping):
                found.append((lab.now_s, message.seq))
    return [(round(when_s - found[0][0], 2), seq) for when_s, seq in found if seq == found[0][1]]


def test_probe_that_is_late_is_repeated_under_its_number_until_it_ends() -> None:
    [(_, seq), *others] = pings_to(Lab(range(1, 6)), 1, 3.0)
    assert others == [(0.5, seq), (0.75, seq)]


@pytest.mark.parametrize("repeat", [1, 2])
def test_probe_answered_at_its_repetition_accuses_nobody_and_measures_nothing(repeat: int) -> None:
    """Which ping the answer is to is unknown, and so is the round trip (Karn's rule)."""
    lab = Lab(range(1, 6))
    seen: dict[int, int] = {}
    for _ in range(600):
        for to, message in sent(lab.wait(0.05, answering=range(2, 6)), Ping):
            if to == node_id(1) and isinstance(message, Ping):
                seen[message.seq] = seen.get(message.seq, 0) + 1
                if seen[message.seq] == repeat + 1:
                    lab.get(Ack(message.seq), sender=1)
        assert lab.state(1) is State.ALIVE
    assert set(list(seen.values())[:-2]) == {repeat + 1}, "an answer ends the probe; the last ones are under way"
    assert lab.it.rtt_s(node_id(1)) is None
    assert lab.it.rtt_s(node_id(2)) == 0


def test_probe_answered_by_a_stranger_counts_for_nothing() -> None:
    lab = Lab([1, 2])
    for _ in range(30):
        for _, message in sent(lab.wait(0.1, answering=[2]), Ping):
            assert isinstance(message, Ping)
            lab.get(Ack(message.seq), sender=9)
            lab.get(Vouch(message.seq), sender=9)
    assert lab.state(1) is State.SUSPECT


def test_probe_for_another_is_relayed_and_vouched_for() -> None:
    lab = Lab([1, 2])
    [(to, ping)] = sent(lab.get(PingFor(77, node_id(2)), sender=1), Ping)
    assert isinstance(ping, Ping)
    assert to == node_id(2)
    assert Send(node_id(1), Vouch(77)) in lab.get(Ack(ping.seq), sender=2)


def test_probe_for_another_that_is_silent_is_nacked_in_time() -> None:
    lab = Lab([1, 2])
    lab.get(PingFor(77, node_id(2)), sender=1)
    assert Send(node_id(1), Nack(77)) in lab.wait(SETTINGS.probe_timeout_s * SETTINGS.nack_fraction)


def test_probe_for_an_unknown_node_is_nacked_at_once_and_too_many_too() -> None:
    lab = Lab([1, 2])
    assert lab.get(PingFor(1, node_id(8)), sender=1) == [Send(node_id(1), Nack(1))]
    answers = [lab.get(PingFor(seq, node_id(2)), sender=1) for seq in range(200)]
    assert sum(Send(node_id(1), Nack(seq)) in answer for seq, answer in enumerate(answers)) >= 100


def test_awareness_degraded_by_silent_relays_and_improved_by_answers() -> None:
    lab = Lab(range(1, 6))
    lab.wait(4)
    degraded = lab.it.awareness.score
    assert degraded > 0
    lab.wait(30, answering=range(1, 6))
    assert lab.it.awareness.score < degraded


def test_awareness_not_degraded_by_relays_that_say_nack() -> None:
    lab = Lab(range(1, 6))
    for _ in range(30):
        for to, message in sent(lab.wait(0.1, answering=range(2, 6)), PingFor):
            assert isinstance(message, PingFor)
            lab.it.handle(Nack(message.seq), next(n for n in map(node_id, range(1, 6)) if n == to), lab.now_s)
    assert lab.state(1) is State.SUSPECT
    assert lab.it.awareness.score == 0


def test_a_broken_link_is_probed_at_once_and_accuses_nobody() -> None:
    lab = Lab(range(1, 20))
    lab.wait(0.1, answering=range(1, 20))
    assert changes(lab.it.doubt(node_id(7), lab.now_s)) == []
    assert node_id(7) in [to for to, _ in sent(lab.wait(0.01), Ping)]
    assert lab.state(7) is State.ALIVE


# -- stalls ---------------------------------------------------------------------------------------------------------


def test_a_node_that_was_paused_blames_itself_and_not_the_others() -> None:
    lab = Lab(range(1, 6))
    lab.hear(suspect(1, 5, 2, 3, 4))
    lab.now_s += 3600
    assert changes(lab.it.tick(lab.now_s)) == []
    assert lab.state(1) is State.SUSPECT
    assert lab.it.awareness.score >= 1
    lab.hear(stated(1, 6))
    assert lab.state(1) is State.ALIVE


@pytest.mark.parametrize("first", ["tick", "contact", "doubt", "spread", "update", "leave", "handle"])
def test_a_pause_is_noticed_whatever_is_called_first_after_it(first: str) -> None:
    lab = Lab(range(1, 6))
    lab.wait(2, answering=range(1, 6))
    lab.now_s += 3600
    calls = {
        "tick": lambda: lab.it.tick(lab.now_s),
        "contact": lambda: lab.it.contact(node_id(1), lab.now_s),
        "doubt": lambda: lab.it.doubt(node_id(1), lab.now_s),
        "spread": lambda: lab.it.spread(News("registry", bytes(16), b""), lab.now_s),
        "update": lambda: lab.it.update(lab.now_s, zone="attic"),
        "leave": lambda: lab.it.leave(lab.now_s),
        "handle": lambda: lab.get(Ping(1), sender=1),
    }
    calls[first]()
    assert lab.it.awareness.score == 1
    assert changes(lab.it.tick(lab.now_s)) == []
    assert lab.it.awareness.score == 1, "one pause counts once"


def test_a_pause_delays_a_death_but_does_not_prevent_it() -> None:
    lab = Lab(range(1, 6))
    lab.hear(suspect(1, 5, 2, 3, 4))
    lab.now_s += 3600
    lab.wait(SETTINGS.suspicion_min_s(6) + 2.0, answering=range(2, 6))
    assert lab.state(1) is State.DEAD


def test_a_rumor_after_a_long_silence_is_no_pause() -> None:
    lab = Lab([1])
    lab.wait(60, answering=[1])
    lab.hear(stated(1, 6))
    lab.wait(1, answering=[1])
    assert lab.it.awareness.score == 0


# -- joining and exchanging -----------------------------------------------------------------------------------------


def test_contact_brings_both_rosters_together() -> None:
    old, new = Lab(range(2, 8)), Named(1)
    exchange(new, old, new.it.contact(node_id(ME), new.now_s), (1, ME))
    assert {each.member.node for each in new.it.entries()} == {node_id(number) for number in range(8)}
    assert old.state(1) is State.ALIVE


def test_contact_with_a_known_living_member_costs_nothing() -> None:
    lab = Lab([1])
    assert sent(lab.it.contact(node_id(1), lab.now_s), Sync) == []


def test_merge_of_rosters_suspects_what_the_other_calls_dead() -> None:
    lab = Lab([1, 2, 3])
    entries = ((stated(1), State.DEAD), (stated(2), State.SUSPECT), (stated(3, 6, left=True), State.LEFT))
    for member, state in (*entries, (stated(4), State.ALIVE), (stated(5), State.DEAD)):
        lab.get(Bucket(bucket_of(member.node), ((member, state),), final=True), sender=9)
    found = [lab.state(number) for number in range(1, 6)]
    assert found == [State.SUSPECT, State.SUSPECT, State.LEFT, State.ALIVE, State.DEAD]


def test_merge_of_equal_rosters_sends_nothing() -> None:
    lab = Lab([1, 2])
    [(_, sync), *_] = sent(lab.wait(40, answering=[1, 2]), Sync)
    assert lab.get(sync, sender=1) == []


def test_sync_is_answered_to_one_sender_once_in_a_second() -> None:
    lab = Lab(range(1, 20))
    empty = Sync((0,) * 64)
    assert sent(lab.get(empty, sender=1), Bucket)
    assert lab.get(empty, sender=1) == []
    lab.now_s += 1.1
    assert sent(lab.get(empty, sender=1), Bucket)


def test_a_restart_calls_those_it_remembers_and_accuses_none_of_them() -> None:
    lab = Lab(known=[stated(1), stated(2)])
    assert {to for to, _ in sent(lab.started, Sync)} == {node_id(1), node_id(2)}
    assert lab.state(1) is State.DEAD
    assert lab.it.snapshot() == [stated(1), stated(2)]
    lines = [message for _, message in sent(lab.get(Sync((1,) * 64), sender=3), Bucket)]
    assert [each.entries for each in lines if isinstance(each, Bucket) and len(each.entries) > 1] == []
    assert told_to(lab.get(Ping(1), sender=2), 2) == [lab.it.me]
    assert changes(lab.hear(stated(1), sender=3)) == [(State.DEAD, State.ALIVE)]


# -- news -----------------------------------------------------------------------------------------------------------


def test_news_are_delivered_once_and_repeated() -> None:
    lab = Lab([1, 2])
    news = News("registry", bytes(16), b"a record")
    assert Deliver(news, node_id(1)) in lab.hear(news, sender=1)
    assert lab.hear(news, sender=2) == []
    assert any(news in told_to([action], 2) for action in lab.wait(1))


def test_news_are_in_every_gossip_though_a_hundred_accusations_wait() -> None:
    lab = Lab(range(1, 120))
    lab.it.spread(news := News("registry", bytes(16), bytes(300)), lab.now_s)
    lab.hear(*(suspect(number) for number in range(1, 101)))
    told = [message for _, message in sent(lab.wait(0.5, answering=range(1, 120)), Gossip)]
    assert len(told) >= 6
    assert all(news in message.rumors for message in told if isinstance(message, Gossip))
    assert all(len(message.rumors) > 10 for message in told if isinstance(message, Gossip))


def test_news_reach_suspects_too() -> None:
    lab = Lab([1, 2])
    lab.hear(suspect(1))
    lab.it.spread(news := News("registry", bytes(16), b"a record"), lab.now_s)
    gossip = [message for to, message in sent(lab.it.tick(lab.now_s), Gossip) if to == node_id(1)]
    assert [news in message.rumors for message in gossip if isinstance(message, Gossip)] == [True]


def test_news_of_ones_own_are_not_delivered_here() -> None:
    lab = Lab([1])
    news = News("registry", bytes(16), b"a record")
    actions = lab.it.spread(news, lab.now_s) + lab.hear(news, sender=1)
    assert not [each for each in actions if isinstance(each, Deliver)]


def test_update_states_anew() -> None:
    lab = Lab([1])
    actions = lab.it.update(lab.now_s, zone="attic")
    assert Raised(6) in actions
    assert (lab.it.me.zone, lab.it.me.is_proven(verify)) == ("attic", True)
    assert any(lab.it.me in told_to([action], 1) for action in lab.wait(0.5))


@pytest.mark.parametrize("fields", [{"node": node_id(2)}, {"incarnation": 9}, {"name": "x" * 65}, {"meta": (("a",),)}])
def test_an_update_that_others_would_not_take_is_refused_and_changes_nothing(fields: dict[str, object]) -> None:
    lab = Lab([1])
    before = lab.it.me
    with pytest.raises(InvalidError):
        lab.it.update(lab.now_s, **fields)
    assert lab.it.me == before


# -- sizes ----------------------------------------------------------------------------------------------------------


def fat(number: int, incarnation: int = 5) -> Member:
    """Return a statement with every field at its bound."""
    wide = "\N{OLD PERSIAN SIGN A}"  # four bytes
    return replace(
        member_of(number, incarnation),
        name=wide * 64,
        addresses=("a" * 96,) * 8,
        zone=wide * 64,
        version=wide * 32,
        capacity=2**63 - 1,
        meta=((wide * 32, wide * 32),) * 4,
    ).signed(sign_as(node_id(number)))


def test_the_largest_statements_still_make_bounded_messages() -> None:
    lab = Lab()
    for number in range(1, 400):
        lab.get(Gossip((fat(number),)), sender=number)
    actions = lab.get(Sync((1,) * 64), sender=1) + lab.wait(5) + lab.hear(*(suspect(each, 4) for each in range(1, 50)))
    sizes = [size_bytes(each.message) for each in actions if isinstance(each, Send)]
    assert len(sizes) > 100
    assert max(sizes) <= MESSAGE_SIZE_BYTES_MAX
    assert decode(encode(Gossip((fat(1),)))) == Gossip((fat(1),))


def test_rosters_that_do_not_fit_into_one_message_come_together() -> None:
    old, new = Lab(), Named(1)
    for number in range(2, 402):
        (old if number % 3 else new).get(Gossip((fat(number),)), sender=number)
    exchange(new, old, new.it.contact(node_id(ME), new.now_s), (1, ME))
    everybody = {node_id(number) for number in range(402)}
    assert {entry.member.node for entry in new.it.entries()} == everybody
    assert {entry.member.node for entry in old.it.entries()} == everybody
