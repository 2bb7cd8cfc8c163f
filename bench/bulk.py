"""Fill a stopped node's index with synthetic rows by SQL alone: ten million in minutes.

The rows are those of objects that cannot be opened; a listing or a deletion does not look inside. Names, digests and
sums are made as a migration makes them, so the node starts as if it had taken the rows one by one.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from bench.fill import index_file
from meshhold.index.filling import fill_names
from meshhold.model.entry import Checksums, Entry, ObjectVersion, encode_entry
from meshhold.model.ids import OpId
from meshhold.model.stamp import Clock

_MODIFIED_MS: Final = 1_750_000_000_000
_ETAG: Final = "d41d8cd98f00b204e9800998ecf8427e"
_SIZE: Final = 4096
_CHECKSUM: Final = "CRC64NVME:FULL_OBJECT"
_CACHE_KIB: Final = 2 * 1024 * 1024  # random places of a gibibyte of names stay in memory

_ROWS: Final = """
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)
    INSERT INTO register
        SELECT :vault, 0, CAST(printf('photos/%05d/IMG_%08d.jpg', i / 1000, i) AS BLOB), :accepted, 1, :size, :etag,
               :modified_ms, :checksum, :entry FROM n"""
_SUMS: Final = """
    UPDATE vault SET (objects, bytes) =
        (SELECT count(*), coalesce(sum(size), 0) FROM register WHERE vault = :vault AND space = 0 AND state = 1)
        WHERE number = :vault"""


def bulk_fill(data_dir: Path, vault_id: str, count: int) -> None:
    """Add `count` objects with the keys of `bench.cases.page_key`. The vault must have had a change already."""
    version = ObjectVersion(
        _SIZE, _ETAG, _MODIFIED_MS, os.urandom(120), {"content-type": "image/jpeg"}, {},
        Checksums("FULL_OBJECT", {"CRC64NVME": "AAAAAAAAAAA="}),
    )  # fmt: skip
    with closing(sqlite3.connect(index_file(data_dir), isolation_level=None)) as connection:
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA synchronous = OFF")
        (vault,) = connection.execute("SELECT number FROM vault WHERE id = ?", (vault_id,)).fetchone()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            _ROWS,
            {
                "count": count,
                "vault": vault,
                "accepted": Clock(bytes(8)).tick(_MODIFIED_MS).pack(),
                "size": _SIZE,
                "etag": _ETAG,
                "modified_ms": _MODIFIED_MS,
                "checksum": _CHECKSUM,
                "entry": encode_entry(Entry(OpId(os.urandom(16)), version)),
            },
        )
        connection.execute("DELETE FROM name")
        connection.execute("DELETE FROM change")
        fill_names(connection)
        connection.execute(_SUMS, {"vault": vault})
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
