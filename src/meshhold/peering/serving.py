"""Handlers at work for one peer: each call in its time, each stream to its end. Knows no frame and no other link.

A call begins in the step of the task that read it, and most calls end in that step: they cost no task, no scope and no
timer. One that has to wait goes on in that task while another one reads.
What a handler raises is told to the peer and goes no further, except a `FatalError`, which stops the process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from math import inf
from types import coroutine
from typing import Any, Final, NamedTuple

import trio

from meshhold.errors import FatalError, MeshHoldError, ProtocolError
from meshhold.model.ids import NodeId, short_id
from meshhold.peering.dispatch import TOO_LATE, Dispatch, failure_of, unknown_name
from meshhold.peering.streams import PeerStream
from meshhold.wire import codec, events
from meshhold.wire.calls import CANCELLED
from meshhold.wire.events import Failure
from meshhold.wire.session import Session

_DONE: Final = Failure("ClosedError", "the handler has returned")
_log = logging.getLogger(__name__)


class Paused(NamedTuple):
    """A call whose handler waits until `deadline_s` at most: `work` has yielded `message`, which is for Trio."""

    event: events.CallReceived
    deadline_s: float
    work: Generator[Any, Any, Any]
    message: Any


class Serving:
    """What one peer has asked for. `flush` sends what was answered; it is told how many calls are in progress.

    `refuse` is told of what the peer should not have sent.
    """

    def __init__(
        self,
        peer: NodeId,
        session: Session,
        dispatch: Dispatch,
        flush: Callable[[int], None],
        refuse: Callable[[str], None],
    ) -> None:
        self._peer = peer
        self._session = session
        self._dispatch = dispatch
        self._flush = flush
        self._refuse = refuse
        self._limits = codec.Limits(size_max=session.limits.message_size)
        self._scopes: dict[int, trio.CancelScope] = {}  # of calls that wait

    def take_note(self, event: events.NoteReceived) -> None:
        """Hand a note to its handler. Errors: `ProtocolError` for a body that is none; `FatalError`."""
        handler = self._dispatch.notes.get(event.name)
        if handler is None:
            self._refuse(f"a note {event.name!r}, which this node does not know")
            return
        body = codec.decode(event.body)
        try:
            handler(self._peer, body)
        except FatalError:
            raise
        except MeshHoldError as error:
            _log.debug("a note %s of node %s was refused: %s", event.name, short_id(self._peer), error)
        except Exception:  # noqa: BLE001 - a defect of one handler ends no link
            _log.exception("a note %s of node %s failed", event.name, short_id(self._peer))

    # -- calls ------------------------------------------------------------------------------------------------------

    def begin_call(self, event: events.CallReceived, now_s: float) -> Paused | None:
        """Serve a call as far as it goes without waiting; return what is to be finished, None if it is answered.

        The answer waits in the session: whoever calls this sends it. Errors: `FatalError`, alone or in a group.
        """
        call, name, raw, timeout_s = event
        handler = self._dispatch.calls.get(name)
        if handler is None:
            self._refuse(f"a call {name!r}, which this node does not know")
            self._session.send_failure(call, unknown_name("call", name))
            return None
        try:
            work = handler(self._peer, codec.decode(raw, self._limits)).__await__()
            message = next(work)
        except StopIteration as done:
            self._reply(event, done.value)
        except Exception as error:  # noqa: BLE001 - told to the peer, unless it is fatal
            self._fail(event, error)
        else:
            return Paused(event, now_s + timeout_s, work, message)
        return None

    async def finish_call(self, paused: Paused, scope: trio.CancelScope) -> None:
        """Serve the rest of a call, in the task that began it.

        `scope`, which that task has entered, is cancelled when the caller gives up or the time is over; whoever entered
        it then calls `cut_call`. If it was not, it can be used for another call.
        """
        event = paused.event
        self._scopes[event.call] = scope
        scope.deadline = paused.deadline_s
        try:
            answer = await _go_on(paused.work, paused.message)
        except Exception as error:  # noqa: BLE001 - told to the peer, unless it is fatal
            self._fail(event, error)
        else:
            self._reply(event, answer)
        finally:
            del self._scopes[event.call]
        if not scope.cancel_called:
            scope.deadline = inf
        self._flush(len(self._scopes) + 1)

    def cut_call(self, call: int, scope: trio.CancelScope) -> None:
        """Answer a call that was cancelled or too late."""
        self._session.send_failure(call, TOO_LATE if trio.current_time() >= scope.deadline else CANCELLED)
        self._flush(len(self._scopes) + 1)

    def take_cancel(self, event: events.CallCancelled) -> None:
        """Stop serving a call."""
        scope = self._scopes.get(event.call)
        if scope is not None:
            scope.cancel()

    def _reply(self, event: events.CallReceived, answer: Any) -> None:
        try:
            self._session.send_reply(event.call, codec.encode(answer, self._limits))
        except MeshHoldError as error:
            self._session.send_failure(event.call, failure_of(error, self._peer, event.name))

    def _fail(self, event: events.CallReceived, error: Exception) -> None:
        if _is_fatal(error):
            raise error
        self._note_breach(error)
        self._session.send_failure(event.call, failure_of(error, self._peer, event.name))

    def _note_breach(self, error: Exception) -> None:
        if isinstance(error, ProtocolError) and error.culprit == "remote":
            self._refuse(str(error))

    # -- streams ----------------------------------------------------------------------------------------------------

    async def serve_stream(self, event: events.StreamOpened, stream: PeerStream) -> None:
        """Run a stream's handler; what it leaves open is broken off. Errors: `FatalError`, alone or in a group."""
        handler = self._dispatch.streams.get(event.name)
        failure = _DONE if handler else unknown_name("stream", event.name)
        if handler is None:
            self._refuse(f"a stream {event.name!r}, which this node does not know")
        try:
            if handler is not None:
                await handler(self._peer, codec.decode(event.body), stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            _log.debug("stream %s of node %s was left", event.name, short_id(self._peer))
        except Exception as error:
            if _is_fatal(error):
                raise
            self._note_breach(error)
            failure = failure_of(error, self._peer, event.name)
        finally:
            stream.close_now(failure)


@coroutine
def _go_on(work: Generator[Any, Any, Any], message: Any) -> Generator[Any, Any, Any]:
    """Run on what has yielded `message`; return its result. What `yield from` would do, had it made the first step."""
    while True:
        raised = sent = None
        try:
            sent = yield message
        except BaseException as error:  # noqa: BLE001 - it is the handler's
            raised = error
        try:
            message = work.throw(raised) if raised is not None else work.send(sent)
        except StopIteration as done:
            return done.value


def _is_fatal(error: Exception) -> bool:
    """Tell whether the process must stop; a handler with a nursery raises groups."""
    return isinstance(error, FatalError) or (
        isinstance(error, ExceptionGroup) and error.subgroup(FatalError) is not None
    )
