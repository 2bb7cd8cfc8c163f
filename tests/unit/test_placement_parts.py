"""The parts of placement: fair shares, shuffles, handicaps, moves, and when a write is safe."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import TooFewNodesError, UnavailableError
from meshhold.model.ids import NodeId, encode_id
from meshhold.placement.handicaps import EXCESS_PERMILLE, PAR, plan_handicaps
from meshhold.placement.moves import count_copies, plan_moves
from meshhold.placement.planner import plan_ring
from meshhold.placement.quorum import plan_acknowledgement
from meshhold.placement.ring import RingMember
from meshhold.placement.shares import ONE, fair_shares
from meshhold.placement.visits import TICKS, shuffle_partitions, visit_times


def node(number: int) -> NodeId:
    return NodeId(encode_id(hash_bytes(b"node %d" % number)))


def mesh(*facts: tuple[int, str]) -> list[RingMember]:
    return [RingMember(node(number), capacity, zone) for number, (capacity, zone) in enumerate(facts)]


def shares_of(factor: int, *facts: tuple[int, str]) -> list[float]:
    return [round(share / ONE, 3) for share in fair_shares(mesh(*facts), factor)]


# -- fair shares ----------------------------------------------------------------------------------------------------


def test_shares_follow_capacity() -> None:
    assert shares_of(1, (1, "a"), (2, "a"), (5, "a")) == [0.125, 0.25, 0.625]


def test_a_member_with_more_than_its_part_of_the_room_holds_everything_once() -> None:
    assert shares_of(2, (1, "a"), (2, "a"), (8, "a")) == [0.333, 0.667, 1.0]


def test_a_zone_holds_one_copy_while_there_are_others() -> None:
    assert shares_of(2, (1, "a"), (3, "a"), (1, "b"), (1, "c")) == [0.25, 0.75, 0.5, 0.5]
    assert shares_of(3, (1, "a"), (3, "a"), (1, "b"), (1, "c")) == [0.25, 0.75, 1.0, 1.0]


def test_the_small_zone_holds_one_copy_and_the_large_one_the_rest() -> None:
    assert shares_of(3, (1, "a"), (1, "a"), (4, "b"), (4, "b"), (4, "b")) == [0.5, 0.5, 0.667, 0.667, 0.667]


def test_with_no_more_members_than_copies_each_holds_everything() -> None:
    assert shares_of(3, (1, "a"), (99, "a"), (5, "b")) == [1.0, 1.0, 1.0]
    assert shares_of(3, (1, "a")) == [1.0]


# -- the order of a node's wishes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [3, 6, 12])
def test_a_node_wants_each_partition_once_and_the_first_ones_however_many_are_asked_for(bits: int) -> None:
    whole = shuffle_partitions(node(1), bits, 1 << bits)
    assert sorted(whole) == list(range(1 << bits))
    for count in (0, 1, 5, (1 << bits) // 2, (1 << bits) * 7 // 10):
        assert shuffle_partitions(node(1), bits, count) == whole[:count]


def test_two_nodes_want_different_things() -> None:
    one, other = (shuffle_partitions(node(number), 12, 4_096) for number in (1, 2))
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 10


def test_visits_take_as_long_as_exponential_times_do_on_average() -> None:
    times = visit_times(12)
    assert times == sorted(times)
    assert times[2_047] == pytest.approx(0.693 * TICKS, rel=0.001)  # half of all by the half-life
    assert sum(times) / len(times) == pytest.approx(TICKS, rel=0.001)


# -- handicaps ------------------------------------------------------------------------------------------------------


def drawn(speeds: Sequence[float], factor: int, times: int = 20_000) -> list[float]:
    """How often each is among the first, found by trying."""
    rng, wins = random.Random(1), [0] * len(speeds)
    for _ in range(times):
        for _, runner in sorted((rng.expovariate(speed), runner) for runner, speed in enumerate(speeds))[:factor]:
            wins[runner] += 1
    return [count / times for count in wins]


@pytest.mark.parametrize(("sizes", "factor"), [((1, 1, 1, 1), 2), ((3,) * 9, 3), ((1, 2, 8), 1), ((1, 5, 9), 3)])
def test_nobody_is_favoured_where_the_race_is_fair(sizes: tuple[int, ...], factor: int) -> None:
    shares = fair_shares(mesh(*((size, "a") for size in sizes)), factor)
    assert len(set(plan_handicaps(sizes, shares, factor))) == 1


MIXED = [
    ((45, 45, 10), 2),
    ((50, 25, 25), 2),
    ((17, 11, 3, 3), 2),
    ((4, 3, 3), 2),
    ((1, 1, 1, 2, 2, 2, 2, 8, 8, 8), 3),
    ((10, 3, 3, 1), 3),
    ((16, 9, 3, 3, 1, 2), 3),
]


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize(("sizes", "factor"), MIXED)
def test_nobody_wins_more_often_than_is_allowed(sizes: tuple[int, ...], factor: int, is_large: bool) -> None:
    shares = fair_shares(mesh(*((size, "a") for size in sizes)), factor)
    handicaps = plan_handicaps(sizes, shares, factor, is_large=is_large)
    found = drawn([size * handicap for size, handicap in zip(sizes, handicaps, strict=True)], factor)
    most = max(part / (share / ONE) for part, share in zip(found, shares, strict=True))
    assert most < EXCESS_PERMILLE / 1000 + 0.04
    assert most <= max(part / (share / ONE) for part, share in zip(drawn(sizes, factor), shares, strict=True))


@pytest.mark.parametrize(("sizes", "factor"), [((1, 2, 2, 8, 8, 8), 2), ((1, 2, 2, 3, 8, 8, 10), 3)])
def test_a_larger_runner_is_sped_up_as_much_as_a_smaller_one_but_for_a_tenth(
    sizes: tuple[int, ...], factor: int
) -> None:
    handicaps = plan_handicaps(sizes, fair_shares(mesh(*((size, "a") for size in sizes)), factor), factor)
    assert max(handicaps) <= PAR
    assert all(less <= more * 1.1 for less, more in pairwise(handicaps))
    assert handicaps[0] < handicaps[-1]


# -- moves ----------------------------------------------------------------------------------------------------------


def test_nothing_moves_between_equal_rings() -> None:
    ring = plan_ring(mesh((1, "a"), (1, "b"), (1, "c")), 6)
    assert plan_moves(ring, ring, 2).changes == ()
    assert plan_moves(ring, ring, 2).volume == 0


def test_the_second_node_of_a_mesh_gets_a_copy_of_everything_and_nobody_loses_one() -> None:
    one, two = plan_ring(mesh((1, "a")), 6), plan_ring(mesh((1, "a"), (1, "b")), 6)
    moves = plan_moves(one, two, 2)
    assert (moves.volume, moves.gained, moves.lost) == (1.0, {node(1): 1.0}, {})
    back = plan_moves(two, one, 2)
    assert (back.volume, back.gained, back.lost) == (0.0, {}, {node(1): 1.0})


def test_what_is_gained_and_lost_adds_up() -> None:
    old = plan_ring(mesh((1, "a"), (1, "b"), (1, "c"), (1, "c")), 8)
    new = plan_ring(mesh((1, "a"), (1, "b"), (1, "c"), (4, "c")), 8)
    moves = plan_moves(old, new, 2)
    assert moves.volume == sum(moves.gained.values()) == sum(moves.lost.values())  # of a power of two: exact
    assert moves.changes
    for move in moves.changes:
        before, after = (set(ring.holders_in(move.partition, 2)) for ring in (old, new))
        assert (set(move.gain), set(move.lose)) == (after - before, before - after)


def test_rings_of_different_partitions_are_compared_in_the_finer_ones() -> None:
    facts = mesh((1, "a"), (1, "b"), (1, "c"))
    coarse, fine = plan_ring(facts, 5), plan_ring(facts, 7)
    moves = plan_moves(coarse, fine, 2)
    assert moves.bits == plan_moves(fine, coarse, 2).bits == 7
    for move in moves.changes:
        assert set(move.gain) == set(fine.holders_in(move.partition, 2)) - set(
            coarse.holders_in(move.partition // 4, 2)
        )
    assert plan_moves(fine, coarse, 2).volume == moves.volume


def test_copies_left_are_counted_for_machines_that_go_at_once() -> None:
    ring = plan_ring(mesh((1, "a"), (1, "b"), (1, "c")), 6)
    assert set(count_copies(ring, 3, [node(0)])) == {2}
    assert set(count_copies(ring, 3, [node(0), node(1), node(2)])) == {0}
    assert set(count_copies(ring, 2, [])) == {2}
    assert set(count_copies(ring, 2, [node(0)])) == {1, 2}


# -- when a write is safe -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "members", "live", "copies", "is_short"),
    [
        (3, 3, 3, 3, False),
        (3, 9, 5, 3, False),
        (3, 3, 2, 2, True),
        (2, 5, 2, 2, False),
        (5, 5, 3, 3, True),
        (5, 5, 4, 3, True),
        (1, 5, 1, 1, False),
        (3, 1, 1, 1, True),
        (3, 2, 2, 2, True),
        (1, 1, 1, 1, False),
    ],
)
def test_copies_before_success(factor: int, members: int, live: int, copies: int, is_short: bool) -> None:
    all_nodes = [node(number) for number in range(members)]
    assert plan_acknowledgement(factor, all_nodes, all_nodes[:live]) == (copies, is_short)


@pytest.mark.parametrize(
    ("factor", "members", "live"), [(3, 3, 1), (2, 2, 1), (2, 9, 1), (5, 5, 2), (1, 3, 0), (3, 0, 0)]
)
def test_too_few_live_nodes_acknowledge_nothing(factor: int, members: int, live: int) -> None:
    all_nodes = [node(number) for number in range(members)]
    with pytest.raises(TooFewNodesError, match=f"{live} of {members} reliable nodes") as caught:
        plan_acknowledgement(factor, all_nodes, all_nodes[:live])
    assert isinstance(caught.value, UnavailableError)


def test_who_is_no_member_keeps_no_copy_that_counts() -> None:
    with pytest.raises(TooFewNodesError):
        plan_acknowledgement(2, [node(1), node(2)], [node(1), node(3)])
    assert plan_acknowledgement(2, [node(1), node(2)], [node(1), node(1), node(2)]).copies == 2
