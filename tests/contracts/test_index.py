"""What every index promises: one suite over the file, the in-memory one and the one of the simulation."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from tests.index_truth import check_sums, names_in
from tests.simulation.index_disk import Disk, MemoryIndex
from tests.simulation.index_disk import open_index as open_disk

from meshhold.errors import StorageFailedError
from meshhold.index.contract import (
    BUCKETS,
    SAVE_MANY_MAX,
    Change,
    Counts,
    Index,
    Listed,
    Name,
    Records,
    Row,
    bucket_of,
)
from meshhold.index.sqlite import SqliteIndex, open_index
from meshhold.model.entry import Space
from meshhold.model.ids import VaultId
from meshhold.model.stamp import Stamp

VAULT = VaultId("a" * 32)
OTHER = VaultId("b" * 32)
NODE = b"nodenode"
OpenIndex = Callable[[], AbstractAsyncContextManager[SqliteIndex | MemoryIndex]]


def stamp(time: int) -> Stamp:
    return Stamp(time, NODE)


def listed(key: bytes, size: int = 10) -> Listed:
    return Listed(key, size, "e" * 32, 1_700_000_000_000, "CRC32:FULL_OBJECT")


async def put(index: Index, key: bytes, size: int = 10, time: int = 1, vault: VaultId = VAULT) -> None:
    await index.save(vault, Space.OBJECTS, key, Row(stamp(time), b"entry of " + key), listed(key, size))


async def bury(index: Index, key: bytes, time: int = 2) -> None:
    await index.save(VAULT, Space.OBJECTS, key, Row(stamp(time), b"tombstone"), None, tombstone=True)


def keys_of(rows: list[Listed]) -> list[bytes]:
    return [row.key for row in rows]


@pytest.fixture(params=["file", "file that settles often", "memory", "simulated disk"])
def opening(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenIndex:
    if request.param == "file that settles often":
        monkeypatch.setattr("meshhold.index.ledger.SETTLE_AT", 3)
    if request.param == "simulated disk":
        return lambda: open_disk(Disk(), random.Random(1))
    path = None if request.param == "memory" else tmp_path / "index.db"
    return lambda: open_index(path)


@asynccontextmanager
async def _as_contracts(opening: OpenIndex) -> AsyncIterator[tuple[Index, Records]]:
    async with opening() as index:
        yield index, index


async def test_it_satisfies_both_contracts(opening: OpenIndex) -> None:
    async with _as_contracts(opening) as (index, records):
        assert index.load(VAULT, Space.OBJECTS, b"never") is None
        assert records.load_records() == []


async def test_a_saved_row_is_read_back_and_replaced(opening: OpenIndex) -> None:
    async with opening() as index:
        await put(index, b"key", time=1)
        await index.save(VAULT, Space.OBJECTS, b"key", Row(stamp(2), b"second"), listed(b"key"))
        assert index.load(VAULT, Space.OBJECTS, b"key") == Row(stamp(2), b"second")


async def test_vaults_and_spaces_are_apart(opening: OpenIndex) -> None:
    async with opening() as index:
        await put(index, b"key")
        await index.save(VAULT, Space.PARTS, b"key", Row(stamp(3), b"part"), None)
        assert index.load(OTHER, Space.OBJECTS, b"key") is None
        assert index.load(VAULT, Space.UPLOADS, b"key") is None
        assert index.load(VAULT, Space.PARTS, b"key") == Row(stamp(3), b"part")
        assert keys_of(index.list_keys(OTHER, b"", b"", 10)) == []


async def test_keys_are_exact_bytes_in_byte_order(opening: OpenIndex) -> None:
    awkward = [
        b"",
        b"\x00",
        b"//",
        b"..",
        b"A",
        b"a",
        b"a\x00b",
        b"a%2Fb",
        "ä".encode(),
        b"\xf0\x9f\x98\x80",
        b"\xff\xff",
    ]
    async with opening() as index:
        for key in awkward:
            await put(index, key)
        found = index.scan(VAULT, Space.OBJECTS, b"", b"", 100)
        first = index.first_key(VAULT, b"", b"")
    assert first == b""
    assert [key for key, _ in found] == sorted(awkward)[1:], (
        "a page begins after `after`: the empty key is not after itself"
    )


async def test_a_listing_shows_live_objects_only(opening: OpenIndex) -> None:
    async with opening() as index:
        for key in (b"a", b"b", b"c"):
            await put(index, key)
        await bury(index, b"b")
        assert index.list_keys(VAULT, b"", b"", 10) == [listed(b"a"), listed(b"c")]
        assert [key for key, _ in index.scan(VAULT, Space.OBJECTS, b"", b"", 10)] == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("after", "prefix", "limit", "expected"),
    [
        (b"", b"", 2, [b"a/1", b"a/2"]),
        (b"a/1", b"", 2, [b"a/2", b"a/\xff"]),
        (b"", b"a/", 9, [b"a/1", b"a/2", b"a/\xff"]),
        (b"a/2", b"a/", 9, [b"a/\xff"]),
        (b"b", b"a/", 9, []),
        (b"a/", b"a/", 9, [b"a/1", b"a/2", b"a/\xff"]),
        (b"", b"a/\xff", 9, [b"a/\xff"]),
        (b"", b"\xff", 9, [b"\xff", b"\xff\xff"]),
        (b"\xff", b"\xff", 9, [b"\xff\xff"]),
        (b"", b"absent", 9, []),
        (b"", b"", 0, []),
    ],
)
async def test_a_page_holds_the_keys_after_one_with_a_prefix(
    opening: OpenIndex, after: bytes, prefix: bytes, limit: int, expected: list[bytes]
) -> None:
    async with opening() as index:
        for key in (b"a/1", b"a/2", b"a/\xff", b"b", b"\xff", b"\xff\xff"):
            await put(index, key)
        assert keys_of(index.list_keys(VAULT, after, prefix, limit)) == expected
        assert [key for key, _ in index.scan(VAULT, Space.OBJECTS, after, prefix, limit)] == expected


@pytest.mark.parametrize("prefix", [b"", b"k", b"k0", b"k1", b"k\xff", b"x"])
@pytest.mark.parametrize("after", [b"", b"k0017", b"k0100", b"k0149", b"k1", b"z"])
async def test_a_look_shows_the_objects_of_a_page_and_names_all_rows_among_them(
    opening: OpenIndex, after: bytes, prefix: bytes
) -> None:
    async with opening() as index:
        changes = [
            Change(
                Space.OBJECTS,
                b"k%04d" % number,
                Row(stamp(number), b"entry"),
                None if number % 5 == 2 or 60 <= number < 80 else listed(b"k%04d" % number, number),
                number % 3 == 0,
            )
            for number in range(150)
        ]
        await index.save_many(VAULT, changes)
        await index.save(VAULT, Space.UPLOADS, b"k0000", Row(stamp(1), b"upload"), None)
        await put(index, b"k0000", vault=OTHER)
        names = [(each.key, each.row.accepted.pack()) for each in changes]
        names = [name for name in names if name[0] > after and name[0].startswith(prefix)]
        live = index.list_keys(VAULT, after, prefix, 1_000)
        for limit, names_max in (
            (1_000, 1_000),
            (1, 1_000),
            (30, 1_000),
            (1_000, 40),
            (13, 20),
            (0, 9),
            (-1, 9),
            (9, 0),
        ):
            look = index.look(VAULT, after, prefix, limit, names_max)
            assert look.names == names[: len(look.names)]
            upto = look.names[-1][0] if look.names else b""
            assert look.rows == [row for row in live if row.key <= upto]
            assert len(look.rows) <= max(0, limit)
            assert len(look.names) <= names_max
            if look.is_whole:
                assert look.names == names
            else:
                assert len(look.rows) == max(0, limit) or len(look.names) == names_max
        assert index.look(VAULT, after, prefix, 1_000, 1_000) == (live, names, True)


async def test_a_look_ends_where_the_vault_ends(opening: OpenIndex) -> None:
    async with opening() as index:
        assert index.look(VAULT, b"", b"", 9, 9) == ([], [], True)
        await put(index, b"a", vault=OTHER)
        await put(index, b"b")
        assert index.look(VAULT, b"", b"", 9, 9) == ([listed(b"b")], [(b"b", stamp(1).pack())], True)
        assert index.look(OTHER, b"", b"", 9, 9) == ([listed(b"a")], [(b"a", stamp(1).pack())], True)


async def test_the_first_key_is_one_at_least_the_bound(opening: OpenIndex) -> None:
    async with opening() as index:
        for key in (b"a/1", b"a/2", b"b/1"):
            await put(index, key)
        await bury(index, b"a/2")
        assert index.first_key(VAULT, b"a/1", b"") == b"a/1"
        assert index.first_key(VAULT, b"a/2", b"") == b"b/1", "tombstones are stepped over"
        assert index.first_key(VAULT, b"", b"b/") == b"b/1"
        assert index.first_key(VAULT, b"a/2", b"a/") is None


async def test_counts_follow_every_change(opening: OpenIndex) -> None:
    async with opening() as index:
        assert index.counts(VAULT) == Counts(0, 0)
        await put(index, b"a", size=5)
        await put(index, b"b", size=7)
        await put(index, b"a", size=6, time=2)
        assert index.counts(VAULT) == Counts(2, 13)
        await bury(index, b"a", time=3)
        await bury(index, b"a", time=4)
        assert index.counts(VAULT) == Counts(1, 7)
        await index.save(VAULT, Space.PARTS, b"part", Row(stamp(1), b"x"), None)
        assert index.counts(VAULT) == Counts(1, 7)


async def test_racing_changes_of_one_key_are_counted_once(opening: OpenIndex) -> None:
    async with opening() as index:
        async with trio.open_nursery() as nursery:
            for time in range(1, 60):
                nursery.start_soon(put, index, b"same", 3, time)
        assert index.counts(VAULT) == Counts(1, 3)


async def test_forget_removes_only_the_ballot_it_was_given(opening: OpenIndex) -> None:
    async with opening() as index:
        await put(index, b"live", size=4)
        await bury(index, b"old", time=5)
        await bury(index, b"changed", time=6)
        gone = await index.forget(
            VAULT, Space.OBJECTS, [(b"old", stamp(5)), (b"changed", stamp(5)), (b"never", stamp(1))]
        )
        assert gone == 1
        assert index.load(VAULT, Space.OBJECTS, b"old") is None
        assert index.load(VAULT, Space.OBJECTS, b"changed") is not None
        assert index.counts(VAULT) == Counts(1, 4)


async def test_a_dropped_vault_leaves_nothing_and_others_alone(opening: OpenIndex) -> None:
    async with opening() as index:
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(put, index, b"%d" % number)
            nursery.start_soon(put, index, b"kept", 1, 1, OTHER)
        await index.save(VAULT, Space.UPLOADS, b"upload", Row(stamp(1), b"x"), None)
        await index.drop_vault(VAULT)
        assert index.scan(VAULT, Space.OBJECTS, b"", b"", 10) == []
        assert index.scan(VAULT, Space.UPLOADS, b"", b"", 10) == []
        assert index.counts(VAULT) == Counts(0, 0)
        assert index.counts(OTHER) == Counts(1, 1)
        await put(index, b"again", size=2)
        assert index.counts(VAULT) == Counts(1, 2)


# -- what replicas compare ---------------------------------------------------------------------------------------------

ROWS = [Change(Space(n % 3), b"key %d" % n, Row(stamp(n + 1), b"x"), None, tombstone=n % 2 == 0) for n in range(40)]


async def test_an_index_without_rows_has_digests_of_nothing(opening: OpenIndex) -> None:
    async with opening() as index:
        assert index.bucket_digests(VAULT) == bytes(BUCKETS * 8)
        assert index.bucket_names(VAULT, 0, 10) == []
        assert index.interval(VAULT, Space.OBJECTS, b"", None, 10) == []
        assert index.tombstones(VAULT, None, 10) == []


async def test_buckets_and_digests_are_the_same_on_every_node(opening: OpenIndex) -> None:
    """Replicas of other versions compare with these: they never change."""
    assert bucket_of(Space.PARTS, b"key") == 689
    assert bucket_of(Space.OBJECTS, b"key") == 952
    async with opening() as index:
        await put(index, b"key", time=1)
        digests = index.bucket_digests(VAULT)
    assert len(digests) == 8192
    assert digests[952 * 8 : 953 * 8].hex() == "64d13955e5ff6a76"


async def test_equal_rows_have_equal_digests_whatever_their_order(opening: OpenIndex) -> None:
    async with opening() as index:
        for change in ROWS:
            await index.save(VAULT, *change[:4], tombstone=change.tombstone)
        found = index.bucket_digests(VAULT)
        check_sums(index, VAULT)
    async with open_index(None) as other:
        await put(other, b"key 3", time=900)
        await put(other, b"passing", time=5)
        await other.save_many(VAULT, ROWS[::-1])
        assert other.bucket_digests(VAULT) != found
        await other.forget(VAULT, Space.OBJECTS, [(b"passing", stamp(5))])
        assert other.bucket_digests(VAULT) == found
        assert other.bucket_digests(OTHER) == bytes(BUCKETS * 8)


@pytest.mark.parametrize(
    ("space", "key", "time"),
    [(Space.OBJECTS, b"key", 2), (Space.UPLOADS, b"key", 1), (Space.OBJECTS, b"key 2", 1)],
)
async def test_any_one_change_shows_in_the_digest_of_its_bucket_alone(
    opening: OpenIndex, space: Space, key: bytes, time: int
) -> None:
    async with opening() as index:
        await put(index, b"key", time=1)
        before = index.bucket_digests(VAULT)
        await index.save(VAULT, space, key, Row(stamp(time), b"x"), None)
        after = index.bucket_digests(VAULT)
    differing = {at // 8 for at in range(len(before)) if before[at] != after[at]}
    assert differing == {bucket_of(space, key)}


async def test_a_row_that_is_forgotten_leaves_the_digest_as_it_was(opening: OpenIndex) -> None:
    async with opening() as index:
        await index.save_many(VAULT, ROWS)
        before = index.bucket_digests(VAULT)
        await bury(index, b"gone", time=7)
        assert index.bucket_digests(VAULT) != before
        await index.forget(VAULT, Space.OBJECTS, [(b"gone", stamp(6))])
        assert index.bucket_digests(VAULT) != before, "another ballot than the row's removes nothing"
        await index.forget(VAULT, Space.OBJECTS, [(b"gone", stamp(7))])
        assert index.bucket_digests(VAULT) == before


async def test_a_dropped_vault_has_no_digests_and_begins_anew(opening: OpenIndex) -> None:
    async with opening() as index:
        await index.save_many(VAULT, ROWS)
        await put(index, b"kept", vault=OTHER)
        kept = index.bucket_digests(OTHER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(index.drop_vault, VAULT)
            nursery.start_soon(index.drop_vault, VAULT)
        assert index.bucket_digests(VAULT) == bytes(BUCKETS * 8)
        check_sums(index, VAULT)
        await index.save_many(VAULT, ROWS[:9])
        check_sums(index, VAULT)
        assert index.bucket_digests(OTHER) == kept


@pytest.mark.parametrize("seed", range(3))
async def test_sums_agree_with_the_rows_after_any_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Saves, removals, dropped vaults and restarts, in batches of every size, across many times of settling."""
    monkeypatch.setattr("meshhold.index.ledger.SETTLE_AT", 20)
    chance = random.Random(seed)
    time = 0
    for _ in range(3):
        async with open_index(tmp_path / "index.db") as index:
            for _ in range(12):
                vault = chance.choice([VAULT, VAULT, OTHER])
                time += 1
                batch = [chance.choice(ROWS)._replace(row=Row(stamp(time), b"x")) for _ in range(chance.randrange(12))]
                await index.save_many(vault, batch)
                space = chance.choice(list(Space))
                gone = [name for name in names_in(index, vault) if name.space is space and chance.random() < 0.5]
                await index.forget(vault, space, [(name.key, name.accepted) for name in gone])
                if chance.random() < 0.1:
                    await index.drop_vault(vault)
            check_sums(index, VAULT)
            check_sums(index, OTHER)
    async with open_index(tmp_path / "index.db") as index:
        check_sums(index, VAULT)
        check_sums(index, OTHER)


