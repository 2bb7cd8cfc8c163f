"""Deletions are forgotten by all replicas or by none, and nothing that was deleted comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.healing_kit import VAULT, WINDOW_MS, Mesh, Node, entry, open_mesh, register, stamp_at

from meshhold.errors import CallRefusedError, PeerUnreachableError
from meshhold.index.contract import Name, Row
from meshhold.model.configuration import Mode
from meshhold.model.entry import Space, encode_entry
from meshhold.register.acceptor import Stale
from meshhold.replication.healing import tombstones
from meshhold.replication.healing.healing_wire import FORGET, Phase
from meshhold.replication.healing.tombstones import VERSION_WINDOWS
from meshhold.replication.index.registers import Write
from meshhold.replication.index.replica_wire import pack_names
from meshhold.rules.stack import row_key

OLD_MS = 2 * WINDOW_MS


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with open_mesh() as opened:
        yield opened


async def delete_everywhere(nodes: list[Node], *keys: str) -> None:
    """Write and delete objects; every replica holds the deletion."""
    for key in keys:
        await nodes[0].put(key)
        await nodes[0].delete(key)
    for node in nodes[1:]:
        assert (await node.sync.pull(VAULT, nodes[0].node)).complete


def rows(*nodes: Node) -> list[int]:
    return [len(node.index.scan(VAULT, Space.OBJECTS, b"", b"", 1_000)) for node in nodes]


async def test_a_deletion_that_all_hold_goes_on_all(mesh: Mesh) -> None:
    nodes = await mesh.found(3)
    await delete_everywhere(nodes, "a", "b")
    await nodes[0].put("live")
    mesh.pass_ms(OLD_MS + 1_000)
    assert await nodes[0].tombstones.sweep(VAULT, OLD_MS) == 2
    assert nodes[0].tombstones.round_ended(VAULT)
    assert rows(*nodes) == [1, 1, 1]
    assert len({node.digests for node in nodes}) == 1
    assert await nodes[1].get("a") is None


async def test_what_was_deleted_of_versions_is_remembered_longer(mesh: Mesh) -> None:
    nodes = await mesh.found(3)
    name = row_key(b"k", bytes(16))
    await nodes[0].registers.change(VAULT, Space.VERSIONS, name, lambda _: Write(None, always=True), conditional=True)
    for node in nodes[1:]:
        assert (await node.sync.pull(VAULT, nodes[0].node)).complete
    mesh.pass_ms(OLD_MS + 1_000)
    assert await nodes[0].tombstones.sweep(VAULT, OLD_MS) == 0
    mesh.pass_ms((VERSION_WINDOWS - 2) * WINDOW_MS)
    assert await nodes[0].tombstones.sweep(VAULT, OLD_MS) == 1


async def test_young_deletions_stay_whatever_is_asked(mesh: Mesh) -> None:
    nodes = await mesh.found(3)
    await delete_everywhere(nodes, "a")
    mesh.pass_ms(WINDOW_MS - 1_000)
    assert await nodes[0].tombstones.sweep(VAULT, 0) == 0
    mesh.pass_ms(2_000)
    assert await nodes[0].tombstones.sweep(VAULT, OLD_MS) == 0
    assert await nodes[0].tombstones.sweep(VAULT, 0) == 1


async def test_one_clock_that_runs_ahead_removes_nothing(mesh: Mesh) -> None:
    """The others judge the age by theirs."""
    nodes = await mesh.found(3)
    await delete_everywhere(nodes, "a")
    right = mesh.wall.ms
    fast = nodes[0]
    fast.tombstones._now_ms = fast.copying._now_ms = lambda: right + OLD_MS + 1_000
    assert await fast.tombstones.sweep(VAULT, OLD_MS) == 0
    assert rows(*nodes) == [1, 1, 1]


async def test_a_replica_that_lacks_it_or_holds_something_else_keeps_it_everywhere(mesh: Mesh) -> None:
    one, two, late = await mesh.found(3)
    mesh.cut = {2}
    await one.put("k", "value")
    mesh.cut = set()
    await late.sync.pull(VAULT, one.node)
    mesh.cut = {2}
    await one.delete("k")
    mesh.cut = set()
    mesh.pass_ms(OLD_MS + 1_000)
    assert await one.tombstones.sweep(VAULT, OLD_MS) == 0
    assert rows(one, two, late) == [1, 1, 1]
    await late.sync.pull(VAULT, one.node)
    assert await one.tombstones.sweep(VAULT, OLD_MS) == 1


async def test_a_replica_that_can_get_nothing_older_agrees_without_holding_it(mesh: Mesh) -> None:
    """Else what one has forgotten already would stay on the others for ever."""
    one, two, late = await mesh.found(3)
    await delete_everywhere([one, two, late], "k")
    mesh.pass_ms(OLD_MS + 1_000)
    (name,) = two.index.tombstones(VAULT, None, 9)
    await two.copying.fence(VAULT, 1, [name])
    assert await two.copying.forget(VAULT, 1, [name]) == 1
    assert await two.tombstones.sweep(VAULT, OLD_MS) == 0
    assert await one.tombstones.sweep(VAULT, OLD_MS) == 1
    assert rows(one, two, late) == [0, 0, 0]


@pytest.mark.parametrize("phase", list(Phase))
async def test_a_replica_that_does_not_answer_ends_the_round(mesh: Mesh, phase: Phase) -> None:
    """At whatever step; this node keeps its row, so that it tries again, and then it ends well."""
    nodes = await mesh.found(3)
    await delete_everywhere(nodes, "a")
    mesh.pass_ms(OLD_MS + 1_000)

    async def silent(_caller: Node, target: Node, name: str, body: Any) -> None:
        if target is nodes[2] and name == FORGET and body["p"] == phase:
            raise PeerUnreachableError("gone")

    mesh.before_call = silent
    assert await nodes[0].tombstones.sweep(VAULT, OLD_MS) == 0
    assert nodes[0].tombstones.round_ended(VAULT)
    assert rows(nodes[0], nodes[2]) == [1, 1]
    mesh.before_call = None
    assert await nodes[0].tombstones.sweep(VAULT, OLD_MS) == 1
    assert rows(*nodes) == [0, 0, 0]


async def test_nothing_goes_while_the_replicas_change_or_one_does_not_vote(mesh: Mesh) -> None:
    nodes = await mesh.found(3)
    await delete_everywhere(nodes, "a")
    mesh.pass_ms(OLD_MS + 1_000)
    configuration = nodes[0].seats.configuration(VAULT)
    wiped = await mesh.restart(2, wiped=True)
    await wiped.seats.adopt(VAULT, configuration)
    assert await nodes[0].tombstones.sweep(VAULT, OLD_MS) == 0
    assert await wiped.tombstones.sweep(VAULT, OLD_MS) == 0
    joint = configuration.begin_change([node.node for node in nodes[:2]], Mode.LINEARIZABLE)
    await nodes[0].seats.adopt(VAULT, joint)
    assert await nodes[0].tombstones.sweep(VAULT, OLD_MS) == 0
    assert nodes[0].tombstones.round_ended(VAULT)
    assert rows(*nodes[:2]) == [1, 1]


async def test_nothing_goes_from_a_joint_configuration(mesh: Mesh) -> None:
    """Though everybody votes and answers: a newcomer might still get older entries by its enrolment."""
    nodes = await mesh.found(2)
    await delete_everywhere(nodes, "a")
    mesh.pass_ms(OLD_MS + 1_000)
    joint = nodes[0].seats.configuration(VAULT).begin_change([nodes[0].node], Mode.LINEARIZABLE)
    for node in nodes:
        await node.seats.adopt(VAULT, joint)
    assert await nodes[0].tombstones.sweep(VAULT, OLD_MS) == 0
    assert rows(*nodes) == [1, 1]


async def test_an_older_value_that_is_copied_between_the_looks_keeps_the_deletion(mesh: Mesh) -> None:
    """One replica had nothing and agreed; then it got the value from somewhere: the second look finds it."""
    one, two, late = await mesh.found(3)
    value = stamp_at(mesh.wall.ms - 1_000, one)
    mesh.cut = {2}
    await delete_everywhere([one, two], "k")
    mesh.cut = set()
    await late.replica.raise_floor(late.stamp())
    mesh.pass_ms(OLD_MS + 1_000)
    looks = 0

    async def copy(_caller: Node, target: Node, name: str, body: Any) -> None:
        nonlocal looks
        if target is late and name == FORGET and body["p"] == Phase.CONFIRM:
            looks += 1
            if looks == 2:
                name_of_value = Name(Space.OBJECTS, b"k", value)
                copies = [(name_of_value, Row(value, encode_entry(entry("old"))), True)]
                assert await late.copying.take(VAULT, 1, late.copying.begin(VAULT), copies) == [True]

    mesh.before_call = copy
    assert await one.tombstones.sweep(VAULT, OLD_MS) == 0
    assert looks == 2
    assert rows(one, two, late) == [1, 1, 1]


async def test_after_the_removal_no_late_message_brings_a_value_back(mesh: Mesh) -> None:
    nodes = await mesh.found(3)
    late = stamp_at(mesh.wall.ms - 1_000, nodes[1])
    await delete_everywhere(nodes, "k")
    mesh.pass_ms(OLD_MS + 1_000)
    assert await nodes[0].tombstones.sweep(VAULT, OLD_MS) == 1
    for node in nodes:
        own = stamp_at(late.wall_ms, node)
        assert isinstance(await node.replica.prepare(1, register("k"), own), Stale)
    assert rows(*nodes) == [0, 0, 0]


async def test_many_deletions_go_in_bounded_steps(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tombstones, "SWEPT_MAX", 4)
    nodes = await mesh.found(1)
    await delete_everywhere(nodes, *(f"k{at}" for at in range(10)))
    mesh.pass_ms(OLD_MS + 1_000)
    await nodes[0].put("young")
    await nodes[0].delete("young")
    removed = []
    while True:
        removed.append(await nodes[0].tombstones.sweep(VAULT, OLD_MS))
        if nodes[0].tombstones.round_ended(VAULT):
            break
    assert removed == [4, 4, 2]
    assert await nodes[0].tombstones.sweep(VAULT, OLD_MS) == 0


async def test_a_sweep_of_the_longest_keys_fits_into_its_messages(mesh: Mesh) -> None:
    nodes = await mesh.found(2)
    await delete_everywhere(nodes, *(f"{at:03}".ljust(1_024, "k") for at in range(120)))
    mesh.pass_ms(OLD_MS + 1_000)
    gone = 0
    while True:
        gone += await nodes[0].tombstones.sweep(VAULT, OLD_MS)
        if nodes[0].tombstones.round_ended(VAULT):
            break
    assert gone == 120
    assert rows(*nodes) == [0, 0]


@pytest.mark.parametrize(("names", "phase"), [([], 0), ("one", 3), ([1, b"k"], 0)])
async def test_steps_that_cannot_be_read_are_refused(mesh: Mesh, names: Any, phase: int) -> None:
    nodes = await mesh.found(2)
    await delete_everywhere(nodes, "k")
    if names == "one":
        names = pack_names(nodes[0].index.tombstones(VAULT, None, 9))
    with pytest.raises(CallRefusedError) as refusal:
        await nodes[0].call(nodes[1].node, FORGET, {"v": VAULT, "e": 1, "m": names, "p": phase}, timeout_s=1)
    assert refusal.value.kind == "ProtocolError"
