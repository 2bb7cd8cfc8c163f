"""A surplus copy goes only when all who are to keep the chunk have it: whatever the views, delays and restarts."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from unittest.mock import patch

import pytest
import trio
from tests.unit.repair_lab import VAULT, Lab, LabNode, chunk_of
from trio._core import _run as scheduler
from trio.testing import MockClock

from meshhold.model.ids import ChunkId
from meshhold.replication.repair import surplus
from meshhold.replication.repair.leases import LEASE_S, USE_S
from meshhold.replication.repair.repair import EVERY_S, RETRY_S

VIEWS = [
    ("abcd", ""),
    ("abc", ""),
    ("bcd", ""),
    ("abd", ""),
    ("acd", ""),
    ("ab", ""),
    ("cd", ""),
    ("abcd", "a"),
    ("abcd", "c"),
]
CHUNKS = 4
STEPS = 5
DELAYS = (0.0,) * 120 + (1.0, 20.0, 70.0, 130.0)


def play(seed: int, bug: str = "") -> Lab:
    """Play one schedule, the same for the same seed."""
    with (
        patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True),
        patch.object(scheduler, "_r", random.Random(seed)),
        patch.object(surplus, "USE_S", 1e6 if bug == "use ignored" else USE_S),
    ):
        return trio.run(partial(run_schedule, seed, bug), clock=MockClock(autojump_threshold=0))


async def run_schedule(seed: int, bug: str) -> Lab:
    """Let four nodes repair while views change, links break, nodes restart and lose their disks; then heal."""
    lab = Lab("abcd", seed=seed, bug=bug)
    chance = random.Random(seed)
    for number in range(CHUNKS):
        lab.put(f"{seed} {number}", *chance.sample("abcd", chance.choice((1, 2, 3, 4))))
    chunks = set().union(*(node.chunks() for node in lab.nodes.values()))
    async with trio.open_nursery() as nursery:
        for node in lab.nodes.values():
            nursery.start_soon(node.run, node.scope)
        await trio.sleep(LEASE_S)
        lab.loss, lab.delays = 0.02, DELAYS
        for _ in range(STEPS):
            if chance.random() < 0.3:
                await stall(lab, chance)
            disturb(lab, chance, nursery)
            await trio.sleep(chance.choice((0.0, 1.0, 5.0, 15.0, 40.0)))
        lab.loss, lab.delays, lab.removal_delays, lab.cut = 0.0, (), (), set()
        lab.all_see(lab.view(*chance.choice(VIEWS)))
        for node in lab.nodes.values():  # as the change of the view, and links that open, do
            node.repair.soon(VAULT)
        await heal(lab)
        nursery.cancel_scope.cancel()
    if not bug:
        assert not lab.faults
        assert set().union(*(node.chunks() for node in lab.nodes.values())) == chunks, "a chunk is lost"
        assert lab.is_settled(), "a copy is not where it should be"
    return lab


def disturb(lab: Lab, chance: random.Random, nursery: trio.Nursery) -> None:
    """Do one thing that happens to nodes."""
    node = lab[chance.choice("abcd")]
    kind = chance.choice(("view", "views", "views", "cut", "mend", "mend", "restart", "wipe"))
    if kind == "view":
        node.holders.seen = lab.view(*chance.choice(VIEWS))
    elif kind == "views":
        change_views(lab, chance, 0.8)
    elif kind == "cut":
        lab.cut.add(frozenset((node.id, lab[chance.choice("abcd")].id)))
    elif kind == "mend":
        lab.cut.clear()
    elif kind == "restart":
        restart(node, nursery)
    elif kind == "wipe" and may_lose(lab, node):
        lab.wiped_s[node.id] = trio.current_time()
        node.store.drop_vault(VAULT)
        restart(node, nursery)
    for each in lab.nodes.values():
        each.repair.soon(VAULT)


async def stall(lab: Lab, chance: random.Random) -> None:
    """Change views twice, so that a removal that the first one calls for is still under way at the second."""
    lab.all_see(lab.view(*chance.choice(VIEWS)))
    await trio.sleep(LEASE_S)
    lab.removal_delays = (chance.choice((30.0, 55.0, 125.0)),)
    change_views(lab, chance, 1.0)
    await trio.sleep(3.0)
    lab.removal_delays = ()
    change_views(lab, chance, 0.9)
    await trio.sleep(chance.choice((3.0, LEASE_S - 2.0)))


def change_views(lab: Lab, chance: random.Random, share: float) -> None:
    """Let most nodes learn of another view, and act on it."""
    seen = lab.view(*chance.choice(VIEWS))
    for node in lab.nodes.values():
        if chance.random() < share:
            node.holders.seen = seen
        node.repair.soon(VAULT)


def restart(node: LabNode, nursery: trio.Nursery) -> None:
    """End a node's process and begin another one on the same disk."""
    node.scope.cancel()
    node.start()
    nursery.start_soon(node.run, node.scope)


