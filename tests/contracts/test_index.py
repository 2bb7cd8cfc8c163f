"""What every index promises: one suite over the file and the in-memory one."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshhold.errors import StorageFailedError
from meshhold.index.contract import Counts, Index, Listed, Records, Row
from meshhold.index.sqlite import SqliteIndex, open_index
from meshhold.model.entry import Space
from meshhold.model.ids import VaultId
from meshhold.model.stamp import Stamp

VAULT = VaultId("a" * 32)
OTHER = VaultId("b" * 32)
NODE = b"nodenode"
OpenIndex = Callable[[], AbstractAsyncContextManager[SqliteIndex]]


def stamp(time: int) -> Stamp:
    return Stamp(time, NODE)


def listed(key: bytes, size: int = 10) -> Listed:
    return Listed(key, size, "e" * 32, 1_700_000_000_000, "CRC32:FULL_OBJECT")


async def put(index: Index, key: bytes, size: int = 10, time: int = 1, vault: VaultId = VAULT) -> None:
    await index.save(vault, Space.OBJECTS, key, Row(stamp(time), b"entry of " + key), listed(key, size))


async def bury(index: Index, key: bytes, time: int = 2) -> None:
    await index.save(VAULT, Space.OBJECTS, key, Row(stamp(time), b"tombstone"), None)


def keys_of(rows: list[Listed]) -> list[bytes]:
    return [row.key for row in rows]


@pytest.fixture(params=["file", "memory"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> OpenIndex:
    path = tmp_path / "index.db" if request.param == "file" else None
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
