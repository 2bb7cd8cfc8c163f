"""Budgets, paces and tallies: the decisions that keeping and fetching lean on."""

# ruff: noqa: ARG001 - pytest-trio finds the clock among the arguments only
from __future__ import annotations

from itertools import product

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from meshhold.errors import PeerUnreachableError, TooFewNodesError
from meshhold.model.ids import NodeId
from meshhold.replication.chunks.byte_budget import ByteBudget
from meshhold.replication.chunks.paces import (
    FULL_S,
    PATIENCE_MAX_S,
    PATIENCE_MIN_S,
    PATIENCE_UNKNOWN_S,
    SHUNNED_MAX_S,
    SHUNNED_S,
    SLOW_S,
    Paces,
)
from meshhold.replication.chunks.tally import Tally

ME, A, B, C, D = (NodeId(name) for name in ("me", "a", "b", "c", "d"))
MIB = 1 << 20


async def test_a_budget_serves_in_order_and_gives_back_what_was_given_up() -> None:
    budget = ByteBudget(10)
    served: list[str] = []

    async def hold(name: str, amount: int, scope: trio.CancelScope) -> None:
        with scope:
            async with budget.held(amount):
                served.append(name)
                await trio.sleep_forever()

    scopes = {name: trio.CancelScope() for name in "abcd"}
    async with trio.open_nursery() as nursery:
        for name, amount in (("a", 8), ("b", 7), ("c", 20), ("d", 1)):
            nursery.start_soon(hold, name, amount, scopes[name])
            await wait_all_tasks_blocked()
        assert served == ["a"]  # the small one does not overtake
        scopes["b"].cancel()
        await wait_all_tasks_blocked()
        assert served == ["a"]
        scopes["a"].cancel()
        await wait_all_tasks_blocked()
        assert (served, budget.free) == (["a", "c"], 0)  # more than there is takes all there is
        scopes["c"].cancel()
        await wait_all_tasks_blocked()
        assert (served, budget.free) == (["a", "c", "d"], 9)
        scopes["d"].cancel()
    assert budget.free == budget.size


async def test_who_is_cancelled_as_its_turn_comes_takes_nothing() -> None:
    budget = ByteBudget(10)
    await budget.take(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.take, 5)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        budget.give(10)
    assert budget.free == 10


async def test_a_budget_that_is_free_is_no_checkpoint() -> None:
    with trio.testing.assert_no_checkpoints():
        await ByteBudget(10).take(10)


async def test_patience_follows_the_node_and_the_size(autojump_clock: MockClock) -> None:
    paces = Paces(ME)
    assert paces.patience_s(A, MIB) == PATIENCE_UNKNOWN_S
    for _ in range(30):
        paces.note(A, MIB, 0.2)
    assert paces.expected_s(A, MIB) == pytest.approx(0.2)
    assert paces.patience_s(A, MIB) == pytest.approx(1.6)
    assert paces.patience_s(A, 1000) == PATIENCE_MIN_S
    paces.note_unfinished(A, MIB, 0.1)
    assert paces.expected_s(A, MIB) == pytest.approx(0.2)
    for _ in range(30):
        paces.note_unfinished(A, MIB, 8.0)
    assert paces.patience_s(A, MIB) == PATIENCE_MAX_S


async def test_the_longer_a_node_fails_the_longer_it_is_asked_last(autojump_clock: MockClock) -> None:
    paces = Paces(ME)
    for at in range(20):
        paces.fail(A)
        assert paces.by_readiness([A, B]) == [B, A]
        await trio.sleep(min(SHUNNED_S * 2**at, SHUNNED_MAX_S) - 0.1)
        assert paces.is_failing(A)
        await trio.sleep(0.2)
        assert paces.by_readiness([A, B]) == [A, B]
    paces.fail(A)
    paces.note(A, MIB, 0.1)
    assert not paces.is_failing(A)


async def test_a_full_node_is_asked_last_for_a_while(autojump_clock: MockClock) -> None:
    paces = Paces(ME)
    paces.fill(A)
    assert paces.is_full(A)
    assert paces.by_readiness([A, B]) == [B, A]
    await trio.sleep(FULL_S + 1)
    assert not paces.is_failing(A)


