"""restic from Debian, with the set-up of examples/restic: back up, verify every byte, restore, forget and prune."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.clients.programs import ROOT, Program, debian_program, note_version
from tests.clients.site import Site, assert_same_file, assert_same_tree

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def restic(site: Site) -> Program:
    """Fill in examples/restic and make its repository."""
    path = debian_program("restic", "restic")
    note_version(path, "version")
    site.bucket("laptop-backups")
    settings = dict(
        line.split("=", 1) for line in site.example("restic/restic.env").splitlines() if line and line[0] != "#"
    )
    (site.folder / "restic-password").write_text("a password for tests")
    program = Program(path, site.folder, settings)
    program.run("init")
    return program


def test_backup_check_restore_forget(site: Site, restic: Program) -> None:
    """What is restored equals what was backed up, at every snapshot and after a prune; every byte passes the check."""
    tree = site.tree("documents")
    shutil.copytree(tree, site.folder / "first")
    restic.run("backup", tree)
    restic.run("check", "--read-data")
    (tree / "a.txt").write_bytes(b"changed")
    site.sample("documents/new.bin", 5_000_000)
    shutil.rmtree(tree / "deep")
    restic.run("backup", tree)
    for name, at in (("first", 0), ("documents", 1)):
        snapshot = json.loads(restic.run("snapshots", "--json"))[at]["id"]
        target = site.folder / f"restored-{at}"
        restic.run("restore", snapshot, "--target", target)
        assert_same_tree(target / str(tree).lstrip("/"), site.folder / name)
    restic.run("forget", "--keep-last", "1", "--prune")
    restic.run("check", "--read-data")
    assert len(json.loads(restic.run("snapshots", "--json"))) == 1
    target = site.folder / "restored-after"
    restic.run("restore", "latest", "--target", target)
    assert_same_tree(target / str(tree).lstrip("/"), tree)


def test_the_example_script(site: Site, restic: Program) -> None:
    """`backup.sh` makes its repository, backs up, and does so again."""
    site.bucket("scripted")
    place = site.folder / "script"
    place.mkdir()
    shutil.copy(ROOT / "examples" / "restic" / "backup.sh", place)
    shutil.copy(site.folder / "restic-password", place)
    settings = site.example("restic/restic.env").replace("laptop-backups", "scripted")
    (place / "restic.env").write_text(settings)
    source = site.sample("to-script/file", 3_000_000)
    script = Program(str(place / "backup.sh"), place)
    for _ in range(2):
        script.run(source.parent)
    scripted = {"RESTIC_REPOSITORY": restic.environment["RESTIC_REPOSITORY"].replace("laptop-backups", "scripted")}
    restic.run("restore", "latest", "--target", place / "back", more=scripted)
    assert_same_file(Path(f"{place}/back{source}"), source)
