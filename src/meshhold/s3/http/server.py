"""Where connections come from: listeners, how many at once, a stop that lets requests end. Knows no HTTP syntax."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

import trio

from meshhold.s3.errors import S3Error
from meshhold.s3.http.application import Application
from meshhold.s3.http.connection import Connection, linger
from meshhold.s3.http.stream import ClientGoneError, ClientStream

DRAIN_S: Final = 10.0  # how long requests in flight may go on after a stop
_BACKLOG: Final = 1024


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
    open_now: dict[Connection, None] = {}  # in the order of their beginnings

    async def serve(accepted: trio.SocketStream) -> None:
        stream = ClientStream(socket.socket(fileno=accepted.socket.detach()), app.settings.stall_s)
        if len(open_now) >= app.settings.connections_max and not _make_room(open_now):
            await _turn_away(app, stream)
            return
        connection = Connection(app, stream)
        open_now[connection] = None
        try:
            await connection.run()
        finally:
            open_now.pop(connection, None)

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(_accept, serve, listeners, connections)
            task_status.started()
            await stop.wait()
            accepting.cancel_scope.cancel()
        for connection in open_now:
            connection.end_soon()
        connections.cancel_scope.deadline = trio.current_time() + DRAIN_S


def _make_room(open_now: dict[Connection, None]) -> bool:
    """End the oldest connection that no request is using; tell whether there was one."""
    for connection in open_now:
        if connection.end_if_idle():
            del open_now[connection]
            return True
    return False


async def _turn_away(app: Application, stream: ClientStream) -> None:
    """Answer a connection too many without reading its request."""
    error = S3Error(
        "SlowDown", f"More than {app.settings.connections_max} connections at once. Please reduce your request rate."
    )
    try:
        with suppress(ClientGoneError):
            await stream.send_all(app.unframed_answer(error))
            await linger(stream)
    finally:
        stream.close()


async def _accept(
    serve: Callable[[trio.SocketStream], Awaitable[None]],
    listeners: Sequence[trio.SocketListener],
    connections: trio.Nursery,
) -> NoReturn:
    await trio.serve_listeners(serve, list(listeners), handler_nursery=connections)
    raise AssertionError("serve_listeners runs until cancelled")
