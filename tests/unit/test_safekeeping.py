"""A snapshot because somebody asks: what it tells, and what it waits for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.unit.store_kit import StoreKit, open_kit, run_inline

from meshhold.config import load_config
from meshhold.errors import NoSuchVaultError
from meshhold.model.ids import NodeId, VaultId
from meshhold.node.assembly import open_node
from meshhold.placement.planner import plan_ring
from meshhold.placement.ring import RingMember
from meshhold.replication.chunks.holders import View
from meshhold.replication.chunks.survey_wire import State, Stock
from meshhold.replication.collecting.snapshots import Snapshots
from meshhold.store.directory import Bucket
from meshhold.store.renewal import Renewal
from meshhold.store.safekeeping import PATIENCE_S, Safekeeping

BOB, CAT = NodeId("b" * 52), NodeId("c" * 52)


class Other:
    """A member that has no chunk until so many questions were asked; None: it never gets one."""

    def __init__(self, empty_for: int | None) -> None:
        self.left = empty_for

    async def survey(self, _vault: VaultId, chunks: Any, *, deep: bool) -> list[State]:
        assert not deep
        if self.left:
            self.left -= 1
        return [State.HERE if self.left == 0 else State.ABSENT for _ in chunks]

    async def stock(self, _vault: VaultId) -> Stock:
        return Stock(0, 0, 0)


class Members:
    """The members of the vault: this node, which has all, and others."""

    def __init__(self, me: NodeId, factor: int, others: dict[NodeId, Other]) -> None:
        self.witnesses = {me: Other(0), **others}
        self.away: set[NodeId] = set()
        self.repairs = 0
        ring = plan_ring([RingMember(node, 1, "") for node in sorted(self.witnesses)])
        self._view = View(ring, factor, frozenset(), (), "v")

    def view(self, _vault: VaultId) -> View:
        return self._view

    def is_live(self, node: NodeId) -> bool:
        return node not in self.away

    def witness_of(self, node: NodeId) -> Other:
        return self.witnesses[node]

    def repair_soon(self, _vault: VaultId, /) -> None:
        self.repairs += 1


class Beside:
    """Counts how often labels were written."""

    def __init__(self) -> None:
        self.writes = 0

    async def write(self) -> None:
        self.writes += 1


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as kit:
        yield kit


@pytest.fixture
async def bucket(kit: StoreKit) -> Bucket:
    bucket = await kit.bucket()
    for number in range(5):
        await kit.put(bucket, b"%d" % number, b"x" * 100)
    return bucket


def make_members(kit: StoreKit, factor: int = 3, **others: Other) -> Members:
    names = {"bob": BOB, "cat": CAT}
    return Members(kit.directory.identity.node_id, factor, {names[name]: other for name, other in others.items()})


def make_safekeeping(kit: StoreKit, members: Members, beside: Beside | None = None) -> Safekeeping:
    renewal = Renewal(kit.chunks, kit.reader, run_inline)
    snapshots = Snapshots(kit.directory, kit.registers, kit.index, kit.writer, kit.reader, renewal, kit.wall.now_ms)
    me = kit.directory.identity.node_id
    return Safekeeping(kit.vaults, snapshots, members, me, beside or Beside(), name_of=lambda node: node[:1])


async def ignore(_: dict[str, Any]) -> None:
    """Nobody watches."""


async def test_it_tells_when_and_how_much(kit: StoreKit, bucket: Bucket) -> None:
    beside = Beside()
    view = await make_safekeeping(kit, make_members(kit), beside).snapshot("photos", ignore)
    assert (view.vault, view.name, view.taken_ms) == (bucket.id, "photos", kit.wall.now_ms())
    assert (view.objects, view.bytes, view.is_new) == (5, 500, True)
    assert (view.chunks, view.copies, view.wanted, view.factor, view.lacking) == (1, 1, 1, 3, 0)
    assert beside.writes == 1
    assert (await kit.vaults.view("photos")).snapshot_ms == view.taken_ms


async def test_what_did_not_change_is_not_taken_again(kit: StoreKit, bucket: Bucket) -> None:
    safekeeping = make_safekeeping(kit, make_members(kit))
    first = await safekeeping.snapshot("photos", ignore)
    kit.wall.pass_s(60)
    second = await safekeeping.snapshot("photos", ignore)
    assert (second.is_new, second.taken_ms) == (False, first.taken_ms)
    await kit.put(bucket, b"more", b"y")
    third = await safekeeping.snapshot("photos", ignore)
    assert (third.is_new, third.objects) == (True, 6)


async def test_it_waits_for_copies(kit: StoreKit, bucket: Bucket, autojump_clock: trio.testing.MockClock) -> None:
    steps: list[dict[str, Any]] = []

    async def watch(step: dict[str, Any]) -> None:
        steps.append(step)

    members = make_members(kit, bob=Other(0), cat=Other(3))
    view = await make_safekeeping(kit, members).snapshot(bucket.id, watch)
    assert (view.copies, view.wanted, view.lacking) == (3, 3, 0)
    assert [step["too few copies"] for step in steps] == [1, 1]
    assert members.repairs == 2
    assert trio.current_time() < PATIENCE_S
    del autojump_clock


async def test_it_does_not_wait_for_ever(kit: StoreKit, bucket: Bucket, autojump_clock: trio.testing.MockClock) -> None:
    members = make_members(kit, bob=Other(0), cat=Other(None))
    members.away.add(CAT)
    view = await make_safekeeping(kit, members).snapshot(bucket.id, ignore)
    assert (view.copies, view.wanted, view.lacking) == (2, 3, 1)
    assert view.silent == {"c": "it is not connected"}
    assert PATIENCE_S <= trio.current_time() < 2 * PATIENCE_S
    del autojump_clock


async def test_a_copy_more_than_wanted_is_not_needed(kit: StoreKit, bucket: Bucket) -> None:
    members = make_members(kit, factor=2, bob=Other(0), cat=Other(None))
    view = await make_safekeeping(kit, members).snapshot(bucket.id, ignore)
    assert (view.copies, view.wanted, view.lacking) == (2, 2, 0)


async def test_of_an_unknown_vault(kit: StoreKit) -> None:
    with pytest.raises(NoSuchVaultError):
        await make_safekeeping(kit, make_members(kit)).snapshot("photos", ignore)


async def test_a_vault_on_one_machine_alone_has_snapshots_too(tmp_path: Path) -> None:
    """Its chunks may outlive its index: a disk of its own, a file system that was checked."""
    (tmp_path / "config.yaml").write_text("")
    async with open_node(load_config(tmp_path / "config.yaml")) as node:
        view = await node.vaults.create("photos")
        assert node.snapshots._leads(VaultId(view.id))


async def test_an_empty_vault_has_a_snapshot_too(kit: StoreKit) -> None:
    await kit.bucket("empty")
    view = await make_safekeeping(kit, make_members(kit)).snapshot("empty", ignore)
    assert (view.objects, view.chunks, view.lacking) == (0, 1, 0)


async def test_a_node_that_does_not_keep_the_index_takes_it_each_time(
    kit: StoreKit, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own rows do not tell whether the index changed."""
    safekeeping = make_safekeeping(kit, make_members(kit))
    monkeypatch.setattr(kit.seats, "votes", lambda _vault: False)

    async def scan(*_: object) -> list[Any]:  # what others tell, who are not here
        return []

    monkeypatch.setattr(kit.registers, "scan", scan)
    assert [(await safekeeping.snapshot(bucket.id, ignore)).is_new for _ in range(2)] == [True, True]
