"""Three real daemons on loopback: vaults are shared; nodes die, return, leave, are banned, and change keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.meshes import BACK_S, DEAD_S, Facts, Mesh, MeshNode, open_mesh

from meshhold.errors import CallRefusedError

BUCKET = "family-photos"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with open_mesh(tmp_path_factory.mktemp("mesh")) as opened:
        opened.form("ann", "bob", "cid")
        yield opened


def furnish(node: MeshNode, vault: str) -> Facts:
    """Make a vault with a bucket of its name and a key for it; return the key."""
    node.call("vault.create", name=vault)
    node.call("vault.alias", vault=vault, alias=vault)
    key: Facts = node.call("key.add", label="album")
    node.call("grant.set", access_key_id=key["access_key_id"], vault=vault, permissions="read,write")
    return key


def answers(node: MeshNode, *keys: Facts) -> list[tuple[int, str]]:
    """Return what S3 says to each key about all buckets, this one, a forbidden and a missing one."""
    asked = [("GET", "/"), ("HEAD", f"/{BUCKET}"), ("GET", f"/{BUCKET}?location"), ("HEAD", "/none"), ("GET", "/none")]
    return [node.s3_get(key, path, method) for key in keys for method, path in asked]


def test_a_shared_vault_answers_alike_on_both_nodes(mesh: Mesh) -> None:
    """A key granted on one node signs on the other, which lists, refuses and misses in the same words; no third does.

    Taking the key, the grant or the membership back is seen as fast as giving them.
    """
    ann, bob, cid = mesh.nodes
    key = furnish(ann, BUCKET)
    idle: Facts = ann.call("key.add", label="not granted anything here")
    forged = {**key, "secret_access_key": "x" * 40}
    ann.call("vault.create", name="other")
    ann.call("grant.set", access_key_id=idle["access_key_id"], vault="other", permissions="read")
    for vault in (BUCKET, "other"):
        ann.call("vault.member_add", vault=vault, node="bob")
    expected = answers(ann, key, idle, forged)
    assert (200, BUCKET) in expected
    assert (403, "SignatureDoesNotMatch") in expected
    mesh.seen("a shared vault", [bob], lambda node: answers(node, key, idle, forged) == expected)
    assert {status for status, _ in answers(cid, key)} == {403}
    assert cid.call("vault.list") == cid.call("grant.list") == []
    ann.call("vault.alias", vault=BUCKET, alias="renamed")
    mesh.seen("another alias", [ann, bob], lambda node: node.s3_get(key, "/") == (200, "renamed"))
    ann.call("key.remove", access_key_id=idle["access_key_id"])
    mesh.seen("a removed key", [ann, bob], lambda node: node.s3_get(idle, "/") == (403, "InvalidAccessKeyId"))
    bob.call("grant.revoke", access_key_id=key["access_key_id"], vault=BUCKET)
    mesh.seen("a revoked grant", [ann, bob], lambda node: node.s3_get(key, "/renamed", "HEAD")[0] == 403)


def test_a_member_that_is_removed_serves_the_vault_no_more(mesh: Mesh) -> None:
    ann, bob, cid = mesh.nodes
    key = furnish(ann, "letters")
    for name in ("bob", "cid"):
        ann.call("vault.member_add", vault="letters", node=name)
    mesh.seen("three members", mesh.nodes, lambda node: len(node.call("vault.members", vault="letters")) == 3)
    assert bob.call("vault.rotate_key", vault="letters") == {"epoch": 2}
    bob.call("vault.member_remove", vault="letters", node="cid")
    mesh.seen("a removed member", [cid], lambda node: node.call("vault.list") == [])
    assert cid.s3_get(key, "/letters", "HEAD")[0] == 403
    mesh.seen("its removal", [ann, bob], lambda node: len(node.call("vault.members", vault="letters")) == 2)
    ann.call("vault.alias", vault="letters", alias="sealed-anew")
    mesh.seen("what is sealed with the new keys", [bob], lambda node: node.s3_get(key, "/") == (200, "sealed-anew"))
    assert ann.call("vault.rotate_key", vault="letters") == {"epoch": 4}


def test_what_a_node_says_of_itself_is_seen_by_all(mesh: Mesh) -> None:
    bob = mesh.nodes[1]
    wanted = {"zone": "attic", "capacity": 5 << 30, "reliable": False}
    bob.call("node.set", **wanted)
    mesh.seen("node set", mesh.nodes, lambda node: wanted.items() <= node.nodes()["bob"].items())
    bob.call("node.set", zone="default", capacity=0, reliable=True)


def test_a_killed_node_is_dead_for_all_and_returns_by_itself(mesh: Mesh) -> None:
    cid = mesh.nodes[2]
    cid.call("node.set", zone="cellar")
    cid.kill()
    mesh.believe("dead", cid, DEAD_S)
    cid.start()
    mesh.believe("alive", cid, BACK_S)
    mesh.wait_linked(mesh.nodes, BACK_S)
    assert {node.nodes()["cid"]["zone"] for node in mesh.nodes} == {"cellar"}


def test_a_node_leaves_and_needs_an_invitation_to_come_back(mesh: Mesh) -> None:
    """The others are told at once; it forgets them; what it was given of vaults it keeps."""
    ann, _bob, cid = mesh.nodes
    cid.call("vault.create", name="diary")
    cid.call("node.leave")
    mesh.believe("left", cid, 1.0)
    assert list(cid.nodes()) == ["cid"]
    cid.kill()
    cid.start()
    assert [view["name"] for view in cid.call("vault.list")] == ["diary"]
    with pytest.raises(CallRefusedError, match="in no mesh"):
        cid.call("node.leave")
    cid.call("mesh.join", token=ann.call("mesh.invite")["token"])
    mesh.believe("alive", cid, BACK_S)
    mesh.wait_linked(mesh.nodes, BACK_S)


def test_a_banned_node_is_refused_everywhere_until_the_ban_is_lifted(mesh: Mesh) -> None:
    ann, bob, cid = mesh.nodes
    ann.call("node.ban", node="cid")
    mesh.seen("a ban", [ann, bob], lambda node: "cid" not in node.nodes())
    cid.kill()
    cid.start()
    mesh.seen("its own ban", [cid], lambda node: not {view["route"] for view in node.nodes().values()} & {"direct"})
    vault = bob.call("vault.create", name="after the ban")
    assert vault["id"]
    assert "cid" not in bob.nodes()
    bob.call("node.ban", node="cid", lift=True)
    mesh.believe("alive", cid, BACK_S)
    mesh.wait_linked(mesh.nodes, BACK_S)


def test_the_swarm_key_changes_under_a_running_mesh(mesh: Mesh) -> None:
    """All stay linked. A node that was away enters by the old key and is given the new one."""
    ann, bob, cid = mesh.nodes
    old_token = ann.call("mesh.invite")["token"]
    cid.kill()
    mesh.believe("dead", cid, DEAD_S)
    bob.call("swarm.rotate", window_s=3600)
    mesh.seen("a new swarm key", [ann], lambda node: node.call("mesh.invite")["token"] != old_token)
    assert ann.has_linked([bob])
    cid.start()
    mesh.believe("alive", cid, BACK_S)
    keys = {(node.home / "swarm.key").read_bytes() for node in (ann, bob)}
    mesh.seen("the new key on who was away", [cid], lambda node: (node.home / "swarm.key").read_bytes() in keys)
    assert len(keys) == 1
    mesh.wait_linked(mesh.nodes, BACK_S)
