"""Every command of the guide, as a person and as a script types it, against a node with services in memory."""

from __future__ import annotations

import io
import json
import logging
import re
import stat
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.admin_fakes import FakeNode, VaultView, serving

from meshhold.cli import quickstart as quickstart_module
from meshhold.cli.main import run
from meshhold.cli.output import duration_text, size_text, table_lines
from meshhold.config import Config, load_config
from meshhold.crypto.random import parse_swarm_key
from meshhold.errors import StorageFailedError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a home of its own."""
    monkeypatch.setenv("MESHHOLD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MESHHOLD_CONFIG", raising=False)
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/meshhold")
    return tmp_path / "home"


@pytest.fixture
def node(home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[FakeNode]:
    """Run a node in the home."""
    assert run(["init"]) == 0
    capsys.readouterr()
    fake = FakeNode()
    with serving(home / "control.sock", fake.dispatch()):
        yield fake


Typed = Callable[..., tuple[int, str, str]]


# -- a node comes into being ----------------------------------------------------------------------------------------


def test_init_writes_a_private_loadable_config(home: Path, typed: Typed) -> None:
    code, out, _ = typed("init")
    assert code == 0
    assert "start the node with: meshhold daemon\n" in out
    path = home / "config.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    config = load_config(path)
    assert config.node.data_dir == home
    assert config.swarm_key is None
    assert [entry.name for entry in home.iterdir()] == ["config.yaml"]


def test_init_takes_folder_and_addresses(tmp_path: Path, typed: Typed) -> None:
    folder = tmp_path / "a node"
    code, out, _ = typed(
        "init", "--data-dir", str(folder), "--listen-addr", "127.0.0.1:0", "--s3-addr", "127.0.0.1:3999"
    )
    assert code == 0
    config = load_config(folder / "config.yaml")
    assert (config.node.data_dir, config.node.listen_addr) == (folder, "127.0.0.1:0")
    assert config.s3.listen_addr == "127.0.0.1:3999"
    assert f"meshhold daemon --config '{folder}/config.yaml'" in out


def test_init_keeps_an_existing_node(home: Path, typed: Typed) -> None:
    typed("init")
    before = (home / "config.yaml").read_bytes()
    code, _, err = typed("init", "--s3-addr", "127.0.0.1:1")
    assert code == 1
    assert "there is a node here" in err
    assert (home / "config.yaml").read_bytes() == before


def test_init_refuses_a_bad_address_and_leaves_nothing(home: Path, typed: Typed) -> None:
    code, _, err = typed("init", "--s3-addr", "localhost")
    assert code == 1
    assert "node.s3.listen_addr is 'localhost', which has no port" in err
    assert list(home.iterdir()) == []


def test_init_with_config_elsewhere(tmp_path: Path, typed: Typed) -> None:
    path = tmp_path / "etc" / "m.yaml"
    assert typed("init", "--config", str(path), "--data-dir", str(tmp_path / "data"))[0] == 0
    assert load_config(path).node.data_dir == tmp_path / "data"


def test_keygen_prints_a_fresh_key_file(typed: Typed) -> None:
    first, second = typed("keygen")[1], typed("keygen")[1]
    assert len(parse_swarm_key(first)) == 32
    assert first != second


# -- the guide ------------------------------------------------------------------------------------------------------


def test_the_guide_step_by_step(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    vault_id = asked("vault", "create", "photos")["id"]
    assert typed("vault", "s3-alias", vault_id, "my-bucket")[0] == 0
    key = asked("s3-key", "add", "--label", "ci")
    assert key == {"access_key_id": key["access_key_id"], "secret_access_key": "s3cr3t", "label": "ci"}
    for spelling in ("read,write", "read+write", "rw", "r", "w", "read", "write"):
        code, out, _ = typed("s3-perm", "grant", key["access_key_id"], vault_id, spelling)
        assert code == 0
        assert "on my-bucket" in out
    [grant] = asked("s3-perm", "list")
    assert (grant["vault_id"], grant["permissions"]) == (vault_id, "write")
    assert typed("s3-perm", "grant", "anonymous", "my-bucket", "read", "--list")[0] == 0
    assert node.grant_views["anonymous", vault_id].permissions == "read,list"
    assert typed("s3-perm", "revoke", key["access_key_id"], vault_id)[0] == 0
    assert typed("vault", "s3-alias", vault_id, "")[1].endswith("has no bucket name any more\n")
    assert typed("s3-key", "rm", key["access_key_id"])[0] == 0
    assert asked("s3-key", "list") == []


def test_tables_for_people(node: FakeNode, typed: Typed) -> None:
    assert "there is no vault" in typed("vault", "list")[1]
    assert "there is no key" in typed("s3-key", "list")[1]
    assert "there is no grant" in typed("s3-perm", "list")[1]
    node.vaults["abcdefghij"] = VaultView("abcdefghij", "photos", "my-bucket", objects=2, bytes=3 * 1024**2)
    header, row = typed("vault", "list")[1].splitlines()
    assert header.split() == ["ID", "NAME", "BUCKET", "OBJECTS", "SIZE", "COPIES"]
    assert row.split() == ["abcdefgh", "photos", "my-bucket", "2", "3.0", "MiB", "3"]
    assert header.index("BUCKET") == row.index("my-bucket")
    shown = typed("vault", "show", "photos")[1]
    assert re.search(r"^size +3.0 MiB$", shown, re.MULTILINE)
    assert re.search(r"^snapshot +none of the index$", shown, re.MULTILINE)
    node.vaults["abcdefghij"] = replace(node.vaults["abcdefghij"], snapshot_ms=1_700_000_000_000)
    shown = typed("vault", "show", "photos")[1]
    assert re.search(r"^snapshot +of the index as of 2023-11-1[45] \d\d:\d\d$", shown, re.MULTILINE)
    typed("s3-key", "add", "--label", "ci", "--create-buckets")
    assert typed("s3-key", "list")[1].splitlines()[1].endswith("yes")
    typed("s3-perm", "grant", "anonymous", "photos", "r")
    assert typed("s3-perm", "list")[1].splitlines()[1].split() == [
        "anonymous", "-", "abcdefgh", "photos", "my-bucket", "read",
    ]  # fmt: skip


def test_secret_is_on_stdout_and_the_advice_is_not(node: FakeNode, typed: Typed) -> None:
    _, out, err = typed("s3-key", "add", "--label", "ci")
    assert re.search(r"^secret_access_key +s3cr3t$", out, re.MULTILINE)
    assert "s3cr3t" not in err
    assert "s3-perm grant" in err
    assert "s3cr3t" not in typed("s3-key", "list")[1]
    assert list(node.key_views)


def test_status(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    out = typed("status")[1]
    assert re.search(r"^S3 endpoint +http://127.0.0.1:3900$", out, re.MULTILINE)
    assert re.search(r"^up for +1 min 30 s$", out, re.MULTILINE)
    assert re.search(r"^disk +512.0 GiB free of 1.0 TiB$", out, re.MULTILINE)
    assert asked("status")["mesh"] == "off (no swarm key)"
    node.s3_addr = ""
    assert re.search(r"^S3 endpoint +off$", typed("status")[1], re.MULTILINE)


def test_status_says_how_far_each_index_is(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    """Columns that say nothing are left out; a comparison that is over leaves no trace."""
    over = {"source": "kkkkkkkk", "rows_behind": 0, "rows_per_s": 12.5, "eta_s": 0.0, "error": ""}
    node.indexes = [{"vault": "abcdefghijkl", "name": "photos", "state": "votes", **over}]
    node.mesh.views = node.mesh.views[:1]
    assert typed("status")[1].splitlines()[-2:] == ["INDEX OF  VAULT     STATE", "photos    abcdefgh  votes"]
    refilled = {**over, "rows_behind": 90_000, "rows_per_s": 1500.0, "eta_s": 60.0}
    begun = {**over, "rows_behind": 7, "rows_per_s": 0.0, "eta_s": None}
    node.indexes += [
        {"vault": "bcdefghijklm", "name": "let\x1b[2Jters", "state": "waiting until 12:00", **refilled},
        {"vault": "cdefghijklmn", "name": "new", "state": "votes", **begun},
    ]
    header, *rows = typed("status")[1].splitlines()[-4:]
    assert header.split("  ")[-1] == "TIME LEFT"
    assert [re.split(r" {2,}", row)[2:] for row in rows] == [
        ["votes"],
        ["waiting until 12:00", "90000", "1500", "1 min 0 s"],
        ["votes", "7", "0", "?"],
    ]
    assert asked("status")["indexes"][1]["rows_behind"] == 90_000


def test_delete_asks_and_refuses_what_is_not_empty(
    node: FakeNode, typed: Typed, asked: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    vault_id = asked("vault", "create", "photos")["id"]
    for answer in ("", "n\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        code, _, err = typed("vault", "delete", "photos")
        assert code == 1
        assert "delete vault photos" in err
        assert "use --yes in scripts" in err
    node.vaults[vault_id] = VaultView(vault_id, "photos", objects=1)
    code, _, err = typed("vault", "delete", "photos", "--yes")
    assert code == 1
    assert "use --force" in err
    node.locked.add("photos")
    code, _, err = typed("vault", "delete", "photos", "--yes", "--force")
    assert code == 1
    assert "use --break-locks" in err
    assert asked("vault", "delete", "photos", "--yes", "--force", "--break-locks") == {"id": vault_id}
    assert asked("vault", "list") == []


def test_check_and_scrub_exit_with_what_they_found(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    asked("vault", "create", "photos")
    code, out, _ = typed("vault", "check")
    assert (code, out) == (0, "photos: 3 objects, 4 chunks, 5 B, 0 unfinished uploads: all whole\n")
    assert typed("scrub")[0] == 0
    assert typed("collect")[1] == "removed 2 chunks, 2.0 KiB\n"
    node.lost, node.rotten = ["my-bucket/a.jpg"], ["my-bucket/b\x1b[2J.jpg"]
    code, out, _ = typed("vault", "check", "photos")
    assert code == 1
    assert re.search(r"^missing +my-bucket/a.jpg$", out, re.MULTILINE)
    code, out, _ = typed("vault", "check", "--deep")
    assert code == 1
    assert "b\\x1b[2J.jpg" in out  # a key cannot drive the terminal
    assert "2 damaged" in out
    code, out, _ = typed("vault", "check", "--json")
    assert (code, json.loads(out)[0]["missing"]) == (1, ["my-bucket/a.jpg"])
    assert typed("scrub", "photos")[0] == 1


def test_check_says_what_is_at_risk_and_what_to_do(node: FakeNode, typed: Typed, asked: Callable[..., Any]) -> None:
    asked("vault", "create", "photos")
    node.found = {"members": 3, "wanted": 2, "factor": 3, "copies": 8}
    code, out, _ = typed("vault", "check")
    assert code == 0
    assert "0 unfinished uploads, 2.00 copies of 2 (not 3: 1 more machines are needed for that): all whole" in out
    node.found |= {"factor": 2, "copies": 7, "misplaced": ["b/x"], "totals": {"misplaced": 1}}
    code, out, _ = typed("vault", "check")
    assert code == 0, "nothing is at risk"
    assert "1.75 copies of 2: all whole, 1 misplaced\n" in out
    assert re.search(r"^STATE +OBJECT\nmisplaced  b/x\nmisplaced: .*repair moves them", out, re.MULTILINE)
    node.found |= {"under_replicated": ["b/y"], "totals": {"misplaced": 1, "under_replicated": 4}, "damaged_copies": 1}
    code, out, _ = typed("vault", "check")
    assert code == 1
    assert "… and 3 more" in out
    assert "1 damaged copies were put aside" in out
    assert out.endswith("4 under-replicated, 1 misplaced\n")
    node.found = {"members": 2, "unreachable": ["b/z"], "totals": {"unreachable": 1}, "silent": {"c\x1b": "it is gone"}}
    code, out, _ = typed("vault", "check")
    assert code == 1
    assert "unreachable: nobody who answers" in out
    assert "c\\x1b does not answer: it is gone" in out
    node.found = {}
    node.rotten, node.repaired = ["a" * 64, "b" * 64], 2
    code, out, _ = typed("scrub")
    assert (code, out.splitlines()[-1]) == (
        0,
        "rehashed 4 chunks, 5 B: 2 corrupt, 2 of them fetched anew from other machines",
    )
    node.repaired = 1
    code, out, _ = typed("scrub")
    assert code == 1
    assert "of 1 no other machine has a good copy now" in out


# -- ends -----------------------------------------------------------------------------------------------------------


def test_without_a_daemon_the_command_that_starts_it_is_shown(home: Path, tmp_path: Path, typed: Typed) -> None:
    code, out, err = typed("status")
    assert (code, out) == (3, "")
    assert "create one with: meshhold init, then start it with: meshhold daemon" in err
    typed("init")
    code, _, err = typed("vault", "list", "--json")
    assert code == 3
    assert err.endswith("→ start it with: meshhold daemon\n")
    typed("init", "--data-dir", str(tmp_path / "two"))
    code, _, err = typed("--config", str(tmp_path / "two" / "config.yaml"), "status")
    assert err.endswith(f"start it with: meshhold daemon --config {tmp_path}/two/config.yaml\n")
    assert (home / "config.yaml").exists()


def test_config_is_found_by_option_then_environment(
    node: FakeNode, home: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHHOLD_CONFIG", str(home / "absent.yaml"))
    assert typed("status")[0] == 3
    assert typed("--config", str(home / "config.yaml"), "status")[0] == 0
    assert typed("status", "--config", str(home / "config.yaml"))[0] == 0
    monkeypatch.setenv("MESHHOLD_CONFIG", str(home / "config.yaml"))
    assert typed("status")[0] == 0
    assert node.vaults == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ("explode",),
        ("vault",),
        ("vault", "create"),
        ("s3-key", "add"),
        ("status", "--what"),
        ("vault", "show", "a", "b"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], typed: Typed) -> None:
    code, out, err = typed(*arguments)
    assert code == 2
    assert out == ""
    assert "Usage" in err


def test_refusal_shows_cause_and_fix(node: FakeNode, home: Path, typed: Typed) -> None:
    code, _, err = typed("vault", "show", "nope")
    assert (code, err) == (1, "meshhold: no vault is called 'nope'\n  → see meshhold vault list\n")
    (home / "config.yaml").write_text("nodes: {}\n")
    code, _, err = typed("status")
    assert code == 1
    assert f"{home}/config.yaml, line 1: nodes is not a known key" in err
    assert node.vaults == {}


def test_defect_is_a_sentence(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_size: int) -> bytes:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("secrets.token_bytes", broken)
    code, _, err = typed("keygen")
    assert code == 1
    assert "unexpected ZeroDivisionError: a defect" in err


def test_version_and_help(typed: Typed) -> None:
    assert typed("--version")[1] == "meshhold, version 0.1.0\n"
    out = typed("--help")[1]
    for command in ("init", "daemon", "status", "keygen", "vault", "s3-key", "s3-perm", "scrub", "collect"):
        assert f"  {command} " in out


def test_client_commands_do_not_load_the_node() -> None:
    """`meshhold status` stays quick: what serves is not imported by what asks."""
    program = (
        "import sys; from meshhold.cli.main import run; run(['vault', 'list']);"
        "print(sorted({'trio', 'httptools', 'sqlite3', 'cryptography', 'nacl', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- the daemon's side ----------------------------------------------------------------------------------------------


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    """Put a node with services in memory where the real one is started; it stops once `on_ready` has done its work."""
    fake = FakeNode()

    def run_daemon(config: Config, *, on_ready: Callable[[], None] | None = None) -> int:
        with serving(config.node.data_dir / "control.sock", fake.dispatch()):
            if on_ready is not None:
                on_ready()
                for thread in threading.enumerate():
                    if thread.name == "quickstart":
                        thread.join(10)
        return 0

    module = types.ModuleType("meshhold.node.run")
    module.run_daemon = run_daemon  # type: ignore[attr-defined]  # a module made for the test
    monkeypatch.setitem(sys.modules, "meshhold.node.run", module)
    handlers, level = list(logging.root.handlers), logging.root.level
    yield fake
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def exports(out: str) -> dict[str, str]:
    return dict(re.findall(r"^export (\w+)=(\S+)$", out, re.MULTILINE))


def test_quickstart_from_nothing(fake_run: FakeNode, home: Path, typed: Typed) -> None:
    code, out, err = typed("quickstart")
    assert (code, err) == (0, "")
    [vault] = fake_run.vaults.values()
    assert (vault.name, vault.alias) == ("my-vault", "my-bucket")
    [key] = fake_run.keys()
    assert exports(out) == {
        "AWS_ACCESS_KEY_ID": key.access_key_id,
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:3900",
        "AWS_DEFAULT_REGION": "meshhold",
    }
    assert re.search(r"aws s3 cp - s3://my-bucket/", out)
    assert fake_run.grant_views[key.access_key_id, vault.id].permissions == "read,write,own"
    assert not (home / quickstart_module.MARKER).exists()


def test_quickstart_again_keeps_the_node_and_says_how_to_mint_a_key(
    fake_run: FakeNode, tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    typed("quickstart", "--home", str(folder))
    before = (dict(fake_run.vaults), dict(fake_run.key_views))
    code, out, _ = typed("quickstart", "--home", str(folder))
    assert code == 0
    assert exports(out) == {}
    assert f"meshhold s3-key add --label another --config {folder}/config.yaml" in out
    assert "s3-perm grant ACCESS_KEY_ID my-bucket rw" in out
    monkeypatch.setenv("MESHHOLD_HOME", str(folder))  # which the other terminal may not have
    assert f"--config {folder}/config.yaml" in typed("quickstart")[1]
    assert (fake_run.vaults, fake_run.key_views) == before


@pytest.mark.parametrize("last_step", ["create", "set_alias", "add_key", "grant"])
def test_quickstart_finishes_an_interrupted_start(
    fake_run: FakeNode, home: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch, last_step: str
) -> None:
    """Whatever step was the last one taken, the next start ends with one vault and one key whose secret was shown."""
    with monkeypatch.context() as broken:
        real = getattr(fake_run, last_step)

        async def fail(*args: Any, **kwargs: Any) -> Any:
            await real(*args, **kwargs)
            raise StorageFailedError("the disk is gone")

        broken.setattr(fake_run, last_step, fail)
        broken.setattr("os.kill", lambda _pid, _signal: None)
        code, out, err = typed("quickstart")
        assert code == 1
        assert exports(out) == {}
        assert "was not set up" in err
    assert (home / quickstart_module.MARKER).exists()
    code, out, _ = typed("quickstart")
    assert code == 0
    assert len(fake_run.vaults) == 1
    assert [key.access_key_id for key in fake_run.key_views.values()] == [exports(out)["AWS_ACCESS_KEY_ID"]]
    assert not (home / quickstart_module.MARKER).exists()


def test_quickstart_leaves_an_own_node_alone(fake_run: FakeNode, typed: Typed) -> None:
    """A node that its owner set up by hand gets nothing that nobody asked for."""
    typed("init")
    fake_run.vaults["v"] = VaultView("v", "photos")
    _, out, _ = typed("quickstart")
    assert list(fake_run.vaults) == ["v"]
    assert fake_run.key_views == {}
    assert "buckets: none yet" in out


def test_daemon_logs_warnings_as_json(fake_run: FakeNode, home: Path, typed: Typed) -> None:
    typed("init", "--s3-addr", "0.0.0.0:0")
    code, out, err = typed("daemon", "--log-format", "json")
    assert (code, out) == (0, "")
    line = json.loads(err.splitlines()[0])
    assert (line["level"], line["logger"]) == ("warning", "meshhold.config")
    assert "plain HTTP" in line["message"]
    code, _, err = typed("daemon", "--log-level", "error")
    assert (code, err) == (0, "")
    assert fake_run.vaults == {}
    assert (home / "config.yaml").exists()


def test_daemon_without_a_node_is_refused(typed: Typed, home: Path) -> None:
    code, _, err = typed("daemon")
    assert code == 1
    assert f"{home}/config.yaml: there is no such file" in err
    assert "meshhold init" in err


# -- how values look ------------------------------------------------------------------------------------------------


def test_sizes_and_durations() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 5 * 1024**3, 2**60)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 GiB", "1024.0 PiB",
    ]  # fmt: skip
    assert [duration_text(s) for s in (0, 59.9, 61, 3 * 3600, 90000)] == [
        "0 s", "59 s", "1 min 1 s", "3 h 0 min", "1 d 1 h",
    ]  # fmt: skip


def test_table_escapes_controls() -> None:
    assert table_lines(("A", "B"), [("x\n", "é")]) == ["A    B", "x\\n  é"]
