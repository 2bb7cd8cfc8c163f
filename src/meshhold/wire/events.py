"""What a session has learned from the frames it received. Values only."""

from __future__ import annotations

from typing import NamedTuple


class Failure(NamedTuple):
    """Why something was refused: the name of an error, a sentence, and what can be done. Never a traceback."""

    kind: str
    message: str
    fix: str = ""


class Ready(NamedTuple):
    """The other side has greeted: calls may go out. `dial` and `instance` are as the other side gave them."""

    dial: int
    instance: bytes


class NoteReceived(NamedTuple):
    """A one-way message."""

    name: str
    body: memoryview


class CallReceived(NamedTuple):
    """A call that must be answered by exactly one `send_reply` or `send_failure`, even when it is cancelled."""

    call: int
    name: str
    body: memoryview
    timeout_s: float


class CallCancelled(NamedTuple):
    """The caller has given up: stop, then answer with a failure."""

    call: int


class ReplyReceived(NamedTuple):
    """The answer to a call."""

    call: int
    body: memoryview


class FailureReceived(NamedTuple):
    """The refusal of a call."""

    call: int
    failure: Failure


class StreamOpened(NamedTuple):
    """The other side has opened a stream: end or reset it in the end."""

    stream: int
    name: str
    body: memoryview


class DataReceived(NamedTuple):
    """Bytes of a stream: `consume` them once they are used, or the window stays taken."""

    stream: int
    data: memoryview


class StreamEnded(NamedTuple):
    """The other side sends nothing more on this stream."""

    stream: int


class StreamReset(NamedTuple):
    """The other side has broken the stream off, both ways."""

    stream: int
    failure: Failure


class Pong(NamedTuple):
    """A ping has come back after `rtt_s`."""

    rtt_s: float


class PeerEnded(NamedTuple):
    """The other side says nothing more, and serves nothing more.

    These `calls` and `streams` of ours were not begun there: doing them again elsewhere does them once.
    """

    calls: tuple[int, ...]
    streams: tuple[int, ...]


Event = (
    Ready
    | NoteReceived
    | CallReceived
    | CallCancelled
    | ReplyReceived
    | FailureReceived
    | StreamOpened
    | DataReceived
    | StreamEnded
    | StreamReset
    | Pong
    | PeerEnded
)
