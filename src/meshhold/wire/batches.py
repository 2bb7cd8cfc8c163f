"""Where are large frames sealed? In one buffer, one behind the other, as they are sent. Knows no session and no socket.

The buffer is kept while bulk goes on: sealing each frame into a place of its own and joining them afterwards took a
seventh of what a chunk costs its sender.
"""

from __future__ import annotations

from typing import Final, Protocol

from meshhold.wire.framing import FRAME_HEAD_SIZE, FRAME_SIZE_MAX

FRAME_ROOM: Final = FRAME_HEAD_SIZE + FRAME_SIZE_MAX
BATCH_ROOM: Final = 3 * FRAME_ROOM
"""What holds 128 KiB of frames and the one that goes beyond."""


class SealsInto(Protocol):
    """What a batch asks of a channel."""

    def seal_into(self, plaintext: bytes | memoryview, room: memoryview, /) -> int:
        """Write the next frame's content to the front of `room`; return its size."""


class Batch:
    """Frames of one link. What `take` returns is good until the next `seal`: by then it is sent, or copied."""

    def __init__(self) -> None:
        self._room = memoryview(b"")
        self._at = 0

    @property
    def is_full(self) -> bool:
        """The next frame may find no room."""
        return self._at > BATCH_ROOM - FRAME_ROOM

    def seal(self, channel: SealsInto, plain: bytes) -> int:
        """Add a frame; return the size of its content."""
        if not self._room:
            self._room = memoryview(bytearray(BATCH_ROOM))
        head = self._at
        begin = head + FRAME_HEAD_SIZE
        size = channel.seal_into(plain, self._room[begin:])
        self._room[head:begin] = size.to_bytes(FRAME_HEAD_SIZE, "big")
        self._at = begin + size
        return size

    def take(self) -> memoryview:
        """Return the frames that were added, and begin anew."""
        at, self._at = self._at, 0
        return self._room[:at]

    def drop(self) -> None:
        """Keep no buffer: nothing large waits any more."""
        self._room = memoryview(b"")
