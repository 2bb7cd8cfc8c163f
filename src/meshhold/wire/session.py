"""What do two nodes say over one channel? Calls, notes and streams at once, on frames that a channel seals.

A pure state machine: it takes frames and gives events, takes wishes and gives frames. Rules:
- Each side begins with a GREETING and sends nothing else before it has the other's.
- Order of sending: credit and other control first (pings, notes, cancellations, resets), then calls and streams in
  turn, a slice each. So a probe waits for one slice at most, and neither calls nor streams starve the other.
- `end`: once nothing is in progress either way, the channel's authenticated end is the last frame. What comes in
  after it is ignored: the other side learns from the end that it was not served.
- A peer that breaks a rule gets no second chance: `receive` raises `ProtocolError`, and the connection is over.
It ignores pongs that nobody waits for. Knows no socket and no clock: callers pass `now_s`, which never goes back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from meshhold.errors import PeerUnreachableError, ProtocolError, TooLargeError
from meshhold.wire.batches import Batch
from meshhold.wire.calls import Calls
from meshhold.wire.events import Event, Failure, NoteReceived, PeerEnded, Pong, Ready
from meshhold.wire.frames import (
    CALL,
    CANCEL,
    CREDIT,
    DATA,
    END,
    FAIL,
    GREETING,
    HEADER,
    HEADER_SIZE,
    KIND_NAMES,
    MORE,
    NOTE,
    OPEN,
    PING,
    PONG,
    REPLY,
    RESET,
    SIZED_HEAD,
    U32_MAX,
    pack_greeting,
    pack_name,
    parse_greeting,
    parse_name,
    parse_sized,
)
from meshhold.wire.framing import FRAME_HEAD_SIZE
from meshhold.wire.limits import BULK_MIN, CONTROL_QUEUED_MAX, NOTE_SIZE_MAX, PONGS_QUEUED_MAX, SLICE_SIZE, Limits
from meshhold.wire.streams import Streams

_RTT_GAIN: Final = 0.125  # RFC 6298, section 2
_FREQUENT: Final = frozenset((CALL, REPLY, DATA))
"""Kinds that ask for nothing but a greeting before them: what bulk and calls are made of."""

_CLOSING: Final = frozenset((END, RESET))
_PINGS_MAX: Final = 8  # pings of ours on their way; a new one replaces the oldest


class Sealing(Protocol):
    """What a session asks of its channel."""

    ended: bool

    def seal(self, plaintext: bytes | memoryview, /) -> bytes:
        """Return the next frame's content."""

    def open(self, ciphertext: bytes | memoryview, /) -> bytes:
        """Return what the peer sealed; empty for a mark."""

    def seal_into(self, plaintext: bytes | memoryview, room: memoryview, /) -> int:
        """Write the next frame's content to the front of `room`; return its size."""

    def seal_end(self) -> bytes:
        """Return the last frame's content."""

    def rekey_due(self, now_s: float, /) -> bool:
        """Tell whether a new key is due."""

    def seal_rekey(self, now_s: float, /) -> bytes:
        """Return a frame's content after which a new key is used."""


