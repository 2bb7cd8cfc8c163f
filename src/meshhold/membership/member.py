"""What does a node say about itself? A statement that nobody else can make. Knows no key: callers pass `sign`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import msgpack

from meshhold.errors import InvalidError, ProtocolError
from meshhold.model.ids import NodeId

STATEMENT_VERSION: Final = 1
INCARNATION_MAX: Final = 2**63 - 1
"""Milliseconds since 1970 reach it in 292 million years, so whoever sends more is broken or hostile."""
LIFE_SIZE: Final = 8
PROOF_SIZE: Final = 64
NAME_CHARS_MAX: Final = 64  # a character takes up to 4 bytes; a statement with all at their bounds takes 2.7 KiB
ADDRESSES_MAX: Final = 8
ADDRESS_CHARS_MAX: Final = 96  # a host name of 80 and a port
ZONE_CHARS_MAX: Final = 64
VERSION_CHARS_MAX: Final = 32
META_PAIRS_MAX: Final = 4
META_CHARS_MAX: Final = 32
CAPACITY_BYTES_MAX: Final = 2**63 - 1

Sign = Callable[[bytes], bytes]
Verify = Callable[[NodeId, bytes, bytes], bool]

_NODE_ID: Final = re.compile(r"[a-z2-7]{52}\Z")


class State(StrEnum):
    """What this node believes of a member. Sent and stored: never rename."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


ALIVE: Final = State.ALIVE
SUSPECT: Final = State.SUSPECT
DEAD: Final = State.DEAD
LEFT: Final = State.LEFT
"""The same by names that are found twenty times faster (in Python 3.11): beliefs compare states for each rumor."""


@dataclass(frozen=True, slots=True)
class Member:
    """One node's statement about itself.

    `incarnation` is raised by its owner alone, to overrule what is said of it; `life` is 8 random bytes of one run of
    the process, by which two running nodes with one key are told from one that restarted; `left` is a farewell.
    `capacity` is in bytes, `meta` are free pairs, `proof` is the signature over all the rest.
    """

    node: NodeId
    name: str
    addresses: tuple[str, ...]
    incarnation: int
    life: bytes
    left: bool = False
    zone: str = ""
    capacity: int = 0
    reliable: bool = True
    version: str = ""
    meta: tuple[tuple[str, str], ...] = ()
    proof: bytes = b""

    @property
    def mark(self) -> int:
        """Return 64 bits that differ between statements: what digests are made of."""
        return int.from_bytes(self.proof[:8])

    def signed_bytes(self) -> bytes:
        """Return what the proof covers: everything but itself."""
        packed: bytes = msgpack.packb(["meshhold member", STATEMENT_VERSION, *encode_member(self)[:-1]])
        return packed

    def signed(self, sign: Sign) -> Member:
        """Return the statement with its proof."""
        return replace(self, proof=sign(self.signed_bytes()))

    def is_proven(self, verify: Verify) -> bool:
        """Tell whether the named node made this statement."""
        return verify(self.node, self.signed_bytes(), self.proof)


def first_incarnation(stored: int, wall_ms: int) -> int:
    """Return what a starting node begins with: above every incarnation of its earlier lives.

    The wall clock beats them even when the disk was lost or restored; `stored` beats them when the clock was set back.
    When both fail, others hand the node its old statement and it rises above that.
    """
    return min(INCARNATION_MAX, max(stored + 1, wall_ms))


def encode_member(member: Member) -> list[Any]:
    """Return the wire form."""
    return [
        member.node,
        member.name,
        list(member.addresses),
        member.incarnation,
        member.life,
        member.left,
        member.zone,
        member.capacity,
        member.reliable,
        member.version,
        [list(pair) for pair in member.meta],
        member.proof,
    ]


def decode_member(raw: object) -> Member:
    """Undo `encode_member`. Errors: `ProtocolError` names the field that is out of its bounds."""
    fields = check_list(raw, "member", 12, 12)
    node, name, addresses, incarnation, life, left, zone, capacity, reliable, version, meta, proof = fields
    return Member(
        check_node(node),
        check_text(name, "name", NAME_CHARS_MAX),
        tuple(_check_address(each) for each in check_list(addresses, "addresses", 0, ADDRESSES_MAX)),
        check_incarnation(incarnation),
        check_bytes(life, "life", LIFE_SIZE, LIFE_SIZE),
        _check_flag(left, "left"),
        check_text(zone, "zone", ZONE_CHARS_MAX),
        check_number(capacity, "capacity", CAPACITY_BYTES_MAX),
        _check_flag(reliable, "reliable"),
        check_text(version, "version", VERSION_CHARS_MAX),
        tuple(_check_pair(pair) for pair in check_list(meta, "meta", 0, META_PAIRS_MAX)),
        check_bytes(proof, "proof", PROOF_SIZE, PROOF_SIZE),
    )


def check_own(member: Member) -> Member:
    """Return this node's statement if others will take it. Errors: `InvalidError` names a field that they will not."""
    try:
        decode_member(encode_member(member))
    except ProtocolError as error:
        reason = error.message.removeprefix("a membership message has ")
        raise InvalidError(f"this node cannot state itself to others: {reason}", "correct its configuration") from error
    return member


def check_node(value: object) -> NodeId:
    """Return a node id. Errors: `ProtocolError`."""
    if not isinstance(value, str) or not _NODE_ID.match(value):
        raise ProtocolError("a membership message has a node id that is not 52 characters of base32")
    return NodeId(value)


def check_incarnation(value: object) -> int:
    """Return an incarnation. Errors: `ProtocolError`."""
    return check_number(value, "incarnation", INCARNATION_MAX)


def check_number(value: object, field: str, most: int) -> int:
    """Return a number from 0 to `most`. Errors: `ProtocolError`."""
    if type(value) is not int or not 0 <= value <= most:
        raise ProtocolError(f"a membership message has a {field} that is not a number from 0 to {most}")
    return value


def check_text(value: object, field: str, chars_max: int) -> str:
    """Return printable text, which is shown on terminals. Errors: `ProtocolError`."""
    if not isinstance(value, str) or len(value) > chars_max or not value.isprintable():
        raise ProtocolError(
            f"a membership message has a {field} that is not printable text up to {chars_max} characters"
        )
    return value


def check_bytes(value: object, field: str, least: int, most: int) -> bytes:
    """Return bytes of a bounded length. Errors: `ProtocolError`."""
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise ProtocolError(f"a membership message has a {field} that is not {least} to {most} bytes")
    return value


def check_list(value: object, field: str, least: int, most: int) -> list[Any] | tuple[Any, ...]:
    """Return a list of a bounded length. Errors: `ProtocolError`."""
    if not isinstance(value, list | tuple) or not least <= len(value) <= most:
        raise ProtocolError(f"a membership message has {field} that are not a list of {least} to {most}")
    return value


def _check_address(value: object) -> str:
    address = check_text(value, "address", ADDRESS_CHARS_MAX)
    if not address.isascii():
        raise ProtocolError("a membership message has an address that is not plain ASCII")
    return address


def _check_flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise ProtocolError(f"a membership message has a flag {field} that is neither true nor false")
    return value


def _check_pair(value: object) -> tuple[str, str]:
    key, text = check_list(value, "meta", 2, 2)
    return check_text(key, "meta key", META_CHARS_MAX), check_text(text, "meta value", META_CHARS_MAX)
