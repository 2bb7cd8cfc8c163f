"""One connection to one peer: runs a session over a stream. Knows no other link and decides nothing about them.

One task reads, one writes what could not be sent at once (`outbox`), one keeps time for all calls. The task that reads
begins each call in place; when one has to wait, that task stays with it and another one reads on. So a small call costs
no switch of tasks.
`run` is the boundary of errors: whatever goes wrong here ends this link and no other.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Final, NamedTuple

import outcome
import trio

from meshhold.errors import (
    CallTimeoutError,
    FatalError,
    HandshakeRefusedError,
    PeerError,
    PeerUnreachableError,
)
from meshhold.model.ids import NodeId, short_id
from meshhold.peering.deadlines import Deadlines
from meshhold.peering.dispatch import Dispatch, refusal_of
from meshhold.peering.outbox import Outbox
from meshhold.peering.serving import Paused, Serving
from meshhold.peering.streams import PeerStream
from meshhold.peering.turns import Turns
from meshhold.transport.contract import ByteStream
from meshhold.wire import events
from meshhold.wire.batches import Batch
from meshhold.wire.framing import Frame, FrameReader
from meshhold.wire.session import Session

FRAMES_PER_TURN: Final = 256
"""Frames taken before other tasks come between: a peer that sends the smallest ones holds others up for some 3 ms."""
LINGER_S: Final = 5.0  # how long the peer's end is waited for after our own
_log = logging.getLogger(__name__)


class LinkState(NamedTuple):
    """What is known of a link; seconds of Trio's clock, sizes in bytes with framing."""

    peer: NodeId
    is_dialed: bool
    address: str
    since_s: float
    rtt_s: float | None
    bytes_in: int
    bytes_out: int
    is_ending: bool
    via: NodeId | None
    """The relay that carries it; None for a direct one."""


class UnservedError(PeerUnreachableError):
    """The peer has not begun what was asked and never will: asking again over another link does it once."""


