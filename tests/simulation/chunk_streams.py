"""One stream between two simulated nodes: bytes in order, a bounded window each way, broken where a link would break.

Has what product code uses of `PeerStream`. A piece is delayed as a message is; what a cut direction swallows breaks the
stream once a link would notice, as TCP does.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final, Protocol

import trio

from meshhold.errors import CallTimeoutError, IncompleteBodyError, MeshHoldError, PeerUnreachableError, TooLargeError
from meshhold.model.ids import NodeId
from meshhold.peering.dispatch import refusal_of
from meshhold.peering.streams import Patience
from meshhold.wire.events import Failure

WINDOW_BYTES: Final = 256 * 1024
"""Bytes that are under way in one direction, or wait there to be received."""
PIECE_BYTES: Final = 64 * 1024
_LEFT: Final = Failure("ClosedError", "the other side has closed the stream")


class Road(Protocol):
    """What carries the pieces."""

    async def pass_piece(self, sender: NodeId, receiver: NodeId) -> bool:
        """Take a piece's time; return whether it arrives. If not, the link is noticed to be broken by now."""


class _Way:
    """One direction: pieces on their way, pieces that arrived, and whether there will be more."""

    def __init__(self) -> None:
        self.under_way: deque[bytes | Failure | None] = deque()
        """Pieces, then nothing for the end, or why the other side broke it off."""
        self.arrived: deque[bytes] = deque()
        self.ended = False
        self.held = 0
        self.changed = trio.Event()

    def wake(self) -> None:
        """Let whoever waits look again."""
        self.changed.set()
        self.changed = trio.Event()


