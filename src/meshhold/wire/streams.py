"""Which streams are open, what may each still send, and whose turn is it? Knows no call and no clock.

Rules:
- The side that dialled opens odd numbers, the other even ones, each greater than every earlier one of its side.
- A stream lasts until each side has sent END or RESET. A RESET breaks off both ways: the other side drops what it
  had to send and answers with END or RESET.
- The place of a stream that the peer opened is free once our END or RESET of it has gone out: before, an honest peer
  cannot open another one in it, and a peer that reads nothing would leave a RESET behind in each.
- A stream that is over is forgotten everywhere: nothing of it waits to be sent any more.
- Credit: a sender starts with the receiver's windows, one per stream and one for the connection. A DATA of n bytes
  takes max(n, 256) of both; CREDIT gives back what the receiver has used, in steps of half a window at least. Where
  it knows how much is still to come, and the window has room for that, it gives back nothing.
- Streams that have something to send and the credit for it take turns, a slice each.
It ignores DATA, END, RESET and CREDIT of streams that are over, but gives the connection its credit back.
"""

from __future__ import annotations

from collections import deque

from meshhold.errors import OverloadedError, ProtocolError, TooLargeError
from meshhold.wire.events import DataReceived, Event, Failure, StreamEnded, StreamOpened, StreamReset
from meshhold.wire.frames import (
    DATA,
    END,
    HEADER,
    OPEN,
    RESET,
    U32_MAX,
    Greeting,
    pack_failure,
    pack_name,
    parse_failure,
    parse_name,
)
from meshhold.wire.limits import DATA_COST_MIN, OPENING_SIZE_MAX, SLICE_SIZE, Limits


class _Stream:
    """One stream's state, both ways."""

    __slots__ = (
        "at",
        "credit",
        "data",
        "in_done",
        "in_turn",
        "is_broken",
        "is_ending",
        "number",
        "opening",
        "out_done",
        "owed",
        "reset_frame",
        "rest",
        "was_reset",
        "window",
    )

    def __init__(self, number: int, credit: int, window: int, opening: bytes = b"") -> None:
        self.number = number
        self.opening = opening  # the OPEN that is still to be sent
        self.credit = credit
        self.window = window
        self.owed = 0  # used by this side, not given back yet
        self.rest = -1  # bytes that are still expected to come in; less than 0: nobody knows
        self.data: memoryview | None = None
        self.at = 0
        self.in_turn = False
        self.is_ending = False
        self.is_broken = False  # by either side: it takes nothing more
        self.in_done = False
        self.out_done = False
        self.was_reset = False  # by this side: what still comes in is dropped
        self.reset_frame = b""  # the RESET that holds the peer's place until it has gone out

    @property
    def unsent(self) -> int:
        """Bytes of its data that are still to be sent."""
        return 0 if self.data is None else len(self.data) - self.at


