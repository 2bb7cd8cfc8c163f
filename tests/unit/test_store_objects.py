"""Objects over one index and one chunk store: put, find, send, copy, delete, and the conditions on each write."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.unit.store_kit import KIB, MIB, BytesBody, StoreKit, combine, open_kit

from meshhold.errors import (
    ChunkMissingError,
    MetadataTooLargeError,
    NoSuchObjectError,
    PreconditionFailedError,
    SealBrokenError,
    StorageFullError,
    TooLargeError,
)
from meshhold.model.entry import ObjectVersion
from meshhold.model.ids import ChunkId, VaultId
from meshhold.store.contract import ALWAYS, Digested, Metadata, WriteCondition
from meshhold.store.directory import Bucket
from meshhold.store.objects import COPY_SIZE_MAX

ABSENT = WriteCondition(if_absent=True)
PATTERN = bytes(range(251))  # a prime length: no chunk boundary meets the same byte twice


def content(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as opened:
        yield opened


@pytest.fixture
async def bucket(kit: StoreKit) -> Bucket:
    return await kit.bucket()


@pytest.mark.parametrize("size", [0, 1, 16 * KIB, 16 * KIB + 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 7, 20 * MIB])
async def test_bytes_come_back(kit: StoreKit, bucket: Bucket, size: int) -> None:
    """Whatever the size: inside the entry, one chunk, refs in the entry, a manifest chunk (20 chunks)."""
    version = await kit.put(bucket, b"k", content(size))
    assert version.size == size
    assert await kit.get(bucket, b"k") == content(size)
    assert await kit.objects.find(bucket, b"k") == version
    assert kit.stored(bucket) > 0 or size <= 16 * KIB
    assert len(version.content) < 20 * KIB, "an entry stays small whatever the object's size"


@pytest.mark.parametrize("size", [300, 100 * KIB, 3 * MIB + 7, 20 * MIB])
async def test_ranges(kit: StoreKit, bucket: Bucket, size: int) -> None:
    await kit.put(bucket, b"k", content(size))
    edges = sorted({0, 1, size // 2, size - 1, size, *(at for at in (MIB - 1, MIB, MIB + 1, 17 * MIB) if at < size)})
    for start in edges:
        for stop in edges:
            if start <= stop:
                assert await kit.get(bucket, b"k", start, stop) == content(size)[start:stop], (start, stop)


async def test_a_range_reads_only_the_chunks_that_it_needs(kit: StoreKit, bucket: Bucket) -> None:
    await kit.put(bucket, b"k", content(12 * MIB))
    asked: list[ChunkId] = []
    real = kit.chunks.get

    def counted(vault: VaultId, chunk: ChunkId) -> bytes:
        asked.append(chunk)
        found: bytes = real(vault, chunk)
        return found

    kit.chunks.get = counted
    assert await kit.get(bucket, b"k", 5 * MIB - 1, 6 * MIB + 1) == content(12 * MIB)[5 * MIB - 1 : 6 * MIB + 1]
    assert len(asked) == 3


async def test_keys_are_bytes(kit: StoreKit, bucket: Bucket) -> None:
    """No key is a path, a pattern or a prefix of another one's register."""
    keys = [b".", b"..", b"//", b"a/../b", b"%2F", b"+ ", b"*", "ä".encode(), b"x" * 1024, b"x" * 1023]
    for key in keys:
        await kit.put(bucket, key, b"of " + key)
    for key in keys:
        assert await kit.get(bucket, key) == b"of " + key
    assert kit.object_count(bucket.id) == len(keys)


async def test_a_put_replaces_and_a_delete_ends(kit: StoreKit, bucket: Bucket) -> None:
    await kit.put(bucket, b"k", b"one")
    await kit.put(bucket, b"k", b"two")
    assert await kit.get(bucket, b"k") == b"two"
    await kit.objects.delete(bucket, b"k")
    await kit.objects.delete(bucket, b"k")
    with pytest.raises(NoSuchObjectError):
        await kit.objects.find(bucket, b"k")
    assert (await kit.vaults.view("photos")).objects == 0
    await kit.put(bucket, b"k", b"three", ABSENT)
    assert await kit.get(bucket, b"k") == b"three"


