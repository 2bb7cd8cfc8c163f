"""Sets of index replicas change while clients write, in one chain of epochs, whoever leads and whoever dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from tests.unit.healing_kit import VAULT, Mesh, Node, open_mesh, wait_until
from trio.testing import MockClock

from meshhold.errors import (
    ConflictError,
    InvalidError,
    NoMajorityError,
    PeerUnreachableError,
    StorageFailedError,
    UnavailableError,
    UnknownOutcomeError,
)
from meshhold.model.configuration import Configuration, Mode
from meshhold.model.entry import Space
from meshhold.replication.healing import reconfiguration
from meshhold.replication.healing.healing_wire import ENROL
from meshhold.replication.index.replica_wire import ACCEPT, ADOPT


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with open_mesh() as opened:
        yield opened


def ids(*nodes: Node) -> list[Any]:
    return [node.node for node in nodes]


async def registered(node: Node) -> Configuration:
    """Return what the register holds."""
    entry = await node.registers.read(VAULT, Space.CONFIGURATION, b"")
    assert entry is not None
    assert isinstance(entry.value, Configuration)
    return entry.value


async def test_one_node_becomes_three_and_another_three(mesh: Mesh) -> None:
    """What was written before and between is read through each quorum; who left keeps nothing."""
    (one,) = await mesh.found(1)
    two, three, four = [await mesh.add() for _ in range(3)]
    await one.put("a", "first")
    grown = await one.reconfiguration.change(VAULT, ids(one, two, three))
    assert (grown.epoch, grown.members, grown.before) == (3, tuple(ids(one, two, three)), ())
    assert [node.seats.votes(VAULT) for node in (one, two, three)] == [True, True, True]
    await two.put("b", "second")
    moved = await two.reconfiguration.change(VAULT, ids(two, three, four), Mode.AVAILABLE)
    assert (moved.epoch, moved.mode) == (5, Mode.AVAILABLE)
    assert moved == await registered(four)
    assert one.seats.adopted(VAULT) == moved
    assert one.index.counts(VAULT).objects == 0
    assert not one.seats.votes(VAULT)
    mesh.cut = {1}
    assert [await four.get(key) for key in ("a", "b")] == ["first", "second"]
    assert one.published[-1] == grown
    assert two.published[-1] == moved


async def test_the_same_set_is_left_as_it_is(mesh: Mesh) -> None:
    one, two = await mesh.found(2)
    assert (await one.reconfiguration.change(VAULT, ids(two, one))).epoch == 1
    changed = await one.reconfiguration.change(VAULT, ids(one, two), Mode.AVAILABLE)
    assert (changed.epoch, changed.mode) == (3, Mode.AVAILABLE)


async def test_a_change_may_be_led_from_outside(mesh: Mesh) -> None:
    """By a trusted member that keeps no index itself."""
    one, two = await mesh.found(2)
    outside = await mesh.add()
    known = one.seats.configuration(VAULT)
    await outside.seats.adopt(VAULT, known)
    changed = await outside.reconfiguration.change(VAULT, ids(one))
    assert changed.members == (one.node,)
    assert two.index.counts(VAULT).objects == 0
    assert outside.seats.adopted(VAULT) == changed


async def test_two_changes_at_once_make_one_chain(mesh: Mesh, autojump_clock: MockClock) -> None:  # noqa: ARG001 - rounds back off in its time
    """Each ends with its own set in force at its end; every replica goes through the same epochs in order."""
    nodes = await mesh.found(3)
    four, five = [await mesh.add() for _ in range(2)]
    chain: dict[int, set[Configuration]] = {}
    for node in (*nodes, four, five):
        node.seats.follow(lambda _, adopted: chain.setdefault(adopted.epoch, set()).add(adopted))
    results: list[Configuration] = []

    async def change(leader: Node, to: list[Node]) -> None:
        results.append(await leader.reconfiguration.change(VAULT, ids(*to)))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, nodes[0], [nodes[0], nodes[1], four])
            nursery.start_soon(change, nodes[1], [nodes[1], nodes[2], five])
            for at in range(10):
                await nodes[1].put(f"k{at}")
    assert sorted(each.epoch for each in results) == [3, 5]
    assert all(len(found) == 1 for found in chain.values()), chain
    last = max(results, key=lambda each: each.epoch)
    member = next(node for node in mesh.nodes if node.node == last.members[0])
    assert await registered(member) == last
    assert [await member.get(f"k{at}") for at in range(10)] == ["x"] * 10


async def test_a_new_node_that_does_not_answer_changes_nothing(mesh: Mesh) -> None:
    one, two = await mesh.found(2)
    dead = await mesh.add()
    mesh.cut = {2}
    with pytest.raises(UnavailableError, match=r"node n2 cannot keep the index now: there is no link.*nothing was"):
        await one.reconfiguration.change(VAULT, ids(one, two, dead))
    assert one.seats.configuration(VAULT).epoch == 1
    assert await one.registers.read(VAULT, Space.CONFIGURATION, b"") is None


async def test_a_vault_goes_back_to_rounds_only_with_all_that_went_on_alone(mesh: Mesh) -> None:
    """What only the one that is away holds would be met by rounds that know nothing of it."""
    one, two, three = await mesh.found(3)
    await one.reconfiguration.change(VAULT, ids(one, two, three), Mode.AVAILABLE)
    mesh.cut = {2}
    with pytest.raises(UnavailableError, match="node n2 cannot keep the index now"):
        await one.reconfiguration.change(VAULT, ids(one, two, three))
    assert one.seats.configuration(VAULT).mode is Mode.AVAILABLE
    mesh.cut = set()
    assert (await one.reconfiguration.change(VAULT, ids(one, two, three))).mode is Mode.LINEARIZABLE


@pytest.mark.parametrize("count", [0, 8])
async def test_sets_that_cannot_be(mesh: Mesh, count: int) -> None:
    (one,) = await mesh.found(1)
    with pytest.raises(InvalidError):
        await one.reconfiguration.change(VAULT, [one.node] * count)
    with pytest.raises(InvalidError):
        await one.reconfiguration.change(VAULT, [one.node] * 2)


async def test_a_dead_replica_is_replaced(mesh: Mesh, autojump_clock: MockClock) -> None:  # noqa: ARG001 - questions to the dead take their time
    one, two, dead = await mesh.found(3)
    four = await mesh.add()
    await one.put("k")
    mesh.cut = {2}
    changed = await one.reconfiguration.change(VAULT, ids(one, two, four))
    assert changed.members == tuple(ids(one, two, four))
    mesh.cut = {0}
    assert await four.get("k") == "x"
    assert await dead.get("k") == "x", "who comes back hears of the change, and asks those that keep the index now"
    assert dead.seats.adopted(VAULT) == changed
    assert dead.index.counts(VAULT).objects == 0


async def test_a_newcomer_that_falls_silent_is_not_waited_for(mesh: Mesh, autojump_clock: MockClock) -> None:  # noqa: ARG001 - the grace passes at once
    """A majority is enough after a grace; the late one does not vote until it is filled."""
    one, two, _ = await mesh.found(3)
    four = await mesh.add()

    async def silent(_caller: Node, target: Node, name: str, _body: Any) -> None:
        if target is four and name in {ENROL, ADOPT}:
            raise PeerUnreachableError("it went away")

    mesh.before_call = silent
    changed = await one.reconfiguration.change(VAULT, ids(one, two, four))
    assert changed.epoch == 3
    mesh.before_call = None
    await four.seats.adopt(VAULT, changed)
    assert not four.seats.votes(VAULT)


async def test_a_change_that_cannot_end_names_who_is_missing_and_ends_later(
    mesh: Mesh,
    autojump_clock: MockClock,  # noqa: ARG001 - patience costs nothing
) -> None:
    mesh.chores = True
    (one,) = await mesh.found(1)
    two = await mesh.add()
    gone = False

    async def leave(_caller: Node, target: Node, name: str, _body: Any) -> None:
        if gone or (target is two and name == ENROL):
            raise PeerUnreachableError("it went away")

    mesh.before_call = leave
    with pytest.raises(NoMajorityError, match=r"missing: n1 \(it went away\).*goes on by itself"):
        await one.reconfiguration.change(VAULT, ids(one, two))
    joint = one.seats.configuration(VAULT)
    assert joint.is_joint
    mesh.before_call = None
    await wait_until(lambda: two.seats.configuration(VAULT).epoch == 3, 120)
    assert not one.seats.configuration(VAULT).is_joint
    assert one.seats.votes(VAULT)
    assert two.seats.votes(VAULT)
    assert [*one.published, *two.published]


async def test_another_replica_goes_on_where_the_leader_died(mesh: Mesh, autojump_clock: MockClock) -> None:  # noqa: ARG001 - a minute passes at once
    """After any step: the joint configuration written, adopted by some, enrolled, the end written."""
    mesh.chores = True
    nodes = await mesh.found(3)
    four = await mesh.add()
    deaths = [(ADOPT, 1), (ENROL, 1), (ACCEPT, 4), (ADOPT, 4)]
    for step, (name, last) in enumerate(deaths):
        current = nodes[1].seats.configuration(VAULT)
        to = ids(*nodes[:2], four) if step % 2 == 0 else ids(*nodes)
        passed = 0

        async def die(caller: Node, _target: Node, called: str, _body: Any, name: str = name, last: int = last) -> None:
            nonlocal passed
            if caller is nodes[0] and called == name:
                passed += 1
                if passed == last:
                    mesh.cut = {0}

        mesh.before_call = die
        with trio.move_on_after(10), suppress(UnavailableError):
            await nodes[0].reconfiguration.change(VAULT, to)
        assert passed >= last
        mesh.before_call = None
        await wait_until(partial(_is_past, nodes[1], current.epoch), 300)
        mesh.cut = set()
        await mesh.restart(0)
        nodes[0] = mesh.nodes[0]
        await wait_until(lambda: nodes[0].seats.configuration(VAULT) == nodes[1].seats.configuration(VAULT), 300)
        await nodes[1].put(f"k{step}")
        assert await nodes[0].get(f"k{step}") == "x"


def _is_past(node: Node, epoch: int) -> bool:
    return node.seats.configuration(VAULT).epoch == epoch + 2


async def test_a_change_that_nobody_told_of_is_found_in_the_own_row(mesh: Mesh, autojump_clock: MockClock) -> None:  # noqa: ARG001 - a minute passes at once
    """Written, then its leader died before anybody adopted it."""
    mesh.chores = True
    one, two, three = await mesh.found(3)
    joint = one.seats.configuration(VAULT).begin_change(ids(one, two), Mode.LINEARIZABLE)
    await one.reconfiguration._begin(VAULT, one.seats.configuration(VAULT), joint)
    assert all(node.seats.configuration(VAULT).epoch == 1 for node in (one, two, three))
    await wait_until(lambda: two.seats.configuration(VAULT).epoch == 3, 3 * reconfiguration.STILL_S)
    assert two.seats.configuration(VAULT).members == tuple(ids(one, two))
    assert [*one.published, *two.published, *three.published]


async def test_what_cannot_be_published_is_published_later(mesh: Mesh, autojump_clock: MockClock) -> None:  # noqa: ARG001 - a minute passes at once
    mesh.chores = True
    one, two = await mesh.found(2)
    told: list[Configuration] = []
    failures = 2

    async def publish(_vault: Any, configuration: Configuration) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StorageFailedError("the disk fails")
        told.append(configuration)

    one.reconfiguration._publish = publish
    changed = await one.reconfiguration.change(VAULT, ids(one))
    assert told == []
    await wait_until(lambda: changed in told, 5 * reconfiguration.LOOK_EVERY_S)
    assert two.published == []


async def test_a_write_of_the_configuration_whose_outcome_is_unknown_is_looked_up(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = await mesh.found(3)
    change = one.registers.change

    async def unknown(*arguments: Any) -> Any:
        await change(*arguments)
        raise UnknownOutcomeError("perhaps")

    monkeypatch.setattr(one.registers, "change", unknown)
    changed = await one.reconfiguration.change(VAULT, ids(one, two))
    assert (changed.epoch, changed.members) == (3, tuple(ids(one, two)))


async def test_a_replica_that_returns_after_it_was_replaced_drops_what_it_held(
    mesh: Mesh,
    autojump_clock: MockClock,  # noqa: ARG001 - questions to the dead take their time
) -> None:
    """And when it has a seat again, its rows of the earlier time do not count."""
    one, two, three = await mesh.found(3)
    await one.put("k", "old")
    mesh.cut = {2}
    await one.reconfiguration.change(VAULT, ids(one, two))
    await one.put("k", "new")
    back = one.seats.configuration(VAULT).begin_change(ids(one, two, three), Mode.LINEARIZABLE)
    mesh.cut = set()
    await three.seats.adopt(VAULT, back.end_change())
    assert three.row("k") is None
    assert not three.seats.votes(VAULT)


# -- one of two is gone for good ------------------------------------------------------------------------------------


async def test_the_survivor_of_two_goes_on_with_all_that_was_acknowledged(
    mesh: Mesh,
    autojump_clock: MockClock,  # noqa: ARG001 - questions to the dead take their time
) -> None:
    """Whichever of them took the writes. Who comes back is told, keeps nothing, and brings nothing back."""
    one, two = await mesh.found(2)
    for at in range(20):
        await (one, two)[at % 2].put(f"k{at}", f"v{at}")
    await two.delete("k3")
    mesh.cut = {1}
    await two.plant("k4", two.stamp(), "never acknowledged")
    await two.plant("only there", two.stamp())
    with pytest.raises(NoMajorityError):
        await one.get("k0")
    before = one.seats.configuration(VAULT)
    alone = await one.reconfiguration.survive(VAULT, two.node)
    assert (alone.epoch, alone.members, alone.before) == (before.epoch + 2, (one.node,), ())
    assert alone.seats[0] == before.seat_of(one.node)
    assert (await registered(one), one.published) == (alone, [alone])
    assert [await one.get(f"k{at}") for at in range(20)] == [None if at == 3 else f"v{at}" for at in range(20)]
    await one.put("k5", "later")
    mesh.cut = set()
    assert await two.get("k4") == "v4", "it asks, is told, and reads from who keeps the index now"
    assert await two.get("k5") == "later"
    assert await two.get("only there") is None
    assert two.seats.adopted(VAULT) == alone
    assert (two.index.counts(VAULT).objects, two.row("only there"), two.seats.votes(VAULT)) == (0, None, False)
    again = await one.reconfiguration.change(VAULT, ids(one, two))
    assert [seat.since for seat in again.seats] == [before.seats[0].since, alone.epoch + 1]
    assert [await two.get(key) for key in ("k4", "k5", "only there")] == ["v4", "later", None]


async def test_a_write_that_the_dead_had_not_taken_happens_once_or_never(
    mesh: Mesh,
    autojump_clock: MockClock,  # noqa: ARG001 - questions to the dead take their time
) -> None:
    """It is in flight while the survivor is told to go on, and ends there."""
    one, two = await mesh.found(2)
    await one.put("k", "old")

    async def die(_caller: Node, _target: Node, name: str, _body: Any) -> None:
        if name == ACCEPT:
            mesh.cut = {1}

    mesh.before_call = die
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.put, "k", "new")
        await wait_until(lambda: mesh.cut == {1}, 5)
        await one.reconfiguration.survive(VAULT, two.node)
    assert await one.get("k") == "new"
    entry = await one.registers.read(VAULT, Space.OBJECTS, b"k")
    assert entry is not None
    assert entry.generation == 2


async def test_a_survivor_that_stopped_halfway_is_asked_again(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it goes by is durable first; its row and what the mesh is told follow. Then there is nothing left to do."""
    one, two = await mesh.found(2)
    mesh.cut = {1}

    async def fail(*_: Any) -> None:
        raise StorageFailedError("the disk fails")

    with monkeypatch.context() as patched:
        patched.setattr(one.registers, "change", fail)
        with pytest.raises(StorageFailedError):
            await one.reconfiguration.survive(VAULT, two.node)
    one = await mesh.restart(0)
    alone = await one.reconfiguration.survive(VAULT, two.node)
    assert (alone.epoch, await registered(one), one.published) == (3, alone, [alone])
    assert await one.reconfiguration.survive(VAULT, two.node) == alone
    assert one.published == [alone]