async def test_a_buckets_names_come_in_pages(opening: OpenIndex) -> None:
    bucket = bucket_of(Space.PARTS, b"0")
    keys = [b"%d" % n for n in range(6_000) if bucket_of(Space.OBJECTS, b"%d" % n) == bucket]
    expected = [Name(Space.OBJECTS, key, stamp(1)) for key in sorted(keys)] + [Name(Space.PARTS, b"0", stamp(1))]
    async with opening() as index:
        await index.save_many(VAULT, [Change(name.space, name.key, Row(stamp(1), b""), None) for name in expected])
        await put(index, b"elsewhere", vault=OTHER)
        found: list[Name] = []
        while page := index.bucket_names(VAULT, bucket, 2, found[-1][:2] if found else None):
            assert len(page) <= 2
            found += page
        assert found == expected
        assert index.bucket_names(VAULT, bucket, 0) == []
        assert index.bucket_names(VAULT, bucket, -1) == []


@pytest.mark.parametrize(
    ("after", "upto", "limit", "expected"),
    [
        (b"", None, 9, [b"a", b"b", b"b\x00", b"c", b"\xff"]),
        (b"a", None, 2, [b"b", b"b\x00"]),
        (b"a", b"b", 9, [b"b"]),
        (b"a", b"b\xff", 9, [b"b", b"b\x00"]),
        (b"", b"a", 9, [b"a"]),
        (b"c", b"c", 9, []),
        (b"d", b"c", 9, []),
        (b"\xff", None, 9, []),
        (b"", None, 0, []),
    ],
)
async def test_an_interval_is_open_below_and_closed_above(
    opening: OpenIndex, after: bytes, upto: bytes | None, limit: int, expected: list[bytes]
) -> None:
    async with opening() as index:
        for key in (b"a", b"b", b"b\x00", b"c", b"\xff"):
            await put(index, key)
        await bury(index, b"b", time=5)
        await index.save(VAULT, Space.PARTS, b"b", Row(stamp(9), b"x"), None)
        found = index.interval(VAULT, Space.OBJECTS, after, upto, limit)
        assert found == [Name(Space.OBJECTS, key, stamp(5 if key == b"b" else 1)) for key in expected]
        ballots = index.ballots(VAULT, Space.OBJECTS, after, upto, limit)
        assert ballots == [(name.key, name.accepted.pack()) for name in found]


