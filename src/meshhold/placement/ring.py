"""Who keeps a chunk, and who is asked next? A table that only answers; knows not why it is filled as it is.

Chunk ids are hashes, so their first bits spread chunks evenly over 2^bits partitions. Each partition has an order of
members: the first `factor` are its holders, those after them take over in turn (handoffs). How many copies a vault
wants is no part of the ring: one ring serves all factors.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import InvalidError, UnknownFormatError
from meshhold.model.ids import ChunkId, NodeId

DEPTH_MAX: Final = 16
"""Members that a partition lists: as many as the largest replication factor. The order of the others has no merit."""
MEMBERS_MAX: Final = 4_096
"""As many as membership knows."""
BITS_MAX: Final = 16
"""65,536 partitions: the table takes 2 MiB."""
CAPACITY_BYTES_MAX: Final = 2**63 - 1

_FORMAT: Final = 1
"""Counts changes of the packed form and of the planner: rings of another planner have another version."""
_ROW_FIELDS: Final = 3
_FIELDS: Final = 4
_FINGERPRINT_BYTES: Final = 8  # 2^32 rings until two are likely to share a version


@dataclass(frozen=True, slots=True, order=True)
class RingMember:
    """A reliable node of the mesh. `capacity` is in bytes; machines that fail together share a `zone`."""

    node: NodeId
    capacity: int
    zone: str

    def __post_init__(self) -> None:
        if not 1 <= self.capacity <= CAPACITY_BYTES_MAX:
            raise InvalidError(
                f"node {self.node} has a capacity of {self.capacity} bytes, which says nothing about its share",
                "give the room that its disk has, at least 1 byte",
            )


@dataclass(frozen=True, slots=True)
class Ring:
    """An immutable map from partitions to members.

    `members` are in order of node id. `table` holds, partition by partition, `depth` big-endian 16-bit places in
    `members`. `version` is the same for the same members and `bits` on every machine, whoever planned the ring.
    """

    bits: int
    members: tuple[RingMember, ...]
    table: bytes = field(repr=False)
    version: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", _fingerprint(self.bits, self.members))

    @property
    def partitions(self) -> int:
        """How many slices the hash space has."""
        return 1 << self.bits

    @property
    def depth(self) -> int:
        """How many members each partition lists."""
        return min(len(self.members), DEPTH_MAX)

    def partition_of(self, chunk: ChunkId) -> int:
        """Return the slice that the chunk is in."""
        return partition_of(chunk, self.bits)

    def holders(self, chunk: ChunkId, factor: int) -> tuple[NodeId, ...]:
        """Return the `factor` nodes that are to keep the chunk, or all if they are fewer; the first is asked first."""
        return self.holders_in(self.partition_of(chunk), factor)

    def holders_in(self, partition: int, factor: int) -> tuple[NodeId, ...]:
        """Return the holders of a partition's chunks; `factor` up to `DEPTH_MAX`."""
        if not 1 <= factor <= DEPTH_MAX:
            raise InvalidError(f"replication factor {factor} is out of range", f"use 1 to {DEPTH_MAX}")
        return tuple(self.members[place].node for place in self._row(partition)[:factor])

    def order(self, chunk: ChunkId) -> Sequence[NodeId]:
        """Return all members in the order in which they are asked to keep the chunk, and later for it."""
        return self.order_in(self.partition_of(chunk))

    def order_in(self, partition: int) -> Sequence[NodeId]:
        """Return all members in the order in which they are asked about a partition's chunks."""
        row = self._row(partition)
        if len(row) == len(self.members):
            return [self.members[place].node for place in row]
        listed, start = frozenset(row), partition % len(self.members)
        rest = (place for place in (*range(start, len(self.members)), *range(start)) if place not in listed)
        return [self.members[place].node for place in (*row, *rest)]

    def _row(self, partition: int) -> tuple[int, ...]:
        depth = self.depth
        return struct.unpack_from(f">{depth}H", self.table, partition * depth * 2)

    def pack(self) -> list[Any]:
        """Return the form that is stored and travels: some 2 MiB for 500 members, whose facts alone are 40 KiB."""
        rows = [[member.node, member.capacity, member.zone] for member in self.members]
        return [_FORMAT, self.bits, rows, self.table]


def partition_of(chunk: ChunkId, bits: int) -> int:
    """Return which of 2^`bits` slices of the hash space a chunk is in: what the first bits of its id say."""
    return int.from_bytes(chunk[:4], "big") >> (32 - bits)


def build_ring(bits: int, members: tuple[RingMember, ...], rows: Iterable[Sequence[int]]) -> Ring:
    """Return the ring whose partitions list the members at these places, in order; `members` in order of node id."""
    width = struct.Struct(f">{min(len(members), DEPTH_MAX)}H")
    return Ring(bits, members, b"".join(width.pack(*row) for row in rows))


def unpack_ring(raw: Any) -> Ring:
    """Undo `Ring.pack`. Errors: `UnknownFormatError` for anything that it cannot have made.

    That the table is what the planner makes of the members is not checked: who does not trust the source plans anew.
    """
    if not isinstance(raw, list) or len(raw) != _FIELDS or raw[0] != _FORMAT:
        raise UnknownFormatError("a ring has another form", "use a newer meshhold")
    _, bits, rows, table = raw
    if type(bits) is not int or not 0 <= bits <= BITS_MAX or not isinstance(rows, list) or len(rows) > MEMBERS_MAX:
        raise UnknownFormatError(f"a ring does not list up to {MEMBERS_MAX} members, or its partitions are not counted")
    members = tuple(_unpack_member(row) for row in rows)
    if any(before.node >= after.node for before, after in pairwise(members)):
        raise UnknownFormatError("a ring does not list its members once each, in order")
    depth = min(len(members), DEPTH_MAX)
    if not isinstance(table, bytes) or len(table) != (depth << bits) * 2:
        raise UnknownFormatError("a ring's table does not fit its members and partitions")
    rows_of = struct.iter_unpack(f">{depth}H", table) if depth else iter(())
    if any(len(set(row)) != depth or max(row) >= len(members) for row in rows_of):
        raise UnknownFormatError("a ring's partition names one member twice, or one who is none")
    return Ring(bits, members, table)


def _unpack_member(row: Any) -> RingMember:
    if not isinstance(row, list) or len(row) != _ROW_FIELDS:
        raise UnknownFormatError("a ring has a member that is not node, capacity and zone")
    node, capacity, zone = row
    if not isinstance(node, str) or type(capacity) is not int or not isinstance(zone, str):
        raise UnknownFormatError("a ring has a member that is not node, capacity and zone")
    try:
        return RingMember(NodeId(node), capacity, zone)
    except InvalidError as error:
        raise UnknownFormatError(f"a ring has an impossible member: {error.message}") from error


def _fingerprint(bits: int, members: tuple[RingMember, ...]) -> str:
    facts = [f"meshhold ring {_FORMAT} {bits}"]
    facts += [f"{member.node} {member.capacity} {member.zone.encode().hex()}" for member in members]
    return hash_bytes("\n".join(facts).encode())[:_FINGERPRINT_BYTES].hex()
