"""Which calls are in progress, each way, and what of them still has to be sent? Knows no stream and no clock.

Rules:
- A call has a number, greater than every earlier one of its side, and gets exactly one REPLY or FAIL, also after a
  CANCEL: so both sides agree on how many are in progress.
- A body larger than a slice goes in parts: CALL or REPLY, then MORE, with no other CALL, REPLY or FAIL between them. A
  side thus puts together one message at a time.
- A CANCEL between the parts ends them: the call has never begun, and is answered by FAIL.
- An answer holds its place until its last part is taken to be sent.
It ignores answers to calls that it has given up, and cancellations of calls that it has answered.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from meshhold.errors import OverloadedError, ProtocolError, TooLargeError
from meshhold.wire.events import CallCancelled, CallReceived, Event, Failure, FailureReceived, ReplyReceived
from meshhold.wire.frames import (
    CALL,
    CALL_HEAD,
    CANCEL,
    FAIL,
    HEADER,
    MORE,
    REPLY,
    SIZED_HEAD,
    U32_MAX,
    Greeting,
    pack_failure,
    pack_name,
    parse_call,
    parse_failure,
    parse_name,
    parse_sized,
)
from meshhold.wire.limits import NAME_LENGTH_MAX, SLICE_SIZE, Limits

CANCELLED: Final = Failure("CancelledError", "the caller gave the call up")
OVERLOADED: Final = Failure("OverloadedError", "the bodies of calls in progress take too much memory", "retry later")

_QUEUED, _SENT, _GIVEN_UP = range(3)


class _Message:
    """One message on its way out: `head` is its first frame's beginning, `body` what follows in parts."""

    __slots__ = ("at", "body", "call", "head", "is_answer")

    def __init__(self, call: int, head: bytes, body: bytes | memoryview, is_answer: bool) -> None:
        self.call = call
        self.head = head
        self.body = body
        self.at = 0
        self.is_answer = is_answer


class _Partial:
    """A message that has begun to come in; one that is refused is skipped without being kept."""

    __slots__ = ("call", "is_call", "is_refused", "raw", "size", "taken", "timeout_ms")

    def __init__(self, call: int, size: int, *, is_call: bool, timeout_ms: int, is_refused: bool) -> None:
        self.call = call
        self.size = size
        self.is_call = is_call
        self.timeout_ms = timeout_ms
        self.is_refused = is_refused
        self.raw = bytearray()
        self.taken = 0


