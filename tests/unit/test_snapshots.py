"""The index kept as chunks: what changed is written, the rest is found again, and all of it can be read back."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.store_kit import GRACE_S, MIB, StoreKit, open_kit, run_inline

from meshhold.errors import ChunkMissingError, IntegrityError, UnknownFormatError
from meshhold.model.entry import DeleteMarker, Entry, ObjectVersion, Space, Upload, sealed_to
from meshhold.model.ids import OpId
from meshhold.registry.record import Kind
from meshhold.replication.collecting.collector import Collector
from meshhold.replication.collecting.snapshots import Snapshots
from meshhold.replication.index.registers import Write
from meshhold.rules.bucket import BucketRules
from meshhold.rules.versioning import Versioning
from meshhold.sealing.content import open_content
from meshhold.sealing.index_blocks import BYTES_MAX, BlockCutter, IndexRow, decode_block
from meshhold.store.directory import Bucket
from meshhold.store.renewal import Renewal

LARGE = bytes(range(256)) * 800
DAY_S = 24 * 3600.0


class SnapshotKit:
    """A kit whose collector knows of snapshots."""

    def __init__(self, kit: StoreKit) -> None:
        self.kit = kit
        renewal = Renewal(kit.chunks, kit.reader, run_inline)
        self.snapshots = Snapshots(
            kit.directory, kit.registers, kit.index, kit.writer, kit.reader, renewal, kit.wall.now_ms
        )
        self.collector = Collector(
            kit.registers,
            kit.chunks,
            kit.reader,
            kit.writer,
            run_inline,
            roots=self.snapshots,
            now_s=kit.wall.now_s,
        )

    async def collect(self, bucket: Bucket) -> int:
        """Collect with the usual grace."""
        return (await self.collector.collect(bucket.keys, self.kit.wall.now_s() - GRACE_S, 5)).removed

    async def rows(self, bucket: Bucket) -> dict[tuple[Space, bytes], Entry]:
        """Return what the newest snapshot holds."""
        snapshot = self.snapshots.newest(bucket.keys)
        assert snapshot is not None
        return {
            (row.space, row.key): row.entry
            async for block in self.snapshots.read(bucket.keys, snapshot)
            for row in block
        }


@pytest.fixture
async def lab() -> AsyncIterator[SnapshotKit]:
    async with open_kit() as kit:
        yield SnapshotKit(kit)


@pytest.fixture
async def bucket(lab: SnapshotKit) -> Bucket:
    return await lab.kit.bucket()


async def test_it_holds_objects_uploads_and_parts_and_nothing_deleted(lab: SnapshotKit, bucket: Bucket) -> None:
    await lab.kit.put(bucket, b"small", b"s")
    await lab.kit.put(bucket, b"large", LARGE)
    await lab.kit.put(bucket, b"deleted", b"d")
    await lab.kit.objects.delete(bucket, b"deleted")
    await lab.kit.upload(bucket, b"later", LARGE)
    snapshot = await lab.snapshots.take(bucket.keys)
    assert snapshot is not None
    assert (snapshot.objects, snapshot.size, snapshot.taken_ms) == (2, 1 + len(LARGE), lab.kit.wall.ms)
    rows = await lab.rows(bucket)
    assert sorted(key for space, key in rows if space is Space.OBJECTS) == [b"large", b"small"]
    assert [space for space, _ in rows if space is not Space.OBJECTS] == [Space.UPLOADS, Space.PARTS]
    for (space, key), entry in rows.items():
        assert await lab.kit.registers.read(bucket.id, space, key) == entry


async def test_the_record_tells_outsiders_when_and_how_much(lab: SnapshotKit, bucket: Bucket) -> None:
    await lab.kit.put(bucket, b"secret name", b"content")
    await lab.snapshots.take(bucket.keys)
    record = lab.kit.keeper.registry.get(Kind.SNAPSHOT, bucket.id)
    assert record is not None
    assert record.public == {"taken_ms": lab.kit.wall.ms, "objects": 1, "bytes": 7}


async def test_without_a_change_none_is_taken(lab: SnapshotKit, bucket: Bucket) -> None:
    assert await lab.snapshots.take(bucket.keys) is not None
    assert await lab.rows(bucket) == {}
    assert await lab.snapshots.take(bucket.keys) is None
    await lab.kit.put(bucket, b"k", b"v")
    assert await lab.snapshots.take(bucket.keys) is not None
    assert await lab.snapshots.take(bucket.keys) is None


async def test_a_change_costs_a_block_and_not_the_index(lab: SnapshotKit, bucket: Bucket) -> None:
    for number in range(1200):
        await lab.kit.put(bucket, b"%06d" % number, b"v")
    first = await lab.snapshots.take(bucket.keys)
    before = lab.kit.stored(bucket)
    await lab.kit.put(bucket, b"000600", b"w")
    second = await lab.snapshots.take(bucket.keys)
    assert first is not None
    assert second is not None
    assert before > 3
    assert lab.kit.stored(bucket) - before <= 2
    assert second.former == first.content
    assert len(await lab.rows(bucket)) == 1200


async def test_collection_keeps_two_snapshots_and_what_the_newest_refers_to(lab: SnapshotKit, bucket: Bucket) -> None:
    await lab.kit.put(bucket, b"k", LARGE)
    for number in range(3):
        await lab.kit.put(bucket, b"n", b"%d" % number)
        await lab.snapshots.take(bucket.keys)
    await lab.kit.objects.delete(bucket, b"k")
    lab.kit.wall.pass_s(2 * DAY_S)
    assert await lab.collect(bucket) == 1  # the first snapshot's only block
    rows = await lab.rows(bucket)
    version = rows[Space.OBJECTS, b"k"].value
    assert isinstance(version, ObjectVersion)
    await lab.snapshots.take(bucket.keys)
    assert await lab.collect(bucket) == 1 + 1  # the object's chunk, and a block
    assert (Space.OBJECTS, b"k") not in await lab.rows(bucket)


async def test_a_lost_block_stops_no_collection_and_is_kept_anew(lab: SnapshotKit, bucket: Bucket) -> None:
    await lab.kit.put(bucket, b"live", LARGE)
    snapshot = await lab.snapshots.take(bucket.keys)
    assert snapshot is not None
    lab.kit.chunks.remove_if_unused_since(bucket.id, snapshot.content.refs[0].chunk, float("inf"))
    with pytest.raises(ChunkMissingError):
        await lab.rows(bucket)
    lab.kit.wall.pass_s(2 * DAY_S)
    assert await lab.collect(bucket) == 0
    assert await lab.kit.get(bucket, b"live") == LARGE
    assert await lab.snapshots.take(bucket.keys) is not None
    assert (Space.OBJECTS, b"live") in await lab.rows(bucket)


async def test_a_block_that_was_to_be_reused_and_is_gone_is_kept_anew(lab: SnapshotKit, bucket: Bucket) -> None:
    for number in range(1200):
        await lab.kit.put(bucket, b"%06d" % number, b"v")
    first = await lab.snapshots.take(bucket.keys)
    assert first is not None
    lab.kit.chunks.remove_if_unused_since(bucket.id, first.content.refs[0].chunk, float("inf"))
    await lab.kit.put(bucket, b"001199", b"w")
    await lab.snapshots.take(bucket.keys)
    assert len(await lab.rows(bucket)) == 1200


async def test_a_record_that_another_secret_sealed_is_none(lab: SnapshotKit, bucket: Bucket) -> None:
    other = await lab.kit.bucket("other")
    await lab.snapshots.take(bucket.keys)
    record = lab.kit.keeper.registry.get(Kind.SNAPSHOT, bucket.id)
    assert record is not None
    await lab.kit.directory.write(
        lab.kit.directory.vault_record(other.keys, Kind.SNAPSHOT, other.id, public=record.public, private={})
    )
    assert lab.snapshots.newest(other.keys) is None


# -- blocks ------------------------------------------------------------------------------------------------------------


def row_of(number: int, size: int = 10) -> IndexRow:
    return IndexRow(Space.OBJECTS, b"%08d" % number, Entry(OpId(bytes(16)), ObjectVersion(size, "e", 1, bytes(size))))


def cut(rows: list[IndexRow]) -> list[bytes]:
    cutter = BlockCutter()
    return [block for row in rows for block in cutter.feed(row)] + cutter.finish()


@pytest.mark.parametrize("size", [10, 16_000])
def test_an_insertion_changes_few_blocks(size: int) -> None:
    chance = random.Random(3)
    rows = [row_of(number, size) for number in range(4000 if size == 10 else 800)]
    before = cut(rows)
    rows.insert(chance.randrange(len(rows)), row_of(10**7, size)._replace(key=b"00000100!"))
    rows.sort(key=lambda row: row.key)
    after = cut(rows)
    assert all(len(block) <= BYTES_MAX + 64 for block in after)
    assert len(set(after) - set(before)) <= (2 if size == 10 else 12)
    assert [row for block in after for row in decode_block(block)] == rows


def test_uploads_and_spaces_come_back_as_they_were() -> None:
    row = IndexRow(Space.UPLOADS, b"k\x00" + bytes(16), Entry(OpId(bytes(16)), Upload(1, "me")))
    assert decode_block(cut([row])[0]) == [row]


@given(st.binary(max_size=100))
def test_hostile_blocks_are_refused_by_name(raw: bytes) -> None:
    with pytest.raises(UnknownFormatError):
        decode_block(raw)


async def test_of_a_damaged_row_the_rest_still_counts(lab: SnapshotKit, bucket: Bucket) -> None:
    """A manifest that cannot be read any more keeps nobody else's chunks from being marked."""
    await lab.kit.put(bucket, b"broken", b"".join(bytes([number]) * MIB for number in range(18)))
    await lab.kit.put(bucket, b"whole", LARGE)
    await lab.snapshots.take(bucket.keys)
    node = next(stat.chunk for stat in lab.kit.chunks.scan(bucket.id) if stat.size in range(1100, 1600))
    lab.kit.chunks.remove_if_unused_since(bucket.id, node, float("inf"))
    found = [ref async for ref in lab.snapshots.refs(bucket.keys)]
    assert len(LARGE) in {ref.span for ref in found}
    with pytest.raises(IntegrityError):
        await lab.collect(bucket)