class Streams:
    """The streams of one session. `control` takes frames that overtake; `grants` collects credit to give, by number."""

    def __init__(self, limits: Limits, control: deque[bytes], grants: dict[int, int], *, dialed: bool) -> None:
        self.drained: list[int] = []
        """Streams whose data has been taken whole since the list was last emptied."""
        self._limits = limits
        self._control = control
        self._grants = grants
        self._open: dict[int, _Stream] = {}
        self.turns: deque[_Stream] = deque()
        """Those that may have something to send, in the order of their turns."""
        self._starved: dict[int, _Stream] = {}  # wait for the connection's credit, by number, in order
        self._greeting: Greeting | None = None
        self._credit = 0
        self._window = limits.connection_window
        self._owed = 0
        self._ours = 0
        self._theirs = 0
        self._last_ours = -1 if dialed else 0
        self._last_theirs = 0 if dialed else -1

    def greet(self, greeting: Greeting) -> None:
        """Learn what the other side accepts."""
        self._greeting = greeting
        self._credit = greeting.connection_window

    # -- this side --------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more streams the other side accepts now."""
        return self._greeting.streams - self._ours if self._greeting else 0

    @property
    def idle(self) -> bool:
        """No stream is open."""
        return not self._open

    def begin(self, name: str, body: bytes | memoryview) -> int:
        """Queue the opening of a stream; return its number. Errors: `OverloadedError`, `TooLargeError`."""
        greeting = self._greeting
        if greeting is None or self.free <= 0:
            raise OverloadedError("as many streams to this peer are open as it accepts", "retry later")
        if len(body) > OPENING_SIZE_MAX:
            raise TooLargeError(f"{len(body)} bytes open a stream, {OPENING_SIZE_MAX} may", "send them in the stream")
        number = self._last_ours + 2
        opening = b"".join((HEADER.pack(OPEN, number), pack_name(name), body))
        self._last_ours = number
        self._ours += 1
        stream = _Stream(number, greeting.stream_window, self._limits.stream_window, opening)
        self._open[number] = stream
        self._take_turn(stream)
        return number

    def send(self, number: int, data: bytes | memoryview) -> bool:
        """Queue data, at most one piece at a time; False if the stream takes none any more.

        The bytes are read when they are sent: leave them alone until the number is in `drained`.
        """
        stream = self._open.get(number)
        if stream is None or stream.out_done or stream.is_ending or stream.is_broken:
            return False
        if stream.data is not None:
            raise ProtocolError(f"stream {number} has data waiting already", culprit="local")
        if data:
            stream.data, stream.at = memoryview(data), 0
            self._take_turn(stream)
        else:
            self.drained.append(number)
        return True

    def unsent(self, number: int) -> int:
        """Return how many bytes of the piece that was given to `send` wait."""
        stream = self._open.get(number)
        return 0 if stream is None else stream.unsent

    def end(self, number: int) -> None:
        """Send nothing more after what waits."""
        stream = self._open.get(number)
        if stream is not None and not (stream.out_done or stream.was_reset):
            stream.is_ending = True
            self._take_turn(stream)

    def reset(self, number: int, failure: Failure) -> None:
        """Break a stream off, both ways; nothing more is heard of it."""
        stream = self._open.get(number)
        if stream is None or stream.was_reset:
            return
        stream.was_reset = stream.is_broken = True
        was_cut, stream.data = stream.data is not None, None
        self._leave_turns(stream)
        if stream.opening:  # the other side has never heard of it
            stream.opening = b""
            stream.in_done = stream.out_done = True
        else:  # after our END, too: it tells that nobody reads any more
            if stream.is_ending and not stream.out_done and not was_cut:
                self._control.append(HEADER.pack(END, number))  # what was sent is whole: say so before
            frame = pack_failure(RESET, number, failure)
            self._control.append(frame)
            if self._is_ours(number):
                stream.out_done = True  # already: it overtakes our next OPEN, which the peer must find a place for
            else:
                stream.reset_frame = frame
        self._settle(stream)

    def take_sent(self, frame: bytes) -> None:
        """Learn that an END or RESET has left `control`."""
        kind, number = HEADER.unpack_from(frame)
        stream = self._open.get(number)
        if stream is not None:
            if kind == RESET:
                stream.reset_frame = b""
            stream.out_done = True
            self._settle(stream)

    def consume(self, number: int, size: int) -> None:
        """Give back the credit of a piece of `size` bytes that was received and used."""
        cost = max(size, DATA_COST_MIN)
        self._owe(cost)
        stream = self._open.get(number)
        if stream is not None and not stream.in_done:
            stream.owed += cost
            is_enough = 0 <= stream.rest <= stream.window - DATA_COST_MIN  # also for a first byte too many
            if stream.owed * 2 >= self._limits.stream_window and not is_enough:
                self._grants[number] = self._grants.get(number, 0) + stream.owed
                stream.window += stream.owed
                stream.owed = 0

    def expect(self, number: int, size: int) -> None:
        """Learn that so many bytes are still to come on a stream: credit that they do not need is not given back."""
        stream = self._open.get(number)
        if stream is not None:
            stream.rest = size

    def next_slice(self) -> bytes | None:
        """Return the next frame of the stream whose turn it is, None when none may send."""
        turns = self.turns
        while turns:
            stream = turns[0]
            if stream.opening:
                frame, stream.opening = stream.opening, b""
                self._rotate(stream)
                return frame
            if stream.data is not None:
                room = min(stream.credit, self._credit)
                if room >= DATA_COST_MIN:
                    return self._slice(stream, stream.data, room)
                turns.popleft()
                if self._credit < DATA_COST_MIN <= stream.credit:
                    self._starved[stream.number] = stream
                else:
                    stream.in_turn = False
                continue
            turns.popleft()
            stream.in_turn = False
            if stream.is_ending and not stream.out_done:
                stream.out_done = True
                self._settle(stream)
                return HEADER.pack(END, stream.number)
        return None

    def _slice(self, stream: _Stream, data: memoryview, room: int) -> bytes:
        at = stream.at
        end = min(at + min(room, SLICE_SIZE), len(data))
        cost = max(end - at, DATA_COST_MIN)
        stream.credit -= cost
        self._credit -= cost
        stream.at = end
        if end == len(data):
            stream.data = None
            self.drained.append(stream.number)
        self._rotate(stream)
        return b"".join((HEADER.pack(DATA, stream.number), data[at:end]))

    def _rotate(self, stream: _Stream) -> None:
        """End the turn: the stream goes behind the others while it has more to send."""
        if stream.data is None and not stream.is_ending:
            self.turns.popleft()
            stream.in_turn = False
        elif len(self.turns) > 1:
            self.turns.rotate(-1)

    def _take_turn(self, stream: _Stream) -> None:
        if not stream.in_turn:
            stream.in_turn = True
            self.turns.append(stream)

    def _leave_turns(self, stream: _Stream) -> None:
        if stream.in_turn:
            stream.in_turn = False
            if self._starved.pop(stream.number, None) is None:
                self.turns.remove(stream)

    def _settle(self, stream: _Stream) -> None:
        """Forget a stream that is over both ways. It has no turn: who has said END or RESET has left them."""
        number = stream.number
        if stream.in_done and stream.out_done and number in self._open:
            del self._open[number]
            self._grants.pop(number, None)
            if stream.reset_frame:  # an END has gone out instead
                self._control.remove(stream.reset_frame)
            if self._is_ours(number):
                self._ours -= 1
            else:
                self._theirs -= 1

    def _is_ours(self, number: int) -> bool:
        return number % 2 == self._last_ours % 2

    def _owe(self, cost: int) -> None:
        self._owed += cost
        if self._owed * 2 >= self._limits.connection_window:
            self._grants[0] = self._grants.get(0, 0) + self._owed
            self._window += self._owed
            self._owed = 0

    def abandon(self) -> tuple[int, ...]:
        """Return the streams of ours that are open, and forget all."""
        ours = tuple(number for number in self._open if self._is_ours(number))
        self._open.clear()
        self.turns.clear()
        self._starved.clear()
        return ours

    # -- the other side ---------------------------------------------------------------------------------------------

    def take_open(self, number: int, payload: memoryview) -> Event:
        """Take an OPEN."""
        if number <= self._last_theirs or number % 2 != self._last_theirs % 2:
            raise ProtocolError(f"stream {number} cannot be opened by the peer, or not any more")
        if self._theirs >= self._limits.streams:
            raise ProtocolError(f"more than {self._limits.streams} streams are open")
        name, body = parse_name(payload, OPEN)
        if len(body) > OPENING_SIZE_MAX:
            raise ProtocolError(f"{len(body)} bytes open a stream, {OPENING_SIZE_MAX} are allowed")
        self._last_theirs = number
        self._theirs += 1
        credit = self._greeting.stream_window if self._greeting else 0
        self._open[number] = _Stream(number, credit, self._limits.stream_window)
        return StreamOpened(number, name, body)

    def take_data(self, number: int, data: memoryview) -> Event | None:
        """Take a DATA."""
        cost = max(len(data), DATA_COST_MIN)
        self._window -= cost
        if self._window < 0:
            raise ProtocolError("the peer sends more data than this connection's window")
        stream = self._open.get(number)
        if stream is None or stream.was_reset:
            self._check_known(number, DATA)
            self._owe(cost)
            return None
        if stream.in_done:
            raise ProtocolError(f"data of stream {number} comes after its end")
        stream.window -= cost
        stream.rest -= len(data)
        if stream.window < 0 or not data:
            raise ProtocolError(f"the peer sends more data on stream {number} than its window, or none")
        return DataReceived(number, data)

    def take_end(self, number: int) -> Event | None:
        """Take an END."""
        stream = self._open.get(number)
        if stream is None:
            self._check_known(number, END)
            return None
        if stream.in_done:
            raise ProtocolError(f"stream {number} ends twice")
        stream.in_done = True
        self._settle(stream)
        return None if stream.was_reset else StreamEnded(number)

    def take_reset(self, number: int, payload: memoryview) -> Event | None:
        """Take a RESET."""
        failure = parse_failure(payload, RESET)
        stream = self._open.get(number)
        if stream is None:
            self._check_known(number, RESET)
            return None
        stream.in_done = True
        stream.is_broken = True
        stream.data = None
        if self._starved.pop(number, None) is not None:  # it needs no credit any more
            self.turns.append(stream)
        elif stream.is_ending and not (stream.out_done or stream.was_reset):
            self._take_turn(stream)
        self._settle(stream)
        return None if stream.was_reset else StreamReset(number, failure)

    def take_credit(self, number: int, grant: int) -> None:
        """Take a CREDIT."""
        if number == 0:
            self._credit += grant
            if not 0 < grant <= self._credit <= U32_MAX:
                raise ProtocolError("the peer grants the connection nothing, or too much")
            self.turns.extend(self._starved.values())
            self._starved.clear()
            return
        stream = self._open.get(number)
        if stream is None:
            self._check_known(number, DATA)
            return
        stream.credit += grant
        if not 0 < grant <= stream.credit <= U32_MAX:
            raise ProtocolError(f"the peer grants stream {number} nothing, or too much")
        if stream.data is not None:
            self._take_turn(stream)

    def _check_known(self, number: int, kind: int) -> None:
        last = self._last_ours if self._is_ours(number) else self._last_theirs
        if not 0 < number <= last:
            raise ProtocolError(f"a frame of kind {kind} names stream {number}, which was never opened")
