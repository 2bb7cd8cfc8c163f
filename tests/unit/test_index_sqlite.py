"""What is particular to the SQLite index: plans, costs, files, migrations, checkpoints."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing
from tests.index_truth import check_sums

from meshhold.errors import IntegrityError, UnknownFormatError
from meshhold.index.contract import Change, Counts, Listed, Name, Row
from meshhold.index.migrations import APPLICATION_ID, MIGRATIONS, check_schema, migrate
from meshhold.index.pace import AWAY_FACTOR, CHEAP_S, CommitPace
from meshhold.index.projection import change_of
from meshhold.index.queries import (
    BUCKET,
    FIRST,
    INTERVAL,
    LIST,
    LOOK,
    SCAN,
    TOMBSTONES,
    Query,
    Seek,
    end_of_prefix,
)
from meshhold.index.sqlite import SqliteIndex, open_index
from meshhold.model.entry import Checksums, Entry, ObjectVersion, Part, Space, decode_entry, encode_entry
from meshhold.model.ids import OpId, VaultId
from meshhold.model.stamp import Stamp

_T = TypeVar("_T")
VAULT = VaultId("a" * 32)
BALLOT = Stamp(1, b"nodenode")
SAVE = "INSERT INTO register VALUES(1, 0, ?, zeroblob(16), ?, 1, 'e', 1, '', ?)"


async def save(index: SqliteIndex, key: bytes, entry: bytes = b"entry") -> None:
    await index.save(VAULT, Space.OBJECTS, key, Row(BALLOT, entry), Listed(key, len(entry), "e", 1, ""))


def plan_of(index: SqliteIndex, statement: str) -> str:
    arguments = {"vault": 1, "space": 0, "bucket": 1, "after": b"", "upto": b"", "start": b"", "end": b"", "limit": 1}
    return " / ".join(row[3] for row in index._reader.execute(f"EXPLAIN QUERY PLAN {statement}", arguments))


@pytest.mark.parametrize(
    ("query", "seek"),
    [(LIST, "COVERING INDEX register_listing"), (FIRST, "COVERING INDEX register_listing"), (SCAN, "PRIMARY KEY")],
)
async def test_every_page_is_one_seek_without_sorting(query: Query, seek: str) -> None:
    async with open_index(None) as index:
        for statement in query.forms():
            plan = plan_of(index, statement)
            assert seek in plan
            assert "key>" in plan
            assert "B-TREE" not in plan
            assert "SCAN" not in plan


@pytest.mark.parametrize(
    ("statement", "seek"),
    [
        (BUCKET, "PRIMARY KEY (vault=? AND bucket=? AND (space,key)>(?,?))"),
        (TOMBSTONES, "COVERING INDEX register_deleted (vault=? AND (space,key)>(?,?))"),
        (INTERVAL, "PRIMARY KEY ((vault,space,key)>(?,?,?))"),
        (LOOK[True], "PRIMARY KEY ((vault,space,key)>(?,?,?))"),
        (LOOK[False], "PRIMARY KEY ((vault,space,key)>(?,?,?))"),
    ],
)
async def test_every_page_of_names_is_one_seek_without_sorting(statement: str, seek: str) -> None:
    async with open_index(None) as index:
        plan = plan_of(index, statement)
    assert seek in plan
    assert "B-TREE" not in plan
    assert "SCAN" not in plan


def steps_of(index: SqliteIndex, after: bytes, prefix: bytes) -> tuple[int, int]:
    """Return (rows, virtual machine steps in tens) of one page."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    index._reader.set_progress_handler(count, 10)
    page = index.list_keys(VAULT, after, prefix, 100)
    first = index.first_key(VAULT, after, prefix)
    index._reader.set_progress_handler(None, 0)
    assert first is not None
    return len(page), steps


async def fill(index: SqliteIndex, live: int) -> None:
    """Store `live` objects, each followed by a tombstone."""
    await save(index, b"k")
    rows = [(b"k%07d" % number, 1 + number % 2, b"x") for number in range(2 * live)]
    index._writer.executemany(SAVE, rows)


async def test_a_page_costs_the_same_in_a_large_vault_full_of_tombstones() -> None:
    costs = []
    for live in (1_000, 20_000):
        async with open_index(None) as index:
            await fill(index, live)
            costs.append(steps_of(index, b"k%07d" % live, b"k"))
    assert costs[0][0] == costs[1][0] == 100
    assert costs[1][1] <= costs[0][1] * 1.05 + 2


