"""Objects that were uploaded in parts, read by part, described by their attributes; checksums of the whole."""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from awscrt.checksums import crc64nvme  # type: ignore[import-untyped] # ships no type information
from tests.door import KEPT, Answer, DoorUnderTest, open_door

PART: Final = bytes(range(256)) * (5 * 4096)  # 5 MiB, the least size of a part before the last
LAST: Final = b"the last part"
WHOLE: Final = PART + LAST
SUMS: Final = {"x-amz-checksum-mode": "ENABLED"}


def crc64(data: bytes) -> str:
    return b64encode(crc64nvme(data).to_bytes(8, "big")).decode()


def crc32(data: bytes) -> str:
    return b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path, put_size_max=6 * 2**20) as opened:
        yield opened


async def send_parts(door: DoorUnderTest, wish: dict[str, str] | None = None) -> tuple[str, bytes]:
    """Upload `PART` and `LAST` as the parts 1 and 3; return where and with which document they become the object."""
    began = await door.call("POST", "/bucket/multi?uploads", b"", wish or {})
    assert began.status == 200, began.body
    target = f"/bucket/multi?uploadId={began.tag('UploadId')}"
    rows = ""
    for number, body in ((1, PART), (3, LAST)):
        part = await door.call("PUT", f"{target}&partNumber={number}", body)
        assert part.status == 200, part.body
        rows += f"<Part><PartNumber>{number}</PartNumber><ETag>{part.headers['etag']}</ETag></Part>"
    return target, f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()


async def upload(door: DoorUnderTest) -> Answer:
    return await door.call("POST", *await send_parts(door))


# -- reading by part ------------------------------------------------------------------------------------------------


async def test_a_part_is_read_by_the_number_that_it_was_uploaded_under(door: DoorUnderTest) -> None:
    done = await upload(door)
    etag = done.tag("ETag").replace("&quot;", '"')
    for number, body, first in ((1, PART, 0), (3, LAST, len(PART))):
        for method in ("GET", "HEAD"):
            found = await door.call(method, f"/bucket/multi?partNumber={number}", b"", SUMS)
            assert found.status == 206
            assert found.headers["content-range"] == f"bytes {first}-{first + len(body) - 1}/{len(WHOLE)}"
            assert found.headers["content-length"] == str(len(body))
            assert (found.headers["x-amz-mp-parts-count"], found.headers["etag"]) == ("2", etag)
            assert found.headers["x-amz-checksum-crc64nvme"] == crc64(body)
            assert method == "HEAD" or found.body == body


@pytest.mark.parametrize(
    ("key", "number", "status", "code"),
    [
        ("multi", "2", 416, "InvalidPartNumber"),
        ("multi", "4", 416, "InvalidPartNumber"),
        ("kept", "2", 416, "InvalidPartNumber"),
        ("kept", "0", 400, "InvalidArgument"),
        ("kept", "10001", 400, "InvalidArgument"),
        ("kept", "", 400, "InvalidArgument"),
        ("kept", "one", 400, "InvalidArgument"),
        ("none", "1", 404, "NoSuchKey"),
    ],
)
async def test_a_part_that_there_is_not(door: DoorUnderTest, key: str, number: str, status: int, code: str) -> None:
    if key == "multi":
        await upload(door)
    answer = await door.call("GET", f"/bucket/{key}?partNumber={number}")
    assert (answer.status, answer.code) == (status, code)


async def test_an_object_without_parts_is_its_part_1(door: DoorUnderTest) -> None:
    found = await door.call("GET", "/bucket/kept?partNumber=1", b"", SUMS)
    assert (found.status, found.body) == (206, KEPT)
    assert found.headers["content-range"] == f"bytes 0-{len(KEPT) - 1}/{len(KEPT)}"
    assert found.headers["x-amz-checksum-crc64nvme"] == crc64(KEPT)
    assert "x-amz-mp-parts-count" not in found.headers


async def test_an_empty_object_has_an_empty_part_1(door: DoorUnderTest) -> None:
    await door.call("PUT", "/bucket/empty")
    found = await door.call("GET", "/bucket/empty?partNumber=1")
    assert (found.status, found.body, found.headers.get("content-range")) == (200, b"", None)


async def test_a_part_and_a_range_are_not_asked_for_at_once(door: DoorUnderTest) -> None:
    answer = await door.call("GET", "/bucket/kept?partNumber=1", b"", {"Range": "bytes=0-1"})
    assert (answer.status, answer.code) == (400, "InvalidRequest")


# -- checksums of the whole -----------------------------------------------------------------------------------------


