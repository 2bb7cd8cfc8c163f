"""Chunks on several nodes: never acknowledged before they are safe, found wherever they are, bounded in all of it."""

# ruff: noqa: ARG001 - pytest-trio finds the clock among the arguments only
from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
import trio
import trio.testing
from tests.unit.copies_lab import ME, STUCK_S, VAULT, Lab, Shelf, running
from trio.testing import MockClock

from meshhold.errors import (
    ChunkCorruptError,
    ChunkMissingError,
    ContentElsewhereError,
    StorageFullError,
    SyncFailedError,
    TooFewNodesError,
)
from meshhold.model.ids import ChunkId, NodeId
from meshhold.placement.quorum import plan_acknowledgement
from meshhold.replication.chunks import fetching, keeping
from meshhold.replication.chunks.byte_budget import ByteBudget
from meshhold.replication.chunks.paces import PATIENCE_MIN_S, PATIENCE_UNKNOWN_S, SLOW_S

MIB = 1 << 20
READ_MOODS = ("fine", "away", "broken", "stuck", "liar", "rotten", "bare")
MOODS = ("fine", "away", "broken", "full", "slow", "stuck")


def set_mood(lab: Lab, shelf: Shelf, mood: str) -> None:
    shelf.mood = mood
    shelf.delay_s = 3.0 if mood == "slow" else 0.001
    if mood == "away":
        lab.down.add(shelf.node)


# -- keeping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", MOODS)
@pytest.mark.parametrize("factor", [1, 2, 3])
async def test_no_acknowledgement_before_enough_copies_whatever_is_wrong(
    autojump_clock: MockClock, first: str, factor: int
) -> None:
    """A node that fails counts as one that is not there; one that is slow is waited for if nobody stands in for it."""
    for moods in product((first,), MOODS, MOODS):
        lab = Lab(3, factor)
        for shelf, mood in zip(lab.shelves.values(), moods, strict=True):
            set_mood(lab, shelf, mood)
        able = [ME, *(node for node, shelf in lab.shelves.items() if shelf.mood in {"fine", "slow"})]
        chunk, sealed = lab.sealed()
        async with running(lab):
            try:
                await lab.copies.keep(VAULT, chunk, sealed)
            except (TooFewNodesError, StorageFullError):
                with pytest.raises(TooFewNodesError):
                    plan_acknowledgement(factor, lab.order(chunk), able)
            else:
                needed = plan_acknowledgement(factor, lab.order(chunk), able).copies
                assert len(lab.where(chunk)) >= needed, moods
                assert bool(lab.short) == (not lab.where(chunk) >= set(lab.order(chunk)[:factor])), moods
            await trio.sleep(2 * STUCK_S)
            assert lab.is_idle, moods


async def test_it_waits_for_the_slowest_that_is_needed(autojump_clock: MockClock) -> None:
    lab = Lab(2)
    chunk, sealed = lab.sealed()
    lab.others(chunk)[1].delay_s = 7.0
    began_s = trio.current_time()
    async with running(lab):
        await lab.copies.keep(VAULT, chunk, sealed)
        assert trio.current_time() - began_s == pytest.approx(7.0)
        assert lab.where(chunk) == set(lab.order(chunk))
        assert lab.short == []


async def test_a_slow_holder_is_stood_in_for_and_goes_on_behind(autojump_clock: MockClock) -> None:
    lab = Lab(4, 2)
    chunk, sealed = lab.sealed()
    slow, *others = lab.others(chunk)
    slow.delay_s = 4.0
    began_s = trio.current_time()
    async with running(lab):
        await lab.copies.keep(VAULT, chunk, sealed)
        assert trio.current_time() - began_s == pytest.approx(PATIENCE_UNKNOWN_S, abs=0.1)
        assert slow.node not in lab.where(chunk)
        assert len(lab.where(chunk)) == 2
        assert lab.short == [VAULT]
        await trio.sleep(5)
        assert slow.node in lab.where(chunk)
        assert lab.is_idle
    assert all(shelf.cancelled == 0 for shelf in others)