async def test_a_look_and_a_page_of_ballots_are_one_query_each_that_ends_near_the_last_row() -> None:
    async with open_index(None) as index:
        await fill(index, 2_000)
        statements: list[str] = []
        index._reader.set_trace_callback(statements.append)
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 10
            return 0

        reads: tuple[Callable[[], list[tuple[bytes, bytes]]], ...] = (
            lambda: index.look(VAULT, b"k0000100", b"k", 60, 2_000).names,
            lambda: index.ballots(VAULT, Space.OBJECTS, b"k0000100", b"k0000220", 2_000),
            lambda: index.look(VAULT, b"", b"k000000", 1_000, 2_000).names,
            lambda: index.ballots(VAULT, Space.OBJECTS, b"k", b"k0000009", 2_000),
        )
        for read in reads:
            steps = 0
            index._reader.set_progress_handler(count, 10)
            names = read()
            index._reader.set_progress_handler(None, 0)
            assert len(statements) == 1
            assert not index._reader.in_transaction
            assert len(names) >= 10
            assert steps < 30 * (2 * len(names) + 10), "it read on after its end"
            statements.clear()
        index._reader.set_trace_callback(None)


def test_a_prefix_ends_before_the_next_one() -> None:
    assert end_of_prefix(b"") is None
    assert end_of_prefix(b"\xff\xff") is None
    assert end_of_prefix(b"a\xff") == b"b"
    assert end_of_prefix(b"ab") == b"ac"


def test_a_seek_before_the_prefix_begins_at_it() -> None:
    seek = Seek(b"m", after=b"a")
    assert (seek.start, seek.strict, seek.end) == (b"m", False, b"n")
    seek = Seek(b"m", after=b"m1")
    assert (seek.start, seek.strict) == (b"m1", True)


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


async def test_its_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    async with open_index(path) as index:
        await save(index, b"key")
        modes = modes_in(tmp_path)
    assert modes == {"index.db": 0o600, "index.db-wal": 0o600, "index.db-shm": 0o600}


async def test_a_clean_close_leaves_one_file_with_everything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    async with open_index(path) as index:
        await save(index, b"key")
    assert list(modes_in(tmp_path)) == ["index.db"]
    async with open_index(path) as index:
        assert index.load(VAULT, Space.OBJECTS, b"key") == Row(BALLOT, b"entry")
        assert index.counts(VAULT) == Counts(1, 5)
        await save(index, b"key 2")
        assert index.counts(VAULT) == Counts(2, 10)


async def test_every_commit_is_synced(tmp_path: Path) -> None:
    async with open_index(tmp_path / "index.db") as index:
        (level,) = index._writer.execute("PRAGMA synchronous").fetchone()
        (journal,) = index._writer.execute("PRAGMA journal_mode").fetchone()
    assert (level, journal) == (2, "wal")


async def test_the_log_stays_bounded_under_steady_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshhold.index.checkpoints.PAGES_MAX", 64)
    path = tmp_path / "index.db"
    async with open_index(path) as index:
        for number in range(300):
            await save(index, b"%d" % number, bytes(4_000))
            await trio.testing.wait_all_tasks_blocked()
        log = (tmp_path / "index.db-wal").stat().st_size
        assert index.counts(VAULT).objects == 300
    assert log < 4 * 64 * 4_096, "300 rows would fill more than 1,000 pages"


async def inline(function: Callable[..., _T], /, *arguments: object) -> _T:
    return function(*arguments)


async def test_no_read_keeps_a_snapshot_that_would_hold_the_log(tmp_path: Path) -> None:
    async with open_index(tmp_path / "index.db", run_blocking=inline) as index:  # no checkpoint runs beside this one
        await save(index, b"key")
        index.load(VAULT, Space.OBJECTS, b"key")
        index.first_key(VAULT, b"", b"")
        for number in range(9):
            await save(index, b"key %d" % number)
        assert len(index.interval(VAULT, Space.OBJECTS, b"", b"key", 10)) == 1
        busy, _, _ = index._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0


# -- sums --------------------------------------------------------------------------------------------------------------


def row_of(number: int) -> Change:
    return Change(Space.PARTS, b"%d" % number, Row(BALLOT, b"x"), None)


def unsettled(index: SqliteIndex) -> list[int]:
    return [number for (number,) in index._reader.execute("SELECT number FROM change ORDER BY number")]


