"""The calls of the mesh reach their service with checked arguments; whatever else is asked is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.admin_fakes import FakeNode
from tests.unit.mesh_fakes import node_id

from meshhold.admin.lines import encode_line
from meshhold.errors import ConflictError, InvalidError, NotFoundError
from meshhold.model.token import SIZE_MAX, decode_token


async def quiet(_step: dict[str, Any]) -> None:
    """Take progress and say nothing."""


async def test_an_invitation_has_the_limits_that_were_asked_for() -> None:
    call = FakeNode().dispatch()
    token = decode_token((await call("mesh.invite", {}, quiet))["token"])
    assert (token.is_pass, token.expires_ms) == (False, 0)
    token = decode_token((await call("mesh.invite", {"single_use": True}, quiet))["token"])
    assert token.is_pass


async def test_join_takes_the_longest_token_there_is() -> None:
    node = FakeNode()
    node.mesh.in_mesh = False
    token = (await node.dispatch()("mesh.invite", {}, quiet))["token"]
    met = await node.dispatch()("mesh.join", {"token": token}, quiet)
    assert met == {"node_id": node_id("a"), "name": "cellar"}
    with pytest.raises(ConflictError, match="in a mesh already"):
        await node.dispatch()("mesh.join", {"token": "x" * SIZE_MAX}, quiet)
    with pytest.raises(InvalidError, match=f"has {SIZE_MAX + 1} characters"):
        await node.dispatch()("mesh.join", {"token": "x" * (SIZE_MAX + 1)}, quiet)


async def test_views_of_nodes_cross_the_socket_whole() -> None:
    call = FakeNode().dispatch()
    listed = json.loads(encode_line({"ok": True, "result": await call("node.list", {}, quiet)}))["result"]
    assert [node["name"] for node in listed] == ["attic", "cellar", "laptop"]
    assert listed[2] == {
        "id": node_id("c"), "name": "laptop", "state": "suspect", "is_me": False, "route": "relayed via cellar",
        "rtt_ms": 31.7, "zone": "home", "capacity": 2**39, "reliable": False, "version": "0.1.0",
        "addresses": ["192.0.2.7:7777"], "last_seen_s": 95.0, "suspected_by": [node_id("b")[:8], "zzzzzzzz"],
    }  # fmt: skip
    assert (await call("node.show", {"node": "laptop"}, quiet)).id == node_id("c")
    assert (await call("status", {}, quiet))["nodes"][1].name == "cellar"


async def test_facts_that_are_not_named_stay() -> None:
    node = FakeNode()
    await node.dispatch()("node.set", {"capacity": 2**40}, quiet)
    await node.dispatch()("node.set", {"zone": "garage", "reliable": False}, quiet)
    me = node.mesh.views[0]
    assert (me.name, me.zone, me.capacity, me.reliable) == ("attic", "garage", 2**40, False)
    await node.dispatch()("node.set", {"capacity": 0, "reliable": True}, quiet)  # falsy, and still a change
    assert (node.mesh.views[0].capacity, node.mesh.views[0].reliable) == (0, True)


async def test_ban_lift_and_leave() -> None:
    node = FakeNode()
    call = node.dispatch()
    await call("node.ban", {"node": "laptop"}, quiet)
    assert node.mesh.banned == {node_id("c")}
    await call("node.ban", {"node": "laptop", "lift": True}, quiet)
    assert node.mesh.banned == set()
    await call("node.leave", {}, quiet)
    with pytest.raises(ConflictError, match="in no mesh"):
        await call("node.leave", {}, quiet)


async def test_members_of_a_vault() -> None:
    node = FakeNode()
    call = node.dispatch()
    made = await call("vault.member_add", {"vault": "photos", "node": "cellar"}, quiet)
    assert made.role == "trusted"
    made = await call("vault.member_add", {"vault": "photos", "node": "laptop", "trusted": False}, quiet)
    assert made.role == "untrusted"
    assert len(await call("vault.members", {"vault": "photos"}, quiet)) == 3
    await call("vault.member_remove", {"vault": "photos", "node": "laptop"}, quiet)
    assert [member.name for member in node.members.found] == ["attic", "cellar"]
    assert await call("vault.rotate_key", {"vault": "photos"}, quiet) == {"epoch": 2}
    with pytest.raises(NotFoundError):
        await call("vault.members", {"vault": "films"}, quiet)


async def test_rotation_takes_its_window() -> None:
    node = FakeNode()
    assert "accepted_until_ms" in await node.dispatch()("swarm.rotate", {"window_s": 3600}, quiet)
    assert node.mesh.windows == [3600]


async def test_a_vault_is_set_in_one_call() -> None:
    node = FakeNode()
    made = await node.create("photos")
    call = node.dispatch()
    found = await call("vault.set", {"vault": "photos", "index_replicas": "attic, cellar"}, quiet)
    assert (found.id, node.members.keepers) == (made.id, ["attic", "cellar"])
    args = {"vault": "photos", "index_replicas": ["cellar"], "consistency": "linearizable", "replication_factor": 2}
    assert (await call("vault.set", args, quiet)).replication_factor == 2
    shown = await call("vault.replicas", {"vault": "photos"}, quiet)
    assert ([replica.name for replica in shown.replicas], shown.pinned) == (["cellar"], True)
    await call("vault.set", {"vault": "photos", "index_replicas": "auto"}, quiet)
    assert node.members.keepers is None


@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        ("mesh.invite", {"expires_s": -1}, "'expires_s' is out of range (use 0 to 315360000)"),
        ("mesh.invite", {"expires_s": 10**30}, "'expires_s' is out of range"),
        ("mesh.invite", {"expires_s": 60.0}, "'expires_s' is a float"),
        ("mesh.join", {}, "needs the argument 'token'"),
        ("swarm.rotate", {}, "needs the argument 'window_s'"),
        ("swarm.rotate", {"window_s": 31 * 86_400}, "'window_s' is out of range (use 0 to 2592000)"),
        ("node.set", {"capacity": 2**60 + 1}, "'capacity' is out of range"),
        ("node.set", {"capacity": True}, "'capacity' is a bool"),
        ("node.set", {"name": "x" * 65}, "'name' has 65 characters (use at most 64)"),
        ("node.set", {"zone": " "}, "'zone' is empty"),
        ("node.set", {"name": "a\x1b[2J"}, "has a control character"),
        ("node.set", {"color": "red"}, "has no argument 'color' (it takes: name, zone, capacity, reliable)"),
        ("node.show", {"node": "shed"}, "no node is called 'shed'"),
        ("vault.set", {"vault": "photos"}, "nothing to set (give index_replicas"),
        ("vault.set", {"vault": "photos", "index_replicas": 5}, "'index_replicas' is no list of texts"),
        ("vault.set", {"vault": "photos", "index_replicas": ["a", 5]}, "'index_replicas' is no list of texts"),
        ("vault.set", {"vault": "photos", "index_replicas": []}, "names none, an empty one or too many (use 1 to 7)"),
        ("vault.set", {"vault": "photos", "index_replicas": "a,,b"}, "names none, an empty one or too many"),
        ("vault.set", {"vault": "photos", "index_replicas": ["a"] * 8}, "names none, an empty one or too many"),
        ("vault.set", {"vault": "photos", "index_replicas": ["a\n"]}, "has a control character"),
        ("vault.set", {"vault": "photos", "consistency": "eventual"}, "use linearizable or available"),
        ("vault.set", {"vault": "photos", "replication_factor": 0}, "is out of range (use 1 to 16)"),
        ("vault.set", {"vault": "photos", "replication_factor": 17}, "is out of range (use 1 to 16)"),
        ("vault.set", {"vault": "photos", "index_replicas": "attic"}, "no vault is called 'photos'"),
        ("vault.member_add", {"vault": "photos"}, "needs the argument 'node'"),
        ("vault.member_add", {"vault": "photos", "node": "cellar", "trusted": "no"}, "'trusted' is a str"),
    ],
)
async def test_wrong_call_is_refused_by_name(call: str, args: dict[str, Any], message: str) -> None:
    node = FakeNode()
    before = list(node.mesh.views)
    with pytest.raises((InvalidError, NotFoundError)) as caught:
        await node.dispatch()(call, args, quiet)
    assert message in str(caught.value)
    assert node.mesh.views == before