async def test_a_body_without_a_checksum_gets_the_default_one(door: DoorUnderTest) -> None:
    put = await door.call("PUT", "/bucket/plain", b"body")
    assert (put.headers["x-amz-checksum-crc64nvme"], put.headers["x-amz-checksum-type"]) == (
        crc64(b"body"),
        "FULL_OBJECT",
    )
    assert "x-amz-checksum-crc64nvme" not in (await door.call("GET", "/bucket/plain")).headers
    assert (await door.call("HEAD", "/bucket/plain", b"", SUMS)).headers["x-amz-checksum-crc64nvme"] == crc64(b"body")


async def test_an_announced_checksum_stands_alone(door: DoorUnderTest) -> None:
    put = await door.call("PUT", "/bucket/plain", b"body", {"x-amz-checksum-crc32": crc32(b"body")})
    assert put.headers["x-amz-checksum-crc32"] == crc32(b"body")
    assert "x-amz-checksum-crc64nvme" not in put.headers


async def test_an_upload_without_a_checksum_gets_the_default_one_of_the_whole(door: DoorUnderTest) -> None:
    done = await upload(door)
    assert (done.tag("ChecksumCRC64NVME"), done.tag("ChecksumType")) == (crc64(WHOLE), "FULL_OBJECT")
    found = await door.call("HEAD", "/bucket/multi", b"", SUMS)
    assert (found.headers["x-amz-checksum-crc64nvme"], found.headers["x-amz-checksum-type"]) == (
        crc64(WHOLE),
        "FULL_OBJECT",
    )


@pytest.mark.parametrize("kind", ["FULL_OBJECT", "COMPOSITE"])
async def test_a_completion_may_say_what_the_object_is_to_be(door: DoorUnderTest, kind: str) -> None:
    joined = b"".join(zlib.crc32(part).to_bytes(4, "big") for part in (PART, LAST))
    value = crc32(WHOLE) if kind == "FULL_OBJECT" else f"{crc32(joined)}-2"
    target, document = await send_parts(door, {"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": kind})
    for said, code in (
        ({"x-amz-checksum-crc32": "bad"}, "BadDigest"),
        ({"x-amz-checksum-crc32": crc32(b"other")}, "BadDigest"),
        ({"x-amz-checksum-sha256": b64encode(hashlib.sha256(WHOLE).digest()).decode()}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": value, "x-amz-checksum-sha1": "bad"}, "InvalidRequest"),
    ):
        assert (await door.call("POST", target, document, said)).code == code
    said = {"x-amz-checksum-crc32": value, "x-amz-checksum-type": kind}
    done = await door.call("POST", target, document, said)
    assert (done.status, done.tag("ChecksumCRC32"), done.tag("ChecksumType")) == (200, value, kind)
    part = await door.call("HEAD", "/bucket/multi?partNumber=3", b"", SUMS)
    assert (part.headers["x-amz-checksum-crc32"], part.headers["x-amz-checksum-type"]) == (crc32(LAST), kind)


async def test_a_part_answers_with_its_own_checksum(door: DoorUnderTest) -> None:
    began = await door.call("POST", "/bucket/multi?uploads", b"", {"x-amz-checksum-algorithm": "SHA256"})
    target = f"/bucket/multi?partNumber=1&uploadId={began.tag('UploadId')}"
    part = await door.call("PUT", target, LAST)
    assert part.headers["x-amz-checksum-sha256"] == b64encode(hashlib.sha256(LAST).digest()).decode()
    refused = await door.call("PUT", target, LAST, {"x-amz-checksum-crc32": crc32(LAST)})
    assert (refused.status, refused.code) == (400, "InvalidRequest")


async def test_a_part_is_named_twice_and_the_last_mention_counts(door: DoorUnderTest) -> None:
    began = await door.call("POST", "/bucket/multi?uploads")
    target = f"/bucket/multi?uploadId={began.tag('UploadId')}"
    etags = [(await door.call("PUT", f"{target}&partNumber=1", body)).headers["etag"] for body in (b"old", b"new")]
    rows = "".join(f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>" for etag in etags)
    done = await door.call("POST", target, f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode())
    assert done.status == 200, done.body
    assert (await door.call("GET", "/bucket/multi")).body == b"new"


# -- copies ---------------------------------------------------------------------------------------------------------


async def test_a_copy_may_get_another_checksum(door: DoorUnderTest) -> None:
    headers = {"x-amz-copy-source": "/bucket/kept", "x-amz-checksum-algorithm": "sha256"}
    copied = await door.call("PUT", "/bucket/copy", b"", headers)
    value = b64encode(hashlib.sha256(KEPT).digest()).decode()
    assert (copied.tag("ChecksumSHA256"), copied.tag("ChecksumType")) == (value, "FULL_OBJECT")
    assert (await door.call("HEAD", "/bucket/copy", b"", SUMS)).headers["x-amz-checksum-sha256"] == value
    refused = await door.call("PUT", "/bucket/copy", b"", {**headers, "x-amz-checksum-algorithm": "MD4"})
    assert (refused.status, refused.code) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"x-amz-metadata-directive": "REPLACE"}, 200),
        ({"x-amz-storage-class": "STANDARD"}, 200),
        ({"x-amz-server-side-encryption": "AES256"}, 200),
    ],
)
async def test_a_copy_to_itself_must_change_something(
    door: DoorUnderTest, headers: dict[str, str], status: int
) -> None:
    answer = await door.call("PUT", "/bucket/kept", b"", {"x-amz-copy-source": "/bucket/kept", **headers})
    assert answer.status == status
    assert (await door.call("GET", "/bucket/kept")).body == KEPT


