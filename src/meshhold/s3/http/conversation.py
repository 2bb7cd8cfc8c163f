"""The ASGI side of one request: pieces of a body within a deadline, an answer, who has gone. Knows no operation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import trio

from meshhold.s3.errors import S3Error

_DRAIN_MAX: Final = 8 * 2**20  # of a refused body this much is read, so that the client gets to read the answer
_DRAIN_S: Final = 2.0  # nor is a client that waits for the answer before it sends kept waiting for longer

AsgiReceive = Callable[[], Awaitable[dict[str, Any]]]
AsgiSend = Callable[[dict[str, Any]], Awaitable[None]]


class ClientGoneError(Exception):
    """The client closed its connection, or stalled until it was cut: there is nobody to answer."""


class Conversation:
    """One request's messages: reads within the stall deadline, writes, knows whether the client is there.

    `received` and `sent` are bytes of bodies, `status` is the answer's, 0 before it. `sender`, `bucket` and `operation`
    are what the door found out, for whoever takes note of the request.
    """

    __slots__ = (
        "_http", "_receive", "_send", "_stall_s", "_stream", "bucket", "ended", "operation", "received", "sender",
        "sent", "stalled", "started", "status",
    )  # fmt: skip

    def __init__(self, scope: dict[str, Any], receive: AsgiReceive, send: AsgiSend, stall_s: float) -> None:
        self._stream = scope["state"]["stream"]
        self._http = scope["state"]["http"]
        self._receive = receive
        self._send = send
        self._stall_s = stall_s
        self.ended = False
        self.received = 0
        self.stalled = False
        self.started = False
        self.status = 0
        self.sent = 0
        self.sender = self.bucket = self.operation = ""

    async def receive(self) -> bytes:
        """Return the next piece of the body, `b""` at its end. Errors: `RequestTimeout` when nothing arrives."""
        while not self.ended:
            if self._http.client_waits:
                await self._http.go_ahead()
            with trio.move_on_after(self._stall_s) as deadline:
                message = await self._receive()
            if deadline.cancelled_caught:
                self.stalled = True
                raise S3Error(
                    "RequestTimeout", f"No byte of the body arrived for {self._stall_s:g} seconds; send again."
                )
            if message["type"] != "http.request":
                raise ClientGoneError
            self.ended = not message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            if piece:
                self.received += len(piece)
                return piece
        return b""

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the answer's head; it leaves with the first bytes of the body."""
        self.started = True
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes, *, more: bool) -> None:
        """Send a piece of the answer's body, the last one with `more` False."""
        if self._stream.broken:
            raise ClientGoneError
        self.sent += len(piece)
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})

    async def drain(self) -> None:
        """Read what is left of a short body: cut off while sending, many clients never read the answer.

        A client that still waits to be told to send it is left waiting: the answer comes instead.
        """
        limit = self.received + _DRAIN_MAX
        with trio.move_on_after(_DRAIN_S), suppress(S3Error):  # one that stalls loses its connection after the answer
            while not self.ended and not self.stalled and self.received < limit and not self._http.client_waits:
                await self.receive()
