"""Who keeps a vault's index as members come and go: chosen, pinned, replaced; what a machine that sleeps delays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
import trio.testing
from tests.unit.store_kit import StoreKit, open_kit

from meshhold.crypto.identity import Identity
from meshhold.errors import (
    ConflictError,
    InvalidError,
    MeshHoldError,
    NoMajorityError,
    PeerUnreachableError,
    UnavailableError,
)
from meshhold.index.contract import Counts
from meshhold.model.configuration import Configuration, Mode, found_configuration, unpack_configuration
from meshhold.model.ids import NodeId, VaultId
from meshhold.model.stamp import Stamp
from meshhold.register.rounds import NOTHING, Answer
from meshhold.registry.record import Kind, Record, encode_record, sign_by_node
from meshhold.replication.index import registers
from meshhold.replication.index.contract import Absent, Outdated, Refusal, Register, Unaware
from meshhold.store.directory import Bucket
from meshhold.store.index_replicas import LOOK_EVERY_S, IndexReplicas
from meshhold.store.members import CHANGE_S, Members
from meshhold.store.nodes import NodeFacts, Nodes
from meshhold.store.roll_call import RollCall

NAMES = ("bob", "cid", "dan", "eva")


def run_virtual(main: Any, **options: Any) -> Any:
    """Run a test under a clock that jumps whenever everybody waits."""
    return trio.run(main, **{**options, "clock": trio.testing.MockClock(autojump_threshold=0)})


virtual = pytest.mark.trio(run=run_virtual)


class Around:
    """Other machines, and a change of replicas that needs a majority of the present ones and no time but `takes_s`."""

    def __init__(self, kit: StoreKit) -> None:
        self.kit = kit
        self.identities = {name: Identity(name.encode().ljust(32, b".")) for name in NAMES}
        self.names = {identity.node_id: name for name, identity in self.identities.items()}
        self.names[kit.directory.identity.node_id] = "me"
        self.ids = {name: node for node, name in self.names.items()}
        self.asleep: set[str] = set()
        self.refusals: dict[str, Refusal] = {}
        self.takes_s = 0.0
        self.changes: list[tuple[str, ...]] = []
        self.asked = 0

    # -- replicas
    def __call__(self, node: NodeId) -> Any:
        return _Replica(self, self.names[node])

    # -- changes of them
    async def current(self, vault: VaultId) -> Configuration:
        configuration = self.kit.seats.configuration(vault)
        awake = [node for node in configuration.nodes if self.names[node] not in self.asleep]
        if not configuration.has_quorum(awake):
            raise NoMajorityError("too few replicas answer", "start them")
        return configuration

    async def change(self, vault: VaultId, nodes: Sequence[NodeId], mode: Mode) -> Configuration:
        self.asked += 1
        joint = (await self.current(vault)).begin_change(nodes, mode)
        await self.kit.seats.adopt(vault, joint)
        await trio.sleep(self.takes_s)
        stable = joint.end_change()
        await self.kit.seats.adopt(vault, stable)
        self.changes.append(tuple(sorted(self.names[node] for node in nodes)))
        return stable

    async def survive(self, vault: VaultId, gone: NodeId) -> Configuration:
        known = self.kit.seats.configuration(vault)
        if set(known.members) != {gone, self.ids["me"]}:
            raise NoMajorityError("too few replicas answer, and more than one of them", "start them")
        alone = Configuration(known.epoch + 2, tuple(seat for seat in known.seats if seat.node != gone))
        await self.kit.seats.adopt(vault, alone)
        return alone

    def kept_by(self, vault: VaultId) -> set[str]:
        return {self.names[node] for node in self.kit.seats.configuration(vault).members}


class _Replica:
    def __init__(self, around: Around, name: str) -> None:
        self._around = around
        self._name = name

    async def counts(self, _vault: VaultId) -> Counts:
        await trio.lowlevel.checkpoint()
        if self._name in self._around.asleep:
            raise PeerUnreachableError(f"no link to {self._name}")
        return Counts(0, 0)

    async def read(self, _epoch: int, _name: Register, _known: Stamp) -> Answer | Refusal:
        await self.counts(VaultId(""))
        if self._name == "eva":
            await trio.sleep_forever()
        return self._around.refusals.get(self._name, NOTHING)


class Home:
    """A node `me` with a vault `photos`, and the machines around it."""

    def __init__(self, kit: StoreKit, bucket: Bucket) -> None:
        self.kit = kit
        self.around = Around(kit)
        self.nodes = Nodes(kit.directory.identity, kit.directory, kit.keeper)
        roll_call = RollCall(self.nodes, self.around)
        self.index = IndexReplicas(kit.directory, self.nodes, kit.seats, roll_call, self.around, chance=lambda: 0.5)
        self.members = Members(kit.directory, kit.vaults, self.nodes, self.index)
        self.vault = bucket.id

    @property
    def bucket(self) -> Bucket:
        return self.kit.vaults.find(self.vault)

    @property
    def kept_by(self) -> set[str]:
        return self.around.kept_by(self.vault)

    async def meet(self, name: str, *, zone: str = "", reliable: bool = True) -> None:
        """Hear of a machine, in a zone of its own unless one is given."""
        identity = self.around.identities[name]
        public = {
            "name": name, "addresses": [], "zone": zone or name, "capacity": 0, "reliable": reliable, "version": "1",
        }  # fmt: skip
        record = Record(
            Kind.NODE, identity.node_id, self.kit.directory.next_stamp(), deleted=False, public=public, private=b""
        )
        await self.kit.keeper.receive([encode_record(sign_by_node(record, identity))], identity.node_id)

    async def add(self, *names: str) -> None:
        for name in names:
            await self.meet(name)
            await self.members.add("photos", name)

    async def set(self, *names: str, mode: str | None = None) -> bool:
        return await self.members.set_index("photos", list(names) or None, mode)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.index.run)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    async with open_kit() as kit:
        made = Home(kit, await kit.bucket("photos"))
        await made.nodes.announce(NodeFacts(made.around.ids["me"], "me", (), "home", 0, reliable=True, version="1"))
        yield made


# -- members come ---------------------------------------------------------------------------------------------------


@virtual
async def test_the_first_three_reliable_members_keep_the_index(home: Home) -> None:
    assert home.kept_by == {"me"}
    await home.add("bob")
    assert home.kept_by == {"me", "bob"}
    await home.add("cid", "dan")
    assert home.around.changes == [("bob", "me"), ("bob", "cid", "me")]
    assert home.kept_by == {"me", "bob", "cid"}


@virtual
async def test_an_unreliable_or_untrusted_member_does_not(home: Home) -> None:
    await home.meet("bob", reliable=False)
    await home.members.add("photos", "bob")
    await home.meet("cid")
    await home.members.add("photos", "cid", trusted=False)
    assert home.kept_by == {"me"}


@virtual
async def test_a_member_that_sleeps_is_added_and_taken_in_when_it_wakes(home: Home) -> None:
    """No write may come to wait for a machine that is not there."""
    home.around.asleep = {"bob"}
    async with home.running():
        await home.add("bob")
        assert [member.name for member in home.members.views("photos")] == ["bob", "me"]
        view = await home.members.index_view("photos")
        assert (home.kept_by, view.awaited, view.changing) == ({"me"}, ("bob",), False)
        await trio.sleep(10 * LOOK_EVERY_S)
        assert home.around.asked == 0
        home.around.asleep = set()
        await trio.sleep(4 * LOOK_EVERY_S)
        assert home.kept_by == {"me", "bob"}
        assert (await home.members.index_view("photos")).awaited == ()


@virtual
async def test_who_is_there_does_not_wait_for_who_is_not(home: Home) -> None:
    home.around.asleep = {"bob"}
    await home.add("bob", "cid")
    assert home.kept_by == {"me", "cid"}


@virtual
async def test_a_new_member_that_hears_of_it_a_little_later_is_waited_for(home: Home) -> None:
    home.around.asleep = {"bob"}
    async with trio.open_nursery() as nursery:

        async def wake() -> None:
            await trio.sleep(1.0)
            home.around.asleep.clear()

        nursery.start_soon(wake)
        await home.add("bob")
    assert home.kept_by == {"me", "bob"}


@virtual
async def test_a_large_index_is_copied_behind_the_command(home: Home) -> None:
    home.around.takes_s = 300.0
    async with home.running():
        await home.add("bob")
        assert (await home.members.index_view("photos")).changing
        assert home.around.changes == []
        await trio.sleep(300)
        assert home.kept_by == {"me", "bob"}
        assert home.around.asked == 1


@virtual
async def test_too_few_replicas_do_not_keep_a_member_out(home: Home) -> None:
    await home.add("bob")
    home.around.asleep = {"bob"}
    await home.add("cid")
    assert [member.name for member in home.members.views("photos")] == ["bob", "cid", "me"]
    assert home.kept_by == {"me", "bob"}


# -- members go -----------------------------------------------------------------------------------------------------


@virtual
async def test_a_replica_is_replaced_before_it_is_removed(home: Home) -> None:
    await home.add("bob", "cid", "dan")
    await home.members.remove("photos", "bob")
    assert home.kept_by == {"me", "cid", "dan"}
    await home.members.remove("photos", "dan")
    assert home.kept_by == {"me", "cid"}
    epoch = home.bucket.keys.epoch
    await home.add("bob")
    home.around.asleep = {"bob", "cid"}
    for name in ("bob", "cid"):
        with pytest.raises(NoMajorityError):
            await home.members.remove("photos", name)
    assert home.kept_by == {"me", "bob", "cid"}
    assert home.bucket.keys.epoch == epoch
    assert len(home.members.views("photos")) == 3


@virtual
async def test_a_member_that_keeps_nothing_goes_without_asking_anybody(home: Home) -> None:
    await home.add("bob", "cid", "dan")
    home.around.asleep = set(NAMES)
    await home.members.remove("photos", "dan")
    assert len(home.members.views("photos")) == 3


@virtual
async def test_a_removal_waits_for_the_others_to_take_over(home: Home) -> None:
    await home.add("bob", "cid")
    home.around.takes_s = CHANGE_S * 2
    async with home.running():
        with pytest.raises(UnavailableError, match=r"bob still keeps the index .* has not been removed yet"):
            await home.members.remove("photos", "bob")
        assert len(home.members.views("photos")) == 3
        await trio.sleep(CHANGE_S)
        await home.members.remove("photos", "bob")
    assert home.around.asked == 3
    assert [member.name for member in home.members.views("photos")] == ["cid", "me"]


@virtual
async def test_the_only_replica_stays_while_nobody_can_take_over(home: Home) -> None:
    await home.add("bob")
    await home.set("me")
    home.around.asleep = {"bob"}
    with pytest.raises(UnavailableError, match="me alone keeps the index of vault 'photos'"):
        await home.members.remove("photos", "me")
    home.around.asleep = set()
    await home.members.remove("photos", "me")
    assert home.kept_by == {"bob"}


@virtual
async def test_the_other_one_of_two_is_given_up_when_it_is_gone_for_good(home: Home) -> None:
    """Not before somebody says so; then it is removed as any other, and the next machine is taken in."""
    await home.add("bob")
    epoch = home.bucket.keys.epoch
    home.around.asleep = {"bob"}
    with pytest.raises(NoMajorityError):
        await home.members.remove("photos", "bob")
    await home.members.remove("photos", "bob", gone=True)
    assert (home.kept_by, home.bucket.keys.epoch) == ({"me"}, epoch + 1)
    assert [member.name for member in home.members.views("photos")] == ["me"]
    await home.add("cid")
    assert home.kept_by == {"me", "cid"}


@virtual
async def test_only_who_was_given_up_with_what_it_had_may_hand_that_over(home: Home) -> None:
    await home.add("bob", "cid")
    await home.members.remove("photos", "cid")
    home.around.asleep = {"bob"}
    await home.members.remove("photos", "bob", gone=True)
    registry, ids = home.kit.keeper.registry, home.around.ids
    ended = [registry.known(Kind.MEMBER, f"{home.vault}/{ids[name]}") for name in ("bob", "cid")]
    assert [record is not None and record.deleted for record in ended] == [True, True]
    assert [record is not None and record.public.get("gone") for record in ended] == [True, None]


@virtual
async def test_a_stolen_machine_is_banned_then_removed_by_its_name(home: Home) -> None:
    await home.add("bob")
    await home.nodes.ban(home.around.ids["bob"])
    home.around.asleep = {"bob"}
    await home.members.remove("photos", "bob", gone=True)
    assert [member.name for member in home.members.views("photos")] == ["me"]
    with pytest.raises(MeshHoldError, match="no node is called 'bob'"):
        await home.members.remove("photos", "bob", gone=True)


@virtual
async def test_another_member_takes_the_place_of_one_that_is_gone(home: Home) -> None:
    """Also where people had chosen, who wanted two."""
    await home.add("bob", "cid")
    await home.set("me", "bob")
    home.around.asleep = {"bob"}
    await home.members.remove("photos", "bob", gone=True)
    assert (home.kept_by, home.bucket.index_pinned) == ({"me", "cid"}, True)


@virtual
async def test_a_member_is_removed_even_where_its_successor_takes_long(home: Home) -> None:
    await home.add("bob", "cid")
    await home.set("me", "bob")
    home.around.asleep = {"bob"}
    home.around.takes_s = CHANGE_S * 2
    async with home.running():
        await home.members.remove("photos", "bob", gone=True)
        assert [member.name for member in home.members.views("photos")] == ["cid", "me"]
        await trio.sleep(CHANGE_S)
    assert home.kept_by == {"me", "cid"}


@virtual
async def test_where_a_majority_is_gone_nobody_is_given_up(home: Home) -> None:
    await home.add("bob", "cid")
    home.around.asleep = {"bob", "cid"}
    with pytest.raises(NoMajorityError):
        await home.members.remove("photos", "bob", gone=True)
    assert (home.kept_by, len(home.members.views("photos"))) == ({"me", "bob", "cid"}, 3)


@virtual
async def test_who_answers_is_replaced_as_ever_even_if_it_is_called_gone(home: Home) -> None:
    await home.add("bob")
    await home.members.remove("photos", "bob", gone=True)
    assert home.around.changes[-1] == ("me",)


@virtual
async def test_a_banned_replica_is_replaced_by_itself(home: Home) -> None:
    await home.add("bob", "cid", "dan")
    async with home.running():
        await home.nodes.ban(home.around.ids["bob"])
        await trio.sleep(4 * LOOK_EVERY_S)
    assert home.kept_by == {"me", "cid", "dan"}


# -- people choose --------------------------------------------------------------------------------------------------


@virtual
async def test_what_people_chose_stays(home: Home) -> None:
    await home.add("bob", "cid")
    assert await home.set("me", "cid")
    assert (home.kept_by, home.bucket.index_pinned) == ({"me", "cid"}, True)
    await home.add("dan")
    async with home.running():
        await trio.sleep(5 * LOOK_EVERY_S)
    assert home.kept_by == {"me", "cid"}
    assert (await home.members.index_view("photos")).awaited == ()
    await home.members.remove("photos", "cid")  # a place that people gave is given to another one
    assert home.kept_by in ({"me", "bob"}, {"me", "dan"})
    assert home.bucket.index_pinned
    await home.set("auto")
    assert (home.kept_by, home.bucket.index_pinned) == ({"me", "bob", "dan"}, False)


@virtual
async def test_an_unreliable_node_may_be_chosen_by_hand_and_outlives_another(home: Home) -> None:
    await home.meet("bob", reliable=False)
    await home.members.add("photos", "bob")
    await home.add("cid")
    await home.set("bob", "cid")
    assert home.kept_by == {"bob", "cid"}
    await home.members.remove("photos", "cid")
    assert home.kept_by == {"bob", "me"}


@virtual
async def test_choices_that_cannot_be(home: Home) -> None:
    await home.add("bob")
    await home.meet("cid")
    with pytest.raises(ConflictError, match="cid is no trusted member"):
        await home.set("me", "cid")
    with pytest.raises(InvalidError, match="named twice"):
        await home.set("me", "me")
    with pytest.raises(MeshHoldError, match="no node is called 'shed'"):
        await home.set("shed")
    await home.set("me")
    home.around.asleep = {"bob"}
    with pytest.raises(UnavailableError, match="stays where it is, since bob cannot be asked"):
        await home.set("me", "bob")
    assert home.kept_by == {"me"}


@virtual
async def test_the_mode_is_refused_until_it_is_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registers, "AVAILABLE_SUPPORTED", False)
    with pytest.raises(InvalidError, match="available is not offered"):
        await home.set(mode="available")
    monkeypatch.setattr(registers, "AVAILABLE_SUPPORTED", True)
    assert await home.set(mode="available")
    view = await home.kit.vaults.view("photos")
    assert (view.consistency, view.index_pinned, view.index_replicas) == ("available", False, (home.around.ids["me"],))
    assert (await home.members.index_view("photos")).modes == ("linearizable", "available")
    await home.add("bob")
    assert home.kit.seats.configuration(home.vault).mode is Mode.AVAILABLE


@virtual
async def test_two_changes_at_once_are_told_apart(home: Home) -> None:
    await home.add("bob")
    home.around.takes_s = CHANGE_S * 3
    async with home.running():
        assert not await home.set("me")
        assert not await home.set("me")  # joins the one that is under way
        with pytest.raises(UnavailableError, match="another change of the index"):
            await home.set("bob")
    assert home.around.asked == 2


@virtual
async def test_the_factor_and_the_pin_share_a_record(home: Home) -> None:
    await home.set("me")
    await home.kit.vaults.set_factor("photos", 2)
    view = await home.kit.vaults.view("photos")
    assert (view.replication_factor, view.index_pinned, view.name, view.alias) == (2, True, "photos", "photos")
    with pytest.raises(InvalidError):
        await home.kit.vaults.set_factor("photos", 17)


# -- shown and told -------------------------------------------------------------------------------------------------


@virtual
async def test_a_view_says_who_votes_who_answers_and_who_does_not(home: Home) -> None:
    await home.add(*NAMES)
    assert [each.state for each in (await home.members.index_view("photos")).replicas] == ["votes"] * 3
    await home.set("me", *NAMES)
    newer = found_configuration([home.around.ids["me"]])
    home.around.refusals = {"bob": Absent("it is being refilled"), "dan": Unaware(0), "me": Outdated(newer)}
    home.around.asleep = {"cid"}
    view = await home.members.index_view("photos")
    assert [(each.name, each.state, each.reason) for each in view.replicas] == [
        ("me", "refilling", "it knows of other replicas than this node does"),
        ("bob", "refilling", "it is being refilled"),
        ("cid", "silent", ""),
        ("dan", "refilling", "it has not heard yet who keeps the index"),
        ("eva", "silent", ""),
    ]
    assert (view.consistency, view.pinned, view.leaving, view.error) == ("linearizable", True, (), "")


@virtual
async def test_a_vault_whose_keepers_are_unknown_is_listed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with lost(home, monkeypatch):
        [view] = await home.kit.vaults.views()
    assert (view.objects, view.bytes, view.index_replicas, view.votes) == (None, None, (), True)


@contextmanager
def lost(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let nobody know who keeps the index."""

    def unknown(_vault: VaultId) -> Configuration:
        raise NoMajorityError("unknown")

    with monkeypatch.context() as changed:
        changed.setattr(home.kit.seats, "configuration", unknown)
        yield


