"""How are index rows kept in SQLite? Knows no ballot rules: it keeps the rows it is given.

Three connections to one file: writes (see `commits`), reads on the event loop, checkpoints (see `checkpoints`). Reads
see committed rows only, and in this journal mode a commit becomes visible after its fsync: no reader ever sees what a
power loss could take back. In memory one connection does all, and no transaction stays open while readers can run.

Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous.
"""

from __future__ import annotations

import os
import sqlite3
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import trio

from meshhold.blocking import RunBlocking
from meshhold.index.checkpoints import PAGE_SIZE, Checkpoints
from meshhold.index.commits import GroupCommit
from meshhold.index.contract import SAVE_MANY_MAX, Change, Counts, Listed, Look, Name, Row
from meshhold.index.failures import failure_of
from meshhold.index.ledger import STATE_DELETED, STATE_KEPT, STATE_LIVE, Ledger
from meshhold.index.migrations import check_schema, migrate
from meshhold.index.queries import BUCKET, FIRST, INTERVAL, LIST, LOOK, SCAN, TOMBSTONES, Query, Seek
from meshhold.model.entry import Space
from meshhold.model.ids import VaultId
from meshhold.model.stamp import Stamp, unpack_stamp

BUSY_TIMEOUT_MS: Final = 5_000
"""Only a person's own sqlite3 shell can hold a lock that we wait for."""
LIMIT_MAX: Final = 10_000
"""Rows of one page: reads run on the event loop."""
_DROP_SLICE: Final = 128
"""Rows removed per commit when a vault goes: a few milliseconds, so that other writers get their turn."""
_FIRST: Final = (-1, b"")  # comes before every row
_PAGES_PER_BATCH: Final = 3
_PAGES_PER_ROW: Final = 3
_FETCHED_FIRST: Final = 8
_FETCHED_MAX: Final = 64
"""Rows fetched between two checks whether it is enough. What follows the end is read in vain, while a check costs as
much as three rows: so few at first, and twice as many each time."""
_shown: Final = itemgetter(5)  # of a row of `LOOK`: None unless it is a live object
_as_listed: Final[Callable[[Any], Listed]] = partial(tuple.__new__, Listed)
"""A third of what calling the class costs, and pages are long."""

_LOAD: Final = "SELECT accepted, entry FROM register WHERE vault = ? AND space = ? AND key = ?"
_BEFORE: Final = "SELECT state, size, accepted FROM register WHERE vault = ? AND space = ? AND key = ?"
_SLICE: Final = "SELECT space, key, state, size, accepted FROM register WHERE vault = ? LIMIT ?"
_SAVE: Final = "INSERT OR REPLACE INTO register VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REMOVE: Final = "DELETE FROM register WHERE vault = ? AND space = ? AND key = ?"


