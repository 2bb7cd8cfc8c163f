"""How do questions to a replica and its answers look in a message? Knows no link: values in, values out.

An answer is a list whose first item says what it is; anything else than these forms is refused as `ProtocolError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from meshhold.errors import IntegrityError, ProtocolError
from meshhold.index.contract import Listed, Name, Row
from meshhold.model.configuration import unpack_configuration
from meshhold.model.entry import Space
from meshhold.model.ids import VaultId
from meshhold.model.stamp import Stamp, unpack_stamp
from meshhold.register.acceptor import Skewed, Stale
from meshhold.register.rounds import Answer
from meshhold.replication.index.contract import Absent, Interval, Listing, Outdated, Refusal, Register, Scan, Unaware

READ: Final = "index.read/1"
PREPARE: Final = "index.prepare/1"
ACCEPT: Final = "index.accept/1"
MERGE: Final = "index.merge/1"
LIST: Final = "index.list/1"
SCAN: Final = "index.scan/1"
DIGESTS: Final = "index.digests/1"
NAMES: Final = "index.names/1"
ADOPT: Final = "index.adopt/1"
COUNTS: Final = "index.counts/1"

_DONE, _STALE, _SKEWED, _OUTDATED, _UNAWARE, _ABSENT = range(6)
_T = TypeVar("_T")


def pack_refusal(refusal: Refusal) -> list[Any]:
    """Return the form of a refusal."""
    match refusal:
        case Stale(ballot):
            return [_STALE, ballot.pack()]
        case Skewed(node, skew_ms):
            return [_SKEWED, node, skew_ms]
        case Outdated(configuration):
            return [_OUTDATED, configuration.pack()]
        case Unaware(epoch):
            return [_UNAWARE, epoch]
        case Absent(reason):
            return [_ABSENT, reason]


def pack_done(*fields: Any) -> list[Any]:
    """Return the form of an answer that is no refusal."""
    return [_DONE, *fields]


def unpack(raw: Any, read: Callable[..., _T]) -> _T | Refusal:
    """Undo `pack_refusal`, or hand the fields of `pack_done` to `read`. Errors: `ProtocolError`."""
    try:
        kind, *fields = raw
        match kind:
            case 0:
                return read(*fields)
            case 1:
                return Stale(unpack_stamp(fields[0]))
            case 2:
                return Skewed(_is(fields[0], bytes), _is(fields[1], int))
            case 3:
                return Outdated(unpack_configuration(fields[0]))
            case 4:
                return Unaware(_is(fields[0], int))
            case 5:
                return Absent(_is(fields[0], str))
            case _:
                raise ProtocolError(f"a replica's answer has the unknown kind {kind!r}")
    except (TypeError, ValueError, IndexError, IntegrityError) as error:
        raise ProtocolError(f"a replica's answer cannot be read: {error}") from error


def pack_answer(answer: Answer) -> list[Any]:
    """Return the form of what a replica has accepted."""
    return pack_done(answer.accepted.pack(), answer.entry)


def read_answer(accepted: Any, entry: Any) -> Answer:
    """Undo `pack_answer`."""
    return Answer(unpack_stamp(accepted), None if entry is None else _is(entry, bytes))


def pack_names(names: Sequence[Name]) -> list[Any]:
    """Return the form of names, flat: space, key, ballot, space, key, ballot, and so on."""
    return [field for name in names for field in (int(name.space), name.key, name.accepted.pack())]


def read_names_form(raw: Any) -> list[Name]:
    """Undo `pack_names`."""
    flat = iter(_is(raw, list))
    triples = zip(flat, flat, flat, strict=True)
    return [Name(Space(space), _is(key, bytes), unpack_stamp(accepted)) for space, key, accepted in triples]


def pack_listing(listing: Listing) -> list[Any]:
    """Return the form of a page of live objects."""
    names = [field for key, accepted in listing.names for field in (int(Space.OBJECTS), key, accepted)]
    return pack_done([list(row) for row in listing.rows], names, listing.upto)


def read_listing(rows: Any, names: Any, upto: Any) -> Listing:
    """Undo `pack_listing`."""
    end = None if upto is None else _is(upto, bytes)
    ballots = [(name.key, name.accepted.pack()) for name in read_names_form(names)]
    return Listing([_listed(row) for row in _is(rows, list)], ballots, end)


def _listed(row: Any) -> Listed:
    key, size, etag, modified_ms, checksum = row
    return Listed(_is(key, bytes), _is(size, int), _is(etag, str), _is(modified_ms, int), _is(checksum, str))


def pack_scan(scan: Scan) -> list[Any]:
    """Return the form of a page of rows."""
    return pack_done([[key, row.accepted.pack(), row.entry] for key, row in scan.rows])


def read_scan(rows: Any) -> Scan:
    """Undo `pack_scan`."""
    return Scan(
        [(_is(key, bytes), Row(unpack_stamp(accepted), _is(entry, bytes))) for key, accepted, entry in _is(rows, list)]
    )


def pack_intervals(intervals: Sequence[Interval]) -> list[Any]:
    """Return the form of intervals."""
    return [[int(each.space), each.after, each.upto] for each in intervals]


def read_digests(digests: Any) -> list[bytes]:
    """Undo the form of digests, which is a list of them."""
    return [_is(digest, bytes) for digest in _is(digests, list)]


def read_nothing() -> None:
    """Undo the form of an answer without fields."""


class Question:
    """The fields of a peer's question. Errors of every method: `ProtocolError` naming the field."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise ProtocolError("a question to a replica is no table of fields")
        self._body = body

    @property
    def vault(self) -> VaultId:
        """Which vault it is about."""
        return VaultId(self.field("v", str))

    @property
    def epoch(self) -> int:
        """The epoch that the asker goes by."""
        return self.field("e", int)

    @property
    def name(self) -> Register:
        """Which register it is about."""
        return Register(self.vault, self.space, self.field("k", bytes))

    @property
    def space(self) -> Space:
        """Which space it is about."""
        try:
            return Space(self.field("s", int))
        except ValueError as error:
            raise ProtocolError("a question to a replica names an unknown space") from error

    def stamp(self, field: str) -> Stamp:
        """Return a ballot."""
        try:
            return unpack_stamp(self.field(field, bytes))
        except IntegrityError as error:
            raise ProtocolError(f"the field {field!r} of a question to a replica is no ballot") from error

    def limit(self, most: int) -> int:
        """Return how many rows are wanted, at most `most`."""
        return max(0, min(self.field("n", int), most))

    def intervals(self) -> list[Interval]:
        """Return the intervals that are asked about."""
        try:
            return [
                Interval(Space(space), _is(after, bytes), None if upto is None else _is(upto, bytes))
                for space, after, upto in self.field("i", list)
            ]
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"the intervals of a question to a replica cannot be read: {error}") from error

    def field(self, name: str, kind: type[_T]) -> _T:
        """Return a field of the type wanted."""
        value = self._body.get(name)
        if not isinstance(value, kind):
            raise ProtocolError(f"the field {name!r} of a question to a replica is no {kind.__name__}")
        return value


def _is(value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected, {type(value).__name__} found")
    return value
