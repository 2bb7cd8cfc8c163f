"""Which machines may keep a vault's chunks: members by their records, present or away."""

from __future__ import annotations

from typing import cast

import pytest

from meshhold.model.ids import NodeId, VaultId
from meshhold.model.stamp import ZERO
from meshhold.node.vault_keepers import VaultKeepers
from meshhold.registry.record import Kind, Record
from meshhold.registry.state import Registry
from meshhold.replication.chunks.holders import Holders, Keeper
from meshhold.store.nodes import NodeFacts, Nodes

VAULT = VaultId("v" * 32)
ME, BOB, CAT = (NodeId(letter * 52) for letter in "abc")


class Records:
    """Records that nobody signed."""

    def __init__(self) -> None:
        self.records: dict[tuple[Kind, str], Record] = {}

    def put(self, kind: Kind, key: str, *, is_deleted: bool = False, **public: object) -> None:
        self.records[kind, key] = Record(kind, key, ZERO, deleted=is_deleted, public=public, private=b"")

    def live(self, kind: Kind) -> list[Record]:
        return [record for (each, _), record in self.records.items() if each is kind and not record.deleted]

    def deleted(self, kind: Kind) -> list[Record]:
        return [record for (each, _), record in self.records.items() if each is kind and record.deleted]

    def known(self, kind: Kind, key: str) -> Record | None:
        return self.records.get((kind, key))

    def get(self, kind: Kind, key: str) -> Record | None:
        record = self.known(kind, key)
        return None if record is None or record.deleted else record


class Facts:
    """What nodes say of themselves, and who is banned."""

    def __init__(self) -> None:
        self.told: dict[NodeId, NodeFacts] = {}
        self.banned: set[NodeId] = set()

    def facts(self, node: NodeId) -> NodeFacts | None:
        return self.told.get(node)

    def is_banned(self, node: NodeId) -> bool:
        return node in self.banned


class Around:
    """Links and membership."""

    def __init__(self) -> None:
        self.linked: set[NodeId] = set()
        self.alive: set[NodeId] = set()

    def is_linked(self, node: NodeId) -> bool:
        return node in self.linked

    def is_alive(self, node: NodeId) -> bool:
        return node in self.alive

    def rtt_s(self, node: NodeId) -> float | None:
        return 0.02 if node in self.linked else None


class Home:
    """A vault of three members."""

    def __init__(self) -> None:
        self.records, self.nodes, self.around, self.now_s = Records(), Facts(), Around(), 100.0
        self.records.put(Kind.VAULT, VAULT, replication_factor=2)
        for node in (ME, BOB, CAT):
            self.records.put(Kind.MEMBER, f"{VAULT}/{node}", role="trusted")
        self.keepers = VaultKeepers(
            cast("Registry", self.records),
            cast("Nodes", self.nodes),
            self.around,
            ME,
            lambda: 1000,
            now_s=lambda: self.now_s,
        )

    def tell(self, node: NodeId, *, capacity: int = 0, reliable: bool = True, draining: bool = False) -> None:
        self.nodes.told[node] = NodeFacts(node, "", (), "attic", capacity, reliable, "", disk=500, draining=draining)

    def keeper(self, node: NodeId) -> Keeper:
        return {keeper.node: keeper for keeper in self.keepers.keepers(VAULT)}[node]


@pytest.fixture
def home() -> Home:
    return Home()


def test_a_node_that_was_never_in_a_mesh_offers_its_disk(home: Home) -> None:
    assert home.keeper(ME) == Keeper(ME, 1000, "", reliable=True, leaving=False)


def test_of_others_nothing_is_expected_until_they_say_what_they_are(home: Home) -> None:
    assert home.keeper(BOB) == Keeper(BOB, 1, "", reliable=False, leaving=False)


def test_capacity_is_what_is_offered_or_the_disk(home: Home) -> None:
    home.tell(BOB, capacity=200)
    home.tell(CAT)
    assert (home.keeper(BOB).capacity, home.keeper(CAT).capacity) == (200, 500)


def test_who_is_drained_or_removed_leaves(home: Home) -> None:
    home.tell(BOB, draining=True)
    home.tell(CAT)
    home.records.put(Kind.MEMBER, f"{VAULT}/{CAT}", role="trusted", leaving=True)
    assert (home.keeper(BOB).leaving, home.keeper(CAT).leaving) == (True, True)


