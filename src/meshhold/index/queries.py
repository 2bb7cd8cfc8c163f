"""Which query gives a page of keys? Knows no connection: it composes SQL and the bounds that go with it.

Each kind of page has four forms, because a bound that is left out must not appear in the SQL: the planner would then
not seek to it.
"""

from __future__ import annotations

from typing import Final


def end_of_prefix(prefix: bytes) -> bytes | None:
    """Return the least byte string above every one that begins with `prefix`, or None if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


class Seek:
    """Where a page begins and ends: keys that begin with `prefix`, after `after` or from `at_least` on."""

    __slots__ = ("end", "start", "strict")

    def __init__(self, prefix: bytes, *, after: bytes | None = None, at_least: bytes = b"") -> None:
        self.strict = after is not None and after >= prefix
        self.start = max(prefix, at_least if after is None else after)
        self.end = end_of_prefix(prefix)


class Query:
    """A SELECT that takes a `Seek`: parameters `vault`, `start`, `end`, `limit` and those that `select` names."""

    def __init__(self, select: str) -> None:
        self._statements = {
            (strict, bounded): f"{select} AND key {'>' if strict else '>='} :start"
            f"{' AND key < :end' if bounded else ''} ORDER BY key LIMIT :limit"
            for strict in (False, True)
            for bounded in (False, True)
        }

    def statement(self, seek: Seek) -> str:
        """Return the form that fits."""
        return self._statements[seek.strict, seek.end is not None]

    def forms(self) -> list[str]:
        """Return all forms, for checking their plans."""
        return list(self._statements.values())


_LISTING: Final = "FROM register INDEXED BY register_listing WHERE space = 0 AND state = 1 AND vault = :vault"
LIST: Final = Query(f"SELECT key, size, etag, modified_ms, checksum {_LISTING}")
FIRST: Final = Query(f"SELECT key {_LISTING}")
SCAN: Final = Query("SELECT key, accepted, entry FROM register WHERE vault = :vault AND space = :space")

_ONWARD: Final = "(space, key) > (:space, :after) ORDER BY space, key LIMIT :limit"
BUCKET: Final = f"SELECT space, key, accepted FROM name WHERE vault = :vault AND bucket = :bucket AND {_ONWARD}"
TOMBSTONES: Final = f"""SELECT space, key, accepted FROM register INDEXED BY register_deleted
    WHERE state = 2 AND vault = :vault AND {_ONWARD}"""

_KEY: Final = "CASE WHEN (vault, space) = (:vault, :space) THEN key END"


def _open(select: str, bound: str) -> str:
    """Return a query of rows from a key on.

    It has no upper bound: to check one, SQLite would read each row whole, its entry too. The reader of the rows stops,
    at the latest where the key is NULL, because there another space begins.
    """
    return f"""SELECT {select} FROM register
        WHERE (vault, space, key) {bound} (:vault, :space, :after) ORDER BY vault, space, key LIMIT :limit"""


INTERVAL: Final = _open(f"{_KEY}, accepted", ">")
_LOOK: Final = f"{_KEY}, accepted, size, etag, modified_ms, CASE WHEN state = 1 THEN checksum END"
LOOK: Final = {strict: _open(_LOOK, ">" if strict else ">=") for strict in (False, True)}
"""By `Seek.strict`; the start of the seek is its `after`. The last column is NULL unless it is a live object: a column
costs a tenth of a microsecond."""
