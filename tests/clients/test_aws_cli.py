"""aws-cli v1 from PyPI: the `s3` commands and, through `s3api`, each operation that MeshHold offers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.clients.programs import Program, note_version, pypi_program
from tests.clients.site import BUCKET, MIB, Site, assert_same_file, assert_same_tree

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def aws(site: Site) -> Program:
    """Install aws-cli and point it at the node."""
    path = pypi_program("aws")
    note_version(path, "--version")
    return Program(path, site.folder, site.environment())


def api(aws: Program, operation: str, *words: str | Path) -> Any:
    """Run one `aws s3api` operation; return its JSON, or None where it prints nothing."""
    printed = aws.run("s3api", operation, "--output", "json", *words)
    return json.loads(printed) if printed.strip() else None


# -- aws s3 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, MIB, 8 * MIB, 20 * MIB + 3])
def test_cp_there_and_back(site: Site, aws: Program, size: int) -> None:
    """Every size comes back byte for byte: inside the entry, in one chunk, in many, in parts."""
    source = site.sample(f"cp-{size}", size)
    aws.run("s3", "cp", source, f"s3://{BUCKET}/cp/{size}")
    aws.run("s3", "cp", f"s3://{BUCKET}/cp/{size}", site.folder / "back")
    assert_same_file(site.folder / "back", source)


def test_cp_streams(aws: Program) -> None:
    """Standard input and output work as ends of a copy."""
    aws.run("s3", "cp", "-", f"s3://{BUCKET}/stream", stdin=b"hello\n")
    assert aws.run("s3", "cp", f"s3://{BUCKET}/stream", "-") == b"hello\n"


def test_sync_with_delete(site: Site, aws: Program) -> None:
    """A folder with difficult names arrives, follows deletions, and comes back the same."""
    tree = site.tree("sync")
    aws.run("s3", "sync", tree, f"s3://{BUCKET}/sync/")
    aws.run("s3", "sync", f"s3://{BUCKET}/sync/", site.folder / "sync-back")
    assert_same_tree(site.folder / "sync-back", tree)
    assert aws.run("s3", "sync", tree, f"s3://{BUCKET}/sync/", "--size-only") == b""
    (tree / "a.txt").unlink()
    (tree / "b c" / "100%.txt").write_bytes(b"changed")
    aws.run("s3", "sync", tree, f"s3://{BUCKET}/sync/", "--delete")
    aws.run("s3", "sync", f"s3://{BUCKET}/sync/", site.folder / "sync-back", "--delete")
    assert_same_tree(site.folder / "sync-back", tree)


def test_ls_and_rm(aws: Program) -> None:
    """Listing shows buckets, prefixes and keys; `rm --recursive` leaves nothing."""
    for key in ("ls/one", "ls/two", "ls/sub/three"):
        aws.run("s3", "cp", "-", f"s3://{BUCKET}/{key}", stdin=key.encode())
    assert BUCKET in aws.run("s3", "ls").decode()
    listed = aws.run("s3", "ls", f"s3://{BUCKET}/ls/").decode()
    assert [line.split()[-1] for line in listed.splitlines()] == ["sub/", "one", "two"]
    aws.run("s3", "rm", f"s3://{BUCKET}/ls/one")
    found = aws.run("s3", "ls", "--recursive", f"s3://{BUCKET}/ls/").decode()
    assert [line.split()[-1] for line in found.splitlines()] == ["ls/sub/three", "ls/two"]
    aws.run("s3", "rm", "--recursive", f"s3://{BUCKET}/ls/")
    assert aws.try_run("s3", "ls", f"s3://{BUCKET}/ls/").stdout == b""


def test_mv_within_the_store(site: Site, aws: Program) -> None:
    """A large object moves on the server's side, by parts."""
    source = site.sample("mv", 10 * MIB + 1)
    aws.run("s3", "cp", source, f"s3://{BUCKET}/mv/from")
    aws.run("s3", "mv", f"s3://{BUCKET}/mv/from", f"s3://{BUCKET}/mv/to")
    aws.run("s3", "cp", f"s3://{BUCKET}/mv/to", site.folder / "mv-back")
    assert_same_file(site.folder / "mv-back", source)
    assert "404" in aws.refusal("s3api", "head-object", "--bucket", BUCKET, "--key", "mv/from")