async def test_tombstones_of_all_spaces_come_in_pages(opening: OpenIndex) -> None:
    expected = [Name(change.space, change.key, change.row.accepted) for change in ROWS if change.tombstone]
    expected.sort()
    async with opening() as index:
        await index.save_many(VAULT, ROWS)
        await put(index, b"live")
        await bury(index, b"elsewhere")
        await put(index, b"elsewhere", time=9)
        found: list[Name] = []
        while page := index.tombstones(VAULT, found[-1][:2] if found else None, 3):
            assert len(page) <= 3
            found += page
        assert found == expected, "an object's row that is not listed is a delete marker, and none of them"
        await index.forget(VAULT, expected[0].space, [(expected[0].key, expected[0].accepted)])
        assert index.tombstones(VAULT, None, 1) == expected[1:2]


async def test_many_rows_are_saved_all_or_none(opening: OpenIndex) -> None:
    async with opening() as index:
        broken = Change(Space.OBJECTS, b"huge", Row(stamp(1), b"x"), listed(b"huge", 2**63))
        with pytest.raises(StorageFailedError):
            await index.save_many(VAULT, [*ROWS, broken])
        assert index.bucket_digests(VAULT) == bytes(BUCKETS * 8)
        assert names_in(index, VAULT) == []
        await index.save_many(VAULT, [])
        await index.save_many(VAULT, [*ROWS, ROWS[0]._replace(row=Row(stamp(99), b"last"))])
        assert index.load(VAULT, ROWS[0].space, ROWS[0].key) == Row(stamp(99), b"last")
        check_sums(index, VAULT)


