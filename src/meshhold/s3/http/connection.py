"""One TCP connection: its deadlines, its tasks, its end. Knows no S3 operation and no HTTP syntax.

Hypercorn serves each connection; here its streams get writes with a deadline, its one pending read the deadline of an
idle connection, and nobody ever waits for a task that is done.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from math import inf
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from meshhold.s3.http.protocol import HttpProtocol

LINGER_S: Final = 2.0  # how long a closed connection's rest is read: a client on loopback ends within milliseconds
RECEIVE_MAX: Final = 256 * 1024  # a large body costs a fifth less than with 64 KiB; two such pieces may wait
_PIECES_QUEUED: Final = 2  # pieces of a body that may wait for the app
_LOG: Final = logging.getLogger("meshhold.s3")


class GuardedStream:
    """A socket's stream whose peer must keep taking bytes; `broken` says that it has not, or has gone.

    Errors: `trio.BrokenResourceError` when the peer takes nothing for `stall_s` seconds.
    """

    def __init__(self, stream: trio.SocketStream, stall_s: float) -> None:
        self.socket = stream.socket
        self.broken = False
        self._stream = stream
        self._stall_s = stall_s

    async def send_all(self, data: bytes) -> None:
        """Send everything, each step within the deadline."""
        try:
            with memoryview(data) as view:
                sent = 0
                while sent < len(view):
                    with trio.fail_after(self._stall_s):
                        sent += await self.socket.send(view[sent:])
        except (OSError, trio.TooSlowError, trio.ClosedResourceError) as error:
            self.broken = True
            raise trio.BrokenResourceError("the client is gone or takes no bytes") from error

    async def receive_some(self, size: int) -> bytes:
        """Return what has arrived, `b""` at the end."""
        return bytes(await self._stream.receive_some(size))

    async def send_eof(self) -> None:
        """Tell the peer that nothing more comes."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        self.broken = True
        await self._stream.aclose()


class _Tasks(TaskGroup):
    """A connection's tasks. An app that has answered is never waited for: what still arrives for it is dropped."""

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Any:
        """Start the app for one request; return how its messages reach it."""
        del config
        put, get = trio.open_memory_channel[dict[str, Any]](_PIECES_QUEUED)

        async def receive() -> dict[str, Any]:
            try:
                return await get.receive()
            except trio.EndOfChannel:
                return {"type": "http.disconnect"}

        async def deliver(message: dict[str, Any]) -> None:
            if message["type"] == "http.disconnect":
                put.close()
                return
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await put.send(message)

        async def serve() -> None:
            try:
                with get:
                    await app(scope, receive, send)
            except Exception as error:  # noqa: BLE001 - one connection's boundary: the app has logged it already
                _LOG.debug("a connection ends: %r", error)
            finally:
                await send(None)

        self.spawn(serve)
        return deliver


class Connection(TCPServer):
    """One connection, from its first byte to its close.

    The time that it may be idle is a deadline on its one pending read, where hypercorn would start and cancel a task
    for each request.
    """

    protocol: HttpProtocol  # type: ignore[assignment] # it stands where hypercorn puts its wrapper
    stream: GuardedStream  # type: ignore[assignment] # hypercorn's is a socket's or TLS
    _receiving = trio.CancelScope()
    _idle = True
    _lingering = False
    _deadline = inf

    async def run(self) -> None:
        """Serve the connection to its end; the socket is closed then. A peer that goes away is no error."""
        socket = self.stream.socket
        self._set_idle(idle=True)
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            state = ConnectionState({"stream": self.stream})
            async with _Tasks() as tasks:
                self.protocol = HttpProtocol(
                    self.app, self.config, self.context, tasks, state, False, client, server, self.protocol_send
                )
                state["http"] = self.protocol
                await self._read_data()
        except OSError:
            pass  # the peer went away; there is nobody to tell
        finally:
            await self._close()

    def close_if_idle(self) -> bool:
        """End a connection that no request is using; tell whether it is one."""
        if self._idle:
            self._receiving.cancel()
        return self._idle

    def _set_idle(self, *, idle: bool) -> None:
        """Note whether a request is in progress. Bytes of a head that arrive one by one do not move the deadline."""
        self._idle = idle
        self._set_deadline(trio.current_time() + self.config.keep_alive_timeout if idle else inf)

    def _set_deadline(self, deadline: float) -> None:
        self._deadline = self._receiving.deadline = deadline

    async def _read_data(self) -> None:
        while True:
            data: bytes | bytearray = b""
            with trio.CancelScope(deadline=self._deadline) as self._receiving:
                try:
                    data = await self.stream.receive_some(RECEIVE_MAX)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
            if not self._lingering:
                self.protocol.timed_out = self._receiving.cancelled_caught
                await self.protocol.handle(RawData(bytes(data)))
            if not data:  # the peer's end, or ours after too long a pause
                break
        await self.protocol.handle(Closed())

    async def protocol_send(self, event: Event) -> None:
        """Do what the protocol asks. A peer that is gone or takes nothing is cut, so that nobody waits for it."""
        if isinstance(event, RawData):
            try:
                await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.stream.aclose()
                await self.protocol.handle(Closed())
        elif isinstance(event, Updated):
            self._set_idle(idle=event.idle)
        else:
            await self._linger()
            await self.protocol.handle(Closed())

    async def _linger(self) -> None:
        """Say that nothing more comes, and read for a while what the peer still sends.

        Closed at once with bytes unread, the kernel would reset the connection and the peer might lose the answer.
        Source: RFC 9112, section 9.6.
        """
        if self._lingering:
            return
        try:
            await self.stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            await self.stream.aclose()
        self._lingering = True
        self._set_deadline(trio.current_time() + LINGER_S)