async def test_earlier_versions_and_delete_markers_are_in_it_and_their_chunks_are_kept(
    lab: SnapshotKit, bucket: Bucket
) -> None:
    keeping = replace(bucket, rules=BucketRules(versioning=Versioning.ENABLED))
    await lab.kit.put(keeping, b"k", LARGE)
    await lab.kit.objects.delete(keeping, b"k")
    snapshot = await lab.snapshots.take(bucket.keys)
    assert snapshot is not None
    assert (snapshot.objects, snapshot.size) == (0, 0)
    held = await lab.rows(bucket)
    assert isinstance(held[Space.OBJECTS, b"k"].value, DeleteMarker)
    ((name, earlier),) = [(key, entry.value) for (space, key), entry in held.items() if space is Space.VERSIONS]
    assert isinstance(earlier, ObjectVersion)
    content = open_content(bucket.keys, sealed_to(Space.VERSIONS, name), earlier.content)
    chunks = {ref.chunk for ref in content.refs}
    await lab.kit.registers.change(bucket.id, Space.VERSIONS, name, lambda _: Write(None))  # all but the snapshot
    lab.kit.wall.pass_s(2 * DAY_S)
    await lab.collect(bucket)
    assert all(lab.kit.chunks.has(bucket.id, chunk) for chunk in chunks)
    assert chunks <= {ref.chunk async for ref in lab.snapshots.refs(bucket.keys)}