async def test_too_many_rows_for_one_commit_are_refused(opening: OpenIndex) -> None:
    async with opening() as index:
        with pytest.raises(ValueError, match="at most"):
            await index.save_many(VAULT, [ROWS[0]] * (SAVE_MANY_MAX + 1))
        assert names_in(index, VAULT) == []


async def test_a_key_too_long_to_be_named_is_refused(opening: OpenIndex) -> None:
    async with opening() as index:
        with pytest.raises(StorageFailedError):
            await put(index, bytes(2**16))
        await put(index, b"fine")
        check_sums(index, VAULT)


# -- settings, records, failures ---------------------------------------------------------------------------------------


async def test_settings_and_records_are_kept(opening: OpenIndex) -> None:
    async with opening() as index:
        assert index.setting("horizon") is None
        await index.save_setting("horizon", b"1")
        await index.save_setting("horizon", b"2")
        assert index.setting("horizon") == b"2"
        await index.save_records([("vault", "v", b"1"), ("alias", "a", b"2")])
        await index.save_records([("vault", "v", b"3")])
        assert index.load_records() == [("alias", "a", b"2"), ("vault", "v", b"3")]
        await index.forget_records([("vault", "v"), ("vault", "a")])
        assert index.load_records() == [("alias", "a", b"2")]


