"""What right requests get: heads, ranges, conditions, overrides, metadata, anonymous reading. Byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from tests.door import KEPT, Answer, DoorUnderTest, open_door, render

from meshhold.model.grant import Permission
from meshhold.model.ids import ANONYMOUS

BODY: Final = bytes(range(256)) * 400  # over 16 KiB: a chunk, not part of the index entry
OLD: Final = "Wed, 21 Oct 2015 07:28:00 GMT"
FUTURE: Final = "Wed, 21 Oct 2065 07:28:00 GMT"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        yield opened


def etag_of(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'  # noqa: S324 - an ETag is what it is


async def put(door: DoorUnderTest, body: bytes = BODY, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await door.call("PUT", "/bucket/object", body, named)
    assert answer.status == 200, answer.body
    return answer


async def get(door: DoorUnderTest, query: str = "", method: str = "GET", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await door.call(method, f"/bucket/object{query}", b"", named)


# -- heads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"x", BODY], ids=["empty", "one byte", "100 KiB"])
async def test_get_and_head_agree(door: DoorUnderTest, body: bytes) -> None:
    put_answer = await put(door, body, Content_Type="text/x-test")
    async with door.connect() as wire:
        await wire.send(door.signed("HEAD", "/bucket/object") + door.signed("GET", "/bucket/object"))
        head, full = await wire.answer("HEAD"), await wire.answer()
    assert full.body == body
    varying = {"date", "x-amz-request-id"}
    assert {n: v for n, v in head.headers.items() if n not in varying} == {
        n: v for n, v in full.headers.items() if n not in varying
    }
    assert head.headers["content-length"] == str(len(body))
    assert head.headers["etag"] == etag_of(body) == put_answer.headers["etag"]
    assert head.headers["content-type"] == "text/x-test"
    assert head.headers["accept-ranges"] == "bytes"
    assert head.headers["server"] == "MeshHold"
    assert head.headers["x-amz-id-2"]


async def test_a_type_that_was_not_given(door: DoorUnderTest) -> None:
    await put(door)
    assert (await get(door)).headers["content-type"] == "binary/octet-stream"


@pytest.mark.parametrize("target", ["/bucket/none", "/nowhere/none", "/nowhere"])
async def test_a_refused_head_has_no_body(door: DoorUnderTest, target: str) -> None:
    async with door.connect() as wire:
        await wire.send(door.signed("HEAD", target))
        answer = await wire.answer("HEAD")
        assert answer.status == 404
        await door.check_health(wire, answer)  # any byte of a body would be read as the next answer


async def test_a_deletion_has_no_body(door: DoorUnderTest) -> None:
    async with door.connect() as wire:
        for _ in range(2):
            await wire.send(door.signed("DELETE", "/bucket/none"))
            answer = await wire.answer()
            assert (answer.status, "content-length" in answer.headers) == (204, False)
        await door.check_health(wire, answer)


async def test_the_stored_headers_come_back(door: DoorUnderTest) -> None:
    sent = {
        "Cache-Control": "max-age=60", "Content-Disposition": 'attachment; filename="a b.txt"',
        "Content-Encoding": "gzip", "Content-Language": "de, en", "Content-Type": "text/plain; charset=utf-8",
        "Expires": FUTURE,
    }  # fmt: skip
    await door.call("PUT", "/bucket/object", BODY, sent)
    found = (await get(door)).headers
    assert {name: found[name.lower()] for name in sent} == sent


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("aws-chunked", None), ("gzip,aws-chunked", "gzip"), ("aws-chunked, gzip", "gzip"), ("gzip", "gzip"),
     ("br, gzip", "br, gzip")],
)  # fmt: skip
async def test_the_transfer_encoding_of_a_signer_is_not_kept(door: DoorUnderTest, sent: str, kept: str | None) -> None:
    body = b"4\r\nbody\r\n0\r\n\r\n" if "aws-chunked" in sent else b"body"
    headers = {"Content-Encoding": sent, "x-amz-decoded-content-length": "4"}
    answer = await door.call("PUT", "/bucket/object", body, headers, payload="UNSIGNED-PAYLOAD")
    assert answer.status == 200, answer.body
    found = await get(door)
    assert (found.body, found.headers.get("content-encoding")) == (b"body", kept)


# -- metadata -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("plain", "plain"), ("", ""), ("  blanks around  ", "blanks around"), ("a  b", "a  b"),
        ("Grüße von hier", "=?UTF-8?Q?Gr=C3=BC=C3=9Fe_von_hier?="), ("=?UTF-8?B?w6Q=?=", "=?UTF-8?B?w6Q=?="),
        ("=?UTF-8?Q?plain?=", "plain"), ("=?UTF-8?Q?a=0D=0Ab?=", "=?UTF-8?Q?a=0D=0Ab?="),
        ('quotes " and , commas;', 'quotes " and , commas;'),
    ],
)  # fmt: skip
async def test_user_metadata_come_back_as_they_were(door: DoorUnderTest, sent: str, shown: str) -> None:
    assert (await door.call("PUT", "/bucket/object", BODY, {"x-amz-meta-thing": sent})).status == 200
    for method in ("GET", "HEAD"):
        found = (await get(door, method=method)).headers["x-amz-meta-thing"]
        assert found.encode("latin-1").decode() == shown


async def test_names_of_user_metadata_are_shown_in_lower_case(door: DoorUnderTest) -> None:
    await door.call("PUT", "/bucket/object", BODY, {"X-Amz-Meta-CamelCase": "Value"})
    assert (await get(door)).headers["x-amz-meta-camelcase"] == "Value"


async def test_a_name_given_twice_is_joined(door: DoorUnderTest) -> None:
    signed = door.sign("PUT", "/bucket/object", b"x", {"x-amz-meta-a": "1,2"})
    pairs = [(n, v) for n, v in signed.items() if n != "x-amz-meta-a"] + [("x-amz-meta-a", "1"), ("x-amz-meta-a", "2")]
    assert (await door.exchange(render("PUT", "/bucket/object", pairs, b"x"))).status == 200
    assert (await get(door)).headers["x-amz-meta-a"] == "1,2"


async def test_a_copy_takes_metadata_along_or_replaces_them(door: DoorUnderTest) -> None:
    await put(door, Content_Type="text/plain", x_amz_meta_a="1")
    source = {"x-amz-copy-source": "/bucket/object"}
    copied = await door.call("PUT", "/bucket/copy", b"", source)
    assert copied.tag("ETag") == f"&quot;{etag_of(BODY)[1:-1]}&quot;"
    found = await door.call("GET", "/bucket/copy")
    assert (found.body, found.headers["content-type"], found.headers["x-amz-meta-a"]) == (BODY, "text/plain", "1")
    replaced = source | {"x-amz-metadata-directive": "REPLACE", "x-amz-meta-b": "2"}
    assert (await door.call("PUT", "/bucket/object", b"", replaced)).status == 200
    found = await get(door)
    assert (found.body, found.headers["x-amz-meta-b"]) == (BODY, "2")
    assert "x-amz-meta-a" not in found.headers


# -- ranges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0), ("bytes=0-99", 0, 99), ("bytes=100-", 100, 102_399), ("bytes=-1", 102_399, 102_399),
        ("bytes=-500", 101_900, 102_399), ("bytes=-999999", 0, 102_399), ("bytes=102399-", 102_399, 102_399),
        ("bytes=5-999999999999999999999", 5, 102_399), ("Bytes=1-2", 1, 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_range(door: DoorUnderTest, method: str, header: str, first: int, last: int) -> None:
    await put(door)
    answer = await get(door, method=method, Range=header)
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(BODY)}"
    assert answer.headers["content-length"] == str(last - first + 1)
    assert answer.headers["etag"] == etag_of(BODY)
    assert answer.body == (BODY[first : last + 1] if method == "GET" else b"")


@pytest.mark.parametrize("header", ["bytes=102400-", "bytes=102400-102500", "bytes=-0", "bytes=999999999999999999999-"])
async def test_a_range_beyond_the_end(door: DoorUnderTest, header: str) -> None:
    await put(door)
    answer = await get(door, Range=header)
    assert (answer.status, answer.code) == (416, "InvalidRange")
    assert answer.headers["content-range"] == f"bytes */{len(BODY)}"
    assert (await get(door, method="HEAD", Range=header)).status == 416


@pytest.mark.parametrize(
    "header", ["bytes=5-2", "bytes=a-b", "bytes=", "lines=1-2", "0-5", "bytes=0-1,4-5", "bytes=--5"]
)
async def test_what_is_no_single_range_gets_the_whole(door: DoorUnderTest, header: str) -> None:
    await put(door)
    answer = await get(door, Range=header)
    assert (answer.status, answer.body) == (200, BODY)


@pytest.mark.parametrize(("header", "status"), [("bytes=0-", 416), ("bytes=-5", 200), ("bytes=0-0", 416)])
async def test_a_range_of_nothing(door: DoorUnderTest, header: str, status: int) -> None:
    await put(door, b"")
    assert (await get(door, Range=header)).status == status


# -- conditions -----------------------------------------------------------------------------------------------------

TAG: Final = etag_of(BODY)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"If_Match": TAG}), (200, {"If_Match": "*"}), (200, {"If_Match": f'"no", {TAG}'}),
        (412, {"If_Match": '"no"'}), (412, {"If_Match": f"W/{TAG}"}),
        (304, {"If_None_Match": TAG}), (304, {"If_None_Match": "*"}), (304, {"If_None_Match": f"W/{TAG}"}),
        (200, {"If_None_Match": '"no"'}),
        (304, {"If_Modified_Since": FUTURE}), (200, {"If_Modified_Since": OLD}), (200, {"If_Modified_Since": "soon"}),
        (412, {"If_Unmodified_Since": OLD}), (200, {"If_Unmodified_Since": FUTURE}),
        (200, {"If_Match": TAG, "If_Unmodified_Since": OLD}),
        (304, {"If_None_Match": TAG, "If_Modified_Since": OLD}),
        (200, {"If_None_Match": '"no"', "If_Modified_Since": FUTURE}),
        (412, {"If_Match": '"no"', "If_None_Match": TAG}), (304, {"If_Match": TAG, "If_None_Match": TAG}),
        (412, {"If_Match": '"no"', "Range": "bytes=999999-"}), (304, {"If_None_Match": TAG, "Range": "bytes=999999-"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_conditions_of_a_read(door: DoorUnderTest, method: str, status: int, headers: dict[str, str]) -> None:
    await put(door)
    async with door.connect() as wire:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await wire.send(door.signed(method, "/bucket/object", b"", named))
        answer = await wire.answer(method)
        assert answer.status == status
        if status == 304:
            assert answer.headers["etag"] == TAG
            assert "last-modified" in answer.headers
        if status == 412 and method == "GET":
            assert answer.code == "PreconditionFailed"
        await door.check_health(wire, answer)


@pytest.mark.parametrize(
    ("status", "code", "key", "headers"),
    [
        (200, "", "new", {"If-None-Match": "*"}), (412, "PreconditionFailed", "object", {"If-None-Match": "*"}),
        (200, "", "object", {"If-Match": TAG}), (412, "PreconditionFailed", "object", {"If-Match": '"no"'}),
        (404, "NoSuchKey", "new", {"If-Match": TAG}), (200, "", "object", {"If-Match": TAG[1:-1]}),
    ],
)  # fmt: skip
async def test_conditions_of_a_write(
    door: DoorUnderTest, status: int, code: str, key: str, headers: dict[str, str]
) -> None:
    await put(door)
    answer = await door.call("PUT", f"/bucket/{key}", b"changed", headers)
    assert (answer.status, answer.code) == (status, code)
    expected = b"changed" if status == 200 and key == "object" else BODY
    assert (await get(door)).body == expected


# -- overrides ------------------------------------------------------------------------------------------------------

OVERRIDES: Final = {
    "content-type": "text/html", "content-language": "fr", "expires": FUTURE, "cache-control": "no-store",
    "content-disposition": 'attachment; filename="grün.txt"', "content-encoding": "identity",
}  # fmt: skip


@pytest.mark.parametrize("name", OVERRIDES)
async def test_the_reader_may_override_a_header(door: DoorUnderTest, name: str) -> None:
    await put(door, Content_Type="text/plain")
    answer = await get(door, f"?response-{name}={quote(OVERRIDES[name])}")
    assert answer.status == 200
    assert answer.headers[name].encode("latin-1").decode() == OVERRIDES[name]
    assert answer.body == BODY


async def test_an_override_cannot_add_a_header(door: DoorUnderTest) -> None:
    await put(door)
    answer = await get(door, "?response-content-type=a%0D%0Ax-evil%3A%201")
    assert (answer.status, answer.code) == (400, "InvalidArgument")


# -- who may what ---------------------------------------------------------------------------------------------------


def unsigned(door: DoorUnderTest, method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    return render(method, target, {"Host": door.signer.host, "Content-Length": str(len(body)), **headers}, body)


async def test_without_a_grant_nobody_unsigned_gets_anything(door: DoorUnderTest) -> None:
    for method, target in (("GET", "/bucket/kept"), ("GET", "/bucket/none"), ("GET", "/bucket"), ("GET", "/")):
        await door.check_refused(unsigned(door, method, target), 403, "AccessDenied")


async def test_an_anonymous_grant_is_for_reading_objects(door: DoorUnderTest) -> None:
    await door.grant(ANONYMOUS, Permission.READ)
    assert (await door.exchange(unsigned(door, "GET", "/bucket/kept"))).body == KEPT
    head = await door.exchange(unsigned(door, "HEAD", "/bucket/kept"), "HEAD")
    assert (head.status, head.headers["content-length"]) == (200, str(len(KEPT)))
    part = await door.exchange(unsigned(door, "GET", "/bucket/kept", Range="bytes=0-3"))
    assert (part.status, part.body) == (206, KEPT[:4])


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/bucket/none"), ("GET", "/bucket"), ("GET", "/bucket?list-type=2"), ("GET", "/bucket?versions"),
        ("GET", "/bucket?uploads"), ("GET", "/bucket?location"), ("GET", "/"), ("PUT", "/bucket/kept"),
        ("PUT", "/bucket/new"), ("DELETE", "/bucket/kept"), ("POST", "/bucket/kept?uploads"), ("PUT", "/another"),
        ("DELETE", "/bucket"), ("POST", "/bucket?delete"),
    ],
)  # fmt: skip
async def test_an_anonymous_grant_is_for_nothing_else(door: DoorUnderTest, method: str, target: str) -> None:
    await door.grant(ANONYMOUS, Permission.READ)
    await door.check_refused(unsigned(door, method, target, b"x" if method == "PUT" else b""), 403, "AccessDenied")


async def test_an_anonymous_grant_with_listing(door: DoorUnderTest) -> None:
    await door.grant(ANONYMOUS, Permission.READ, allow_list=True)
    assert (await door.exchange(unsigned(door, "GET", "/bucket?list-type=2"))).tags("Key") == ["kept"]
    answer = await door.exchange(unsigned(door, "GET", "/bucket/none"))
    assert (answer.status, answer.code) == (404, "NoSuchKey")


async def test_overrides_need_a_signature(door: DoorUnderTest) -> None:
    await door.grant(ANONYMOUS, Permission.READ)
    raw = unsigned(door, "GET", "/bucket/kept?response-content-type=text%2Fhtml")
    await door.check_refused(raw, 400, "InvalidRequest")


@pytest.mark.parametrize(
    ("permissions", "read", "write"),
    [(Permission.READ, True, False), (Permission.WRITE, False, True), (Permission.READ | Permission.WRITE, True, True)],
)
async def test_a_key_may_what_its_grant_says(
    door: DoorUnderTest, permissions: Permission, read: bool, write: bool
) -> None:
    key = await door.node.access.add_key("other")
    other = door.as_other(key.access_key_id, key.secret_access_key)
    assert (await other.call("GET", "/bucket/kept")).code == "AccessDenied"
    await door.grant(key.access_key_id, permissions)
    expected: dict[tuple[str, str, bytes], Any] = {
        ("GET", "/bucket/kept", b""): read, ("GET", "/bucket?list-type=2", b""): read,
        ("PUT", "/bucket/new", b"x"): write, ("DELETE", "/bucket/new", b""): write,
        ("PUT", "/own-bucket", b""): False, ("DELETE", "/bucket", b""): False,
    }  # fmt: skip
    for (method, target, body), allowed in expected.items():
        answer = await other.call(method, target, body)
        assert answer.status in (200, 204) if allowed else (answer.status, answer.code) == (403, "AccessDenied")


async def test_a_revoked_key_is_refused_at_once(door: DoorUnderTest) -> None:
    async with door.connect() as wire:
        await wire.send(door.signed("GET", "/bucket/kept"))
        assert (await wire.answer()).status == 200
        await door.node.access.remove_key(door.signer.key_id)
        await wire.send(door.signed("GET", "/bucket/kept"))
        assert (await wire.answer()).code == "InvalidAccessKeyId"


async def test_a_bucket_from_its_making_to_its_end(door: DoorUnderTest) -> None:
    made = await door.call("PUT", "/second-bucket")
    assert (made.status, made.headers["location"]) == (200, "/second-bucket")
    assert (await door.call("GET", "/")).tags("Name") == ["bucket", "second-bucket"]
    assert (await door.call("HEAD", "/second-bucket")).headers["x-amz-bucket-region"] == "meshhold"
    assert (await door.call("GET", "/second-bucket?location")).text.endswith(">meshhold</LocationConstraint>")
    assert (await door.call("DELETE", "/second-bucket")).status == 204
    assert (await door.call("HEAD", "/second-bucket")).status == 404
