"""Writes that meet each other, uploads in parts, deletions in bulk: what the door promises beyond one request."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing
from tests.door import KEPT, Answer, DoorUnderTest, open_door

from meshhold.errors import BucketNotEmptyError

PART: Final = bytes(range(256)) * (5 * 4096)  # 5 MiB, the least size of a part before the last


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path, put_size_max=6 * 2**20) as opened:
        yield opened


async def together(*calls: tuple[DoorUnderTest, str, str, bytes, dict[str, str]]) -> list[Answer]:
    """Make calls at the same time, each on a connection of its own; return the answers in the order of the calls."""
    answers: dict[int, Answer] = {}

    async def one(at: int, call: tuple[DoorUnderTest, str, str, bytes, dict[str, str]]) -> None:
        door, *rest = call
        answers[at] = await door.call(*rest)  # type: ignore[arg-type] # the rest of the tuple, in its order

    async with trio.open_nursery() as nursery:
        for at, call in enumerate(calls):
            nursery.start_soon(one, at, call)
    return [answers[at] for at in range(len(calls))]


def completion(etags: dict[int, str], extra: str = "") -> bytes:
    rows = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag>{extra}</Part>" for n, etag in etags.items())
    return f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()


async def begin(door: DoorUnderTest, key: str = "multi", **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await door.call("POST", f"/bucket/{key}?uploads", b"", named)
    assert answer.status == 200, answer.body
    return answer.tag("UploadId")


async def put_part(door: DoorUnderTest, upload: str, number: int, body: bytes, key: str = "multi") -> str:
    answer = await door.call("PUT", f"/bucket/{key}?partNumber={number}&uploadId={upload}", body)
    assert answer.status == 200, answer.body
    return answer.headers["etag"]


# -- writes that meet -----------------------------------------------------------------------------------------------


async def test_of_many_that_create_exactly_one_succeeds(door: DoorUnderTest) -> None:
    bodies = [b"writer %d" % n for n in range(12)]
    answers = await together(*((door, "PUT", "/bucket/once", body, {"If-None-Match": "*"}) for body in bodies))
    assert sorted(answer.status for answer in answers) == [200] + [412] * 11
    winner = next(body for body, answer in zip(bodies, answers, strict=True) if answer.status == 200)
    assert (await door.call("GET", "/bucket/once")).body == winner


async def test_of_many_that_replace_exactly_one_succeeds(door: DoorUnderTest) -> None:
    etag = (await door.call("HEAD", "/bucket/kept")).headers["etag"]
    bodies = [b"writer %d" % n for n in range(12)]
    answers = await together(*((door, "PUT", "/bucket/kept", body, {"If-Match": etag}) for body in bodies))
    assert sorted(answer.status for answer in answers) == [200] + [412] * 11


async def test_readers_of_a_key_that_is_written_see_whole_objects(door: DoorUnderTest) -> None:
    bodies = {bytes([n]) * 100_000 for n in range(6)} | {KEPT}
    nothing: dict[str, str] = {}
    writes = [(door, "PUT", "/bucket/kept", body, nothing) for body in bodies - {KEPT}]
    reads = [(door, "GET", "/bucket/kept", b"", nothing)] * 12
    answers = await together(*(call for pair in zip(reads, writes * 2, strict=True) for call in pair))
    assert {answer.status for answer in answers} == {200}
    assert {answer.body for answer in answers[::2]} <= bodies


async def test_a_condition_is_checked_again_at_the_end_of_a_slow_upload(door: DoorUnderTest) -> None:
    headers = {"If-None-Match": "*", "Content-Length": str(len(PART))}
    signed = door.signed("PUT", "/bucket/raced", b"", headers, "UNSIGNED-PAYLOAD")
    async with door.connect() as slow:
        await slow.send(signed + PART[:-1])
        assert (await door.call("PUT", "/bucket/raced", b"first")).status == 200
        await slow.send(PART[-1:])
        answer = await slow.answer()
        assert (answer.status, answer.code) == (412, "PreconditionFailed")
    assert (await door.call("GET", "/bucket/raced")).body == b"first"


# -- parts ----------------------------------------------------------------------------------------------------------


async def test_parts_in_any_order_make_one_object(door: DoorUnderTest) -> None:
    upload = await begin(door, Content_Type="video/x", x_amz_meta_a="1")
    last = await put_part(door, upload, 7, b"the end")
    await put_part(door, upload, 2, b"replaced")
    first = await put_part(door, upload, 2, PART)
    done = await door.call("POST", f"/bucket/multi?uploadId={upload}", completion({2: first, 7: last}))
    raw = b"".join(bytes.fromhex(etag.strip('"')) for etag in (first, last))
    etag = f"{hashlib.md5(raw).hexdigest()}-2"  # noqa: S324 - an ETag is what it is
    assert done.tag("ETag") == f"&quot;{etag}&quot;"
    found = await door.call("GET", "/bucket/multi")
    assert found.body == PART + b"the end"
    assert found.headers["etag"] == f'"{etag}"'
    assert (found.headers["content-type"], found.headers["x-amz-meta-a"]) == ("video/x", "1")
    across = await door.call("GET", "/bucket/multi", b"", {"Range": f"bytes={len(PART) - 2}-{len(PART) + 2}"})
    assert across.body == PART[-2:] + b"the"


async def test_a_part_over_the_limit_names_the_setting(door: DoorUnderTest) -> None:
    upload = await begin(door)
    answer = await door.call("PUT", f"/bucket/multi?partNumber=1&uploadId={upload}", bytes(6 * 2**20 + 1))
    assert (answer.status, answer.code) == (400, "EntityTooLarge")
    assert "max_put_bytes" in answer.text


async def test_a_completion_under_a_condition(door: DoorUnderTest) -> None:
    upload = await begin(door, "kept")
    etag = await put_part(door, upload, 1, b"other", "kept")
    target, document = f"/bucket/kept?uploadId={upload}", completion({1: etag})
    refused = await door.call("POST", target, document, {"If-None-Match": "*"})
    assert (refused.status, refused.code) == (412, "PreconditionFailed")
    assert (await door.call("GET", "/bucket/kept")).body == KEPT
    assert (await door.call("POST", target, document)).status == 200
    assert (await door.call("GET", "/bucket/kept")).body == b"other"


@pytest.mark.parametrize(("size", "status"), [("5", 200), ("6", 400), ("x", 400)])
async def test_the_size_that_a_completion_announces(door: DoorUnderTest, size: str, status: int) -> None:
    upload = await begin(door)
    etag = await put_part(door, upload, 1, b"12345")
    headers = {"x-amz-mp-object-size": size}
    answer = await door.call("POST", f"/bucket/multi?uploadId={upload}", completion({1: etag}), headers)
    assert answer.status == status


async def test_a_completion_with_another_checksum_than_the_part_has(door: DoorUnderTest) -> None:
    upload = await begin(door, x_amz_checksum_algorithm="CRC32")
    etag = await put_part(door, upload, 1, b"part")
    wrong = completion({1: etag}, "<ChecksumCRC32>AAAAAA==</ChecksumCRC32>")
    answer = await door.call("POST", f"/bucket/multi?uploadId={upload}", wrong)
    assert (answer.status, answer.code) == (400, "InvalidPart")


@pytest.mark.parametrize("value", ["bytes=5-2", "bytes=0-", "bytes=-5", "0-5", "bytes=a-b", "bytes=0-1,2-3", ""])
async def test_a_copied_part_of_a_wrong_range(door: DoorUnderTest, value: str) -> None:
    upload = await begin(door)
    headers = {"x-amz-copy-source": "/bucket/kept", "x-amz-copy-source-range": value}
    answer = await door.call("PUT", f"/bucket/multi?partNumber=1&uploadId={upload}", b"", headers)
    assert (answer.status, answer.code) == (400, "InvalidArgument")


async def test_a_copied_part_of_a_range_beyond_the_source(door: DoorUnderTest) -> None:
    upload = await begin(door)
    headers = {"x-amz-copy-source": "/bucket/kept", "x-amz-copy-source-range": "bytes=0-99999"}
    answer = await door.call("PUT", f"/bucket/multi?partNumber=1&uploadId={upload}", b"", headers)
    assert (answer.status, answer.code) == (416, "InvalidRange")


async def test_parts_and_uploads_are_listed_by_pages(door: DoorUnderTest) -> None:
    uploads = [await begin(door, key) for key in ("a", "b/1", "b/2", "c")]
    for number in (1, 2, 5):
        await put_part(door, uploads[0], number, b"part", "a")
    page = await door.call("GET", f"/bucket/a?uploadId={uploads[0]}&max-parts=2")
    assert (page.tags("PartNumber"), page.tag("IsTruncated"), page.tag("NextPartNumberMarker")) == (
        ["1", "2"], "true", "2",
    )  # fmt: skip
    page = await door.call("GET", f"/bucket/a?uploadId={uploads[0]}&part-number-marker=2")
    assert (page.tags("PartNumber"), page.tag("IsTruncated")) == (["5"], "false")
    page = await door.call("GET", "/bucket?uploads&delimiter=%2F")
    assert (page.tags("Key"), page.tags("CommonPrefixes")) == (["a", "c"], ["<Prefix>b/</Prefix>"])
    found: list[str] = []
    marker = ""
    for _ in range(4):
        page = await door.call("GET", f"/bucket?uploads&max-uploads=1{marker}")
        found += page.tags("UploadId")
        marker = f"&key-marker={page.tag('NextKeyMarker')}&upload-id-marker={page.tag('NextUploadIdMarker')}"
    assert found == uploads
    assert page.tag("IsTruncated") == "false"


async def test_an_unfinished_upload_keeps_a_vault_and_not_a_bucket(door: DoorUnderTest) -> None:
    """As in S3, where only objects and their versions do; people who delete a vault are asked."""
    upload = await begin(door)
    assert [view.objects for view in await door.node.vaults.views()] == [1]  # the upload is none yet
    assert (await door.call("DELETE", "/bucket/kept")).status == 204
    with pytest.raises(BucketNotEmptyError):
        await door.node.vaults.delete("bucket")
    assert (await door.call("DELETE", "/bucket")).status == 204
    assert (await door.call("DELETE", f"/bucket/multi?uploadId={upload}")).code == "NoSuchBucket"


# -- deletions ------------------------------------------------------------------------------------------------------


async def delete(door: DoorUnderTest, inner: str) -> Answer:
    document = f"<Delete>{inner}</Delete>".encode()
    md5 = b64encode(hashlib.md5(document).digest()).decode()  # noqa: S324 - Content-MD5 is what it is
    return await door.call("POST", "/bucket?delete", document, {"Content-MD5": md5})


async def test_each_key_of_a_bulk_deletion_has_its_own_outcome(door: DoorUnderTest) -> None:
    assert (await door.call("PUT", "/bucket/other", b"x")).status == 200
    long = "a" * 1025
    answer = await delete(
        door,
        f"<Object><Key>kept</Key><VersionId>abc</VersionId></Object><Object><Key>{long}</Key></Object>"
        "<Object><Key>other</Key><ETag>no</ETag></Object><Object><Key>none</Key></Object>"
        "<Object><Key>kept</Key><VersionId>null</VersionId></Object>",
    )
    assert answer.status == 200
    assert answer.tags("Code") == ["InvalidArgument", "KeyTooLongError", "PreconditionFailed"]
    assert len(answer.tags("Deleted")) == 2
    assert await door.stored() == ["other"]


async def test_a_quiet_deletion_names_failures_alone(door: DoorUnderTest) -> None:
    answer = await delete(
        door, f"<Quiet>true</Quiet><Object><Key>kept</Key></Object><Object><Key>{'a' * 1025}</Key></Object>"
    )
    assert (answer.tags("Deleted"), answer.tags("Code")) == ([], ["KeyTooLongError"])
    assert await door.stored() == []


async def test_a_thousand_keys_go_at_once(door: DoorUnderTest) -> None:
    answer = await delete(door, "".join(f"<Object><Key>key {n}</Key></Object>" for n in range(1000)))
    assert len(answer.tags("Deleted")) == 1000


async def test_a_bucket_that_goes_while_its_object_comes_takes_the_object_along(door: DoorUnderTest) -> None:
    """The answer is that there is no such bucket, not that something is out of order: nobody tries again."""
    assert (await door.call("DELETE", "/bucket/kept")).status == 204
    body = bytes(64 * 1024)
    raw = door.signed("PUT", "/bucket/late", body)
    async with door.connect() as wire:
        await wire.send(raw[:-1000])
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (await door.call("DELETE", "/bucket")).status == 204
        await wire.send(raw[-1000:])
        answer = await wire.answer()
    assert (answer.status, answer.code) == (404, "NoSuchBucket")