class Link:
    """One connection. `dial` is the dialling side's number of it; `on_ready` is called once the peer has greeted.

    `refuse` is told of what the peer should not have sent, where that does not end the link.
    """

    def __init__(
        self,
        stream: ByteStream,
        session: Session,
        reader: FrameReader,
        *,
        peer: NodeId,
        via: NodeId | None,
        is_dialed: bool,
        dial: int,
        dispatch: Dispatch,
        on_ready: Callable[[Link], None],
        refuse: Callable[[str], None],
        is_guest: bool = False,
    ) -> None:
        self.session = session
        self.peer = peer
        self.via = via
        self.is_dialed = is_dialed
        self.dial = dial
        self.is_guest = is_guest
        self.instance = b""
        self.address = stream.peer_address
        self.since_s = trio.current_time()
        self.started = trio.Event()
        """The peer has greeted, or the link has closed before that."""
        self.closed = trio.Event()
        self.error: Exception | None = None
        self._stream = stream
        self._reader = reader
        self._on_ready = on_ready
        self._bytes_in = 0
        self._now_s = self.since_s  # of the last frames or tick: recent enough to tell the age of a key
        self._nursery: trio.Nursery | None = None
        self._answers: dict[int, tuple[trio.lowlevel.Task, str]] = {}
        self._batch = Batch()
        self._outbox = Outbox(stream, self._next_frames, self._end_in_order, self.break_off)
        self.flush = self._outbox.flush
        """Send what waits, as far as it goes without waiting."""
        self._serving = Serving(peer, session, dispatch, self._outbox.flush_or_join, refuse)
        self._turns = Turns(self._read, self._serving, self._start_turn)
        self._streams: dict[int, PeerStream] = {}
        self._deadlines = Deadlines(self._answers)
        self._patience_s = inf  # when to look at those who wait at streams
        self._sleep = trio.CancelScope()  # of the task that keeps time: its deadline wakes it
        self._places = trio.lowlevel.ParkingLot()
        self._pongs = trio.lowlevel.ParkingLot()
        self._frames: deque[Frame] = deque()  # read, not taken yet
        self._turn = 0  # frames taken since others had their turn
        self._take: dict[type[Any], Callable[[Any], None]] = {
            events.Ready: self._take_ready,
            events.NoteReceived: self._serving.take_note,
            events.CallCancelled: self._serving.take_cancel,
            events.ReplyReceived: self._take_reply,
            events.FailureReceived: self._take_failure,
            events.StreamOpened: self._take_stream,
            events.DataReceived: self._take_data,
            events.StreamEnded: self._take_stream_end,
            events.StreamReset: self._take_stream_reset,
            events.Pong: self._take_pong,
            events.PeerEnded: self._take_end,
        }

    @property
    def state(self) -> LinkState:
        """What is known of this link now."""
        session = self.session
        is_ending = session.is_ending or session.peer_ended
        return LinkState(
            self.peer,
            self.is_dialed,
            self.address,
            self.since_s,
            session.rtt_s,
            self._bytes_in,
            self._outbox.bytes_out,
            is_ending,
            self.via,
        )

    @property
    def is_usable(self) -> bool:
        """Whether something may be begun on it."""
        return self.session.is_open

    # -- what others ask of it --------------------------------------------------------------------------------------

    async def call(self, name: str, body: bytes, deadline_s: float) -> memoryview:
        """Return the answer's body.

        A cancellation reaches the handler at the other side. Errors: `UnservedError` if the peer has certainly not
        begun it; `PeerUnreachableError` if it may have; `CallTimeoutError`; the peer's refusal; `TooLargeError`.
        """
        session = self.session
        if session.calls_free <= 0:
            with trio.move_on_at(deadline_s):
                while self.is_usable and session.calls_free <= 0:
                    await self._places.park()
            self._check_usable()
        timeout_s = deadline_s - trio.current_time()
        if timeout_s <= 0:
            raise self._too_late(name)
        number = session.send_call(name, body, timeout_s)
        self._outbox.flush_or_join(len(self._answers) + 1)  # first of all: the rest is done while it is on its way

        def abort(_raise_cancel: Callable[[], object]) -> trio.lowlevel.Abort:
            del self._answers[number]
            session.cancel_call(number)
            self.flush()
            return trio.lowlevel.Abort.SUCCEEDED

        self._answers[number] = (trio.lowlevel.current_task(), name)
        if self._deadlines.add(deadline_s, number):
            self._sleep.deadline = min(self._sleep.deadline, deadline_s)
        answer: memoryview = await trio.lowlevel.wait_task_rescheduled(abort)
        return answer

    def send_note(self, name: str, body: bytes) -> bool:
        """Send a one-way message; False if it is dropped here. Errors: `UnservedError`, `TooLargeError`."""
        self._check_usable()
        sent = self.session.send_note(name, body)
        self.flush()
        return sent

    async def open_stream(self, name: str, body: bytes) -> PeerStream:
        """Open a stream, once there is a place for it. Errors: `UnservedError`, `TooLargeError`."""
        while self.is_usable and self.session.streams_free <= 0:
            await self._places.park()
        self._check_usable()
        number = self.session.open_stream(name, body)
        stream = self._streams[number] = PeerStream(self, number)
        self._outbox.wake_writer()  # not at once: what is sent on it, or its end, goes with it
        return stream

    async def ping(self, timeout_s: float) -> bool:
        """Tell whether the peer gives a sign of life in time."""
        if self.closed.is_set():
            return False
        self.session.ping(trio.current_time())
        self.flush()
        with trio.move_on_after(timeout_s):
            await self._pongs.park()
            return not self.closed.is_set()
        return False

    def retire(self) -> None:
        """Begin nothing more; the link ends once nothing is in progress on it."""
        if not self.session.is_ending:
            self.session.end()
            self._places.unpark_all()
            self.flush()

    def break_off(self, error: Exception) -> None:
        """End at once."""
        if self.error is None:
            self.error = error
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def look_by(self, due_s: float) -> None:
        """Look at the streams' patience then at the latest."""
        if due_s < self._patience_s:
            self._patience_s = due_s
            self._sleep.deadline = min(self._sleep.deadline, due_s)

    def forget_stream(self, number: int) -> None:
        """Pass nothing more on to this stream."""
        self._streams.pop(number, None)
        self._places.unpark_all()

    def _check_usable(self) -> None:
        if not self.session.is_open:
            raise UnservedError(f"the link to node {short_id(self.peer)} has ended")

    # -- running ----------------------------------------------------------------------------------------------------

    async def run(self, early: list[bytes], greeting_s: float) -> None:
        """Serve until the link ends; `error` then says why, None for an end in good order.

        `early` are frames that came with the handshake. Resources: closes the stream. Errors: `FatalError` of a
        handler, in an exception group; nothing else.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self.error is not None:  # broken off before it began
                    nursery.cancel_scope.cancel()
                nursery.start_soon(self._guard, self._outbox.run)
                nursery.start_soon(self._guard, self._keep_time, greeting_s)
                self._frames.extend(early)
                await self._guard(self._turns.run)
        except Exception as error:
            if isinstance(error, ExceptionGroup) and error.subgroup(FatalError):
                raise
            self.error = self.error or error
            _log.exception("the link to node %s ends by a defect", short_id(self.peer))
        finally:
            self._settle()
            with trio.CancelScope(shield=True):  # closing takes no time
                await self._stream.aclose()

    async def _guard(self, run: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run one of the link's tasks; what goes wrong in it ends the link."""
        try:
            await run(*arguments)
        except (PeerError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            self.break_off(error)

    def _settle(self) -> None:
        """Tell everybody who waits that the link is gone."""
        self.closed.set()
        self.started.set()
        unsent = {number for number in self._answers if not self.session.was_sent(number)}
        self.session.abandon()
        for number, (task, name) in self._answers.items():
            trio.lowlevel.reschedule(task, outcome.Error(self._lost(name, is_unserved=number in unsent)))
        self._answers.clear()
        for stream in list(self._streams.values()):
            stream.break_off(self._lost("a stream", is_unserved=False))
        self._streams.clear()
        self._places.unpark_all()
        self._pongs.unpark_all()

    def _too_late(self, name: str) -> CallTimeoutError:
        return CallTimeoutError(f"node {short_id(self.peer)} did not answer {name} in time")

    def _lost(self, what: str, *, is_unserved: bool) -> PeerUnreachableError:
        kind = UnservedError if is_unserved else PeerUnreachableError
        why = f": {self.error}" if self.error else ""
        return kind(f"the link to node {short_id(self.peer)} was lost during {what}{why}")

    async def _read(self) -> Paused | None:
        """Read until a call has to wait, and let another task read on; return that call, None at the link's end."""
        session, frames = self.session, self._frames
        while True:
            is_single, awaited = len(frames) == 1, len(self._answers)
            if (paused := self._take_frames()) is not None:
                return paused
            if self._turn >= FRAMES_PER_TURN:
                self._turn = 0
                await trio.lowlevel.checkpoint()
                if frames:
                    continue
            if is_single and len(self._answers) < awaited:
                # An answer alone: whoever waited for it often asks again at once. Let that be sent before this task
                # turns to the kernel again: one turn of the loop for it, and one more since their order is chance.
                await trio.lowlevel.cancel_shielded_checkpoint()
                await trio.lowlevel.cancel_shielded_checkpoint()
            if session.peer_ended and session.sent_end and not self._outbox.is_writing:
                self._end_in_order()
                return None
            data = await self._stream.receive_some()
            if not data:
                if session.peer_ended:  # it does not wait for our end
                    self._nursery_of_run().cancel_scope.cancel()
                    return None
                raise PeerUnreachableError("the connection was cut")
            self._bytes_in += len(data)
            self._now_s = trio.current_time()
            frames += self._reader.feed(data)

    def _take_frames(self) -> Paused | None:
        """Take what has been read, up to a call that has to wait; send what follows from it.

        What is sent wakes tasks, so nothing may be sent here once a handler has announced that its task, this one, is
        to be woken: the next reader does it.
        """
        session, frames, now_s = self.session, self._frames, self._now_s
        self._outbox.is_corked = True
        try:
            while frames and self._turn < FRAMES_PER_TURN:
                self._turn += 1
                event = session.receive(frames.popleft(), now_s)
                if event is None:
                    continue
                if type(event) is not events.CallReceived:
                    self._take[type(event)](event)
                elif (paused := self._serving.begin_call(event, now_s)) is not None:
                    self._turns.pass_on()
                    return paused
        finally:
            self._outbox.is_corked = False
        if self._places and (session.calls_free > 0 or session.streams_free > 0):
            self._places.unpark_all()
        self.flush()
        return None

    def _start_turn(self) -> None:
        self._nursery_of_run().start_soon(self._guard, self._turns.run)

    def _next_frames(self, size: int) -> list[bytes | memoryview]:
        session = self.session
        frames = session.next_frames(size, self._now_s, self._batch)
        if session.drained:
            for number in session.drained:
                stream = self._streams.get(number)
                if stream is not None:
                    stream.take_drained()
            session.drained.clear()
        if self._places and session.streams_free > 0:  # the last END of a stream makes a place, and nothing answers it
            self._places.unpark_all()
        return frames

    def _end_in_order(self) -> None:
        if (
            self.session.sent_end
            and self.session.peer_ended
            and not self._outbox.is_writing
            and self._nursery is not None
        ):
            self._nursery.cancel_scope.cancel()

    async def _keep_time(self, greeting_s: float) -> None:
        with trio.move_on_after(greeting_s):
            await self.started.wait()
        if not self.session.is_ready:
            raise HandshakeRefusedError("remote", f"no greeting within {greeting_s:g} s")
        while not self.session.sent_end:
            self._now_s = trio.current_time()
            for number in self._deadlines.expired(self._now_s):
                task, name = self._answers.pop(number)
                self.session.cancel_call(number)
                trio.lowlevel.reschedule(task, outcome.Error(self._too_late(name)))
            if self._patience_s <= self._now_s:
                self._patience_s = min((stream.look() for stream in self._streams.values()), default=inf)
            due_s = min(self.session.tick(self._now_s), self._deadlines.next_s, self._patience_s)
            self.flush()
            with trio.CancelScope(deadline=due_s) as self._sleep:
                await trio.sleep_forever()
        await trio.sleep(LINGER_S)
        self._nursery_of_run().cancel_scope.cancel()

    def _nursery_of_run(self) -> trio.Nursery:
        assert self._nursery is not None, "events come while the link runs"  # noqa: S101 - an invariant of this file
        return self._nursery

    # -- events -----------------------------------------------------------------------------------------------------

    def _take_ready(self, event: events.Ready) -> None:
        self.instance = event.instance
        if not self.is_dialed:
            self.dial = event.dial
        self._on_ready(self)
        self.started.set()

    def _take_reply(self, event: events.ReplyReceived) -> None:
        waiting = self._answers.pop(event.call, None)
        if waiting is not None:
            trio.lowlevel.reschedule(waiting[0], outcome.Value(event.body))

    def _take_failure(self, event: events.FailureReceived) -> None:
        waiting = self._answers.pop(event.call, None)
        if waiting is not None:
            task, name = waiting
            trio.lowlevel.reschedule(task, outcome.Error(refusal_of(event.failure, self.peer, name)))

    def _take_stream(self, event: events.StreamOpened) -> None:
        stream = self._streams[event.stream] = PeerStream(self, event.stream)
        self._nursery_of_run().start_soon(self._serving.serve_stream, event, stream)

    def _take_data(self, event: events.DataReceived) -> None:
        stream = self._streams.get(event.stream)
        if stream is not None:
            stream.take_data(event.data)
        else:
            self.session.consume(event.stream, len(event.data))

    def _take_stream_end(self, event: events.StreamEnded) -> None:
        stream = self._streams.get(event.stream)
        if stream is not None:
            stream.take_end()

    def _take_stream_reset(self, event: events.StreamReset) -> None:
        stream = self._streams.get(event.stream)
        if stream is not None:
            stream.break_off(refusal_of(event.failure, self.peer, "a stream"))

    def _take_pong(self, event: events.Pong) -> None:
        del event
        self._pongs.unpark_all()

    def _take_end(self, event: events.PeerEnded) -> None:
        for number in event.calls:
            waiting = self._answers.pop(number, None)
            if waiting is not None:
                trio.lowlevel.reschedule(waiting[0], outcome.Error(self._lost(waiting[1], is_unserved=True)))
        for number in event.streams:
            stream = self._streams.get(number)
            if stream is not None:
                stream.break_off(self._lost("a stream", is_unserved=True))
        self._places.unpark_all()
