"""Handlers at work for one peer: each call in its time, each stream to its end. Knows no frame and no other link.

What a handler raises is told to the peer and goes no further, except a `FatalError`, which stops the process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import outcome
import trio

from meshhold.errors import FatalError, MeshHoldError, ProtocolError
from meshhold.model.ids import NodeId, short_id
from meshhold.peering.dispatch import TOO_LATE, Dispatch, failure_of, unknown_name
from meshhold.peering.streams import PeerStream
from meshhold.wire import codec, events
from meshhold.wire.calls import CANCELLED
from meshhold.wire.events import Failure
from meshhold.wire.session import Session

IDLE_MAX: Final = 8  # tasks kept for later calls: the usual burst of one peer
_DONE: Final = Failure("ClosedError", "the handler has returned")
_log = logging.getLogger(__name__)


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
        self._idle: list[trio.lowlevel.Task] = []  # wait for a call to serve
        self._scopes: dict[int, trio.CancelScope] = {}

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

    def take_call(self, event: events.CallReceived, now_s: float, nursery: trio.Nursery) -> None:
        """Begin to serve a call in `nursery`."""
        scope = self._scopes[event.call] = trio.CancelScope(deadline=now_s + event.timeout_s)
        if self._idle:
            trio.lowlevel.reschedule(self._idle.pop(), outcome.Value((event, scope)))
        else:
            nursery.start_soon(self._serve_calls, event, scope)

    def take_cancel(self, event: events.CallCancelled) -> None:
        """Stop serving a call."""
        scope = self._scopes.get(event.call)
        if scope is not None:
            scope.cancel()

    async def _serve_calls(self, event: events.CallReceived, scope: trio.CancelScope) -> None:
        """Serve a call, then wait for another: cheaper than a new task for each."""
        while True:
            await self._serve_call(event, scope)
            if len(self._idle) >= IDLE_MAX:
                return
            self._idle.append(task := trio.lowlevel.current_task())

            def abort(_raise_cancel: Callable[[], object], task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._idle.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            event, scope = await trio.lowlevel.wait_task_rescheduled(abort)

    async def _serve_call(self, event: events.CallReceived, scope: trio.CancelScope) -> None:
        answer: bytes | Failure = CANCELLED
        with scope:
            answer = await self._answer(event)
        del self._scopes[event.call]
        if scope.cancelled_caught and trio.current_time() >= scope.deadline:
            answer = TOO_LATE
        if isinstance(answer, Failure):
            self._session.send_failure(event.call, answer)
        else:
            try:
                self._session.send_reply(event.call, answer)
            except MeshHoldError as error:
                self._session.send_failure(event.call, failure_of(error, self._peer, event.name))
        self._flush(len(self._scopes) + 1)

    async def _answer(self, event: events.CallReceived) -> bytes | Failure:
        handler = self._dispatch.calls.get(event.name)
        if handler is None:
            self._refuse(f"a call {event.name!r}, which this node does not know")
            return unknown_name("call", event.name)
        try:
            body = codec.decode(event.body, self._limits)
            return codec.encode(await handler(self._peer, body), self._limits)
        except Exception as error:
            if _is_fatal(error):
                raise
            self._note_breach(error)
            return failure_of(error, self._peer, event.name)

    def _note_breach(self, error: Exception) -> None:
        if isinstance(error, ProtocolError) and error.culprit == "remote":
            self._refuse(str(error))

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


def _is_fatal(error: Exception) -> bool:
    """Tell whether the process must stop; a handler with a nursery raises groups."""
    return isinstance(error, FatalError) or (
        isinstance(error, ExceptionGroup) and error.subgroup(FatalError) is not None
    )
