"""Vaults, aliases, access keys and grants: what people ask for, what a restart finds, what a forger cannot do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from tests.unit.store_kit import KIB, BytesBody, StoreKit, Wall, open_kit

from meshhold.crypto.identity import Identity
from meshhold.errors import (
    AliasTakenError,
    BucketNotEmptyError,
    ConflictError,
    InvalidError,
    NoSuchAccessKeyError,
    NoSuchBucketError,
    NoSuchVaultError,
    NotFoundError,
)
from meshhold.model.grant import Permission
from meshhold.model.ids import ANONYMOUS, AccessKeyId
from meshhold.model.stamp import Clock
from meshhold.registry.record import Kind
from meshhold.replication.records.record_keeper import RecordKeeper
from meshhold.store.access import LABEL_LENGTH_MAX
from meshhold.store.contract import Metadata
from meshhold.store.directory import Directory

READ, WRITE, LIST = Permission.READ, Permission.WRITE, Permission.LIST


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as opened:
        yield opened


def restarted(kit: StoreKit) -> StoreKit:
    """Return the same node after a restart."""
    return StoreKit(kit.index, kit.chunks, kit.wall)


async def test_a_vault_is_found_by_every_name(kit: StoreKit) -> None:
    made = await kit.vaults.create("Family photos", replication_factor=2, alias="photos")
    for reference in (made.id, made.id[:8], "Family photos", "photos"):
        assert await kit.vaults.view(reference) == made
    assert (made.replication_factor, made.objects, made.bytes) == (2, 0, 0)
    assert kit.vaults.bucket("photos").id == made.id
    for reference in ("", "nothing", "PHOTOS"):
        with pytest.raises(NoSuchVaultError):
            kit.vaults.find(reference)
    with pytest.raises(NoSuchBucketError):
        kit.vaults.bucket("Family photos")


async def test_an_ambiguous_prefix_names_the_candidates(kit: StoreKit) -> None:
    names = [(await kit.vaults.create(f"v{number}")).id for number in range(40)]  # base32: two share a first letter
    first = sorted(name[0] for name in names)
    twice = next(one for one, other in pairwise(first) if one == other)
    with pytest.raises(InvalidError, match="several vaults"):
        kit.vaults.find(twice)


@pytest.mark.parametrize("name", ["", " x", "x ", "a\nb", "a\x00", "x" * 129])
async def test_unusable_names(kit: StoreKit, name: str) -> None:
    with pytest.raises(InvalidError):
        await kit.vaults.create(name)


@pytest.mark.parametrize("factor", [0, -1, 17])
async def test_factors_out_of_range(kit: StoreKit, factor: int) -> None:
    with pytest.raises(InvalidError):
        await kit.vaults.create("x", replication_factor=factor)


async def test_aliases_move_and_never_swap(kit: StoreKit) -> None:
    one, two = await kit.vaults.create("one", alias="data"), await kit.vaults.create("two")
    with pytest.raises(AliasTakenError):
        await kit.vaults.set_alias("two", "data")
    with pytest.raises(AliasTakenError):
        await kit.vaults.create("three", alias="data")
    with pytest.raises(ConflictError):
        await kit.vaults.create("one")
    with pytest.raises(InvalidError):
        await kit.vaults.set_alias("one", "Not_Allowed")
    await kit.vaults.set_alias("one", "data")
    await kit.vaults.set_alias("one", "")
    assert kit.vaults.known_alias("data") is None
    await kit.vaults.set_alias("two", "data")
    assert kit.vaults.bucket("data").id == two.id
    assert (await kit.vaults.view(one.id)).alias == ""


async def test_deletion_takes_everything_along(kit: StoreKit) -> None:
    bucket = await kit.bucket("photos")
    key = await kit.access.add_key("phone")
    await kit.access.grant(key.access_key_id, "photos", READ | WRITE)
    await kit.put(bucket, b"k", b"x" * 100 * KIB)
    with pytest.raises(BucketNotEmptyError):
        await kit.vaults.delete("photos")
    await kit.vaults.delete("photos", force=True)
    assert await kit.vaults.views() == []
    assert kit.access.grants() == []
    assert kit.stored(bucket) == 0
    assert kit.object_count(bucket.id) == 0
    await kit.bucket("photos")
    assert (await kit.vaults.view("photos")).objects == 0


async def test_an_unfinished_upload_keeps_its_vault(kit: StoreKit) -> None:
    """Its parts were acknowledged: only `--force` drops them."""
    bucket = await kit.bucket("photos")
    upload_id, _ = await kit.upload(bucket, b"k", b"part")
    with pytest.raises(BucketNotEmptyError):
        await kit.vaults.delete("photos")
    await kit.uploads.abort(bucket, b"k", upload_id)
    await kit.vaults.delete("photos")


async def test_an_interrupted_deletion_is_finished_at_the_next_start(kit: StoreKit) -> None:
    bucket = await kit.bucket("photos")
    await kit.put(bucket, b"k", b"x" * 100 * KIB)
    deletion = kit.directory.vault_deletion(bucket.keys, Kind.VAULT, bucket.id)
    await kit.directory.write(deletion)  # and here the power goes
    again = restarted(kit)
    await again.vaults.drop_deleted()
    assert again.stored(bucket) == 0
    assert again.object_count(bucket.id) == 0


async def test_keys_and_grants(kit: StoreKit) -> None:
    bucket = await kit.bucket("photos")
    key = await kit.access.add_key("phone")
    name = AccessKeyId(key.access_key_id)
    assert kit.access.secret(name) == key.secret_access_key
    assert not any(kit.access.may(name, bucket, permission) for permission in (READ, WRITE, LIST))
    shown = await kit.access.grant(name, "photos", READ)
    assert (shown.permissions, shown.vault_name, shown.label) == ("read", "photos", "phone")
    assert kit.access.may(name, bucket, READ)
    assert kit.access.may(name, bucket, LIST)
    assert not kit.access.may(name, bucket, WRITE)
    await kit.access.grant(name, "photos", WRITE)
    assert (kit.access.may(name, bucket, WRITE), kit.access.may(name, bucket, READ)) == (True, False)
    assert [b.alias for b in kit.vaults.granted(name)] == ["photos"]
    await kit.access.revoke(name, "photos")
    assert not kit.access.may(name, bucket, WRITE)
    with pytest.raises(NotFoundError):
        await kit.access.revoke(name, "photos")
    await kit.access.grant(name, "photos", READ)
    await kit.access.remove_key(name)
    assert kit.access.secret(name) is None
    assert kit.access.grants() == []
    assert kit.access.keys() == []
    with pytest.raises(NoSuchAccessKeyError):
        await kit.access.grant(name, "photos", READ)
    with pytest.raises(NoSuchAccessKeyError):
        await kit.access.remove_key(name)


async def test_anonymous_reads_and_no_more(kit: StoreKit) -> None:
    bucket = await kit.bucket("photos")
    with pytest.raises(InvalidError):
        await kit.access.grant(ANONYMOUS, "photos", READ | WRITE)
    await kit.access.grant(ANONYMOUS, "photos", READ)
    assert [kit.access.may(ANONYMOUS, bucket, permission) for permission in (READ, LIST, WRITE)] == [True, False, False]
    await kit.access.grant(ANONYMOUS, "photos", READ, allow_list=True)
    assert kit.access.may(ANONYMOUS, bucket, LIST)
    assert kit.access.secret(ANONYMOUS) is None
    assert not kit.access.may_create_buckets(ANONYMOUS)


@pytest.mark.parametrize("label", ["a\nb", "x" * (LABEL_LENGTH_MAX + 1), "\x1b[31m"])
async def test_unusable_labels(kit: StoreKit, label: str) -> None:
    with pytest.raises(InvalidError):
        await kit.access.add_key(label)


async def test_a_restart_finds_everything(kit: StoreKit) -> None:
    bucket = await kit.bucket("photos")
    key = await kit.access.add_key("phone", create_buckets=True)
    await kit.access.grant(key.access_key_id, "photos", READ | WRITE)
    await kit.put(bucket, b"k", b"x" * 100 * KIB)
    again = restarted(kit)
    assert again.keeper.left_out == []
    assert await again.vaults.views() == await kit.vaults.views()
    assert again.access.grants() == kit.access.grants()
    assert again.access.secret(AccessKeyId(key.access_key_id)) == key.secret_access_key
    assert again.access.may_create_buckets(AccessKeyId(key.access_key_id))
    assert await again.get(again.vaults.bucket("photos"), b"k") == b"x" * 100 * KIB
    await again.put(bucket, b"k", b"later")
    assert await again.get(bucket, b"k") == b"later"


async def test_damaged_records_are_left_out_and_named(kit: StoreKit) -> None:
    """One bad row must not keep the node from starting, nor pass for a fact."""
    await kit.bucket("photos")
    rows = kit.index.load_records()
    alias = next(row for row in rows if row[0] == Kind.ALIAS)
    forged = alias[2][:-1] + bytes([alias[2][-1] ^ 1])
    await kit.index.save_records([(alias[0], alias[1], forged), ("vault", "x", b"\xc1"), ("nonsense", "y", b"")])
    again = restarted(kit)
    assert len(again.keeper.left_out) == 3
    assert again.vaults.known_alias("photos") is None
    assert [view.name for view in await again.vaults.views()] == ["photos"]


async def test_another_node_learns_nothing(kit: StoreKit) -> None:
    """The records alone, without this node's identity, open no vault and show no secret."""
    await kit.bucket("photos")
    key = await kit.access.add_key("phone")
    await kit.access.grant(key.access_key_id, "photos", READ)
    other = Identity(b"o" * 32)
    clock = Clock(other.stamp_node)
    directory = Directory(other, RecordKeeper(kit.index, clock, Wall().now_ms), clock, Wall().now_ms)
    assert (directory.by_id, directory.keys, directory.grants) == ({}, {}, {})
    records = b"".join(raw for _, _, raw in kit.index.load_records())
    for secret in (key.secret_access_key.encode(), b"photos", b"phone"):
        assert secret not in records


