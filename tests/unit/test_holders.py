"""Who is to keep a vault's chunks: rings of members, absences, versions."""

from __future__ import annotations

from collections.abc import Sequence

from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.replication.chunks.holders import OUT_AFTER_S, Holders, Keeper, View

VAULT = VaultId("v" * 32)
GB = 10**9
A, B, C, D = (NodeId(letter * 52) for letter in "abcd")


class Mesh:
    """Facts that a test sets."""

    def __init__(self, *keepers: Keeper, factor: int = 2) -> None:
        self.members = list(keepers)
        self.wanted: int | None = factor
        self.away: dict[NodeId, float] = {}

    def keepers(self, vault: VaultId) -> Sequence[Keeper]:
        return self.members if vault == VAULT else []

    def factor(self, vault: VaultId) -> int | None:
        return self.wanted if vault == VAULT else None

    def is_live(self, node: NodeId) -> bool:
        return not self.away.get(node, 0)

    def away_s(self, node: NodeId) -> float:
        return self.away.get(node, 0.0)

    def rtt_s(self, node: NodeId) -> float | None:
        return 0.01 if self.is_live(node) else None


def keeper(node: NodeId, *, reliable: bool = True, leaving: bool = False, zone: str = "") -> Keeper:
    return Keeper(node, 100 * GB, zone, reliable, leaving)


def view_of(mesh: Mesh, me: NodeId = A) -> View:
    view = Holders(mesh, me).view(VAULT)
    assert view is not None
    return view


def chunks(count: int = 64) -> list[ChunkId]:
    return [ChunkId(number.to_bytes(1, "big") * 32) for number in range(0, 256, 256 // count)]


def test_every_member_comes_to_the_same_view() -> None:
    mesh = Mesh(keeper(A), keeper(B), keeper(C))
    views = [view_of(mesh, me) for me in (A, B, C)]
    mesh.members.reverse()
    views.append(view_of(mesh))
    assert len({view.version for view in views}) == 1
    assert len({tuple(view.holders(chunk) for chunk in chunks()) for view in views}) == 1


def test_who_is_no_member_has_no_view() -> None:
    mesh = Mesh(keeper(A), keeper(B))
    assert Holders(mesh, C).view(VAULT) is None
    assert Holders(mesh, A).view(VaultId("w" * 32)) is None


def test_the_first_of_the_order_hold() -> None:
    view = view_of(Mesh(keeper(A), keeper(B), keeper(C)))
    for chunk in chunks():
        assert list(view.holders(chunk)) == view.order(chunk)[:2]
        assert sorted(view.order(chunk)) == [A, B, C]


def test_a_small_mesh_has_as_many_copies_as_members() -> None:
    view = view_of(Mesh(keeper(A), keeper(B), factor=3))
    assert view.wanted == 2
    assert all(sorted(view.holders(chunk)) == [A, B] for chunk in chunks())


def test_a_laptop_keeps_nothing_while_there_are_machines_that_stay_on() -> None:
    view = view_of(Mesh(keeper(A, reliable=False), keeper(B), keeper(C)))
    assert all(sorted(view.holders(chunk)) == [B, C] for chunk in chunks())
    assert view.extra == (A,)
    assert view.order(chunks()[0])[-1] == A


def test_laptops_alone_keep_all() -> None:
    view = view_of(Mesh(keeper(A, reliable=False), keeper(B, reliable=False)))
    assert all(sorted(view.holders(chunk)) == [A, B] for chunk in chunks())


def test_a_leaving_machine_holds_nothing_and_may_still_be_asked() -> None:
    mesh = Mesh(keeper(A), keeper(B, leaving=True), keeper(C))
    view = view_of(mesh)
    assert all(B not in view.holders(chunk) for chunk in chunks())
    assert B in view.members
    assert [view_of(mesh, me).is_leaving for me in (A, B)] == [False, True]


def test_where_all_leave_the_copies_stay_where_they_are() -> None:
    view = view_of(Mesh(keeper(A, leaving=True), keeper(B, leaving=True)))
    assert all(sorted(view.holders(chunk)) == [A, B] for chunk in chunks())
    assert not view.is_leaving


class TestAbsence:
    def test_a_short_one_changes_nothing(self) -> None:
        mesh = Mesh(keeper(A), keeper(B), keeper(C))
        before = view_of(mesh)
        mesh.away[B] = OUT_AFTER_S - 1
        assert view_of(mesh) == before

    def test_after_a_long_one_the_next_in_order_stands_in(self) -> None:
        mesh = Mesh(keeper(A), keeper(B), keeper(C))
        before = view_of(mesh)
        mesh.away[B] = OUT_AFTER_S
        after = view_of(mesh)
        assert after.version != before.version
        assert after.ring == before.ring
        assert all(sorted(after.holders(chunk)) == [A, C] for chunk in chunks())
        assert after.wanted == 2

    def test_where_nobody_can_stand_in_fewer_copies_are_wanted(self) -> None:
        mesh = Mesh(keeper(A), keeper(B))
        mesh.away[B] = OUT_AFTER_S
        assert view_of(mesh).wanted == 1

    def test_who_returns_holds_what_it_held(self) -> None:
        mesh = Mesh(keeper(A), keeper(B), keeper(C))
        changed: list[VaultId] = []
        holders = Holders(mesh, A, changed=changed.append)
        before = holders.view(VAULT)
        mesh.away[B] = OUT_AFTER_S
        assert holders.view(VAULT) is before  # until somebody says that time has passed
        holders.refresh()
        mesh.away[B] = 0.0
        holders.refresh()
        holders.refresh()
        assert holders.view(VAULT) == before
        assert changed == [VAULT, VAULT]


def test_a_factor_a_zone_and_a_member_are_told_apart() -> None:
    versions = {
        view_of(Mesh(keeper(A), keeper(B), keeper(C))).version,
        view_of(Mesh(keeper(A), keeper(B), keeper(C), factor=3)).version,
        view_of(Mesh(keeper(A), keeper(B), keeper(C, zone="attic"))).version,
        view_of(Mesh(keeper(A), keeper(B), keeper(C), keeper(D))).version,
    }
    assert len(versions) == 4


def test_a_vault_that_goes_is_told() -> None:
    mesh = Mesh(keeper(A), keeper(B))
    changed: list[VaultId] = []
    holders = Holders(mesh, A, changed=changed.append)
    assert holders.view(VAULT) is not None
    mesh.wanted = None
    holders.refresh()
    assert holders.view(VAULT) is None
    assert changed == [VAULT]


def test_vaults_that_are_gone_are_not_looked_at_for_ever() -> None:
    mesh = Mesh(keeper(A), keeper(B))
    changed: list[VaultId] = []
    holders = Holders(mesh, A, changed=changed.append)
    assert holders.view(VAULT) is not None
    mesh.wanted = None
    for _ in range(2):
        holders.refresh()
    assert (holders.known(), changed) == ([], [VAULT])
    mesh.wanted = 2
    holders.refresh([VAULT])
    assert (holders.known(), changed) == ([VAULT], [VAULT, VAULT])