def test_who_is_banned_is_no_member(home: Home) -> None:
    home.nodes.banned.add(BOB)
    assert {keeper.node for keeper in home.keepers.keepers(VAULT)} == {ME, CAT}
    assert [home.keepers.is_member(VAULT, node) for node in (BOB, CAT)] == [False, True]


def test_vaults_without_a_record_are_not_kept(home: Home) -> None:
    other = VaultId("w" * 32)
    home.records.put(Kind.MEMBER, f"{other}/{ME}", role="untrusted")
    assert home.keepers.vaults() == [VAULT]
    assert (home.keepers.factor(VAULT), home.keepers.factor(other)) == (2, None)


def test_absence_counts_from_when_it_was_seen_last_and_not_from_before_the_start(home: Home) -> None:
    assert home.keepers.away_s(BOB) == 0
    home.now_s += 50
    assert home.keepers.away_s(BOB) == 50
    home.around.alive.add(BOB)
    assert home.keepers.away_s(BOB) == 0
    home.around.alive.clear()
    home.now_s += 7
    assert (home.keepers.away_s(BOB), home.keepers.away_s(ME)) == (7, 0)


def test_a_node_can_be_asked_while_it_is_linked(home: Home) -> None:
    home.around.alive.add(BOB)
    home.around.linked.add(CAT)
    assert [home.keepers.is_live(node) for node in (BOB, CAT)] == [False, True]
    assert [home.keepers.rtt_s(node) for node in (BOB, CAT)] == [None, 0.02]


# -- given up, and back ------------------------------------------------------------------------------------------------


def test_who_was_given_up_is_leaving_to_itself_and_nobody_to_others(home: Home) -> None:
    home.records.put(Kind.MEMBER, f"{VAULT}/{ME}", is_deleted=True, gone=True)
    assert home.keeper(ME).leaving
    assert (home.keepers.vaults(), home.keepers.given_up()) == ([VAULT], [VAULT])
    home.records.put(Kind.MEMBER, f"{VAULT}/{ME}", role="trusted")
    home.records.put(Kind.MEMBER, f"{VAULT}/{BOB}", is_deleted=True, gone=True)
    assert {keeper.node for keeper in home.keepers.keepers(VAULT)} == {ME, CAT}
    assert (home.keepers.is_member(VAULT, BOB), home.keepers.may_hand_over(VAULT, BOB)) == (False, True)
    assert home.keepers.given_up() == []


def test_both_come_to_the_same_view_of_who_is_to_keep_what(home: Home) -> None:
    """Else no holder would confirm anything to the one that came back."""
    for node in (ME, BOB, CAT):
        home.tell(node, capacity=1000)
    home.records.put(Kind.MEMBER, f"{VAULT}/{ME}", is_deleted=True, gone=True)
    mine = Holders(home.keepers, ME).view(VAULT)
    registry, nodes = cast("Registry", home.records), cast("Nodes", home.nodes)
    keepers = VaultKeepers(registry, nodes, home.around, BOB, lambda: 1, now_s=lambda: home.now_s)
    its = Holders(keepers, BOB).view(VAULT)
    assert mine is not None
    assert its is not None
    assert (mine.version, mine.extra, its.extra) == (its.version, (ME,), ())


def test_who_was_removed_otherwise_or_is_banned_hands_over_nothing(home: Home) -> None:
    home.records.put(Kind.MEMBER, f"{VAULT}/{BOB}", is_deleted=True)
    home.records.put(Kind.MEMBER, f"{VAULT}/{CAT}", is_deleted=True, gone=True)
    home.nodes.banned.add(CAT)
    assert [home.keepers.may_hand_over(VAULT, node) for node in (ME, BOB, CAT)] == [True, False, False]


def test_of_a_deleted_vault_nothing_is_handed_over(home: Home) -> None:
    home.records.put(Kind.MEMBER, f"{VAULT}/{ME}", is_deleted=True, gone=True)
    home.records.put(Kind.VAULT, VAULT, is_deleted=True)
    assert home.keepers.vaults() == []
    assert {keeper.node for keeper in home.keepers.keepers(VAULT)} == {BOB, CAT}
    assert not home.keepers.may_hand_over(VAULT, ME)
