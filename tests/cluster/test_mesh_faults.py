"""Real daemons on machines of their own: partitions that heal, address translation, and a key that some missed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.meshes import BACK_S, DEAD_S, Mesh, MeshNode, open_mesh
from tests.cluster.namespaces import Host, Network, open_network

pytestmark = pytest.mark.slow

CUT_OFF_S = 30.0  # accusers whom few or none can confirm wait up to 24 s before they are sure
HEALED_S = 15.0  # after a partition of some seconds: each dead member is tried every 3 s, a lost packet again after 8 s
WINDOW_S = 60  # the shortest that a rotation takes


@pytest.fixture
def network() -> Iterator[Network]:
    with open_network() as opened:
        yield opened


@pytest.fixture
def mesh(tmp_path: Path, network: Network) -> Iterator[Mesh]:
    with open_mesh(tmp_path, network) as opened:
        yield opened


def hosts(nodes: list[MeshNode]) -> list[Host]:
    return [node.host for node in nodes if node.host is not None]


def split(mesh: Mesh, network: Network, left: list[MeshNode], right: list[MeshNode]) -> None:
    """Partition the mesh, and wait until each side holds the other one dead."""
    network.partition(hosts(left), hosts(right))
    both = [(left, right), (right, left)]
    mesh.measure(
        "the other side dead for all",
        lambda: all(node.states(others) == {"dead"} for side, others in both for node in side),
        CUT_OFF_S,
    )


def heal(mesh: Mesh, network: Network) -> None:
    network.heal()
    mesh.measure("all linked after healing", lambda: all(n.has_linked(mesh.nodes) for n in mesh.nodes), HEALED_S)


def zones(node: MeshNode) -> dict[str, str]:
    return {name: view["zone"] for name, view in node.nodes().items()}


def test_changes_on_both_sides_of_a_partition_arrive_everywhere(mesh: Mesh, network: Network) -> None:
    nodes = mesh.form("ann", "bob", "cid", "dan", "eve")
    ann, bob, cid, dan, eve = nodes
    ann.call("vault.create", name="shared")
    for name in ("bob", "cid"):
        ann.call("vault.member_add", vault="shared", node=name)
    mesh.seen("add-member", [bob, cid], lambda node: len(node.call("vault.list")) == 1)
    split(mesh, network, [ann, bob], [cid, dan, eve])
    ann.call("node.set", zone="left")
    eve.call("node.set", zone="right")
    key = bob.call("key.add", label="made on the left")
    bob.call("grant.set", access_key_id=key["access_key_id"], vault="shared", permissions="read")
    cid.call("vault.alias", vault="shared", alias="named-on-the-right")
    cid.call("vault.member_add", vault="shared", node="dan")
    heal(mesh, network)
    mesh.seen("facts of both sides", nodes, lambda n: (zones(n)["ann"], zones(n)["eve"]) == ("left", "right"))
    told = [ann, bob, cid, dan]
    mesh.seen("grants and names of both sides", told, lambda n: n.s3_get(key, "/") == (200, "named-on-the-right"))


def test_one_lost_direction_kills_nobody(mesh: Mesh, network: Network) -> None:
    """What one node sends to another is lost: others vouch for both."""
    nodes = mesh.form("ann", "bob", "cid")
    ann, bob, _ = hosts(nodes)
    network.drop(ann, bob)
    ends = time.monotonic() + DEAD_S
    seen: set[str] = set()
    while time.monotonic() < ends:
        seen |= {state for node in nodes for state in node.states(nodes)}
        time.sleep(0.2)
    assert "dead" not in seen
    heal(mesh, network)


def test_keys_rotated_on_both_sides_of_a_partition_settle(mesh: Mesh, network: Network) -> None:
    """Each side has a key that the other one never saw; they meet by the one before, and the later rotation wins."""
    nodes = mesh.form("ann", "bob", "cid", "dan")
    split(mesh, network, nodes[:2], nodes[2:])
    for side in (nodes[:2], nodes[2:]):
        side[0].call("swarm.rotate", window_s=3600)
        mesh.seen("swarm rotate", side, lambda node: (node.home / "swarm.previous").exists())
    for node in nodes:  # no link from before is left
        node.kill()
    for node in nodes:
        node.start()
    heal(mesh, network)
    files = [node.home / "swarm.key" for node in nodes]
    mesh.seen("one key", nodes, lambda _: len({file.read_bytes() for file in files}) == 1)


def test_who_missed_a_rotation_is_out_after_the_window(mesh: Mesh) -> None:
    """A node that returns within the window enters by the old key; one that returns after it must be invited anew."""
    ann, bob, cid, dan = mesh.form("ann", "bob", "cid", "dan")
    for node in (cid, dan):
        node.kill()
        mesh.believe("dead", node, DEAD_S)
    ann.call("swarm.rotate", window_s=WINDOW_S)
    ends = time.monotonic() + WINDOW_S + 6  # keys whose time is over are dropped every 5 s
    mesh.seen("swarm rotate", [bob], lambda node: (node.home / "swarm.previous").exists())
    cid.start()
    mesh.wait_linked([ann, bob, cid], BACK_S)
    time.sleep(max(0.0, ends - time.monotonic()))  # the window is one of the clock
    dan.start()
    stays = time.monotonic() + DEAD_S
    while time.monotonic() < stays:
        assert {node.nodes()["dan"]["state"] for node in (ann, bob, cid)} == {"dead"}
        assert {view["state"] for name, view in dan.nodes().items() if name != "dan"} == {"dead"}
        time.sleep(0.5)
    mesh.wait_linked([ann, bob, cid], BACK_S)
    dan.call("node.leave")
    dan.call("mesh.join", token=ann.call("mesh.invite")["token"])
    mesh.wait_linked([ann, bob, cid, dan], BACK_S)


def test_nodes_behind_routers_take_part_through_a_relay(mesh: Mesh) -> None:
    """Nobody can dial either of two; what one commands is seen by the other, and the list says by what way."""
    ann = mesh.add("ann")
    bob, cid = mesh.add("bob", behind_nat=True), mesh.add("cid", behind_nat=True)
    token = ann.call("mesh.invite")["token"]
    for node in (bob, cid):
        node.call("mesh.join", token=token)
    mesh.wait_linked([ann, bob, cid], 2 * BACK_S)
    assert {bob.nodes()["cid"]["route"], cid.nodes()["bob"]["route"]} == {"relayed via ann"}
    assert {bob.nodes()["ann"]["route"], ann.nodes()["cid"]["route"]} == {"direct"}
    assert 0 < bob.nodes()["cid"]["rtt_ms"] < 1000
    bob.call("vault.create", name="hidden")
    bob.call("vault.alias", vault="hidden", alias="hidden")
    bob.call("vault.member_add", vault="hidden", node="cid")
    key = bob.call("key.add", label="album")
    bob.call("grant.set", access_key_id=key["access_key_id"], vault="hidden", permissions="read")
    mesh.seen("a vault of two hidden nodes", [bob, cid], lambda node: node.s3_get(key, "/") == (200, "hidden"))
    cid.kill()
    mesh.believe("dead", cid, DEAD_S)
    cid.start()
    mesh.believe("alive", cid, BACK_S)
    mesh.wait_linked([ann, bob, cid], 2 * BACK_S)
