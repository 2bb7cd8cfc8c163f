"""Keys are bytes: whatever S3 can name goes through PUT, GET, HEAD, COPY, LIST, multipart and DELETE unchanged."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_plus
from xml.sax.saxutils import escape

import pytest
from tests.door import DoorUnderTest, open_door

KEYS: Final = [
    "/", "//", "a//b", "//a", "a/", "a//", ".", "..", "./a", "../../etc/passwd", "a/../b", "a/./b", "/etc/passwd",
    "%2F", "a%2Fb", "%", "%%", "%25", "100%", "+", "a+b", "a b", " ", "  a  ", "a?b", "a#b", "a&b=c", "?", "&amp;",
    "<x>", "\"quoted\" 'twice'", "a;b,c:d@e", "a\\b", "*", "~", "`$(){}[]|^", "ä", "a\u0308", "日本語/キー",
    "🎈/\U0001f469\u200d\U0001f467", "\u200b", "\ufeff", "\u202etxt.exe", "tab\there", "line\nbreak", "cr\rhere",
    "\x01\x1f", "\x7f", "\x85", "\u2028", "\ufffe", "\U0010ffff", "a" * 1024, "€" * 341 + "a", "/" * 1024, "kept/",
    "kept/kept", "index.db", "con", "NUL", ".hidden", "a" * 300 + "/b",
]  # fmt: skip
IDS: Final = [ascii(key)[1:-1][:24] for key in KEYS]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        yield opened


def target(key: str, query: str = "") -> str:
    return f"/bucket/{quote(key.encode(), safe='')}{query}"


@pytest.mark.parametrize("key", KEYS, ids=IDS)
async def test_a_key_comes_back_as_it_went(door: DoorUnderTest, key: str) -> None:
    body = key.encode()
    async with door.connect() as wire:

        async def call(method: str, path: str, data: bytes = b"", **headers: str) -> tuple[int, bytes, str]:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            await wire.send(door.signed(method, path, data, named))
            answer = await wire.answer(method)
            return answer.status, answer.body, answer.text if method != "HEAD" else ""

        assert (await call("PUT", target(key), body))[0] == 200
        assert (await call("GET", target(key)))[:2] == (200, body)
        assert (await call("HEAD", target(key)))[0] == 200
        # slashes may also come as they are
        assert (await call("GET", f"/bucket/{quote(body, safe='/~')}"))[:2] == (200, body)
        await check_listed(door, key)
        assert (await call("PUT", "/bucket/copy", x_amz_copy_source=target(key)))[0] == 200
        assert (await call("DELETE", target(key)))[0] == 204
        assert (await call("PUT", target(key), x_amz_copy_source="/bucket/copy"))[0] == 200
        assert (await call("GET", target(key)))[:2] == (200, body)
        assert (await call("DELETE", "/bucket/copy"))[0] == 204
        await check_multipart(door, key)
        await check_deleted_in_bulk(door, key)
    assert await door.stored() == ["kept"]


async def check_listed(door: DoorUnderTest, key: str) -> None:
    for query in ("list-type=2", "", "versions"):
        encoded = await door.call("GET", f"/bucket?encoding-type=url&{query}")
        assert [unquote_plus(each) for each in encoded.tags("Key")] == sorted(["kept", key], key=str.encode)
        assert encoded.tag("EncodingType") == "url"
        plain = await door.call("GET", f"/bucket?{query}")
        if all(is_xml(character) for character in key):
            assert [unescape(each) for each in plain.tags("Key")] == sorted(["kept", key], key=str.encode)
    found = await door.call("GET", f"/bucket?list-type=2&encoding-type=url&prefix={quote(key, safe='')}")
    assert key in [unquote_plus(each) for each in found.tags("Key")]
    after = await door.call("GET", f"/bucket?list-type=2&encoding-type=url&start-after={quote(key, safe='')}")
    assert key not in [unquote_plus(each) for each in after.tags("Key")]


def is_xml(character: str) -> bool:
    """Tell whether XML 1.0 can hold a character and Python's reader of entities gives it back."""
    return character >= " " and character not in "\x7f\x85\ufffe\uffff"


