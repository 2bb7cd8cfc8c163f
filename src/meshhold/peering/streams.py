"""One stream to a peer, as a task sees it: bytes both ways, each direction ended by itself. Knows no other stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final, Protocol

import outcome
import trio

from meshhold.errors import CallTimeoutError, IncompleteBodyError, MeshHoldError, TooLargeError
from meshhold.model.ids import NodeId, short_id
from meshhold.wire.events import Failure
from meshhold.wire.session import Session

_LOOKS: Final = 4
_LEFT: Final = Failure("ClosedError", "the other side has closed the stream")


class Patience:
    """How long one transfer may take, on Trio's clock: bytes may stand still for `still_s`, and all take `total_s`.

    Nobody is woken for each byte that moves: the link looks `_LOOKS` times in `still_s`, so a little more may pass.
    """

    def __init__(self, still_s: float, total_s: float) -> None:
        self._still_s = still_s
        self._until_s = trio.current_time() + total_s
        self._moved_s = 0.0
        self._seen = 0

    def begin(self, count: int) -> float:
        """Begin to wait; `count` changes when bytes move. Return when to look again."""
        self._seen, self._moved_s = count, trio.current_time()
        return self._next_s(self._moved_s)

    def look(self, count: int, peer: NodeId) -> float:
        """Look whether bytes have moved; return when to look again. Errors: `CallTimeoutError`."""
        now_s = trio.current_time()
        if count != self._seen:
            self._seen, self._moved_s = count, now_s
        if now_s >= self._until_s:
            raise CallTimeoutError(f"a transfer with node {short_id(peer)} took too long")
        if now_s >= self._moved_s + self._still_s:
            raise CallTimeoutError(f"a transfer with node {short_id(peer)} stood still for {self._still_s:g} s")
        return self._next_s(now_s)

    def _next_s(self, now_s: float) -> float:
        return min(now_s + self._still_s / _LOOKS, self._until_s)


class Carrier(Protocol):
    """What a stream asks of its link."""

    session: Session
    peer: NodeId
    via: NodeId | None
    address: str

    def flush(self) -> None:
        """Send what waits, as far as it goes without waiting."""

    def look_by(self, due_s: float) -> None:
        """Call the streams' `look` then at the latest."""

    def forget_stream(self, number: int) -> None:
        """Pass nothing more on to this stream."""


