"""Collection takes dead chunks and no others: whatever is written, copied, completed or deleted while it runs."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from tests.unit.store_kit import GRACE_S, KIB, MIB, BytesBody, StoreKit, open_kit

from meshhold.errors import IntegrityError
from meshhold.model.entry import Upload
from meshhold.model.ids import ChunkId
from meshhold.replication.collecting.collector import Marks
from meshhold.store.contract import Metadata
from meshhold.store.directory import Bucket
from meshhold.store.uploads import PartClaim

LARGE = bytes(range(256)) * 800  # one chunk
HUGE = b"".join(bytes([number]) * MIB for number in range(18))  # 18 chunks below a manifest chunk
DAY_S = 24 * 3600.0
STEPS = range(60)
"""More checkpoints than a collection of one small vault passes: every interleaving with it is tried."""


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as opened:
        yield opened


@pytest.fixture
async def bucket(kit: StoreKit) -> Bucket:
    return await kit.bucket()


# -- without company -------------------------------------------------------------------------------------------------


async def test_what_is_referred_to_stays(kit: StoreKit, bucket: Bucket) -> None:
    """Data, manifest chunks, part tables and parts of unfinished uploads, however old."""
    await kit.put(bucket, b"huge", HUGE)
    upload_id, claims = await kit.upload(bucket, b"joined", b"p" * 5 * MIB, LARGE)
    await kit.complete(bucket, b"joined", upload_id, claims)
    unfinished, claims = await kit.upload(bucket, b"later", LARGE + b"!")
    kit.wall.pass_s(100 * DAY_S)
    before = kit.stored(bucket)
    assert await kit.collect() == 0
    assert kit.stored(bucket) == before
    await kit.complete(bucket, b"later", unfinished, claims)
    assert await kit.get(bucket, b"huge") == HUGE
    assert await kit.get(bucket, b"joined") == b"p" * 5 * MIB + LARGE
    assert await kit.get(bucket, b"later") == LARGE + b"!"
    assert await kit.damaged() == 0


async def test_what_nothing_refers_to_goes_after_the_grace(kit: StoreKit, bucket: Bucket) -> None:
    await kit.put(bucket, b"deleted", HUGE)
    await kit.put(bucket, b"replaced", LARGE)
    await kit.objects.delete(bucket, b"deleted")
    await kit.put(bucket, b"replaced", b"small")
    upload_id, _ = await kit.upload(bucket, b"aborted", LARGE + b"?")
    await kit.uploads.abort(bucket, b"aborted", upload_id)
    kit.wall.pass_s(GRACE_S - 1)
    assert await kit.collect() == 0
    kit.wall.pass_s(2)
    assert await kit.collect() == 18 + 1 + 1 + 1
    assert kit.stored(bucket) == 0


async def test_one_vault_is_no_reason_to_keep_anothers(kit: StoreKit, bucket: Bucket) -> None:
    other = await kit.bucket("other")
    await kit.put(bucket, b"k", LARGE)
    await kit.put(other, b"k", LARGE)
    await kit.objects.delete(bucket, b"k")
    kit.wall.pass_s(2 * DAY_S)
    assert await kit.collect() == 1
    assert await kit.get(other, b"k") == LARGE


async def test_tombstones_go_after_their_window(kit: StoreKit, bucket: Bucket) -> None:
    """All of them in one collection, in a vault of many more rows than one step looks at."""
    for number in range(700):
        await kit.put(bucket, b"%04d" % number, b"x")
    for number in range(690, 700):
        await kit.objects.delete(bucket, b"%04d" % number)
    assert (await kit.care.collect(None)).tombstones == 0
    kit.wall.pass_s(3600)
    assert (await kit.care.collect(None)).tombstones == 10
    assert (await kit.care.collect(None)).tombstones == 0
    assert kit.object_count(bucket.id) == 690


async def test_an_unreadable_manifest_stops_the_collection(kit: StoreKit, bucket: Bucket) -> None:
    """What it referred to is unknown, so nothing may go."""
    await kit.put(bucket, b"huge", HUGE)
    await kit.put(bucket, b"dead", LARGE)
    await kit.objects.delete(bucket, b"dead")
    kit.wall.pass_s(2 * DAY_S)
    version = await kit.objects.find(bucket, b"huge")
    refs = [stat.chunk for stat in kit.chunks.scan(bucket.id) if stat.size < 3 * KIB]
    assert len(refs) == 1, "18 refs are one small manifest chunk"
    assert version.size == len(HUGE)
    kit.chunks.remove_if_unused_since(bucket.id, refs[0], float("inf"))
    before = kit.stored(bucket)
    with pytest.raises(IntegrityError):
        await kit.collect()
    assert kit.stored(bucket) == before


# -- in company: each step of the collection meets each change --------------------------------------------------------


@pytest.fixture
def slow_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the marks be made row by row, so that changes come between any two of them."""
    monkeypatch.setattr("meshhold.replication.chunks.walk.PAGE", 1)


async def surround(kit: StoreKit, bucket: Bucket) -> None:
    """Add objects and parts before, between and behind the keys `b` and `k` that are watched."""
    for key in b"acdelm":
        await kit.put(bucket, bytes([key]), b"in its entry")
        await kit.upload(bucket, bytes([key]), b"in its entry")


