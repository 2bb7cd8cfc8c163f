"""Stacks of versions in the store: each step, what a crash leaves between two of them, and what comes late."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from tests.unit.store_kit import MIB, StoreKit, open_kit

from meshhold.errors import (
    BucketNotEmptyError,
    ContentionError,
    DeleteMarkerError,
    InvalidError,
    LockedError,
    NoSuchObjectError,
    NoSuchVersionError,
    PreconditionFailedError,
)
from meshhold.model.entry import Extras, Lock, ObjectVersion, Space
from meshhold.registry.record import Kind
from meshhold.rules.bucket import BucketRules
from meshhold.rules.stack import split_row_key, void
from meshhold.rules.versioning import Versioning
from meshhold.sealing.content import open_content
from meshhold.store.contract import DeleteCondition, WriteCondition
from meshhold.store.directory import Bucket
from meshhold.store.stacks import FILING_S, Stacks
from meshhold.store.versions import Versions

KEY = b"fotos/1.jpg"
Step = Callable[[], Awaitable[Any]]


class Shelf:
    """A bucket that keeps versions."""

    def __init__(self, kit: StoreKit, bucket: Bucket) -> None:
        self.kit = kit
        self.never = bucket
        self.bucket = replace(bucket, rules=BucketRules(versioning=Versioning.ENABLED))
        self.suspended = replace(bucket, rules=BucketRules(versioning=Versioning.SUSPENDED))
        self.versions = Versions(kit.registers, kit.objects.stacks)

    async def put(self, content: bytes, key: bytes = KEY, bucket: Bucket | None = None) -> str:
        """Put an object a millisecond later; return its version."""
        self.kit.wall.ms += 1
        version = await self.kit.put(bucket or self.bucket, key, content)
        return "null" if version.extras.is_null else version.extras.version.hex()

    async def delete(self, version: str | None = None, bucket: Bucket | None = None, **options: Any) -> str:
        """Delete; return the version that the answer names."""
        self.kit.wall.ms += 1
        return (await self.kit.objects.delete(bucket or self.bucket, KEY, version=version, **options)).version

    async def content(self, version: str | None = None) -> bytes:
        """Return a version's bytes."""
        found = await self.kit.objects.find(self.bucket, KEY, version)
        pieces: list[bytes] = []

        async def sink(piece: bytes) -> None:
            pieces.append(bytes(piece))

        await self.kit.objects.send(self.bucket, KEY, found, 0, found.size, sink)
        return b"".join(pieces)

    async def shown(self) -> list[str]:
        """Return the versions that are listed, the current one first."""
        page = await self.versions.page(self.bucket, b"", b"", b"", "", 1000)
        assert [item.is_latest for item in page.items] == [True] * bool(page.items) + [False] * (len(page.items) - 1)
        return [item.id for item in page.items]

    async def rows(self) -> list[str]:
        """Return the ids of the live rows of earlier versions."""
        found = await self.kit.registers.scan(self.bucket.id, Space.VERSIONS, b"", b"", 1000)
        return [split_row_key(name)[1].hex() for name, entry in found if entry.value is not None]

    async def tombs(self) -> int:
        """Return how many rows of versions are tombstones."""
        found = await self.kit.registers.scan(self.bucket.id, Space.VERSIONS, b"", b"", 1000)
        return sum(entry.value is None for _, entry in found)


@pytest.fixture
async def shelf() -> AsyncIterator[Shelf]:
    async with open_kit() as kit:
        yield Shelf(kit, await kit.bucket())


class CrashedError(BaseException):
    """Stands for the end of the process."""


async def crash_at(monkeypatch: pytest.MonkeyPatch, step: str, action: Step) -> None:
    """Do something that ends right before a step of the protocol; the next action has a whole program again."""

    async def crash(*_arguments: Any, **_options: Any) -> None:
        raise CrashedError

    with monkeypatch.context() as crashing:
        crashing.setattr(Stacks, step, crash)
        with pytest.raises(CrashedError):
            await action()


# -- the life of versions ---------------------------------------------------------------------------------------------


async def test_what_was_there_becomes_an_earlier_version(shelf: Shelf) -> None:
    one = await shelf.put(b"one")
    two = await shelf.put(b"two" * 10_000)
    three = await shelf.put(b"three")
    assert await shelf.shown() == [three, two, one]
    assert [await shelf.content(each) for each in (None, one, two)] == [b"three", b"one", b"two" * 10_000]


