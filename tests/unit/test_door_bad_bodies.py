"""Wrong digests, broken aws-chunked framing, hostile XML: S3's own code each, and nothing is stored."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import pytest
from tests.door import DoorUnderTest, open_door, render

BODY: Final = b"hello, world"
SIGNED: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
Edit = Callable[[bytes], bytes]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path, put_size_max=32 * 2**20) as opened:
        yield opened


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def crc32(body: bytes) -> str:
    return b64(zlib.crc32(body).to_bytes(4, "big"))


MD5: Final = b64(hashlib.md5(BODY).digest())  # noqa: S324 - Content-MD5 is what it is
WRONG_MD5: Final = b64(hashlib.md5(b"other").digest())  # noqa: S324 - same
SHA256: Final = b64(hashlib.sha256(BODY).digest())

DIGESTS: dict[str, tuple[int, str, dict[str, str]]] = {
    "md5 of another body": (400, "BadDigest", {"Content-MD5": WRONG_MD5}),
    "md5 too short": (400, "InvalidDigest", {"Content-MD5": "YWJj"}),
    "md5 in hex": (400, "InvalidDigest", {"Content-MD5": hashlib.md5(BODY).hexdigest()}),  # noqa: S324 - same
    "md5 empty": (400, "InvalidDigest", {"Content-MD5": ""}),
    "md5 of no base64": (400, "InvalidDigest", {"Content-MD5": "!" * 24}),
    "crc32 of another body": (400, "BadDigest", {"x-amz-checksum-crc32": crc32(b"other")}),
    "crc32 too long": (400, "BadDigest", {"x-amz-checksum-crc32": SHA256}),
    "crc32 empty": (400, "BadDigest", {"x-amz-checksum-crc32": ""}),
    "crc32 of no base64": (400, "BadDigest", {"x-amz-checksum-crc32": "????"}),
    "crc32c wrong": (400, "BadDigest", {"x-amz-checksum-crc32c": "AAAAAA=="}),
    "crc64nvme wrong": (400, "BadDigest", {"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}),
    "sha1 wrong": (400, "BadDigest", {"x-amz-checksum-sha1": b64(bytes(20))}),
    "sha256 wrong": (400, "BadDigest", {"x-amz-checksum-sha256": b64(bytes(32))}),
    "two checksums": (400, "InvalidRequest", {"x-amz-checksum-crc32": crc32(BODY), "x-amz-checksum-sha256": SHA256}),
    "unknown checksum": (400, "InvalidRequest", {"x-amz-checksum-md4": "AAAA"}),
    "algorithm without a value": (400, "InvalidRequest", {"x-amz-sdk-checksum-algorithm": "CRC32"}),
    "algorithm of another value": (
        400, "InvalidRequest", {"x-amz-sdk-checksum-algorithm": "CRC32", "x-amz-checksum-sha256": SHA256},
    ),
    "unknown algorithm": (400, "InvalidRequest", {"x-amz-sdk-checksum-algorithm": "ROT13"}),
    "trailer of another kind": (400, "InvalidRequest", {"x-amz-trailer": "x-amz-meta-late"}),
    "metadata beyond 2 KiB": (400, "MetadataTooLarge", {"x-amz-meta-a": "x" * 2048}),
    "a tag without a key": (400, "InvalidTag", {"x-amz-tagging": "=b"}),
    "unknown storage class": (400, "InvalidStorageClass", {"x-amz-storage-class": "GLACIER"}),
    "half of a client's own key": (
        400, "InvalidArgument", {"x-amz-server-side-encryption-customer-algorithm": "AES256"},
    ),
    "unknown encryption": (400, "InvalidEncryptionAlgorithmError", {"x-amz-server-side-encryption": "ROT13"}),
    "a condition by date": (501, "NotImplemented", {"If-Modified-Since": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "If-None-Match with two ETags": (501, "NotImplemented", {"If-None-Match": '"abc", "def"'}),
    "another account's bucket": (403, "AccessDenied", {"x-amz-expected-bucket-owner": "111122223333"}),
}  # fmt: skip


@pytest.mark.parametrize(("status", "code", "headers"), DIGESTS.values(), ids=DIGESTS)
async def test_headers_about_the_body(door: DoorUnderTest, status: int, code: str, headers: dict[str, str]) -> None:
    await door.check_refused(door.signed("PUT", "/bucket/new", BODY, headers), status, code)


async def test_right_digests_pass(door: DoorUnderTest) -> None:
    for headers in ({"Content-MD5": MD5}, {"x-amz-checksum-crc32": crc32(BODY)}, {"x-amz-checksum-sha256": SHA256}):
        assert (await door.call("PUT", "/bucket/new", BODY, headers)).status == 200


async def test_a_body_over_the_limit_names_the_setting(tmp_path: Path) -> None:
    async with open_door(tmp_path, put_size_max=64) as door:
        answer = await door.check_refused(door.signed("PUT", "/bucket/new", b"x" * 65), 400, "EntityTooLarge")
        assert "max_put_bytes" in answer.text
        assert "multipart" in answer.text
        assert (answer.tag("ProposedSize"), answer.tag("MaxSizeAllowed")) == ("65", "64")


async def test_a_chunked_body_over_the_limit_names_the_setting(tmp_path: Path) -> None:
    async with open_door(tmp_path, put_size_max=64) as door:
        headers = door.sign("PUT", "/bucket/new", b"", {"Transfer-Encoding": "chunked"}, "UNSIGNED-PAYLOAD")
        raw = render("PUT", "/bucket/new", headers, b"41\r\n" + b"x" * 65 + b"\r\n0\r\n\r\n")
        answer = await door.check_refused(raw, 400, "EntityTooLarge")
        assert "max_put_bytes" in answer.text


async def test_no_length_at_all(door: DoorUnderTest) -> None:
    headers = door.sign("PUT", "/bucket/new", payload="UNSIGNED-PAYLOAD")
    del headers["Content-Length"]
    await door.check_refused(render("PUT", "/bucket/new", headers), 411, "MissingContentLength")


# -- aws-chunked ----------------------------------------------------------------------------------------------------


def framed(
    door: DoorUnderTest,
    form: str,
    chunks: Sequence[bytes] = (BODY,),
    *,
    length: str | None = None,
    announce: str = "x-amz-checksum-crc32",
    trailer: str | None = None,
    edit: Edit = bytes,
) -> bytes:
    """Return a PUT in one of the streaming forms; `edit` changes the framed body after it was signed.

    `length` replaces x-amz-decoded-content-length (`""` leaves it out), `trailer` the trailer's lines.
    """
    body = b"".join(chunks)
    headers = {"Content-Encoding": "aws-chunked", "x-amz-decoded-content-length": length or str(len(body))}
    if length == "":
        del headers["x-amz-decoded-content-length"]
    if form != SIGNED:
        headers["x-amz-trailer"] = announce
    headers = door.sign("PUT", "/bucket/new", b"", {**headers, "Content-Length": "0"}, form)
    signer, signature = door.signer, headers["Authorization"].rpartition("=")[2]
    out = b""
    for chunk in (*chunks, b""):
        out += b"%x" % len(chunk)
        if form != UNSIGNED_TRAILER:
            signature = signer.chunk_signature(signature, chunk)
            out += b";chunk-signature=" + signature.encode()
        out += b"\r\n" + chunk + (b"\r\n" if chunk else b"")
    if form != SIGNED:
        lines = f"x-amz-checksum-crc32:{crc32(body)}\n" if trailer is None else trailer
        out += lines.replace("\n", "\r\n").encode()
        if form == SIGNED_TRAILER:
            out += f"x-amz-trailer-signature:{signer.trailer_signature(signature, lines)}\r\n".encode()
    out = edit(out + b"\r\n")
    return render("PUT", "/bucket/new", headers | {"Content-Length": str(len(out))}, out)


def swap(old: bytes, new: bytes) -> Edit:
    def edit(out: bytes) -> bytes:
        assert old in out
        return out.replace(old, new, 1)

    return edit


def flip_first_signature(out: bytes) -> bytes:
    at = out.index(b"chunk-signature=") + 16
    return out[:at] + (b"0" if out[at : at + 1] != b"0" else b"1") + out[at + 1 :]


def flip_trailer_signature(out: bytes) -> bytes:
    at = out.index(b"trailer-signature:") + 18
    return out[:at] + (b"0" if out[at : at + 1] != b"0" else b"1") + out[at + 1 :]


def exchange_first_chunks(out: bytes) -> bytes:
    size = len("2000;chunk-signature=") + 64 + 2 + 8192 + 2
    return out[size : 2 * size] + out[:size] + out[2 * size :]


BIG: Final = b"x" * 8192
CHUNKED: dict[str, tuple[int, str, Callable[[DoorUnderTest], bytes]]] = {
    "signature of a chunk": (
        403, "SignatureDoesNotMatch", lambda d: framed(d, SIGNED, edit=flip_first_signature),
    ),
    "bytes of a chunk": (403, "SignatureDoesNotMatch", lambda d: framed(d, SIGNED, edit=swap(b"hello", b"jello"))),
    "chunks in another order": (
        403, "SignatureDoesNotMatch",
        lambda d: framed(d, SIGNED, (BIG, b"y" * 8192), edit=exchange_first_chunks),
    ),
    "no chunk signature": (
        400, "IncompleteBody", lambda d: framed(d, SIGNED, edit=swap(b";chunk-signature=", b";chunk=")),
    ),
    "decoded length too long": (400, "IncompleteBody", lambda d: framed(d, SIGNED, length="13")),
    "decoded length too short": (400, "IncompleteBody", lambda d: framed(d, SIGNED, length="11")),
    "decoded length missing": (411, "MissingContentLength", lambda d: framed(d, SIGNED, length="")),
    "decoded length negative": (400, "InvalidArgument", lambda d: framed(d, SIGNED, length="-12")),
    "decoded length no number": (400, "InvalidArgument", lambda d: framed(d, SIGNED, length="twelve")),
    "size not hex": (400, "IncompleteBody", lambda d: framed(d, SIGNED, edit=swap(b"c;", b"xyz;"))),
    "size negative": (400, "IncompleteBody", lambda d: framed(d, SIGNED, edit=swap(b"c;", b"-c;"))),
    "size missing": (400, "IncompleteBody", lambda d: framed(d, SIGNED, edit=swap(b"c;", b";"))),
    "size beyond every body": (
        400, "InvalidChunkSizeError", lambda d: framed(d, SIGNED, edit=swap(b"c;", b"f" * 16 + b";")),
    ),
    "size line without end": (400, "IncompleteBody", lambda d: framed(d, SIGNED, edit=lambda _: b"c" * 100_000)),
    "size too small for its data": (
        400, "IncompleteBody", lambda d: framed(d, UNSIGNED_TRAILER, edit=swap(b"c\r", b"b\r")),
    ),
    "no end after data": (
        400, "IncompleteBody", lambda d: framed(d, UNSIGNED_TRAILER, edit=swap(b"world\r\n", b"world")),
    ),
    "no last chunk": (
        400, "IncompleteBody", lambda d: framed(d, SIGNED, edit=lambda out: out[: out.rindex(b"\r\n0;") + 2]),
    ),
    "nothing at all": (400, "IncompleteBody", lambda d: framed(d, SIGNED, edit=lambda _: b"")),
    "junk after the end": (400, "InvalidRequest", lambda d: framed(d, SIGNED, edit=lambda out: out + b"junk")),
    "a small chunk in the middle": (400, "InvalidChunkSizeError", lambda d: framed(d, SIGNED, (b"a", b"b", b"c"))),
    "no trailer": (400, "MalformedTrailerError", lambda d: framed(d, UNSIGNED_TRAILER, trailer="")),
    "no trailer, signed": (400, "MalformedTrailerError", lambda d: framed(d, SIGNED_TRAILER, trailer="")),
    "trailer of another name": (
        400, "MalformedTrailerError", lambda d: framed(d, UNSIGNED_TRAILER, trailer="x-amz-checksum-sha1:AAAA\n"),
    ),
    "one trailer too many": (
        400, "MalformedTrailerError",
        lambda d: framed(d, UNSIGNED_TRAILER, trailer=f"x-amz-checksum-crc32:{crc32(BODY)}\nx-amz-meta-late:1\n"),
    ),
    "trailer line without end": (
        400, "IncompleteBody", lambda d: framed(d, UNSIGNED_TRAILER, trailer="x-amz-checksum-crc32:" + "A" * 5000),
    ),
    "trailer of no form": (400, "MalformedTrailerError", lambda d: framed(d, UNSIGNED_TRAILER, trailer="nothing\n")),
    "trailer checksum wrong": (
        400, "BadDigest", lambda d: framed(d, UNSIGNED_TRAILER, trailer="x-amz-checksum-crc32:AAAAAA==\n"),
    ),
    "trailer checksum wrong, signed": (
        400, "BadDigest", lambda d: framed(d, SIGNED_TRAILER, trailer="x-amz-checksum-crc32:AAAAAA==\n"),
    ),
    "trailer checksum malformed": (
        400, "InvalidRequest", lambda d: framed(d, UNSIGNED_TRAILER, trailer="x-amz-checksum-crc32:AAAA\n"),
    ),
    "trailer signature wrong": (
        403, "SignatureDoesNotMatch", lambda d: framed(d, SIGNED_TRAILER, edit=flip_trailer_signature),
    ),
    "trailer signature missing": (
        400, "MalformedTrailerError",
        lambda d: framed(d, SIGNED_TRAILER, edit=lambda out: out[: out.index(b"x-amz-trailer-sig")] + b"\r\n"),
    ),
    "two trailers announced": (
        400, "InvalidRequest",
        lambda d: framed(d, UNSIGNED_TRAILER, announce="x-amz-checksum-crc32,x-amz-checksum-sha1"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("status", "code", "build"), CHUNKED.values(), ids=CHUNKED)
async def test_aws_chunked(
    door: DoorUnderTest, status: int, code: str, build: Callable[[DoorUnderTest], bytes]
) -> None:
    await door.check_refused(build(door), status, code)


@pytest.mark.parametrize("form", [SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER])
@pytest.mark.parametrize("chunks", [(), (BODY,), (BIG, BIG, b"rest")], ids=["empty", "one", "three"])
async def test_right_framing_passes(door: DoorUnderTest, form: str, chunks: tuple[bytes, ...]) -> None:
    answer = await door.exchange(framed(door, form, chunks))
    assert answer.status == 200, answer.body
    if form != SIGNED:
        assert answer.headers["x-amz-checksum-crc32"] == crc32(b"".join(chunks))
    found = await door.call("GET", "/bucket/new")
    assert found.body == b"".join(chunks)
    assert "content-encoding" not in found.headers


# -- XML ------------------------------------------------------------------------------------------------------------

LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE Delete [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%b">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]><Delete><Object><Key>&j;</Key></Object></Delete>"
)
EXTERNAL = (
    b'<!DOCTYPE Delete [<!ENTITY x SYSTEM "file:///etc/passwd">]><Delete><Object><Key>&x;</Key></Object></Delete>'
)
MANY = b"<Delete>" + b"<Object><Key>a</Key></Object>" * 1001 + b"</Delete>"
DOCUMENTS: dict[str, tuple[int, str, bytes]] = {
    "billion laughs": (400, "MalformedXML", LAUGHS),
    "external entity": (400, "MalformedXML", EXTERNAL),
    "a document type alone": (400, "MalformedXML", b"<!DOCTYPE Delete><Delete/>"),
    "undefined entity": (400, "MalformedXML", b"<Delete><Object><Key>&who;</Key></Object></Delete>"),
    "not XML": (400, "MalformedXML", b'{"Delete": []}'),
    "nothing": (400, "MalformedXML", b""),
    "blanks": (400, "MalformedXML", b"   "),
    "not UTF-8": (400, "MalformedXML", b"<Delete><Object><Key>\xff</Key></Object></Delete>"),
    "NUL": (400, "MalformedXML", b"<Delete><Object><Key>a\0b</Key></Object></Delete>"),
    "wrong root": (400, "MalformedXML", b"<Remove><Object><Key>kept</Key></Object></Remove>"),
    "not closed": (400, "MalformedXML", b"<Delete><Object><Key>kept</Key></Object>"),
    "two roots": (400, "MalformedXML", b"<Delete><Object><Key>a</Key></Object></Delete><Delete/>"),
    "no keys": (400, "MalformedXML", b"<Delete></Delete>"),
    "an object without a key": (400, "MalformedXML", b"<Delete><Object></Object></Delete>"),
    "an empty key": (400, "MalformedXML", b"<Delete><Object><Key></Key></Object></Delete>"),
    "1,001 keys": (400, "MalformedXML", MANY),
    "unknown element": (400, "MalformedXML", b"<Delete><Bypass>1</Bypass></Delete>"),
    "deep": (400, "MalformedXML", b"<Delete>" * 5000),
    "wide": (400, "MalformedXML", b"<Delete>" + b"<a/>" * 100_001 + b"</Delete>"),
    "beyond 8 MiB": (400, "MaxMessageLengthExceeded", b"<Delete>" + b" " * (9 * 2**20) + b"</Delete>"),
}  # fmt: skip


@pytest.mark.parametrize(("status", "code", "body"), DOCUMENTS.values(), ids=DOCUMENTS)
async def test_documents(door: DoorUnderTest, status: int, code: str, body: bytes) -> None:
    md5 = b64(hashlib.md5(body).digest())  # noqa: S324 - Content-MD5 is what it is
    await door.check_refused(door.signed("POST", "/bucket?delete", body, {"Content-MD5": md5}), status, code)


async def test_deleting_many_needs_a_digest(door: DoorUnderTest) -> None:
    body = b"<Delete><Object><Key>kept</Key></Object></Delete>"
    await door.check_refused(door.signed("POST", "/bucket?delete", body), 400, "InvalidRequest")
    wrong = {"Content-MD5": WRONG_MD5}
    await door.check_refused(door.signed("POST", "/bucket?delete", body, wrong), 400, "BadDigest")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"<CreateBucketConfiguration><LocationConstraint>mars-1</LocationConstraint></CreateBucketConfiguration>",
         400, "InvalidLocationConstraint"),
        (b"<Bucket/>", 400, "MalformedXML"),
        (LAUGHS, 400, "MalformedXML"),
        (b"<CreateBucketConfiguration><Bucket><Type>Directory</Type></Bucket></CreateBucketConfiguration>",
         501, "NotImplemented"),
    ],
    ids=["location", "root", "laughs", "directory"],
)  # fmt: skip
async def test_documents_of_a_new_bucket(door: DoorUnderTest, body: bytes, status: int, code: str) -> None:
    await door.check_refused(door.signed("PUT", "/another", body), status, code)
    assert (await door.call("GET", "/")).tags("Name") == ["bucket"]
