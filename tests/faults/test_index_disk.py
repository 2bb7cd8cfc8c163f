"""The index under a killed process, a full disk and a disk that fails to sync."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from tests.index_truth import check_sums

from meshhold.errors import IntegrityError, StorageFailedError, StorageFullError, SyncFailedError
from meshhold.index.checkpoints import Checkpoints
from meshhold.index.contract import Counts, Listed, Row
from meshhold.index.sqlite import SqliteIndex, open_index
from meshhold.model.entry import Space
from meshhold.model.ids import VaultId
from meshhold.model.stamp import Stamp

VAULT = VaultId("a" * 32)
BALLOT = Stamp(1, b"nodenode")

WRITER = """
import sqlite3, sys, trio
from pathlib import Path
from meshhold.index import ledger
from meshhold.index.contract import Listed, Row
from meshhold.index.sqlite import open_index
from meshhold.model.entry import Space
from meshhold.model.stamp import Stamp

ledger.SETTLE_AT = 64

async def save_all(index, writer):
    for number in range(100_000):
        key = b"%d-%d" % (writer, number)
        row = Row(Stamp(number + 1, b"nodenode"), key * 200)
        await index.save("a" * 32, Space.OBJECTS, key, row, Listed(key, len(row.entry), "e", 1, ""))
        print(key.decode(), flush=True)

def fail():
    error = sqlite3.OperationalError("injected")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    raise error

async def main():
    async with open_index(Path(sys.argv[1])) as index, trio.open_nursery() as nursery:
        if sys.argv[2] == "thread":
            index.commits._pace.note(3600.0, index.commits._now_s())
        if sys.argv[2] == "sync fails":
            index.commits._before_commit = fail
        for writer in range(4):
            nursery.start_soon(save_all, index, writer)

trio.run(main)
"""


def start_writer(path: Path, place: str, *before: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", WRITER, str(path), place]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


async def save(index: SqliteIndex, key: bytes, size: int = 2_000) -> None:
    await index.save(VAULT, Space.OBJECTS, key, Row(BALLOT, bytes(size)), Listed(key, size, "e", 1, ""))


@pytest.mark.parametrize("place", ["loop", "thread"])
async def test_every_acknowledged_row_survives_kill_9(tmp_path: Path, place: str) -> None:
    path = tmp_path / "index.db"
    acknowledged: set[str] = set()
    chance = random.Random(place)
    for _ in range(3):
        process = start_writer(path, place)
        acknowledged.update(lines_of(process, chance.randrange(20, 200)))
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        acknowledged.update(line for line in rest.split("\n")[:-1])  # the last line may be cut
    async with open_index(path) as index:
        for key in acknowledged:
            row = index.load(VAULT, Space.OBJECTS, key.encode())
            assert row is not None, f"{key} was acknowledged and is gone"
            assert row.entry == key.encode() * 200
        rows = index.scan(VAULT, Space.OBJECTS, b"", b"", 10_000)
        assert index.counts(VAULT) == Counts(len(rows), sum(len(row.entry) for _, row in rows))
        check_sums(index, VAULT)
        assert index._reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# -- a full disk -------------------------------------------------------------------------------------------------------


class SmallDisk:
    """A place for an index that can be full: a tmpfs of 1 MiB or, where mounting is refused, SQLite's page limit."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        self.mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
        self.path = folder / "index.db"
        self._ballast = folder / "ballast"

    def fill(self, index: SqliteIndex) -> None:
        if self.mounted:
            self._ballast.write_bytes(bytes(400 * 1024))
        else:
            index._writer.execute("PRAGMA max_page_count = 100")

    def free(self, index: SqliteIndex) -> None:
        if self.mounted:
            self._ballast.unlink()
        else:
            index._writer.execute("PRAGMA max_page_count = 100000")

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.path.parent)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "small")
    yield disk
    disk.close()


async def save_until_refused(index: SqliteIndex, prefix: bytes = b"") -> int:
    """Return how many rows were saved before the disk was full."""
    for number in range(1_000):
        try:
            await save(index, prefix + b"%04d" % number)
        except StorageFullError:
            return number
    pytest.fail("the disk was never full")