class Session:
    """One connection's conversation.

    `dial` numbers the dials of the side that dialled; `instance` is 8 random bytes that name this run of the program.
    """

    def __init__(
        self, channel: Sealing, *, dialed: bool, dial: int, instance: bytes, limits: Limits, now_s: float
    ) -> None:
        self.limits = limits
        self.rtt_s: float | None = None
        self.is_ready = False
        self.is_open = False
        """Something may be begun: both sides have greeted, and neither ends."""
        self.is_ending = False
        self.peer_ended = False
        self.sent_end = False
        self._channel = channel
        self._control: deque[bytes] = deque([pack_greeting(dial if dialed else 0, instance, limits)])
        self._grants: dict[int, int] = {}
        self._calls = Calls(limits, self._control)
        self._streams = Streams(limits, self._control, self._grants, dialed=dialed)
        self.drained = self._streams.drained
        self._messages = self._calls.waiting
        self._turns = self._streams.turns
        self._notes = 0
        self._pongs = 0
        self._pings: dict[int, float] = {}
        self._ping_token = 0
        self._heard_s = self._pinged_s = now_s
        self._calls_turn = 0  # bytes of calls since the last slice of a stream
        self._take: tuple[Callable[[int, memoryview], Event | None], ...] = self._takers()

    # -- this side's wishes -----------------------------------------------------------------------------------------

    @property
    def calls_free(self) -> int:
        """How many more calls may be begun now."""
        return self._calls.free if self.is_open else 0

    @property
    def streams_free(self) -> int:
        """How many more streams may be opened now."""
        return self._streams.free if self.is_open else 0

    def send_call(self, name: str, body: bytes | memoryview, timeout_s: float) -> int:
        """Queue a call that is of no use after `timeout_s`; return its number.

        Errors: `OverloadedError` without a free place, `TooLargeError`; `PeerUnreachableError` once the session ends.
        """
        self._check_open()
        return self._calls.begin(name, body, timeout_s)

    def cancel_call(self, call: int) -> None:
        """Give a call up. Its place is free when the other side has confirmed, or at once if it was never sent."""
        self._calls.cancel(call)

    def was_sent(self, call: int) -> bool:
        """Tell whether the other side may know of a call of ours that has no answer."""
        return self._calls.was_sent(call)

    def send_reply(self, call: int, body: bytes | memoryview) -> None:
        """Answer a call. Errors: `TooLargeError`; the call then still waits for an answer."""
        self._calls.reply(call, body)

    def send_failure(self, call: int, failure: Failure) -> None:
        """Refuse a call."""
        self._calls.fail(call, failure)

    def send_note(self, name: str, body: bytes) -> bool:
        """Queue a one-way message; False if so many wait that it is dropped. Errors: as `send_call`."""
        self._check_open()
        if len(body) > NOTE_SIZE_MAX:
            raise TooLargeError(f"a note of {len(body)} bytes, {NOTE_SIZE_MAX} are allowed", "make it a call")
        if len(self._control) >= CONTROL_QUEUED_MAX:
            return False
        self._control.append(b"".join((HEADER.pack(NOTE, 0), pack_name(name), body)))
        return True

    def open_stream(self, name: str, body: bytes) -> int:
        """Queue the opening of a stream; return its number. Errors: as `send_call`."""
        self._check_open()
        return self._streams.begin(name, body)

    def send_data(self, stream: int, data: bytes | memoryview) -> bool:
        """Queue bytes of a stream, one piece at a time; see `drained` for when it is taken. False: the stream is over.

        The bytes are not copied: leave them as they are until then.
        """
        return self._streams.send(stream, data)

    def unsent(self, stream: int) -> int:
        """Return how many bytes of a stream's piece are still to be sent."""
        return self._streams.unsent(stream)

    def end_stream(self, stream: int) -> None:
        """Say that nothing more comes on a stream."""
        self._streams.end(stream)

    def reset_stream(self, stream: int, failure: Failure) -> None:
        """Break a stream off both ways."""
        self._streams.reset(stream, failure)

    def consume(self, stream: int, size: int) -> None:
        """Give back the credit of a received piece of `size` bytes, once for each `DataReceived`."""
        self._streams.consume(stream, size)

    def expect(self, stream: int, size: int) -> None:
        """Learn how many bytes will probably still be received on a stream: it saves credit that nobody needs."""
        self._streams.expect(stream, size)

    @property
    def owes_credit(self) -> bool:
        """Credit waits to be given back: worth a send by itself."""
        return bool(self._grants)

    def ping(self, now_s: float) -> None:
        """Ask the other side for a sign of life; `Pong` tells the round trip."""
        self._pinged_s = now_s
        self._ping_token += 1
        self._pings[self._ping_token] = now_s
        if len(self._pings) > _PINGS_MAX:
            del self._pings[next(iter(self._pings))]
        self._control.append(HEADER.pack(PING, self._ping_token))

    def tick(self, now_s: float) -> float:
        """Do what time asks for; return when to call again.

        Errors: `PeerUnreachableError` when the peer has said nothing for `silence_s_max`.
        """
        limits = self.limits
        if now_s - self._heard_s >= limits.silence_s_max:
            raise PeerUnreachableError(f"the peer has said nothing for {limits.silence_s_max:g} s")
        due_s = min(max(self._heard_s, self._pinged_s) + limits.ping_idle_s, self._pinged_s + limits.ping_every_s)
        if now_s >= due_s and self.is_ready and not self.sent_end:
            self.ping(now_s)
            due_s = now_s + min(limits.ping_idle_s, limits.ping_every_s)
        return min(max(due_s, now_s + limits.ping_idle_s / 10), self._heard_s + limits.silence_s_max)

    def end(self) -> None:
        """Begin nothing more; end once nothing is in progress."""
        self.is_ending = True
        self.is_open = False

    def abandon(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Forget everything: the connection is over. Return the calls and streams of ours that were open."""
        self.is_ending = True
        self.is_open = False
        return self._calls.abandon(), self._streams.abandon()

    def _check_open(self) -> None:
        if not self.is_open:
            raise PeerUnreachableError("this link is not open yet, or ends", "call again: it goes over another one")

    # -- frames out -------------------------------------------------------------------------------------------------

    def next_frames(self, size_max: int, now_s: float, batch: Batch | None = None) -> list[bytes | memoryview]:
        """Return framed bytes to send in order, a little over `size_max` of them at most; empty when nothing waits.

        Given a `batch`, what is large comes as a view of it, which is good until the next call.
        """
        frames: list[bytes | memoryview] = []
        size = 0
        seal = self._channel.seal
        if batch is not None and not self._has_bulk:
            batch.drop()
            batch = None
        while size < size_max and (self._control or self._messages or self._turns or self._grants):
            is_only_calls = self._messages and not (self._control or self._turns or self._grants)
            plain = self._calls.next_part() if is_only_calls else self._next()
            if plain is None or self.sent_end:
                break
            if batch is not None:
                size += batch.seal(self._channel, plain)
                if batch.is_full:
                    break
                continue
            sealed = seal(plain)
            frames.append(len(sealed).to_bytes(FRAME_HEAD_SIZE, "big"))
            frames.append(sealed)
            size += len(sealed)
        if batch is not None and size:
            frames.append(batch.take())
        if (self.is_ending or self.peer_ended) and size < size_max and self._may_end():
            self.sent_end = True
            frames += _framed(self._channel.seal_end())
        if frames and not self.sent_end and self._channel.rekey_due(now_s):
            frames += _framed(self._channel.seal_rekey(now_s))
        return frames

    @property
    def _has_bulk(self) -> bool:
        """Several full frames wait, of one stream or one call."""
        if self._turns and self._turns[0].unsent >= BULK_MIN:
            return True
        return bool(self._messages) and len(self._messages[0].body) >= BULK_MIN

    def _next(self) -> bytes | None:
        if self._grants:
            number, grant = self._grants.popitem()
            rest = grant - U32_MAX
            if rest > 0:
                self._grants[number] = rest
            return SIZED_HEAD.pack(CREDIT, number, min(grant, U32_MAX))
        if self._control and (self.is_ready or self._control[0][0] == GREETING):
            frame = self._control.popleft()
            kind = frame[0]
            if kind == PONG:
                self._pongs -= 1
            elif kind in _CLOSING:
                self._streams.take_sent(frame)
            return frame
        if self._messages and (self._calls_turn < SLICE_SIZE or not self._turns):
            part = self._calls.next_part()
            if part is not None:
                self._calls_turn += len(part)
                return part
        self._calls_turn = 0
        return self._streams.next_slice() or self._calls.next_part()

    def _may_end(self) -> bool:
        return self.is_ready and not self.sent_end and self._calls.idle and self._streams.idle

    # -- frames in --------------------------------------------------------------------------------------------------

    def receive(self, frame: bytes | memoryview, now_s: float) -> Event | None:
        """Take one frame's content as it came; return what it says, None if it asks nothing of the caller.

        Errors: `ProtocolError` (remote), or what the channel raises.
        """
        plain = self._channel.open(frame)
        self._heard_s = now_s
        size = len(plain)
        if size < HEADER_SIZE:
            if size:
                raise ProtocolError(f"a frame of {size} bytes has no header")
            return self._take_end_of_channel() if self._channel.ended else None
        if self.sent_end:
            return None
        kind: int
        number: int
        kind, number = HEADER.unpack_from(plain)
        if self.is_ready and kind in _FREQUENT:
            return self._take[kind](number, memoryview(plain)[HEADER_SIZE:])
        if kind >= len(self._take):
            raise ProtocolError(f"a frame of unknown kind {kind}", "run the same release on both nodes")
        if (kind == GREETING) is self.is_ready:
            raise ProtocolError(f"a {KIND_NAMES[kind]} comes {'after' if self.is_ready else 'before'} the GREETING")
        if kind == PONG:
            return self._take_pong(number, now_s)
        return self._take[kind](number, memoryview(plain)[HEADER_SIZE:])

    def _takers(self) -> tuple[Callable[[int, memoryview], Event | None], ...]:
        calls, streams = self._calls, self._streams
        by_kind: dict[int, Callable[[int, memoryview], Event | None]] = {
            GREETING: self._take_greeting,
            PING: self._take_ping,
            NOTE: self._take_note,
            CALL: calls.take_call,
            REPLY: calls.take_reply,
            MORE: calls.take_more,
            FAIL: calls.take_failure,
            CANCEL: _bare(CANCEL, calls.take_cancel),
            OPEN: streams.take_open,
            DATA: streams.take_data,
            END: _bare(END, streams.take_end),
            RESET: streams.take_reset,
            CREDIT: self._take_credit,
        }
        return tuple(by_kind.get(kind, _refuse_kind_0) for kind in range(len(KIND_NAMES)))

    def _take_greeting(self, number: int, payload: memoryview) -> Event:
        del number
        greeting = parse_greeting(payload)
        self._calls.greet(greeting)
        self._streams.greet(greeting)
        self.is_ready = True
        self.is_open = not self.is_ending
        return Ready(greeting.dial, greeting.instance)

    def _take_ping(self, number: int, payload: memoryview) -> None:
        del payload
        self._pongs += 1
        if self._pongs > PONGS_QUEUED_MAX:
            raise ProtocolError("the peer pings and does not read the answers")
        self._control.append(HEADER.pack(PONG, number))

    def _take_pong(self, number: int, now_s: float) -> Event | None:
        sent_s = self._pings.pop(number, None)
        if sent_s is None:
            return None
        rtt_s = now_s - sent_s
        self.rtt_s = rtt_s if self.rtt_s is None else self.rtt_s + _RTT_GAIN * (rtt_s - self.rtt_s)
        return Pong(rtt_s)

    def _take_note(self, number: int, payload: memoryview) -> Event:
        del number
        name, body = parse_name(payload, NOTE)
        if len(body) > NOTE_SIZE_MAX:
            raise ProtocolError(f"a NOTE of {len(body)} bytes, {NOTE_SIZE_MAX} are allowed")
        return NoteReceived(name, body)

    def _take_credit(self, number: int, payload: memoryview) -> None:
        grant, rest = parse_sized(payload, CREDIT)
        if rest:
            raise ProtocolError("a CREDIT has bytes behind its grant")
        self._streams.take_credit(number, grant)

    def _take_end_of_channel(self) -> Event:
        if not self.is_ready:
            raise ProtocolError("the peer ends before its GREETING")
        self.peer_ended = True
        calls, streams = self.abandon()
        return PeerEnded(calls, streams)


def _framed(content: bytes) -> tuple[bytes, bytes]:
    return len(content).to_bytes(FRAME_HEAD_SIZE, "big"), content


def _bare(kind: int, take: Callable[[int], Event | None]) -> Callable[[int, memoryview], Event | None]:
    """Return a taker of frames that carry nothing but their number."""

    def taker(number: int, payload: memoryview) -> Event | None:
        if payload:
            raise ProtocolError(f"a {KIND_NAMES[kind]} carries {len(payload)} bytes, none are allowed")
        return take(number)

    return taker


def _refuse_kind_0(number: int, payload: memoryview) -> Event | None:
    del number, payload
    raise ProtocolError("a frame of unknown kind 0", "run the same release on both nodes")
