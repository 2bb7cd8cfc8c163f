"""Every command of the mesh, as a person and as a script types it, against a node with services in memory."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.admin_fakes import FakeNode, serving
from tests.unit.mesh_fakes import SWARM_KEY, node_id

from meshhold.cli.main import run
from meshhold.cli.roster import rtt_text
from meshhold.config import load_config
from meshhold.config.swarm_files import SwarmFiles
from meshhold.model.token import Token, decode_token, encode_token
from meshhold.node.lock import hold_lock

Typed = Callable[..., tuple[int, str, str]]
TOKEN = encode_token(Token(SWARM_KEY, node_id("b"), ("192.0.2.2:7777",)))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a home of its own."""
    monkeypatch.setenv("MESHHOLD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MESHHOLD_CONFIG", raising=False)
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/meshhold")
    return tmp_path / "home"


@pytest.fixture
def node(home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[FakeNode]:
    """Run a node of a mesh in the home."""
    assert run(["init"]) == 0
    capsys.readouterr()
    fake = FakeNode()
    with serving(home / "control.sock", fake.dispatch()):
        yield fake


# -- invite ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("node")
def test_the_token_is_alone_on_standard_output(typed: Typed, asked: Callable[..., Any]) -> None:
    code, out, err = typed("invite")
    assert code == 0
    assert decode_token(out.removesuffix("\n")).key == SWARM_KEY
    assert "meshhold join TOKEN" in err
    assert out.strip() not in err
    assert "It ends" not in err
    assert asked("invite") == {"token": out.strip()}


@pytest.mark.usefixtures("node")
def test_invite_says_what_limits_the_token_has(typed: Typed) -> None:
    _, out, err = typed("invite", "--expires", "1h", "--single-use")
    assert decode_token(out.strip()).is_pass
    assert "It lets in one node, and ends at 2096-" in err
    assert "It ends at 2096-" in typed("invite", "--expires", "30min")[2]


@pytest.mark.usefixtures("node")
def test_the_qr_code_leaves_standard_output_alone(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    plain = typed("invite")[1]
    _, out, err = typed("invite", "--qr")
    assert out == plain
    rows = [line for line in err.splitlines() if set(line) <= set("█▀▄ ") and line]
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == (len(rows[0]) + 1) // 2  # a square: two of its rows a line
    assert "wide" not in err
    monkeypatch.setenv("COLUMNS", "40")
    assert re.search(r"The code is \d+ columns wide and this terminal is not", typed("invite", "--qr")[2])


@pytest.mark.parametrize("text", ["1", "h", "1y", "-1h", "0s", "9999999d", "1.5h", ""])
def test_a_duration_that_is_none_is_wrong_usage(typed: Typed, text: str) -> None:
    code, out, err = typed("invite", "--expires", text)
    assert (code, out) == (2, "")
    assert f"Invalid value for '--expires': {text!r} is " in err


# -- join -----------------------------------------------------------------------------------------------------------


def test_join_asks_the_daemon_that_runs(node: FakeNode, typed: Typed, home: Path) -> None:
    code, _, err = typed("join", TOKEN)
    assert code == 1
    assert err == "meshhold: this node is in a mesh already\n  → leave it first with `meshhold node leave`\n"
    node.mesh.in_mesh = False
    code, out, _ = typed("join", TOKEN)
    assert (code, out) == (0, f"joined the mesh of cellar ({node_id('b')[:8]}); see: meshhold node list\n")
    assert SwarmFiles(home).key() is None  # the daemon keeps its own files


def test_join_json_says_whom_it_met(node: FakeNode, asked: Callable[..., Any]) -> None:
    node.mesh.in_mesh = False
    assert asked("join", TOKEN) == {"joined": True, "node_id": node_id("b"), "name": "cellar"}


def test_join_reads_a_token_from_standard_input_and_mends_its_line_breaks(
    node: FakeNode, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.mesh.in_mesh = False
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TOKEN[:50]}\n  {TOKEN[50:]}\n"))
    assert typed("join", "-")[0] == 0
    assert node.mesh.in_mesh


def test_join_before_the_first_start(home: Path, typed: Typed) -> None:
    typed("init")
    code, out, err = typed("join", TOKEN)
    assert (code, err) == (0, "")
    assert "start the daemon with: meshhold daemon\n" in out
    files = SwarmFiles(home)
    assert (files.key(), files.peers()) == (SWARM_KEY, ("192.0.2.2:7777",))


def test_join_makes_a_node_where_there_is_none(home: Path, tmp_path: Path, typed: Typed) -> None:
    code, _, err = typed("join", TOKEN)
    assert (code, err) == (0, f"created {home}/config.yaml\n")
    assert load_config(home / "config.yaml").node.data_dir == home
    assert SwarmFiles(home).key() == SWARM_KEY
    folder = tmp_path / "two"
    code, out, _ = typed("join", TOKEN, "--json", "--config", str(folder / "config.yaml"))
    assert json.loads(out) == {"joined": False, "start": f"meshhold daemon --config {folder}/config.yaml"}
    assert SwarmFiles(folder).key() == SWARM_KEY


@pytest.mark.parametrize("word", ["mh1", "hello", TOKEN[:-1], TOKEN[:30] + "x" + TOKEN[31:], "mh1" + "A" * 3000])
def test_a_damaged_token_is_refused_and_leaves_nothing(home: Path, typed: Typed, word: str) -> None:
    code, out, err = typed("join", word)
    assert (code, out) == (1, "")
    assert "copy the whole output of `meshhold invite`" in err
    assert word not in err
    assert not home.exists()


def test_an_invitation_that_has_ended_is_refused_before_a_start(home: Path, typed: Typed) -> None:
    old = encode_token(Token(b"p" * 32, node_id("b"), ("192.0.2.2:7777",), is_pass=True, expires_ms=1_700_000_000_000))
    code, _, err = typed("join", old)
    assert code == 1
    assert "this invitation ended at 2023-11-" in err
    assert not home.exists()
    typed("init")
    assert typed("join", old)[0] == 1
    assert SwarmFiles(home).pending() is None


def test_join_keeps_another_mesh_of_the_configuration(home: Path, typed: Typed) -> None:
    typed("init")
    path = home / "config.yaml"
    plain = path.read_text()
    path.write_text(plain.replace('swarm_key: ""', f'swarm_key: "{"ab" * 32}"'))
    code, _, err = typed("join", TOKEN)
    assert code == 1
    assert f"swarm_key in {path} names a mesh already" in err
    assert SwarmFiles(home).key() is None
    path.write_text(plain.replace('swarm_key: ""', f'swarm_key: "{SWARM_KEY.hex()}"'))
    assert typed("join", TOKEN)[0] == 0


def test_join_never_writes_beside_a_daemon_that_does_not_answer(home: Path, typed: Typed) -> None:
    typed("init")
    with hold_lock(home):
        code, _, err = typed("join", TOKEN)
    assert code == 3
    assert "no daemon runs at" in err
    assert SwarmFiles(home).key() is None


# -- nodes ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("node")
def test_node_list(typed: Typed, asked: Callable[..., Any]) -> None:
    out = typed("node", "list")[1]
    header, me, _, laptop, suspicion = out.splitlines()
    assert header.split("  ")[0] == "ID"
    assert re.split(r" {2,}", me) == [
        node_id("a")[:8], "attic (this node)", "alive", "listening", "-", "home", "disk", "yes", "0.1.0", "-",
    ]  # fmt: skip
    assert re.split(r" {2,}", laptop) == [
        node_id("c")[:8], "laptop", "suspect", "relayed via cellar", "32 ms", "home", "512.0 GiB", "no", "0.1.0",
        "1 min 35 s ago",
    ]  # fmt: skip
    assert suspicion == f"laptop ({node_id('c')[:8]}) is suspected by cellar, zzzzzzzz"
    listed = asked("node", "list")
    assert [(n["name"], n["state"], n["route"], n["rtt_ms"]) for n in listed] == [
        ("attic", "alive", "listening", None),
        ("cellar", "alive", "direct", 0.42),
        ("laptop", "suspect", "relayed via cellar", 31.7),
    ]


def test_a_name_cannot_drive_the_terminal(node: FakeNode, typed: Typed) -> None:
    node.mesh.views[2].name = "evil\x1b[2J"
    for command in (("node", "list"), ("node", "show", node_id("c")), ("status",)):
        assert "\x1b" not in typed(*command)[1]


def test_node_show_by_name_and_prefix(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    out = typed("node", "show", node_id("c")[:6])[1]
    assert re.search(r"^route +relayed via cellar$", out, re.MULTILINE)
    assert re.search(r"^addresses +192.0.2.7:7777$", out, re.MULTILINE)
    assert asked("node", "show", "cellar")["id"] == node_id("b")
    code, _, err = typed("node", "show", "shed")
    assert (code, err) == (1, "meshhold: no node is called 'shed'\n  → see `meshhold node list`\n")
    node.mesh.views[1].last_seen_s = None
    assert re.search(r"^last seen +never$", typed("node", "show", "cellar")[1], re.MULTILINE)


def test_node_set(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    changed = asked("node", "set", "--name", "loft", "--zone", "roof", "--capacity", "500GiB", "--no-reliable")
    assert (changed["name"], changed["zone"], changed["capacity"]) == ("loft", "roof", 500 * 2**30)
    assert changed["reliable"] is False
    out = typed("node", "set", "--capacity", "0", "--reliable")[1]
    assert re.search(r"^capacity +what its disk has$", out, re.MULTILINE)
    assert re.search(r"^reliable +yes$", out, re.MULTILINE)
    assert node.mesh.views[0].name == "loft"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to set; use --name"),
        (("--capacity", "lots"), "'lots' is no size"),
        (("--capacity", "5"), "'5' is out of range; use 1MiB"),
        (("--capacity", "2048PiB"), "out of range"),
    ],
)
def test_node_set_wrong_usage(node: FakeNode, typed: Typed, arguments: tuple[str, ...], message: str) -> None:
    before = list(node.mesh.views)
    code, _, err = typed("node", "set", *arguments)
    assert code == 2
    assert message in err
    assert node.mesh.views == before


def test_ban_and_lift(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    code, out, err = typed("node", "ban", "laptop")
    short = node_id("c")[:8]
    assert (code, out) == (0, f"laptop ({short}) is banned; undo with: meshhold node ban {short} --lift\n")
    assert "swarm rotate" in err
    assert "vault remove-member" in err
    assert node.mesh.banned == {node_id("c")}
    assert typed("node", "ban", short, "--lift")[1:] == (f"{short} is no longer banned\n", "")
    assert node.mesh.banned == set()
    assert asked("node", "ban", "laptop") == {"node": node_id("c"), "banned": True}
    assert typed("node", "ban", "attic")[0] == 1


def test_leave(node: FakeNode, typed: Typed) -> None:
    code, out, _ = typed("node", "leave")
    assert (code, out) == (0, "this node has left its mesh; what it stores is still here\n")
    assert not node.mesh.in_mesh
    assert typed("node", "leave")[0] == 1


def test_swarm_rotate(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    _, out, err = typed("swarm", "rotate")
    assert out.startswith("the mesh has a new key; the old one is taken until 2096-")
    assert "must be invited again" in err
    assert "accepted_until_ms" in asked("swarm", "rotate", "--window", "2w")
    assert node.mesh.windows == [86_400, 14 * 86_400]
    for window in ("59s", "31d"):
        assert typed("swarm", "rotate", "--window", window)[0] == 2
    assert len(node.mesh.windows) == 2


# -- vaults ---------------------------------------------------------------------------------------------------------


def test_sharing_a_vault_says_what_two_machines_mean(node: FakeNode, typed: Typed) -> None:
    header, row = typed("vault", "members", "photos")[1].splitlines()
    assert header.split() == ["ID", "NAME", "ROLE", "ZONE", "RELIABLE"]
    assert row.split() == [node_id("a")[:8], "attic", "trusted", "home", "yes"]
    _, out, err = typed("vault", "add-member", "photos", "cellar")
    assert out.startswith(f"cellar ({node_id('b')[:8]}) is a trusted member of vault photos")
    assert "Names, metadata and objects up to 16 KiB are kept by: attic, cellar\n" in err
    assert "Both attic and cellar must be up" in err
    assert "A third machine ends that" in err
    assert "--consistency available" not in err  # while this version refuses it
    assert "What it is to keep of larger objects is copied to it from now on" in err
    _, out, err = typed("vault", "remove-member", "photos", "cellar")
    assert out == f"cellar ({node_id('b')[:8]}) is no member of vault photos any more\n"
    assert "cannot open what is written from now on" in err
    node.members.index = replace(node.members.index, modes=("linearizable", "available"))
    assert "meshhold vault set photos --consistency available\n" in typed("vault", "add-member", "photos", "cellar")[2]


def test_a_new_member_that_sleeps_is_awaited(node: FakeNode, typed: Typed) -> None:
    node.members.asleep = {"cellar"}
    code, _, err = typed("vault", "add-member", "photos", "cellar")
    assert code == 0
    assert "are kept by: attic\nBy cellar too, by itself, as soon as it answers.\n" in err
    assert "From then on both must be up" in err
    node.members.lost = True
    node.mesh.views[2] = replace(node.mesh.views[2], reliable=True)
    assert "not known here: this node does not know yet" in typed("vault", "add-member", "photos", "laptop")[2]


def test_an_unreliable_member_keeps_no_index(node: FakeNode, typed: Typed) -> None:
    err = typed("vault", "add-member", "photos", "laptop")[2]
    assert "Not by laptop, which is not reliable" in err
    assert "must be up" not in err
    node.members.index = replace(node.members.index, changing=True)
    assert "goes on by itself; see: meshhold vault show photos" in typed("vault", "add-member", "photos", "cellar")[2]


def test_an_untrusted_member_stores_ciphertext(typed: Typed, asked: Callable[..., Any], node: FakeNode) -> None:
    _, out, err = typed("vault", "add-member", "photos", "cellar", "--untrusted")
    assert out.endswith("is an untrusted member of vault photos: it can read nothing of it\n")
    assert "see: meshhold vault repair photos --watch" in err
    assert "are kept by" not in err
    assert [member["role"] for member in asked("vault", "members", "photos")] == ["trusted", "untrusted"]
    assert typed("vault", "add-member", "photos", "cellar", "--untrusted")[0] == 1
    gone = asked("vault", "remove-member", "photos", "cellar")
    assert (gone["node_id"], gone["role"]) == (node_id("b"), "untrusted")
    code, _, err = typed("vault", "remove-member", "photos", "attic")
    assert code == 1
    assert "last trusted member" in err
    assert len(node.members.found) == 1


def test_a_machine_is_given_up_only_when_a_person_says_so(
    node: FakeNode, typed: Typed, asked: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In plain words, before anything happens; nobody there to answer means no."""
    typed("vault", "add-member", "photos", "cellar")
    node.members.dead = {"cellar"}
    assert "too few of the 2" in typed("vault", "remove-member", "photos", "cellar")[2]
    for answer in ("", "n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        code, out, err = typed("vault", "remove-member", "photos", "cellar", "--gone")
        assert (code, out) == (1, "")
        assert "--gone is for a machine that is stolen or broken. If cellar ever came back with its data" in err
        assert "nobody was removed" in err
    assert len(node.members.found) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, _ = typed("vault", "remove-member", "photos", "cellar", "--gone")
    assert (code, out) == (0, f"cellar ({node_id('b')[:8]}) is no member of vault photos any more\n")
    typed("vault", "add-member", "photos", "cellar")
    assert asked("vault", "remove-member", "photos", "cellar", "--gone", "--yes")["node_id"] == node_id("b")


@pytest.mark.usefixtures("node")
def test_rotate_key(typed: Typed, asked: Callable[..., Any]) -> None:
    assert typed("vault", "rotate-key", "photos")[1] == "vault photos seals with key epoch 2 from now on\n"
    assert asked("vault", "rotate-key", "photos") == {"epoch": 3}


# -- status ---------------------------------------------------------------------------------------------------------


def test_status_shows_the_mesh(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    out = typed("status")[1]
    assert "LAST SEEN" in out
    assert "is suspected by cellar" in out
    assert len(asked("status")["nodes"]) == 3
    node.mesh.views = node.mesh.views[:1]
    assert "LAST SEEN" not in typed("status")[1]  # alone: nothing to compare


def test_status_shows_how_full_the_read_cache_is(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    node.read_cache |= {"bytes": 412 << 20, "chunks": 5000}
    assert re.search(r"^read cache +412\.0 MiB of 1\.0 GiB$", typed("status")[1], re.MULTILINE)
    assert asked("status")["read_cache"]["chunks"] == 5000
    node.read_cache["bytes_max"] = 0
    assert "read cache" not in typed("status")[1]
    node.read_cache["bytes_max"], node.mesh.views = 1 << 30, node.mesh.views[:1]
    assert "read cache" not in typed("status")[1], "alone there is nobody to fetch from"


def watch(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], None]) -> list[float]:
    """Let each pause of `--watch` take one step, the last one Ctrl-C; return the pauses."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) > len(steps):
            raise KeyboardInterrupt
        steps[len(pauses) - 1]()

    monkeypatch.setattr("meshhold.cli.watching.time.sleep", pause)
    return pauses


def test_watch_redraws_until_interrupted(
    node: FakeNode, typed: Typed, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    def leave_the_socket() -> None:
        (home / "control.sock").rename(home / "away")

    def come_back() -> None:
        (home / "away").rename(home / "control.sock")
        node.mesh.views[2].state = "dead"

    pauses = watch(monkeypatch, leave_the_socket, come_back)
    code, out, err = typed("status", "--watch")
    assert (code, err) == (0, "")
    assert pauses == [2.0, 2.0, 2.0]
    before, gone, after = re.fullmatch(r"(.*)(no daemon runs at .*?\n)(.*)", out, re.DOTALL).groups()  # type: ignore[union-attr]  # a failed match fails the test
    assert "suspect " in before
    assert "Ctrl-C" in gone + after
    assert "dead " in after
    assert "\x1b" not in out  # it is no terminal


@pytest.mark.usefixtures("node")
def test_watch_draws_over_the_screen_without_scrolling(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "6")
    watch(monkeypatch)
    out = typed("status", "--watch")[1]
    drawn = out.removeprefix("\x1b[2J\x1b[H").removesuffix("\x1b[J\n").splitlines()
    assert len(drawn) == 5
    assert all(len(line.removesuffix("\x1b[K")) <= 20 for line in drawn)
    assert drawn[-1] == "… and 13 more lines\x1b[K"


def test_watch_needs_a_daemon_and_a_person(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch)
    assert typed("status", "--watch")[0] == 3
    assert typed("status", "--watch", "--json")[0] == 2


# -- how it looks and loads -----------------------------------------------------------------------------------------


def test_round_trips() -> None:
    assert [rtt_text(rtt) for rtt in (None, 0.04, 9.94, 10.4, 250.0)] == ["-", "0.0 ms", "9.9 ms", "10 ms", "250 ms"]


@pytest.mark.parametrize("command", [["status"], ["invite"]])
def test_commands_of_the_mesh_do_not_load_the_node(command: list[str]) -> None:
    program = (
        f"import sys; from meshhold.cli.main import run; run({command!r});"
        "print(sorted({'trio', 'httptools', 'sqlite3', 'nacl', 'asyncio', 'segno'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("join",),
        ("node",),
        ("node", "ban"),
        ("swarm",),
        ("vault", "add-member", "photos"),
        ("invite", "--expire", "1h"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], typed: Typed) -> None:
    code, out, err = typed(*arguments)
    assert (code, out) == (2, "")
    assert "Usage" in err


@pytest.mark.parametrize("command", [("invite",), ("node", "list"), ("swarm", "rotate"), ("vault", "members", "x")])
def test_without_a_daemon_the_command_that_starts_it_is_shown(typed: Typed, command: tuple[str, ...]) -> None:
    typed("init")
    code, _, err = typed(*command)
    assert code == 3
    assert err.endswith("→ start it with: meshhold daemon\n")
