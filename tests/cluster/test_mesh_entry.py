"""Who gets into a mesh of real daemons: invitations for one node, for a while, in time and too late."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.meshes import BACK_S, Mesh, open_mesh, wait_until

from meshhold.errors import CallRefusedError


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with open_mesh(tmp_path) as opened:
        yield opened


def test_invitations_of_every_kind(mesh: Mesh) -> None:
    """One for a single node lets in one, one with an end lets in nobody after it, and neither harms who tries."""
    ann, bob, cid = mesh.add("ann"), mesh.add("bob"), mesh.add("cid")
    once = ann.call("mesh.invite", single_use=True)["token"]
    brief = ann.call("mesh.invite", expires_s=1)["token"]
    with pytest.raises(CallRefusedError, match="itself"):
        ann.call("mesh.join", token=brief)
    begun = time.monotonic()
    assert bob.call("mesh.join", token=once)["name"] == "ann"
    with pytest.raises(CallRefusedError, match="was used"):
        cid.call("mesh.join", token=once)
    time.sleep(max(0.0, begun + 1.1 - time.monotonic()))  # the end of an invitation is a time of the clock
    with pytest.raises(CallRefusedError, match="expired"):
        cid.call("mesh.join", token=brief)
    assert list(cid.nodes()) == ["cid"]
    assert cid.call("mesh.join", token=bob.call("mesh.invite")["token"])["name"] == "bob"
    mesh.wait_linked([ann, bob, cid], BACK_S)


def test_one_mesh_at_a_time(mesh: Mesh) -> None:
    """A node that is in a mesh refuses another one, with either kind of token; both meshes stay as they are."""
    ann, bob = mesh.form("ann", "bob")
    zoe = mesh.add("zoe")
    for single_use in (False, True):
        token = zoe.call("mesh.invite", single_use=single_use)["token"]
        with pytest.raises(CallRefusedError, match="in a mesh already"):
            bob.call("mesh.join", token=token)
    assert list(zoe.nodes()) == ["zoe"]
    assert set(bob.nodes()) == {"ann", "bob"}
    assert bob.call("mesh.join", token=ann.call("mesh.invite")["token"])["name"] == "ann"
    bob.call("node.leave")
    bob.call("mesh.join", token=zoe.call("mesh.invite")["token"])
    mesh.wait_linked([bob, zoe], BACK_S)
    assert set(zoe.nodes()) == set(bob.nodes()) == {"bob", "zoe"}, "nothing of the other mesh came along"


def test_joining_before_the_first_start(mesh: Mesh) -> None:
    """The token waits on disk; a node whose token was refused starts alone and can be invited again."""
    ann = mesh.add("ann")
    bob, cid, dan = (mesh.add(name, start=False) for name in ("bob", "cid", "dan"))
    once = ann.call("mesh.invite", single_use=True)["token"]
    for node, token in ((bob, ann.call("mesh.invite")["token"]), (cid, once), (dan, once)):
        done = node.type("join", token)
        assert done.returncode == 0, done.stderr
        assert "daemon" in done.stdout
    for node in (bob, cid):
        node.start()
    mesh.wait_linked([ann, bob, cid], BACK_S)
    dan.start()
    wait_until(lambda: "was not joined" in dan.log.read_text(), BACK_S, "a word about the refused token")
    assert list(dan.nodes()) == ["dan"]
    dan.call("mesh.join", token=ann.call("mesh.invite")["token"])
    mesh.wait_linked(mesh.nodes, BACK_S)
