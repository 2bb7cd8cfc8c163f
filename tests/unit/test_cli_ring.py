"""Rings, draining, repair and leaving members as people and scripts see them, against services in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.admin_fakes import FakeNode, serving
from tests.unit.mesh_fakes import node_id

from meshhold.cli.main import run
from meshhold.store.drains import DrainView
from meshhold.store.rings import Gain, MemberShare, RingPlan, RingShow

Typed = Callable[..., tuple[int, str, str]]
GIB = 2**30
SHOW = RingShow(
    vault="photos", vault_id="v" * 32, version="abc", partitions=4096, factor=3, wanted=2, max_over_mean=1.03,
    held_max_over_mean=1.2, members=(
        MemberShare(node_id("a"), "attic", "home", 500 * GIB, "holds", 50.0, 60.0, 6, 6 * GIB),
        MemberShare(node_id("b"), "cel\x1blar", "", 500 * GIB, "away", 50.0, None, None, None),
    ),
)  # fmt: skip
PLAN = RingPlan(
    vault="photos", vault_id="v" * 32, factor=2, factor_after=2, members_after=3, copies_before=2, copies_min=1,
    copies_after=2, moves_percent=40.0, moves_bytes=4 * GIB, bytes_from="this node's chunks",
    gains=(Gain("attic", 3 * GIB, 0), Gain("cellar", GIB, 4 * GIB)), seconds=65.0, bytes_per_s=50 * 2**20,
    is_measured=True,
)  # fmt: skip
DRAIN = DrainView(node_id("a"), "attic", True, 12, 3 * GIB, ("photos",), ("photos: node cellar is away",), False)
REPAIR: dict[str, Any] = {
    "vault": "photos", "vault_id": "v" * 32, "factor": 3, "wanted": 3, "members": 3, "away": [], "out": [],
    "phase": "moving", "chunks_done": 10, "bytes_done": 10 * 2**20, "chunks_left": 90, "bytes_left": 90 * 2**20,
    "bytes_per_s": 2**20, "eta_s": 90.0, "finished_at": None, "complete": False, "waiting": "", "surplus": 0,
    "removed": 0, "short": 90,
}  # fmt: skip


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[FakeNode]:
    """Run a node in a home of its own."""
    home = tmp_path / "home"
    monkeypatch.setenv("MESHHOLD_HOME", str(home))
    monkeypatch.delenv("MESHHOLD_CONFIG", raising=False)
    assert run(["init"]) == 0
    capsys.readouterr()
    fake = FakeNode()
    with serving(home / "control.sock", fake.dispatch()):
        yield fake


# -- ring -----------------------------------------------------------------------------------------------------------


def test_ring_show_tells_who_keeps_how_much(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    assert typed("ring", "show")[:2] == (0, "there is no vault\n")
    node.rings.shown = [SHOW]
    code, out, _ = typed("ring", "show", "photos")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "photos (vvvvvvvv): 3 copies, of which 2 are possible with these machines"
    assert re.split(r"  +", lines[2])[1:] == ["attic", "home", "500.0 GiB", "50 %", "60 %", "6.0 GiB", "holds"]
    assert re.split(r"  +", lines[3])[1:] == ["cel\\x1blar", "-", "500.0 GiB", "50 %", "?", "?", "away"]
    assert lines[4] == (
        "4096 partitions, version abc; the fullest machine is to have 1.03 times the average for its capacity, "
        "and has 1.2 times"
    )
    assert asked("ring", "show")[0]["members"][1]["held_percent"] is None
    node.rings.shown = [replace(SHOW, wanted=3, held_max_over_mean=None)]
    out = typed("ring", "show")[1]
    assert "(vvvvvvvv): 3 copies\n" in out
    assert out.endswith("for its capacity\n")


def test_ring_plan_tells_what_would_move(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    assert typed("ring", "plan", "--factor", "2")[:2] == (0, "no vault would change\n")
    node.rings.plans = [PLAN]
    code, out, _ = typed("ring", "plan", "photos", "--without", "shed", "--with", "new:1TiB:garden", "--with", "old")
    assert code == 0
    assert node.rings.asked == ("photos", ["shed"], [f"new:{2**40}:garden", "old"], None)
    lines = out.splitlines()
    assert lines[0] == "photos (vvvvvvvv): 4.0 GiB move, 40 % of one copy (estimated from this node's chunks)"
    assert lines[3].split() == ["cellar", "1.0", "GiB", "4.0", "GiB"]
    assert "takes about 1 min 5 s at 50.0 MiB/s for each machine, as repair goes at present" in out
    assert lines[-1] == (
        "2 copies afterwards, as wanted; if those that go are switched off at once, 1 of everything until repair has "
        "finished"
    )
    assert asked("ring", "plan", "--factor", "2")[0]["moves_bytes"] == 4 * GIB
    vault, _, _, factor = tuple[Any, ...](node.rings.asked)
    assert (vault, factor) == (None, 2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"copies_min": 0}, "DATA WOULD BE LOST"),
        ({"copies_after": 1, "members_after": 1}, "only 1 copies of 2 are possible with 1 machines: add machines"),
        ({"copies_min": 2}, "2 copies afterwards, as wanted\n"),
        ({"moves_bytes": None, "seconds": None}, "40 % of one copy moves; how many bytes"),
        ({"is_measured": False}, "if nothing slows repair down"),
        ({"moves_bytes": 0, "gains": (), "moves_percent": 0.0}, "0 B move, 0 % of one copy"),
    ],
)
def test_ring_plan_in_other_cases(node: FakeNode, typed: Typed, changes: dict[str, Any], text: str) -> None:
    node.rings.plans = [replace(PLAN, **changes)]
    assert text in typed("ring", "plan", "--without", "shed")[1]


@pytest.mark.usefixtures("node")
def test_ring_plan_of_nothing_is_wrong_usage(typed: Typed) -> None:
    code, _, err = typed("ring", "plan")
    assert code == 2
    assert "nothing would change; use --without NODE" in err
    code, _, err = typed("ring", "plan", "--with", "new:lots")
    assert code == 2
    assert "'lots' is no size" in err


# -- drain ----------------------------------------------------------------------------------------------------------


def test_drain_ends_with_leave_to_switch_off(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    empty = replace(DRAIN, chunks=0, bytes=0, indexes=(), waiting=(), is_safe=True)
    node.drains.views = [DRAIN, DRAIN, empty]
    code, out, _ = typed("node", "drain")
    assert (code, out) == (0, "attic keeps nothing any more: it is safe to switch off\n")
    assert node.drains.asked == {"node": None, "undo": False, "force": False, "wait": True}
    assert asked("node", "drain", "cellar")["is_safe"] is True


def test_drain_without_waiting_tells_how_far_it_is(node: FakeNode, typed: Typed) -> None:
    node.drains.views = [DRAIN]
    code, out, _ = typed("node", "drain", "attic", "--no-wait", "--force")
    assert code == 1, "a script must not switch it off"
    assert out.splitlines() == [
        "attic is being drained: 12 chunks, 3.0 GiB left",
        "it keeps the index of: photos",
        "waiting: photos: node cellar is away",
        "do NOT switch it off yet; to end the draining: meshhold node drain attic --undo",
    ]
    assert node.drains.asked == {"node": "attic", "undo": False, "force": True, "wait": False}
    node.drains.views = [replace(DRAIN, draining=False, waiting=())]
    code, out, _ = typed("node", "drain", "--undo")
    assert (code, out) == (0, "attic keeps data; nothing is moved away from it\n")


@pytest.mark.usefixtures("node")
def test_drain_says_why_it_cannot_be(typed: Typed) -> None:
    code, _, err = typed("node", "drain")
    assert code == 1
    assert "photos would have 1 machines for its 2 copies" in err
    assert "--force" in err


# -- repair ---------------------------------------------------------------------------------------------------------


def test_repair_begins_and_tells_how_far_it_is(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    assert typed("vault", "repair")[:2] == (0, "there is no vault to repair\n")
    node.repairs.shown = [REPAIR]
    code, out, _ = typed("vault", "repair", "photos")
    assert code == 0
    assert node.repairs.started == [None, "photos"]
    assert re.split(r"  +", out.splitlines()[1]) == [
        "photos", "3", "90", "moving", "10 chunks, 10.0 MiB", "90 chunks, 90.0 MiB", "1.0 MiB/s", "1 min 30 s",
        "in progress",
    ]  # fmt: skip
    assert asked("vault", "repair")[0]["short"] == 90


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"eta_s": None, "bytes_left": 0}, ["90 chunks  ", " ?  "]),
        ({"phase": "idle", "chunks_left": 0, "finished_at": 1e9, "complete": True}, ["2001-09-09"]),
        ({"phase": "waiting", "finished_at": 1e9}, [", not complete"]),
        ({"phase": "idle"}, ["none yet"]),
        ({"wanted": 2}, ["2 of 3"]),
        ({"waiting": "this node has no room left"}, ["photos: this node has no room left"]),
        (
            {"away": ["cellar", "shed"], "out": ["shed"]},
            ["photos: cellar does not answer", "photos: shed is out: others stand in for it"],
        ),
    ],
)
def test_repair_in_other_states(node: FakeNode, typed: Typed, changes: dict[str, Any], texts: list[str]) -> None:
    node.repairs.shown = [REPAIR | changes]
    out = typed("vault", "repair")[1]
    for text in texts:
        assert text in out
    assert "shed does not answer" not in out


def test_repair_is_watched_until_ctrl_c(node: FakeNode, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass is begun once, however often it is looked at."""
    node.repairs.shown = [REPAIR]
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        node.repairs.shown = [REPAIR | {"chunks_done": 42}]
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("meshhold.cli.watching.time.sleep", pause)
    code, out, _ = typed("vault", "repair", "--watch")
    assert (code, out.count("REPAIR OF"), "42 chunks" in out) == (0, 2, True)
    assert node.repairs.started == [None]
    code, _, err = typed("vault", "repair", "--watch", "--json")
    assert code == 2
    assert "--watch draws for people" in err


def test_status_shows_the_repair_of_shared_vaults(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    node.repairs.shown = [REPAIR | {"members": 1}]
    assert "REPAIR OF" not in typed("status")[1], "a machine alone has nothing to repair from"
    node.repairs.shown = [REPAIR]
    assert re.search(r"^REPAIR OF .*\nphotos ", typed("status")[1], re.MULTILINE)
    assert asked("status")["repair"] == [REPAIR]


# -- members that leave ---------------------------------------------------------------------------------------------


def test_remove_member_tells_what_lacks_a_copy(node: FakeNode, typed: Typed) -> None:
    typed("vault", "add-member", "photos", "cellar")
    node.members.short = 17
    code, _, err = typed("vault", "remove-member", "photos", "cellar", "--gone", "--yes")
    assert code == 0
    assert "About 17 chunks have a copy less until repair has made others" in err


def test_members_that_are_leaving_are_marked(node: FakeNode, typed: Typed) -> None:
    node.members.found = [replace(node.members.found[0], leaving=True)]
    code, out, _ = typed("vault", "members", "photos")
    assert code == 0
    assert "trusted, leaving" in out
    assert json.loads(typed("vault", "members", "photos", "--json")[1])[0]["leaving"] is True