def test_presign(aws: Program) -> None:
    """A presigned URL reads the object; with its signature changed it does not."""
    aws.run("s3", "cp", "-", f"s3://{BUCKET}/a b+c/ü", stdin=b"presigned")
    url = aws.run("s3", "presign", f"s3://{BUCKET}/a b+c/ü", "--expires-in", "60").decode().strip()
    with urllib.request.urlopen(url) as answer:  # noqa: S310 -- the URL is this node's own
        assert answer.read() == b"presigned"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url[:-4] + "0000")  # noqa: S310 -- the URL is this node's own
    assert refused.value.code == 403


# -- aws s3api ------------------------------------------------------------------------------------------------------


def test_buckets(site: Site) -> None:
    """Buckets are listed, looked up, created and deleted, by the key that may."""
    key = site.mint("maker", "--create-buckets")
    aws = Program(pypi_program("aws"), site.folder, site.environment(key))
    api(aws, "create-bucket", "--bucket", "made-here", "--create-bucket-configuration", "LocationConstraint=meshhold")
    assert "BucketAlreadyOwnedByYou" in aws.refusal(
        "s3api", "create-bucket", "--bucket", "made-here",
        "--create-bucket-configuration", "LocationConstraint=meshhold",
    )  # fmt: skip
    assert [bucket["Name"] for bucket in api(aws, "list-buckets")["Buckets"]] == ["made-here"]
    api(aws, "head-bucket", "--bucket", "made-here")
    assert api(aws, "get-bucket-location", "--bucket", "made-here") == {"LocationConstraint": "meshhold"}
    aws.run("s3", "cp", "-", "s3://made-here/x", stdin=b"x")
    assert "BucketNotEmpty" in aws.refusal("s3api", "delete-bucket", "--bucket", "made-here")
    aws.run("s3", "rb", "--force", "s3://made-here")
    assert "404" in aws.refusal("s3api", "head-bucket", "--bucket", "made-here")


def test_bucket_creation_needs_the_right(aws: Program) -> None:
    """A key minted without `--create-buckets` is told how to get one that may."""
    said = aws.refusal(
        "s3api", "create-bucket", "--bucket", "not-mine",
        "--create-bucket-configuration", "LocationConstraint=meshhold",
    )  # fmt: skip
    assert "AccessDenied" in said
    assert "--create-buckets" in said


def test_object_with_everything(site: Site, aws: Program) -> None:
    """Headers, metadata and a checksum come back with the object; a range and overrides are served."""
    source = site.sample("object", 3 * MIB + 5)
    place = ("--bucket", BUCKET, "--key", "object")
    put = api(
        aws, "put-object", *place, "--body", source, "--content-type", "image/png", "--cache-control", "max-age=60",
        "--content-disposition", 'attachment; filename="x.png"', "--content-language", "de", "--expires",
        "2030-01-01T00:00:00Z", "--content-encoding", "identity", "--metadata", "colour=blue,size=big",
        "--checksum-algorithm", "SHA256",
    )  # fmt: skip
    head = api(aws, "head-object", *place, "--checksum-mode", "ENABLED")
    assert head["ETag"] == put["ETag"]
    assert head["ChecksumSHA256"] == put["ChecksumSHA256"]
    assert head["Metadata"] == {"colour": "blue", "size": "big"}
    expected = {
        "ContentLength": 3 * MIB + 5, "ContentType": "image/png", "CacheControl": "max-age=60",
        "ContentDisposition": 'attachment; filename="x.png"', "ContentLanguage": "de", "ContentEncoding": "identity",
    }  # fmt: skip
    assert {name: head[name] for name in expected} == expected
    out = site.folder / "object-out"
    api(aws, "get-object", *place, out)
    assert_same_file(out, source)
    part = api(aws, "get-object", *place, "--range", "bytes=1048570-1048580", out)
    assert part["ContentRange"] == f"bytes 1048570-1048580/{3 * MIB + 5}"
    assert out.read_bytes() == source.read_bytes()[1048570:1048581]
    shown = api(aws, "get-object", *place, "--response-content-type", "text/plain", out)
    assert shown["ContentType"] == "text/plain"


