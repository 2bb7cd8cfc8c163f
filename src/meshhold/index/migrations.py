"""Which tables does the index have, and how does an older file get them? Knows no rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from meshhold.errors import UnknownFormatError
from meshhold.index.filling import fill_names, is_tombstone

APPLICATION_ID: Final = 0x4D48_4958
"""`MHIX` in the file's header: tells our index from any other SQLite file."""

_FIRST: Final = (
    # One row per vault; `objects` and `bytes` count its live objects.
    """CREATE TABLE vault(
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, objects INTEGER NOT NULL, bytes INTEGER NOT NULL)""",
    # Clustered by name, so that a read is one descent. `entry` comes last: a listing or a count never touches it.
    """CREATE TABLE register(
        vault INTEGER NOT NULL, space INTEGER NOT NULL, key BLOB NOT NULL, accepted BLOB NOT NULL,
        live INTEGER NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL, modified_ms INTEGER NOT NULL,
        checksum TEXT NOT NULL, entry BLOB NOT NULL, PRIMARY KEY(vault, space, key)) WITHOUT ROWID""",
    # Holds all that a listing shows, of live objects only: a page reads neither tombstones nor bodies. `live` is there
    # because SQLite counts a column of the condition as one to be read, though the index implies its value.
    """CREATE INDEX register_listing ON register(vault, key, size, etag, modified_ms, checksum, live)
        WHERE space = 0 AND live = 1""",
    """CREATE TABLE record(
        kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY(kind, key)) WITHOUT ROWID""",
    "CREATE TABLE setting(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
)

_SECOND: Final = (
    # 0 an upload or part, 1 a live object, 2 a deletion of any space.
    "ALTER TABLE register RENAME COLUMN live TO state",
    "UPDATE register SET state = 2 WHERE state = 0 AND (space = 0 OR is_tombstone(entry))",
    "CREATE INDEX register_deleted ON register(vault, space, key, accepted, state) WHERE state = 2",
    # The registers once more, by bucket. Not an index: see `ledger`, which writes it later and in order.
    """CREATE TABLE name(
        vault INTEGER NOT NULL, bucket INTEGER NOT NULL, space INTEGER NOT NULL, key BLOB NOT NULL,
        accepted BLOB NOT NULL, PRIMARY KEY(vault, bucket, space, key)) WITHOUT ROWID""",
    # 8 bytes for each bucket. From here on a vault's row is as old as the first row of `change`.
    "ALTER TABLE vault ADD COLUMN digests BLOB NOT NULL DEFAULT x''",
    """CREATE TABLE change(
        number INTEGER PRIMARY KEY, vault INTEGER NOT NULL, objects INTEGER NOT NULL, bytes INTEGER NOT NULL,
        names BLOB NOT NULL)""",
    fill_names,
    # Tells that the rows were there before this node compared them with others.
    """INSERT INTO setting(name, value)
        SELECT 'index before seats', x'31' FROM pragma_user_version WHERE user_version = 1""",
)

Step = str | Callable[[sqlite3.Connection], None]
MIGRATIONS: Final[tuple[Sequence[Step], ...]] = (_FIRST, _SECOND)
"""What leads from schema version n to n + 1. Published ones are never edited: append."""


def check_schema(connection: sqlite3.Connection, place: str, migrations: Sequence[Sequence[Step]] = MIGRATIONS) -> None:
    """Refuse, before anything is changed, a file that is not an index or that a newer program wrote.

    Errors: `UnknownFormatError` naming `place`, the version found and the newest known.
    """
    application, version = _facts(connection)
    if application != APPLICATION_ID and (application, version) != (0, 0):
        raise UnknownFormatError(
            f"{place} is another program's SQLite file (application id {application:#x})",
            "point the data directory elsewhere",
        )
    if version > len(migrations):
        raise UnknownFormatError(
            f"{place} has index schema {version}; this program knows up to {len(migrations)}",
            "start the newer meshhold that wrote it",
        )


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[Step]] = MIGRATIONS) -> int:
    """Bring the schema to the newest version in one transaction; return how many steps it took.

    Steps see in `user_version` which version the file had.
    """
    connection.create_function("is_tombstone", 1, is_tombstone, deterministic=True)
    connection.execute("BEGIN IMMEDIATE")
    try:
        _, version = _facts(connection)
        for step in migrations[version:]:
            for action in step:
                if isinstance(action, str):
                    connection.execute(action)
                else:
                    action(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return len(migrations) - version


def _facts(connection: sqlite3.Connection) -> tuple[int, int]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version