def may_lose(lab: Lab, node: LabNode) -> bool:
    """Tell whether a disk may be lost: not one with a last copy, and not the second within a short time."""
    alone = any(lab.whereabouts(chunk) == {node.id} for chunk in node.chunks())
    return not alone and all(trio.current_time() - at_s > 600 for at_s in lab.wiped_s.values())


async def heal(lab: Lab) -> None:
    """Wait until everything is where it should be.

    A pass that was under way when the trouble ended may still bring a node copies after that node's own pass; the next
    one comes by itself, and waits for leases at most twice.
    """
    with trio.move_on_after(max(DELAYS) + 1.1 * EVERY_S + 2 * LEASE_S + 4 * 1.1 * RETRY_S):
        while not lab.is_settled():  # noqa: ASYNC110 - nobody tells: the copies are looked at from outside
            await trio.sleep(5)


@pytest.mark.parametrize("seed", range(12))
def test_no_copy_that_is_needed_goes_and_all_end_where_they_should(seed: int) -> None:
    """Schedules of four nodes with changing views, lost and slow calls, restarts and lost disks."""
    assert not play(seed).faults


@pytest.mark.slow
def test_no_copy_that_is_needed_goes_in_hundreds_of_schedules() -> None:
    assert sum(play(seed).removals for seed in range(12, 512)) > 1_000


@pytest.mark.parametrize(("bug", "seeds"), [("unverified", 4), ("any version", 100), ("no lease", 150)])
@pytest.mark.slow
def test_schedules_find_planted_mistakes(bug: str, seeds: int) -> None:
    assert any(play(seed, bug).faults for seed in range(seeds))


# -- the mistakes that leases, marks, versions and deadlines are there for, each in the schedule that needs them ------


async def overtaken(lab: Lab, *, removal_s: float, wait_s: float) -> None:
    """Node `a` is about to remove its surplus, which `b` and `c` confirmed; now `b` gets a view that makes it go."""
    lab.all_see(lab.view("bcd"))
    text = next(str(n) for n in range(999) if set(lab["a"].holders.seen.holders(chunk_of(str(n))[0])) == {"b", "c"})
    chunk = lab.put(text, "a", "b", "c")
    await trio.sleep(LEASE_S)
    async with trio.open_nursery() as nursery:
        lab.removal_delays = (removal_s,)
        nursery.start_soon(lab["a"].repair.pass_over, VAULT)
        await trio.sleep(1)
        lab.removal_delays = ()
        for name in "bcd":
            lab[name].holders.seen = lab.view("cd")
        await trio.sleep(wait_s)
        await lab["b"].repair.pass_over(VAULT)
    assert len(lab.whereabouts(chunk)) >= lab.factor


async def crossed(lab: Lab) -> None:
    """Node `c` is about to remove its surplus; now it is to keep the chunk, and `d` asks it for that."""
    lab.all_see(lab.view("ab"))
    chunk = lab.put("x", "a", "b", "c", "d")
    await trio.sleep(LEASE_S)
    async with trio.open_nursery() as nursery:
        lab.removal_delays = (30.0,)
        nursery.start_soon(lab["c"].repair.pass_over, VAULT)
        await trio.sleep(1)
        lab.removal_delays = (50.0,)
        lab.all_see(lab.view("bc"))
        nursery.start_soon(lab["d"].repair.pass_over, VAULT)
    assert len(lab.whereabouts(chunk)) >= lab.factor


SCHEDULES: dict[str, Callable[[Lab], Awaitable[None]]] = {
    "no lease": partial(overtaken, removal_s=50.0, wait_s=1.0),
    "use ignored": partial(overtaken, removal_s=130.0, wait_s=LEASE_S),
    "no mark": crossed,
}


def staged(name: str, bug: str) -> Lab:
    """Play one of the schedules above."""

    async def main() -> Lab:
        lab = Lab("abcd", bug=bug)
        await SCHEDULES[name](lab)
        return lab

    with patch.object(surplus, "USE_S", 1e6 if bug == "use ignored" else USE_S):
        return trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_promise_holds_while_somebody_acts_on_it(name: str) -> None:
    """A confirmed copy stays while another goes on the strength of it; a stale yes is worth nothing."""
    assert not staged(name, "").faults
    assert any("does not have" in fault for fault in staged(name, name).faults), "this schedule shows nothing"