async def test_the_oldest_claim_keeps_an_alias(kit: StoreKit) -> None:
    """Two nodes gave one alias to two vaults while apart: the later claim loses, whatever the order it is heard in."""
    one, two = await kit.bucket("first"), await kit.bucket("second")
    later = kit.directory.vault_record(two.keys, Kind.ALIAS, two.id, public={}, private={"alias": "first"})
    await kit.directory.write(later)
    for node in (kit, restarted(kit)):
        assert node.vaults.bucket("first").id == one.id


async def test_bodies_are_not_mixed_up_between_vaults(kit: StoreKit) -> None:
    one, two = await kit.bucket("one"), await kit.bucket("two")
    same = b"the same bytes" * 10_000
    for bucket in (one, two):
        await kit.objects.put(bucket, b"k", BytesBody(same), Metadata())
    assert {s.chunk for s in kit.chunks.scan(one.id)}.isdisjoint({s.chunk for s in kit.chunks.scan(two.id)})
    await kit.vaults.delete("one", force=True)
    assert await kit.get(two, b"k") == same


async def test_of_two_claims_to_an_alias_the_older_one_wins_and_the_other_is_shown(kit: StoreKit) -> None:
    first = await kit.vaults.create("first", alias="photos")
    second = await kit.vaults.create("second")
    keys = kit.vaults.find(second.id).keys
    claim = kit.directory.vault_record(keys, Kind.ALIAS, second.id, public={}, private={"alias": "photos"})
    await kit.directory.write(claim)  # as it comes from a node that did not know of the first claim
    for each in (kit, restarted(kit)):
        assert each.vaults.bucket("photos").id == first.id
        views = {view.name: view for view in await each.vaults.views()}
        assert (views["first"].alias_conflict, views["second"].alias_conflict) == ("", "first")
    await kit.vaults.set_alias(first.id, "")
    assert kit.vaults.bucket("photos").id == second.id
    assert (await kit.vaults.view(second.id)).alias_conflict == ""