async def test_conditions_on_a_put(kit: StoreKit, bucket: Bucket) -> None:
    with pytest.raises(NoSuchObjectError):
        await kit.put(bucket, b"k", b"x", WriteCondition(if_match=("*",)))
    first = await kit.put(bucket, b"k", b"one", ABSENT)
    with pytest.raises(PreconditionFailedError) as caught:
        await kit.put(bucket, b"k", b"two", ABSENT)
    assert caught.value.condition == "If-None-Match"
    second = await kit.put(bucket, b"k", b"two", WriteCondition(if_match=("other", first.etag)))
    with pytest.raises(PreconditionFailedError) as caught:
        await kit.put(bucket, b"k", b"three", WriteCondition(if_match=(first.etag,)))
    assert caught.value.condition == "If-Match"
    with pytest.raises(PreconditionFailedError):
        await kit.objects.delete(bucket, b"k", WriteCondition(if_match=(first.etag,)))
    assert await kit.get(bucket, b"k") == b"two"
    await kit.objects.delete(bucket, b"k", WriteCondition(if_match=(second.etag,)))
    with pytest.raises(NoSuchObjectError):
        await kit.objects.delete(bucket, b"k", WriteCondition(if_match=(second.etag,)))


async def test_a_condition_is_judged_again_when_the_body_is_in(kit: StoreKit, bucket: Bucket) -> None:
    """Another writer may be faster while a body arrives: the slower one is refused, and nothing of it is seen."""

    async def overtake(piece: int) -> None:
        if piece == 1:
            await kit.put(bucket, b"k", b"the faster one", ABSENT)

    body = BytesBody(content(MIB), before=overtake)
    with pytest.raises(PreconditionFailedError):
        await kit.objects.put(bucket, b"k", body, Metadata(), ABSENT)
    assert await kit.get(bucket, b"k") == b"the faster one"


async def test_a_doomed_body_is_not_read(kit: StoreKit, bucket: Bucket) -> None:
    await kit.put(bucket, b"k", b"x")

    async def fail(_: int) -> None:
        pytest.fail("the body was read")

    with pytest.raises(PreconditionFailedError):
        await kit.objects.put(bucket, b"k", BytesBody(b"y", before=fail), Metadata(), ABSENT)


class RefusedBody(BytesBody):
    """A body whose digest turns out wrong."""

    def finish(self) -> Digested:
        """Refuse."""
        raise PreconditionFailedError("another digest was announced", "Content-MD5")


@pytest.mark.parametrize("size", [10, 100 * KIB, 3 * MIB])
async def test_a_body_that_is_refused_at_its_end_changes_nothing(kit: StoreKit, bucket: Bucket, size: int) -> None:
    await kit.put(bucket, b"k", b"before")
    with pytest.raises(PreconditionFailedError):
        await kit.objects.put(bucket, b"k", RefusedBody(content(size)), Metadata())
    assert await kit.get(bucket, b"k") == b"before"
    assert kit.writer.oldest_start_s == float("inf")
    kit.wall.pass_s(2 * 24 * 3600)
    await kit.collect()
    assert kit.stored(bucket) == 0


async def test_no_room_changes_nothing(kit: StoreKit, bucket: Bucket) -> None:
    await kit.put(bucket, b"k", b"before")
    kit.chunks._capacity = 2 * MIB + 100
    with pytest.raises(StorageFullError):
        await kit.put(bucket, b"k", content(5 * MIB))
    assert await kit.get(bucket, b"k") == b"before"
    assert await kit.damaged() == 0


