"""Machines that come, go, leave a vault or are emptied: what is shown, planned, waited for and refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from tests.unit.store_kit import open_kit, run_inline
from tests.unit.test_store_members import Home, virtual

from meshhold.errors import (
    ConflictError,
    DeniedError,
    InvalidError,
    MeshHoldError,
    NotFoundError,
    PeerUnreachableError,
    ProtocolError,
    UnavailableError,
)
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.node.vault_keepers import VaultKeepers
from meshhold.peering.dispatch import Dispatch
from meshhold.registry.record import Kind
from meshhold.replication.chunks.holders import Holders, View
from meshhold.replication.chunks.survey_wire import State, Stock
from meshhold.store import drains as drains_module
from meshhold.store.drains import DRAIN, Drains
from meshhold.store.members import SILENCES_MAX, Members
from meshhold.store.nodes import NodeFacts
from meshhold.store.repairs import Repairs
from meshhold.store.rings import BYTES_PER_S, Rings

MIB = 2**20
ROOM = 10**9


class Town:
    """Machines around a node `me`: what each keeps of the vault `photos`, and who sleeps. Stocks melt when told to."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.ids, self.names = home.around.ids, home.around.names
        self.stocks: dict[str, list[Stock]] = {}
        self.refusing: set[str] = set()
        self.repairs = 0
        self.me = self.ids["me"]
        keepers = VaultKeepers(home.kit.directory.registry, home.nodes, self, self.me, lambda: 100)
        self.keepers = keepers
        self.holders = Holders(keepers, self.me)
        home.kit.keeper.follow(lambda _records, _source: self.holders.refresh())
        home.members = Members(home.kit.directory, home.kit.vaults, home.nodes, home.index, self)
        self.orders: list[tuple[str, Any]] = []
        self.answer: Any = None
        self.drains = Drains(
            home.kit.directory,
            home.nodes,
            self,
            home.index,
            self,
            vaults=keepers.vaults,
            waiting=lambda _vault: "cellar is away",
            is_member=keepers.is_member,
        )
        self.rings = Rings(home.kit.directory, home.kit.vaults, home.nodes, self, run_inline)

    # -- presence
    def is_linked(self, node: NodeId) -> bool:
        return self.names[node] not in self.home.around.asleep

    is_alive = is_linked

    def rtt_s(self, _node: NodeId) -> float | None:
        return None

    # -- fellows
    def view(self, vault: VaultId) -> View | None:
        return self.holders.view(vault)

    def is_live(self, node: NodeId) -> bool:
        return self.holders.is_live(node)

    def repair_soon(self, _vault: VaultId) -> None:
        self.repairs += 1

    def witness_of(self, node: NodeId) -> Any:
        return _Mate(self, self.names[node])

    # -- peers
    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        assert (name, timeout_s > 0) == (DRAIN, True)
        self.orders.append((self.names[peer], body["a"]))
        return self.answer

    def keep(self, **chunks: Sequence[int] | int) -> None:
        """Say how many chunks, of a MiB each, machines keep, look by look."""
        for name, counts in chunks.items():
            row = [counts] if isinstance(counts, int) else counts
            self.stocks[name] = [Stock(count, count * MIB, ROOM, may_take=False) for count in row]


class _Mate:
    def __init__(self, town: Town, name: str) -> None:
        self._town = town
        self._name = name

    async def stock(self, _vault: VaultId) -> Stock:
        await trio.lowlevel.checkpoint()
        if self._name in self._town.home.around.asleep or self._name in self._town.refusing:
            raise PeerUnreachableError(f"no link to {self._name}", "start it")
        row = self._town.stocks.setdefault(self._name, [Stock(0, 0, ROOM, may_take=False)])
        return row.pop(0) if len(row) > 1 else row[0]

    async def survey(self, _vault: VaultId, _chunks: Sequence[ChunkId], *, deep: bool) -> list[State]:
        raise AssertionError(f"nobody checks here, deep or not: {deep}")


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    async with open_kit() as kit:
        home = Home(kit, await kit.bucket("photos"))
        me = NodeFacts(home.around.ids["me"], "me", (), "home", ROOM, reliable=True, version="1")
        await home.nodes.announce(me)
        made = Town(home)
        yield made