async def test_a_node_that_fails_is_asked_last_for_a_while(autojump_clock: MockClock) -> None:
    """One hanging node costs the first chunk its time, and the next ones nothing; then it is tried again."""
    lab = Lab(2)
    stuck = lab.shelves[NodeId("n1")]
    stuck.mood = "stuck"
    async with running(lab):
        for at in range(3):
            began_s = trio.current_time()
            await lab.copies.keep(VAULT, *lab.sealed(size=1000 + 4 * at))
            assert trio.current_time() - began_s == pytest.approx(0 if at else STUCK_S, abs=0.1)
        assert len(lab.short) == 3
        stuck.mood = "fine"
        await trio.sleep(120)
        lab.short.clear()
        chunk, sealed = lab.sealed(size=2000)
        await lab.copies.keep(VAULT, chunk, sealed)
        assert (stuck.node in lab.where(chunk), lab.short) == (True, [])


async def test_what_goes_on_behind_is_bounded(autojump_clock: MockClock) -> None:
    lab = Lab(2)
    slow = lab.shelves[NodeId("n1")]
    lab.copies._put_paces.fail(slow.node)  # not waited for, and asked all the same
    slow.delay_s = 4.0
    async with running(lab):
        for at in range(12):
            await lab.copies.keep(VAULT, *lab.sealed(size=MIB + 4 * at))
        assert sum(lab.copies._keeping.behind.values()) <= keeping.BEHIND_PER_NODE_MAX
        await trio.sleep(20)
        assert lab.is_idle
    assert slow.cancelled == 5  # seven of a bit more than 1 MiB fit into 8 MiB
    assert len(slow.kept) == 7


async def test_bytes_under_way_are_bounded_over_all_writes(autojump_clock: MockClock) -> None:
    lab = Lab(2)
    for shelf in lab.shelves.values():
        shelf.delay_s = 1.0
    lab.copies._keeping.budget = ByteBudget(4 * MIB)
    async with running(lab):
        async with trio.open_nursery() as nursery:
            for at in range(12):
                nursery.start_soon(lab.copies.keep, VAULT, *lab.sealed(size=MIB - 4 * at))
        assert all(shelf.busiest <= 4 * MIB for shelf in lab.shelves.values())
        assert all(len(shelf.kept) == 12 for shelf in lab.shelves.values())
        assert lab.is_idle


@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.5, 9.0])
async def test_a_write_that_is_given_up_leaves_nothing_running(autojump_clock: MockClock, after_s: float) -> None:
    lab = Lab(4)
    for shelf in lab.shelves.values():
        shelf.mood = "stuck"
    async with running(lab):
        with trio.move_on_after(after_s) as scope:
            await lab.copies.keep(VAULT, *lab.sealed())
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert lab.is_idle
        assert all(shelf.busy == 0 for shelf in lab.shelves.values())


async def test_a_node_that_stops_refuses_its_writes(autojump_clock: MockClock) -> None:
    lab = Lab(2)
    for shelf in lab.shelves.values():
        shelf.delay_s = 100
    chunk, sealed = lab.sealed()
    refused: list[str] = []

    async def write() -> None:
        with pytest.raises(TooFewNodesError) as caught:
            await lab.copies.keep(VAULT, chunk, sealed)
        refused.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        async with running(lab):
            nursery.start_soon(write)
            await trio.sleep(1)
        await trio.testing.wait_all_tasks_blocked()
    assert len(refused) == 1
    with pytest.raises(TooFewNodesError):
        await lab.copies.keep(VAULT, chunk, sealed)


async def test_a_refusal_names_the_machines(autojump_clock: MockClock) -> None:
    lab = Lab(2)
    lab.down.add(NodeId("n1"))
    lab.shelves[NodeId("n2")].mood = "full"
    async with running(lab):
        with pytest.raises(TooFewNodesError) as caught:
            await lab.copies.keep(VAULT, *lab.sealed())
    assert "not reachable: machine n1; machine n2: no room left" in caught.value.message
    assert "start the machines" in caught.value.fix


async def test_full_machines_are_named_as_full(autojump_clock: MockClock) -> None:
    lab = Lab(2)
    for shelf in lab.shelves.values():
        shelf.mood = "full"
    async with running(lab):
        with pytest.raises(StorageFullError, match="make room on these machines"):
            await lab.copies.keep(VAULT, *lab.sealed())


