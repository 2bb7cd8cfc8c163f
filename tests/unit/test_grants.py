"""Grants and keys with limits: what narrows them is kept, shown, and never taken for nothing by another program."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest
from tests.unit.store_kit import StoreKit, open_kit

from meshhold.errors import ExpiredKeyError, InvalidError, UnknownFormatError
from meshhold.model.grant import (
    PREFIX_SIZE_MAX,
    PREFIXES_MAX,
    UNLIMITED,
    Limits,
    Permission,
    pack_limits,
    stricter,
    unpack_limits,
)
from meshhold.model.ids import ANONYMOUS, AccessKeyId
from meshhold.registry.record import Kind
from meshhold.store.directory import Directory

READ, WRITE, OWN, LIST = Permission.READ, Permission.WRITE, Permission.OWN, Permission.LIST


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as opened:
        yield opened


def reopened(kit: StoreKit) -> Directory:
    """Return what another start of the node derives from the same records."""
    return Directory(kit.directory.identity, kit.keeper, kit.clock, kit.wall.now_ms)


def sealed(kit: StoreKit, key: str) -> Any:
    """Return what the grant's record seals, as a program that knows no limits would read it."""
    bucket = next(iter(kit.directory.by_id.values()))
    name = f"{key}/{bucket.id}"
    record = kit.directory.registry.get(Kind.GRANT, name)
    assert record is not None
    return msgpack.unpackb(bucket.keys.open_small("registry", f"{Kind.GRANT}/{name}".encode(), record.private))


# -- prefixes -------------------------------------------------------------------------------------------------------


async def test_a_grant_for_prefixes(kit: StoreKit) -> None:
    bucket = await kit.bucket("photos")
    key = AccessKeyId((await kit.access.add_key("phone")).access_key_id)
    shown = await kit.access.grant(key, "photos", READ | WRITE, prefixes=["a/", "ü", "a/"])
    assert (shown.permissions, shown.prefixes) == ("read,write", ("a/", "ü"))
    for directory in (kit.directory, reopened(kit)):
        limits = directory.grants[key, bucket.id].limits
        assert [limits.covers(name.encode()) for name in ("a/b", "a", "über", "b", "")] == [
            True,
            False,
            True,
            False,
            False,
        ]
    assert not kit.access.may(key, bucket, READ)  # not on the whole bucket
    assert kit.access.grants()[0].prefixes == ("a/", "ü")
    await kit.access.grant(key, "photos", READ)
    assert kit.access.may(key, bucket, READ)  # the later grant replaces the earlier one


@pytest.mark.parametrize("prefixes", [[""], ["x" * (PREFIX_SIZE_MAX + 1)], ["a\0"], [str(n) for n in range(99)]])
async def test_prefixes_that_are_none(kit: StoreKit, prefixes: list[str]) -> None:
    await kit.bucket("photos")
    key = (await kit.access.add_key("phone")).access_key_id
    with pytest.raises(InvalidError):
        await kit.access.grant(key, "photos", READ, prefixes=prefixes)
    assert kit.access.grants() == []


async def test_as_many_prefixes_as_fit_a_record(kit: StoreKit) -> None:
    bucket = await kit.bucket("photos")
    key = AccessKeyId((await kit.access.add_key("phone")).access_key_id)
    prefixes = [f"{n:02}" + "x" * (PREFIX_SIZE_MAX - 2) for n in range(PREFIXES_MAX)]
    await kit.access.grant(key, "photos", READ, prefixes=prefixes)
    assert len(reopened(kit).grants[key, bucket.id].limits.prefixes) == PREFIXES_MAX


async def test_what_holds_for_the_whole_bucket_has_no_prefix(kit: StoreKit) -> None:
    await kit.bucket("photos")
    key = (await kit.access.add_key("phone")).access_key_id
    with pytest.raises(InvalidError, match="whole bucket"):
        await kit.access.grant(key, "photos", READ | OWN, prefixes=["a/"])


async def test_a_program_that_knows_no_limits_takes_a_limited_grant_for_none(kit: StoreKit) -> None:
    await kit.bucket("photos")
    key = (await kit.access.add_key("phone")).access_key_id
    await kit.access.grant(key, "photos", READ | WRITE, prefixes=["a/"])
    assert Permission(sealed(kit, key)["permissions"]) is Permission.NONE
    await kit.access.grant(key, "photos", READ | WRITE)
    assert sealed(kit, key).keys() == {"permissions", "secret", "label"}  # as they always were
    ending = (await kit.access.add_key("guest", expires_s=60)).access_key_id
    await kit.access.grant(ending, "photos", READ)
    assert Permission(sealed(kit, ending)["permissions"]) is Permission.NONE


async def test_a_grant_with_limits_of_a_newer_program_lets_nothing_pass(kit: StoreKit) -> None:
    bucket = await kit.bucket("photos")
    limited = pack_limits(UNLIMITED, permissions=READ.value, weekdays=[1])
    private = {"permissions": 0, "secret": "", "label": "", "limited": limited}
    name = f"{ANONYMOUS}/{bucket.id}"
    record = kit.directory.vault_record(bucket.keys, Kind.GRANT, name, public={}, private=private)
    await kit.directory.write(record)
    assert (ANONYMOUS, bucket.id) not in kit.directory.grants