async def meet(kit: StoreKit, change: Callable[[], Awaitable[object]], steps: int) -> None:
    """Begin a collection, let it go `steps` checkpoints, then make the change while it goes on."""

    async def late() -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        await change()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kit.collect)
        nursery.start_soon(late)


async def everything_is_sound(kit: StoreKit, bucket: Bucket, key: bytes, content: bytes) -> None:
    assert await kit.get(bucket, key) == content
    assert await kit.damaged() == 0
    kit.wall.pass_s(2 * DAY_S)
    await kit.collect()
    assert await kit.get(bucket, key) == content


@pytest.mark.usefixtures("slow_walk")
@pytest.mark.parametrize("steps", STEPS)
async def test_a_put_that_finds_dead_chunks_keeps_them(kit: StoreKit, bucket: Bucket, steps: int) -> None:
    """Old chunks that nothing refers to, and a put of the same bytes: either they stay or they are written again."""
    await surround(kit, bucket)
    await kit.put(bucket, b"old", LARGE)
    await kit.objects.delete(bucket, b"old")
    kit.wall.pass_s(2 * DAY_S)
    await meet(kit, lambda: kit.put(bucket, b"new", LARGE), steps)
    await everything_is_sound(kit, bucket, b"new", LARGE)


@pytest.mark.usefixtures("slow_walk")
@pytest.mark.parametrize("steps", STEPS)
async def test_copy_then_delete_the_source(kit: StoreKit, bucket: Bucket, steps: int) -> None:
    """The chunks change hands while the walk may be between the two names, in either direction."""
    source_key, target_key = (b"b", b"k") if steps % 2 else (b"k", b"b")
    await surround(kit, bucket)
    source = await kit.put(bucket, source_key, LARGE)
    kit.wall.pass_s(2 * DAY_S)

    async def change() -> None:
        await kit.objects.copy(bucket, source_key, source, bucket, target_key, None)
        await kit.objects.delete(bucket, source_key)

    await meet(kit, change, steps)
    await everything_is_sound(kit, bucket, target_key, LARGE)


@pytest.mark.usefixtures("slow_walk")
@pytest.mark.parametrize("steps", STEPS)
async def test_a_completion_moves_the_refs(kit: StoreKit, bucket: Bucket, steps: int) -> None:
    """The parts' chunks are old; the parts go and the object comes while marks are made."""
    await surround(kit, bucket)
    upload_id, claims = await kit.upload(bucket, b"k", LARGE)
    kit.wall.pass_s(2 * DAY_S)
    await meet(kit, lambda: kit.complete(bucket, b"k", upload_id, claims), steps)
    await everything_is_sound(kit, bucket, b"k", LARGE)


@pytest.mark.parametrize("steps", STEPS)
async def test_the_end_of_a_put_that_took_longer_than_the_grace(kit: StoreKit, bucket: Bucket, steps: int) -> None:
    """Its first chunks are old before its entry is there, and the collection begins just then."""
    release = trio.Event()
    content = b"1" * MIB + b"2" * MIB + b"3"

    async def slow(piece: int) -> None:
        if piece == 8:  # two blocks have been sent
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            kit.wall.pass_s(2 * DAY_S)
            release.set()

    async def collect() -> None:
        await release.wait()
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        await kit.collect()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect)
        await kit.objects.put(bucket, b"k", BytesBody(content, before=slow), Metadata())
    assert await kit.get(bucket, b"k") == content
    assert await kit.damaged() == 0


async def test_parts_put_over_days(kit: StoreKit, bucket: Bucket) -> None:
    """An upload of a week with a collection each day."""
    upload_id = await kit.uploads.begin(bucket, b"k", Upload(kit.wall.ms, "me"))
    claims = []
    for number in range(1, 4):
        part = await kit.uploads.put_part(bucket, b"k", upload_id, number, BytesBody(bytes([number]) * 5 * MIB))
        claims.append(PartClaim(number, part.etag))
        kit.wall.pass_s(2 * DAY_S)
        await kit.collect()
        await kit.uploads.sweep(bucket)
    await kit.complete(bucket, b"k", upload_id, claims)
    assert await kit.get(bucket, b"k") == b"".join(bytes([number]) * 5 * MIB for number in range(1, 4))


# -- marks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("salt", [0, 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("expected", [0, 1, 5000])
def test_marks_never_miss(expected: int, salt: int) -> None:
    """Also when there are more chunks than were counted: then they claim too much, never too little."""
    chance = random.Random(salt)
    chunks = [ChunkId(chance.randbytes(32)) for _ in range(5000)]
    marks = Marks(expected, salt)
    for chunk in chunks:
        marks.add(chunk)
    assert all(chunk in marks for chunk in chunks)


def test_marks_rarely_claim_too_much() -> None:
    """One dead chunk in a thousand may look alive, and another one the next time: the salt differs."""
    chance = random.Random(7)
    alive = [ChunkId(chance.randbytes(32)) for _ in range(5000)]
    dead = [ChunkId(chance.randbytes(32)) for _ in range(5000)]
    missed = []
    for salt in (11, 13):
        marks = Marks(len(alive), salt)
        for chunk in alive:
            marks.add(chunk)
        missed.append({chunk for chunk in dead if chunk in marks})
        assert len(missed[-1]) < 25
    assert not missed[0] & missed[1]