@pytest.mark.parametrize("is_awaited", [True, False])
async def test_a_failed_sync_of_this_node_ends_the_write_and_the_node(
    autojump_clock: MockClock, *, is_awaited: bool
) -> None:
    """Also where the write was given up before, or safe without it."""
    lab = Lab(2)
    told: list[str] = []

    async def in_thread(function: Callable[..., Any], *_: object) -> Any:
        assert function == lab.chunks.put
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        raise SyncFailedError("the disk lost a write")

    lab.copies._run_blocking = in_thread

    async def write() -> None:
        async with running(lab):
            with trio.move_on_after(10 if is_awaited else 1):
                try:
                    await lab.copies.keep(VAULT, *lab.sealed())
                except SyncFailedError as error:
                    told.append(str(error))
                    raise
            await trio.sleep(10)

    with pytest.raises(SyncFailedError):
        await write()
    assert bool(told) == is_awaited


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_goes_wrong_and_whoever_gives_up_nothing_is_left_behind(
    autojump_clock: MockClock, seed: int
) -> None:
    """Many writes and reads, moods that change under way, cancellations at any moment."""
    chance = random.Random(seed)
    lab = Lab(5)
    lab.copies._keeping.budget = ByteBudget(20_000)
    lab.copies._fetching.budget = ByteBudget(5_000)
    shelves = list(lab.shelves.values())
    read: list[ChunkId] = []
    trio._core._run._r.seed(seed)  # the scheduler's own shuffling

    async def use(at: int) -> None:
        await trio.sleep(chance.uniform(0, 20))
        chunk, sealed = lab.sealed(size=1000 + 4 * at)
        with trio.move_on_after(chance.choice([0.0, 0.01, 0.5, 3, 1000])):
            try:
                await lab.copies.keep(VAULT, chunk, sealed)
            except (TooFewNodesError, StorageFullError):
                return
            assert len(lab.where(chunk)) >= 2
            lab.chunks.remove_if_unused_since(VAULT, chunk, float("inf"))
            with suppress(ContentElsewhereError, ChunkMissingError):
                assert await lab.copies.fetch(VAULT, chunk, len(sealed)) == sealed
                read.append(chunk)

    async def meddle() -> None:
        while True:
            await trio.sleep(chance.uniform(0, 3))
            shelf = chance.choice(shelves)
            lab.down.discard(shelf.node)
            set_mood(lab, shelf, chance.choice([*MOODS, "fine", "fine", "liar"]))

    async with running(lab):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meddle)
            async with trio.open_nursery() as users:
                for at in range(60):
                    users.start_soon(use, at)
            nursery.cancel_scope.cancel()
        await trio.sleep(10 * STUCK_S)
        assert lab.is_idle
        assert all(shelf.busy == 0 for shelf in shelves)
    assert len(read) > 5


async def test_an_unreliable_writer_keeps_no_copy_of_its_own(autojump_clock: MockClock) -> None:
    lab = Lab(3, me_reliable=False)
    chunk, sealed = lab.sealed()
    async with running(lab):
        await lab.copies.keep(VAULT, chunk, sealed)
    assert lab.where(chunk) == set(lab.shelves)


@pytest.mark.parametrize("me_reliable", [True, False])
async def test_an_available_vault_goes_on_with_one_copy(autojump_clock: MockClock, *, me_reliable: bool) -> None:
    """Even on a machine that does not count, as long as nobody else can be asked: repair moves it on."""
    lab = Lab(2, me_reliable=me_reliable)
    lab.alone_allowed = True
    lab.down |= set(lab.shelves)
    chunk, sealed = lab.sealed()
    async with running(lab):
        await lab.copies.keep(VAULT, chunk, sealed)
        assert lab.where(chunk) == {ME}
        assert lab.short == [VAULT]
        lab.down.clear()
        lab.shelves[NodeId("n1")].mood = "broken"
        chunk, sealed = lab.sealed(size=2000)
        await lab.copies.keep(VAULT, chunk, sealed)
        assert lab.where(chunk) == {NodeId("n2")} | ({ME} if me_reliable else set())


async def test_an_available_vault_waits_for_everybody_who_is_there(autojump_clock: MockClock) -> None:
    lab = Lab(1, 2)
    lab.alone_allowed = True
    chunk, sealed = lab.sealed()
    async with running(lab):
        await lab.copies.keep(VAULT, chunk, sealed)
    assert lab.where(chunk) == {ME, NodeId("n1")}


# -- fetching -------------------------------------------------------------------------------------------------------


async def fetch(lab: Lab, chunk: ChunkId) -> bytes:
    return await lab.copies.fetch(VAULT, chunk, 1000)


