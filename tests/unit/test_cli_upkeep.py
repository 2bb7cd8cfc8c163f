"""Quotas, lifecycles and counters at the command line: what a person reads, what a script gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.admin_fakes import FakeNode, VaultView, serving

from meshhold.admin.calls import make_dispatch
from meshhold.cli.main import run
from meshhold.config import load_config
from meshhold.errors import ConfigError, NotFoundError
from meshhold.model.ids import VaultId
from meshhold.rules.lifecycle import Rule
from meshhold.s3.recording.counters import Counters
from meshhold.s3.recording.served import Served
from meshhold.store.expiry import LifecycleView, describe_rule
from meshhold.store.expiry_walk import DueThing, ExpiryReport

Typed = Callable[..., tuple[int, str, str]]
PHOTOS = VaultId("abcdefghij")
AT_MS = 1_700_000_000_000


class FakeExpiry:
    """One vault with a lifecycle; `error` is how its walks end."""

    def __init__(self) -> None:
        self.runs: list[bool] = []
        self.error = ""
        self.last: ExpiryReport | None = None

    def views(self, vault: str | None) -> Sequence[Any]:
        if vault != "photos":
            raise NotFoundError(f"vault {vault!r} has no lifecycle", "set one")
        rules = [describe_rule(Rule("old", prefix=b"tmp/", days=3)), describe_rule(Rule("off", False, abort_days=1))]
        return [LifecycleView(PHOTOS, "photos", rules, True, self.last, AT_MS)]

    async def run(self, vault: str | None, progress: Any, *, dry_run: bool) -> Sequence[Any]:
        assert vault == "photos"
        self.runs.append(dry_run)
        await progress({"looked at": 1})
        report = ExpiryReport(
            PHOTOS, "photos", dry_run, AT_MS, AT_MS, looked_at=9, objects=2, bytes=2048, locked=1, error=self.error
        )
        report.examples.append(DueThing("object", "tmp/\x1b[2Ja", "old", AT_MS))
        return [report]


class Home(FakeNode):
    """A node that follows lifecycles and counts requests."""

    def __init__(self) -> None:
        super().__init__()
        self.expiry = FakeExpiry()
        self.counters = Counters(lambda _: True, AT_MS / 1000)
        self.more: dict[str, Any] = {}

    def status(self) -> dict[str, Any]:
        return super().status() | self.more

    def dispatch(self) -> Any:
        return make_dispatch(
            self, self, self, self.status, self.mesh, self.members, expiry=self.expiry, counts=self.counters.view
        )


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Home]:
    """Run a node with the vault `photos`."""
    monkeypatch.setenv("MESHHOLD_HOME", str(tmp_path))
    monkeypatch.delenv("MESHHOLD_CONFIG", raising=False)
    assert run(["init"]) == 0
    capsys.readouterr()
    home = Home()
    home.vaults[PHOTOS] = VaultView(PHOTOS, "photos", objects=3, bytes=2**30)
    with serving(tmp_path / "control.sock", home.dispatch()):
        yield home


# -- quotas ---------------------------------------------------------------------------------------------------------


def test_a_quota_is_set_shown_and_taken_away(node: Home, typed: Typed) -> None:
    code, out, err = typed("vault", "set", "photos", "--quota-bytes", "2GiB", "--quota-objects", "4")
    assert (code, err) == (0, "")
    assert "quota of bytes    2.0 GiB (50 % used)\nquota of objects  4 (75 % used)\n" in out
    assert "quota of objects" in typed("vault", "show", "photos")[1]
    assert json.loads(typed("vault", "show", "photos", "--json")[1])["quota_bytes"] == 2 * 2**30
    assert typed("vault", "set", "photos", "--quota-bytes", "none")[0] == 0
    assert (node.vaults[PHOTOS].quota_bytes, node.vaults[PHOTOS].quota_objects) == (None, 4)


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--quota-bytes", "much", "is no size"),
        ("--quota-bytes", "0", "is no limit; use a size such as 500GiB, or none"),
        ("--quota-objects", "0", "is no limit; use a number of objects"),
        ("--quota-objects", "-5", "is no limit"),
        ("--quota-objects", "1" * 20, "is no limit"),
    ],
)
def test_limits_that_are_none(typed: Typed, option: str, text: str, message: str) -> None:
    code, _, err = typed("vault", "set", "photos", f"{option}={text}")
    assert code == 2
    assert message in " ".join(err.split())


def test_a_vault_that_is_nearly_full_is_named(node: Home, typed: Typed) -> None:
    node.more = {"quotas": [{"vault": PHOTOS, "name": "photos", "percent": 90}]}
    warning = "vault photos has used 90 % of its quota; see meshhold vault show abcdefgh"
    assert warning in typed("status")[1]
    node.more = {"quotas": [{"vault": PHOTOS, "name": "photos", "percent": 89}]}
    assert "quota" not in typed("status")[1]


# -- lifecycles -----------------------------------------------------------------------------------------------------


def test_the_rules_are_shown(node: Home, typed: Typed) -> None:
    code, out, err = typed("vault", "lifecycle", "photos")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        "RULE  STATE  APPLIES TO                   DOES",
        "old   on     keys that begin with 'tmp/'  objects end after 3 days",
        "off   off    all keys                     unfinished uploads end after 1 day",
    ]
    assert "last walk  none since the daemon started" in out
    node.expiry.last = ExpiryReport(PHOTOS, "photos", False, AT_MS, AT_MS, objects=7)
    assert "removed 7 objects, 0 versions" in typed("vault", "lifecycle", "photos")[1]
    assert typed("vault", "lifecycle", "films")[0] == 1


def test_what_is_due_is_shown_or_removed(node: Home, typed: Typed) -> None:
    code, out, _ = typed("vault", "lifecycle", "photos", "--dry-run")
    assert code == 0
    assert "object  tmp/\\x1b[2Ja  old" in out, "a key cannot drive the terminal"
    assert "would remove: 2 objects, 0 versions, 0 markers, 0 uploads (2.0 KiB) of 9 rows looked at, 1 under a" in out
    assert typed("vault", "lifecycle", "photos", "--run")[1].splitlines()[-1].startswith("removed: 2 objects")
    assert node.expiry.runs == [True, False]
    assert json.loads(typed("vault", "lifecycle", "photos", "--run", "--json")[1])[0]["objects"] == 2
    assert typed("vault", "lifecycle", "photos", "--run", "--dry-run")[0] == 2


def test_a_walk_that_did_not_end_is_a_failure(node: Home, typed: Typed) -> None:
    node.expiry.error = "nobody answers"
    code, _, err = typed("vault", "lifecycle", "photos", "--run")
    assert code != 0
    assert "nobody answers" in err
    node.more = {"lifecycle": [{"name": "photos", "error": "nobody answers"}], "access_log_dropped": 3}
    out = typed("status")[1]
    assert "lifecycle of vault photos: nobody answers" in out
    assert "access log: 3 lines were lost" in out


# -- counters -------------------------------------------------------------------------------------------------------


def test_counters(node: Home, typed: Typed) -> None:
    assert "no request by bucket yet" in typed("status", "--counters")[1]
    for status in (200, 200, 404):
        node.counters.record(
            Served(0, 0, "", "GET", b"/", "1.1", status, 0, 1024, b"", b"", "1", "GK01", "my-bucket", "GetObject")
        )
    out = typed("status", "--counters")[1]
    assert "GK01        3         0 B  3.0 KiB" in out
    assert "GetObject: 2 2xx, 1 4xx" in out
    found = json.loads(typed("status", "--counters", "--json")[1])
    assert found["buckets"][0]["requests"] == {"GetObject": {"2xx": 2, "4xx": 1}}


# -- configuration --------------------------------------------------------------------------------------------------


def test_the_log_of_requests_is_configured(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "node: {s3: {access_log: logs/s3, access_log_format: json, access_log_bytes: 5MiB, access_log_files: 2, "
        "lifecycle_day_s: 10}}"
    )
    s3 = load_config(path).s3
    assert (s3.access_log, s3.access_log_format) == (tmp_path / "logs/s3", "json")
    assert (s3.access_log_bytes, s3.access_log_files, s3.lifecycle_day_s) == (5 * 2**20, 2, 10)
    for off in ('""', "off", ""):
        path.write_text(f"node: {{s3: {{access_log: {off}}}}}")
        assert load_config(path).s3.access_log is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("access_log", "5", "access_log is '5' (YAML reads int); allowed: the path of a file"),
        ("access_log", "on", "access_log is 'on'"),
        ("access_log_format", "apache", "'apache'; allowed: combined or json"),
        ("access_log_bytes", "5", "5 bytes; allowed: 1048576 to"),
        ("access_log_files", "0", "is 0; allowed: a whole number, 1 to 100"),
        ("access_log_files", "few", "'few'; allowed: a whole number"),
        ("lifecycle_day_s", "86401", "allowed: a whole number, 1 to 86400"),
    ],
)
def test_settings_out_of_range_are_named(tmp_path: Path, key: str, value: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"node: {{s3: {{{key}: {value}}}}}")
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert message in str(refused.value)
    assert f"node.s3.{key}" in str(refused.value)


# -- given up, and back ---------------------------------------------------------------------------------------------


def test_status_tells_what_is_still_here_of_vaults_that_took_this_node_for_lost(node: Home, typed: Typed) -> None:
    assert "gone for good" not in typed("status")[1]
    node.more["given_up"] = [{"vault": PHOTOS, "chunks": 12, "short": 3, "waiting": "node bob is away"}]
    out = typed("status")[1]
    assert f"vault {PHOTOS[:8]}: this node was removed as gone for good, and is back\n" in out
    assert "12 chunks of it are here until its members have confirmed them, 3 of them nowhere else yet\n" in out
    assert "waiting: node bob is away\n" in out
    assert json.loads(typed("status", "--json")[1])["given_up"] == node.more["given_up"]


# -- pace -----------------------------------------------------------------------------------------------------------


def test_status_shows_the_pace_in_force(node: Home, typed: Typed) -> None:
    pace = {"repair_bytes_per_s": 50_000_000, "scrub_bytes_per_s": 20 * 2**20, "stand_in_after_s": 5400}
    node.more["pace"] = pace
    out = typed("status")[1]
    assert "repair       up to 50 MB/s\n" in out
    assert "scrub        up to 20.0 MiB/s, once a week\n" in out
    assert "stands in    for machines that are away for 1 h 30 min\n" in out
    assert json.loads(typed("status", "--json")[1])["pace"] == pace
