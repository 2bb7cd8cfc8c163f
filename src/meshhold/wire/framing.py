"""Where does a frame begin and end in a stream of bytes? Knows neither what is inside nor who sent it.

A frame is its length (2 bytes, big endian, 1 to 65,535) and that many bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshhold.errors import ProtocolError

FRAME_SIZE_MAX: Final = 65_535  # the largest message that Noise knows, and what two bytes can say
FRAME_HEAD_SIZE: Final = 2


def encode_frame(content: bytes) -> bytes:
    """Return `content` as a frame. Errors: `ProtocolError` unless it has 1 to 65,535 bytes."""
    if not 0 < len(content) <= FRAME_SIZE_MAX:
        raise ProtocolError(f"a frame holds 1 to {FRAME_SIZE_MAX} bytes, not {len(content)}", culprit="local")
    return len(content).to_bytes(FRAME_HEAD_SIZE, "big") + content


Frame = bytes | memoryview
_COPIED_MAX: Final = 4 * 1024
"""A smaller frame is copied: that costs less than a view, and keeps no larger buffer alive."""


class FrameReader:
    """Cuts a stream into frames; holds at most one frame that is not whole yet, and copies each byte once at most.

    `first_sizes_max` bounds the first frames one by one, `size_max` all later ones: so a stranger in the middle of a
    handshake cannot make this side hold more than a handshake message. After an error the reader is of no use.
    """

    def __init__(self, size_max: int = FRAME_SIZE_MAX, first_sizes_max: Sequence[int] = ()) -> None:
        self._size_max = size_max
        self._first = list(first_sizes_max)
        self._high: int | None = None  # the first byte of a length whose second one is still to come
        self._need = 0  # bytes of the frame that is being read; 0 between frames
        self._body = bytearray()

    @property
    def mid_frame(self) -> bool:
        """A frame has begun and is not whole: a stream that ends now is cut short."""
        return self._high is not None or self._need > 0

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the stream; return the contents of the frames that they complete.

        A large one may be a view of `data`.

        Errors: `ProtocolError` for a length of 0 or over the bound, as soon as the length is read.
        """
        at, size = 0, len(data)
        if size > FRAME_HEAD_SIZE and not (self._need or self._first) and self._high is None:
            length = data[0] << 8 | data[1]
            if length == size - FRAME_HEAD_SIZE and length <= self._size_max:
                return [data[FRAME_HEAD_SIZE:]]  # the usual case where little is said: one whole frame
        frames: list[Frame] = []
        view = memoryview(data)
        while at < size:
            if not self._need:
                if self._high is None and size - at == 1:
                    self._high = data[at]
                    break
                at = self._read_length(data, at)
            need, body = self._need, self._body
            if not body and size - at >= need:
                frames.append(view[at : at + need] if need > _COPIED_MAX else data[at : at + need])
                at += need
                self._need = 0
                continue
            taken = view[at : at + need - len(body)]
            body += taken
            at += len(taken)
            if len(body) == need:
                frames.append(memoryview(body) if need > _COPIED_MAX else bytes(body))
                self._body = bytearray()
                self._need = 0
        return frames

    def _read_length(self, data: bytes, at: int) -> int:
        if self._high is None:
            length, at = data[at] << 8 | data[at + 1], at + 2
        else:
            length, at = self._high << 8 | data[at], at + 1
            self._high = None
        limit = self._first.pop(0) if self._first else self._size_max
        if not 0 < length <= limit:
            raise ProtocolError(f"a frame announces {length} bytes where 1 to {limit} are allowed")
        self._need = length
        return at