async def test_on_a_full_disk_writes_fail_reads_go_on_and_space_heals(small_disk: SmallDisk) -> None:
    async with open_index(small_disk.path) as index:
        small_disk.fill(index)
        saved = await save_until_refused(index)
        assert saved > 10
        assert index.load(VAULT, Space.OBJECTS, b"%04d" % saved) is None
        assert index.load(VAULT, Space.OBJECTS, b"%04d" % (saved - 1)) is not None
        assert index.counts(VAULT).objects == saved
        saved += await save_until_refused(index, b"still full ")  # a checkpoint right now may make room for a few
        assert index.counts(VAULT).objects == saved
        small_disk.free(index)
        await save(index, b"again")
        assert index.counts(VAULT).objects == saved + 1
    async with open_index(small_disk.path) as index:
        assert index.counts(VAULT).objects == saved + 1


async def test_rows_refused_together_on_a_full_disk_are_all_absent(small_disk: SmallDisk) -> None:
    refused: list[bytes] = []

    async def attempt(index: SqliteIndex, key: bytes) -> None:
        try:
            await save(index, key, 16_000)
        except StorageFullError:
            refused.append(key)

    async with open_index(small_disk.path) as index:
        small_disk.fill(index)
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(attempt, index, b"%d" % number)
        assert len(refused) > 10
        assert all(index.load(VAULT, Space.OBJECTS, key) is None for key in refused)
        assert index.counts(VAULT).objects == 100 - len(refused)
        small_disk.free(index)
        await save(index, b"small")


# -- injected errors ---------------------------------------------------------------------------------------------------


class FailingConnection:
    """A connection whose statement number `nth` that contains `word` fails with an SQLite error code."""

    def __init__(self, real: sqlite3.Connection, word: str, code: int, nth: int = 1) -> None:
        self._real = real
        self._word = word
        self._code = code
        self._left = nth

    def execute(self, statement: str, *arguments: object) -> sqlite3.Cursor:
        self._count(statement)
        return self._real.execute(statement, *arguments)  # type: ignore[arg-type] # passed on as they came

    def executemany(self, statement: str, rows: list[tuple[object, ...]]) -> sqlite3.Cursor:
        self._count(statement)
        return self._real.executemany(statement, rows)

    def _count(self, statement: str) -> None:
        if self._word in statement:
            self._left -= 1
            if self._left == 0:
                error = sqlite3.OperationalError("injected")
                error.sqlite_errorcode = self._code
                error.sqlite_errorname = "INJECTED"
                raise error

    @property
    def in_transaction(self) -> bool:
        return self._real.in_transaction


def break_writer(index: SqliteIndex, word: str, code: int, nth: int = 1) -> None:
    failing = FailingConnection(index._writer, word, code, nth)
    index.commits._connection = failing  # type: ignore[assignment] # stands in for the real one
    index._writer = failing  # type: ignore[assignment] # same


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("word", ["BEGIN", "SELECT state", "INTO register", "INTO change", "COMMIT"])
async def test_an_io_error_at_any_statement_fails_its_batch_and_no_later_one(
    tmp_path: Path, word: str, nth: int
) -> None:
    async with open_index(tmp_path / "index.db") as index:
        break_writer(index, word, sqlite3.SQLITE_IOERR_WRITE, nth)
        done: list[int] = []
        for number in range(5):
            try:
                await save(index, b"%d" % number, 10)
                done.append(number)
            except StorageFailedError:
                assert number == nth - 1
        assert done == [number for number in range(5) if number != nth - 1]
        rows = index.scan(VAULT, Space.OBJECTS, b"", b"", 10)
        assert [int(key) for key, _ in rows] == done
        assert index.counts(VAULT) == Counts(4, 40)


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("word", ["INTO name", "DELETE FROM name", "INTO vault", "DELETE FROM change", "COMMIT"])
async def test_an_io_error_while_sums_are_settled_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, nth: int
) -> None:
    monkeypatch.setattr("meshhold.index.ledger.SETTLE_AT", 3)
    refused = 0
    async with open_index(tmp_path / "index.db") as index:
        break_writer(index, word, sqlite3.SQLITE_IOERR_WRITE, nth)
        for number in range(20):
            try:
                await save(index, b"%d" % number, 10)
                if number % 3 == 0:
                    await index.forget(VAULT, Space.OBJECTS, [(b"%d" % number, BALLOT)])
            except StorageFailedError:
                refused += 1
            check_sums(index, VAULT)
    assert refused == 1
    async with open_index(tmp_path / "index.db") as index:
        check_sums(index, VAULT)


