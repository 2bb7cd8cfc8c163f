"""Laws of placement: rings depend on members alone, loads are bounded, zones differ, and little moves."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from meshhold.crypto.hashing import hash_bytes
from meshhold.model.ids import NodeId, encode_id
from meshhold.placement.moves import count_copies, plan_moves
from meshhold.placement.planner import CLAIM_PERMILLE, FACTOR_EVEN, plan_ring
from meshhold.placement.ring import Ring, RingMember, unpack_ring
from meshhold.placement.shares import ONE, fair_shares

BITS = 8
few = settings(max_examples=40, deadline=None)  # a first plan on a busy machine takes longer than the usual deadline


def node(number: int) -> NodeId:
    return NodeId(encode_id(hash_bytes(number.to_bytes(4, "big"))))


capacities = st.one_of(st.sampled_from([10**12, 2 * 10**12, 8 * 10**12]), st.integers(1, 2**63 - 1))
facts = st.tuples(st.integers(0, 10_000), capacities, st.integers(0, 4))
meshes = st.lists(facts, min_size=1, max_size=20, unique_by=lambda fact: fact[0]).map(
    lambda found: [RingMember(node(number), capacity, f"zone {zone}") for number, capacity, zone in found]
)
even_meshes = st.tuples(st.integers(3, 20), st.integers(1, 10_000), st.integers(1, 3)).map(
    lambda found: [RingMember(node(found[1] + n), 10**12, f"zone {n % found[2]}") for n in range(found[0])]
)


def loads(ring: Ring, factor: int) -> Counter[NodeId]:
    return Counter(each for partition in range(ring.partitions) for each in ring.holders_in(partition, factor))


@few
@given(meshes, st.randoms(use_true_random=False))
def test_the_order_in_which_members_are_heard_of_changes_nothing(members: list[RingMember], rng: random.Random) -> None:
    shuffled = list(members)
    rng.shuffle(shuffled)
    first, second = plan_ring(members, BITS), plan_ring(shuffled, BITS)
    assert first == second
    assert first.version == second.version


@few
@given(meshes)
def test_each_partition_lists_each_member_once(members: list[RingMember]) -> None:
    ring = plan_ring(members, BITS)
    for partition in range(ring.partitions):
        listed = ring.holders_in(partition, 16)
        assert len(set(listed)) == len(listed) == min(16, len(members))
    assert unpack_ring(ring.pack()) == ring


@few
@given(meshes)
def test_copies_are_in_distinct_zones_while_there_are_zones_left(members: list[RingMember]) -> None:
    ring = plan_ring(members, BITS)
    zone_of = {member.node: member.zone for member in members}
    zones = len(set(zone_of.values()))
    for partition in range(ring.partitions):
        first = [zone_of[each] for each in ring.holders_in(partition, zones)]
        assert len(set(first)) == len(first) == zones


@few
@given(meshes, st.integers(1, FACTOR_EVEN))
def test_shares_add_up_grow_with_the_factor_and_never_exceed_a_copy(members: list[RingMember], factor: int) -> None:
    shares = fair_shares(members, factor)
    assert all(1 <= share <= ONE for share in shares)
    assert abs(sum(shares) - min(factor, len(members)) * ONE) <= 2 * len(members)
    assert all(less <= more + 1 for less, more in zip(shares, fair_shares(members, factor + 1), strict=True))


@few
@given(even_meshes, st.integers(1, FACTOR_EVEN))
def test_no_member_holds_much_more_than_its_share(members: list[RingMember], factor: int) -> None:
    ring = plan_ring(members, 10)
    held = loads(ring, factor)
    for member, share in zip(members, fair_shares(members, factor), strict=True):
        fair = share * ring.partitions / ONE
        assert held[member.node] <= max(fair * CLAIM_PERMILLE / 1000, fair + 1) + 1


@few
@given(meshes, st.integers(1, 3))
def test_when_a_member_goes_its_partitions_get_another_holder_each(members: list[RingMember], factor: int) -> None:
    gone, *rest = members
    old, new = plan_ring(members, BITS), plan_ring(rest, BITS)
    moves = plan_moves(old, new, factor)
    assert gone.node not in moves.gained
    lost = {move.partition for move in moves.changes if gone.node in move.lose}
    assert lost == {p for p in range(old.partitions) if gone.node in old.holders_in(p, factor)}
    kept = min(factor, len(rest))
    assert all(len(new.holders_in(partition, factor)) == kept for partition in range(new.partitions))


@few
@given(even_meshes, st.integers(2, 3))
def test_when_a_member_comes_hardly_more_moves_than_what_it_gets(members: list[RingMember], factor: int) -> None:
    """Zones of like size: the cost of others is measured by the bench."""
    zones = len({member.zone for member in members})
    members = members[: len(members) // zones * zones]
    newcomer = RingMember(node(999_999), 10**12, "zone 0")
    old, new = plan_ring(members, 10), plan_ring([*members, newcomer], 10)
    moves = plan_moves(old, new, factor)
    assert moves.gained[newcomer.node] <= moves.volume <= moves.gained[newcomer.node] * 1.25


@few
@given(meshes, st.integers(1, 4), st.data())
def test_copies_left_are_those_of_the_holders_that_stay(
    members: list[RingMember], factor: int, data: st.DataObject
) -> None:
    ring = plan_ring(members, 5)
    gone = data.draw(st.sets(st.sampled_from([member.node for member in members])))
    held = loads(ring, factor)
    assert sum(count_copies(ring, factor, gone)) == sum(count for each, count in held.items() if each not in gone)