@pytest.mark.parametrize(
    "packed",
    [
        None,
        7,
        {},
        {"prefixes": []},
        {"prefixes": [], "expires_ms": 0, "read_only": 0},
        {"prefixes": "a", "expires_ms": 0, "read_only": False},
        {"prefixes": ["a"], "expires_ms": 0, "read_only": False},
        {"prefixes": [b""], "expires_ms": 0, "read_only": False},
        {"prefixes": [], "expires_ms": -1, "read_only": False},
        {"prefixes": [], "expires_ms": 2**60, "read_only": False},
        {"prefixes": [b"a"] * 99, "expires_ms": 0, "read_only": False},
        {"prefixes": [], "expires_ms": True, "read_only": False},
    ],
)
def test_limits_that_are_none(packed: Any) -> None:
    with pytest.raises(UnknownFormatError):
        unpack_limits(packed)


def test_limits_come_back() -> None:
    limits = Limits((b"a/", b"b"), 7, read_only=True)
    assert unpack_limits(pack_limits(limits, permissions=3), permissions=int) == (limits, {"permissions": 3})
    assert stricter(Limits((), 7), Limits((), 5)) == Limits((), 5)
    assert stricter(Limits((b"a",), 0), Limits((), 5, read_only=True)) == Limits((), 5, read_only=True)
    assert stricter(UNLIMITED, UNLIMITED) == UNLIMITED


# -- keys that end, keys that only read -----------------------------------------------------------------------------


async def test_a_key_ends(kit: StoreKit) -> None:
    await kit.bucket("photos")
    key = AccessKeyId((await kit.access.add_key("guest", expires_s=60)).access_key_id)
    shown = await kit.access.grant(key, "photos", READ)
    assert (shown.expires_ms, shown.expired) == (kit.wall.ms + 60_000, False)
    kit.wall.pass_s(59)
    assert kit.access.secret(key)
    kit.wall.pass_s(1)
    with pytest.raises(ExpiredKeyError, match=r"has expired.*s3-key add"):
        kit.access.secret(key)
    [minted], [granted] = kit.access.keys(), kit.access.grants()
    assert (minted.expired, granted.expired) == (True, True)
    again = reopened(kit)
    assert again.limits[key].has_expired(kit.wall.ms)
    await kit.access.remove_key(key)
    assert kit.access.secret(key) is None


async def test_a_key_that_only_reads(kit: StoreKit) -> None:
    bucket = await kit.bucket("photos")
    key = AccessKeyId((await kit.access.add_key("frame", read_only=True)).access_key_id)
    for permissions in (WRITE, READ | OWN):
        with pytest.raises(InvalidError, match="read only"):
            await kit.access.grant(key, "photos", permissions)
    shown = await kit.access.grant(key, "photos", READ)
    assert (shown.permissions, shown.read_only) == ("read", True)
    assert kit.access.is_read_only(key)
    assert kit.access.may(key, bucket, READ | LIST)
    [minted] = kit.access.keys()
    assert (minted.read_only, minted.create_buckets) == (True, False)


async def test_a_key_with_an_end_still_creates_buckets(kit: StoreKit) -> None:
    key = AccessKeyId((await kit.access.add_key("ci", create_buckets=True, expires_s=60)).access_key_id)
    for directory in (kit.directory, reopened(kit)):
        assert directory.keys[key].create_buckets
    assert kit.access.may_create_buckets(key)


@pytest.mark.parametrize(
    "wishes",
    [
        {"read_only": True, "create_buckets": True},
        {"read_only": True, "may_publish": True},
        {"expires_s": -1},
        {"expires_s": 3651 * 86_400},
    ],
)
async def test_keys_that_nobody_mints(kit: StoreKit, wishes: dict[str, Any]) -> None:
    with pytest.raises(InvalidError):
        await kit.access.add_key("odd", **wishes)
    assert kit.access.keys() == []


# -- everybody ------------------------------------------------------------------------------------------------------


async def test_everybody_may_read_and_list_until_it_is_taken_back(kit: StoreKit) -> None:
    bucket = await kit.bucket("photos")
    await kit.access.grant(ANONYMOUS, "photos", READ, prefixes=["a/"])
    for _ in range(2):  # the second changes nothing
        await kit.access.publish(bucket)
        assert kit.access.may(ANONYMOUS, bucket, READ | LIST)
    stamp = kit.directory.registry.get(Kind.GRANT, f"{ANONYMOUS}/{bucket.id}")
    await kit.access.publish(bucket)
    assert kit.directory.registry.get(Kind.GRANT, f"{ANONYMOUS}/{bucket.id}") is stamp
    for _ in range(2):
        await kit.access.withdraw(bucket)
        assert kit.access.grant_of(ANONYMOUS, bucket) is None


async def test_everybody_is_no_key(kit: StoreKit) -> None:
    await kit.bucket("photos")
    await kit.access.grant(ANONYMOUS, "photos", READ)
    key = (await kit.access.add_key("phone")).access_key_id
    assert [kit.access.knows(name) for name in (key, ANONYMOUS, "GK" + "0" * 24)] == [True, False, False]
    with pytest.raises(InvalidError):
        await kit.access.grant(ANONYMOUS, "photos", READ | OWN)
