"""Five real daemons, on loopback and on machines of their own: how soon all know, and that they mend themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.cluster.meshes import BACK_S, DEAD_S, Facts, Mesh, MeshNode, open_mesh
from tests.cluster.namespaces import open_network

from meshhold.errors import CallRefusedError

pytestmark = pytest.mark.slow

NAMES = ("ann", "bob", "cid", "dan", "eve")


@pytest.fixture(scope="module", params=["loopback", "namespaces"])
def five(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with ExitStack() as stack:
        network = stack.enter_context(open_network()) if request.param == "namespaces" else None
        mesh = stack.enter_context(open_mesh(tmp_path_factory.mktemp(request.param), network))
        mesh.form(*NAMES)
        yield mesh


def vaults(node: MeshNode) -> dict[str, str]:
    """Return the vaults that a node can open, and their buckets."""
    return {view["name"]: view["alias"] for view in node.call("vault.list")}


def test_each_command_is_seen_by_all_who_may_see_it(five: Mesh) -> None:
    """Three of them are trusted with a vault, one keeps ciphertext, one has nothing to do with it."""
    ann, bob, cid, dan, eve = five.nodes
    trusted = [ann, bob, cid]
    ann.call("vault.create", name="photos")
    for name in ("bob", "cid"):
        ann.call("vault.member_add", vault="photos", node=name)
    five.seen("vault create, add-member", trusted, lambda node: vaults(node) == {"photos": ""})
    ann.call("vault.member_add", vault="photos", node="dan", trusted=False)
    five.seen("add-member --untrusted", trusted, lambda node: len(node.call("vault.members", vault="photos")) == 4)
    bob.call("vault.alias", vault="photos", alias="holiday")
    five.seen("vault s3-alias", trusted, lambda node: vaults(node) == {"photos": "holiday"})
    key: Facts = cid.call("key.add", label="album")
    cid.call("grant.set", access_key_id=key["access_key_id"], vault="photos", permissions="read")
    five.seen("s3-perm grant", trusted, lambda node: node.s3_get(key, "/") == (200, "holiday"))
    assert [node.s3_get(key, "/")[0] for node in (dan, eve)] == [403, 403]
    assert vaults(dan) == vaults(eve) == {}
    bob.call("vault.rotate_key", vault="photos")
    ann.call("vault.alias", vault="photos", alias="rotated")
    five.seen("rotate-key", trusted, lambda node: vaults(node) == {"photos": "rotated"})
    cid.call("key.remove", access_key_id=key["access_key_id"])
    five.seen("s3-key rm", trusted, lambda node: node.s3_get(key, "/") == (403, "InvalidAccessKeyId"))
    eve.call("node.set", name="eva", zone="attic")
    five.seen("node set", five.nodes, lambda node: "eva" in node.nodes() and node.nodes()["eva"]["zone"] == "attic")
    eve.call("node.set", name="eve")
    five.seen("node set", five.nodes, lambda node: "eve" in node.nodes())
    ann.call("vault.member_remove", vault="photos", node="cid")
    five.seen("remove-member", [cid], lambda node: vaults(node) == {})
    old = ann.call("mesh.invite")["token"]
    ann.call("swarm.rotate", window_s=3600)
    five.seen("swarm rotate", five.nodes, lambda node: node.call("mesh.invite")["token"][:40] != old[:40])
    five.wait_linked(five.nodes, BACK_S)
    dan.call("node.ban", node="eve")
    five.seen("node ban", five.nodes[:4], lambda node: "eve" not in node.nodes())
    ann.call("node.ban", node="eve", lift=True)
    five.measure("node ban --lift, until it is back", lambda: all(n.has_linked(five.nodes) for n in five.nodes), BACK_S)
    ann.call("vault.delete", vault="photos", force=True)
    five.seen("vault delete", trusted, lambda node: vaults(node) == {})


def test_every_node_may_be_killed_and_returns_by_itself(five: Mesh) -> None:
    for node in five.nodes:
        node.kill()
        five.believe("dead", node, DEAD_S)
        node.start()
        five.believe("alive", node, BACK_S)
        five.wait_linked(five.nodes, BACK_S)


def test_the_whole_mesh_may_lose_power_at_once(five: Mesh) -> None:
    for node in five.nodes:
        node.kill()
    for node in five.nodes:
        node.begin()
    for node in five.nodes:
        node.wait_ready()
    five.measure("all linked after a power cut", lambda: all(n.has_linked(five.nodes) for n in five.nodes), 2 * BACK_S)


def test_a_node_that_was_away_learns_what_happened(five: Mesh) -> None:
    """It was given up for one vault and added to another while it was down."""
    ann, bob = five.nodes[0], five.nodes[1]
    for vault in ("lost", "won"):
        ann.call("vault.create", name=vault)
    ann.call("vault.member_add", vault="lost", node="bob")
    five.seen("add-member", [bob], lambda node: vaults(node) == {"lost": ""})
    bob.kill()
    with pytest.raises(CallRefusedError, match=r"too few of the 2 index replicas .* missing: bob"):
        ann.call("vault.member_remove", vault="lost", node="bob")
    ann.call("vault.member_remove", vault="lost", node="bob", gone=True)
    ann.call("vault.member_add", vault="won", node="bob")
    bob.start()
    five.seen("changes while away", [bob], lambda node: vaults(node) == {"won": ""})
    five.believe("alive", bob, BACK_S)
    for vault in ("lost", "won"):
        ann.call("vault.delete", vault=vault, force=True)
    five.wait_linked(five.nodes, BACK_S)


def test_a_node_leaves_in_good_order(five: Mesh) -> None:
    ann, eve = five.nodes[0], five.nodes[4]
    eve.call("node.leave")
    five.believe("left", eve, 1.0)
    eve.call("mesh.join", token=ann.call("mesh.invite")["token"])
    five.believe("alive", eve, BACK_S)
    five.wait_linked(five.nodes, BACK_S)
