"""Content that another machine took is told from content that is lost: in reads, copies and checks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.store_kit import KIB, StoreKit, open_kit

from meshhold.crypto.identity import Identity
from meshhold.errors import ChunkMissingError, ContentElsewhereError
from meshhold.model.entry import Entry, ObjectVersion, Space
from meshhold.model.ids import OpId, short_id
from meshhold.model.stamp import Clock
from meshhold.registry.record import Kind
from meshhold.replication.contract import Register
from meshhold.store.checking import CheckReport
from meshhold.store.directory import Bucket
from meshhold.store.whereabouts import Whereabouts

BOB = Identity(b"b" * 32)
CID = Identity(b"c" * 32)
LARGE = bytes(range(256)) * 800


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as opened:
        yield opened


@pytest.fixture
async def bucket(kit: StoreKit) -> Bucket:
    """Make a vault that Bob is trusted in, and Cid keeps ciphertext of."""
    made = await kit.bucket()
    await join(kit, made, BOB, "trusted")
    await join(kit, made, CID, "untrusted")
    return made


async def join(kit: StoreKit, bucket: Bucket, who: Identity, role: str) -> None:
    public: dict[str, Any] = {"role": role} | ({"secrets": []} if role == "trusted" else {})
    key = f"{bucket.id}/{who.node_id}"
    await kit.directory.write(kit.directory.vault_record(bucket.keys, Kind.MEMBER, key, public=public, private={}))


async def leave(kit: StoreKit, bucket: Bucket, who: Identity) -> None:
    await kit.directory.write(kit.directory.vault_deletion(bucket.keys, Kind.MEMBER, f"{bucket.id}/{who.node_id}"))


async def put_by(kit: StoreKit, bucket: Bucket, key: bytes, content: bytes, who: Identity) -> ObjectVersion:
    """Let another node have put an object: its entry is here, its chunks are not."""
    version = await kit.put(bucket, key, content)
    kit.chunks.drop_vault(bucket.id)
    ballot = Clock(who.stamp_node, kit.clock.tick(kit.wall.ms)).tick(kit.wall.ms)
    epoch = kit.seats.configuration(bucket.id).epoch
    name = Register(bucket.id, Space.OBJECTS, key)
    assert await kit.replica.accept(epoch, name, ballot, Entry(OpId(ballot.pack()), version, 2)) is None
    return version


async def check(kit: StoreKit, *, deep: bool = False) -> CheckReport:
    async def ignore(_: dict[str, Any]) -> None:
        """Nobody watches."""

    [report] = await kit.care.check("photos", ignore, deep=deep)
    return report


async def test_a_read_and_a_copy_name_the_machine(kit: StoreKit, bucket: Bucket) -> None:
    version = await put_by(kit, bucket, b"k", LARGE, BOB)
    where = f"the content of this object is on node {short_id(BOB.node_id)}, where it was put"
    with pytest.raises(ContentElsewhereError, match=where):
        await kit.get(bucket, b"k")
    for target in (bucket, await kit.bucket("other")):
        with pytest.raises(ContentElsewhereError, match=where):
            await kit.objects.copy(bucket, b"k", version, target, b"copy", None)
    await put_by(kit, bucket, b"small", b"x" * KIB, BOB)
    assert await kit.get(bucket, b"small") == b"x" * KIB


async def test_a_part_table_is_elsewhere_too(kit: StoreKit, bucket: Bucket) -> None:
    upload_id, claims = await kit.upload(bucket, b"k", LARGE)
    await kit.complete(bucket, b"k", upload_id, claims)
    entry = await kit.registers.read(bucket.id, Space.OBJECTS, b"k")
    assert entry is not None
    assert isinstance(entry.value, ObjectVersion)
    kit.objects._other_taker = lambda _vault, _op: "bob"
    kit.chunks.drop_vault(bucket.id)
    with pytest.raises(ContentElsewhereError, match="on bob"):
        await kit.objects.parts(bucket, b"k", entry.value)


@pytest.mark.parametrize("deep", [False, True])
async def test_a_check_counts_it_apart(kit: StoreKit, bucket: Bucket, deep: bool) -> None:
    await put_by(kit, bucket, b"there", LARGE, BOB)
    await kit.put(bucket, b"here", LARGE + b"!")
    report = await check(kit, deep=deep)
    assert (report.objects, report.elsewhere, report.damaged, report.missing) == (2, 1, 0, [])


async def test_what_this_machine_took_and_has_not_is_damage(kit: StoreKit, bucket: Bucket) -> None:
    """Other members or not: nobody else ever had it."""
    await kit.put(bucket, b"k", LARGE)
    kit.chunks.drop_vault(bucket.id)
    with pytest.raises(ChunkMissingError):
        await kit.get(bucket, b"k")
    report = await check(kit)
    assert (report.elsewhere, report.damaged, report.missing) == (0, 1, ["photos/k"])


@pytest.mark.parametrize("who", [BOB, CID])
async def test_what_no_trusted_member_can_give_is_damage(kit: StoreKit, bucket: Bucket, who: Identity) -> None:
    """One that was removed took it along."""
    await put_by(kit, bucket, b"k", LARGE, who)
    await leave(kit, bucket, BOB)
    with pytest.raises(ChunkMissingError):
        await kit.get(bucket, b"k")
    assert (await check(kit)).missing == ["photos/k"]


async def test_a_version_that_was_replaced_meanwhile_explains_nothing(kit: StoreKit, bucket: Bucket) -> None:
    first = await kit.put(bucket, b"k", LARGE)
    await put_by(kit, bucket, b"k", LARGE + b"!", BOB)

    async def sink(_: bytes) -> None:
        """Nobody reads."""

    with pytest.raises(ChunkMissingError):
        await kit.objects.send(bucket, b"k", first, 0, first.size, sink)


async def test_a_change_without_a_name_is_nobodys(kit: StoreKit, bucket: Bucket) -> None:
    assert Whereabouts(kit.directory).other_taker(bucket.id, OpId(b"short")) == ""