async def test_this_nodes_copy_serves_first(autojump_clock: MockClock) -> None:
    lab = Lab(2)
    chunk, sealed = lab.sealed()
    lab.give(chunk, sealed, *lab.order(chunk))
    assert await fetch(lab, chunk) == sealed
    assert all(shelf.asked == [] for shelf in lab.shelves.values())


async def test_the_nearest_holder_is_asked_alone(autojump_clock: MockClock) -> None:
    lab = Lab(5, me_reliable=False)
    chunk, sealed = lab.sealed()
    first, second, third = lab.order(chunk)[:3]
    lab.give(chunk, sealed, first, second, third)
    lab.distances = {first: 0.05, second: 0.001, third: 0.02}
    assert await fetch(lab, chunk) == sealed
    assert [node for node, shelf in lab.shelves.items() if shelf.asked] == [second]


@pytest.mark.parametrize("first", READ_MOODS)
async def test_what_comes_back_is_the_chunk_or_an_error_that_says_why(autojump_clock: MockClock, first: str) -> None:
    for moods in product((first,), READ_MOODS, READ_MOODS):
        lab = Lab(3, me_reliable=False)
        chunk, sealed = lab.sealed()
        for shelf, mood in zip(lab.shelves.values(), moods, strict=True):
            set_mood(lab, shelf, mood)
            if mood != "bare":
                lab.give(chunk, sealed, shelf.node)
        async with running(lab):
            if "fine" in moods:
                assert await fetch(lab, chunk) == sealed
            elif {"away", "broken", "stuck"} & set(moods):
                with pytest.raises(ContentElsewhereError) as caught:
                    await fetch(lab, chunk)
                for shelf in lab.shelves.values():
                    named = f"machine {shelf.node}" in caught.value.message
                    assert named == (shelf.mood in {"away", "broken", "stuck"}), moods
            else:
                with pytest.raises(ChunkMissingError):
                    await fetch(lab, chunk)
            await trio.testing.wait_all_tasks_blocked()
            assert lab.is_idle, moods


async def test_a_holder_that_takes_long_is_overtaken_within_bounds(autojump_clock: MockClock) -> None:
    lab = Lab(6, 5, me_reliable=False)
    chunk, sealed = lab.sealed()
    holders = lab.others(chunk)[:5]
    for shelf in holders:
        lab.give(chunk, sealed, shelf.node)
        shelf.delay_s = 30.0
    holders[2].delay_s = 0.5
    began_s = trio.current_time()
    assert await fetch(lab, chunk) == sealed
    assert trio.current_time() - began_s == pytest.approx(2 * PATIENCE_UNKNOWN_S + 0.5)
    assert [len(shelf.asked) for shelf in holders] == [1, 1, 1, 0, 0]
    assert [shelf.cancelled for shelf in holders] == [1, 1, 0, 0, 0]
    assert lab.is_idle
    assert fetching.SIDE_BY_SIDE_MAX == 3


async def test_a_thin_line_is_not_asked_twice_and_not_waited_for(autojump_clock: MockClock) -> None:
    """However near the node: once measured it comes behind the quick ones; after a while it is tried again."""
    lab = Lab(4, 2, me_reliable=False)
    chunk, sealed = lab.sealed()
    thin, quick = lab.others(chunk)[:2]
    lab.give(chunk, sealed, thin.node, quick.node)
    lab.distances = {thin.node: 0.001, quick.node: 0.002}
    thin.delay_s = 4.0
    for _ in range(3):
        assert await fetch(lab, chunk) == sealed
    assert (len(thin.asked), len(quick.asked)) == (1, 3)
    await trio.sleep(SLOW_S + 1)
    began_s = trio.current_time()
    assert await fetch(lab, chunk) == sealed
    assert trio.current_time() - began_s < 2 * PATIENCE_MIN_S
    assert (len(thin.asked), len(quick.asked)) == (2, 4)


async def test_a_copy_far_from_its_place_is_found(autojump_clock: MockClock) -> None:
    lab = Lab(12, 2, me_reliable=False)
    chunk, sealed = lab.sealed()
    last = lab.others(chunk)[-1]
    lab.give(chunk, sealed, last.node)
    assert await fetch(lab, chunk) == sealed
    assert sum(question == "get" for shelf in lab.shelves.values() for question, _ in shelf.asked) == 5