async def test_a_bucket_that_never_kept_versions_does_as_ever(shelf: Shelf) -> None:
    assert await shelf.put(b"one", bucket=shelf.never) == "null"
    assert await shelf.put(b"two", bucket=shelf.never) == "null"
    assert await shelf.delete(bucket=shelf.never) == ""
    assert await shelf.rows() == []
    assert await shelf.tombs() == 0
    with pytest.raises(NoSuchObjectError):
        await shelf.content()


async def test_what_came_before_versions_is_the_version_null(shelf: Shelf) -> None:
    await shelf.put(b"old", bucket=shelf.never)
    new = await shelf.put(b"new")
    assert await shelf.shown() == [new, "null"]
    assert await shelf.content("null") == b"old"
    await shelf.delete("null")
    assert await shelf.shown() == [new]
    with pytest.raises(NoSuchVersionError):
        await shelf.content("null")


async def test_a_deletion_puts_a_marker_and_its_removal_brings_the_object_back(shelf: Shelf) -> None:
    one = await shelf.put(b"one")
    marker = await shelf.delete()
    assert await shelf.shown() == [marker, one]
    with pytest.raises(DeleteMarkerError) as found:
        await shelf.content()
    assert (found.value.version, found.value.is_named) == (marker, False)
    with pytest.raises(DeleteMarkerError) as found:
        await shelf.content(marker)
    assert found.value.is_named
    assert shelf.kit.object_count(shelf.bucket.id) == 0
    assert await shelf.delete(marker) == marker
    assert await shelf.content() == b"one"
    assert shelf.kit.object_count(shelf.bucket.id) == 1


async def test_a_key_without_object_gets_a_marker_too(shelf: Shelf) -> None:
    first, second = await shelf.delete(), await shelf.delete()
    assert await shelf.shown() == [second, first]


async def test_any_version_can_be_removed_and_the_newest_left_is_current(shelf: Shelf) -> None:
    one, two, three, four = [await shelf.put(b"%d" % n) for n in range(1, 5)]
    await shelf.delete(two)
    assert await shelf.shown() == [four, three, one]
    await shelf.delete(four)
    assert await shelf.content() == b"3"
    await shelf.delete(three)
    assert await shelf.content() == b"1"
    with pytest.raises(NoSuchVersionError):
        await shelf.content(four)
    await shelf.delete(one)
    assert await shelf.shown() == []
    assert await shelf.kit.registers.scan(shelf.bucket.id, Space.OBJECTS, b"", b"", 9) != []
    assert await shelf.kit.objects.stacks.read(shelf.bucket, KEY) is None
    assert await shelf.rows() == []
    for version in (one, "null", "0" * 32):
        assert await shelf.delete(version) == version  # what is not there is deleted already
    new = await shelf.put(b"new")
    assert await shelf.shown() == [new]


async def test_what_is_no_id_is_refused(shelf: Shelf) -> None:
    with pytest.raises(InvalidError):
        await shelf.content("1")
    with pytest.raises(InvalidError):
        await shelf.delete("")


# -- suspended --------------------------------------------------------------------------------------------------------


async def test_suspended_there_is_one_null_version_at_most(shelf: Shelf) -> None:
    await shelf.put(b"old", bucket=shelf.never)
    one = await shelf.put(b"one")
    assert await shelf.put(b"two", bucket=shelf.suspended) == "null"
    assert await shelf.shown() == ["null", one]
    assert await shelf.content("null") == b"two"
    await shelf.put(b"three", bucket=shelf.suspended)
    assert await shelf.shown() == ["null", one]
    assert await shelf.content() == b"three"
    assert await shelf.delete(bucket=shelf.suspended) == "null"
    assert await shelf.shown() == ["null", one]
    with pytest.raises(DeleteMarkerError):
        await shelf.content()
    four = await shelf.put(b"four")
    assert await shelf.shown() == [four, "null", one]
    await shelf.delete("null")
    assert await shelf.shown() == [four, one]


async def test_a_null_version_that_went_does_not_come_back_with_its_successor(shelf: Shelf) -> None:
    await shelf.put(b"old", bucket=shelf.never)
    await shelf.put(b"one")
    await shelf.put(b"two", bucket=shelf.suspended)
    await shelf.delete("null")
    assert await shelf.content() == b"one"
    with pytest.raises(NoSuchVersionError):
        await shelf.content("null")


# -- conditions and locks ---------------------------------------------------------------------------------------------