def test_conditions(site: Site, aws: Program) -> None:
    """Reads and writes hold to their conditions."""
    place = ("--bucket", BUCKET, "--key", "condition")
    body = site.sample("condition", 100)
    tag = api(aws, "put-object", *place, "--body", body, "--if-none-match", "*")["ETag"]
    out = site.folder / "condition-out"
    assert "PreconditionFailed" in aws.refusal("s3api", "put-object", *place, "--body", body, "--if-none-match", "*")
    assert "PreconditionFailed" in aws.refusal("s3api", "put-object", *place, "--body", body, "--if-match", "0" * 32)
    api(aws, "put-object", *place, "--body", body, "--if-match", tag)
    assert "304" in aws.refusal("s3api", "get-object", *place, "--if-none-match", tag, out)
    assert "PreconditionFailed" in aws.refusal("s3api", "get-object", *place, "--if-match", "0" * 32, out)
    assert "304" in aws.refusal("s3api", "get-object", *place, "--if-modified-since", "2035-01-01T00:00:00Z", out)
    assert "PreconditionFailed" in aws.refusal(
        "s3api", "get-object", *place, "--if-unmodified-since", "2001-01-01T00:00:00Z", out
    )
    api(aws, "get-object", *place, "--if-match", tag, out)
    assert_same_file(out, body)


def test_copy_and_delete_object(site: Site, aws: Program) -> None:
    """A copy keeps or replaces metadata; a deletion is one, twice too."""
    source = site.sample("copy", 2 * MIB)
    api(aws, "put-object", "--bucket", BUCKET, "--key", "copy/ä", "--body", source, "--metadata", "k=v")
    api(aws, "copy-object", "--bucket", BUCKET, "--key", "copy/b", "--copy-source", f"{BUCKET}/copy/ä")
    assert api(aws, "head-object", "--bucket", BUCKET, "--key", "copy/b")["Metadata"] == {"k": "v"}
    api(
        aws, "copy-object", "--bucket", BUCKET, "--key", "copy/b", "--copy-source", f"{BUCKET}/copy/b",
        "--metadata-directive", "REPLACE", "--metadata", "new=one", "--content-type", "text/x",
    )  # fmt: skip
    head = api(aws, "head-object", "--bucket", BUCKET, "--key", "copy/b")
    assert (head["Metadata"], head["ContentType"]) == ({"new": "one"}, "text/x")
    out = site.folder / "copy-out"
    api(aws, "get-object", "--bucket", BUCKET, "--key", "copy/b", out)
    assert_same_file(out, source)
    for _ in range(2):
        api(aws, "delete-object", "--bucket", BUCKET, "--key", "copy/b")
    assert "404" in aws.refusal("s3api", "head-object", "--bucket", BUCKET, "--key", "copy/b")


def test_lists_and_delete_objects(site: Site, aws: Program) -> None:
    """Both forms of listing agree, page by page, as do versions; one call deletes many."""
    keys = sorted(f"list/{name}" for name in ("a", "b/1", "b/2", "c d", "e+f", "ü"))
    body = site.sample("list", 10)
    for key in keys:
        api(aws, "put-object", "--bucket", BUCKET, "--key", key, "--body", body)
    where = ("--bucket", BUCKET, "--prefix", "list/")
    for operation in ("list-objects", "list-objects-v2"):
        assert [o["Key"] for o in api(aws, operation, *where, "--page-size", "2")["Contents"]] == keys
        grouped = api(aws, operation, *where, "--delimiter", "/")
        assert [p["Prefix"] for p in grouped["CommonPrefixes"]] == ["list/b/"]
        assert [o["Key"] for o in grouped["Contents"]] == [key for key in keys if "b/" not in key]
    after = api(aws, "list-objects-v2", *where, "--start-after", "list/c d", "--fetch-owner")
    assert [o["Key"] for o in after["Contents"]] == ["list/e+f", "list/ü"]
    versions = api(aws, "list-object-versions", *where)["Versions"]
    assert [(v["Key"], v["VersionId"], v["IsLatest"]) for v in versions] == [(key, "null", True) for key in keys]
    wanted = json.dumps({"Objects": [{"Key": key} for key in keys], "Quiet": False})
    deleted = api(aws, "delete-objects", "--bucket", BUCKET, "--delete", wanted)["Deleted"]
    assert sorted(d["Key"] for d in deleted) == keys
    assert "Contents" not in (api(aws, "list-objects-v2", *where) or {})


