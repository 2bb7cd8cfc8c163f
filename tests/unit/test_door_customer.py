"""Content under a client's own key (SSE-C): through the door, by parts and ranges, copied, hidden from the vault."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from tests.door import Answer, DoorUnderTest, open_door
from tests.unit.test_door_writes import PART, completion

from meshhold.crypto.customer import Keystream, proof_of
from meshhold.model.entry import ObjectVersion, Space
from meshhold.sealing.content import open_content

KEY: Final = bytes(range(32))
OTHER: Final = bytes(range(32, 64))
NAME: Final = "x-amz-server-side-encryption-customer-"
CANARY: Final = b"a plain word that nobody else may see; "


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path, put_size_max=6 * 2**20) as opened:
        yield opened


def under(key: bytes, prefix: str = NAME) -> dict[str, str]:
    md5 = hashlib.md5(key, usedforsecurity=False).digest()
    values = {"algorithm": "AES256", "key": b64encode(key).decode(), "key-MD5": b64encode(md5).decode()}
    return {prefix + name: value for name, value in values.items()}


SOURCE: Final = "x-amz-copy-source-server-side-encryption-customer-"


async def get(door: DoorUnderTest, key: str, own: bytes | None = KEY, **more: str) -> Answer:
    return await door.call("GET", f"/bucket/{key}", b"", (under(own) if own else {}) | more)


async def kept(door: DoorUnderTest, key: str) -> bytes:
    """Return what who holds the vault's secret can open of an object."""
    bucket = door.node.vaults.bucket("bucket")
    entry = await door.node.door.objects._registers.read(bucket.id, Space.OBJECTS, key.encode())
    assert entry is not None
    assert isinstance(entry.value, ObjectVersion)
    pieces: list[bytes] = []

    async def sink(piece: bytes) -> None:
        pieces.append(piece)

    await door.node.door.objects.send(bucket, key.encode(), entry.value, 0, entry.value.size, sink)
    assert open_content(bucket.keys, key.encode(), entry.value.content)
    return b"".join(pieces)


# -- the key stream -----------------------------------------------------------------------------------------------


def test_a_key_stream_opens_at_any_offset() -> None:
    stream, body = Keystream(KEY, b"salt"), bytes(1000)
    hidden = stream.apply(0, body)
    for start in (0, 1, 15, 16, 17, 500, 999):
        assert stream.apply(start, hidden[start : start + 33]) == body[start : start + 33]
    assert Keystream(KEY, b"other").apply(0, body) != hidden
    assert Keystream(OTHER, b"salt").apply(0, body) != hidden


def test_a_proof_is_no_part_of_the_key_stream() -> None:
    assert proof_of(KEY, b"salt") not in Keystream(KEY, b"salt").apply(0, bytes(4096))
    assert proof_of(KEY, b"salt") != proof_of(OTHER, b"salt")


