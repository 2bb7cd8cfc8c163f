"""Connections over TCP, IPv4 and IPv6. The real transport; knows no message."""

from __future__ import annotations

import errno
import logging
import socket
from contextlib import suppress
from typing import Final

import trio

from meshhold.errors import ConflictError, InvalidError, PeerUnreachableError
from meshhold.transport.contract import RECEIVE_SIZE, HostPort, Serve, parse_address

_log = logging.getLogger(__name__)
_BACKLOG: Final = 128
_KEEPALIVE_IDLE_S: Final = 30  # a dead peer that nobody pings is found after 60 s: 30 and 3 times 10
_KEEPALIVE_EVERY_S: Final = 10
_KEEPALIVE_COUNT: Final = 3
_SMALL: Final = 16 * 1024  # asked for while little comes: a large buffer for each small message would cost more
_TURN_SIZE: Final = 1024 * 1024  # received before other tasks come between: about half a millisecond
_UNSENT_MAX: Final = 128 * 1024
"""Bytes that the kernel keeps unsent: a probe waits for no more than these (10 ms at 100 Mbit/s), and they cover what
loopback takes before the sender runs again."""


class TcpStream:
    """A connected socket. Resources: owns it.

    It waits through Trio and does the rest on the socket itself: a small message costs half of what Trio's own stream
    takes for it.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._ended = False
        self._sending = False
        self._turn = 0  # bytes received since others had their turn
        self._received = 0  # by the last receive: what comes next is probably as large
        _tune(connected)
        try:
            self.peer_address = _shown(connected.getpeername())
        except OSError:
            self.peer_address = "?"  # gone already: the first receive says so

    def send_soon(self, data: bytes | bytearray | memoryview) -> int:
        """Take what the kernel takes now."""
        if self._sending:
            raise trio.BusyResourceError("another task sends on this stream")
        return self._send(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything."""
        if self._sending:
            raise trio.BusyResourceError("another task sends on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            rest = memoryview(data)
            rest = rest[self._send(rest) :]
            while rest:
                await trio.lowlevel.wait_writable(self._socket)
                rest = rest[self._send(rest) :]
        finally:
            self._sending = False

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        if self._socket.fileno() < 0 or self._ended:
            raise trio.ClosedResourceError("this stream is closed")
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise _lost(error) from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes."""
        is_bulk = self._received >= _SMALL
        size = max_bytes or (RECEIVE_SIZE if is_bulk else _SMALL)
        if is_bulk:  # more has probably come already: let others run, now and then, and look
            if self._turn >= _TURN_SIZE:
                self._turn = 0
                await trio.lowlevel.checkpoint()
            data = self._receive(size)
            if data is not None:
                return data
        self._turn = 0
        while True:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError("this stream is closed")
            await trio.lowlevel.wait_readable(self._socket)
            data = self._receive(size)
            if data is not None:
                return data

    def _receive(self, size: int) -> bytes | None:
        """Return what has come, None if nothing has."""
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("this stream is closed")
        try:
            data = self._socket.recv(size)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise _lost(error) from error
        self._received = len(data)
        self._turn += len(data)
        return data

    async def send_eof(self) -> None:
        """End this direction."""
        await trio.lowlevel.checkpoint()
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("this stream is closed")
        if not self._ended:
            self._ended = True
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise _lost(error) from error

    async def aclose(self) -> None:
        """Close the socket."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()


class TcpTransport:
    """TCP, with addresses that the system resolves."""

    async def dial(self, address: str, *, timeout_s: float) -> TcpStream:
        """Connect; names with several addresses are tried in turn, overlapping (RFC 8305)."""
        host, port = parse_address(address)
        if not host or port == 0:
            raise InvalidError(f"{address!r} names no host or no port to dial", "write host:port")
        try:
            with trio.fail_after(timeout_s):
                stream = await trio.open_tcp_stream(host, port)
        except trio.TooSlowError as error:
            raise PeerUnreachableError(f"{address} does not answer within {timeout_s:g} s") from error
        except (OSError, UnicodeError) as error:
            raise PeerUnreachableError(f"{address} cannot be reached: {_cause(error)}") from error
        return TcpStream(socket.socket(fileno=stream.socket.detach()))

    async def listen(
        self, address: str, serve: Serve, *, task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept until cancelled."""
        listeners = await _open_listeners(address)

        async def take(stream: trio.SocketStream) -> None:
            await serve(TcpStream(socket.socket(fileno=stream.socket.detach())))

        task_status.started(tuple(_shown(listener.socket.getsockname()) for listener in listeners))
        await trio.serve_listeners(take, listeners)


async def _open_listeners(address: str) -> list[trio.SocketListener]:
    host, port = parse_address(address)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host or None, backlog=_BACKLOG)
        if port == 0 and len(listeners) > 1:  # each family got its own: give all the first one's
            chosen = listeners[0].socket.getsockname()[1]
            for listener in listeners:
                await listener.aclose()
            listeners = await trio.open_tcp_listeners(chosen, host=host or None, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        fix = "stop what uses it, or choose another" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        raise ConflictError(f"cannot listen at {address}: {_cause(error)}", fix) from error
    return listeners


def _tune(connected: socket.socket) -> None:
    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_EVERY_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT),
        (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_MAX),
    ]
    for level, name, value in options:
        with suppress(OSError):  # a stream without one of them is slower, not wrong
            connected.setsockopt(level, name, value)


def _shown(name: tuple[str, int] | tuple[str, int, int, int]) -> str:
    return str(HostPort(name[0], name[1]))


def _lost(error: OSError) -> trio.BrokenResourceError:
    return trio.BrokenResourceError(f"the connection is lost: {error.strerror}")


def _cause(error: OSError | UnicodeError) -> str:
    """Return the reason in the system's words; Trio wraps those of several attempts."""
    if isinstance(error, UnicodeError):
        return "the host is not a valid name"
    inner = error.__cause__
    if isinstance(inner, ExceptionGroup):
        inner = inner.exceptions[0]
    if isinstance(inner, OSError):
        error = inner
    return error.strerror or str(error)
