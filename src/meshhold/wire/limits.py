"""How much may one connection hold? The bounds of a session, with their reasons. Knows no frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SLICE_SIZE: Final = 64 * 1024 - 128
"""Payload bytes of one frame at most: what a control message may have to wait for. With the longest head of a call it
is what one sealed frame holds: each frame costs both sides some 30 us, whatever is in it."""

BULK_MIN: Final = 2 * SLICE_SIZE
"""Bytes that wait to be sent from which on a buffer for whole batches is worth its making; for one frame it is not."""

NAME_LENGTH_MAX: Final = 64
FAILURE_SIZE_MAX: Final = 2_048
"""Bytes of a failure's kind, message and fix: a sentence for a person, not a document."""

NOTE_SIZE_MAX: Final = 16 * 1024
"""A note is control, which overtakes everything: half a slice keeps it from becoming bulk."""

OPENING_SIZE_MAX: Final = 16 * 1024
"""The body that opens a stream travels in one frame; what is larger belongs into the stream."""

DATA_COST_MIN: Final = 256
"""Credit that a frame of data takes at least: about what a small piece costs in memory, so that a window of one-byte
frames holds no more memory than a window of full ones."""

CONTROL_QUEUED_MAX: Final = 512
"""Notes that wait to be sent: beyond it a new one is dropped, as a datagram would be."""

PONGS_QUEUED_MAX: Final = 16
"""Answers to pings that wait to be sent: an honest peer has one or two pings on their way."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What this side accepts; each side tells its own in its greeting and obeys the other's. Sizes are bytes.

    Trade-offs: a window larger than bandwidth times round trip keeps a stream at full speed (1 MiB: 20 MB/s at 50 ms);
    the connection's window bounds the memory that one peer can fill. A call's body is held whole, a stream's is not.
    """

    calls: int = 256
    """Calls of the other side in progress, their answers not yet sent."""

    streams: int = 128
    """Streams that the other side opened and that are not over."""

    message_size: int = 256 * 1024
    """One call's or answer's body."""

    calls_size: int = 8 * 1024 * 1024
    """Bodies of calls in progress and of answers not yet sent; beyond it calls are refused as overloaded."""

    stream_window: int = 1088 * 1024
    """A sealed chunk of 1 MiB and a slice: it waits for no credit on its way."""
    connection_window: int = 8 * 1024 * 1024

    ping_idle_s: float = 10.0
    """A link on which nothing came for so long is pinged; 20 idle links cost some 100 bytes/s."""

    ping_every_s: float = 60.0
    """A busy one is pinged at least so often, to know its round trip."""

    silence_s_max: float = 30.0
    """A peer that says nothing for so long is gone: two pings unanswered."""