async def test_conditions_are_judged_by_the_current_version(shelf: Shelf) -> None:
    await shelf.put(b"one")
    await shelf.delete()
    await shelf.kit.put(shelf.bucket, KEY, b"two", WriteCondition(if_absent=True))
    with pytest.raises(PreconditionFailedError):
        await shelf.kit.put(shelf.bucket, KEY, b"three", WriteCondition(if_absent=True))
    await shelf.delete()
    with pytest.raises(NoSuchObjectError):
        await shelf.kit.put(shelf.bucket, KEY, b"three", WriteCondition(if_match=("*",)))


async def test_a_deletion_on_condition_judges_the_version_that_goes(shelf: Shelf) -> None:
    one = await shelf.put(b"one")
    await shelf.put(b"three")
    with pytest.raises(PreconditionFailedError):
        await shelf.kit.objects.delete(shelf.bucket, KEY, DeleteCondition(size=5), one)
    await shelf.kit.objects.delete(shelf.bucket, KEY, DeleteCondition(size=3), one)
    with pytest.raises(PreconditionFailedError):
        await shelf.kit.objects.delete(shelf.bucket, KEY, DeleteCondition(etag="another"))
    assert (await shelf.kit.objects.delete(shelf.bucket, b"other", DeleteCondition(etag="x"))).version == ""
    assert len(await shelf.shown()) == 1


async def test_a_locked_version_is_not_removed_wherever_it_lies(shelf: Shelf) -> None:
    hold = Extras(lock=Lock(legal_hold=True))

    def lock(version: ObjectVersion) -> ObjectVersion:
        return replace(version, extras=hold)

    def unlock(version: ObjectVersion) -> ObjectVersion:
        return replace(version, extras=replace(version.extras, lock=None))

    one = await shelf.put(b"one")
    await shelf.kit.objects.amend(shelf.bucket, KEY, None, lock)
    with pytest.raises(LockedError):
        await shelf.delete(one)
    two = await shelf.put(b"two")
    with pytest.raises(LockedError):
        await shelf.delete(one, may_bypass=True)
    await shelf.delete(two)
    with pytest.raises(LockedError):
        await shelf.delete(one)
    await shelf.kit.objects.amend(shelf.bucket, KEY, one, unlock)
    await shelf.delete(one)
    assert await shelf.shown() == []


# -- amending ---------------------------------------------------------------------------------------------------------


async def ignore(_: dict[str, Any]) -> None:
    """Nobody watches."""


def tagging(**tags: str) -> Callable[[ObjectVersion], ObjectVersion]:
    return lambda version: replace(version, extras=replace(version.extras, tags=tags))


async def test_tags_go_with_their_version(shelf: Shelf) -> None:
    await shelf.put(b"old", bucket=shelf.never)
    plain = await shelf.kit.objects.amend(shelf.never, KEY, None, tagging(a="old"))
    assert plain.extras.version == b""
    one = await shelf.put(b"one")
    await shelf.kit.objects.amend(shelf.bucket, KEY, None, tagging(a="1"))
    two = await shelf.put(b"two")
    await shelf.kit.objects.amend(shelf.bucket, KEY, one, tagging(a="2"))
    await shelf.kit.objects.amend(shelf.bucket, KEY, "null", tagging(a="older"))
    await shelf.delete(two)
    assert (await shelf.kit.objects.find(shelf.bucket, KEY)).extras.tags == {"a": "2"}
    await shelf.kit.objects.amend(shelf.bucket, KEY, None, tagging(a="3"))
    await shelf.put(b"three")
    assert (await shelf.kit.objects.find(shelf.bucket, KEY, one)).extras.tags == {"a": "3"}
    assert (await shelf.kit.objects.find(shelf.bucket, KEY, "null")).extras.tags == {"a": "older"}
    marker = await shelf.delete()
    for version in (None, marker, two):
        with pytest.raises((NoSuchObjectError, NoSuchVersionError)):
            await shelf.kit.objects.amend(shelf.bucket, KEY, version, tagging(a="4"))


# -- what a crash leaves ----------------------------------------------------------------------------------------------