class PeerStream:
    """A stream that a link carries. One task sends, one receives; `aclose` breaks off what has not ended.

    Errors of all methods: `PeerUnreachableError` once the link is lost, `CallRefusedError` with the peer's words once
    it has broken the stream off, `CallTimeoutError` where a `Patience` is given and ends, `trio.ClosedResourceError`
    after `aclose`, `trio.BusyResourceError`.
    """

    def __init__(self, link: Carrier, number: int) -> None:
        self.peer = link.peer
        self.peer_address = link.address
        self.via = link.via
        self._link = link
        self._number = number
        self._pieces: deque[memoryview] = deque()
        self._taken = 0  # bytes of the first piece that have been handed out
        self._whole: list[memoryview] | None = None  # where pieces go while all of them are waited for
        self._room = 0  # bytes that may still be added there
        self._arrived = 0
        self._ended = False
        self._sent_eof = False
        self._closed = False
        self._error: MeshHoldError | None = None
        self._receiver: trio.lowlevel.Task | None = None
        self._sender: trio.lowlevel.Task | None = None
        self._sending = False
        self._receiver_patience: Patience | None = None  # of who waits
        self._sender_patience: Patience | None = None

    # -- the link's side --------------------------------------------------------------------------------------------

    def take_data(self, data: memoryview) -> None:
        """Keep what has arrived."""
        size = len(data)
        self._arrived += size
        if self._whole is None:
            self._pieces.append(data)
            self._wake_receiver()
            return
        self._whole.append(data)
        self._link.session.consume(self._number, size)  # the link sends what this grants with all it has to send
        self._room -= size
        if self._room < 0:
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

    def look(self) -> float:
        """Let who waits without patience left wait no more; return when to look again."""
        due_s = inf
        if self._receiver is not None and self._receiver_patience is not None:
            try:
                due_s = self._receiver_patience.look(self._arrived, self.peer)
            except CallTimeoutError as error:
                task, self._receiver = self._receiver, None
                trio.lowlevel.reschedule(task, outcome.Error(error))
        if self._sender is not None and self._sender_patience is not None:
            try:
                due_s = min(due_s, self._sender_patience.look(self._link.session.unsent(self._number), self.peer))
            except CallTimeoutError as error:
                task, self._sender = self._sender, None
                trio.lowlevel.reschedule(task, outcome.Error(error))
        return due_s

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

    async def send_all(
        self, data: bytes | bytearray | memoryview, patience: Patience | None = None, *, is_last: bool = False
    ) -> None:
        """Send everything; returns when it is on its way. A cancellation, or lost patience, breaks the stream off.

        `is_last` ends this direction with it.
        """
        self._check_sending()
        if self._sender is not None:
            raise trio.BusyResourceError("another task sends on this stream")
        await self._wait_drained(patience)  # what `send_soon` took
        if not (data or is_last):
            await trio.lowlevel.checkpoint()
            return
        await trio.lowlevel.checkpoint_if_cancelled()
        self._queue(data, is_last=is_last)
        if not (self._sending or is_last):  # who sends the last bytes cannot go on sending for ever
            await trio.lowlevel.cancel_shielded_checkpoint()
        await self._wait_drained(patience)
        if self._error is not None:
            raise self._error

    def _queue(self, data: bytes | bytearray | memoryview, *, is_last: bool = False) -> None:
        view = memoryview(data).cast("B") if isinstance(data, memoryview) else memoryview(data)
        self._sending = bool(view) and self._link.session.send_data(self._number, view)
        if is_last:
            self._sent_eof = True
            self._link.session.end_stream(self._number)
        self._link.flush()

    async def _wait_drained(self, patience: Patience | None = None) -> None:
        """Wait until nothing waits to be sent."""
        self._sender_patience = patience
        try:
            while self._sending:
                if patience is not None:
                    self._link.look_by(patience.begin(self._link.session.unsent(self._number)))
                await self._wait_drain()
        except (trio.Cancelled, CallTimeoutError):
            self._give_up(_LEFT)
            raise

    async def _wait_drain(self) -> None:
        def abort(_raise_cancel: Callable[[], object]) -> trio.lowlevel.Abort:
            self._sender = None
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
            await self._wait_drained()
            self._sent_eof = True
            self._link.session.end_stream(self._number)
            self._link.flush()
        await trio.lowlevel.checkpoint_if_cancelled()

    # -- receiving --------------------------------------------------------------------------------------------------

    async def receive_piece(self, patience: Patience | None = None) -> memoryview:
        """Wait for bytes and return what came in one frame, without copying it; empty at the end."""
        return await self._take(None, patience)

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

    async def receive_all(self, size_max: int, patience: Patience | None = None, *, size_hint: int = 0) -> bytes:
        """Return everything up to the end; what comes meanwhile wakes no task.

        `size_hint` is how much will probably come, 0 if nobody knows: then credit is not given back in vain.
        Errors: `TooLargeError` beyond `size_max` bytes.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_alone()
        parts = self._whole = self._take_waiting()
        taken = sum(map(len, parts))
        self._room = size_max - taken
        if size_hint >= taken:
            self._link.session.expect(self._number, size_hint - taken)
        try:
            while not (self._ended or self._room < 0):
                self._check_receiving()
                await self._wait_data(patience)
        finally:
            self._whole = None
        if self._room < 0:
            raise TooLargeError(f"a stream brings more than the {size_max} bytes that fit")
        return b"".join(parts)

    def _take_waiting(self) -> list[memoryview]:
        """Return what has arrived and was not handed out, as used."""
        parts: list[memoryview] = []
        while self._pieces:
            piece, begin = self._pieces.popleft(), self._taken
            self._taken = 0
            parts.append(piece[begin:])
            self._consume(len(piece))
        return parts

    async def _take(self, size_max: int | None, patience: Patience | None = None) -> memoryview:
        # No pause while pieces are there: they run out after one window, and only a pause brings new ones.
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._pieces:
            if self._ended:
                return memoryview(b"")
            self._check_receiving()
            await self._wait_data(patience)
        piece, begin = self._pieces[0], self._taken
        end = len(piece) if size_max is None else min(len(piece), begin + size_max)
        self._taken = end
        if end == len(piece):
            self._pieces.popleft()
            self._taken = 0
            self._consume(end)
        return piece[begin:end] if end - begin < len(piece) else piece

    def _check_receiving(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")

    def _check_alone(self) -> None:
        if self._receiver is not None:
            raise trio.BusyResourceError("another task receives on this stream")

    async def _wait_data(self, patience: Patience | None) -> None:
        """Wait until there is something to look at."""
        self._check_alone()
        self._receiver_patience = patience
        if patience is not None:
            self._link.look_by(patience.begin(self._arrived))
        await self._wait_news()

    async def _wait_news(self) -> None:
        def abort(_raise_cancel: Callable[[], object]) -> trio.lowlevel.Abort:
            self._receiver = None
            return trio.lowlevel.Abort.SUCCEEDED

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
        await trio.lowlevel.checkpoint_if_cancelled()

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