class Stream:
    """One end. Errors as those of `PeerStream`. One task sends, one receives."""

    def __init__(self, node: NodeId, peer: NodeId, name: str) -> None:
        self.node = node
        self.peer = peer
        self.other: Stream
        self.incoming = _Way()
        self._name = name
        self._sent_eof = False
        self._closed = False
        self.error: MeshHoldError | None = None

    # -- sending -----------------------------------------------------------------------------------------------------

    async def send_all(
        self, data: bytes | bytearray | memoryview, patience: Patience | None = None, *, is_last: bool = False
    ) -> None:
        """Send everything; returns when it is on its way. A cancellation breaks the stream off."""
        self._check(self._sent_eof)
        way = self.other.incoming
        rest = bytes(data)
        try:
            await trio.lowlevel.checkpoint()
            while rest:
                while way.held >= WINDOW_BYTES:
                    await self._wait(way, patience)
                    self._check(self._sent_eof)
                piece, rest = rest[:PIECE_BYTES], rest[PIECE_BYTES:]
                way.held += len(piece)
                way.under_way.append(piece)
                way.wake()
        except (trio.Cancelled, CallTimeoutError):
            self.close_now(_LEFT)
            raise
        if is_last:
            self._end_sending()

    def send_soon(self, data: bytes | bytearray | memoryview) -> int:
        """Take all of `data` if nothing else waits to be sent, else nothing; return how many bytes."""
        self._check(self._sent_eof)
        way = self.other.incoming
        if way.held >= WINDOW_BYTES:
            return 0
        way.held += len(data)
        way.under_way.append(bytes(data))
        way.wake()
        return len(data)

    async def send_eof(self) -> None:
        """Tell the peer that nothing more comes. Idempotent."""
        if not self._sent_eof:
            self._check()
            self._end_sending()
        await trio.lowlevel.checkpoint()

    def _end_sending(self) -> None:
        self._sent_eof = True
        self.other.incoming.under_way.append(None)
        self.other.incoming.wake()

    async def _wait(self, way: _Way, patience: Patience | None) -> None:
        """Wait until something changes on a way: each change moves bytes."""
        due_s = inf if patience is None else patience.begin(0)
        while True:
            with trio.CancelScope(deadline=due_s) as scope:
                await way.changed.wait()
            if patience is None or not scope.cancelled_caught:
                return
            due_s = patience.look(0, self.peer)

    def _check(self, ended: bool = False) -> None:
        if self._closed or ended:
            raise trio.ClosedResourceError("this stream is closed, or its sending has ended")
        if self.error is not None:
            raise self.error

    # -- receiving ---------------------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None, patience: Patience | None = None) -> bytes:
        """Wait for bytes and return 1 to `max_bytes` of them, `b""` at the end."""
        way = self.incoming
        await trio.lowlevel.checkpoint()
        while not way.arrived:
            if way.ended:
                return b""
            self._check()
            await self._wait(way, patience)
        piece = way.arrived.popleft()
        if max_bytes is not None and len(piece) > max_bytes:
            way.arrived.appendleft(piece[max_bytes:])
            piece = piece[:max_bytes]
        way.held -= len(piece)
        way.wake()
        return piece

    async def receive_piece(self, patience: Patience | None = None) -> memoryview:
        """Wait for bytes and return what came in one piece; empty at the end."""
        return memoryview(await self.receive_some(patience=patience))

    async def receive_exactly(self, size: int) -> bytes:
        """Return the next `size` bytes. Errors: `IncompleteBodyError` if the stream ends before."""
        parts, missing = [], size
        while missing:
            part = await self.receive_some(missing)
            if not part:
                raise IncompleteBodyError(f"a stream ended {missing} bytes before the end of {size}")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    async def receive_all(self, size_max: int, patience: Patience | None = None, *, size_hint: int = 0) -> bytes:
        """Return everything up to the end. Errors: `TooLargeError` beyond `size_max` bytes."""
        del size_hint  # it saves messages only
        parts, size = [], 0
        while part := await self.receive_some(patience=patience):
            parts.append(part)
            size += len(part)
            if size > size_max:
                raise TooLargeError(f"a stream brings more than the {size_max} bytes that fit")
        return b"".join(parts)

    # -- the end -----------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come or go through this end."""
        return self._closed or self.error is not None

    async def aclose(self) -> None:
        """Break off what has not ended. Idempotent."""
        self.close_now(_LEFT)
        await trio.lowlevel.checkpoint()

    def close_now(self, failure: Failure) -> None:
        """Close at once; the peer is told `failure`, after what is under way, unless both directions have ended."""
        if self._closed:
            return
        self._closed = True
        if self.error is None and not (self._sent_eof and self.incoming.ended):
            self.other.incoming.under_way.append(failure)
        self.incoming.wake()
        self.other.incoming.wake()

    def break_off(self, error: MeshHoldError) -> None:
        """Learn that the stream is lost."""
        if self.error is None:
            self.error = error
        self.incoming.wake()
        self.other.incoming.wake()

    def take(self, arrived: bytes | Failure | None) -> None:
        """Receive, in its turn, what the other side sent."""
        if isinstance(arrived, Failure):
            self.break_off(refusal_of(arrived, self.peer, self._name))
        elif arrived is None:
            self.incoming.ended = True
        else:
            self.incoming.arrived.append(arrived)
        self.incoming.wake()


def pair(caller: NodeId, peer: NodeId, name: str) -> tuple[Stream, Stream]:
    """Return both ends of a new stream, the caller's first."""
    one, other = Stream(caller, peer, name), Stream(peer, caller, name)
    one.other, other.other = other, one
    return one, other


async def carry(end: Stream, road: Road) -> None:
    """Take what is sent towards `end` there, piece by piece, until that end is over."""
    way = end.incoming
    while not end.is_over:
        if not way.under_way:
            await way.changed.wait()
            continue
        piece = way.under_way.popleft()
        if await road.pass_piece(end.peer, end.node):
            end.take(piece)
        else:
            end.break_off(PeerUnreachableError(f"the link to node {end.peer[:8]} broke"))
            end.other.break_off(PeerUnreachableError(f"the link to node {end.node[:8]} broke"))
