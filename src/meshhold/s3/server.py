"""How HTTP/1.1 reaches the app: hypercorn's connection handling, with deadlines and XML for framing errors.

Knows no S3 operation. Hypercorn serves each connection; this room gives it streams whose writes have a deadline (its
own sends cannot be cancelled), and a protocol that speaks HTTP/1.1 alone (an upgrade to HTTP/2 in the clear would slip
past the checks on framing) and explains a refused request.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, Final, NoReturn

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, H11SendableEvent
from hypercorn.utils import parse_socket_addr

from meshhold.s3.app import S3App
from meshhold.s3.errors import S3Error, render_error

HEADERS_SIZE_MAX: Final = 64 * 1024  # request line and headers: a presigned URL with an 8 KiB token and a long key fits
KEEP_ALIVE_S: Final = 75.0  # how long a connection may be idle, and how long headers may take to arrive
DRAIN_S: Final = 10.0  # how long requests in flight may go on after a stop
_BACKLOG: Final = 1024
_RECEIVE_MAX: Final = 256 * 1024  # a large body costs a fifth less than with 64 KiB; two such pieces may wait
_JOINED_MAX: Final = 64 * 1024  # above it, copying head and body together costs more than a second system call


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


class _Protocol(H11Protocol):
    """HTTP/1.1 alone; a request that cannot be framed gets an error document and the end of its connection.

    The head of an answer waits for the first bytes of its body: one system call and one packet instead of two.
    """

    _head = b""

    async def _check_protocol(self, event: h11.Request) -> None:
        """Take no upgrade: an `Upgrade` header is ignored, as RFC 9110 allows."""

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if type(event) is h11.Response:
            self._head = data
            return
        if self._head:
            head, self._head = self._head, b""
            if len(data) <= _JOINED_MAX:
                data = head + data
            else:
                await self.send(RawData(data=head))
        if data:
            await self.send(RawData(data=data))

    async def _send_error_response(self, status_code: int) -> None:
        if status_code == 431:
            error = S3Error("RequestHeaderSectionTooLarge", f"The headers exceed {HEADERS_SIZE_MAX} bytes.")
        else:
            error = S3Error("BadRequest", "The request is not well-formed HTTP/1.1.")
        body = render_error(error, "", "", "")
        headers = [(b"content-type", b"application/xml"), (b"content-length", b"%d" % len(body))]
        headers += [(b"connection", b"close"), *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=error.status, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class _Connection(TCPServer):
    """One connection, from its first byte to its close.

    The time that it may be idle is a deadline on its one pending read, where hypercorn would start and cancel a task
    for each request.
    """

    _receiving = trio.CancelScope()
    _idle = True

    async def run(self) -> None:
        socket = self.stream.socket
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with TaskGroup() as tasks:
                self.protocol = _Protocol(  # type: ignore[assignment] # it stands where hypercorn puts its wrapper
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    ConnectionState({"stream": self.stream}),
                    False,
                    client,
                    server,
                    self.protocol_send,
                )
                await self._read_data()
        except OSError:
            pass  # the peer went away; there is nobody to tell
        finally:
            await self._close()

    def close_if_idle(self) -> None:
        """End a connection that no request is using."""
        if self._idle:
            self._receiving.cancel()

    async def _read_data(self) -> None:
        while True:
            deadline = trio.current_time() + KEEP_ALIVE_S if self._idle else inf
            data: bytes | bytearray = b""
            with trio.CancelScope(deadline=deadline) as self._receiving:
                try:
                    data = await self.stream.receive_some(_RECEIVE_MAX)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
            await self.protocol.handle(RawData(bytes(data)))
            if not data:  # the peer's end, or ours after too long a pause
                break
        await self.protocol.handle(Closed())

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            try:
                await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.protocol.handle(Closed())
        elif isinstance(event, Updated):
            self._idle = event.idle
            self._receiving.deadline = trio.current_time() + KEEP_ALIVE_S if event.idle else inf
        else:
            await self._close()
            await self.protocol.handle(Closed())


def _hypercorn_config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.include_date_header = False
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.keep_alive_max_requests = 1_000_000
    config.h11_max_incomplete_size = HEADERS_SIZE_MAX
    config.max_app_queue_size = 2
    return config


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Bind the door's address. Errors: `OSError` when it is taken or not ours."""
    return await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)


async def run_s3(
    app: S3App,
    listeners: Sequence[trio.SocketListener],
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop` is set; then take no new connection and let requests in flight end within `DRAIN_S`.

    Resources: closes the listeners.
    """
    config = _hypercorn_config()
    context = WorkerContext(None)
    wrapped: Any = app  # the types of ASGI messages are hypercorn's own; the app reads them as plain dicts

    open_now: set[_Connection] = set()

    async def serve(stream: trio.SocketStream) -> None:
        guarded: Any = GuardedStream(stream, app.settings.stall_s)
        connection = _Connection(wrapped, config, context, ConnectionState({}), guarded)
        open_now.add(connection)
        try:
            await connection
        finally:
            open_now.discard(connection)

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(_accept, serve, listeners, connections)
            task_status.started()
            await stop.wait()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        for connection in open_now:
            connection.close_if_idle()
        connections.cancel_scope.deadline = trio.current_time() + DRAIN_S


async def _accept(serve: Any, listeners: Sequence[trio.SocketListener], connections: trio.Nursery) -> NoReturn:
    await trio.serve_listeners(serve, list(listeners), handler_nursery=connections)
    raise AssertionError("serve_listeners runs until cancelled")
