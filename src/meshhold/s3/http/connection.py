"""One TCP connection: request after request, its idle time, its end. Knows no S3 operation and no HTTP syntax.

One task reads a head, lets the application answer and goes on with the next: no request costs a task or a queue.
"""

from __future__ import annotations

import logging
from math import inf
from typing import Final

import trio

from meshhold.s3.errors import S3Error
from meshhold.s3.http.application import Application
from meshhold.s3.http.framing import (
    HEAD_END,
    HEADERS_SIZE_MAX,
    RECEIVE_MAX,
    check_beginning,
    incomplete,
    parse_head,
)
from meshhold.s3.http.head import RequestHead
from meshhold.s3.http.stream import ClientGoneError, ClientStream

LINGER_S: Final = 2.0  # how long a closed connection's rest is read: a client on loopback ends within milliseconds
_LOG: Final = logging.getLogger("meshhold.s3")


class Connection:
    """One connection, from its first byte to its close. Resources: owns the stream."""

    def __init__(self, app: Application, stream: ClientStream) -> None:
        self._app = app
        self._stream = stream
        self._idle = True
        self._patience = trio.CancelScope()  # of the idle: its deadline is never one while a request is in progress

    async def run(self) -> None:
        """Serve the connection to its end; the socket is closed then. A peer that goes away is no error."""
        refusal: S3Error | None = None
        try:
            with self._patience:
                try:
                    await self._serve()
                except S3Error as error:
                    refusal = error
            if self._patience.cancelled_caught and self._stream.rest:
                refusal = S3Error("RequestTimeout", "The request's headers did not arrive in time; send it again.")
            if refusal is not None:
                await self._stream.send_all(self._app.unframed_answer(refusal))
            await linger(self._stream)
        except ClientGoneError:
            pass  # there is nobody to tell
        finally:
            self._stream.close()

    def end_if_idle(self) -> bool:
        """End a connection that no request is using; tell whether it is one."""
        if self._idle:
            self._patience.cancel()
        return self._idle

    def end_soon(self) -> None:
        """End the connection now if it is idle, else after the answer to its request."""
        self._stream.closing = True
        self.end_if_idle()

    async def _serve(self) -> None:
        """Serve requests until the connection is to end. Errors: `S3Error` for bytes that are no request."""
        is_finished = True
        while is_finished and not self._stream.closing:
            head = await self._next_head()
            if head is None:
                return
            try:
                is_finished = await self._app.serve(head, self._stream)
            except ClientGoneError:
                raise
            except Exception as error:  # noqa: BLE001 - one connection's boundary: the app has logged it already
                _LOG.debug("a connection ends: %r", error)
                return

    async def _next_head(self) -> RequestHead | None:
        """Wait for the next request, None at the connection's end. Bytes that come one by one do not move the deadline.

        Errors: `S3Error` for what is no head; `ClientGoneError`.
        """
        stream = self._stream
        self._idle = True
        self._patience.deadline = trio.current_time() + self._app.settings.idle_s
        if stream.rest:  # sent before the answer to the last request: others run first
            await trio.lowlevel.checkpoint()
        held = stream.rest
        end = held.find(HEAD_END)
        while end < 0:
            check_beginning(held)
            await stream.wait_readable()
            data = stream.receive_now(HEADERS_SIZE_MAX)
            if data is None:
                continue
            if not data:
                self._patience.deadline = inf
                if held:
                    raise incomplete()
                return None
            if not held:
                stream.rest = held = data
                end = data.find(HEAD_END)
            else:
                if isinstance(held, bytes):
                    stream.rest = held = bytearray(held)
                searched = max(0, len(held) - len(HEAD_END) + 1)
                held += data
                end = held.find(HEAD_END, searched)
        self._idle = False
        self._patience.deadline = inf
        if self._patience.cancel_called:  # while the last bytes came: this connection is given up already
            return None
        end += len(HEAD_END)
        check_beginning(held[:end])
        raw = bytes(held)
        stream.rest = raw[end:]
        return parse_head(raw[:end], stream.peer, stream.port)


async def linger(stream: ClientStream) -> None:
    """Say that nothing more comes, and read for a while what the peer still sends. Errors: `ClientGoneError`.

    Closed at once with bytes unread, the kernel would reset the connection and the peer might lose the answer.
    Source: RFC 9112, section 9.6.
    """
    stream.send_eof()
    with trio.move_on_after(LINGER_S):
        while stream.receive_now(RECEIVE_MAX) != b"":
            await stream.wait_readable()
