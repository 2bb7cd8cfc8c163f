"""s3fs from Debian: a bucket mounted as a folder. Where mounting is impossible, the reason is printed and reported."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clients.programs import VERSIONS, Program, debian_program, note_version
from tests.clients.site import BUCKET, MIB, Site, assert_same_file, assert_same_tree
from tests.rights import skip_if_denied, skip_without

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]


def why_not() -> str:
    """Return what this machine would have to allow so that a file system can be mounted, or `""`."""
    if not Path("/dev/fuse").exists():
        return "load the kernel's module fuse, or give the container the device /dev/fuse"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "let this user open /dev/fuse"
    return ""


@pytest.fixture(scope="module")
def mounted(site: Site) -> Iterator[Path]:
    """Mount the bucket; skip, with the reason, only where this machine cannot mount anything."""
    path = debian_program("s3fs", "s3fs")
    note_version(path, "--version")
    if remedy := why_not():
        VERSIONS["s3fs"] += f" -- not run: {remedy}"
        skip_without("mounting with FUSE", remedy)
    password, folder = site.folder / "passwd-s3fs", site.folder / "mounted"
    password.write_text(f"{site.key['access_key_id']}:{site.key['secret_access_key']}\n")
    password.chmod(0o600)
    folder.mkdir()
    options = f"passwd_file={password},url={site.node.endpoint},use_path_request_style,endpoint=meshhold"
    tried = Program(path, site.folder).try_run(BUCKET, folder, "-o", options)
    deadline = time.monotonic() + 10
    while tried.returncode == 0 and not folder.is_mount() and time.monotonic() < deadline:
        time.sleep(0.02)  # between two looks at the mount
    said = tried.stderr.decode()
    if not folder.is_mount():
        VERSIONS["s3fs"] += f" -- not run: {said.strip()}"
        skip_if_denied("mounting with FUSE", "run as root, or give the container CAP_SYS_ADMIN", said)
    try:
        yield folder
    finally:
        unmount = shutil.which("fusermount3") or shutil.which("fusermount") or "umount"
        subprocess.run([unmount, *(["-u"] if "fuse" in unmount else []), str(folder)], check=True)


@pytest.mark.parametrize("size", [0, 10, 5 * MIB, 30 * MIB + 9])
def test_files(site: Site, mounted: Path, size: int) -> None:
    """Files of every size are written and read back byte for byte."""
    source = site.sample(f"s3fs-{size}", size)
    shutil.copyfile(source, mounted / f"file-{size}")
    assert_same_file(mounted / f"file-{size}", source)
    assert (mounted / f"file-{size}").stat().st_size == size


def test_folders(site: Site, mounted: Path) -> None:
    """A folder is copied in, renamed, listed, and removed."""
    tree = site.tree("s3fs-tree")
    shutil.copytree(tree, mounted / "tree")
    (mounted / "tree").rename(mounted / "renamed")
    assert_same_tree(mounted / "renamed", tree)
    shutil.rmtree(mounted / "renamed")
    assert not (mounted / "renamed").exists()


def test_changes_in_place(mounted: Path) -> None:
    """Appending, overwriting in the middle, truncating and changing the mode are seen afterwards."""
    file = mounted / "changing"
    file.write_bytes(b"0123456789" * 100_000)
    with file.open("r+b") as opened:
        opened.seek(500_000)
        opened.write(b"MIDDLE")
        opened.seek(0, os.SEEK_END)
        opened.write(b"END")
    expected = bytearray(b"0123456789" * 100_000 + b"END")
    expected[500_000:500_006] = b"MIDDLE"
    assert file.read_bytes() == bytes(expected)
    with file.open("r+b") as opened:
        opened.truncate(7)  # of the open file: s3fs without its pull request 2931 uploads zeros for a closed one
    file.chmod(0o600)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"0123456", 0o600)
