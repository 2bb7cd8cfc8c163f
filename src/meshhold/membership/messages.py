"""What do members tell each other? Messages, rumors and actions as values, and their wire form. Knows no link."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from meshhold.errors import ProtocolError
from meshhold.membership.member import (
    Member,
    State,
    check_bytes,
    check_incarnation,
    check_list,
    check_node,
    check_number,
    check_text,
    decode_member,
    encode_member,
)
from meshhold.model.ids import NodeId

VERSION: Final = 1
MESSAGE_SIZE_BYTES_MAX: Final = 15 * 1024
"""No message is larger: what a link takes as one control message, less an envelope."""
BUCKETS: Final = 64
"""A digest has 8 bytes for each; two members that differ in one statement exchange 1/64 of their rosters."""
SEQ_MAX: Final = 2**32 - 1
ACCUSERS_MAX: Final = 8
RUMORS_MAX: Final = 256
ENTRIES_MAX: Final = 128
TOPIC_CHARS_MAX: Final = 32
NEWS_ID_SIZE: Final = 16
NEWS_SIZE_BYTES_MAX: Final = 1024


# -- rumors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Suspect:
    """`accusers` could not reach this incarnation of the node; each counts once."""

    node: NodeId
    incarnation: int
    accusers: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Dead:
    """`accuser` waited long enough for this incarnation of the node to refute."""

    node: NodeId
    incarnation: int
    accuser: NodeId


@dataclass(frozen=True, slots=True)
class News:
    """Something of another room (a registry record) that everybody shall hear once. `ident` names it."""

    topic: str
    ident: bytes
    payload: bytes


Rumor = Member | Suspect | Dead | News

# -- messages -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? Answered by `Ack`."""

    seq: int
    rumors: tuple[Rumor, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """I am."""

    seq: int
    rumors: tuple[Rumor, ...] = ()


@dataclass(frozen=True, slots=True)
class PingFor:
    """Ping `target` in my place. Answered by `Vouch`, or by `Nack` in time to be counted."""

    seq: int
    target: NodeId


@dataclass(frozen=True, slots=True)
class Vouch:
    """The target answered me."""

    seq: int


@dataclass(frozen=True, slots=True)
class Nack:
    """The target did not answer me, but I am here."""

    seq: int


@dataclass(frozen=True, slots=True)
class Gossip:
    """Rumors that did not wait for a probe."""

    rumors: tuple[Rumor, ...]


@dataclass(frozen=True, slots=True)
class Sync:
    """The digest of my roster: for each bucket, its living members' marks combined by exclusive or."""

    marks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bucket:
    """My entries of one bucket in which we differ, from `after` to `until`; unless `final`, send back what I lack."""

    index: int
    entries: tuple[tuple[Member, State], ...]
    final: bool
    after: str = ""
    until: str = ""

    def covers(self, node: NodeId) -> bool:
        """Tell whether the message would hold the node, if its sender knew it."""
        return self.after < node and (not self.until or node <= self.until)


Message = Ping | Ack | PingFor | Vouch | Nack | Gossip | Sync | Bucket

# -- actions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send the message to that node; a failure to do so needs no report, silence is noticed."""

    to: NodeId
    message: Message


@dataclass(frozen=True, slots=True)
class Changed:
    """A member's state or statement is another now. `was` is None for one that was not known."""

    member: Member
    was: State | None
    now: State


@dataclass(frozen=True, slots=True)
class Raised:
    """Keep this incarnation on disk for the next start."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand news to the room that owns the topic. Comes once for each `ident` (as far as memory is bounded)."""

    news: News
    sender: NodeId


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two running nodes have one id: a copied data directory. Tell the user; `ours` is what is kept."""

    ours: Member
    theirs: Member


@dataclass(frozen=True, slots=True)
class Refused:
    """Something from `sender` was dropped; name it in the log, at a bounded rate."""

    sender: NodeId
    reason: str


Action = Send | Changed | Raised | Deliver | Conflict | Refused

# -- wire form ------------------------------------------------------------------------------------------------------


def encode(message: Message) -> list[Any]:
    """Return the message as a plain list: version, type, fields."""
    match message:
        case Ping(seq, rumors):
            return [VERSION, "ping", seq, [encode_rumor(each) for each in rumors]]
        case Ack(seq, rumors):
            return [VERSION, "ack", seq, [encode_rumor(each) for each in rumors]]
        case PingFor(seq, target):
            return [VERSION, "ping-for", seq, target]
        case Vouch(seq):
            return [VERSION, "vouch", seq]
        case Nack(seq):
            return [VERSION, "nack", seq]
        case Gossip(rumors):
            return [VERSION, "gossip", [encode_rumor(each) for each in rumors]]
        case Sync(marks):
            return [VERSION, "sync", list(marks)]
        case Bucket(index, entries, final, after, until):
            lines = [[encode_member(each), str(state)] for each, state in entries]
            return [VERSION, "bucket", index, lines, final, after, until]


def decode(raw: object) -> Message:
    """Undo `encode`. Errors: `ProtocolError`, and nothing else, whatever msgpack values came in."""
    fields = check_list(raw, "fields", 2, 8)
    version, kind, *rest = fields
    if version != VERSION or type(version) is not int:
        raise ProtocolError(f"a membership message has version {_shown(version)}, this node speaks {VERSION}")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise ProtocolError(f"a membership message has the unknown type {_shown(kind)}")
    count, read = reader
    return read(check_list(rest, f"fields of {kind!r}", count, count))


def encode_rumor(rumor: Rumor) -> list[Any]:
    """Return the rumor as a plain list: type, fields."""
    match rumor:
        case Member():
            return ["member", encode_member(rumor)]
        case Suspect(node, incarnation, accusers):
            return ["suspect", node, incarnation, list(accusers)]
        case Dead(node, incarnation, accuser):
            return ["dead", node, incarnation, accuser]
        case News(topic, ident, payload):
            return ["news", topic, ident, payload]


def decode_rumor(raw: object) -> Rumor:
    """Undo `encode_rumor`. Errors: `ProtocolError`."""
    match check_list(raw, "rumors", 2, 4):
        case ["member", member]:
            return decode_member(member)
        case ["suspect", node, incarnation, accusers]:
            named = tuple(check_node(each) for each in check_list(accusers, "accusers", 1, ACCUSERS_MAX))
            return Suspect(check_node(node), check_incarnation(incarnation), named)
        case ["dead", node, incarnation, accuser]:
            return Dead(check_node(node), check_incarnation(incarnation), check_node(accuser))
        case ["news", topic, ident, payload]:
            return News(
                check_text(topic, "topic", TOPIC_CHARS_MAX),
                check_bytes(ident, "news id", NEWS_ID_SIZE, NEWS_ID_SIZE),
                check_bytes(payload, "news", 0, NEWS_SIZE_BYTES_MAX),
            )
        case [kind, *_]:
            raise ProtocolError(f"a membership message has a rumor of the unknown type {_shown(kind)}")
        case other:
            raise ProtocolError(f"a membership message has a rumor {_shown(other)}")


def size_bytes(value: Message | Rumor) -> int:
    """Return the length of the value in msgpack."""
    if isinstance(value, Suspect):  # of these two a large mesh makes so many that they are summed up, not packed
        accusers = sum(2 + len(accuser) for accuser in value.accusers)
        return 9 + 2 + len(value.node) + _size_of_number(value.incarnation) + 1 + accusers
    if isinstance(value, Dead):
        return 6 + 2 + len(value.node) + _size_of_number(value.incarnation) + 2 + len(value.accuser)
    plain = encode_rumor(value) if isinstance(value, Member | Suspect | Dead | News) else encode(value)
    return len(msgpack.packb(plain))


def _size_of_number(number: int) -> int:
    if number >= 2**32:  # as every incarnation that comes from a clock
        return 9
    return next(size for size, above in _NUMBER_SIZES if number < above)


def _shown(value: object) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float | bool | None) else type(value).__name__


def _rumors(raw: object) -> tuple[Rumor, ...]:
    return tuple(decode_rumor(each) for each in check_list(raw, "rumors", 0, RUMORS_MAX))


def _seq(raw: object) -> int:
    return check_number(raw, "sequence number", SEQ_MAX)


def _entry(raw: object) -> tuple[Member, State]:
    member, state = check_list(raw, "entries", 2, 2)
    if not isinstance(state, str) or state not in _STATES:
        raise ProtocolError(f"a membership message has the unknown state {_shown(state)}")
    return decode_member(member), State(state)


def _bucket(fields: Sequence[Any]) -> Bucket:
    index, entries, final, after, until = fields
    if not isinstance(final, bool):
        raise ProtocolError("a membership message has a flag final that is neither true nor false")
    read = tuple(_entry(each) for each in check_list(entries, "entries", 0, ENTRIES_MAX))
    return Bucket(check_number(index, "bucket", BUCKETS - 1), read, final, _bound(after), _bound(until))


def _bound(raw: object) -> str:
    return "" if raw == "" else check_node(raw)


def _sync(fields: Sequence[Any]) -> Sync:
    marks = check_list(fields[0], "marks", BUCKETS, BUCKETS)
    return Sync(tuple(check_number(each, "mark", 2**64 - 1) for each in marks))


_STATES: Final = frozenset(State)
_NUMBER_SIZES: Final = ((1, 2**7), (2, 2**8), (3, 2**16), (5, 2**32))
_READERS: Final[dict[str, tuple[int, Callable[[Sequence[Any]], Message]]]] = {
    "ping": (2, lambda f: Ping(_seq(f[0]), _rumors(f[1]))),
    "ack": (2, lambda f: Ack(_seq(f[0]), _rumors(f[1]))),
    "ping-for": (2, lambda f: PingFor(_seq(f[0]), check_node(f[1]))),
    "vouch": (1, lambda f: Vouch(_seq(f[0]))),
    "nack": (1, lambda f: Nack(_seq(f[0]))),
    "gossip": (1, lambda f: Gossip(_rumors(f[0]))),
    "sync": (1, _sync),
    "bucket": (5, _bucket),
}