async def check_multipart(door: DoorUnderTest, key: str) -> None:
    begun = await door.call("POST", target(key, "?uploads"))
    upload = begun.tag("UploadId")
    listed = await door.call("GET", "/bucket?uploads&encoding-type=url")
    assert [unquote_plus(each) for each in listed.tags("Key")] == [key]
    part = await door.call("PUT", target(key, f"?partNumber=1&uploadId={upload}"), b"in parts")
    document = (
        f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{escape(part.headers['etag'])}</ETag></Part>"
        "</CompleteMultipartUpload>"
    )
    assert (await door.call("POST", target(key, f"?uploadId={upload}"), document.encode())).status == 200
    assert (await door.call("GET", target(key))).body == b"in parts"


async def check_deleted_in_bulk(door: DoorUnderTest, key: str) -> None:
    """Delete by document where XML 1.0 can name the key at all, else by its own request."""
    if not all(is_xml(character) or character in "\t\n\r\x7f\x85" for character in key):
        assert (await door.call("DELETE", target(key))).status == 204
        return
    text = escape(key, {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"})
    document = f"<Delete><Object><Key>{text}</Key></Object></Delete>".encode()
    md5 = b64encode(hashlib.md5(document).digest()).decode()  # noqa: S324 - Content-MD5 is what it is
    answer = await door.call("POST", "/bucket?delete", document, {"Content-MD5": md5})
    assert answer.status == 200
    assert len(answer.tags("Deleted")) == 1
    assert answer.tags("Error") == []


def files_in(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


async def test_no_key_is_a_path(door: DoorUnderTest, tmp_path: Path) -> None:
    before = files_in(tmp_path)
    body = bytes(20_000)  # a chunk on disk
    for key in ("../../outside", "..", ".", "index.db", "chunks/x", "/absolute"):
        assert (await door.call("PUT", target(key), body)).status == 200
    assert files_in(tmp_path) - before
    assert all(path.parts[0] == "chunks" for path in files_in(tmp_path) - before)


async def test_a_control_character_is_listed_as_a_reference(door: DoorUnderTest) -> None:
    assert (await door.call("PUT", "/bucket/%01%0D%1F", b"x")).status == 200
    assert (await door.call("GET", "/bucket?list-type=2")).tags("Key") == ["&#x1;&#13;&#x1F;", "kept"]


async def test_keys_are_listed_in_the_order_of_their_bytes(door: DoorUnderTest) -> None:
    keys = ["a", "a!", "a/", "a/b", "a0", "B", "ä", "z", "\uffee", "🎈"]
    for key in keys:
        assert (await door.call("PUT", target(key), b"x")).status == 200
    expected = sorted([*keys, "kept"], key=str.encode)
    found: list[str] = []
    token = ""
    while True:
        page = await door.call("GET", f"/bucket?list-type=2&max-keys=3{token}")
        found += page.tags("Key")
        if page.tag("IsTruncated") == "false":
            break
        assert page.tag("KeyCount") == "3"
        token = f"&continuation-token={quote(page.tag('NextContinuationToken'), safe='')}"
    assert found == expected


@pytest.mark.parametrize("version", ["list-type=2&", ""])
async def test_common_prefixes_count_as_keys(door: DoorUnderTest, version: str) -> None:
    for key in ("a/1", "a/2", "b", "c/1", "c/d/1", "e"):
        assert (await door.call("PUT", target(key), b"x")).status == 200
    page = await door.call("GET", f"/bucket?{version}delimiter=%2F&max-keys=2")
    assert (page.tags("Key"), page.tags("CommonPrefixes")) == (["b"], ["<Prefix>a/</Prefix>"])
    assert page.tag("IsTruncated") == "true"
    if version:
        next_page = f"continuation-token={quote(page.tag('NextContinuationToken'), safe='')}"
    else:
        assert page.tag("NextMarker") == "b"
        next_page = "marker=b"
    page = await door.call("GET", f"/bucket?{version}delimiter=%2F&{next_page}")
    assert (page.tags("Key"), page.tags("CommonPrefixes")) == (["e", "kept"], ["<Prefix>c/</Prefix>"])
    page = await door.call("GET", f"/bucket?{version}delimiter=%2F&prefix=c%2F")
    assert (page.tags("Key"), page.tags("CommonPrefixes")) == (["c/1"], ["<Prefix>c/d/</Prefix>"])
