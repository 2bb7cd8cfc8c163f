"""How HTTP/1.1 reaches the app: hypercorn's connection handling, with deadlines and XML for framing errors.

Knows no S3 operation. Hypercorn serves each connection; this room gives it streams whose writes have a deadline (its
own sends cannot be cancelled), and a protocol that speaks HTTP/1.1 alone (an upgrade to HTTP/2 in the clear would slip
past the checks on framing) and explains a refused request.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from math import inf
from typing import Any, Final, NoReturn

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, H11SendableEvent
from hypercorn.utils import parse_socket_addr

from meshhold.s3.app import S3App
from meshhold.s3.errors import S3Error

HEADERS_SIZE_MAX: Final = 64 * 1024  # request line and headers: a presigned URL with an 8 KiB token and a long key fits
DRAIN_S: Final = 10.0  # how long requests in flight may go on after a stop
LINGER_S: Final = 2.0  # how long a closed connection's rest is read: a client on loopback ends within milliseconds
_BACKLOG: Final = 1024
_PIECES_QUEUED: Final = 2  # pieces of a body that may wait for the app
_LOG: Final = logging.getLogger("meshhold.s3")
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

    connection: h11.Connection
    timed_out = False
    _head = b""

    @property
    def client_waits(self) -> bool:
        """Tell whether the client holds its body back until it is told to go on (`Expect: 100-continue`)."""
        return self.connection.they_are_waiting_for_100_continue

    async def go_ahead(self) -> None:
        """Tell a client that waits to send its body. Called once the body is wanted: a refusal saves the upload."""
        if self.client_waits:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    async def _handle_events(self) -> None:
        while True:
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse_framing(error.error_status_hint)
                return
            if isinstance(event, h11.Request):
                await self.send(Updated(idle=False))
                if self.client_waits and (b"content-length", b"0") in list(event.headers):
                    # aws-cli takes the status of an answer that came instead for that of the connection's next one too
                    await self.go_ahead()
                await self._create_stream(event)
            elif event is h11.PAUSED:
                await self.can_read.clear()
                await self.can_read.wait()
            elif isinstance(event, h11.ConnectionClosed) or event is h11.NEED_DATA or self.stream is None:
                return
            elif isinstance(event, h11.Data):
                await self.stream.handle(Body(stream_id=STREAM_ID, data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self.stream.handle(EndBody(stream_id=STREAM_ID))

    async def _create_stream(self, request: h11.Request) -> None:
        """Hand a request on as it came: a method in lower case is another method, an upgrade is ignored (RFC 9110)."""
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        head = Request(
            stream_id=STREAM_ID,
            headers=list(request.headers),
            http_version=request.http_version.decode(),
            method=request.method.decode("ascii"),
            raw_path=_origin_form(request.target),
            state=self.connection_state,
        )
        await self.stream.handle(head)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if isinstance(event, (h11.Response, h11.InformationalResponse)) and not event.reason:
            # botocore takes an answer instead of `100 Continue` for one only if it has a reason phrase
            data = data.replace(b" \r\n", b" %b\r\n" % _PHRASES[event.status_code], 1)
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

    async def _refuse_framing(self, status_hint: int) -> None:
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            error = self._framing_error(status_hint)
            headers, body = self._s3_app.unframed_answer(error)
            await self._send_h11_event(h11.Response(status_code=error.status, headers=headers))
            await self._send_h11_event(h11.Data(data=body))
            await self._send_h11_event(h11.EndOfMessage())
        await self.send(Closed())

    def _framing_error(self, status_hint: int) -> S3Error:
        _, ended = self.connection.trailing_data
        if self.timed_out:
            return S3Error("RequestTimeout", "The request's headers did not arrive in time; send it again.")
        if status_hint == 431 and self.connection.our_state is h11.IDLE:
            return S3Error("RequestHeaderSectionTooLarge", f"The headers exceed {HEADERS_SIZE_MAX} bytes.")
        if status_hint == 501:
            return S3Error(
                "NotImplemented",
                "A header you provided implies functionality that is not implemented: send Transfer-Encoding: chunked.",
                fields={"Header": "Transfer-Encoding"},
            )
        if ended:
            return S3Error("IncompleteBody", "The connection closed before the request was complete; send it again.")
        return S3Error("BadRequest", "The request is not well-formed HTTP/1.1.")

    @property
    def _s3_app(self) -> S3App:
        app: Any = self.app  # hypercorn calls it by its own type
        return app  # type: ignore[no-any-return] # an S3App is what `run_s3` was given


_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def _origin_form(target: bytes) -> bytes:
    """Return path and query of a target in absolute form (RFC 9112, section 3.2.2); others as they are."""
    if target[:7].lower() != b"http://":
        return target
    rest = target[7:]
    at = next((at for at, octet in enumerate(rest) if octet in b"/?"), len(rest))
    return rest[at:] if rest[at : at + 1] == b"/" else b"/" + rest[at:]


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


class _Connection(TCPServer):
    """One connection, from its first byte to its close.

    The time that it may be idle is a deadline on its one pending read, where hypercorn would start and cancel a task
    for each request.
    """

    protocol: _Protocol  # type: ignore[assignment] # it stands where hypercorn puts its wrapper
    stream: GuardedStream  # type: ignore[assignment] # hypercorn's is a socket's or TLS
    _receiving = trio.CancelScope()
    _idle = True
    _lingering = False
    _deadline = inf

    async def run(self) -> None:
        socket = self.stream.socket
        self._set_idle(idle=True)
        try:
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            state = ConnectionState({"stream": self.stream})
            async with _Tasks() as tasks:
                self.protocol = _Protocol(
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
                    data = await self.stream.receive_some(_RECEIVE_MAX)
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


def _hypercorn_config(idle_s: float) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.include_date_header = False
    config.keep_alive_timeout = idle_s
    config.h11_max_incomplete_size = HEADERS_SIZE_MAX
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
    config = _hypercorn_config(app.settings.idle_s)
    context = WorkerContext(None)
    wrapped: Any = app  # the types of ASGI messages are hypercorn's own; the app reads them as plain dicts

    open_now: dict[_Connection, None] = {}  # in the order of their beginnings

    async def serve(stream: trio.SocketStream) -> None:
        guarded: Any = GuardedStream(stream, app.settings.stall_s)
        if len(open_now) >= app.settings.connections_max and not _make_room(open_now):
            await _turn_away(app, guarded)
            return
        connection = _Connection(wrapped, config, context, ConnectionState({}), guarded)
        open_now[connection] = None
        try:
            await connection
        finally:
            open_now.pop(connection, None)

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


def _make_room(open_now: dict[_Connection, None]) -> bool:
    """End the oldest connection that no request is using; tell whether there was one."""
    for connection in open_now:
        if connection.close_if_idle():
            del open_now[connection]
            return True
    return False


async def _turn_away(app: S3App, stream: GuardedStream) -> None:
    """Answer a connection too many without reading its request."""
    error = S3Error(
        "SlowDown", f"More than {app.settings.connections_max} connections at once. Please reduce your request rate."
    )
    headers, body = app.unframed_answer(error)
    lines = [b"HTTP/1.1 503 Service Unavailable", *(b"%b: %b" % pair for pair in headers)]
    with suppress(trio.BrokenResourceError):
        await stream.send_all(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        await stream.send_eof()
    with trio.move_on_after(LINGER_S), suppress(trio.BrokenResourceError):
        while await stream.receive_some(_RECEIVE_MAX):
            pass
    await stream.aclose()


async def _accept(serve: Any, listeners: Sequence[trio.SocketListener], connections: trio.Nursery) -> NoReturn:
    await trio.serve_listeners(serve, list(listeners), handler_nursery=connections)
    raise AssertionError("serve_listeners runs until cancelled")
