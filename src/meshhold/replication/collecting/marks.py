"""Which chunks are referred to, in two bytes each, and how an order to remove the others travels. Knows no disk."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from meshhold.errors import InvalidError, UnknownFormatError
from meshhold.model.ids import ChunkId

_WORDS: Final = struct.Struct(">6I8x")
_BITS_PER_CHUNK: Final = 16  # with 6 probes 1 in 1,000 dead chunks looks alive; the next round has another salt
_CHUNKS_MIN: Final = 1024
BYTES_MAX: Final = 64 * 1024 * 1024 - 1024
"""Bytes of one vault's marks, an order's head beside them in 64 MiB: 33 million chunks. Of more, more look alive."""
_SALT_MAX: Final = 2**32 - 1
ORDER_VERSION: Final = 1
_HEAD: Final = struct.Struct(">BdddQIQ")  # version, grace, walk ago, sender's clock, epoch, salt, bits
GRACE_S_MAX: Final = 3650 * 24 * 3600.0
AGO_S_MAX: Final = 30 * 24 * 3600.0
"""A walk that took a month tells nothing of now."""
_EPOCH_MAX: Final = 2**53


class Marks:
    """A set of chunk ids that may claim too much and never too little (Bloom, 1970), in 2 bytes per chunk.

    Chunk ids are uniform hashes already: their words, mixed with a salt, are the probes.
    """

    def __init__(self, expected: int, salt: int) -> None:
        self._size = min(max(_CHUNKS_MIN, expected) * _BITS_PER_CHUNK, BYTES_MAX * 8 - 8)
        self._bits: bytearray | memoryview = bytearray(self._size // 8 + 1)
        self._salt = (salt & _SALT_MAX) | 1

    def _positions(self, chunk: ChunkId) -> Iterator[int]:
        return ((word * self._salt >> 7) % self._size for word in _WORDS.unpack(chunk))

    def add(self, chunk: ChunkId) -> None:
        """Mark a chunk as referred to."""
        for position in self._positions(chunk):
            self._bits[position >> 3] |= 1 << (position & 7)

    def __contains__(self, chunk: ChunkId) -> bool:
        return all(self._bits[position >> 3] >> (position & 7) & 1 for position in self._positions(chunk))

    @property
    def salt(self) -> int:
        """What the probes are mixed with."""
        return self._salt

    @property
    def size(self) -> int:
        """How many bits there are."""
        return self._size

    def pack(self) -> bytes:
        """Return the bits, for `unpack` with the same salt and size."""
        return bytes(self._bits)


def unpack_marks(salt: int, size: int, bits: memoryview) -> Marks:
    """Undo `Marks.pack` without a copy; nothing can be added. Errors: `UnknownFormatError` out of bounds."""
    if not (salt & 1 and salt <= _SALT_MAX and _CHUNKS_MIN <= size <= BYTES_MAX * 8 and len(bits) == size // 8 + 1):
        raise UnknownFormatError("marks of chunks have another size than they announce", "use a newer meshhold")
    marks = Marks(0, salt)
    marks._size, marks._bits = size, bits.toreadonly()  # noqa: SLF001 - the other half of this class's `pack`
    return marks


@dataclass(frozen=True, slots=True)
class Order:
    """To remove what is not marked and was last put more than `grace_s` before the walk began.

    `walk_ago_s`: seconds since then when the order is sent; `sent_s`: the sender's clock (since 1970) at that moment;
    `epoch`: that of the index replicas that the sender walked.
    """

    marks: Marks
    grace_s: float
    walk_ago_s: float
    sent_s: float
    epoch: int

    def pack(self) -> bytes:
        """Return the form that travels. Errors: `InvalidError` for a time out of bounds."""
        if not _is_sound(self):
            raise InvalidError("an order to collect has a time out of bounds", "use a grace of up to ten years")
        head = (ORDER_VERSION, self.grace_s, self.walk_ago_s, self.sent_s, self.epoch)
        return _HEAD.pack(*head, self.marks.salt, self.marks.size) + self.marks.pack()


def unpack_order(raw: bytes) -> Order:
    """Undo `Order.pack`. Errors: `UnknownFormatError` for anything that it did not make, and nothing else."""
    if not raw or raw[0] != ORDER_VERSION:
        raise UnknownFormatError(f"an order to collect of version {raw[:1].hex()} is not known", "use a newer meshhold")
    if len(raw) < _HEAD.size:
        raise UnknownFormatError(f"an order to collect of {len(raw)} bytes is cut short")
    _, grace_s, walk_ago_s, sent_s, epoch, salt, size = _HEAD.unpack_from(raw)
    order = Order(unpack_marks(salt, size, memoryview(raw)[_HEAD.size :]), grace_s, walk_ago_s, sent_s, epoch)
    if not _is_sound(order):
        raise UnknownFormatError("an order to collect has a time out of bounds")
    return order


def _is_sound(order: Order) -> bool:
    times = (order.grace_s, GRACE_S_MAX), (order.walk_ago_s, AGO_S_MAX), (order.sent_s, float(_EPOCH_MAX))
    return all(math.isfinite(time) and 0 <= time <= most for time, most in times) and 0 <= order.epoch <= _EPOCH_MAX