async def ignore(_: dict[str, Any]) -> None:
    """Nobody watches."""


class Told(list[dict[str, Any]]):
    """Collects progress."""

    async def __call__(self, step: dict[str, Any]) -> None:
        self.append(step)


def is_leaving(town: Town, name: str) -> bool:
    record = town.home.kit.directory.registry.get(Kind.MEMBER, f"{town.home.vault}/{town.ids[name]}")
    return record is not None and record.public.get("leaving") is True


def members(town: Town) -> list[str]:
    return [view.name for view in town.home.members.views("photos")]


# -- members that leave ---------------------------------------------------------------------------------------------


@virtual
async def test_a_member_leaves_when_nothing_is_left_on_it(town: Town) -> None:
    """It must be empty twice in a row: a write on its way may still arrive."""
    await town.home.add("bob", "cid")
    town.keep(bob=[7, 3, 0, 2, 0, 0])
    told = Told()
    assert await town.home.members.remove("photos", "bob", progress=told) == 0
    assert [step["chunks"] for step in told] == [7, 3, 2]
    assert told[0] == {"leaving": "bob", "chunks": 7, "bytes": 7 * MIB}
    assert members(town) == ["cid", "me"]
    assert town.home.kept_by == {"me", "cid"}


@virtual
async def test_a_member_that_may_still_be_given_chunks_is_waited_for(town: Town) -> None:
    """One that has not heard yet, or to which a chunk is on its way, is not empty although nothing is there."""
    await town.home.add("bob", "cid")
    unheard = Stock(0, 0, ROOM, may_take=True)
    town.stocks["bob"] = [unheard, Stock(0, 0, ROOM, may_take=False), unheard, *[Stock(0, 0, ROOM, may_take=False)] * 2]
    assert await town.home.members.remove("photos", "bob") == 0
    assert len(town.stocks["bob"]) == 1, "two looks in a row found it empty, and no earlier ones did"
    assert members(town) == ["cid", "me"]


@virtual
async def test_who_stops_waiting_leaves_it_leaving(town: Town) -> None:
    """The ring has left it out by then, no index comes back to it, and the next call goes on."""
    await town.home.add("bob", "cid")
    town.keep(bob=5)
    with trio.move_on_after(30):
        await town.home.members.remove("photos", "bob", progress=Told())
    assert is_leaving(town, "bob")
    assert [view.leaving for view in town.home.members.views("photos")] == [True, False, False]
    view = town.view(town.home.vault)
    assert view is not None
    assert view.extra == (town.ids["bob"],)
    await town.home.index.renew(town.home.vault, patience_s=60)
    assert town.home.kept_by == {"me", "cid"}
    await town.home.members.rotate("photos")
    assert is_leaving(town, "bob"), "new keys do not bring it back"
    town.keep(bob=0)
    await town.home.members.remove("photos", "bob")
    assert members(town) == ["cid", "me"]