def disagreeing(bug: str) -> Lab:
    """Two nodes believe that each other is to keep the chunk, and act on it for hours."""

    async def main() -> Lab:
        lab = Lab("abcd", bug=bug, factor=1)
        lab.put("x", "a", "b")
        for name in "abcd":
            lab[name].holders.seen = lab.view("b" if name == "a" else "a")
        for _ in range(10):
            await trio.sleep(LEASE_S)
            await lab["a"].repair.pass_over(VAULT)
            await lab["b"].repair.pass_over(VAULT)
        return lab

    return trio.run(main, clock=MockClock(autojump_threshold=0))


def test_nodes_of_different_views_hand_nothing_to_and_fro() -> None:
    """What is here stays here; nodes that do not compare versions move one chunk for ever."""
    lab = disagreeing("")
    assert (lab.moved, lab.removals, lab.faults) == (0, 0, [])
    lab = disagreeing("any version")
    assert lab.removals > 1
    assert any("never agreed" in fault for fault in lab.faults)


async def surplus_on_a(bug: str = "") -> tuple[Lab, ChunkId]:
    lab = Lab("abcd", bug=bug)
    lab.all_see(lab.view("bcd"))
    chunk = lab.put("x", "a", "b", "c", "d")
    await trio.sleep(LEASE_S)
    return lab, chunk


def spoil(node: LabNode, chunk: ChunkId) -> None:
    """Let a node's copy rot."""
    held = node.store._vaults[VAULT][chunk]
    node.store._vaults[VAULT][chunk] = (b"?" * len(held[0]), held[1])


@pytest.mark.parametrize("bug", ["", "unverified"])
async def test_a_rotten_copy_confirms_nothing(bug: str, autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    lab, chunk = await surplus_on_a(bug)
    holder = lab["a"].holders.seen.holders(chunk)[0]
    spoil(lab.nodes[holder], chunk)
    await lab["a"].repair.pass_over(VAULT)
    assert bool(lab.faults) == bool(bug)
    if not bug:
        assert lab["a"].store.has(VAULT, chunk)
        await lab["a"].repair.pass_over(VAULT)
        assert lab.whereabouts(chunk) >= set(lab["a"].holders.seen.holders(chunk))


async def test_a_young_process_removes_nothing(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    lab, chunk = await surplus_on_a()
    lab["a"].start()
    await lab["a"].repair.pass_over(VAULT)
    assert lab["a"].store.has(VAULT, chunk)
    assert lab["a"].repair.progress()[VAULT].surplus == 1
    await trio.sleep(LEASE_S)
    await lab["a"].repair.pass_over(VAULT)
    assert not lab["a"].store.has(VAULT, chunk)


async def test_a_copy_that_is_acknowledged_meanwhile_stays(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    """A put, or a renewal, between the question and the removal is newer than the removal's cutoff."""
    lab, chunk = await surplus_on_a()
    lab.removal_delays = (10.0,)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab["a"].repair.pass_over, VAULT)
        await trio.sleep(1)
        lab.put("x", "a", touched_s=lab.now_s())
    assert lab["a"].store.has(VAULT, chunk)
    await trio.sleep(10)
    lab.removal_delays = ()
    await lab["a"].repair.pass_over(VAULT)
    assert not lab["a"].store.has(VAULT, chunk)


async def test_a_clock_that_is_set_back_removes_nothing(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    lab, chunk = await surplus_on_a()
    lab.removal_delays = (10.0,)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lab["a"].repair.pass_over, VAULT)
        await trio.sleep(1)
        lab.step_s = -30.0
    assert lab["a"].store.has(VAULT, chunk)


async def test_a_holder_that_is_away_keeps_the_surplus(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    """The handoff of a dead holder stays until that one has its copy, or is stood in for."""
    lab, chunk = await surplus_on_a()
    holder = lab.nodes[lab["a"].holders.seen.holders(chunk)[0]]
    holder.store.drop_vault(VAULT)
    lab.cut.add(frozenset((lab["a"].id, holder.id)))
    assert not await lab["a"].repair.pass_over(VAULT)
    assert lab["a"].store.has(VAULT, chunk)
    assert "away" in lab["a"].repair.progress()[VAULT].waiting
    lab.cut.clear()
    await lab["a"].repair.pass_over(VAULT)
    assert holder.store.has(VAULT, chunk)
    assert not lab["a"].store.has(VAULT, chunk)
    assert not lab.faults