async def test_each_alone_goes_on_alone(mesh: Mesh) -> None:
    """What only the other one had taken is lost then, as that mode says."""
    one, two = await mesh.found(2)
    await one.reconfiguration.change(VAULT, ids(one, two), Mode.AVAILABLE)
    mesh.cut = {1}
    await one.put("k")
    alone = await one.reconfiguration.survive(VAULT, two.node)
    assert (alone.members, alone.mode) == ((one.node,), Mode.AVAILABLE)
    assert await one.get("k") == "x"


async def test_who_answers_is_not_gone(mesh: Mesh) -> None:
    """Whatever it says: a refusal is an answer."""
    one, two = await mesh.found(2)
    with pytest.raises(ConflictError, match="n1 answers: it is not gone"):
        await one.reconfiguration.survive(VAULT, two.node)
    await two.seats.leave(VAULT)
    with pytest.raises(ConflictError, match="n1 answers: it is not gone"):
        await one.reconfiguration.survive(VAULT, two.node)
    assert one.seats.configuration(VAULT).epoch == 1


async def test_two_of_three_are_needed_and_named(mesh: Mesh) -> None:
    one, _, three = await mesh.found(3)
    mesh.cut = {1, 2}
    with pytest.raises(NoMajorityError, match=r"3 nodes keep the index.*n2 is replaced, and too few of n0, n1 answer"):
        await one.reconfiguration.survive(VAULT, three.node)
    assert one.seats.configuration(VAULT).epoch == 1


