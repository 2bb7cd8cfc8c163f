"""Secrets out and in, and an index brought back: what a person reads and is asked, what a script gets."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.admin_fakes import FakeNode, VaultView, serving

from meshhold.admin.calls import make_dispatch
from meshhold.cli.main import run
from meshhold.errors import ConflictError, InvalidError

Typed = Callable[..., tuple[int, str, str]]
PHOTOS = "abcdefghij"


@dataclass(frozen=True)
class Plan:
    vault: str = PHOTOS
    name: str = "photos"
    taken_ms: int = 1_700_000_000_000
    objects: int = 12
    bytes: int = 4096
    replicas: tuple[str, ...] = ("attic", "cellar")
    keeps_rows: bool = False
    rows: int = 0


@dataclass(frozen=True)
class Taken:
    vault: str = PHOTOS
    name: str = "photos"
    taken_ms: int = 1_700_000_000_000
    objects: int = 12
    bytes: int = 4096
    chunks: int = 4
    copies: int = 3
    wanted: int = 3
    factor: int = 3
    lacking: int = 0
    is_new: bool = True
    silent: dict[str, str] = field(default_factory=dict)


class FakeSafe:
    """Secrets, snapshots and recoveries in memory."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.found = Plan()
        self.snapshots = Taken()
        self.view = VaultView(PHOTOS, "photos")
        self.refusal: Exception | None = None
        self.recovered: list[str] = []

    def export(self, vault: str, /) -> str:
        return f"mhv1-of-{vault}"

    async def take(self, word: str, /) -> Any:
        if word != "mhv1word":
            raise InvalidError("these are no vault's secrets", "copy the whole output")
        self.taken.append(word)
        return self.view

    async def snapshot(self, vault: str, progress: Callable[[dict[str, Any]], Awaitable[None]], /) -> Any:
        assert vault == "photos"
        await progress({"vault": vault, "chunks": 4, "too few copies": 2})
        return self.snapshots

    async def plan(self, _vault: str, /) -> Any:
        if self.refusal is not None:
            raise self.refusal
        return self.found

    async def recover(self, vault: str, progress: Callable[[dict[str, Any]], Awaitable[None]], /) -> Any:
        await progress({"rows": 7})
        self.recovered.append(vault)
        return replace(self.found, rows=15)


@pytest.fixture
def node() -> FakeNode:
    fake = FakeNode()
    fake.vaults[PHOTOS] = VaultView(PHOTOS, "photos")
    return fake


