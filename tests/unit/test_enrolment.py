"""A replica votes when it holds what it must: newcomers in a joint epoch, and those that lost everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.healing_kit import START_MS, VAULT, WINDOW_MS, Mesh, Node, open_mesh, register, stamp_at, wait_until
from trio.testing import MockClock

from meshhold.errors import InvalidError, NoMajorityError, PeerUnreachableError, ReplicaRefusedError
from meshhold.model.configuration import Configuration, Mode, Seat
from meshhold.model.entry import Space
from meshhold.register.acceptor import Stale
from meshhold.register.rounds import Answer
from meshhold.replication.healing.enrolment import JOINING, NO_SEAT, VOTES
from meshhold.replication.healing.healing_wire import BUCKET_DIGESTS, FLOOR
from meshhold.replication.index.contract import Absent
from meshhold.replication.index.registers import Write
from meshhold.replication.index.replica_wire import ADOPT


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with open_mesh() as opened:
        yield opened


async def begin_change(nodes: list[Node], to: list[Node], adopted_by: list[Node]) -> Configuration:
    """Write a joint configuration, as the beginning of a change does, and let some adopt it."""
    current = nodes[0].seats.configuration(VAULT)
    joint = current.begin_change([node.node for node in to], Mode.LINEARIZABLE)
    await nodes[0].registers.change(VAULT, Space.CONFIGURATION, b"", lambda _: Write(joint))
    for node in adopted_by:
        await node.seats.adopt(VAULT, joint)
    return joint


# -- in a joint epoch -----------------------------------------------------------------------------------------------


async def test_a_newcomer_reads_a_majority_of_the_old_set(mesh: Mesh) -> None:
    """Also from one that had not heard of the change: it is told, and answers no old round from then on."""
    old = await mesh.found(3)
    new = await mesh.add()
    for at in range(20):
        await old[0].put(f"k{at}")
    joint = await begin_change(old, [*old[:2], new], [old[0], new])
    assert await new.enrolment.enrol_now(VAULT, joint.epoch)
    assert await old[0].enrolment.wait_enrolled(VAULT, joint.epoch)
    in_joint = [node for node in old if node.seats.adopted(VAULT) == joint]
    assert len(in_joint) >= 2
    assert new.digests == old[0].digests
    stable = joint.end_change()
    await new.seats.adopt(VAULT, stable)
    assert new.seats.votes(VAULT)


async def test_a_newcomer_without_a_majority_of_the_old_set_does_not_vote_afterwards(mesh: Mesh) -> None:
    """What only the missing ones hold may have been chosen."""
    old = await mesh.found(3)
    new = await mesh.add()
    joint = await begin_change(old, [*old[:2], new], [old[0], new])
    mesh.cut = {1, 2}
    with pytest.raises(ReplicaRefusedError, match=r"needs more index replicas; missing: .*no link to n"):
        await new.enrolment.enrol_now(VAULT, joint.epoch)
    await new.seats.adopt(VAULT, joint.end_change())
    assert not new.seats.votes(VAULT)


async def test_a_replica_of_both_sets_counts_itself(mesh: Mesh) -> None:
    old = await mesh.found(3)
    mesh.cut = {2}
    await old[0].put("k")
    mesh.cut = {0}
    joint = await begin_change(old[1:], [*old[1:]], old[1:])
    assert await old[2].enrolment.enrol_now(VAULT, joint.epoch)
    assert old[2].row("k") == old[1].row("k")
    assert await old[2].enrolment.enrol_now(VAULT, joint.epoch), "asked again it is ready still"


async def test_what_old_rounds_left_behind_is_below_the_floor_of_the_new_set(mesh: Mesh) -> None:
    """An entry that one old replica took, above what the new set could choose without seeing it, would undo that."""
    old = await mesh.found(3)
    new = await mesh.add()
    ahead = stamp_at(mesh.wall.ms + 60_000, old[0])
    for node in old[:2]:
        assert isinstance(await node.replica.prepare(1, register("k"), ahead), Answer)
    await old[0].plant("k", ahead, "unfinished")
    joint = await begin_change(old, [old[0], new], [old[1], old[2], new])

    async def hide(_caller: Node, target: Node, name: str, _body: Any) -> None:
        if name == FLOOR and target is old[0]:
            raise PeerUnreachableError("there is no link to n0")

    mesh.before_call = hide
    assert await new.enrolment.enrol_now(VAULT, joint.epoch)
    assert isinstance(await new.replica.prepare(joint.epoch, register("k"), new.stamp()), Stale)
    refused = await new.replica.prepare(joint.epoch, register("k"), stamp_at(mesh.wall.ms + 59_000, new))
    assert isinstance(refused, Stale)
    assert refused.ballot >= ahead


async def test_a_source_whose_clock_is_far_off_is_left_out(mesh: Mesh) -> None:
    """Its floor would keep everybody out for as long."""
    old = await mesh.found(3)
    new = await mesh.add()
    far = stamp_at(mesh.wall.ms + 10 * WINDOW_MS, old[0])
    assert isinstance(await old[0].replica.prepare(1, register("own"), far), Answer)
    joint = await begin_change(old[1:], [*old, new], [*old, new])
    assert await new.enrolment.enrol_now(VAULT, joint.epoch)
    assert new.copying.horizon < far
    mesh.cut = {1}
    other = await mesh.restart(3, wiped=True)
    await other.seats.adopt(VAULT, joint)
    with pytest.raises(ReplicaRefusedError, match="ahead of this machine's clock"):
        await other.enrolment.enrol_now(VAULT, joint.epoch)


async def test_a_floor_far_ahead_is_refused(mesh: Mesh) -> None:
    """A node whose clock is wrong cannot close another one's replica for years."""
    one, two = await mesh.found(2)
    with pytest.raises(InvalidError, match="ahead of this machine's clock"):
        await one.copying.raise_floor(stamp_at(mesh.wall.ms + 3 * WINDOW_MS, two))
    assert isinstance(await one.replica.prepare(1, register("k"), one.stamp()), Answer)


