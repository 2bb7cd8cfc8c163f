"""How do rows of an index from before names and digests get theirs? Knows no schema version: a migration runs it."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from typing import Final

from meshhold.errors import UnknownFormatError
from meshhold.index.changes import NO_DIGESTS, SAVE_NAME, change_digests, name_digest
from meshhold.index.contract import bucket_of
from meshhold.model.entry import decode_entry

_SLICE: Final = 65_536
"""Names sorted and written at once, some 10 MiB: unsorted, each would go to another page."""


def is_tombstone(entry: bytes) -> bool:
    """Tell whether a stored entry is a deletion; one that cannot be read is not, and so is never removed as one."""
    try:
        return decode_entry(entry).value is None
    except UnknownFormatError:
        return False


def fill_names(connection: sqlite3.Connection) -> None:
    """Write the name of every row and the digests of every vault; memory is bounded, whatever the number of rows."""
    digests: defaultdict[int, bytes] = defaultdict(lambda: NO_DIGESTS)
    rows = connection.execute("SELECT vault, space, key, accepted FROM register")
    while names := rows.fetchmany(_SLICE):
        flips: defaultdict[int, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        found = []
        for vault, space, key, accepted in names:
            bucket = bucket_of(space, key)
            flips[vault][bucket] ^= name_digest(space, key, accepted)
            found.append((vault, bucket, space, key, accepted))
        connection.executemany(SAVE_NAME, sorted(found))
        for vault, changed in flips.items():
            digests[vault] = change_digests(digests[vault], changed)
    for (vault,) in connection.execute("SELECT number FROM vault").fetchall():
        connection.execute("UPDATE vault SET digests = ? WHERE number = ?", (digests[vault], vault))
