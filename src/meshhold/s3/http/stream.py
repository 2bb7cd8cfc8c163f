"""A client's socket: reads that wait for nothing, writes whose peer must keep taking bytes. Knows no HTTP."""

from __future__ import annotations

import socket

import trio


class ClientGoneError(Exception):
    """The client closed its connection, or stalled until it was cut: there is nobody to answer."""


class ClientStream:
    """A connected socket. Resources: owns it.

    `rest` is what was read and is not yet used. `broken` says that the peer took no byte for `stall_s` seconds, or has
    gone; `closing` that the connection ends after the present request.
    """

    __slots__ = ("_socket", "broken", "closing", "peer", "port", "rest", "stall_s")

    def __init__(self, connected: socket.socket, stall_s: float) -> None:
        connected.setblocking(False)
        self._socket = connected
        self.stall_s = stall_s
        self.rest: bytes | bytearray = b""
        self.broken = False
        self.closing = False
        self.peer = ""
        self.port: int | None = None
        try:
            self.peer, self.port = connected.getpeername()[0], connected.getsockname()[1]
        except OSError:
            self.broken = True  # gone already

    def receive_now(self, size: int) -> bytes | None:
        """Return what has arrived, `b""` at the end, None for nothing yet. Errors: `ClientGoneError`."""
        try:
            return self._socket.recv(size)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self.broken = True
            raise ClientGoneError from error

    async def wait_readable(self) -> None:
        """Wait until something arrives; other tasks run even where it has."""
        await trio.lowlevel.wait_readable(self._socket)

    async def send_all(self, data: bytes) -> None:
        """Send everything. Errors: `ClientGoneError` when the peer has gone or takes nothing for `stall_s` seconds."""
        if self.broken:
            raise ClientGoneError
        sent = self._send(data)
        if sent < len(data):
            with memoryview(data) as view:
                while sent < len(data):
                    with trio.move_on_after(self.stall_s) as patience:
                        await trio.lowlevel.wait_writable(self._socket)
                    if patience.cancelled_caught:
                        self.broken = True
                        raise ClientGoneError
                    sent += self._send(view[sent:])

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.broken = True
            raise ClientGoneError from error

    def send_eof(self) -> None:
        """Tell the peer that nothing more comes. Errors: `ClientGoneError`."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.broken = True
            raise ClientGoneError from error

    def close(self) -> None:
        """Close the socket; nobody may be waiting for it."""
        self.broken = True
        self._socket.close()