async def test_the_horizon_is_above_every_promise(mesh: Mesh) -> None:
    (one,) = await mesh.found(1)
    ballot = one.stamp()
    assert one.copying.horizon < ballot
    assert isinstance(await one.replica.prepare(1, register("k"), ballot), Answer)
    assert one.copying.horizon >= ballot


async def test_a_newcomer_that_was_wiped_after_the_change_ended_does_not_vote_by_it(mesh: Mesh) -> None:
    """An old set that has not heard of the end would fill it; but its register tells that the end was written."""
    old = await mesh.found(3)
    new = await mesh.add()
    joint = await begin_change(old, [*old[:2], new], [*old, new])
    assert await new.enrolment.enrol_now(VAULT, joint.epoch)
    await old[0].registers.change(VAULT, Space.CONFIGURATION, b"", lambda _: Write(joint.end_change()))
    new = await mesh.restart(3, wiped=True)
    await new.seats.adopt(VAULT, joint)
    assert not new.seats.votes(VAULT)
    with pytest.raises(ReplicaRefusedError, match="it holds the configuration of epoch 3"):
        await new.enrolment.enrol_now(VAULT, joint.epoch)
    assert not new.seats.votes(VAULT)
    await new.seats.adopt(VAULT, joint.end_change())
    assert not new.seats.votes(VAULT)


async def test_replicas_that_lag_behind_choose_nothing_with_a_newcomer_that_was_wiped(
    mesh: Mesh,
    autojump_clock: MockClock,  # noqa: ARG001 - waiting costs nothing
) -> None:
    """It chose something in the next epoch and forgot it: in the one before it must not help them to another choice."""
    one, two, three = await mesh.found(3)
    new = await mesh.add()

    async def hide_the_end(_caller: Node, target: Node, name: str, body: Any) -> None:
        if name == ADOPT and not body["c"][2] and target in (two, three):
            raise PeerUnreachableError("gone")

    mesh.before_call = hide_the_end
    await one.reconfiguration.change(VAULT, [one.node, two.node, new.node])
    mesh.cut = {1, 2}
    await one.put("k", "chosen by one and new")
    await mesh.restart(3, wiped=True)
    mesh.cut, mesh.before_call = {0}, None
    assert two.seats.configuration(VAULT).is_joint
    with pytest.raises(NoMajorityError):
        await two.put("k", "chosen by two, three and new")


async def test_a_newcomer_joins_before_it_votes(
    mesh: Mesh,
    autojump_clock: MockClock,  # noqa: ARG001 - waiting costs nothing
) -> None:
    old = await mesh.found(3)
    new = await mesh.add()
    joint = await begin_change(old, [*old[:2], new], old)
    mesh.cut = {0, 1}
    await new.seats.adopt(VAULT, joint)
    with pytest.raises(ReplicaRefusedError, match="taking part in a change of the index replicas needs more"):
        await new.enrolment.enrol_now(VAULT, joint.epoch)
    assert new.enrolment.state(VAULT) == JOINING
    assert not await new.enrolment.refill(VAULT)
    mesh.cut = {0}
    await wait_until(lambda: new.seats.votes(VAULT), 20)