async def test_metadata_is_bounded(kit: StoreKit, bucket: Bucket) -> None:
    fits = Metadata(user={"a": "x" * 2047})
    await kit.objects.put(bucket, b"k", BytesBody(b""), fits)
    for metadata in (Metadata(user={"a": "x" * 2048}), Metadata(headers={"content-type": "x" * 9000})):
        with pytest.raises(MetadataTooLargeError):
            await kit.objects.put(bucket, b"k", BytesBody(b""), metadata)
    assert (await kit.objects.find(bucket, b"k")).user == fits.user


@pytest.mark.parametrize("size", [10, 100 * KIB, 20 * MIB])
async def test_a_copy_within_a_vault_moves_no_byte(kit: StoreKit, bucket: Bucket, size: int) -> None:
    source = await kit.put(bucket, b"from", content(size))
    stored = kit.stored(bucket)
    copied = await kit.objects.copy(bucket, b"from", source, bucket, b"to", None)
    assert kit.stored(bucket) == stored
    assert copied.etag == source.etag
    await kit.objects.delete(bucket, b"from")
    assert await kit.get(bucket, b"to") == content(size)


@pytest.mark.parametrize("size", [10, 100 * KIB, 3 * MIB + 1])
async def test_a_copy_between_vaults_seals_anew(kit: StoreKit, bucket: Bucket, size: int) -> None:
    """No chunk of one vault is one of the other's: neither tells what the other holds."""
    other = await kit.bucket("backup")
    source = await kit.put(bucket, b"k", content(size))
    copied = await kit.objects.copy(bucket, b"k", source, other, b"k", Metadata(user={"new": "1"}))
    assert (copied.user, copied.etag) == ({"new": "1"}, source.etag)
    assert await kit.get(other, b"k") == content(size)
    one, two = ({stat.chunk for stat in kit.chunks.scan(vault.id)} for vault in (bucket, other))
    assert not one & two


async def test_a_copy_keeps_the_parts(kit: StoreKit, bucket: Bucket) -> None:
    """`partNumber` works on a copy as on its source, in its own vault and in another one."""
    other = await kit.bucket("backup")
    upload_id, claims = await kit.upload(bucket, b"k", content(5 * MIB), b"tail")
    source = (await kit.uploads.complete(bucket, b"k", upload_id, claims, combine, ALWAYS)).version
    for target in (bucket, other):
        copied = await kit.objects.copy(bucket, b"k", source, target, b"copy", None)
        assert [row.size for row in await kit.objects.parts(target, b"copy", copied)] == [5 * MIB, 4]
        assert copied.parts_count == 2
        assert await kit.get(target, b"copy") == content(5 * MIB) + b"tail"


async def test_a_copy_of_lost_chunks_is_refused(kit: StoreKit, bucket: Bucket) -> None:
    """A new name for bytes that are gone would hide the loss."""
    source = await kit.put(bucket, b"from", content(MIB))
    kit.chunks.drop_vault(bucket.id)
    with pytest.raises(ChunkMissingError):
        await kit.objects.copy(bucket, b"from", source, bucket, b"to", None)
    with pytest.raises(NoSuchObjectError):
        await kit.objects.find(bucket, b"to")


async def test_copy_bounds(kit: StoreKit, bucket: Bucket) -> None:
    huge = ObjectVersion(COPY_SIZE_MAX + 1, "etag", 1, b"")
    with pytest.raises(TooLargeError):
        await kit.objects.copy(bucket, b"from", huge, bucket, b"to", None)
    small = await kit.put(bucket, b"from", b"x")
    with pytest.raises(MetadataTooLargeError):
        await kit.objects.copy(bucket, b"from", small, bucket, b"to", Metadata(user={"a": "x" * 3000}))


async def test_content_moved_to_another_key_does_not_open(kit: StoreKit, bucket: Bucket) -> None:
    """Whoever can write the index's file still cannot make one object pass for another."""
    version = await kit.put(bucket, b"mine", b"secret")
    await kit.objects.commit(bucket, b"yours", version, ALWAYS)
    with pytest.raises(SealBrokenError):
        await kit.get(bucket, b"yours")
