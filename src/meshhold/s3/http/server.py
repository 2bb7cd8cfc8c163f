"""Where connections come from: listeners, how many at once, a stop that lets requests end. Knows no HTTP syntax."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from meshhold.s3.errors import S3Error
from meshhold.s3.http.application import Application
from meshhold.s3.http.connection import LINGER_S, RECEIVE_MAX, Connection, GuardedStream
from meshhold.s3.http.protocol import HEADERS_SIZE_MAX

DRAIN_S: Final = 10.0  # how long requests in flight may go on after a stop
_BACKLOG: Final = 1024


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
    app: Application,
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

    open_now: dict[Connection, None] = {}  # in the order of their beginnings

    async def serve(stream: trio.SocketStream) -> None:
        guarded: Any = GuardedStream(stream, app.settings.stall_s)
        if len(open_now) >= app.settings.connections_max and not _make_room(open_now):
            await _turn_away(app, guarded)
            return
        connection = Connection(wrapped, config, context, ConnectionState({}), guarded)
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


def _make_room(open_now: dict[Connection, None]) -> bool:
    """End the oldest connection that no request is using; tell whether there was one."""
    for connection in open_now:
        if connection.close_if_idle():
            del open_now[connection]
            return True
    return False


async def _turn_away(app: Application, stream: GuardedStream) -> None:
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
        while await stream.receive_some(RECEIVE_MAX):
            pass
    await stream.aclose()


async def _accept(serve: Any, listeners: Sequence[trio.SocketListener], connections: trio.Nursery) -> NoReturn:
    await trio.serve_listeners(serve, list(listeners), handler_nursery=connections)
    raise AssertionError("serve_listeners runs until cancelled")