async def test_nothing_is_enrolled_for_another_epoch_or_without_a_seat(mesh: Mesh) -> None:
    old = await mesh.found(3)
    other = await mesh.add()
    assert not await old[0].enrolment.enrol_now(VAULT, 1), "the configuration is stable"
    assert not await old[0].enrolment.enrol_now(VAULT, 2)
    assert not await other.enrolment.enrol_now(VAULT, 1)
    assert other.enrolment.state(VAULT) == NO_SEAT
    assert other.enrolment.states() == {}
    assert not await other.enrolment.refill(VAULT)


# -- a replica that lost everything ---------------------------------------------------------------------------------


async def wipe(mesh: Mesh, number: int) -> Node:
    configuration = mesh.nodes[number].seats.configuration(VAULT)
    node = await mesh.restart(number, wiped=True)
    await node.seats.adopt(VAULT, configuration)
    return node


async def test_a_wiped_replica_waits_is_filled_and_votes(
    mesh: Mesh,
    autojump_clock: MockClock,  # noqa: ARG001 - waiting costs nothing
) -> None:
    one, two, _ = await mesh.found(3)
    for at in range(20):
        await one.put(f"k{at}")
    wiped = await wipe(mesh, 2)
    name = register("k1")
    assert isinstance(await wiped.replica.read(1, name), Absent)
    assert isinstance(await wiped.replica.prepare(1, name, wiped.stamp()), Absent)
    await wait_until(lambda: wiped.digests == one.digests, 20)
    assert wiped.enrolment.states() == {VAULT: "waiting until 2023-11-14 22:23:20 UTC"}
    mesh.pass_ms(WINDOW_MS - 1_000)
    assert not await wiped.enrolment.refill(VAULT)
    mesh.pass_ms(2_000)
    await wait_until(lambda: wiped.seats.votes(VAULT), 20)
    assert wiped.enrolment.state(VAULT) == VOTES
    mesh.cut = {0}
    assert await wiped.get("k1") == "x"
    assert isinstance(await two.replica.prepare(1, name, wiped.stamp()), Answer)