async def test_only_a_replica_that_votes_survives(mesh: Mesh) -> None:
    one, two = await mesh.found(2)
    outside = await mesh.add()
    await outside.seats.adopt(VAULT, one.seats.configuration(VAULT))
    mesh.cut = {1}
    with pytest.raises(ConflictError, match="n0 keeps the index, and this node does not"):
        await outside.reconfiguration.survive(VAULT, two.node)
    wiped = await mesh.restart(0, wiped=True)
    await wiped.seats.adopt(VAULT, outside.seats.configuration(VAULT))
    with pytest.raises(ConflictError, match="replica is not complete, and only n1 has the rest"):
        await wiped.reconfiguration.survive(VAULT, two.node)


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_change_under_way_is_not_cut_short(mesh: Mesh, adopted: bool) -> None:
    """Whether it is adopted here, or only in this node's own row."""
    one, two = await mesh.found(2)
    three = await mesh.add()
    joint = one.seats.configuration(VAULT).begin_change(ids(one, two, three), Mode.LINEARIZABLE)
    await one.reconfiguration._begin(VAULT, one.seats.configuration(VAULT), joint)
    if adopted:
        await one.seats.adopt(VAULT, joint)
    mesh.cut = {1}
    with pytest.raises(ConflictError, match="a change of the index replicas was under way when n1 went away"):
        await one.reconfiguration.survive(VAULT, two.node)
    assert one.seats.configuration(VAULT) == (joint if adopted else Configuration(1, joint.before))
