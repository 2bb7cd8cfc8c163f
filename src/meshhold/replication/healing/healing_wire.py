"""How do the questions of healing and their answers look in a message? Knows no link: values in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

from meshhold.errors import IntegrityError, ProtocolError
from meshhold.index.contract import BUCKETS, DIGEST_SIZE, Name, Row
from meshhold.model.entry import Space
from meshhold.model.stamp import Stamp, unpack_stamp
from meshhold.replication.healing.differences import NAMES_MAX, BucketNames
from meshhold.replication.index.replica_wire import Question, pack_names, read_names_form

BUCKET_DIGESTS: Final = "index.buckets/1"
BUCKET_NAMES: Final = "index.bucket_names/1"
ROWS: Final = "index.rows/1"
HOLDS: Final = "index.holds/1"
SETTLE: Final = "index.settle/1"
FLOOR: Final = "index.floor/1"
FORGET: Final = "index.forget/1"
ENROL: Final = "index.enrol/1"
HEALTH: Final = "index.health/1"

BUCKETS_ASKED_MAX: Final = 64
"""Buckets of one question: their names are read without a pause."""
SETTLED_ASKED_MAX: Final = 32
"""Registers of one question that each need a round."""


class Phase(IntEnum):
    """A step of the removal of tombstones; see `copying`. On the wire: never renumber."""

    FENCE = 0
    CONFIRM = 1
    FORGET = 2


class Health(NamedTuple):
    """What a node tells of its replica: the epoch it is in (0: none), whether it votes, and its state for people."""

    epoch: int
    votes: bool
    state: str


def read_bucket_digests(digests: Any) -> bytes | None:
    """Undo the form of all digests, or of None for "the same"."""
    if digests is not None and (not isinstance(digests, bytes) or len(digests) != BUCKETS * DIGEST_SIZE):
        raise ValueError("another number of digests")
    return digests


def pack_bucket_names(found: Sequence[BucketNames]) -> list[Any]:
    """Return the form of several buckets' names."""
    return [[each.bucket, each.older, pack_names(each.names), each.whole] for each in found]


def read_bucket_names(found: Any) -> list[BucketNames]:
    """Undo `pack_bucket_names`."""
    buckets = [
        BucketNames(int(bucket), int(older), read_names_form(names), bool(whole))
        for bucket, older, names, whole in found
    ]
    if not buckets:
        raise ValueError("no bucket")
    return buckets


def pack_rows(rows: Sequence[Row | None]) -> list[Any]:
    """Return the form of rows, flat: ballot, entry, and so on; None twice for a row that is not there."""
    return [field for row in rows for field in ((None, None) if row is None else (row.accepted.pack(), row.entry))]


def read_rows(raw: Any) -> list[Row | None]:
    """Undo `pack_rows`."""
    flat = iter(raw)
    return [
        None if accepted is None else Row(unpack_stamp(accepted), bytes(entry))
        for accepted, entry in zip(flat, flat, strict=True)
    ]


def pack_flags(flags: Sequence[bool]) -> bytes:
    """Return the form of answers to yes-or-no questions."""
    return bytes(flags)


def read_flags(raw: Any) -> list[bool]:
    """Undo `pack_flags`."""
    return [bool(flag) for flag in bytes(raw)]


def read_health(epoch: Any, votes: Any, state: Any) -> Health:
    """Undo the form of a node's health."""
    return Health(int(epoch), bool(votes), str(state))


def names_of(asked: Question, most: int = NAMES_MAX) -> list[Name]:
    """Return the names that a question is about. Errors: `ProtocolError`."""
    try:
        names = read_names_form(asked.field("m", list))
    except (TypeError, ValueError, IntegrityError) as error:
        raise ProtocolError(f"the names in a question to a replica cannot be read: {error}") from error
    if not 0 < len(names) <= most:
        raise ProtocolError(f"a question to a replica has {len(names)} names, not 1 to {most}")
    return names


def buckets_of(asked: Question) -> list[int]:
    """Return the buckets that a question is about. Errors: `ProtocolError`."""
    buckets = asked.field("b", list)
    if not 0 < len(buckets) <= BUCKETS_ASKED_MAX or any(
        type(each) is not int or not 0 <= each < BUCKETS for each in buckets
    ):
        raise ProtocolError(f"a question to a replica does not name 1 to {BUCKETS_ASKED_MAX} buckets")
    return buckets


def position_of(asked: Question) -> tuple[Space, bytes] | None:
    """Return after which register a question goes on, or None. Errors: `ProtocolError`."""
    raw = asked.field("f", list)
    try:
        if not raw:
            return None
        space, key = raw
        return Space(space), bytes(key)
    except (TypeError, ValueError) as error:
        raise ProtocolError("a question to a replica goes on after no register") from error


def above_of(asked: Question) -> Stamp:
    """Return the bound of a question about names. Errors: `ProtocolError`."""
    return asked.stamp("a")