# -- attributes -----------------------------------------------------------------------------------------------------


async def attributes(door: DoorUnderTest, key: str, names: str, **more: str) -> Answer:
    headers = {"x-amz-object-attributes": names, **{name.replace("_", "-"): text for name, text in more.items()}}
    return await door.call("GET", f"/bucket/{key}?attributes", b"", headers)


async def test_only_the_attributes_that_are_asked_for_are_told(door: DoorUnderTest) -> None:
    found = await attributes(door, "kept", "ETag, ObjectSize")
    assert found.status == 200
    assert found.tag("ETag") == hashlib.md5(KEPT, usedforsecurity=False).hexdigest()
    assert (found.tag("ObjectSize"), found.tags("StorageClass"), found.tags("Checksum")) == (str(len(KEPT)), [], [])
    assert "last-modified" in found.headers
    found = await attributes(door, "kept", "Checksum,ObjectParts,StorageClass")
    assert (found.tag("ChecksumCRC64NVME"), found.tag("StorageClass")) == (crc64(KEPT), "STANDARD")
    assert found.tags("ObjectParts") == []


async def test_parts_are_told_by_pages(door: DoorUnderTest) -> None:
    await upload(door)
    first = await attributes(door, "multi", "ObjectParts", x_amz_max_parts="1")
    assert (first.tag("PartsCount"), first.tags("PartNumber"), first.tags("Size")) == ("2", ["1"], [str(len(PART))])
    assert (first.tag("IsTruncated"), first.tag("NextPartNumberMarker"), first.tag("MaxParts")) == ("true", "1", "1")
    rest = await attributes(door, "multi", "ObjectParts", x_amz_part_number_marker="1", x_amz_max_parts="many")
    assert (rest.tag("PartNumberMarker"), rest.tags("PartNumber"), rest.tag("IsTruncated")) == ("1", ["3"], "false")
    assert (rest.tag("ChecksumCRC64NVME"), rest.tag("MaxParts")) == (crc64(LAST), "1000")


@pytest.mark.parametrize(
    ("key", "names", "status", "code"),
    [
        ("kept", "", 400, "InvalidRequest"),
        ("kept", "ETag,Owner", 400, "InvalidArgument"),
        ("none", "ETag", 404, "NoSuchKey"),
    ],
)
async def test_attributes_that_there_are_not(door: DoorUnderTest, key: str, names: str, status: int, code: str) -> None:
    answer = await attributes(door, key, names)
    assert (answer.status, answer.code) == (status, code)


async def test_a_copy_of_what_a_clients_key_hides_has_the_checksum_of_what_is_shown(door: DoorUnderTest) -> None:
    key = bytes(range(32))
    md5 = b64encode(hashlib.md5(key, usedforsecurity=False).digest()).decode()
    named = {"algorithm": "AES256", "key": b64encode(key).decode(), "key-MD5": md5}
    own = {f"x-amz-server-side-encryption-customer-{name}": value for name, value in named.items()}
    assert (await door.call("PUT", "/bucket/hidden", b"body", own)).status == 200
    headers = {"x-amz-copy-source": "/bucket/hidden", "x-amz-checksum-algorithm": "SHA256"}
    headers |= {f"x-amz-copy-source-server-side-encryption-customer-{name}": value for name, value in named.items()}
    copied = await door.call("PUT", "/bucket/shown", b"", headers)
    assert copied.tag("ChecksumSHA256") == b64encode(hashlib.sha256(b"body").digest()).decode()
    assert (await door.call("GET", "/bucket/shown")).body == b"body"
