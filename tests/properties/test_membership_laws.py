"""Laws of membership: merging is a lattice, the codec loses nothing and fears nothing, all orders of hearing agree."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.simulation.membership_world import member_of, node_id, sign_as, verify

from meshhold.errors import ProtocolError
from meshhold.membership.machine import Membership
from meshhold.membership.member import INCARNATION_MAX, Member, State
from meshhold.membership.messages import (
    BUCKETS,
    MESSAGE_SIZE_BYTES_MAX,
    Ack,
    Bucket,
    Dead,
    Gossip,
    Message,
    News,
    Ping,
    PingFor,
    Raised,
    Rumor,
    Send,
    Suspect,
    Sync,
    decode,
    encode,
    size_bytes,
)
from meshhold.membership.roster import beats, merge
from meshhold.membership.rumors import TAKEN_MAX, Rumors
from meshhold.membership.settings import Settings

numbers = st.integers(0, 5)
nodes = numbers.map(node_id)
incarnations = st.one_of(st.integers(0, 8), st.integers(0, INCARNATION_MAX))


def made(number: int, incarnation: int, life: int, left: bool) -> Member:
    return replace(member_of(number, incarnation, life), left=left).signed(sign_as(node_id(number)))


members = st.builds(made, numbers, incarnations, st.integers(0, 3), st.booleans())
rumors: st.SearchStrategy[Rumor] = st.one_of(
    members,
    st.builds(Suspect, nodes, incarnations, st.lists(nodes, min_size=1, max_size=4).map(tuple)),
    st.builds(Dead, nodes, incarnations, nodes),
    st.builds(News, st.just("registry"), st.integers(0, 9).map(lambda n: n.to_bytes(16)), st.binary(max_size=20)),
)
rumor_lists = st.lists(rumors, max_size=6).map(tuple)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, st.integers(0, 2**32 - 1), rumor_lists),
    st.builds(Ack, st.integers(0, 2**32 - 1), rumor_lists),
    st.builds(PingFor, st.integers(0, 2**32 - 1), nodes),
    st.builds(Gossip, rumor_lists),
    st.builds(Sync, st.lists(st.integers(0, 2**64 - 1), min_size=BUCKETS, max_size=BUCKETS).map(tuple)),
    st.builds(
        Bucket,
        st.integers(0, BUCKETS - 1),
        st.lists(st.tuples(members, st.sampled_from(State)), max_size=5).map(tuple),
        st.booleans(),
    ),
)
beliefs = st.tuples(
    st.builds(made, st.just(1), st.integers(0, 3), st.integers(0, 2), st.booleans()), st.sampled_from(State)
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=60), st.binary(max_size=70), nodes
)
plain = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=12), st.dictionaries(st.text(max_size=3), inner)),
    max_leaves=30,
)
KINDS = ["ping", "ack", "ping-for", "vouch", "nack", "gossip", "sync", "bucket"]


@given(beliefs, beliefs, beliefs)
def test_merging_beliefs_commutes_associates_and_is_idempotent(
    a: tuple[Member, State], b: tuple[Member, State], c: tuple[Member, State]
) -> None:
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == a
    assert merge(a, b) in (a, b)
    assert beats(a, b) == (merge(a, b) == a and a != b)


@given(messages)
def test_every_message_survives_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


@given(plain)
def test_whatever_comes_in_only_a_protocol_error_comes_out(raw: object) -> None:
    try:
        decode(raw)
    except ProtocolError:
        return
    assert isinstance(raw, list)


@given(st.sampled_from(KINDS), st.lists(plain, max_size=4))
def test_whatever_stands_in_a_known_message_only_a_protocol_error_comes_out(kind: str, fields: list[object]) -> None:
    try:
        message = decode([1, kind, *fields])
    except ProtocolError:
        return
    assert encode(message)[1] == kind


@given(messages, st.data())
def test_a_message_with_one_value_replaced_is_taken_or_refused_by_name(message: Message, data: st.DataObject) -> None:
    raw = encode(message)
    spots = [(raw, index) for index in range(len(raw))]
    for holder, index in spots:
        if isinstance(holder[index], list):
            spots += [(holder[index], inner) for inner in range(len(holder[index]))]
    holder, index = data.draw(st.sampled_from(spots))
    holder[index] = data.draw(plain)
    try:
        decode(raw)
    except ProtocolError as error:
        assert error.message.startswith("a membership message has")  # noqa: PT017 # not raising is fine too


@given(st.lists(rumors, max_size=30), st.integers(100, 3000), st.integers(1, 6))
def test_each_rumor_that_fits_is_told_so_often_and_no_message_is_too_large(
    told: list[Rumor], room: int, sends_max: int
) -> None:
    """Whatever waits: the bound holds, both kinds come on, and all ends."""
    waiting = Rumors()
    for rumor in told:
        waiting.add(rumor)
    last = {rumor.ident if isinstance(rumor, News) else rumor.node: rumor for rumor in told}
    times: Counter[Rumor] = Counter()
    while taken := waiting.take(room, sends_max):
        assert sum(map(size_bytes, taken)) <= room
        assert len(set(taken)) == len(taken) <= TAKEN_MAX
        times.update(taken)
        assert max(times.values()) <= sends_max
    assert set(times) <= set(last.values())
    short = [rumor for rumor in last.values() if 2 * size_bytes(rumor) <= room]
    if len(short) == len(last):
        assert all(times[rumor] == sends_max for rumor in short)
        assert len(waiting) == 0


def listener(seed: int = 1) -> Membership:
    me = member_of(0, 5, 1)
    it = Membership(me, Settings(), random.Random(seed), sign_as(me.node), verify)
    it.start(0.0)
    return it


@given(st.lists(st.tuples(messages, numbers, st.floats(0, 20)), max_size=12))
def test_no_sequence_of_messages_and_pauses_breaks_a_node(sequence: list[tuple[Message, int, float]]) -> None:
    it, now_s = listener(), 0.0
    for message, sender, pause_s in sequence:
        now_s += pause_s
        for action in [*it.tick(now_s), *it.handle(message, node_id(sender), now_s)]:
            if isinstance(action, Send):
                assert decode(encode(action.message)) == action.message, "what is sent can be read"
                assert size_bytes(action.message) <= MESSAGE_SIZE_BYTES_MAX
        assert it.next_tick_s() >= now_s
        assert it.me.is_proven(verify)
        live = {entry.member.node for entry in it.entries() if entry.is_live}
        assert set(it._roster.live) == live - {it.me.node}
        suspects = {entry.member.node for entry in it.entries() if entry.state is State.SUSPECT}
        assert set(it._beliefs.suspicions) == suspects


@given(st.lists(members.filter(lambda each: each.node != node_id(0)), max_size=8), st.randoms(use_true_random=False))
def test_statements_heard_in_any_order_leave_the_same_roster(heard: list[Member], chance: random.Random) -> None:
    rosters = []
    for _ in range(2):
        it = listener()
        for member in heard:
            it.handle(Gossip((member,)), node_id(6), 0.0)
        rosters.append({entry.member.node: entry.member for entry in it.entries()})
        chance.shuffle(heard)
    assert rosters[0] == rosters[1]


@given(st.lists(rumors, max_size=20))
def test_only_ones_own_statement_raises_anothers_incarnation(heard: list[Rumor]) -> None:
    it = listener()
    stated: dict[str, int] = {}
    for rumor in heard:
        it.handle(Gossip((rumor,)), node_id(6), 0.0)
        if isinstance(rumor, Member):
            stated[rumor.node] = max(rumor.incarnation, stated.get(rumor.node, 0))
    for entry in it.entries():
        if entry.member.node != it.me.node:
            assert entry.member.incarnation == stated[entry.member.node]


@given(st.lists(rumors, max_size=10))
def test_this_node_is_alive_in_its_own_eyes_whatever_is_said(heard: list[Rumor]) -> None:
    it = listener()
    before = it.me.incarnation
    actions = it.handle(Gossip(tuple(heard)), node_id(6), 0.0)
    entry = it.entry(it.me.node)
    assert entry is not None
    assert (entry.member, entry.state) == (it.me, State.ALIVE)
    assert it.me.incarnation >= before
    raised = [action.incarnation for action in actions if isinstance(action, Raised)]
    assert raised == sorted(raised)
    assert it.me.incarnation == (raised[-1] if raised else before)
