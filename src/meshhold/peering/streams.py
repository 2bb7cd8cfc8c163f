"""One stream to a peer, as a task sees it: bytes both ways, each direction ended by itself. Knows no other stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from meshhold.errors import IncompleteBodyError, MeshHoldError, TooLargeError
from meshhold.model.ids import NodeId
from meshhold.wire.events import Failure
from meshhold.wire.session import Session

_LEFT: Final = Failure("ClosedError", "the other side has closed the stream")


class Carrier(Protocol):
    """What a stream asks of its link."""

    session: Session
    peer: NodeId
    via: NodeId | None
    address: str

    def flush(self) -> None:
        """Send what waits, as far as it goes without waiting."""

    def forget_stream(self, number: int) -> None:
        """Pass nothing more on to this stream."""


class PeerStream:
    """A stream that a link carries. One task sends, one receives; `aclose` breaks off what has not ended.

    Errors of all methods: `PeerUnreachableError` once the link is lost, `CallRefusedError` with the peer's words once
    it has broken the stream off, `trio.ClosedResourceError` after `aclose`, `trio.BusyResourceError`.
    """

    def __init__(self, link: Carrier, number: int) -> None:
        self.peer = link.peer
        self.peer_address = link.address
        self.via = link.via
        self._link = link
        self._number = number
        self._pieces: deque[memoryview] = deque()
        self._taken = 0  # bytes of the first piece that have been handed out
        self._ended = False
        self._sent_eof = False
        self._closed = False
        self._error: MeshHoldError | None = None
        self._receiver: trio.lowlevel.Task | None = None
        self._sender: trio.lowlevel.Task | None = None
        self._sending = False

    # -- the link's side --------------------------------------------------------------------------------------------

    def take_data(self, data: memoryview) -> None:
        """Keep what has arrived."""
        self._pieces.append(data)
        self._wake_receiver()

    def take_end(self) -> None:
        """Learn that nothing more arrives."""
        self._ended = True
        self._wake_receiver()

    def take_drained(self) -> None:
        """Learn that what was to be sent is on its way."""
        self._sending = False
        if self._sender is not None:
            task, self._sender = self._sender, None
            trio.lowlevel.reschedule(task)

    def break_off(self, error: MeshHoldError) -> None:
        """Learn that the stream is lost."""
        self._error = error
        self._wake_receiver()
        self.take_drained()

    def _wake_receiver(self) -> None:
        if self._receiver is not None:
            task, self._receiver = self._receiver, None
            trio.lowlevel.reschedule(task)

    # -- sending ----------------------------------------------------------------------------------------------------

    def send_soon(self, data: bytes | bytearray | memoryview) -> int:
        """Take all of `data` if nothing else waits to be sent, else nothing; return how many bytes."""
        self._check_sending()
        if self._sending:
            return 0
        self._queue(bytes(data))
        return len(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; returns when it is on its way. A cancellation breaks the stream off."""
        self._check_sending()
        if self._sender is not None:
            raise trio.BusyResourceError("another task sends on this stream")
        while self._sending:  # what `send_soon` took
            await self._wait_drained()
        if not data:
            await trio.lowlevel.checkpoint()
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        self._queue(data)
        if not self._sending:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while self._sending:
            await self._wait_drained()
        if self._error is not None:
            raise self._error

    def _queue(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B") if isinstance(data, memoryview) else memoryview(data)
        self._sending = bool(view) and self._link.session.send_data(self._number, view)
        self._link.flush()

    async def _wait_drained(self) -> None:
        def abort(_raise_cancel: Callable[[], object]) -> trio.lowlevel.Abort:
            self._sender = None
            self._give_up(_LEFT)
            return trio.lowlevel.Abort.SUCCEEDED

        self._sender = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
        if self._error is not None:
            raise self._error
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")

    def _check_sending(self) -> None:
        if self._closed or self._sent_eof:
            raise trio.ClosedResourceError("this stream is closed, or its sending has ended")
        if self._error is not None:
            raise self._error

    async def send_eof(self) -> None:
        """Tell the peer that nothing more comes. Idempotent."""
        if not self._sent_eof:
            self._check_sending()
            while self._sending:
                await self._wait_drained()
            self._sent_eof = True
            self._link.session.end_stream(self._number)
            self._link.flush()
        await trio.lowlevel.checkpoint()

    # -- receiving --------------------------------------------------------------------------------------------------

    async def receive_piece(self) -> memoryview:
        """Wait for bytes and return what came in one frame, without copying it; empty at the end."""
        return await self._take(None)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return 1 to `max_bytes` of them, `b""` at the end."""
        return bytes(await self._take(max_bytes))

    async def receive_exactly(self, size: int) -> bytes:
        """Return the next `size` bytes. Errors: `IncompleteBodyError` if the stream ends before."""
        parts, missing = [], size
        while missing:
            part = await self._take(missing)
            if not part:
                raise IncompleteBodyError(f"a stream ended {missing} bytes before the end of {size}")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    async def receive_all(self, size_max: int) -> bytes:
        """Return everything up to the end. Errors: `TooLargeError` beyond `size_max` bytes."""
        parts, size = [], 0
        while part := await self._take(None):
            parts.append(part)
            size += len(part)
            if size > size_max:
                raise TooLargeError(f"a stream brings more than the {size_max} bytes that fit")
        return b"".join(parts)

    async def _take(self, size_max: int | None) -> memoryview:
        # No pause while pieces are there: they run out after one window, and only a pause brings new ones.
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._pieces:
            if self._ended:
                return memoryview(b"")
            if self._error is not None:
                raise self._error
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed")
            await self._wait_data()
        piece, begin = self._pieces[0], self._taken
        end = len(piece) if size_max is None else min(len(piece), begin + size_max)
        self._taken = end
        if end == len(piece):
            self._pieces.popleft()
            self._taken = 0
            self._consume(end)
        return piece[begin:end] if end - begin < len(piece) else piece

    async def _wait_data(self) -> None:
        def abort(_raise_cancel: Callable[[], object]) -> trio.lowlevel.Abort:
            self._receiver = None
            return trio.lowlevel.Abort.SUCCEEDED

        if self._receiver is not None:
            raise trio.BusyResourceError("another task receives on this stream")
        self._receiver = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _consume(self, size: int) -> None:
        session = self._link.session
        session.consume(self._number, size)
        if session.owes_credit:
            self._link.flush()

    # -- the end ----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Break off what has not ended. Idempotent."""
        self.close_now(_LEFT)
        await trio.lowlevel.checkpoint()

    def close_now(self, failure: Failure) -> None:
        """Close at once; the peer is told `failure` unless both directions have ended."""
        if self._closed:
            return
        self._closed = True
        while self._pieces:
            self._link.session.consume(self._number, len(self._pieces.popleft()))
        if not (self._sent_eof and self._ended) and self._error is None:
            self._link.session.reset_stream(self._number, failure)
        elif self._error is not None:
            self._link.session.end_stream(self._number)
        self._link.forget_stream(self._number)
        self._wake_receiver()
        self.take_drained()
        self._link.flush()

    def _give_up(self, failure: Failure) -> None:
        """Break the stream off after a send that was cut short: what arrived of it is not known."""
        self._sending = False
        self.close_now(failure)