class SqliteIndex:
    """An `Index` and `Records` in SQLite; made by `open_index`."""

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection, run_blocking: RunBlocking) -> None:
        self._writer = writer
        self._reader = reader
        self._numbers: dict[VaultId, int] = dict(self._rows("SELECT id, number FROM vault", ()))
        self._ledger = Ledger(self._rows, self._numbers)
        self._pages = 0
        self.checkpoints: Checkpoints | None = None
        self.commits = GroupCommit(
            writer, run_blocking, before_commit=self._write_ledger, after=self._ended, one_connection=writer is reader
        )

    # -- registers ---------------------------------------------------------------------------------------------------

    def load(self, vault: VaultId, space: Space, key: bytes) -> Row | None:
        """Return the committed row; see `Index.load`."""
        rows = self._rows(_LOAD, (self._numbers.get(vault), int(space), key))
        return Row(unpack_stamp(rows[0][0]), rows[0][1]) if rows else None

    async def save(
        self, vault: VaultId, space: Space, key: bytes, row: Row, listed: Listed | None, *, tombstone: bool = False
    ) -> None:
        """Make the row durable; see `Index.save`."""
        await self.commits.submit(lambda: self._put(vault, space, key, row, listed, tombstone))

    async def save_many(self, vault: VaultId, changes: Sequence[Change]) -> None:
        """Make the rows durable in one commit; see `Index.save_many`."""
        if len(changes) > SAVE_MANY_MAX:
            raise ValueError(f"{len(changes)} rows in one commit: save at most {SAVE_MANY_MAX} at a time")
        if changes:
            await self.commits.submit(*(partial(self._put, vault, *change) for change in changes))

    def list_keys(self, vault: VaultId, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """Return a page of live objects; see `Index.list_keys`."""
        return list(map(_as_listed, self._page(LIST, vault, Space.OBJECTS, Seek(prefix, after=after), limit)))

    def look(self, vault: VaultId, after: bytes, prefix: bytes, limit: int, names_max: int) -> Look:
        """Return live objects and all names among them; see `Index.look`."""
        seek = Seek(prefix, after=after)
        names_max = _bounded(names_max)
        found: list[Any] = []
        hidden = 0
        with closing(self._stretch(LOOK[seek.strict], vault, Space.OBJECTS, seek.start, seek.end, names_max)) as chunks:
            for chunk in chunks:
                found += chunk
                hidden += list(map(_shown, chunk)).count(None)
                if len(found) - hidden >= limit:
                    break
        is_whole = len(found) - hidden < limit and len(found) < names_max
        while len(found) - hidden > max(0, limit):
            hidden -= _shown(found.pop()) is None
        if not found:
            return Look([], [], is_whole)
        keys, ballots, *shown = zip(*found, strict=True)
        rows: Iterable[Any] = zip(keys, *shown, strict=True)
        if hidden:
            rows = (row for row in rows if row[-1] is not None)
        return Look(list(map(_as_listed, rows)), list(zip(keys, ballots, strict=True)), is_whole)

    def first_key(self, vault: VaultId, at_least: bytes, prefix: bytes) -> bytes | None:
        """Return the first live key at or after `at_least`; see `Index.first_key`."""
        rows = self._page(FIRST, vault, Space.OBJECTS, Seek(prefix, at_least=at_least), 1)
        return rows[0][0] if rows else None

    def scan(self, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int) -> list[tuple[bytes, Row]]:
        """Return a page of rows; see `Index.scan`."""
        rows = self._page(SCAN, vault, space, Seek(prefix, after=after), limit)
        return [(key, Row(unpack_stamp(accepted), entry)) for key, accepted, entry in rows]

    async def forget(self, vault: VaultId, space: Space, keys: list[tuple[bytes, Stamp]]) -> int:
        """Remove rows that still hold the given ballots; see `Index.forget`."""
        gone = 0

        def work() -> None:
            nonlocal gone
            gone = sum(self._remove(vault, space, key, accepted) for key, accepted in keys)

        await self.commits.submit(work)
        return gone

    async def drop_vault(self, vault: VaultId) -> None:
        """Remove every row of the vault, a slice per commit: after a crash, call again; see `Index.drop_vault`."""
        left = True

        def work() -> None:
            nonlocal left
            left = self._drop_slice(vault)

        while left:
            await self.commits.submit(work)

    def counts(self, vault: VaultId) -> Counts:
        """Return live objects and bytes; see `Index.counts`."""
        return self._ledger.counts(vault)

    # -- what replicas compare -----------------------------------------------------------------------------------------

    def bucket_digests(self, vault: VaultId) -> bytes:
        """Return the digests of all buckets; see `Index.bucket_digests`."""
        return self._ledger.digests(vault)

    def bucket_names(
        self, vault: VaultId, bucket: int, limit: int, after: tuple[Space, bytes] | None = None
    ) -> list[Name]:
        """Return a page of a bucket's rows; see `Index.bucket_names`."""
        start: tuple[int, bytes] = after or _FIRST
        limit = _bounded(limit)
        recent = {name: ballot for name, ballot in self._ledger.gathered(vault, bucket).items() if name > start}
        found = self._names(BUCKET, vault, start, limit + len(recent), bucket=bucket)
        names = {(space, key): ballot for space, key, ballot in found} | recent
        page = [(*name, ballot) for name, ballot in sorted(names.items()) if ballot is not None]
        return _unpacked(page[:limit])

    def interval(self, vault: VaultId, space: Space, after: bytes, upto: bytes | None, limit: int) -> list[Name]:
        """Return a page of one space's rows; see `Index.interval`."""
        pairs = self.ballots(vault, space, after, upto, limit)
        return [Name(space, key, unpack_stamp(accepted)) for key, accepted in pairs]

    def ballots(
        self, vault: VaultId, space: Space, after: bytes, upto: bytes | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Return a page of keys and packed ballots; see `Index.ballots`."""
        end = None if upto is None else upto + b"\0"
        return list(chain.from_iterable(self._stretch(INTERVAL, vault, space, after, end, _bounded(limit))))

    def tombstones(self, vault: VaultId, after: tuple[Space, bytes] | None, limit: int) -> list[Name]:
        """Return a page of deletions; see `Index.tombstones`."""
        return _unpacked(self._names(TOMBSTONES, vault, after or _FIRST, _bounded(limit)))

    def reusable_bytes(self) -> int:
        """Return the bytes of the file that hold nothing: new rows fill them before the file grows."""
        [(pages,)] = self._rows("PRAGMA freelist_count", ())
        return int(pages) * PAGE_SIZE

    # -- settings and records ----------------------------------------------------------------------------------------

    def setting(self, name: str) -> bytes | None:
        """Return a small durable value; see `Index.setting`."""
        rows = self._rows("SELECT value FROM setting WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    async def save_setting(self, name: str, value: bytes) -> None:
        """Make a small value durable; see `Index.save_setting`."""
        await self.commits.submit(
            lambda: self._write("INSERT OR REPLACE INTO setting(name, value) VALUES(?, ?)", (name, value))
        )

    def load_records(self) -> list[tuple[str, str, bytes]]:
        """Return every record; see `Records.load_records`."""
        return self._rows("SELECT kind, key, value FROM record ORDER BY kind, key", ())

    async def save_records(self, records: list[tuple[str, str, bytes]]) -> None:
        """Make the records durable in one commit; see `Records.save_records`."""

        def work() -> None:
            self._writer.executemany("INSERT OR REPLACE INTO record(kind, key, value) VALUES(?, ?, ?)", records)

        await self.commits.submit(work)

    async def forget_records(self, names: list[tuple[str, str]]) -> None:
        """Drop records in one commit; see `Records.forget_records`."""

        def work() -> None:
            self._writer.executemany("DELETE FROM record WHERE kind = ? AND key = ?", names)

        await self.commits.submit(work)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _rows(self, statement: str, arguments: Any) -> list[Any]:
        """Run a query to its end: a half-read one would keep its snapshot, and the log from starting over."""
        try:
            return self._reader.execute(statement, arguments).fetchall()
        except sqlite3.Error as error:
            raise failure_of(error, "read") from error

    def _stretch(
        self, statement: str, vault: VaultId, space: Space, after: bytes, end: bytes | None, limit: int
    ) -> Generator[list[Any]]:
        """Read the rows of an open query that are before the key `end`, some at a time."""

        def is_beyond(row: Any) -> bool:
            return row[0] is None or (end is not None and row[0] >= end)

        arguments = {"vault": self._numbers.get(vault, 0), "space": int(space), "after": after, "limit": limit}
        try:
            with closing(self._reader.execute(statement, arguments)) as cursor:  # its end ends the snapshot
                size = _FETCHED_FIRST
                while chunk := cursor.fetchmany(size):
                    size = min(2 * size, _FETCHED_MAX)
                    if is_beyond(chunk[-1]):
                        yield chunk[: bisect_left(chunk, True, key=is_beyond)]
                        return
                    yield chunk
        except sqlite3.Error as error:
            raise failure_of(error, "read") from error

    def _page(self, query: Query, vault: VaultId, space: Space, seek: Seek, limit: int) -> list[Any]:
        arguments = {
            "vault": self._numbers.get(vault),
            "space": int(space),
            "start": seek.start,
            "end": seek.end,
            "limit": _bounded(limit),
        }
        return self._rows(query.statement(seek), arguments)

    def _names(
        self, statement: str, vault: VaultId, after: tuple[int, bytes], limit: int, **more: int | bytes | None
    ) -> list[tuple[int, bytes, bytes]]:
        arguments = {
            "vault": self._numbers.get(vault),
            "space": int(after[0]),
            "after": after[1],
            "limit": limit,
            **more,
        }
        return self._rows(statement, arguments)

    # -- inside a transaction ------------------------------------------------------------------------------------------

    def _put(self, vault: VaultId, space: Space, key: bytes, row: Row, listed: Listed | None, tombstone: bool) -> None:
        name = (self._number(vault), int(space), key)
        accepted = row.accepted.pack()
        before = self._writer.execute(_BEFORE, name).fetchone()
        if listed is not None:
            shown = (STATE_LIVE, listed.size, listed.etag, listed.modified_ms, listed.checksum)
        else:
            shown = (STATE_DELETED if tombstone else STATE_KEPT, 0, "", 0, "")
        self._writer.execute(_SAVE, (*name, accepted, *shown, row.entry))
        self._ledger.note(vault, name[1], key, before, (shown[0], shown[1], accepted))
        self._pages += _PAGES_PER_ROW + len(row.entry) // PAGE_SIZE

    def _remove(self, vault: VaultId, space: Space, key: bytes, accepted: Stamp) -> bool:
        name = (self._numbers.get(vault), int(space), key)
        before = self._write(_BEFORE, name).fetchone()
        if before is None or before[2] != accepted.pack():
            return False
        self._write(_REMOVE, name)
        self._ledger.note(vault, name[1], key, before, None)
        self._pages += _PAGES_PER_ROW
        return True

    def _drop_slice(self, vault: VaultId) -> bool:
        """Remove a slice of the vault's rows; return whether there may be more."""
        number = self._numbers.get(vault)
        rows = self._write(_SLICE, (number, _DROP_SLICE)).fetchall()
        if not rows:
            self._ledger.drop(self._writer, vault)
            return False
        for space, key, *before in rows:
            self._write(_REMOVE, (number, space, key))
            self._ledger.note(vault, space, key, tuple(before), None)
        self._pages += _PAGES_PER_ROW * len(rows)
        return True

    def _write(self, statement: str, arguments: Any) -> sqlite3.Cursor:
        return self._writer.execute(statement, arguments)

    def _number(self, vault: VaultId) -> int:
        """Return the vault's number; a new one becomes durable with the commit under way, or is given again."""
        number = self._numbers.get(vault)
        if number is None:
            number = self._numbers[vault] = max(self._numbers.values(), default=0) + 1
        return number

    def _write_ledger(self) -> None:
        self._ledger.write(self._writer)

    def _ended(self, committed: bool) -> None:
        self._ledger.ended(committed)
        if self.checkpoints is not None:
            self.checkpoints.grew(self._pages + _PAGES_PER_BATCH)
        self._pages = 0


def _bounded(limit: int) -> int:
    return max(0, min(limit, LIMIT_MAX))


def _unpacked(rows: list[tuple[int, bytes, bytes]]) -> list[Name]:
    return [Name(Space(space), key, unpack_stamp(accepted)) for space, key, accepted in rows]


@asynccontextmanager
async def open_index(
    path: Path | None, *, run_blocking: RunBlocking = trio.to_thread.run_sync
) -> AsyncIterator[SqliteIndex]:
    """Open the index at `path` (None: in memory), creating or migrating it; its folder must exist.

    Resources: on leaving, what was submitted is committed, the log is emptied into the file and all is closed.
    Errors: `UnknownFormatError` for a newer or foreign file, `IntegrityError` for a damaged one, `StorageFullError`,
    `StorageFailedError`. A failed fsync later on ends the body with `SyncFailedError`.
    """
    with trio.CancelScope(shield=True):
        connections = await run_blocking(_open_connections, path)
    writer, reader = connections[0], connections[1 % len(connections)]
    try:
        index = SqliteIndex(writer, reader, run_blocking)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(index.commits.run)
                if path is not None:
                    index.checkpoints = Checkpoints(connections[2], index.commits, run_blocking)
                    nursery.start_soon(index.checkpoints.run)
                yield index
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:  # the nursery is ours alone: the body's own error passes as it was raised
                raise group.exceptions[0] from group.exceptions[0].__cause__
            raise
    finally:
        with trio.CancelScope(shield=True):
            await run_blocking(_close_connections, connections)


def _open_connections(path: Path | None) -> list[sqlite3.Connection]:
    """Return the writer, the reader and the checkpointer; in memory, one connection that is all three."""
    place = ":memory:" if path is None else str(path)
    connections: list[sqlite3.Connection] = []
    try:
        if path is not None:
            _create_file(path)
        writer = _connect(place, connections)
        check_schema(writer, place)
        writer.execute("PRAGMA journal_mode = WAL").fetchall()
        migrate(writer)
        if path is not None:
            _connect(place, connections).execute("PRAGMA query_only = ON")
            _connect(place, connections)
    except BaseException as error:
        for connection in connections:
            connection.close()
        if isinstance(error, (sqlite3.Error, OSError)):
            raise failure_of(error, f"open {place}") from error
        raise
    return connections


def _connect(place: str, connections: list[sqlite3.Connection]) -> sqlite3.Connection:
    connection = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
    connections.append(connection)
    for pragma in (
        "synchronous = FULL",  # fsync in every commit
        "wal_autocheckpoint = 0",  # see checkpoints.py
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "foreign_keys = OFF",
        "temp_store = MEMORY",  # no file outside the data directory
        "secure_delete = OFF",  # bodies are sealed; zeroing freed pages would double the writing
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def _create_file(path: Path) -> None:
    """Create an empty file for its owner's eyes alone, durably; SQLite gives its log the same mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _close_connections(connections: list[sqlite3.Connection]) -> None:
    *others, last = connections
    for connection in others:
        connection.close()
    try:
        last.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error:
        pass  # the log stays and is read at the next start: nothing is lost
    finally:
        last.close()
