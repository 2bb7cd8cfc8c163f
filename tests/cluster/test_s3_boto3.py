"""boto3 against a real daemon: the operations that apps rest on. `make clients` runs the other programs."""

from __future__ import annotations

import random
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from tests.cluster.daemons import NodeFolder

BUCKET = "my-bucket"
MIB = 2**20


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeFolder]:
    """Run a node with the bucket `my-bucket`."""
    folder = NodeFolder(tmp_path_factory.mktemp("node") / "home")
    assert folder.type("init", "--s3-addr", f"127.0.0.1:{folder.port}").returncode == 0
    with folder.running("daemon", "--log-level", "error") as daemon:
        vault = folder.ask("vault", "create", "photos")["id"]
        assert folder.type("vault", "s3-alias", vault, BUCKET).returncode == 0
        yield folder
        daemon.send(signal.SIGTERM)
        code, _, said = daemon.wait_end()
        assert (code, said) == (0, "")


@pytest.fixture(scope="module")
def s3(node: NodeFolder) -> Any:
    """Return a client that reads and writes the bucket."""
    key = node.ask("s3-key", "add", "--label", "test")
    assert node.type("s3-perm", "grant", key["access_key_id"], BUCKET, "rw").returncode == 0
    return node.s3(key)


def code_of(call: Any, **words: Any) -> str:
    """Make a call that must be refused; return the error's code."""
    with pytest.raises(ClientError) as raised:
        call(Bucket=BUCKET, **words)
    code: str = raised.value.response["Error"]["Code"]
    return code


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 3 * MIB + 1])
def test_round_trip(s3: Any, size: int, tmp_path: Path) -> None:
    """Bytes, headers and metadata come back, whether the object is in its entry or in chunks."""
    (tmp_path / "body").write_bytes(body := random.Random(size).randbytes(size))
    with (tmp_path / "body").open("rb") as file:  # a file, so that boto3 sends `Expect` and a checksum as trailer
        s3.put_object(Bucket=BUCKET, Key="a b/ü+%.bin", Body=file, ContentType="image/png", Metadata={"k": "v"})
    got = s3.get_object(Bucket=BUCKET, Key="a b/ü+%.bin")
    assert (got["Body"].read(), got["ContentType"], got["Metadata"]) == (body, "image/png", {"k": "v"})
    assert s3.head_object(Bucket=BUCKET, Key="a b/ü+%.bin")["ContentLength"] == size


def test_ranges(s3: Any) -> None:
    """A range is cut out of the whole, over the borders of chunks."""
    body = random.Random(7).randbytes(2 * MIB + 9)
    s3.put_object(Bucket=BUCKET, Key="ranges", Body=body)
    for text, part in (("0-0", body[:1]), (f"{MIB - 3}-{MIB + 3}", body[MIB - 3 : MIB + 4]), ("-5", body[-5:])):
        assert s3.get_object(Bucket=BUCKET, Key="ranges", Range=f"bytes={text}")["Body"].read() == part
    assert code_of(s3.get_object, Key="ranges", Range="bytes=9999999-") == "InvalidRange"


def test_parts(s3: Any, tmp_path: Path) -> None:
    """An upload in parts is listed while it lasts and whole once it is complete."""
    body = random.Random(8).randbytes(6 * MIB)
    (tmp_path / "parts").write_bytes(body)
    transfer = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3.upload_file(str(tmp_path / "parts"), BUCKET, "parts", Config=transfer)
    s3.download_file(BUCKET, "parts", str(tmp_path / "back"), Config=transfer)
    assert (tmp_path / "back").read_bytes() == body
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="given-up")["UploadId"]
    assert [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]] == [upload]
    s3.abort_multipart_upload(Bucket=BUCKET, Key="given-up", UploadId=upload)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def test_lists_copies_and_deletions(s3: Any) -> None:
    """Pages add up, prefixes group, copies are equal, and what was deleted is gone."""
    keys = [f"list/{at:02}" for at in range(10)] + ["list/sub/x"]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix="list/", PaginationConfig={"PageSize": 3}
    )
    assert [o["Key"] for page in pages for o in page["Contents"]] == keys
    grouped = s3.list_objects(Bucket=BUCKET, Prefix="list/", Delimiter="/")
    assert [p["Prefix"] for p in grouped["CommonPrefixes"]] == ["list/sub/"]
    s3.copy_object(Bucket=BUCKET, Key="copied", CopySource={"Bucket": BUCKET, "Key": "list/03"})
    assert s3.get_object(Bucket=BUCKET, Key="copied")["Body"].read() == b"list/03"
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix="list/")
    assert code_of(s3.get_object, Key="list/03") == "NoSuchKey"


def test_conditional_writes(s3: Any) -> None:
    """One of two creations wins; a replacement needs the ETag that it replaces."""
    first = s3.put_object(Bucket=BUCKET, Key="once", Body=b"1", IfNoneMatch="*")["ETag"]
    assert code_of(s3.put_object, Key="once", Body=b"2", IfNoneMatch="*") == "PreconditionFailed"
    s3.put_object(Bucket=BUCKET, Key="once", Body=b"2", IfMatch=first)
    assert code_of(s3.put_object, Key="once", Body=b"3", IfMatch=first) == "PreconditionFailed"
    assert s3.get_object(Bucket=BUCKET, Key="once")["Body"].read() == b"2"


def test_presigned_urls(s3: Any) -> None:
    """Whoever holds the URL needs no key."""
    place = {"Bucket": BUCKET, "Key": "by url"}
    put = urllib.request.Request(  # noqa: S310 -- this node's own URL
        s3.generate_presigned_url("put_object", Params=place), data=b"presigned", method="PUT"
    )
    urllib.request.urlopen(put).close()  # noqa: S310 -- this node's own URL
    with urllib.request.urlopen(s3.generate_presigned_url("get_object", Params=place)) as answer:  # noqa: S310 -- same
        assert answer.read() == b"presigned"


def test_refusals_before_the_body(s3: Any, node: NodeFolder) -> None:
    """A refused upload is an error that boto3 can read, and the connection is good for the next request."""
    reader = node.ask("s3-key", "add", "--label", "reader")
    assert node.type("s3-perm", "grant", reader["access_key_id"], BUCKET, "read").returncode == 0
    only_reads = node.s3(reader)
    for _ in range(3):
        assert code_of(only_reads.put_object, Key="refused", Body=b"x" * MIB) == "AccessDenied"
        assert code_of(s3.put_object, Key="refused", Body=b"x", StorageClass="GLACIER") == "InvalidStorageClass"
    assert code_of(s3.get_object_torrent, Key="refused") == "NotImplemented"
    assert code_of(s3.head_object, Key="refused") == "404"