async def test_records_are_saved_all_or_none(opening: OpenIndex) -> None:
    async with opening() as index:
        broken: list[tuple[str, str, bytes]] = [("vault", "v", b"1"), ("vault", "w", None)]  # type: ignore[list-item] # the fault
        with pytest.raises(StorageFailedError):
            await index.save_records(broken)
        assert index.load_records() == []
        await index.save_records([("vault", "v", b"1")])
        assert index.load_records() == [("vault", "v", b"1")]


async def test_a_failing_write_fails_alone_or_with_its_commit_and_the_index_goes_on(opening: OpenIndex) -> None:
    async with opening() as index:
        with pytest.raises(StorageFailedError):
            await index.save(VAULT, Space.OBJECTS, b"huge", Row(stamp(1), b"x"), listed(b"huge", 2**63))
        assert index.load(VAULT, Space.OBJECTS, b"huge") is None
        await put(index, b"fine")
        assert index.counts(VAULT) == Counts(1, 10)


async def test_a_cancelled_wait_does_not_undo_the_write(opening: OpenIndex) -> None:
    async with opening() as index:
        with trio.CancelScope() as scope:
            scope.cancel()
            await put(index, b"cancelled")
        await put(index, b"next")
        assert index.load(VAULT, Space.OBJECTS, b"cancelled") is not None