async def test_the_wait_outlasts_a_restart_and_begins_anew_when_the_clock_was_set_back(mesh: Mesh) -> None:
    await mesh.found(3)
    wiped = await wipe(mesh, 2)
    await wait_until(lambda: wiped.enrolment.state(VAULT).startswith("waiting until"), 20)
    mesh.pass_ms(WINDOW_MS // 2)
    wiped = await mesh.restart(2)
    mesh.pass_ms(WINDOW_MS // 2 + 2)
    assert await wiped.enrolment.refill(VAULT)
    wiped = await wipe(mesh, 2)
    assert not await wiped.enrolment.refill(VAULT)
    mesh.wall.ms = START_MS - 5_000
    assert not await wiped.enrolment.refill(VAULT)
    mesh.pass_ms(WINDOW_MS)
    assert not await wiped.enrolment.refill(VAULT)
    mesh.pass_ms(5_000)
    assert await wiped.enrolment.refill(VAULT)


async def test_a_wiped_replica_needs_all_that_could_have_met_it_in_a_quorum(mesh: Mesh) -> None:
    """Of three, both others: an entry may have been on the wiped one and on any of them."""
    one, _, late = await mesh.found(3)
    mesh.cut = {1}
    await one.put("k", "on 0 and 2")
    assert late.row("k") == one.row("k")
    wiped = await wipe(mesh, 2)
    await wait_until(lambda: wiped.row("k") == one.row("k"), 20)  # it is copied ahead
    mesh.pass_ms(WINDOW_MS + 1_000)
    mesh.cut = {0}
    with pytest.raises(ReplicaRefusedError, match="missing"):
        await wiped.enrolment.refill(VAULT)
    assert not wiped.seats.votes(VAULT)
    mesh.cut = set()
    assert await wiped.enrolment.refill(VAULT)


async def test_after_the_refill_no_older_round_can_end(mesh: Mesh) -> None:
    """A promise that was forgotten is kept by the floor of those that were read."""
    one, two, late = await mesh.found(3)
    before = late.stamp()
    for node in (two, late):
        assert isinstance(await node.replica.prepare(1, register("k"), before), Answer)
    wiped = await wipe(mesh, 2)
    await wiped.enrolment.refill(VAULT)
    mesh.pass_ms(WINDOW_MS + 1_000)
    floor = one.stamp()
    assert await wiped.enrolment.refill(VAULT)
    for node in (one, two, wiped):
        assert isinstance(await node.replica.prepare(1, register("k"), floor), Stale)


async def test_a_fence_that_fails_on_one_is_made_with_others_or_not_at_all(mesh: Mesh) -> None:
    nodes = await mesh.found(5)
    wiped = await wipe(mesh, 4)
    await wiped.enrolment.refill(VAULT)
    mesh.pass_ms(WINDOW_MS + 1_000)
    asked: dict[int, int] = {}
    deaf = {0, 1}

    async def fail(_caller: Node, target: Node, name: str, _body: Any) -> None:
        if name == FLOOR and target.number in deaf:
            asked[target.number] = asked.get(target.number, 0) + 1
            if asked[target.number] % 2 == 0:  # it told its horizon, then it was gone
                raise PeerUnreachableError(f"n{target.number} went away")

    mesh.before_call = fail
    with pytest.raises(ReplicaRefusedError, match="went away"):
        await wiped.enrolment.refill(VAULT)
    deaf.discard(1)
    assert await wiped.enrolment.refill(VAULT), "three of the four others are enough"
    assert nodes[0].enrolment.state(VAULT) == VOTES


async def test_one_that_is_fenced_but_cannot_be_read_does_not_count(mesh: Mesh) -> None:
    nodes = await mesh.found(3)
    wiped = await wipe(mesh, 2)
    await wiped.enrolment.refill(VAULT)
    mesh.pass_ms(WINDOW_MS + 1_000)

    async def fail(_caller: Node, target: Node, name: str, _body: Any) -> None:
        if name == BUCKET_DIGESTS and target is nodes[1]:
            raise PeerUnreachableError("n1 went away")

    mesh.before_call = fail
    with pytest.raises(ReplicaRefusedError, match="n1 went away"):
        await wiped.enrolment.refill(VAULT)
    assert not wiped.seats.votes(VAULT)


async def test_the_only_replica_cannot_be_filled(mesh: Mesh) -> None:
    await mesh.found(1)
    wiped = await wipe(mesh, 0)
    mesh.pass_ms(2 * WINDOW_MS)
    assert not await wiped.enrolment.refill(VAULT)
    assert wiped.enrolment.state(VAULT).startswith("lost")


async def test_a_replica_wiped_during_a_change_is_filled_from_both_sets(mesh: Mesh) -> None:
    old = await mesh.found(3)
    new = await mesh.add()
    await old[0].put("k")
    joint = await begin_change(old, [old[1], old[2], new], [*old, new])
    wiped = await wipe(mesh, 2)
    assert wiped.seats.adopted(VAULT) == joint
    assert not wiped.seats.votes(VAULT)
    await wiped.enrolment.refill(VAULT)
    mesh.pass_ms(WINDOW_MS + 1_000)
    assert not await wiped.enrolment.enrol_now(VAULT, joint.epoch), "it is refilled first"
    mesh.cut = {0}
    with pytest.raises(ReplicaRefusedError):
        await wiped.enrolment.refill(VAULT)
    mesh.cut = set()
    assert await wiped.enrolment.refill(VAULT)
    assert await wiped.enrolment.enrol_now(VAULT, joint.epoch)
    assert wiped.row("k") == old[0].row("k")


async def test_a_seat_that_is_another_one_waits_for_itself(mesh: Mesh) -> None:
    """The beginning of an earlier seat's silence is not taken for this one's."""
    nodes = await mesh.found(3)
    wiped = await wipe(mesh, 2)
    await wiped.enrolment.refill(VAULT)
    mesh.pass_ms(WINDOW_MS + 1_000)
    seats = tuple(Seat(node.node, 5 if node is wiped else 1) for node in (*nodes[:2], wiped))
    later = Configuration(6, seats)
    for node in (*nodes[:2], wiped):
        await node.seats.adopt(VAULT, later)
    assert not await wiped.enrolment.refill(VAULT)
    mesh.pass_ms(WINDOW_MS + 1_000)
    assert await wiped.enrolment.refill(VAULT)
