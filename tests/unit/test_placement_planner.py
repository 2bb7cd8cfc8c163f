"""The planner on meshes that are awkward: few members, unlike sizes, unlike zones, more members than a row lists."""

from __future__ import annotations

from collections import Counter

import pytest

from meshhold.crypto.hashing import hash_bytes
from meshhold.model.ids import NodeId, encode_id
from meshhold.placement.moves import plan_moves
from meshhold.placement.planner import FACTOR_EVEN, bits_for, plan_ring
from meshhold.placement.ring import DEPTH_MAX, Ring, RingMember
from meshhold.placement.shares import ONE, fair_shares

MOST = 1.10


def mesh(*facts: tuple[int, str]) -> list[RingMember]:
    return [
        RingMember(NodeId(encode_id(hash_bytes(b"node %d" % number))), capacity * 10**12, zone)
        for number, (capacity, zone) in enumerate(facts)
    ]


def fullest(ring: Ring, factor: int) -> float:
    """Return what the fullest member holds over its fair share; one partition more is nobody's fault."""
    held = Counter(node for partition in range(ring.partitions) for node in ring.holders_in(partition, factor))
    shares = zip(ring.members, fair_shares(ring.members, factor), strict=True)
    return max((held[each.node] - 1) / (share * ring.partitions / ONE) for each, share in shares)


@pytest.mark.parametrize(
    "facts",
    [
        [(1, "a"), (2, "a"), (8, "a")],
        [(1, "a"), (2, "a"), (1, "a"), (8, "a")],
        [(8, "b"), (2, "b"), (2, "b"), (8, "b")],
        [(1, "b"), (8, "b"), (8, "a"), (2, "b"), (2, "b")],
        [(1, "b"), (1, "a"), (1, "b"), (2, "a"), (2, "b")],
        [(1, "a"), (1, "a"), (4, "b"), (4, "b"), (4, "b")],
        [(50, "a"), (50, "a"), (50, "b"), (50, "c")],
        [(1, "a"), (1_000_000, "a"), (1_000_000, "b"), (1, "c"), (3, "d")],
        [(1, "a")] * 12 + [(100, "a")],
    ],
)
def test_no_member_exceeds_its_share_by_more_than_a_tenth(facts: list[tuple[int, str]]) -> None:
    ring = plan_ring(mesh(*facts), 9)
    for factor in range(1, FACTOR_EVEN + 1):
        assert fullest(ring, factor) <= MOST


def test_the_usual_number_of_partitions_keeps_a_mixed_mesh_even() -> None:
    ring = plan_ring(mesh(*(((1, 2, 8)[number % 3], "abcd"[number % 4]) for number in range(10))))
    assert max(fullest(ring, factor) for factor in range(1, FACTOR_EVEN + 1)) <= MOST


def test_a_long_row_begins_with_all_zones_however_small() -> None:
    facts = [(1_000, "abc"[number % 3]) for number in range(20)] + [(1, "tiny"), (1, "small")]
    ring = plan_ring(mesh(*facts), 8)
    zone_of = {each.node: each.zone for each in ring.members}
    for partition in range(ring.partitions):
        row = ring.holders_in(partition, DEPTH_MAX)
        assert len(set(row)) == DEPTH_MAX
        assert {zone_of[node] for node in row[:5]} == {"a", "b", "c", "tiny", "small"}


def test_handoffs_are_not_the_same_for_all() -> None:
    """Who takes over when a machine is lost is spread over the mesh."""
    ring = plan_ring(mesh(*((1, "a") for _ in range(10))), 10)
    lost = ring.members[0].node
    heirs = Counter(
        ring.holders_in(partition, 3)[2]
        for partition in range(ring.partitions)
        if lost in ring.holders_in(partition, 2)
    )
    assert set(heirs) == {each.node for each in ring.members} - {lost}
    assert max(heirs.values()) < 3 * min(heirs.values())


def test_a_single_node_holds_everything_and_a_second_takes_a_copy() -> None:
    one, two = plan_ring(mesh((1, "a"))), plan_ring(mesh((1, "a"), (5, "a")))
    assert one.bits == two.bits
    assert plan_moves(one, two, 3).volume == 1.0
    assert plan_moves(one, two, 1).volume == pytest.approx(5 / 6, abs=0.05)


def test_a_mesh_that_keeps_its_partitions_moves_little_when_it_grows_over_the_step() -> None:
    members = mesh(*((1, "a") for _ in range(33)))
    old = plan_ring(members[:-1])
    kept = plan_moves(old, plan_ring(members, old.bits), 2)
    assert kept.volume <= 1.25 * 2 / 33
    assert bits_for(len(members)) > old.bits