@virtual
async def test_a_replica_that_hangs_does_not_hold_up_the_list(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_vault: VaultId) -> None:
        await trio.sleep_forever()

    await home.kit.bucket("films")
    monkeypatch.setattr(home.kit.registers, "counts", hang)
    began_s = trio.current_time()
    assert [view.objects for view in await home.kit.vaults.views()] == [None, None]
    assert trio.current_time() - began_s < 5


@virtual
async def test_a_wiped_replica_says_that_it_does_not_vote(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def of_the_first_that_answers(_vault: VaultId) -> Counts:
        await trio.lowlevel.checkpoint()
        return Counts(7, 7)

    monkeypatch.setattr(home.kit.registers, "counts", of_the_first_that_answers)
    assert (await home.kit.vaults.view("photos")).votes
    await home.kit.seats.leave(home.vault)
    home.kit.seats._founding = lambda _: found_configuration([home.around.ids["me"]])
    view = await home.kit.vaults.view("photos")
    assert (view.votes, view.objects, view.bytes) == (False, None, None)
    home.kit.seats._founding = lambda _: found_configuration([home.around.ids["bob"]])
    assert (await home.kit.vaults.view("photos")).votes  # it has no say, so nothing is missing


@virtual
async def test_the_registry_is_told_of_a_newer_configuration_and_of_no_older_one(home: Home) -> None:
    me = home.around.ids["me"]

    def told() -> int:
        record = home.kit.keeper.registry.get(Kind.INDEX, home.vault)
        return 0 if record is None else unpack_configuration(record.public["configuration"]).epoch

    founded = found_configuration([me])
    await home.kit.directory.publish(home.vault, founded)
    assert told() == 0  # the vault's own record says as much
    later = founded.begin_change([me], Mode.LINEARIZABLE).end_change()
    await home.kit.directory.publish(home.vault, later)
    assert told() == 3
    await home.kit.directory.publish(home.vault, founded)
    assert told() == 3
    await home.kit.directory.publish(VaultId("x" * 32), later)
    assert home.kit.keeper.registry.get(Kind.INDEX, "x" * 32) is None


@virtual
async def test_a_hint_that_was_lost_is_told_again(home: Home) -> None:
    await home.add("bob")
    assert home.kit.keeper.registry.get(Kind.INDEX, home.vault) is None  # whoever changed it stopped too early
    await home.index.look(home.bucket)
    assert home.kit.keeper.registry.get(Kind.INDEX, home.vault) is not None


# -- a vault is deleted elsewhere -----------------------------------------------------------------------------------


@virtual
async def test_a_deletion_from_elsewhere_takes_the_data_along(home: Home) -> None:
    bucket = home.bucket
    await home.kit.put(bucket, b"k", b"x" * 100_000)
    directory = home.kit.directory
    gone = [directory.vault_deletion(bucket.keys, Kind.VAULT, bucket.id)]
    await home.kit.keeper.receive([encode_record(record) for record in gone], home.around.ids["bob"])
    assert home.kit.vaults.known_alias("photos") is None
    await home.kit.vaults.drop_deleted()
    assert home.kit.stored(bucket) == 0
    assert home.kit.object_count(bucket.id) == 0
    assert home.kit.seats.adopted(bucket.id) is None
    await home.kit.vaults.drop_deleted()  # nothing is left to do


@virtual
async def test_nobody_is_a_member_of_a_deleted_vault(home: Home) -> None:
    """Else a late round of another node would bring its rows back."""
    await home.add("bob")
    await home.kit.vaults.delete("photos", force=True)
    assert home.kit.keeper.registry.live(Kind.MEMBER) == []