@pytest.fixture
def safe(
    node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[FakeSafe]:
    monkeypatch.setenv("MESHHOLD_HOME", str(tmp_path))
    monkeypatch.delenv("MESHHOLD_CONFIG", raising=False)
    assert run(["init"]) == 0
    capsys.readouterr()
    fake = FakeSafe()
    dispatch = make_dispatch(
        node, node, node, node.status, node.mesh, node.members, secrets=fake, recovery=fake, safekeeping=fake
    )
    with serving(tmp_path / "control.sock", dispatch):
        yield fake


@pytest.mark.usefixtures("safe")
def test_export_prints_one_word_and_warns_beside_it(typed: Typed) -> None:
    code, out, err = typed("vault", "export", "photos")
    assert (code, out) == (0, "mhv1-of-photos\n")
    assert "Whoever has this word can read and change everything" in err


@pytest.mark.usefixtures("safe")
def test_export_for_scripts(asked: Callable[..., Any]) -> None:
    assert asked("vault", "export", "photos") == {"secrets": "mhv1-of-photos"}


def test_import_takes_a_word_or_standard_input(safe: FakeSafe, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = typed("vault", "import", "mhv1word")
    assert (code, out, err) == (0, f"this node is a trusted member of vault photos ({PHOTOS[:8]})\n", "")
    monkeypatch.setattr("sys.stdin", io.StringIO(" mhv1\nword \n"))
    assert typed("vault", "import", "-")[0] == 0
    assert safe.taken == ["mhv1word"] * 2


def test_import_of_another_word_is_refused(safe: FakeSafe, typed: Typed) -> None:
    code, _, err = typed("vault", "import", "nonsense")
    assert code == 1
    assert "these are no vault's secrets" in err
    assert not safe.taken


@pytest.mark.parametrize("taken_ms", [None, 1_700_000_000_000])
def test_import_says_how_the_index_comes_back(safe: FakeSafe, typed: Typed, taken_ms: int | None) -> None:
    safe.view = replace(safe.view, objects=None, snapshot_ms=taken_ms)
    code, out, err = typed("vault", "import", "mhv1word")
    assert code == 0
    assert "trusted member of vault photos" in out
    assert "Nobody who keeps its index answers yet" in err
    assert ("no snapshot of it is known here" in err) is (taken_ms is None)
    assert (f"meshhold vault recover {PHOTOS[:8]}" in err) is (taken_ms is not None)


@pytest.mark.usefixtures("safe")
def test_snapshot_tells_what_it_covers_and_how_it_is_used(typed: Typed) -> None:
    code, out, err = typed("vault", "snapshot", "photos")
    assert (code, err) == (0, "")
    first, second, *rest = out.splitlines()
    assert first.startswith("vault photos: snapshot of 20")
    assert first.endswith("12 objects, 4.0 KiB")
    assert second == "each of its 4 chunks is on 3 machines"
    assert [f"meshhold vault {verb}" in "\n".join(rest) for verb in ("recover", "import", "export")] == [True] * 3
    assert "docs/recovery.md" in rest[-1]


def test_snapshot_for_scripts(safe: FakeSafe, asked: Callable[..., Any]) -> None:
    assert asked("vault", "snapshot", "photos") == asdict(safe.snapshots)


def test_a_snapshot_that_is_not_safe_yet_makes_an_exit_code(safe: FakeSafe, typed: Typed) -> None:
    silent = {"shed": "it is not connected"}
    safe.snapshots = replace(safe.snapshots, copies=2, lacking=1, is_new=False, silent=silent)
    code, out, _ = typed("vault", "snapshot", "photos")
    assert code == 1
    assert "nothing has changed since the snapshot of" in out
    assert "not yet on 3 machines: 1 of its 4 chunks; on how many at least: 2" in out
    assert "not asked: shed: it is not connected" in out


def test_a_snapshot_on_one_machine_advises_more(safe: FakeSafe, typed: Typed) -> None:
    safe.snapshots = replace(safe.snapshots, chunks=1, copies=1, wanted=1)
    code, out, _ = typed("vault", "snapshot", "photos")
    assert code == 0
    assert "its one chunk is on 1 machine\n" in out
    assert f"meshhold vault add-member {PHOTOS[:8]} NODE" in out


def test_recover_tells_before_and_after(safe: FakeSafe, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.confirm", lambda *_arguments, **_named: True)
    code, out, err = typed("vault", "recover", "photos")
    assert code == 0
    assert "was kept by attic, cellar; no majority of them answers" in err
    assert "12 objects, 4.0 KiB" in err
    assert "This node kept it too" not in err
    assert "15 rows were put back" in out
    assert "0 of them damaged" in out
    assert safe.recovered == [PHOTOS]


def test_recover_without_a_yes_changes_nothing(safe: FakeSafe, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    safe.found = replace(safe.found, keeps_rows=True)
    code, _, err = typed("vault", "recover", "photos")
    assert code == 1
    assert "This node kept it too" in err
    assert "nothing was changed" in err
    assert not safe.recovered


def test_recover_is_refused_while_the_replicas_answer(safe: FakeSafe, typed: Typed) -> None:
    safe.refusal = ConflictError("a majority answers: nothing is lost")
    code, _, err = typed("vault", "recover", "photos", "--yes")
    assert code == 1
    assert "nothing is lost" in err
    assert not safe.recovered


def test_damaged_objects_make_an_exit_code(safe: FakeSafe, node: FakeNode, typed: Typed) -> None:
    node.lost.append("photos/a")
    code, out, _ = typed("vault", "recover", "photos", "--yes")
    assert code == 1
    assert f"meshhold vault check {PHOTOS[:8]}" in out
    assert safe.recovered == [PHOTOS]