async def test_a_failed_sync_ends_the_index_and_acknowledges_nothing(tmp_path: Path) -> None:
    refused: list[int] = []

    async def attempt(index: SqliteIndex, number: int) -> None:
        try:
            await save(index, b"%d" % number)
        except SyncFailedError:
            refused.append(number)

    async def serve() -> None:
        async with open_index(tmp_path / "index.db") as index:
            break_writer(index, "COMMIT", sqlite3.SQLITE_IOERR_FSYNC)
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for number in range(3):
                        nursery.start_soon(attempt, index, number)
                await attempt(index, 99)
            await trio.sleep_forever()

    with pytest.raises(SyncFailedError):
        await serve()
    assert sorted(refused) == [0, 1, 2, 99]


async def test_a_failed_sync_in_a_checkpoint_ends_the_index(tmp_path: Path) -> None:
    async def serve() -> None:
        async with open_index(tmp_path / "index.db") as index:
            break_checkpoints(index, sqlite3.SQLITE_IOERR_FSYNC).grew(1_000_000)
            await trio.sleep_forever()

    with pytest.raises(SyncFailedError):
        await serve()


def break_checkpoints(index: SqliteIndex, code: int) -> Checkpoints:
    """Make the next checkpoint fail."""
    checkpoints = index.checkpoints
    assert checkpoints is not None
    failing = FailingConnection(checkpoints._connection, "wal_checkpoint", code)
    checkpoints._connection = failing  # type: ignore[assignment] # stands in for the real one
    return checkpoints


async def test_a_checkpoint_that_finds_the_disk_full_is_tried_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def inline(function: Callable[..., object], /, *arguments: object) -> object:
        return function(*arguments)

    async with open_index(tmp_path / "index.db", run_blocking=inline) as index:  # type: ignore[arg-type] # less generic
        checkpoints = break_checkpoints(index, sqlite3.SQLITE_FULL)
        await save(index, b"key")
        checkpoints.grew(1_000_000)
        await trio.testing.wait_all_tasks_blocked()
        assert "disk is full" in caplog.text
        await save(index, b"works")
        checkpoints.grew(1_000_000)
        await trio.testing.wait_all_tasks_blocked()
        assert checkpoints._pages == 0


def test_a_failing_fsync_ends_the_process_and_nothing_unsynced_was_acknowledged(tmp_path: Path) -> None:
    """The whole way from the system call: strace, where it may trace, makes the 20th fdatasync answer EIO."""
    path = tmp_path / "index.db"
    if may_trace():
        fault = ("-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=20")
        process = start_writer(path, "loop", "strace", "-f", "-qq", *fault, "-o", os.devnull)
    else:
        process = start_writer(path, "sync fails")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "SyncFailedError" in errors
    assert "fsync failed" in errors
    connection = sqlite3.connect(path)
    stored = {key for (key,) in connection.execute("SELECT key FROM register")}
    connection.close()
    assert {line.encode() for line in output.split()} <= stored


def may_trace() -> bool:
    trial = ["strace", "-o", os.devnull, "true"]
    return bool(shutil.which("strace")) and subprocess.run(trial, check=False, capture_output=True).returncode == 0


async def test_damage_is_called_damage_and_not_an_absent_row(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    async with open_index(path) as index:
        for number in range(100):
            await save(index, b"%d" % number)
    damage(path, lambda raw: raw[:8_192] + b"\xaa" * (len(raw) - 8_192))

    async def read() -> None:
        async with open_index(path) as index:
            index.load(VAULT, Space.OBJECTS, b"50")

    with pytest.raises(IntegrityError, match="damaged"):
        await read()


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))