async def test_more_writers_than_the_queue_holds_all_get_through(
    opening: OpenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshhold.index.commits.PENDING_MAX", 4)
    async with opening() as index:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(put, index, b"%02d" % number)
        assert index.counts(VAULT).objects == 50


async def test_a_closed_index_refuses_to_save(opening: OpenIndex) -> None:
    async with opening() as index:
        await put(index, b"key")
    with pytest.raises(StorageFailedError, match="closed"):
        await put(index, b"late")


async def test_the_bodys_own_error_passes_unwrapped(opening: OpenIndex) -> None:
    with pytest.raises(KeyError):
        async with opening():
            raise KeyError


async def test_reads_never_see_a_row_whose_commit_is_under_way(tmp_path: Path) -> None:
    """A committed row is visible; one that waits for its fsync in a thread is not."""
    seen: list[object] = []
    async with open_index(tmp_path / "index.db") as index:

        async def slow(function: Callable[..., sqlite3.Cursor], /, *arguments: object) -> sqlite3.Cursor:
            seen.append(index.load(VAULT, Space.OBJECTS, b"key"))
            return function(*arguments)

        index.commits._run_blocking = slow  # type: ignore[assignment] # narrower than the protocol on purpose
        index.commits._pace.note(1.0, index.commits._now_s())
        await put(index, b"key")
        assert seen == [None]
        assert index.load(VAULT, Space.OBJECTS, b"key") is not None
