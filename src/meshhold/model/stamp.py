"""Which of two changes is newer? Hybrid logical clocks; knows no wall clock: callers pass `now_ms`."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from meshhold.errors import UnknownFormatError

STAMP_SIZE: Final = 16
COUNTER_BITS: Final = 16  # 65,536 stamps per millisecond before the logical part runs ahead of the wall clock
_LAYOUT: Final = struct.Struct(">Q8s")
_TIME_MAX: Final = 2**64 - 1


class Stamp(NamedTuple):
    """A point in the order of all changes: `time` is milliseconds since 1970 << 16 | counter, `node` breaks ties.

    `node` is the first 8 bytes of the node's public key. Stamps compare as tuples and, packed, as byte strings.
    Source: Kulkarni et al., "Logical Physical Clocks" (2014).
    """

    time: int
    node: bytes

    @property
    def wall_ms(self) -> int:
        """Milliseconds since 1970 of the physical part."""
        return self.time >> COUNTER_BITS

    def pack(self) -> bytes:
        """Return 16 bytes that sort as the stamp does."""
        return _LAYOUT.pack(self.time, self.node)


ZERO: Final = Stamp(0, bytes(8))
"""Before every change; the accepted ballot of a register that was never written."""


def unpack_stamp(raw: bytes) -> Stamp:
    """Undo `Stamp.pack`. Errors: `UnknownFormatError` unless it is 16 bytes."""
    if len(raw) != STAMP_SIZE:
        raise UnknownFormatError(f"a stamp has {STAMP_SIZE} bytes, not {len(raw)}")
    return Stamp(*_LAYOUT.unpack(raw))


class Clock:
    """Gives out strictly increasing stamps of one node, above every stamp it has observed.

    The law: a stamp given after `observe(s)` is greater than `s`; two stamps of one clock are never equal.
    """

    def __init__(self, node: bytes, last: Stamp = ZERO) -> None:
        self._node = node
        self._time = last.time

    def tick(self, now_ms: int) -> Stamp:
        """Return the next stamp, at `now_ms` or later if the clock is already ahead."""
        self._time = max(self._time + 1, now_ms << COUNTER_BITS)
        if self._time > _TIME_MAX:
            raise UnknownFormatError("the logical clock is exhausted: a stamp from the far future was observed")
        return Stamp(self._time, self._node)

    def observe(self, stamp: Stamp) -> None:
        """Make every later stamp greater than `stamp`."""
        self._time = max(self._time, stamp.time)