async def test_a_put_that_ends_after_the_filing_left_nothing_to_be_seen(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await shelf.put(b"one")
    await crash_at(monkeypatch, "_swap", lambda: shelf.put(b"two"))
    assert await shelf.shown() == [one]
    assert await shelf.rows() == [one]
    await shelf.delete(one)
    assert await shelf.shown() == []
    assert await shelf.rows() == []


async def test_a_deletion_of_the_current_version_that_ends_early_is_over_or_never_was(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await shelf.put(b"one"), await shelf.put(b"two")
    await crash_at(monkeypatch, "_swap", lambda: shelf.delete(two))
    assert await shelf.shown() == [two, one]
    await crash_at(monkeypatch, "_bury", lambda: shelf.delete(two))
    assert await shelf.shown() == [one]


async def test_a_version_whose_row_outlived_its_deletion_is_seen_by_nobody_ever_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = [await shelf.put(b"%d" % n) for n in range(1, 4)]
    await shelf.delete(three)  # two is current again, and has a row
    await crash_at(monkeypatch, "_bury", lambda: shelf.delete(two))
    assert two in await shelf.rows()
    assert await shelf.shown() == [one]
    with pytest.raises(NoSuchVersionError):
        await shelf.content(two)
    four = await shelf.put(b"four")
    assert await shelf.shown() == [four, one]
    await shelf.delete(four)
    assert await shelf.content() == b"1"
    assert two not in await shelf.rows()


async def test_an_earlier_version_that_is_deleted_halfway_is_gone(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await shelf.put(b"one"), await shelf.put(b"two")
    await crash_at(monkeypatch, "_bury", lambda: shelf.delete(one))
    assert await shelf.shown() == [two]
    assert await shelf.rows() == [one]
    assert await shelf.delete(two) == two
    assert await shelf.shown() == []
    assert await shelf.rows() == []


async def test_the_last_version_deleted_halfway_leaves_a_void_that_the_next_change_ends(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await shelf.put(b"one")
    await crash_at(monkeypatch, "_swap", lambda: shelf.put(b"two"))  # has filed one
    await crash_at(monkeypatch, "_bury", lambda: shelf.delete(one))
    assert await shelf.kit.objects.stacks.read(shelf.bucket, KEY) == void((bytes.fromhex(one),), 2)
    assert await shelf.shown() == []
    with pytest.raises(NoSuchObjectError):
        await shelf.content()
    await shelf.kit.put(shelf.bucket, KEY, b"new", WriteCondition(if_absent=True))
    assert len(await shelf.shown()) == 1
    assert await shelf.rows() == []


async def test_a_void_holds_nothing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await shelf.put(b"one")
    await crash_at(monkeypatch, "_bury", lambda: shelf.delete(one))
    assert await shelf.delete(one) == one
    assert await shelf.kit.objects.stacks.read(shelf.bucket, KEY) is None


# -- what comes late --------------------------------------------------------------------------------------------------


async def test_who_files_what_was_deleted_meanwhile_finds_the_tombstone(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A put reads the top; before it files it, the version is deleted, and so is its key."""
    one = await shelf.put(b"one")
    file = Stacks._file
    deleted = False

    async def file_late(self: Stacks, *arguments: Any) -> None:
        nonlocal deleted
        if not deleted:
            deleted = True
            other = Stacks(shelf.kit.registers, shelf.kit.gates, shelf.kit.wall.now_ms, shelf.kit.wall.now_ms)
            await other.remove(shelf.bucket, KEY, bytes.fromhex(one), lambda _: None)
        await file(self, *arguments)

    monkeypatch.setattr(Stacks, "_file", file_late)
    two = await shelf.put(b"two")
    assert await shelf.shown() == [two]
    assert await shelf.rows() == []
    assert await shelf.tombs() == 1


async def test_nothing_is_filed_later_than_tombstones_are_sure_to_be_kept(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shelf.put(b"one")
    file = Stacks._file

    async def file_late(self: Stacks, *arguments: Any) -> None:
        shelf.kit.wall.pass_s(FILING_S + 1)
        await file(self, *arguments)

    monkeypatch.setattr(Stacks, "_file", file_late)
    with pytest.raises(ContentionError, match="took too long"):
        await shelf.put(b"two")
    assert await shelf.content() == b"one"
    assert await shelf.rows() == []


async def test_a_promotion_of_what_is_deleted_meanwhile_starts_over(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = [await shelf.put(b"%d" % n) for n in range(1, 4)]
    below = Stacks._below
    other = Stacks(shelf.kit.registers, shelf.kit.gates, shelf.kit.wall.now_ms, shelf.kit.wall.now_ms)
    raced = False

    async def below_late(self: Stacks, *arguments: Any) -> Any:
        nonlocal raced
        found = await below(self, *arguments)
        if not raced:
            raced = True
            await other.remove(shelf.bucket, KEY, bytes.fromhex(two), lambda _: None)
        return found

    monkeypatch.setattr(Stacks, "_below", below_late)
    await shelf.delete(three)
    assert await shelf.shown() == [one]
    assert await shelf.content() == b"1"


async def test_a_lock_that_is_put_on_while_its_version_is_being_deleted_holds(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await shelf.put(b"one")
    await shelf.put(b"two")
    pending = Stacks._bury_pending
    other = Stacks(shelf.kit.registers, shelf.kit.gates, shelf.kit.wall.now_ms, shelf.kit.wall.now_ms)
    raced = False

    async def lock_meanwhile(self: Stacks, *arguments: Any) -> None:
        nonlocal raced
        await pending(self, *arguments)
        if not raced:
            raced = True
            hold = Extras(lock=Lock(legal_hold=True))
            await other.amend(
                shelf.bucket, KEY, bytes.fromhex(one), lambda version: replace(version, extras=hold), is_named=True
            )

    monkeypatch.setattr(Stacks, "_bury_pending", lock_meanwhile)
    with pytest.raises(LockedError):
        await shelf.delete(one)
    assert await shelf.content(one) == b"one"


async def test_a_node_that_has_not_heard_of_versions_loses_none(shelf: Shelf) -> None:
    one = await shelf.put(b"one")
    await shelf.put(b"two", bucket=shelf.never)
    assert len(await shelf.shown()) == 2
    await shelf.delete(bucket=shelf.never)
    assert len(await shelf.shown()) == 3
    assert await shelf.content(one) == b"one"


async def test_many_puts_at_once_make_as_many_versions(shelf: Shelf) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(shelf.kit.put, shelf.bucket, KEY, b"%d" % number)
    shown = await shelf.shown()
    assert len(shown) == 20
    assert {await shelf.content(version) for version in shown} == {b"%d" % number for number in range(20)}


# -- what else goes by versions ---------------------------------------------------------------------------------------


async def test_no_chunk_of_any_version_is_collected_and_all_of_a_removed_one_are(shelf: Shelf) -> None:
    one = await shelf.put(b"1" * MIB)
    two = await shelf.put(b"2" * MIB)
    await shelf.delete()
    shelf.kit.wall.pass_s(48 * 3600)
    assert await shelf.kit.collect() == 0
    assert await shelf.content(one) == b"1" * MIB
    assert await shelf.kit.damaged() == 0
    await shelf.delete(one)
    shelf.kit.wall.pass_s(48 * 3600)
    assert await shelf.kit.collect() == 1
    assert await shelf.content(two) == b"2" * MIB


async def test_a_delete_marker_is_not_forgotten_with_old_tombstones(shelf: Shelf) -> None:
    one = await shelf.put(b"one")
    marker = await shelf.delete()
    shelf.kit.wall.pass_s(24 * 3600)
    await shelf.kit.collect()
    assert await shelf.shown() == [marker, one]


async def test_a_bucket_with_any_version_or_marker_is_not_deleted(shelf: Shelf) -> None:
    await shelf.kit.directory.write(
        shelf.kit.directory.vault_record(
            shelf.bucket.keys,
            Kind.RULES,
            f"{shelf.bucket.id}/versioning",
            public={},
            private={"value": "Enabled"},
        )
    )
    marker = await shelf.delete()
    with pytest.raises(BucketNotEmptyError):
        await shelf.kit.vaults.delete(shelf.bucket.id, with_uploads=True)
    await shelf.delete(marker)
    await shelf.kit.vaults.delete(shelf.bucket.id, with_uploads=True)


async def test_a_check_reads_every_version_and_names_one_that_is_damaged(shelf: Shelf) -> None:
    one = await shelf.put(b"1" * MIB)
    content = open_content(shelf.bucket.keys, KEY, (await shelf.kit.objects.find(shelf.bucket, KEY)).content)
    await shelf.put(b"2" * MIB)
    assert await shelf.kit.damaged() == 0
    assert shelf.kit.chunks.remove_if_unused_since(shelf.bucket.id, content.refs[0].chunk, 2e9)
    (report,) = await shelf.kit.care.check(None, ignore, deep=True)
    assert (report.objects, report.versions, report.damaged) == (1, 1, 1)
    assert report.missing == [f"photos/{KEY.decode()}, version {one}"]