async def test_what_gathers_is_settled_bit_by_bit_and_leaves_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshhold.index.ledger.SETTLE_AT", 100)
    async with open_index(None) as index:
        await index.save_many(VAULT, [row_of(number) for number in range(100)])
        assert index._reader.execute("SELECT COUNT(*) FROM name").fetchone() == (0,)
        for number in range(100, 120):
            await index.save_many(VAULT, [row_of(number)])
        [(written,)] = index._reader.execute("SELECT COUNT(*) FROM name")
        assert 40 <= written <= 60, "two for each new one"
        assert unsettled(index)[0] == 1
        for number in range(120, 160):
            await index.save_many(VAULT, [row_of(number)])
        assert unsettled(index)[0] == 2, "what came after settling began waits for the next time"
        assert len(unsettled(index)) == 60
        check_sums(index, VAULT)


async def test_nothing_is_lost_of_a_vault_that_rests_while_others_settle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its names may be written before the sums that cover them."""
    monkeypatch.setattr("meshhold.index.ledger.SETTLE_AT", 20)
    path = tmp_path / "index.db"
    async with open_index(path) as index:
        await index.save_many(VAULT, [row_of(number) for number in range(20)])
        await index.save_many(VAULT, [row_of(number) for number in range(5)])
        for number in range(100):
            await index.save_many(VaultId("b" * 32), [row_of(number)])
        check_sums(index, VAULT)
    async with open_index(path) as index:
        check_sums(index, VAULT)
        check_sums(index, VaultId("b" * 32))


async def test_a_dropped_vault_is_not_written_back_by_settling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshhold.index.ledger.SETTLE_AT", 20)
    path = tmp_path / "index.db"
    other = VaultId("b" * 32)
    async with open_index(path) as index:
        await index.save_many(other, [row_of(1)])
        await index.save_many(VAULT, [row_of(number) for number in range(20)])
        await index.drop_vault(VAULT)
        for number in range(60):
            await index.save_many(other, [row_of(number)])
        check_sums(index, other)
        assert index._reader.execute("SELECT id FROM vault").fetchall() == [(other,)]
        assert index._reader.execute("SELECT DISTINCT vault FROM name").fetchall() == [(1,)]
    async with open_index(path) as index:
        check_sums(index, VAULT)
        check_sums(index, other)


@pytest.mark.parametrize("statement", ["UPDATE change SET names = x'00'", "UPDATE vault SET digests = x'00'"])
async def test_damaged_sums_are_called_damage(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "index.db"
    async with open_index(path) as index:
        await save(index, b"key")
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(IntegrityError, match="damaged"):
        async with open_index(path):
            pytest.fail("damaged sums must not open")


async def test_names_of_a_page_cost_the_same_in_a_large_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshhold.index.ledger.SETTLE_AT", 1)
    costs = []
    for live in (1_000, 20_000):
        async with open_index(None) as index:
            await fill(index, live)
            names = [(1, number % 1024, 0, b"k%07d" % number, BALLOT.pack()) for number in range(2 * live)]
            index._writer.executemany("INSERT INTO name VALUES(?, ?, ?, ?, ?)", names)
            steps = 0

            def count() -> int:
                nonlocal steps
                steps += 1
                return 0

            index._reader.set_progress_handler(count, 10)
            assert len(index.bucket_names(VAULT, 5, 1)) == 1
            assert len(index.interval(VAULT, Space.OBJECTS, b"k%07d" % live, None, 100)) == 100
            assert len(index.tombstones(VAULT, (Space.OBJECTS, b"k%07d" % live), 100)) == 100
            index._reader.set_progress_handler(None, 0)
            costs.append(steps)
    assert costs[1] <= costs[0] * 1.05 + 2


def test_a_change_is_derived_from_its_entry() -> None:
    op = OpId(bytes(16))
    version = ObjectVersion(5, "etag", 7, b"", checksums=Checksums(values={"CRC32": "x"}))
    live = change_of(Space.OBJECTS, b"key", BALLOT, Entry(op, version))
    assert live.listed == Listed(b"key", 5, "etag", 7, "CRC32:FULL_OBJECT")
    assert not live.tombstone
    assert decode_entry(live.row.entry).value == version
    part = change_of(Space.PARTS, b"key", BALLOT, Entry(op, Part(5, "etag", 7, b"")))
    assert (part.listed, part.tombstone) == (None, False)
    gone = change_of(Space.PARTS, b"key", BALLOT, Entry(op, None))
    assert (gone.listed, gone.tombstone, gone.row.accepted) == (None, True, BALLOT)


# -- migrations -------------------------------------------------------------------------------------------------------


async def test_a_newer_schema_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    async with open_index(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UnknownFormatError, match=r"schema 99.*up to"):
        async with open_index(path):
            pytest.fail("a newer file must not open")
    assert path.read_bytes() == before


async def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 42")
        connection.execute("CREATE TABLE theirs(x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UnknownFormatError, match="0x2a"):
        async with open_index(path):
            pytest.fail("a foreign file must not open")
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(b"not a database, but long enough to be taken for one " * 100)
    with pytest.raises(IntegrityError, match=r"index\.db"):
        async with open_index(path):
            pytest.fail("garbage must not open")


def test_each_migration_runs_once_from_any_older_version() -> None:
    steps = (*MIGRATIONS, ("ALTER TABLE setting ADD COLUMN note TEXT",))
    for version in range(len(steps) + 1):
        connection = sqlite3.connect(":memory:", isolation_level=None)
        if version:
            migrate(connection, steps[:version])
        assert migrate(connection, steps) == len(steps) - version
        assert migrate(connection, steps) == 0
        columns = [row[1] for row in connection.execute("PRAGMA table_info(setting)")]
        assert columns == ["name", "value", "note"]
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        connection.close()


def test_a_migration_that_fails_leaves_the_older_schema_whole() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    broken = (*MIGRATIONS, ("CREATE TABLE half(x)", "CREATE TABLE half(x)"))
    with pytest.raises(sqlite3.OperationalError, match="half"):
        migrate(connection, broken)
    check_schema(connection, "memory")
    assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall() == []
    connection.close()


def fill_first_schema(path: Path) -> None:
    """Write an index as the first version did."""
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, MIGRATIONS[:1])
    connection.execute("INSERT INTO vault VALUES(7, ?, 2, 20)", (VAULT,))
    part = encode_entry(Entry(OpId(bytes(16)), Part(1, "e", 1, b"")))
    deletion = encode_entry(Entry(OpId(bytes(16)), None))
    for space, key, live, entry in (
        (0, b"a", 1, b"not looked at"),
        (0, b"b", 1, b"not looked at"),
        (0, b"gone", 0, b"not looked at"),
        (1, b"upload gone", 0, deletion),
        (2, b"part", 0, part),
        (2, b"part gone", 0, deletion),
        (2, b"unreadable", 0, b"unreadable"),
    ):
        row = (7, space, key, BALLOT.pack(), live, 10 * live, "e", 1, "", entry)
        connection.execute("INSERT INTO register VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.close()


async def test_an_index_of_the_first_version_gets_its_sums_and_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshhold.index.filling._SLICE", 3)
    path = tmp_path / "index.db"
    fill_first_schema(path)
    async with open_index(path) as index:
        check_sums(index, VAULT)
        assert index.counts(VAULT) == Counts(2, 20)
        assert keys_of(index.list_keys(VAULT, b"", b"", 10)) == [b"a", b"b"]
        assert index.tombstones(VAULT, None, 10) == [
            Name(Space.OBJECTS, b"gone", BALLOT),
            Name(Space.UPLOADS, b"upload gone", BALLOT),
            Name(Space.PARTS, b"part gone", BALLOT),
        ]
        assert index.setting("index before seats") == b"1"
        await save(index, b"c")
        check_sums(index, VAULT)


async def test_only_an_index_of_the_first_version_is_said_to_be_older(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    for _ in range(2):
        async with open_index(path) as index:
            assert index.setting("index before seats") is None


def keys_of(rows: list[Listed]) -> list[bytes]:
    return [row.key for row in rows]


# -- pace -------------------------------------------------------------------------------------------------------------


def test_a_quick_disk_commits_on_the_loop() -> None:
    pace = CommitPace()
    pace.note(CHEAP_S / 2, 1.0)
    assert pace.on_loop(1.0)


def test_a_slow_commit_keeps_the_loop_free_in_proportion_to_its_slowness() -> None:
    pace = CommitPace()
    assert pace.on_loop(0.0), "the first commit is the measurement"
    pace.note(0.1, 1.0)
    assert not pace.on_loop(0.99 + 0.1 * AWAY_FACTOR)
    assert pace.on_loop(1.01 + 0.1 * AWAY_FACTOR)
