"""A full disk: writes are refused in S3's words, reads and deletions go on, and so do writes when space returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.cluster.daemons import NodeFolder
from tests.cluster.test_daemon import body_of, furnish
from tests.faults.node_load import BUCKET, client_of, content_of
from tests.faults.small_disk import MIB, SmallDisk, mounted

KINDS = ["tmpfs", pytest.param("ext4", marks=pytest.mark.slow)]
"""On ext4 space is given out late: the shortage shows at fsync, not at write."""
DISK = 160 * MIB
CHUNK_RESERVE = 64 * MIB
INDEX_RESERVE = 32 * MIB
LARGE = content_of("large", 3 * MIB)
SMALL = content_of("small", 16 * 1024)


@contextmanager
def node_on(kind: str, tmp_path: Path) -> Iterator[tuple[NodeFolder, SmallDisk, Any]]:
    """Run a node whose home is a small disk; the block ends with a check that it lives and stops cleanly."""
    with mounted(kind, tmp_path / "disk", DISK) as disk:
        folder = NodeFolder(disk.path / "home")
        assert folder.type("init", "--s3-addr", f"127.0.0.1:{folder.port}").returncode == 0
        with folder.running() as daemon:
            _, key = furnish(folder)
            yield folder, disk, client_of(folder, key)
            assert daemon.process.poll() is None
            assert folder.type("vault", "check", "--deep").returncode == 0
            daemon.process.terminate()
            daemon.wait_for("STOPPING=1")
            assert daemon.wait_end()[0] == 0


def put(s3: Any, key: str, content: bytes) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=content)


def fill(s3: Any, name: str, size: int, limit: int) -> tuple[list[str], dict[str, Any]]:
    """Put until the node refuses; return the keys acknowledged and the answer of the refusal."""
    keys: list[str] = []
    for number in range(limit):
        key = f"{name}/{number:04d}"
        try:
            put(s3, key, content_of(key, size))  # each its own: equal chunks are kept once
        except ClientError as error:
            return keys, dict(error.response)
        keys.append(key)
    pytest.fail(f"{limit} objects fit on the disk")


def assert_refusal(answer: dict[str, Any]) -> None:
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert answer["Error"]["Code"] == "ServiceUnavailable"
    assert "free" in answer["Error"]["Message"]


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_on_a_full_disk(tmp_path: Path, kind: str) -> None:
    """Large objects stop at the chunks' reserve; parts too, and what is in the reserve goes on."""
    with node_on(kind, tmp_path) as (_, disk, s3):
        disk.leave(CHUNK_RESERVE + 20 * MIB)
        upload = s3.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
        keys, answer = fill(s3, "large", len(LARGE), 20)
        assert_refusal(answer)
        assert keys
        with pytest.raises(ClientError) as caught:
            s3.upload_part(Bucket=BUCKET, Key="parts", UploadId=upload, PartNumber=1, Body=content_of("part", MIB * 4))
        assert_refusal(dict(caught.value.response))
        for key in (keys[0], keys[-1]):
            assert body_of(s3, key) == content_of(key, len(LARGE))
        assert len(s3.list_objects_v2(Bucket=BUCKET)["Contents"]) == len(keys)
        put(s3, "small", SMALL)
        s3.delete_object(Bucket=BUCKET, Key=keys[0])
        s3.abort_multipart_upload(Bucket=BUCKET, Key="parts", UploadId=upload)
        disk.empty()
        put(s3, "again", LARGE)
        assert body_of(s3, "again") == LARGE
        assert body_of(s3, "small") == SMALL


@pytest.mark.parametrize("kind", KINDS)
def test_small_objects_on_a_full_disk(tmp_path: Path, kind: str) -> None:
    """Small objects stop at the index's reserve; deleting them makes room for others, with no help from outside."""
    with node_on(kind, tmp_path) as (_, disk, s3):
        put(s3, "large", LARGE)
        disk.leave(INDEX_RESERVE + 16 * MIB)
        keys, answer = fill(s3, "small", len(SMALL), 3000)
        assert_refusal(answer)
        assert len(keys) > 50
        assert body_of(s3, keys[-1]) == content_of(keys[-1], len(SMALL))
        assert body_of(s3, "large") == LARGE
        for at in range(0, len(keys), 500):
            gone = [{"Key": key} for key in keys[at : at + 500]]
            assert "Errors" not in s3.delete_objects(Bucket=BUCKET, Delete={"Objects": gone})
        put(s3, "again", SMALL)
        assert body_of(s3, "again") == SMALL
        assert [row["Key"] for row in s3.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["again", "large"]


@pytest.mark.parametrize("kind", KINDS)
def test_not_a_byte_is_left(tmp_path: Path, kind: str) -> None:
    """When something else takes the reserve too: no acknowledged write is lost, and the node lives on."""
    with node_on(kind, tmp_path) as (_, disk, s3):
        for number in range(200):
            put(s3, f"kept/{number}", SMALL)
        put(s3, "large", LARGE)
        disk.exhaust()
        for content in (SMALL, LARGE):
            with pytest.raises(ClientError) as caught:
                put(s3, "refused", content)
            assert_refusal(dict(caught.value.response))
        deleted = 0
        for number in range(200):
            try:
                s3.delete_object(Bucket=BUCKET, Key=f"kept/{number}")
            except ClientError as error:
                assert_refusal(dict(error.response))
                break
            deleted += 1
        assert body_of(s3, "large") == LARGE
        left = {row["Key"] for row in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
        assert left == {f"kept/{number}" for number in range(deleted, 200)} | {"large"}
        disk.empty()
        put(s3, "again", LARGE)
        s3.delete_object(Bucket=BUCKET, Key="kept/199")
        assert body_of(s3, "again") == LARGE
