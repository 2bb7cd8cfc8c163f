"""How do rows of an index from before names and digests get theirs? Knows no schema version: a migration runs it."""

from __future__ import annotations

import sqlite3
from typing import Final

from meshhold.errors import UnknownFormatError
from meshhold.index.contract import bucket_of
from meshhold.index.names import NO_DIGESTS, SAVE_NAME, digest_of, digested, pack_digests, unpack_digests
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
    digests = {number: unpack_digests(NO_DIGESTS) for (number,) in connection.execute("SELECT number FROM vault")}
    rows = connection.execute("SELECT vault, space, key, accepted FROM register")
    while found := rows.fetchmany(_SLICE):
        names = [(vault, bucket_of(space, key), space, key, accepted) for vault, space, key, accepted in found]
        for vault, bucket, space, key, accepted in names:
            digests[vault][bucket] ^= digest_of(digested(space, key, accepted))
        connection.executemany(SAVE_NAME, sorted(names))
    for number, sums in digests.items():
        connection.execute("UPDATE vault SET digests = ? WHERE number = ?", (pack_digests(sums), number))