class Calls:
    """The calls of one session. `control` takes frames that overtake."""

    def __init__(self, limits: Limits, control: deque[bytes]) -> None:
        self._limits = limits
        self._control = control
        self._calls_max = 0
        self._body_max = 0  # of a call or answer, beside its name
        self.waiting: deque[_Message] = deque()
        """What is to be sent, in order."""
        self._ours: dict[int, int] = {}
        self._last_ours = 0
        self._last_theirs = 0
        self._theirs: dict[int, int] = {}  # not answered yet → bytes held
        self._answers = 0
        self._held = 0
        self._partial: _Partial | None = None

    def greet(self, greeting: Greeting) -> None:
        """Learn what the other side accepts."""
        self._calls_max = greeting.calls
        self._body_max = greeting.message_size - NAME_LENGTH_MAX - 1

    # -- this side --------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more calls the other side accepts now."""
        return self._calls_max - len(self._ours)

    @property
    def idle(self) -> bool:
        """Nothing is in progress either way."""
        return not (self._ours or self._theirs or self.waiting)

    def begin(self, name: str, body: bytes | memoryview, timeout_s: float) -> int:
        """Queue a call; return its number. Errors: `OverloadedError`, `TooLargeError`."""
        if len(self._ours) >= self._calls_max:
            raise OverloadedError(f"{self._calls_max} calls to this peer are in progress", "retry later")
        if len(body) > self._body_max:
            raise _too_large(len(body))
        raw_name = pack_name(name)
        self._last_ours += 1
        timeout_ms = min(max(int(timeout_s * 1000), 1), U32_MAX)
        head = CALL_HEAD.pack(CALL, self._last_ours, timeout_ms, len(raw_name) + len(body)) + raw_name
        self.waiting.append(_Message(self._last_ours, head, body, False))
        self._ours[self._last_ours] = _QUEUED
        return self._last_ours

    def cancel(self, call: int) -> None:
        """Give a call up; nothing more is heard of it."""
        state = self._ours.get(call)
        if state is None or state == _GIVEN_UP:
            return
        if state == _QUEUED:
            message = next(message for message in self.waiting if not message.is_answer and message.call == call)
            self.waiting.remove(message)
            if not message.at and message.head:
                del self._ours[call]
                return
        self._ours[call] = _GIVEN_UP
        self._control.append(HEADER.pack(CANCEL, call))

    def reply(self, call: int, body: bytes | memoryview) -> None:
        """Answer a call. Errors: `TooLargeError`; then the call still waits for its answer."""
        if len(body) > self._body_max:
            raise _too_large(len(body))
        self._answer(call, SIZED_HEAD.pack(REPLY, call, len(body)), body)

    def fail(self, call: int, failure: Failure) -> None:
        """Refuse a call."""
        self._answer(call, pack_failure(FAIL, call, failure), b"")

    def _answer(self, call: int, head: bytes, body: bytes | memoryview) -> None:
        held = self._theirs.get(call)
        if held is None:
            raise ProtocolError(f"call {call} is not waiting for an answer", culprit="local")
        del self._theirs[call]
        self._held += len(body) - held
        self._answers += 1
        self.waiting.append(_Message(call, head, body, True))

    def next_part(self) -> bytes | None:
        """Return the next frame of the oldest message, None when there is none."""
        if not self.waiting:
            return None
        message = self.waiting[0]
        body, at = message.body, message.at
        head = message.head or HEADER.pack(MORE, message.call)
        if at == 0 and len(body) <= SLICE_SIZE:
            frame = head + body
            message.at = len(body)
        else:
            end = min(at + SLICE_SIZE, len(body))
            frame = b"".join((head, memoryview(body)[at:end]))
            message.at = end
        message.head = b""
        if message.at == len(body):
            self.waiting.popleft()
            if message.is_answer:
                self._answers -= 1
                self._held -= len(body)
            elif message.call in self._ours:
                self._ours[message.call] = _SENT
        return frame

    def abandon(self) -> tuple[int, ...]:
        """Return the calls that have no answer; forget them, what waits to be sent, and what has come in part."""
        calls = tuple(call for call, state in self._ours.items() if state != _GIVEN_UP)
        self._ours.clear()
        self.waiting.clear()
        partial, self._partial = self._partial, None
        if partial is not None and partial.is_call:  # it has never begun, so nobody will answer it
            self._held -= self._theirs.pop(partial.call)
        return calls

    def was_sent(self, call: int) -> bool:
        """Tell whether any part of a call of ours has gone out."""
        if self._ours.get(call) != _QUEUED:
            return True
        return any(message.call == call and not message.is_answer and message.at for message in self.waiting)

    # -- the other side ---------------------------------------------------------------------------------------------

    def take_call(self, call: int, payload: memoryview) -> Event | None:
        """Take a CALL."""
        timeout_ms, size, part = parse_call(payload)
        if call <= self._last_theirs:
            raise ProtocolError(f"call {call} comes after call {self._last_theirs}")
        if len(self._theirs) + self._answers >= self._limits.calls:
            raise ProtocolError(f"more than {self._limits.calls} calls are in progress")
        self._last_theirs = call
        is_refused = self._held + size > self._limits.calls_size
        held = 0 if is_refused else size
        self._theirs[call] = held
        self._held += held
        if len(part) == size <= self._limits.message_size and not is_refused and self._partial is None:
            name, body = parse_name(part, CALL)  # the usual case: whole in one frame, and neither copied nor kept
            return CallReceived(call, name, body, timeout_ms / 1000)
        return self._begin(_Partial(call, size, is_call=True, timeout_ms=timeout_ms, is_refused=is_refused), part)

    def take_reply(self, call: int, payload: memoryview) -> Event | None:
        """Take a REPLY."""
        size, part = parse_sized(payload, REPLY)
        state = self._check_answer(call)
        if len(part) == size <= self._limits.message_size and state == _SENT and self._partial is None:
            del self._ours[call]  # the usual case, as in `take_call`
            return ReplyReceived(call, part)
        return self._begin(_Partial(call, size, is_call=False, timeout_ms=0, is_refused=state == _GIVEN_UP), part)

    def take_failure(self, call: int, payload: memoryview) -> Event | None:
        """Take a FAIL."""
        failure = parse_failure(payload, FAIL)
        if self._partial is not None:
            raise ProtocolError("a FAIL comes between the parts of a message")
        state = self._check_answer(call)
        del self._ours[call]
        return None if state == _GIVEN_UP else FailureReceived(call, failure)

    def take_more(self, call: int, part: memoryview) -> Event | None:
        """Take a MORE."""
        partial = self._partial
        if partial is None or partial.call != call or not part:
            raise ProtocolError(f"a MORE of call {call} continues nothing")
        return self._extend(partial, part)

    def take_cancel(self, call: int) -> Event | None:
        """Take a CANCEL."""
        if call > self._last_theirs:
            raise ProtocolError(f"call {call} is cancelled before it is made")
        partial = self._partial
        if partial is not None and partial.is_call and partial.call == call:
            self._partial = None
            self.fail(call, CANCELLED)
            return None
        return CallCancelled(call) if call in self._theirs else None

    def _check_answer(self, call: int) -> int:
        state = self._ours.get(call, _QUEUED)
        if state == _QUEUED:
            raise ProtocolError(f"an answer to call {call}, which waits for none")
        return state

    def _begin(self, partial: _Partial, part: memoryview) -> Event | None:
        if self._partial is not None:
            raise ProtocolError("a message begins between the parts of another")
        if partial.size > self._limits.message_size:
            raise ProtocolError(f"a message of {partial.size} bytes, {self._limits.message_size} are allowed")
        if len(part) == partial.size:
            return self._finish(partial, part)
        self._partial = partial
        return self._extend(partial, part)

    def _extend(self, partial: _Partial, part: memoryview) -> Event | None:
        partial.taken += len(part)
        if partial.taken > partial.size:
            raise ProtocolError(f"the parts of message {partial.call} exceed its {partial.size} bytes")
        if not partial.is_refused:
            partial.raw += part
        if partial.taken < partial.size:
            return None
        self._partial = None
        return self._finish(partial, memoryview(partial.raw))

    def _finish(self, partial: _Partial, body: memoryview) -> Event | None:
        if not partial.is_call:
            state = self._ours.pop(partial.call, _GIVEN_UP)
            return None if state == _GIVEN_UP else ReplyReceived(partial.call, body)
        if partial.is_refused:
            self.fail(partial.call, OVERLOADED)
            return None
        name, rest = parse_name(body, CALL)
        return CallReceived(partial.call, name, rest, partial.timeout_ms / 1000)


def _too_large(size: int) -> TooLargeError:
    return TooLargeError(f"a message of {size} bytes exceeds what the peer accepts", "send it over a stream")
