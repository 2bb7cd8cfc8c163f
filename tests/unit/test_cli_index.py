"""How a vault's index replicas are shown and set: what a person reads, what a script gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.admin_fakes import FakeNode, VaultView, serving
from tests.unit.mesh_fakes import ReplicaView, node_id

from meshhold.cli.main import run

Typed = Callable[..., tuple[int, str, str]]
PHOTOS = "abcdefghij"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[FakeNode]:
    """Run a node with the vault `photos`, whose trusted members are attic and cellar."""
    monkeypatch.setenv("MESHHOLD_HOME", str(tmp_path))
    monkeypatch.delenv("MESHHOLD_CONFIG", raising=False)
    assert run(["init"]) == 0
    capsys.readouterr()
    fake = FakeNode()
    fake.vaults[PHOTOS] = VaultView(PHOTOS, "photos", index_replicas=(node_id("a"), node_id("b")))
    fake.members.found = [fake.members._view(name, "trusted") for name in ("attic", "cellar")]
    with serving(tmp_path / "control.sock", fake.dispatch()):
        yield fake


def shown(typed: Typed) -> str:
    code, out, err = typed("vault", "show", "photos")
    assert (code, err) == (0, "")
    return out.partition("\n\n")[2]


def test_two_replicas_come_with_advice(node: FakeNode, typed: Typed) -> None:
    assert shown(typed).splitlines() == [
        "INDEX REPLICA  NAME    ZONE  STATE",
        f"{node_id('a')[:8]}       attic   home  votes",
        f"{node_id('b')[:8]}       cellar  home  votes",
        "consistency linearizable: what one machine was told, the next one reads",
        "Both attic and cellar must be up: while one is off, the other can neither read nor write (503).",
        "A third machine ends that, since any two of three suffice: meshhold vault add-member photos NODE",
    ]
    node.members.index = replace(node.members.index, modes=("linearizable", "available"))
    assert "each can go on alone instead" in shown(typed)


def test_one_and_three_replicas_need_none(node: FakeNode, typed: Typed) -> None:
    node.members.keepers = ["attic"]
    assert shown(typed).splitlines()[-1].startswith("Chosen by hand; to let them be chosen: meshhold vault set photos")
    node.members.keepers = ["attic", "cellar", "laptop"]
    assert shown(typed).splitlines()[-1] == "1 of these 3 may be off at any time; with more off, objects wait (503)."


def test_what_is_under_way_is_said(node: FakeNode, typed: Typed) -> None:
    leaving = ReplicaView(node_id("c"), "lap\x1b[2Jtop", "", reliable=False, state="silent", reason="no link")
    node.members.index = replace(node.members.index, changing=True, leaving=(leaving,), error="cellar is missing")
    node.members.asleep = {"cellar"}
    out = shown(typed)
    assert "\x1b" not in out
    assert "does not answer: no link (until the change has ended)" in out
    assert "The replicas are being changed; that goes on by itself.\n" in out
    assert "by itself as soon as it can be asked: cellar\n" in out
    assert "The last try did not end: cellar is missing\n" in out


def test_who_answers_and_does_not_vote(node: FakeNode, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def refilling(name: str) -> ReplicaView:
        return ReplicaView(node_id("a"), name, "home", reliable=True, state="refilling", reason="it is being refilled")

    monkeypatch.setattr(node.members, "_replica", refilling)
    assert "answers, does not vote: it is being refilled\n" in shown(typed)


def test_an_unknown_index_hides_nothing_else(node: FakeNode, typed: Typed) -> None:
    node.vaults[PHOTOS] = VaultView(PHOTOS, "photos", objects=None, bytes=None, index_replicas=())
    node.members.lost = True
    assert "index: this node does not know yet who keeps the index (retry in a moment)\n" in shown(typed)
    assert re.search(r"^objects +\?$", typed("vault", "show", "photos")[1], re.MULTILINE)
    assert typed("vault", "list")[1].splitlines()[1].split() == [PHOTOS[:8], "photos", "-", "?", "?", "3"]
    assert "? objects, ?" in typed("vault", "delete", "photos")[2]


@pytest.mark.usefixtures("node")
def test_scripts_get_whole_ids(asked: Callable[..., Any]) -> None:
    found = asked("vault", "show", "photos")
    assert found["index_replicas"] == [node_id("a"), node_id("b")]
    assert (found["consistency"], found["index_changing"], found["index_pinned"]) == ("linearizable", False, False)


def test_set(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    code, out, err = typed("vault", "set", "photos", "--index-replicas", "attic, laptop", "--replication-factor", "2")
    assert (code, err) == (0, "")
    assert out.startswith(f"vault photos ({PHOTOS[:8]}): 2 copies\nINDEX REPLICA")
    assert node.members.keepers == ["attic", "laptop"]
    assert asked("vault", "set", "photos", "--index-replicas", "auto")["id"] == PHOTOS
    assert node.members.keepers is None
    assert typed("vault", "set", "photos", "--consistency", "linearizable")[0] == 0
    code, _, err = typed("vault", "set", "photos", "--consistency", "available")
    assert code == 1
    assert "consistency available is not offered by this version" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to set; use --index-replicas"),
        (("--consistency", "eventual"), "'eventual' is not one of"),
        (("--replication-factor", "17"), "not in the range"),
    ],
)
def test_set_wrong_usage(node: FakeNode, typed: Typed, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = typed("vault", "set", "photos", *arguments)
    assert code == 2
    assert message in err
    assert node.members.keepers is None