def test_multipart_by_hand(site: Site, aws: Program) -> None:
    """Parts, one of them copied, are listed and become the object; another upload is given up."""
    place = ("--bucket", BUCKET, "--key", "parts")
    first, second = site.sample("part-1", 5 * MIB), site.sample("part-2", 1000)
    api(aws, "put-object", "--bucket", BUCKET, "--key", "source", "--body", first)
    upload = api(aws, "create-multipart-upload", *place, "--metadata", "k=v")["UploadId"]
    this = (*place, "--upload-id", upload)
    copied = api(aws, "upload-part-copy", *this, "--part-number", "1", "--copy-source", f"{BUCKET}/source")
    sent = api(aws, "upload-part", *this, "--part-number", "2", "--body", second)
    tags = [copied["CopyPartResult"]["ETag"], sent["ETag"]]
    assert [part["ETag"] for part in api(aws, "list-parts", *this)["Parts"]] == tags
    other = api(aws, "create-multipart-upload", "--bucket", BUCKET, "--key", "given-up")["UploadId"]
    listed = {u["UploadId"] for u in api(aws, "list-multipart-uploads", "--bucket", BUCKET)["Uploads"]}
    assert {upload, other} <= listed
    api(aws, "abort-multipart-upload", "--bucket", BUCKET, "--key", "given-up", "--upload-id", other)
    parts = json.dumps({"Parts": [{"PartNumber": at, "ETag": tag} for at, tag in enumerate(tags, 1)]})
    done = api(aws, "complete-multipart-upload", *this, "--multipart-upload", parts)
    assert done["ETag"].endswith('-2"')
    out = site.folder / "parts-out"
    got = api(aws, "get-object", *place, out)
    assert got["Metadata"] == {"k": "v"}
    assert out.read_bytes() == first.read_bytes() + second.read_bytes()
    left = api(aws, "list-multipart-uploads", "--bucket", BUCKET) or {}
    assert {upload, other}.isdisjoint({u["UploadId"] for u in left.get("Uploads", [])})


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("AccessControlListNotSupported", ("put-object-acl", "--key", "x", "--acl", "public-read")),
        ("AccessDenied", ("put-bucket-versioning", "--versioning-configuration", "Status=Enabled")),  # it owns none
        ("NoSuchCORSConfiguration", ("get-bucket-cors",)),
        ("NoSuchLifecycleConfiguration", ("get-bucket-lifecycle-configuration",)),
        ("NotImplemented", ("get-bucket-notification-configuration",)),
        ("NotImplemented", ("get-bucket-replication",)),
        ("NotImplemented", ("get-object-torrent", "--key", "x", "torrent")),
        ("NotImplemented", ("restore-object", "--key", "x", "--restore-request", "Days=1")),
    ],
)
def test_what_is_refused_says_so(aws: Program, code: str, words: tuple[str, ...]) -> None:
    """No sub-resource falls through to the object: it is refused by name, and the object stays what it was."""
    aws.run("s3", "cp", "-", f"s3://{BUCKET}/x", stdin=b"untouched")
    assert code in aws.refusal("s3api", words[0], "--bucket", BUCKET, *words[1:])
    assert aws.run("s3", "cp", f"s3://{BUCKET}/x", "-") == b"untouched"