# -- through the door -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, 2 * 2**20 + 5])
async def test_what_goes_in_under_a_key_comes_out_under_it(door: DoorUnderTest, size: int) -> None:
    body = (CANARY * (size // len(CANARY) + 1))[:size]
    put = await door.call("PUT", "/bucket/own", body, under(KEY))
    assert put.status == 200, put.body
    assert put.headers[f"{NAME}algorithm"] == "AES256"
    assert "x-amz-server-side-encryption" not in put.headers
    got = await get(door, "own")
    assert (got.status, got.body, got.headers["content-length"]) == (200, body, str(size))
    if size > 1:
        hidden = await kept(door, "own")
        assert len(hidden) == size
        assert CANARY[:16] not in hidden
        assert put.headers["etag"] != f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


async def test_ranges_seek(door: DoorUnderTest) -> None:
    body = bytes(range(256)) * 9000
    assert (await door.call("PUT", "/bucket/own", body, under(KEY))).status == 200
    for first, last in ((0, 0), (15, 16), (2**20 - 1, 2**20), (2**20 + 7, 2**20 + 30), (len(body) - 3, len(body) - 1)):
        got = await get(door, "own", range=f"bytes={first}-{last}")
        assert (got.status, got.body) == (206, body[first : last + 1])


async def test_without_the_right_key_there_is_nothing(door: DoorUnderTest) -> None:
    await door.call("PUT", "/bucket/own", CANARY, under(KEY))
    for own in (None, OTHER):
        for method in ("GET", "HEAD"):
            answer = await door.call(method, "/bucket/own", b"", under(own) if own else {})
            assert answer.status == 400
            assert CANARY not in answer.body
        assert (await get(door, "own", own)).code == "InvalidRequest"
    assert (await get(door, "kept", KEY)).code == "InvalidRequest"  # nor does a key open what has none
    assert (await get(door, "own")).body == CANARY


@pytest.mark.parametrize(
    "headers",
    [
        {f"{NAME}algorithm": "AES256"},
        {k: v for k, v in under(KEY).items() if "algorithm" not in k},
        {k: v for k, v in under(KEY).items() if "MD5" not in k},
        under(KEY) | {f"{NAME}key-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="},
        under(KEY) | {f"{NAME}algorithm": "AES128"},
        under(KEY[:16]),
        under(KEY) | {f"{NAME}key": "not base64"},
        under(KEY) | {"x-amz-server-side-encryption": "AES256"},
    ],
)
async def test_half_a_key_is_refused(door: DoorUnderTest, headers: dict[str, str]) -> None:
    answer = await door.call("PUT", "/bucket/own", CANARY, headers)
    assert (answer.status, answer.code in ("InvalidArgument", "InvalidRequest")) == (400, True)
    assert (await door.call("GET", "/bucket/own")).status == 404


async def test_parts_have_key_streams_of_their_own(door: DoorUnderTest) -> None:
    begun = await door.call("POST", "/bucket/multi?uploads", b"", under(KEY))
    upload = begun.tag("UploadId")
    assert begun.headers[f"{NAME}algorithm"] == "AES256"
    target = f"/bucket/multi?uploadId={upload}&partNumber="
    for wrong in ({}, under(OTHER)):
        assert (await door.call("PUT", f"{target}1", PART, wrong)).code == "InvalidRequest"
    etags = {}
    for number, body in ((1, PART), (2, PART), (3, CANARY)):
        answer = await door.call("PUT", f"{target}{number}", body, under(KEY))
        assert answer.status == 200, answer.body
        etags[number] = answer.headers["etag"]
    again = await door.call("PUT", f"{target}2", PART, under(KEY))
    assert again.headers["etag"] == etags[2]  # sent again, it is the same part
    for wrong in ({}, under(OTHER)):
        refused = await door.call("POST", f"/bucket/multi?uploadId={upload}", completion(etags), wrong)
        assert refused.code == "InvalidRequest"
    done = await door.call("POST", f"/bucket/multi?uploadId={upload}", completion(etags), under(KEY))
    assert done.status == 200, done.body
    whole = PART + PART + CANARY
    assert (await get(door, "multi")).body == whole
    edge = len(PART)
    for first, last in ((edge - 3, edge + 3), (2 * edge - 1, 2 * edge + 5), (0, 9)):
        assert (await get(door, "multi", range=f"bytes={first}-{last}")).body == whole[first : last + 1]
    part = await door.call("GET", "/bucket/multi?partNumber=3", b"", under(KEY))
    assert (part.status, part.body) == (206, CANARY)
    hidden = await kept(door, "multi")
    assert CANARY not in hidden
    assert hidden[: len(PART)] != hidden[len(PART) : 2 * len(PART)]  # the same bytes, each part under its own salt


@pytest.mark.parametrize("size", [100, 2**20 + 9])
@pytest.mark.parametrize(
    ("before", "after"),
    [(KEY, None), (None, KEY), (KEY, KEY), (KEY, OTHER)],
    ids=["shown", "hidden", "hidden anew", "under another"],
)
async def test_copies_change_the_key(door: DoorUnderTest, before: bytes | None, after: bytes | None, size: int) -> None:
    body = (CANARY * (size // len(CANARY) + 1))[:size]
    own = under(before) if before else {}
    assert (await door.call("PUT", "/bucket/source", body, own)).status == 200
    headers = {"x-amz-copy-source": "/bucket/source"} | (under(before, SOURCE) if before else {})
    headers |= under(after) if after else {}
    copied = await door.call("PUT", "/bucket/copy", b"", headers)
    assert copied.status == 200, copied.body
    assert (await get(door, "copy", after)).body == body
    assert (CANARY in await kept(door, "copy")) == (after is None)
    begun = await door.call("POST", "/bucket/parts?uploads", b"", under(after) if after else {})
    upload = begun.tag("UploadId")
    target = f"/bucket/parts?uploadId={upload}"
    part = await door.call("PUT", f"{target}&partNumber=1", b"", headers | {"x-amz-copy-source-range": "bytes=7-98"})
    assert part.status == 200, part.body
    assert (
        await door.call("POST", target, completion({1: part.tag("ETag")}), under(after) if after else {})
    ).status == 200
    assert (await get(door, "parts", after)).body == body[7:99]


async def test_a_source_needs_its_key(door: DoorUnderTest) -> None:
    await door.call("PUT", "/bucket/source", CANARY, under(KEY))
    for headers in ({}, under(OTHER, SOURCE), under(KEY)):
        answer = await door.call("PUT", "/bucket/copy", b"", {"x-amz-copy-source": "/bucket/source"} | headers)
        assert answer.code == "InvalidRequest", answer.body
    assert (await door.call("GET", "/bucket/copy")).status == 404


async def test_nothing_is_told_of_hidden_content_that_the_client_did_not_tell(door: DoorUnderTest) -> None:
    """A checksum that nobody asked for would let the vault's members confirm a guess."""
    asking = under(KEY) | {"x-amz-checksum-mode": "ENABLED"}
    await door.call("PUT", "/bucket/own", CANARY, under(KEY))
    await door.call("PUT", "/bucket/plain", CANARY)
    await door.call("PUT", "/bucket/copy", b"", {"x-amz-copy-source": "/bucket/plain"} | under(KEY))
    upload = (await door.call("POST", "/bucket/multi?uploads", b"", under(KEY))).tag("UploadId")
    target = f"/bucket/multi?uploadId={upload}"
    part = await door.call("PUT", f"{target}&partNumber=1", CANARY, under(KEY))
    second = await door.call("PUT", f"{target}&partNumber=2", b"", {"x-amz-copy-source": "/bucket/plain"} | under(KEY))
    assert "x-amz-checksum-crc64nvme" not in part.headers
    assert second.status == 200
    assert "ChecksumCRC64NVME" not in second.text
    etags = {1: part.headers["etag"]}
    assert (await door.call("POST", target, completion(etags), under(KEY))).status == 200
    for key in ("own", "copy", "multi"):
        answer = await door.call("HEAD", f"/bucket/{key}", b"", asking)
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("x-amz-checksum")]


async def test_an_object_is_put_under_a_key_in_place(door: DoorUnderTest) -> None:
    """To change how it is encrypted is a change: a copy to itself may do that alone."""
    await door.call("PUT", "/bucket/own", CANARY)
    copied = await door.call("PUT", "/bucket/own", b"", {"x-amz-copy-source": "/bucket/own"} | under(KEY))
    assert copied.status == 200, copied.body
    assert (await get(door, "own")).body == CANARY
    assert CANARY not in await kept(door, "own")


async def test_no_key_is_kept_or_logged(door: DoorUnderTest, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    await door.call("PUT", "/bucket/own", CANARY * 1000, under(KEY))
    await get(door, "own")
    assert b64encode(KEY).decode() not in caplog.text
    for path in tmp_path.rglob("*"):  # noqa: ASYNC240 -- nothing else runs here
        if path.is_file():
            raw = path.read_bytes()
            assert KEY not in raw
            assert b64encode(KEY) not in raw
            assert CANARY not in raw