@virtual
async def test_a_leaving_member_may_stay_after_all(town: Town) -> None:
    await town.home.add("bob")
    town.keep(bob=5)
    caught: list[MeshHoldError] = []

    async def remove() -> None:
        with pytest.raises(ConflictError, match="added again meanwhile") as error:
            await town.home.members.remove("photos", "bob")
        caught.append(error.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(remove)
        await trio.sleep(10)
        await town.home.members.add("photos", "bob")
        assert not is_leaving(town, "bob")
        town.keep(bob=0)
    assert len(caught) == 1
    assert members(town) == ["bob", "me"]


@virtual
async def test_one_that_does_not_answer_is_given_up_after_a_while(town: Town) -> None:
    await town.home.add("bob", "cid", "dan")
    town.home.around.asleep = {"dan"}
    began_s = trio.current_time()
    with pytest.raises(UnavailableError, match="dan does not tell what it keeps") as error:
        await town.home.members.remove("photos", "dan")
    assert "--gone" in error.value.fix
    assert 2 < trio.current_time() - began_s <= 2 * SILENCES_MAX
    assert is_leaving(town, "dan")
    town.keep(me=12)
    assert await town.home.members.remove("photos", "dan", gone=True) == 0, "it was no holder any more"
    assert members(town) == ["bob", "cid", "me"]


@virtual
async def test_gone_waits_for_nothing_and_tells_how_much_lacks_a_copy(town: Town) -> None:
    await town.home.add("bob", "cid")
    town.home.around.asleep = {"cid"}
    town.keep(me=1200)
    assert await town.home.members.remove("photos", "cid", gone=True) == 1200
    assert members(town) == ["bob", "me"]
    assert town.repairs


@virtual
async def test_the_last_that_stays_cannot_be_removed(town: Town) -> None:
    await town.home.add("bob")
    town.keep(bob=5)
    with trio.move_on_after(5):
        await town.home.members.remove("photos", "bob")
    with pytest.raises(ConflictError, match="last trusted member"):
        await town.home.members.remove("photos", "me")
    assert not is_leaving(town, "me")


@virtual
async def test_one_that_is_banned_is_not_waited_for(town: Town) -> None:
    await town.home.add("bob", "cid", "dan")
    town.keep(dan=5)
    await town.home.nodes.ban(town.ids["dan"])
    await town.home.members.remove("photos", "dan")
    assert members(town) == ["bob", "cid", "me"]


# -- drains ---------------------------------------------------------------------------------------------------------


@virtual
async def test_a_drained_node_is_safe_when_it_keeps_nothing(town: Town) -> None:
    await town.home.add("bob", "cid", "dan")
    town.keep(me=[9, 9, 4, 0, 1, 0, 0])
    told = Told()
    view = await town.drains.run(None, told)
    assert (view.is_safe, view.chunks, view.indexes, view.waiting) == (True, 0, (), ())
    assert town.home.kept_by == {"bob", "cid", "dan"}
    assert [step["chunks"] for step in told] == [9, 4, 0, 1, 0]
    assert told[0]["waiting"] == "photos: cellar is away"
    facts = town.home.nodes.facts(town.me)
    assert facts is not None
    assert facts.draining
    await town.home.nodes.announce(replace(facts, name="new", draining=False))
    facts = town.home.nodes.facts(town.me)
    assert facts is not None
    assert (facts.name, facts.draining) == ("new", True), "news of other facts does not end it"
    view = await town.drains.run(None, ignore, undo=True)
    assert (view.draining, view.is_safe) == (False, False)
    ring = town.view(town.home.vault)
    assert ring is not None
    assert ring.extra == ()


@virtual
async def test_draining_is_refused_while_others_are_too_few(town: Town) -> None:
    await town.home.add("bob", "cid")
    town.keep(me=9)
    with pytest.raises(ConflictError, match="photos would have 2 machines for its 3 copies") as error:
        await town.drains.run(None, ignore)
    assert "--force" in error.value.fix
    facts = town.home.nodes.facts(town.me)
    assert facts is not None
    assert not facts.draining
    view = await town.drains.run(None, ignore, force=True, wait=False)
    assert (view.draining, view.is_safe, view.chunks) == (True, False, 9)
    assert (await town.drains.run(None, ignore, wait=False)).draining, "once it has begun it just goes on"


@virtual
async def test_draining_is_refused_while_others_have_no_room(town: Town) -> None:
    await town.home.add("bob", "cid", "dan")
    town.keep(me=3 * ROOM // MIB)
    town.home.around.asleep = {"dan"}
    with pytest.raises(ConflictError, match="others have room for 2000000000 bytes, as far as they answer"):
        await town.drains.run(None, ignore)


@virtual
async def test_the_only_one_that_can_open_a_vault_is_never_drained(town: Town) -> None:
    for force in (False, True):
        with pytest.raises(ConflictError, match="no other reliable machine holds vault photos"):
            await town.drains.run(None, ignore, force=force)
    for name in ("bob", "cid", "dan"):
        await town.home.meet(name)
        await town.home.members.add("photos", name, trusted=False)
    with pytest.raises(ConflictError, match="no other machine can open vault photos"):
        await town.drains.run(None, ignore, force=True)


@virtual
async def test_a_node_is_not_safe_while_a_chunk_may_still_come(town: Town) -> None:
    await town.home.add("bob", "cid", "dan")
    town.stocks["me"] = [Stock(0, 0, ROOM, may_take=True)]
    assert not (await town.drains.run(None, ignore, wait=False)).is_safe
    town.keep(me=0)
    assert (await town.drains.run(None, ignore)).is_safe


@virtual
async def test_an_index_that_nobody_takes_is_waited_for(town: Town) -> None:
    await town.home.add("bob", "cid", "dan")
    town.keep(me=0)
    town.home.around.asleep = {"bob", "cid"}
    view = await town.drains.run(None, ignore, wait=False)
    assert (view.chunks, view.indexes, view.is_safe) == (0, ("photos",), False)
    assert "photos: its index stays here: too few replicas answer" in view.waiting


@virtual
async def test_a_drain_that_is_undone_elsewhere_ends_the_wait(town: Town) -> None:
    await town.home.add("bob", "cid", "dan")
    town.keep(me=9)

    async def undo() -> None:
        await trio.sleep(7)
        await town.drains.run(None, ignore, undo=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(undo)
        with pytest.raises(ConflictError, match="was undone meanwhile"):
            await town.drains.run(None, ignore)


# -- drains of other nodes ------------------------------------------------------------------------------------------

FAR: dict[str, Any] = {"d": True, "c": 3, "b": 9, "i": ["photos"], "w": [], "s": False}


@virtual
async def test_another_node_is_drained_by_a_call(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    await town.home.add("bob")
    town.answer = FAR
    view = await town.drains.run("bob", ignore, wait=False)
    assert (view.name, view.chunks, view.indexes, view.draining) == ("bob", 3, ("photos",), True)
    town.answer = FAR | {"c": 0, "i": [], "s": True}
    assert (await town.drains.run("bob", ignore)).is_safe
    assert town.orders == [("bob", "begin"), ("bob", "begin"), ("bob", "look")]
    town.home.around.asleep = {"bob"}
    with pytest.raises(PeerUnreachableError, match="bob is not connected") as error:
        await town.drains.run("bob", ignore)
    assert "on that machine" in error.value.fix
    town.home.around.asleep = set()
    town.answer = FAR
    monkeypatch.setattr(drains_module, "SILENCES_MAX", 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_sleep_in, town, "bob")
        with pytest.raises(PeerUnreachableError):
            await town.drains.run("bob", ignore)


async def _sleep_in(town: Town, name: str) -> None:
    await trio.sleep(5)
    town.home.around.asleep = {name}


@pytest.mark.parametrize("answer", [None, {}, FAR | {"d": 1}, FAR | {"c": "x"}, FAR | {"w": [1]}, FAR | {"i": "x"}])
async def test_answers_of_another_form_about_a_drain(town: Town, answer: Any) -> None:
    await town.home.add("bob")
    town.answer = answer
    with pytest.raises(ProtocolError):
        await town.drains.run("bob", ignore, wait=False)


@virtual
async def test_who_may_drain_this_node_from_afar(town: Town) -> None:
    """An untrusted machine that stores ciphertext must not be able to empty the others."""
    await town.home.add("bob", "cid", "dan")
    await town.home.meet("eva")
    await town.home.members.add("photos", "eva", trusted=False)
    dispatch = Dispatch()
    town.drains.register(dispatch)
    handle = dispatch.calls[DRAIN]
    body = {"a": "begin", "f": False}
    with pytest.raises(DeniedError, match="only a trusted member"):
        await handle(town.ids["eva"], body)
    for nonsense in (None, {}, {"a": "now", "f": False}, {"a": "begin", "f": 1}):
        with pytest.raises(ProtocolError):
            await handle(town.ids["bob"], nonsense)
    assert (await handle(town.ids["bob"], body))["d"] is True
    assert (await handle(town.ids["bob"], {"a": "end", "f": False}))["d"] is False


# -- rings ----------------------------------------------------------------------------------------------------------


async def test_ring_show_counts_what_each_has(town: Town) -> None:
    await town.home.add("bob", "cid", "dan")
    await town.home.meet("eva", reliable=False)
    await town.home.members.add("photos", "eva")
    town.keep(me=30, bob=20, cid=30, dan=20, eva=0)
    town.refusing = {"cid"}
    town.home.around.asleep = {"dan"}
    [shown] = await town.rings.show(None)
    assert (shown.vault, shown.factor, shown.wanted, shown.partitions) == ("photos", 3, 3, 4096)
    by_name = {member.name: member for member in shown.members}
    assert list(by_name) == ["bob", "cid", "dan", "eva", "me"]
    assert {name: member.state for name, member in by_name.items()} == {
        "bob": "holds", "cid": "holds", "dan": "away", "eva": "unreliable", "me": "holds",
    }  # fmt: skip
    assert {name: member.chunks for name, member in by_name.items()} == {
        "bob": 20, "cid": None, "dan": None, "eva": 0, "me": 30,
    }  # fmt: skip
    assert (by_name["me"].held_percent, by_name["eva"].planned_percent) == (60.0, 0.0)
    assert sum(member.planned_percent for member in shown.members) == pytest.approx(100, abs=0.2)
    assert shown.held_max_over_mean is None, "not everybody tells"
    town.refusing, town.home.around.asleep = set(), set()
    [shown] = await town.rings.show("photos")
    assert shown.held_max_over_mean is not None
    assert shown.max_over_mean > 0.9


async def test_ring_show_names_who_leaves_and_who_is_out(town: Town) -> None:
    await town.home.add("bob", "cid")
    await town.home.kit.directory.write(
        town.home.members._leaving(
            town.home.bucket, next(r for r in town.home.members._records(town.home.bucket) if town.ids["bob"] in r.key)
        )
    )
    view = town.view(town.home.vault)
    assert view is not None
    town.holders._views[town.home.vault] = replace(view, out=frozenset({town.ids["cid"]}))
    [shown] = await town.rings.show("photos")
    assert {member.name: member.state for member in shown.members} == {"bob": "leaving", "cid": "out", "me": "holds"}
    assert shown.wanted == 1


async def test_ring_plan_without_one(town: Town) -> None:
    await town.home.add("bob", "cid", "dan")
    town.keep(me=300)
    [plan] = await town.rings.plan("photos", ["dan"], [], None)
    assert (plan.copies_before, plan.copies_min, plan.copies_after, plan.members_after) == (3, 2, 3, 3)
    assert plan.bytes_from == "this node's chunks"
    gives = {gain.node: gain.gives for gain in plan.gains}
    assert gives["dan"] == plan.moves_bytes
    assert sum(gain.gets for gain in plan.gains) == pytest.approx(plan.moves_bytes, abs=9)
    assert plan.seconds == pytest.approx(max(gain.gets for gain in plan.gains) / BYTES_PER_S, abs=0.1)
    assert not plan.is_measured


async def test_ring_plan_with_machines_to_come(town: Town) -> None:
    await town.home.add("bob")
    await town.home.meet("cid")
    [plan] = await town.rings.plan(None, [], [f"cid:{ROOM}"], None)
    assert (plan.moves_bytes, plan.bytes_from) == (0, "the index"), "there is no object yet"
    town.keep(me=100)
    [plan] = await town.rings.plan(None, [], [f"garden-shed:{ROOM}:garden", f"cid:{ROOM}"], None)
    assert (plan.copies_before, plan.copies_after, plan.members_after) == (2, 3, 4)
    assert {gain.node for gain in plan.gains if gain.gets} >= {"cid", "garden-shed"}
    with pytest.raises(InvalidError, match="how much 'cid' can keep is not known"):
        await town.rings.plan(None, [], ["cid"], None)  # it says nothing of its disk
    [plan] = await town.rings.plan("photos", [], ["me:1"], None)
    assert plan.members_after == 2, "a member with another capacity is no second one"


async def test_ring_plan_of_another_factor(town: Town) -> None:
    await town.home.add("bob", "cid")
    town.keep(me=100)
    [plan] = await town.rings.plan("photos", [], [], 2)
    assert (plan.factor, plan.factor_after, plan.moves_percent) == (3, 2, 0.0)
    assert sum(gain.gives for gain in plan.gains) == pytest.approx(100 * MIB, rel=0.01)
    [plan] = await town.rings.plan("photos", [], [], 5)
    assert (plan.copies_after, plan.members_after) == (3, 3)


async def test_ring_plans_that_make_no_sense(town: Town) -> None:
    await town.home.add("bob")
    with pytest.raises(InvalidError, match="nothing is to change"):
        await town.rings.plan("photos", [], [], None)
    with pytest.raises(InvalidError, match="nobody would keep vault 'photos'"):
        await town.rings.plan("photos", ["me", "bob"], [], None)
    with pytest.raises(NotFoundError, match="no member of the ring is called 'eva'"):
        await town.rings.plan("photos", ["eva"], [], None)
    assert await town.rings.plan(None, ["eva"], [], None) == [], "of all vaults only those that it is a member of"
    for added in (":5", "shed", "shed:0", "shed:x", f"shed:{10**19}"):
        with pytest.raises(InvalidError, match="can keep is not known"):
            await town.rings.plan("photos", [], [added], None)
    with pytest.raises(InvalidError, match="out of range"):
        await town.rings.plan("photos", [], [], 17)
    with pytest.raises(InvalidError, match="more than 64"):
        await town.rings.plan("photos", ["x"] * 65, [], None)


# -- repairs --------------------------------------------------------------------------------------------------------


class FakeProgress:
    def show(self, now_s: float) -> dict[str, Any]:
        return {"phase": "moving", "short": round(now_s)}


class FakeRepair:
    def __init__(self) -> None:
        self.asked: list[VaultId] = []
        self.found: dict[VaultId, FakeProgress] = {}

    def soon(self, vault: VaultId) -> None:
        self.asked.append(vault)

    def progress(self) -> dict[VaultId, FakeProgress]:
        return self.found


async def test_repairs_of_each_vault(town: Town) -> None:
    await town.home.add("bob", "cid")
    town.home.around.asleep = {"cid"}
    repair, kit = FakeRepair(), town.home.kit
    repairs = Repairs(kit.directory, kit.vaults, town, repair, town.home.nodes.name_of, now_s=lambda: 5.0)
    [view] = repairs.views()
    assert (view["phase"], view["finished_at"], repair.asked) == ("idle", None, [])
    repair.found[town.home.vault] = FakeProgress()
    [view] = repairs.start("photos")
    assert repair.asked == [town.home.vault]
    assert view == {
        "vault": "photos", "vault_id": town.home.vault, "factor": 3, "wanted": 3, "members": 3, "away": ["cid"],
        "out": [], "phase": "moving", "short": 5,
    }  # fmt: skip
    repairs.start(None)
    assert len(repair.asked) == 2
    with pytest.raises(NotFoundError):
        repairs.start("nothing")
