"""One request and its answer over a connection: pieces of a body, an answer, who has gone. Knows no operation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

import trio

from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers
from meshhold.s3.http.answers import CONTINUE, render_head
from meshhold.s3.http.framing import RECEIVE_MAX, body_of, incomplete
from meshhold.s3.http.head import RequestHead
from meshhold.s3.http.stream import ClientGoneError, ClientStream

_DRAIN_MAX: Final = 8 * 2**20  # of a refused body this much is read, so that the client gets to read the answer
_DRAIN_S: Final = 2.0  # nor is a client that waits for the answer before it sends kept waiting for longer
_JOINED_MAX: Final = 64 * 1024  # above it, copying head and body together costs more than a second system call
_BODILESS: Final = frozenset((204, 304))

Unframed = Callable[[S3Error], bytes]


class Conversation:
    """A request's body, pulled within the stall deadline, and its answer, pushed; knows whether the client is there.

    `received` and `sent` are bytes of bodies, `status` is the answer's, 0 before it. `sender`, `bucket` and `operation`
    are what the door found out, for whoever takes note of the request. `finished` says that the answer went out whole,
    and that another request may follow. `unframed` makes the answer to a body that is none.
    """

    __slots__ = (
        "_answer_left", "_body", "_head", "_is_bodiless", "_keep_alive", "_pending", "_stream", "_unframed", "_waits",
        "bucket", "ended", "finished", "operation", "received", "sender", "sent", "stalled", "started", "status",
    )  # fmt: skip

    def __init__(self, head: RequestHead, stream: ClientStream, unframed: Unframed) -> None:
        self._head = head
        self._stream = stream
        self._unframed = unframed
        self._body = body_of(head)
        self._keep_alive = head.keep_alive
        self._pending = b""
        self._answer_left = 0
        self._is_bodiless = False
        self.ended = self._body.ended
        self._waits = head.expects_continue and not self.ended
        self.finished = False
        self.received = 0
        self.stalled = False
        self.started = False
        self.status = 0
        self.sent = 0
        self.sender = self.bucket = self.operation = ""

    async def receive(self) -> bytes:
        """Return the next piece of the body, `b""` at its end.

        Errors: `RequestTimeout` when nothing arrives; `ClientGoneError` when the client has gone, or sent what is no
        body, which it has then been told.
        """
        stream, body = self._stream, self._body
        until_s = 0.0
        while not self.ended:
            if self._client_waits():
                await self.go_ahead()
            data = bytes(stream.rest) or stream.receive_now(body.wanted)
            if data is None:
                until_s = until_s or trio.current_time() + stream.stall_s
                await self._wait(until_s)
                continue
            if not data:
                await self._cut(incomplete())
            try:
                piece, stream.rest = body.take(data)
            except S3Error as error:
                await self._cut(error)
            self.ended = body.ended
            if piece:
                if self.received:  # a body of several pieces: others run between them
                    await trio.lowlevel.checkpoint()
                self.received += len(piece)
                return piece
        return b""

    async def _wait(self, until_s: float) -> None:
        with trio.CancelScope(deadline=until_s) as patience:
            await self._stream.wait_readable()
        if patience.cancelled_caught:
            self.stalled = True
            raise S3Error(
                "RequestTimeout", f"No byte of the body arrived for {self._stream.stall_s:g} seconds; send again."
            )

    async def _cut(self, error: S3Error) -> NoReturn:
        """Tell what is wrong with the body, where no answer has begun; nothing after it can be a request."""
        if not self.started:
            self.started = True
            await self._stream.send_all(self._unframed(error))
        raise ClientGoneError

    def _client_waits(self) -> bool:
        """Tell whether the client holds its body back until it is told to go on (`Expect: 100-continue`)."""
        if self._waits and not self._stream.rest:
            self._stream.rest = self._stream.receive_now(RECEIVE_MAX) or b""
        self._waits = self._waits and not self._stream.rest
        return self._waits

    async def go_ahead(self) -> None:
        """Tell a client that waits to send its body. Called once the body is wanted: a refusal saves the upload."""
        self._waits = False
        await self._stream.send_all(CONTINUE)

    def end_after(self) -> None:
        """Let no other request follow this one's answer."""
        self._keep_alive = False

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        """Make the answer's head, which leaves with the first bytes of the body.

        `length` is that of the body in bytes, None where the status has none. Errors: `ValueError` for a header that
        would break the head; nothing has been sent then.
        """
        if length is not None and status not in _BODILESS:
            headers.append((b"content-length", b"%d" % length))
        if not (self.ended and self._keep_alive) or self._stream.closing:
            self._keep_alive = False
            headers.append((b"connection", b"close"))
        self._pending = render_head(status, headers)
        self.started = True
        self.status = status
        self._is_bodiless = self._head.method == "HEAD" or status in _BODILESS
        self._answer_left = 0 if self._is_bodiless else length or 0

    async def write(self, piece: bytes, *, more: bool) -> None:
        """Send a piece of the answer's body, the last one with `more` False.

        Errors: `ClientGoneError`; `ValueError` where the pieces are more, or fewer, than the length that was told.
        """
        if self._is_bodiless:
            piece = b""
        self.sent += len(piece)
        self._answer_left -= len(piece)
        if self._answer_left < 0 or (self._answer_left and not more):
            raise ValueError(f"the length that an answer told is wrong by {-self._answer_left} bytes")
        pending, self._pending = self._pending, b""
        if len(piece) > _JOINED_MAX:
            if pending:
                await self._stream.send_all(pending)
            await self._stream.send_all(piece)
        elif pending or piece:
            await self._stream.send_all(pending + piece)
        if not more:
            self.finished = self._keep_alive
        elif self._answer_left:
            await trio.lowlevel.checkpoint()  # a kernel that takes all at once lets nobody else run

    async def drain(self) -> None:
        """Read what is left of a short body: cut off while sending, many clients never read the answer.

        A client that still waits to be told to send it is left waiting: the answer comes instead.
        """
        limit = self.received + _DRAIN_MAX
        with trio.move_on_after(_DRAIN_S), suppress(S3Error):  # one that stalls loses its connection after the answer
            while not self.ended and not self.stalled and self.received < limit and not self._client_waits():
                await self.receive()
