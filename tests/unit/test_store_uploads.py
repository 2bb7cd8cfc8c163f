"""Multipart uploads: parts, completion and its refusals, repetition, abortion, listings, what a crash leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.unit.store_kit import MIB, BytesBody, StoreKit, open_kit

from meshhold.errors import (
    InvalidError,
    InvalidPartError,
    NoSuchObjectError,
    NoSuchUploadError,
    PartOrderError,
    PartTooSmallError,
    PreconditionFailedError,
)
from meshhold.model.entry import Space, Upload
from meshhold.replication.index.registers import Write
from meshhold.store.contract import WriteCondition
from meshhold.store.directory import Bucket
from meshhold.store.uploads import PartClaim

FULL = b"p" * (5 * MIB)
HOUR_S = 3600


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as opened:
        yield opened


@pytest.fixture
async def bucket(kit: StoreKit) -> Bucket:
    return await kit.bucket()


async def numbers(kit: StoreKit, bucket: Bucket, upload_id: str, after: int = 0, limit: int = 1000) -> list[int]:
    return [row.number for row in await kit.uploads.parts(bucket, upload_id, after, limit)]


async def live_rows(kit: StoreKit, bucket: Bucket, space: Space) -> int:
    rows = await kit.registers.scan(bucket.id, space, b"", b"", 10_000)
    return sum(entry.value is not None for _, entry in rows)


async def test_parts_become_the_object(kit: StoreKit, bucket: Bucket) -> None:
    """The object is the parts in the order of their numbers, whatever the order they came in."""
    upload_id = await kit.uploads.begin(bucket, b"k", Upload(1, "me", {"content-type": "x/y"}, {"a": "b"}))
    claims = {}
    for number, content in ((7, b"tail"), (2, FULL), (1, b"first" + FULL)):
        part = await kit.uploads.put_part(bucket, b"k", upload_id, number, BytesBody(content))
        claims[number] = PartClaim(number, part.etag)
    done = await kit.complete(bucket, b"k", upload_id, [claims[1], claims[2], claims[7]])
    assert await kit.get(bucket, b"k") == b"first" + FULL + FULL + b"tail"
    assert (done.version.headers, done.version.user) == ({"content-type": "x/y"}, {"a": "b"})
    assert done.etag.endswith("-3")
    assert await live_rows(kit, bucket, Space.UPLOADS) == await live_rows(kit, bucket, Space.PARTS) == 0
    assert await kit.damaged() == 0


async def test_a_chosen_subset_and_a_replaced_part(kit: StoreKit, bucket: Bucket) -> None:
    upload_id, claims = await kit.upload(bucket, b"k", FULL, b"dropped", b"kept")
    replaced = await kit.uploads.put_part(bucket, b"k", upload_id, 3, BytesBody(b"newer"))
    with pytest.raises(InvalidPartError):
        await kit.complete(bucket, b"k", upload_id, [claims[0], claims[2]])
    await kit.complete(bucket, b"k", upload_id, [claims[0], PartClaim(3, replaced.etag)])
    assert await kit.get(bucket, b"k") == FULL + b"newer"


async def test_completions_that_are_refused_leave_the_upload(kit: StoreKit, bucket: Bucket) -> None:
    upload_id, claims = await kit.upload(bucket, b"k", b"small", FULL)
    refusals = [
        ([claims[1], claims[0]], PartOrderError),
        ([claims[0], claims[0]], PartOrderError),
        ([claims[0], claims[1]], PartTooSmallError),
        ([claims[1], PartClaim(3, "none")], InvalidPartError),
        ([PartClaim(2, "other")], InvalidPartError),
    ]
    for asked, error in refusals:
        with pytest.raises(error):
            await kit.complete(bucket, b"k", upload_id, asked)
    with pytest.raises(NoSuchObjectError):
        await kit.complete(bucket, b"k", upload_id, [claims[1]], WriteCondition(if_match=("x",)))
    await kit.put(bucket, b"k", b"there")
    with pytest.raises(PreconditionFailedError):
        await kit.complete(bucket, b"k", upload_id, [claims[1]], WriteCondition(if_absent=True))
    assert await kit.get(bucket, b"k") == b"there"
    assert await numbers(kit, bucket, upload_id) == [1, 2]
    await kit.complete(bucket, b"k", upload_id, [claims[1]])
    assert await kit.get(bucket, b"k") == FULL


async def test_a_repeated_completion_answers_the_same(kit: StoreKit, bucket: Bucket) -> None:
    """A client whose answer was lost asks again; once the object is another one, it is told so."""
    upload_id, claims = await kit.upload(bucket, b"k", FULL, b"tail")
    first = await kit.complete(bucket, b"k", upload_id, claims)
    assert (await kit.complete(bucket, b"k", upload_id, claims)).etag == first.etag
    with pytest.raises(NoSuchUploadError):
        await kit.complete(bucket, b"k", upload_id, claims[:1])
    await kit.put(bucket, b"k", b"another")
    with pytest.raises(NoSuchUploadError):
        await kit.complete(bucket, b"k", upload_id, claims)


@pytest.mark.parametrize("upload_id", ["", "x", "00", "zz" * 16, "00" * 16, "00" * 17])
async def test_unknown_uploads(kit: StoreKit, bucket: Bucket, upload_id: str) -> None:
    with pytest.raises(NoSuchUploadError):
        await kit.uploads.put_part(bucket, b"k", upload_id, 1, BytesBody(b""))
    with pytest.raises(NoSuchUploadError):
        await kit.uploads.abort(bucket, b"k", upload_id)
    with pytest.raises(NoSuchUploadError):
        await kit.complete(bucket, b"k", upload_id, [PartClaim(1, "x")])


async def test_an_upload_belongs_to_its_key(kit: StoreKit, bucket: Bucket) -> None:
    upload_id, _ = await kit.upload(bucket, b"k", b"x")
    with pytest.raises(NoSuchUploadError):
        await kit.uploads.put_part(bucket, b"other", upload_id, 1, BytesBody(b""))


@pytest.mark.parametrize("number", [0, -1, 10_001])
async def test_part_numbers(kit: StoreKit, bucket: Bucket, number: int) -> None:
    upload_id, _ = await kit.upload(bucket, b"k")
    with pytest.raises(InvalidError):
        await kit.uploads.put_part(bucket, b"k", upload_id, number, BytesBody(b""))


async def test_a_part_that_an_abortion_overtakes_is_not_left(kit: StoreKit, bucket: Bucket) -> None:
    upload_id, _ = await kit.upload(bucket, b"k", b"one")

    async def abort(piece: int) -> None:
        if piece == 1:
            await kit.uploads.abort(bucket, b"k", upload_id)

    with pytest.raises(NoSuchUploadError):
        await kit.uploads.put_part(bucket, b"k", upload_id, 2, BytesBody(b"two", before=abort))
    assert await live_rows(kit, bucket, Space.PARTS) == 0


async def test_part_copies(kit: StoreKit, bucket: Bucket) -> None:
    source = await kit.put(bucket, b"from", FULL + b"tail")
    upload_id, _ = await kit.upload(bucket, b"k")
    digest = BytesBody(b"")
    start, stop = 100, 5 * MIB + 2
    async with kit.objects.open_range(bucket, b"from", source, start, stop, digest.digest) as body:
        part = await kit.uploads.copy_part(bucket, b"k", upload_id, 1, body, digest.finish)
    await kit.complete(bucket, b"k", upload_id, [PartClaim(1, part.etag)])
    assert await kit.get(bucket, b"k") == (FULL + b"tail")[start:stop]


async def test_part_pages(kit: StoreKit, bucket: Bucket) -> None:
    upload_id, _ = await kit.upload(bucket, b"k", *[b"x"] * 9)
    assert await numbers(kit, bucket, upload_id, 0, 4) == [1, 2, 3, 4]
    assert await numbers(kit, bucket, upload_id, 4, 4) == [5, 6, 7, 8]
    assert await numbers(kit, bucket, upload_id, 8, 4) == [9]
    assert await numbers(kit, bucket, upload_id, 9, 4) == []
    assert await numbers(kit, bucket, upload_id, 0, 0) == []


async def test_upload_pages(kit: StoreKit, bucket: Bucket) -> None:
    """By key, then by time; several of one key; every page size shows each once; ended ones are not shown."""
    expected: list[tuple[bytes, str]] = []
    for key in (b"a", b"a", b"a/1", b"a/2", b"b", b"a!"):
        upload_id, _ = await kit.upload(bucket, key)
        expected.append((key, upload_id))
        gone, _ = await kit.upload(bucket, key)
        await kit.uploads.abort(bucket, key, gone)
    expected.sort()
    for limit in (1, 2, 3, 100):
        found: list[tuple[bytes, str]] = []
        key, upload_id = b"", ""
        while True:
            page = await kit.uploads.page(bucket, b"", b"", key, upload_id, limit)
            found += [(item.key, item.upload_id) for item in page.items]
            if not page.truncated:
                break
            key, upload_id = page.next_key, page.next_id
        assert found == expected, limit
    grouped = await kit.uploads.page(bucket, b"", b"/", b"", "", 100)
    assert (grouped.prefixes, [item.key for item in grouped.items]) == ([b"a/"], [b"a", b"a", b"a!", b"b"])
    after = await kit.uploads.page(bucket, b"a", b"/", b"a/", "", 100)
    assert (after.prefixes, after.items) == ([], [])
    skipped = await kit.uploads.page(bucket, b"", b"", b"a", "", 100)
    assert b"a" not in [item.key for item in skipped.items]


async def test_sweep_removes_what_a_crash_left(kit: StoreKit, bucket: Bucket) -> None:
    """A crash between an upload's removal and its parts' leaves orphans; parts of living or young uploads stay."""
    dead, _ = await kit.upload(bucket, b"dead", b"1", b"2")
    living, _ = await kit.upload(bucket, b"living", b"3")
    for upload_id in (dead,):
        name = b"dead\x00" + bytes.fromhex(upload_id)
        await kit.registers.change(bucket.id, Space.UPLOADS, name, lambda _: Write(None))
    assert await kit.uploads.sweep(bucket) == 0, "too young: it might have begun during the walk"
    kit.wall.pass_s(2 * HOUR_S)
    assert await kit.uploads.sweep(bucket) == 2
    assert await numbers(kit, bucket, dead) == []
    assert await numbers(kit, bucket, living) == [1]
