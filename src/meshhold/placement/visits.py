"""In which order does a node want partitions? A shuffle of its own; knows no other node and no capacity.

What a node wants depends on its name alone, so who joins or leaves changes nobody else's wishes: that is why little
moves. The shuffle is one of all partitions, of which a caller takes as many as it needs from the front.
"""

from __future__ import annotations

import struct
from itertools import accumulate
from typing import Final

from meshhold.crypto.hashing import hash_bytes, keyed_hash
from meshhold.model.ids import NodeId

TICKS: Final = 1 << 32
"""Ticks of a node's clock while it visits each partition once on average."""

_WISHES: Final = b"\x00"
_REST: Final = b"\x01"
_PER_HASH: Final = 8  # numbers of 32 bits


def shuffle_partitions(node: NodeId, bits: int, count: int) -> list[int]:
    """Return the `count` partitions out of 2^bits that the node wants most, the dearest first.

    First come those that as many draws as there are partitions hit, in the order in which they are hit; the rest (one
    in e) are sorted by further draws.
    """
    partitions = 1 << bits
    key = hash_bytes(b"meshhold ring order\n" + node.encode())
    wanted: dict[int, None] = {}
    drawn = 0
    while len(wanted) < count and drawn < partitions:
        step = min(max(count - len(wanted), 8 * _PER_HASH), partitions - drawn)
        numbers = _draw(key, _WISHES, drawn, step)
        wanted.update(dict.fromkeys([number & partitions - 1 for number in numbers]))
        drawn += -(-step // _PER_HASH) * _PER_HASH
    if len(wanted) < count:
        rest = [partition for partition in range(partitions) if partition not in wanted]
        ranks = dict(zip(rest, _draw(key, _REST, 0, len(rest)), strict=False))
        wanted.update(dict.fromkeys(sorted(rest, key=ranks.__getitem__)))
    return list(wanted)[:count]


def visit_times(bits: int) -> list[int]:
    """Return at what tick of a clock of its own a node visits its first, second, … partition.

    If each partition were visited after an exponential time of mean `TICKS`, independent of all others, these would be
    the means of the first, the second, … of those times: sums of 1/n, 1/(n-1), … Whoever of several nodes is first at a
    partition is then distributed by the speed of their clocks, which is what weighted rendezvous hashing computes by
    logarithms; sums of fractions are the same on every machine.
    Source: Rényi, "On the theory of order statistics" (1953).
    """
    partitions = 1 << bits
    return list(accumulate(TICKS // (partitions - done) for done in range(partitions)))


def _draw(key: bytes, purpose: bytes, start: int, count: int) -> list[int]:
    """Return at least `count` numbers of 32 bits from a node's stream; `start` is a multiple of eight."""
    first = start // _PER_HASH
    blocks = range(first, first - (-count // _PER_HASH))
    raw = b"".join([keyed_hash(key, purpose + block.to_bytes(4, "big")) for block in blocks])
    return list(struct.unpack(f"<{len(raw) // 4}I", raw))
