"""How limits of keys and grants are given and shown at the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.admin_fakes import FakeNode, VaultView, serving

from meshhold.cli.main import run

Typed = Callable[..., tuple[int, str, str]]
Asked = Callable[..., Any]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[FakeNode]:
    """Run a node with the vault `photos`."""
    monkeypatch.setenv("MESHHOLD_HOME", str(tmp_path))
    monkeypatch.delenv("MESHHOLD_CONFIG", raising=False)
    assert run(["init"]) == 0
    capsys.readouterr()
    fake = FakeNode()
    fake.vaults["abcdefghij"] = VaultView("abcdefghij", "photos", "photos")
    with serving(tmp_path / "control.sock", fake.dispatch()):
        yield fake


def test_a_key_with_an_end(node: FakeNode, typed: Typed, asked: Asked) -> None:
    asked("s3-key", "add", "--label", "guest", "--expires", "30d")
    [key] = asked("s3-key", "list")
    assert key["expires_ms"] == 1_700_000_000_000 + 30 * 86_400_000
    shown = typed("s3-key", "list")[1].splitlines()[1]
    assert re.search(r"2023-12-1[34] \d\d:\d\d +no +no +no$", shown)
    name = next(iter(node.key_views))
    node.key_views[name] = replace(node.key_views[name], expired=True)
    assert "(over)" in typed("s3-key", "list")[1]


@pytest.mark.parametrize("text", ["30", "0d", "20y", "99999d", "-1d", "soon"])
def test_ends_that_are_none(node: FakeNode, typed: Typed, text: str) -> None:
    code, _, err = typed("s3-key", "add", "--label", "x", f"--expires={text}")
    assert code == 2
    assert "--expires" in err
    assert not node.key_views


def test_what_a_key_was_minted_for(node: FakeNode, typed: Typed, asked: Asked) -> None:
    asked("s3-key", "add", "--label", "ci", "--create-buckets", "--may-publish")
    _, _, err = typed("s3-key", "add", "--label", "frame", "--read-only")
    assert "VAULT read\n" in err
    ci, frame = asked("s3-key", "list")
    assert (ci["create_buckets"], ci["may_publish"], ci["read_only"]) == (True, True, False)
    assert (frame["create_buckets"], frame["may_publish"], frame["read_only"]) == (False, False, True)
    header, *rows = typed("s3-key", "list")[1].splitlines()
    assert header.split()[:2] == ["ACCESS", "KEY"]
    assert [row.split()[-4:] for row in rows] == [["never", "no", "yes", "yes"], ["never", "yes", "no", "no"]]
    assert len(node.key_views) == 2


def test_a_grant_for_prefixes(node: FakeNode, typed: Typed, asked: Asked) -> None:
    key = asked("s3-key", "add", "--label", "ci")["access_key_id"]
    line = ("s3-perm", "grant", key, "photos", "read", "--prefix", "a/", "--prefix", "b, c/")
    assert typed(*line)[1] == f"{key} may read under a/, b, c/ on photos\n"
    [grant] = asked("s3-perm", "list")
    assert grant["prefixes"] == ["a/", "b, c/"]
    assert typed("s3-perm", "list")[1].splitlines()[1].endswith("read under a/, b, c/")
    assert typed("s3-perm", "grant", key, "photos", "read")[1] == f"{key} may read on photos\n"
    assert next(iter(node.grant_views.values())).prefixes == ()


def test_what_keeps_a_grant_from_counting_is_shown(node: FakeNode, typed: Typed) -> None:
    typed("s3-perm", "grant", "anonymous", "photos", "read")
    name = ("anonymous", "abcdefghij")
    node.grant_views[name] = replace(node.grant_views[name], blocked=True)
    assert "public access block" in typed("s3-perm", "list")[1]
    node.grant_views[name] = replace(node.grant_views[name], blocked=False, expires_ms=1_700_000_000_000)
    assert "read until 2023-11-1" in typed("s3-perm", "list")[1]
    node.grant_views[name] = replace(node.grant_views[name], expired=True)
    assert "read, ended 2023-11-1" in typed("s3-perm", "list")[1]


def test_a_key_whose_buckets_are_like_a_vault(node: FakeNode, typed: Typed, asked: Asked) -> None:
    asked("s3-key", "add", "--label", "app", "--create-buckets", "--like", "photos")
    [key] = asked("s3-key", "list")
    assert (key["like"], key["like_name"]) == ("abcdefghij", "photos")
    assert typed("s3-key", "list")[1].splitlines()[1].endswith(" like photos")
    name = next(iter(node.key_views))
    node.key_views[name] = replace(node.key_views[name], like_name="")
    assert typed("s3-key", "list")[1].splitlines()[1].endswith(" like abcdefgh (gone)")
    code, _, err = typed("s3-key", "add", "--label", "app", "--create-buckets", "--like", "films")
    assert (code, "no vault is called 'films'" in err) == (1, True)


def test_a_vault_like_another_one(node: FakeNode, typed: Typed, asked: Asked) -> None:
    node.vaults["abcdefghij"] = replace(node.vaults["abcdefghij"], replication_factor=2)
    made = asked("vault", "create", "music", "--like", "photos")
    assert node.vaults[made["id"]].replication_factor == 2
    assert node.vaults[asked("vault", "create", "diary")["id"]].replication_factor == 3
    code, _, err = typed("vault", "create", "films", "--like", "photos", "--replication-factor", "3")
    assert (code, "has its factor too" in err) == (1, True)
