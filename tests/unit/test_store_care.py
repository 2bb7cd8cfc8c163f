"""Check, scrub and collect as a person asks for them: what is damaged is named, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.store_kit import KIB, MIB, StoreKit, open_kit

from meshhold.errors import NoSuchVaultError
from meshhold.model.ids import ChunkId
from meshhold.store.checking import CheckReport
from meshhold.store.directory import Bucket

LARGE = bytes(range(256)) * 800
HUGE = b"".join(bytes([number]) * MIB for number in range(18))


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as opened:
        yield opened


@pytest.fixture
async def bucket(kit: StoreKit) -> Bucket:
    return await kit.bucket()


async def ignore(_: dict[str, Any]) -> None:
    """Nobody watches."""


async def check(kit: StoreKit, *, deep: bool) -> CheckReport:
    [report] = await kit.care.check("photos", ignore, deep=deep)
    return report


def damage(kit: StoreKit, bucket: Bucket, chunk: ChunkId) -> None:
    """Flip a bit of a stored chunk."""
    sealed, touched = kit.chunks._vaults[bucket.id][chunk]
    kit.chunks._vaults[bucket.id][chunk] = (bytes([sealed[0] ^ 1]) + sealed[1:], touched)


def lose(kit: StoreKit, bucket: Bucket, chunk: ChunkId) -> None:
    """Take a stored chunk away."""
    assert kit.chunks.remove_if_unused_since(bucket.id, chunk, float("inf"))


def chunks_of(kit: StoreKit, bucket: Bucket) -> list[ChunkId]:
    return [stat.chunk for stat in kit.chunks.scan(bucket.id)]


async def test_a_whole_vault(kit: StoreKit, bucket: Bucket) -> None:
    await kit.put(bucket, b"small", b"x")
    await kit.put(bucket, b"huge", HUGE)
    await kit.upload(bucket, b"unfinished", LARGE)
    for deep in (False, True):
        report = await check(kit, deep=deep)
        assert (report.objects, report.bytes, report.uploads, report.damaged) == (2, len(HUGE) + 1, 1, 0)
        assert report.chunks == 18 + 1 + 1
        assert report.missing == report.corrupt == []


@pytest.mark.parametrize("deep", [False, True])
async def test_a_lost_chunk_is_named_by_its_objects(kit: StoreKit, bucket: Bucket, deep: bool) -> None:
    await kit.put(bucket, b"whole", LARGE + b"!")
    keep = set(chunks_of(kit, bucket))
    await kit.put(bucket, "straße/ä.jpg".encode(), LARGE)
    await kit.put(bucket, b"twin", LARGE)
    [lost] = set(chunks_of(kit, bucket)) - keep
    lose(kit, bucket, lost)
    report = await check(kit, deep=deep)
    assert (report.damaged, report.missing, report.corrupt) == (2, ["photos/straße/ä.jpg", "photos/twin"], [])


async def test_only_a_deep_check_reads(kit: StoreKit, bucket: Bucket) -> None:
    await kit.put(bucket, b"k", LARGE)
    damage(kit, bucket, chunks_of(kit, bucket)[0])
    assert (await check(kit, deep=False)).damaged == 0
    report = await check(kit, deep=True)
    assert (report.damaged, report.missing, report.corrupt) == (1, [], ["photos/k"])
    assert (await check(kit, deep=False)).missing == ["photos/k"], "the bad copy is in quarantine now"


@pytest.mark.parametrize("harm", [damage, lose])
async def test_a_broken_manifest_is_one_damaged_object(kit: StoreKit, bucket: Bucket, harm: Any) -> None:
    await kit.put(bucket, b"huge", HUGE)
    await kit.put(bucket, b"other", LARGE)
    [manifest] = [stat.chunk for stat in kit.chunks.scan(bucket.id) if stat.size < 3 * KIB]
    harm(kit, bucket, manifest)
    report = await check(kit, deep=False)
    assert report.damaged == 1
    assert report.missing + report.corrupt == ["photos/huge"]


async def test_a_damaged_part_names_its_upload(kit: StoreKit, bucket: Bucket) -> None:
    upload_id, _ = await kit.upload(bucket, b"k", LARGE)
    lose(kit, bucket, chunks_of(kit, bucket)[0])
    report = await check(kit, deep=False)
    assert report.damaged == 1
    assert upload_id in report.missing[0]
    assert "part 1 " in report.missing[0]


async def test_scrub_finds_what_no_object_shows(kit: StoreKit, bucket: Bucket) -> None:
    """It rehashes what is stored, referred to or not; putting the bytes again heals."""
    await kit.put(bucket, b"k", LARGE)
    await kit.put(bucket, b"fine", LARGE + b"!")
    await kit.objects.delete(bucket, b"k")
    before = {stat.chunk: stat.size for stat in kit.chunks.scan(bucket.id)}
    damage(kit, bucket, next(iter(before)))
    report = await kit.care.scrub(None, ignore)
    assert (report.chunks, report.bytes) == (2, sum(before.values()))
    assert report.corrupt == [next(iter(before)).hex()]
    assert kit.chunks.quarantined(bucket.id) == report.corrupt
    await kit.put(bucket, b"k", LARGE)
    await kit.put(bucket, b"fine", LARGE + b"!")
    assert (await kit.care.scrub(None, ignore)).corrupt == []
    assert await kit.damaged() == 0


async def test_unknown_vaults_are_refused(kit: StoreKit) -> None:
    with pytest.raises(NoSuchVaultError):
        await kit.care.check("nothing", ignore)
    with pytest.raises(NoSuchVaultError):
        await kit.care.scrub("nothing", ignore)
    with pytest.raises(NoSuchVaultError):
        await kit.care.collect("nothing")


async def test_progress_is_told_and_not_too_often(kit: StoreKit, bucket: Bucket) -> None:
    for number in range(1000):
        await kit.put(bucket, b"%d" % number, b"x")
    for _ in range(30):
        await kit.upload(bucket, b"k", LARGE)
    told: list[dict[str, Any]] = []

    async def note(progress: dict[str, Any]) -> None:
        told.append(progress)

    await kit.care.check("photos", note)
    assert [progress["objects"] for progress in told] == [500, 1000]