async def test_far_slower_than_the_fastest_is_asked_last_until_that_is_old(autojump_clock: MockClock) -> None:
    """This node's own disk is no measure; nor is a LAN for a line that is good enough."""
    paces = Paces(ME)
    paces.note(ME, MIB, 0.001)
    paces.note(A, MIB, 7.0)
    assert not paces.is_slow(A)
    paces.note(B, MIB, 0.01)
    paces.note(C, MIB, 4.0)
    assert [paces.is_slow(node) for node in (ME, A, B, C)] == [False, True, False, False]
    paces.fail(B)
    assert paces.by_readiness([A, B, C]) == [C, A, B]
    await trio.sleep(SLOW_S + 1)
    assert not paces.is_slow(A)


def ask_all(tally: Tally) -> list[NodeId]:
    asked = []
    while (node := tally.next_to_ask()) is not None:
        asked.append(node)
    return asked


def test_one_more_is_asked_for_each_that_fails_or_is_late() -> None:
    tally = Tally(2, [A, B, C, D], [A, B, C, D])
    assert ask_all(tally) == [A, B]
    tally.fail(A, PeerUnreachableError("gone"))
    assert ask_all(tally) == [C]
    tally.stand_in()
    assert ask_all(tally) == [D]
    tally.stand_in()
    assert ask_all(tally) == []


def test_a_write_is_safe_on_a_majority_only_where_no_more_can_be() -> None:
    tally = Tally(3, [A, B, C], [A, B, C])
    ask_all(tally)
    tally.take(A)
    tally.take(B)
    assert not tally.is_safe
    tally.fail(C, PeerUnreachableError("gone"))
    assert tally.is_safe
    other = Tally(3, [A, B, C], [A, B, C])
    other.fail(B, PeerUnreachableError("gone"))
    assert not other.is_safe
    other.fail(C, PeerUnreachableError("gone"))
    with pytest.raises(TooFewNodesError):
        assert other.is_safe


@pytest.mark.parametrize("live", [(A, B, C, D), (A, B), (A,), (C, ME)])
@pytest.mark.parametrize("doubtful", [(), (A,), (A, B, C, D)])
def test_nobody_who_waits_misses_the_moment_in_which_a_write_is_safe(
    live: tuple[NodeId, ...], doubtful: tuple[NodeId, ...]
) -> None:
    """Whatever happens to each node, a look that is not worth it would have told that the write is not safe yet."""
    for fates in product(("kept", "failed", "asked"), repeat=len(live)):
        tally = Tally(3, [A, B, C], live, doubtful=doubtful)
        for node, fate in zip(live, fates, strict=True):
            if fate == "kept":
                tally.take(node)
            elif fate == "failed":
                tally.fail(node, PeerUnreachableError("gone"))
        if not tally.may_be_safe:
            assert not tally.is_safe


def test_a_doubtful_node_counts_where_nothing_goes_without_it() -> None:
    tally = Tally(3, [A, B, C], [A, B, C], doubtful=[C])
    tally.take(A)
    tally.take(B)
    assert tally.is_safe
    needed = Tally(3, [A, B, C], [A, C], doubtful=[C])
    needed.take(A)
    assert not needed.is_safe
    needed.take(C)
    assert needed.is_safe


def test_a_copy_outside_of_the_ring_is_none() -> None:
    tally = Tally(2, [A, B], [A, B], reserve=[ME])
    assert ask_all(tally) == [A, B]
    tally.take(ME)
    tally.take(A)
    assert not tally.is_safe


def test_the_reserve_is_asked_when_all_others_failed_and_one_copy_may_do() -> None:
    tally = Tally(2, [A, B], [A], reserve=[ME], alone_allowed=True)
    assert ask_all(tally) == [A]
    assert not tally.is_safe
    tally.fail(A, PeerUnreachableError("gone"))
    assert ask_all(tally) == [ME]
    assert not tally.is_safe
    tally.take(ME)
    assert tally.is_safe
    tally.fail(ME, PeerUnreachableError("gone"))
    with pytest.raises(TooFewNodesError):
        assert tally.is_safe
