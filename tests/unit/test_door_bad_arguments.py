"""Wrong parts, pages, paths and sub-resources: S3's own code each, and what is stored stays as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from tests.door import KEPT, DoorUnderTest, open_door, render

from meshhold.s3 import routes
from meshhold.s3.routes import SUBRESOURCES

PART_MIN: Final = 5 * 2**20


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        yield opened


# -- multipart ------------------------------------------------------------------------------------------------------


async def begin(door: DoorUnderTest) -> str:
    answer = await door.call("POST", "/bucket/multi?uploads")
    assert answer.status == 200
    return answer.tag("UploadId")


async def put_part(door: DoorUnderTest, upload: str, number: int, body: bytes) -> str:
    answer = await door.call("PUT", f"/bucket/multi?partNumber={number}&uploadId={upload}", body)
    assert answer.status == 200, answer.body
    return answer.headers["etag"]


def completion(parts: Sequence[tuple[object, str]]) -> bytes:
    rows = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in parts)
    return f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()


ETAG: Final = '"900150983cd24fb0d6963f7d28e17f72"'
COMPLETIONS: dict[str, tuple[int, str, bytes]] = {
    "parts in falling order": (400, "InvalidPartOrder", completion([(2, "TWO"), (1, "ONE")])),
    "a part after a later one": (400, "InvalidPartOrder", completion([(1, "ONE"), (2, "TWO"), (1, "ONE")])),
    "a part that was not sent": (400, "InvalidPart", completion([(1, "ONE"), (3, ETAG)])),
    "another ETag": (400, "InvalidPart", completion([(1, ETAG), (2, "TWO")])),
    "an ETag of no form": (400, "InvalidPart", completion([(1, "&lt;&gt;")])),
    "a small part before the last": (400, "EntityTooSmall", completion([(1, "ONE"), (2, "TWO")])),
    "10,001 parts": (400, "MalformedXML", completion([(n, ETAG) for n in range(1, 10_002)])),
    "no parts": (400, "MalformedXML", completion([])),
    "no document": (400, "MalformedXML", b""),
    "part 0": (400, "InvalidArgument", completion([(0, "ONE")])),
    "part 10,001": (400, "InvalidArgument", completion([(10_001, "ONE")])),
    "part -1": (400, "MalformedXML", completion([(-1, "ONE")])),
    "part abc": (400, "MalformedXML", completion([("abc", "ONE")])),
    "part of 30 digits": (400, "MalformedXML", completion([("9" * 30, "ONE")])),
    "no ETag": (
        400, "MalformedXML",
        b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>",
    ),
    "no number": (
        400, "MalformedXML", b"<CompleteMultipartUpload><Part><ETag>ONE</ETag></Part></CompleteMultipartUpload>",
    ),
    "another root": (400, "MalformedXML", b"<Complete/>"),
}  # fmt: skip


@pytest.mark.parametrize(("status", "code", "body"), COMPLETIONS.values(), ids=COMPLETIONS)
async def test_a_wrong_completion_leaves_the_upload_as_it_was(
    door: DoorUnderTest, status: int, code: str, body: bytes
) -> None:
    upload = await begin(door)
    one, two = await put_part(door, upload, 1, b"one"), await put_part(door, upload, 2, b"two")
    body = body.replace(b"ONE", one.encode()).replace(b"TWO", two.encode())
    await door.check_refused(door.signed("POST", f"/bucket/multi?uploadId={upload}", body), status, code)
    again = await door.call("POST", f"/bucket/multi?uploadId={upload}", completion([(2, two)]))
    assert again.status == 200, again.body
    assert (await door.call("GET", "/bucket/multi")).body == b"two"


UNKNOWN: Final = "0" * 32


@pytest.mark.parametrize("upload", [UNKNOWN, "", "abc", "z" * 32, "..%2F..", "%00", "a" * 4000])
@pytest.mark.parametrize("method", ["PUT", "GET", "POST", "DELETE"])
async def test_an_upload_that_is_not_there(door: DoorUnderTest, method: str, upload: str) -> None:
    number = "partNumber=1&" if method == "PUT" else ""
    body = completion([(1, ETAG)]) if method == "POST" else b"part" if method == "PUT" else b""
    raw = door.signed(method, f"/bucket/kept?{number}uploadId={upload}", body)
    await door.check_refused(raw, 404, "NoSuchUpload")


@pytest.mark.parametrize("number", ["0", "10001", "-1", "abc", "", "1.5", "9" * 40, "%C2%B2"])
async def test_a_part_number_out_of_range(door: DoorUnderTest, number: str) -> None:
    upload = await begin(door)
    raw = door.signed("PUT", f"/bucket/multi?partNumber={number}&uploadId={upload}", b"part")
    await door.check_refused(raw, 400, "InvalidArgument")


async def test_an_upload_of_another_key(door: DoorUnderTest) -> None:
    upload = await begin(door)
    await door.check_refused(
        door.signed("PUT", f"/bucket/kept?partNumber=1&uploadId={upload}", b"x"), 404, "NoSuchUpload"
    )


async def test_completing_twice_says_the_same_twice(door: DoorUnderTest) -> None:
    upload = await begin(door)
    parts = [(1, await put_part(door, upload, 1, bytes(PART_MIN))), (2, await put_part(door, upload, 2, b"end"))]
    target = f"/bucket/multi?uploadId={upload}"
    answers = [await door.call("POST", target, completion(parts)) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].tag("ETag") == answers[1].tag("ETag")
    assert answers[0].tag("ETag").endswith("-2&quot;")
    other = await door.call("POST", target, completion([(1, parts[0][1])]))
    assert (other.status, other.code) == (404, "NoSuchUpload")


async def test_aborting_twice(door: DoorUnderTest) -> None:
    upload = await begin(door)
    await put_part(door, upload, 1, b"part")
    target = f"/bucket/multi?uploadId={upload}"
    assert (await door.call("DELETE", target)).status == 204
    await door.check_refused(door.signed("DELETE", target), 404, "NoSuchUpload")
    await door.check_refused(door.signed("GET", target), 404, "NoSuchUpload")


# -- listings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "max-keys=-1", "max-keys=abc", "max-keys=1.5", "max-keys=2147483648", "max-keys=99999999999999999999",
        "list-type=2&max-keys=-1", "list-type=2&max-keys=%D9%A1", "list-type=3", "list-type=",
        "list-type=2&continuation-token=!", "list-type=2&continuation-token=abc",
        "list-type=2&continuation-token=a%00b", "encoding-type=base64", "encoding-type=xml",
        "versions&max-keys=-1", "versions&version-id-marker=null", "versions&encoding-type=hex",
        "uploads&max-uploads=-1", "uploads&max-uploads=abc", "uploads&encoding-type=hex",
    ],
)  # fmt: skip
async def test_a_listing_with_a_wrong_argument(door: DoorUnderTest, query: str) -> None:
    await door.check_refused(door.signed("GET", f"/bucket?{query}"), 400, "InvalidArgument")


async def test_an_empty_token_begins_at_the_first_key(door: DoorUnderTest) -> None:
    answer = await door.call("GET", "/bucket?list-type=2&continuation-token=")
    assert (answer.status, answer.tags("Key"), answer.tags("ContinuationToken")) == (200, ["kept"], [""])


@pytest.mark.parametrize(
    "query", ["max-keys=0", "list-type=2&max-keys=0", "versions&max-keys=0", "uploads&max-uploads=0"]
)
async def test_a_page_of_nothing(door: DoorUnderTest, query: str) -> None:
    answer = await door.call("GET", f"/bucket?{query}")
    assert answer.status == 200
    assert (answer.tag("IsTruncated"), answer.tags("Key")) == ("false", [])


@pytest.mark.parametrize("query", ["max-parts=-1", "max-parts=abc", "part-number-marker=-1", "part-number-marker=x"])
async def test_a_list_of_parts_with_a_wrong_argument(door: DoorUnderTest, query: str) -> None:
    upload = await begin(door)
    raw = door.signed("GET", f"/bucket/multi?uploadId={upload}&{query}")
    await door.check_refused(raw, 400, "InvalidArgument")


async def test_more_parameters_than_any_operation_has(door: DoorUnderTest) -> None:
    query = "&".join(f"a{n}=" for n in range(600))
    await door.check_refused(render("GET", f"/bucket?{query}", {"Host": "x"}), 400, "InvalidURI")


# -- paths ----------------------------------------------------------------------------------------------------------

PATHS: dict[str, tuple[int, str, str]] = {
    "NUL in a key": (400, "InvalidURI", "/bucket/a%00b"),
    "bad UTF-8 in a key": (400, "InvalidURI", "/bucket/%ff%fe"),
    "a surrogate in a key": (400, "InvalidURI", "/bucket/%ed%a0%80"),
    "overlong UTF-8 in a key": (400, "InvalidURI", "/bucket/%c0%af"),
    "cut UTF-8 in a key": (400, "InvalidURI", "/bucket/%e2%82"),
    "an escape of no hex": (400, "InvalidURI", "/bucket/%zz"),
    "an escape cut short": (400, "InvalidURI", "/bucket/100%"),
    "an escape of one digit": (400, "InvalidURI", "/bucket/%4"),
    "an escape with a sign": (400, "InvalidURI", "/bucket/%+4"),
    "a key of 1,025 bytes": (400, "KeyTooLongError", "/bucket/" + "a" * 1025),
    "a key of 1,026 bytes in 342 characters": (400, "KeyTooLongError", "/bucket/" + "%E2%82%AC" * 342),
    "a bucket of no UTF-8": (400, "InvalidURI", "/%ff/key"),
    "bad UTF-8 in a parameter": (400, "InvalidURI", "/bucket?prefix=%ff"),
    "a bad escape in a parameter": (400, "InvalidURI", "/bucket?prefix=%g1"),
}


@pytest.mark.parametrize(("status", "code", "target"), PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_paths(door: DoorUnderTest, method: str, status: int, code: str, target: str) -> None:
    raw = render(method, target, {"Host": door.signer.host, "Content-Length": "0"})
    await door.check_refused(raw, status, code)


@pytest.mark.parametrize(
    ("status", "code", "method", "target"),
    [
        (404, "NoSuchBucket", "GET", "/nowhere/key"),
        (404, "NoSuchBucket", "PUT", "/nowhere/key"),
        (404, "NoSuchBucket", "DELETE", "/nowhere"),
        (404, "NoSuchBucket", "GET", "/BUCKET"),
        (404, "NoSuchBucket", "GET", "//kept"),
        (404, "NoSuchBucket", "GET", "/../bucket/kept"),
        (400, "InvalidBucketName", "PUT", "/UPPER"),
        (400, "InvalidBucketName", "PUT", "/ab"),
        (400, "InvalidBucketName", "PUT", "/192.168.5.4"),
        (400, "InvalidBucketName", "PUT", "/a%00b"),
        (400, "InvalidBucketName", "PUT", "/" + "a" * 64),
        (409, "BucketAlreadyOwnedByYou", "PUT", "/bucket"),
        (409, "BucketNotEmpty", "DELETE", "/bucket"),
        (404, "NoSuchKey", "GET", "/bucket/none"),
        (404, "NoSuchKey", "GET", "/bucket/kept/"),
        (404, "NoSuchVersion", "GET", f"/bucket/kept?versionId={32 * 'a'}"),
        (400, "InvalidArgument", "GET", "/bucket/kept?versionId=abc"),
        (400, "InvalidArgument", "DELETE", "/bucket/kept?versionId=abc"),
        (400, "InvalidArgument", "GET", "/bucket/kept?versionId="),
        (501, "NotImplemented", "POST", "/bucket/kept"),
        (412, "PreconditionFailed", "POST", "/bucket"),
        (501, "NotImplemented", "PUT", "/"),
        (400, "BadRequest", "OPTIONS", "/bucket/kept"),
    ],
)
async def test_what_is_not_there(door: DoorUnderTest, status: int, code: str, method: str, target: str) -> None:
    await door.check_refused(door.signed(method, target), status, code)


@pytest.mark.parametrize(
    ("status", "code", "source", "headers"),
    [
        (404, "NoSuchKey", "/bucket/none", {}),
        (404, "NoSuchBucket", "/nowhere/kept", {}),
        (400, "InvalidArgument", "kept", {}),
        (400, "InvalidArgument", "", {}),
        (400, "InvalidRequest", "/bucket/new", {}),
        (404, "NoSuchVersion", f"/bucket/kept?versionId={32 * 'a'}", {}),
        (400, "InvalidArgument", "/bucket/kept?versionId=abc", {}),
        (400, "InvalidURI", "/bucket/%zz", {}),
        (412, "PreconditionFailed", "/bucket/kept", {"x-amz-copy-source-if-match": '"no"'}),
        (412, "PreconditionFailed", "/bucket/kept", {"x-amz-copy-source-if-none-match": "*"}),
        (400, "InvalidArgument", "/bucket/kept", {"x-amz-metadata-directive": "MAYBE"}),
        (400, "InvalidArgument", "/bucket/kept", {"x-amz-tagging-directive": "MERGE"}),
    ],
)
async def test_a_copy_that_cannot_be(
    door: DoorUnderTest, status: int, code: str, source: str, headers: dict[str, str]
) -> None:
    target = "/bucket/kept" if code == "InvalidRequest" else "/bucket/new"
    source = "/bucket/kept" if code == "InvalidRequest" else source
    raw = door.signed("PUT", target, b"", {"x-amz-copy-source": source, **headers})
    await door.check_refused(raw, status, code)


# -- sub-resources --------------------------------------------------------------------------------------------------

OFFERED: Final = {"/bucket/kept": routes._OBJECT, "/bucket": routes._BUCKET, "/": routes._SERVICE}


@pytest.mark.parametrize("name", sorted(SUBRESOURCES))
async def test_a_subresource_never_falls_through(door: DoorUnderTest, name: str) -> None:
    """An operation that is not offered says so: it neither stores its document as the object nor deletes anything."""
    async with door.connect() as wire:
        for method in ("PUT", "GET", "HEAD", "POST", "DELETE"):
            for target in ("/bucket/kept", "/bucket", "/"):
                for query in (name,) if method == "HEAD" else (name, f"{name}=x"):
                    body = b"<Document/>" if method in ("PUT", "POST") else b""
                    await wire.send(door.signed(method, f"{target}?{query}", body))
                    answer = await wire.answer(method)
                    if (method, name) in OFFERED[target]:
                        assert answer.status in (200, 204, 400, 403, 404, 409, 501)
                    else:
                        assert answer.status == 501
                        assert method == "HEAD" or answer.code == "NotImplemented"
        await wire.send(door.signed("GET", "/bucket/kept"))
        assert (await wire.answer()).body == KEPT
    assert await door.stored() == ["kept"]


@pytest.mark.parametrize("query", ["acl&tagging", "uploadId=x&acl", "uploads&versions"])
async def test_two_subresources_at_once(door: DoorUnderTest, query: str) -> None:
    await door.check_refused(door.signed("PUT", f"/bucket/kept?{query}", b"<x/>"), 400, "InvalidRequest")


async def test_parameters_of_signers_and_sdks_are_no_subresources(door: DoorUnderTest) -> None:
    assert (await door.call("PUT", "/bucket/new?x-id=PutObject", b"body")).status == 200
    assert (await door.call("GET", "/bucket/new?x-id=GetObject")).body == b"body"


async def test_an_override_that_would_break_its_line_is_refused_and_blanks_around_it_go(door: DoorUnderTest) -> None:
    for value in ("%0C", "a%0Bb", "a%0D%0Ab", "%00"):
        raw = door.signed("GET", f"/bucket/kept?response-content-type={value}")
        await door.check_refused(raw, 400, "InvalidArgument")
    answer = await door.call("GET", "/bucket/kept?response-content-type=%20text/plain%09")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain")