async def test_a_holder_puts_back_what_it_lacks(autojump_clock: MockClock) -> None:
    lab = Lab(2)
    chunk, sealed = lab.sealed()
    lab.give(chunk, sealed, *lab.shelves)
    async with running(lab):
        assert await fetch(lab, chunk) == sealed
        await trio.testing.wait_all_tasks_blocked()
        assert lab.chunks.get(VAULT, chunk) == sealed
        assert lab.damaged == [chunk]


async def test_who_is_no_holder_puts_nothing_back(autojump_clock: MockClock) -> None:
    lab = Lab(2, me_reliable=False)
    chunk, sealed = lab.sealed()
    lab.give(chunk, sealed, *lab.shelves)
    async with running(lab):
        assert await fetch(lab, chunk) == sealed
        await trio.testing.wait_all_tasks_blocked()
        assert not lab.chunks.has(VAULT, chunk)
        assert lab.damaged == []


async def test_a_damaged_copy_is_replaced_by_anothers(autojump_clock: MockClock) -> None:
    lab = Lab(2)
    chunk, sealed = lab.sealed()
    lab.chunks.put(VAULT, chunk, b"rot")
    lab.give(chunk, sealed, NodeId("n2"))
    async with running(lab):
        assert await fetch(lab, chunk) == sealed
        await trio.testing.wait_all_tasks_blocked()
        assert lab.chunks.get(VAULT, chunk) == sealed
        assert lab.damaged == [chunk]


async def test_a_damaged_copy_that_nobody_can_replace_is_damage(autojump_clock: MockClock) -> None:
    for lab in (Lab(2), Lab(0)):
        chunk, _ = lab.sealed()
        lab.chunks.put(VAULT, chunk, b"rot")
        with pytest.raises(ChunkCorruptError):
            await fetch(lab, chunk)


async def test_a_fetch_that_is_given_up_leaves_nothing_running(autojump_clock: MockClock) -> None:
    lab = Lab(3, me_reliable=False)
    chunk, sealed = lab.sealed()
    for shelf in lab.shelves.values():
        shelf.mood = "stuck"
        lab.give(chunk, sealed, shelf.node)
    with trio.move_on_after(1.5):
        await fetch(lab, chunk)
    assert lab.is_idle
    assert sum(shelf.cancelled for shelf in lab.shelves.values()) == 2


# -- renewing -------------------------------------------------------------------------------------------------------


async def test_renewal_reaches_every_holder_once(autojump_clock: MockClock) -> None:
    lab = Lab(4)
    chunk, sealed = lab.sealed()
    lab.give(chunk, sealed, *lab.order(chunk)[:3])
    async with running(lab):
        await lab.copies.renew(VAULT, [chunk, chunk])
    for shelf in lab.others(chunk):
        assert shelf.renewed == ([chunk] if shelf.node in lab.order(chunk)[:3] else [])
    assert lab.short == []


@pytest.mark.parametrize("copies", [1, 2])
async def test_a_chunk_on_too_few_nodes_is_copied_before_it_is_referred_to(
    autojump_clock: MockClock, copies: int
) -> None:
    """A majority is what a write can do with; less is made whole."""
    lab = Lab(4, me_reliable=False)
    chunk, sealed = lab.sealed()
    lab.give(chunk, sealed, *lab.order(chunk)[:copies])
    async with running(lab):
        await lab.copies.renew(VAULT, [chunk])
    assert len(lab.where(chunk)) == (3 if copies == 1 else 2)
    assert lab.short == [VAULT]


async def test_a_copy_that_is_nowhere_is_not_referred_to(autojump_clock: MockClock) -> None:
    lab = Lab(2)
    chunk, sealed = lab.sealed()
    async with running(lab):
        with pytest.raises(ChunkMissingError):
            await lab.copies.renew(VAULT, [chunk])
        lab.down.add(NodeId("n1"))
        with pytest.raises(ContentElsewhereError):
            await lab.copies.renew(VAULT, [chunk])
        lab.give(chunk, sealed, ME)
        lab.shelves[NodeId("n2")].mood = "broken"
        with pytest.raises(TooFewNodesError):
            await lab.copies.renew(VAULT, [chunk])


async def test_alone_renewal_is_the_stores(autojump_clock: MockClock) -> None:
    lab = Lab(0)
    chunk, sealed = lab.sealed()
    with pytest.raises(ChunkMissingError):
        await lab.copies.renew(VAULT, [chunk])
    await lab.copies.keep(VAULT, chunk, sealed)
    await lab.copies.renew(VAULT, [chunk])
    assert await fetch(lab, chunk) == sealed
