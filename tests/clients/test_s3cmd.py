"""s3cmd from Debian: put, get, sync with deletions, copies, a listing, removal."""

from __future__ import annotations

import pytest
from tests.clients.programs import Program, debian_program, note_version
from tests.clients.site import BUCKET, MIB, Site, assert_same_file, assert_same_tree

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def s3cmd(site: Site) -> Program:
    """Install s3cmd and write the configuration that the guide's values make."""
    path = debian_program("s3cmd", "s3cmd")
    note_version(path, "--version")
    (site.folder / ".s3cfg").write_text(
        f"[default]\naccess_key = {site.key['access_key_id']}\nsecret_key = {site.key['secret_access_key']}\n"
        f"host_base = 127.0.0.1:{site.node.port}\nhost_bucket = 127.0.0.1:{site.node.port}\n"
        "bucket_location = meshhold\nuse_https = False\nsignature_v2 = False\nprogress_meter = False\n"
    )
    return Program(path, site.folder)


@pytest.mark.parametrize("size", [0, 1000, 5 * MIB, 40 * MIB + 3])
def test_put_and_get(site: Site, s3cmd: Program, size: int) -> None:
    """Single and multipart uploads come back byte for byte."""
    source, back = site.sample(f"put-{size}", size), site.folder / f"put-back-{size}"
    s3cmd.run("put", source, f"s3://{BUCKET}/put/{size}")
    s3cmd.run("get", f"s3://{BUCKET}/put/{size}", back)
    assert_same_file(back, source)


def test_sync(site: Site, s3cmd: Program) -> None:
    """A folder arrives, follows deletions, and comes back the same."""
    tree, back = site.tree("s3cmd"), site.folder / "s3cmd-back"
    back.mkdir()
    s3cmd.run("sync", f"{tree}/", f"s3://{BUCKET}/sync/")
    (tree / "a.txt").unlink()
    s3cmd.run("sync", "--delete-removed", f"{tree}/", f"s3://{BUCKET}/sync/")
    s3cmd.run("sync", f"s3://{BUCKET}/sync/", f"{back}/")
    assert_same_tree(back, tree)


def test_copy_move_modify_list_remove(site: Site, s3cmd: Program) -> None:
    """Operations on the server's side keep the bytes; a listing shows what is there."""
    source, back = site.sample("moves", 2 * MIB), site.folder / "moves-back"
    s3cmd.run("put", source, f"s3://{BUCKET}/moves/a")
    s3cmd.run("cp", f"s3://{BUCKET}/moves/a", f"s3://{BUCKET}/moves/b")
    s3cmd.run("mv", f"s3://{BUCKET}/moves/b", f"s3://{BUCKET}/moves/c")
    s3cmd.run("modify", "--add-header=x-amz-meta-colour:blue", f"s3://{BUCKET}/moves/c")
    assert "x-amz-meta-colour: blue" in s3cmd.run("info", f"s3://{BUCKET}/moves/c").decode()
    listed = s3cmd.run("ls", "-r", f"s3://{BUCKET}/moves/").decode().splitlines()
    assert [line.split()[-1] for line in listed] == [f"s3://{BUCKET}/moves/{name}" for name in "ac"]
    s3cmd.run("get", f"s3://{BUCKET}/moves/c", back)
    assert_same_file(back, source)
    s3cmd.run("del", "--recursive", "--force", f"s3://{BUCKET}/moves/")
    assert s3cmd.run("ls", "-r", f"s3://{BUCKET}/moves/") == b""


def test_buckets(site: Site, s3cmd: Program) -> None:
    """Buckets are listed and described; a public upload is taken where the bucket is public."""
    assert f"s3://{BUCKET}" in s3cmd.run("ls").decode()
    assert "meshhold" in s3cmd.run("info", f"s3://{BUCKET}").decode()
    site.bucket("s3cmd-public", public=True)
    source, back = site.sample("acl", 10), site.folder / "acl-back"
    s3cmd.run("put", "--acl-public", source, "s3://s3cmd-public/a")
    s3cmd.run("get", "s3://s3cmd-public/a", back)
    assert_same_file(back, source)
    assert "AccessControlListNotSupported" in s3cmd.refusal("setacl", "--acl-private", "s3://s3cmd-public/a")
