"""Who may talk to the daemon, and for how long? Serves the control socket; knows no call and no service.

Each connection is served in one task. That task is the boundary of errors: a refused call, a broken line or a client
that left ends in an answer or in silence, never in the daemon; only `FatalError` goes on, since the process must stop.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import trio

from meshhold.admin.lines import ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, decode_request, encode_line, error_answer
from meshhold.admin.socket_path import bindable
from meshhold.errors import AlreadyRunningError, FatalError, InvalidError, MeshHoldError, OverloadedError, TooLargeError

Progress = Callable[[dict[str, Any]], Awaitable[None]]
"""Reports one step to the client. Raises `trio.BrokenResourceError` once the client has left, which ends the call."""

Dispatch = Callable[[str, dict[str, Any], Progress], Awaitable[Any]]
"""Runs one call: name, arguments, progress → something `encode_line` can write. Raises `MeshHoldError` to refuse."""

CONNECTIONS_MAX: Final = 32  # a person and a few scripts; more is a loop gone wrong
REQUEST_S_MAX: Final = 30.0  # a client that says nothing for so long is dropped
WRITE_S_MAX: Final = 30.0  # a client that reads nothing for so long is dropped
_BACKLOG: Final = 32
_READ_SIZE: Final = 16 * 1024
_log = logging.getLogger(__name__)


async def run_admin(
    path: Path, dispatch: Dispatch, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> NoReturn:
    """Serve the control socket at `path` until cancelled; started once it listens.

    Resources: creates `path` with mode 0600, in place of a stale one, and removes it at the end.
    Errors: `AlreadyRunningError` if a process answers at `path`; a call's `FatalError`, in an exception group; what a
    client does wrong stays in its connection.
    """
    listening, inode = _listen(path)
    limiter = trio.CapacityLimiter(CONNECTIONS_MAX)

    async def serve(stream: trio.SocketStream) -> None:
        await _serve_connection(stream, dispatch, limiter)

    try:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        async with listener, trio.open_nursery() as nursery:
            task_status.started()
            await trio.serve_listeners(serve, [listener], handler_nursery=nursery)
    finally:
        listening.close()
        _remove(path, inode)
    raise AssertionError("serve_listeners returned without being cancelled")


def _remove(path: Path, inode: int) -> None:
    with suppress(OSError):
        if path.lstat().st_ino == inode:  # never another daemon's socket
            path.unlink()


def _listen(path: Path) -> tuple[socket.socket, int]:
    """Return a socket listening at `path`, and the inode of its file.

    It is bound under another name and then renamed, so `path` is never absent, half-made or open to others.
    """
    _refuse_if_served(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        os.fchmod(listening.fileno(), 0o600)  # Linux gives the bound file the socket's own mode
        with bindable(fresh) as name:
            listening.bind(name)
        fresh.chmod(0o600)  # where the line above has no effect
        listening.listen(_BACKLOG)
        inode = fresh.lstat().st_ino
        fresh.rename(path)
    except BaseException:
        listening.close()
        fresh.unlink(missing_ok=True)
        raise
    return listening, inode


def _refuse_if_served(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AlreadyRunningError(f"{path} is not a socket", "move it away: the daemon needs this name")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, bindable(path) as name:
        probe.settimeout(1.0)
        try:
            probe.connect(name)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError:
            pass  # a full backlog or a timeout: somebody listens
    raise AlreadyRunningError(f"another daemon answers at {path}", "stop it first, or use another data directory")


async def _serve_connection(stream: trio.SocketStream, dispatch: Dispatch, limiter: trio.CapacityLimiter) -> None:
    """Answer requests until the client leaves. Resources: closes `stream`."""
    async with stream:
        try:
            try:
                limiter.acquire_nowait()
            except trio.WouldBlock:
                busy = OverloadedError(f"{CONNECTIONS_MAX} connections are open on the control socket", "try again")
                await _send(stream, error_answer(busy))
                return
            try:
                await _serve_requests(stream, dispatch)
            finally:
                limiter.release()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            _log.debug("control connection dropped: %s", type(error).__name__)


async def _serve_requests(stream: trio.SocketStream, dispatch: Dispatch) -> None:
    buffered = bytearray()
    while True:
        try:
            line = await _receive_line(stream, buffered)
        except InvalidError as error:
            await _send(stream, error_answer(error))
            return  # what follows an overlong line cannot be told from its rest
        if line is None:
            return
        await _answer(stream, line, dispatch)


async def _receive_line(stream: trio.SocketStream, buffered: bytearray) -> bytes | None:
    """Return the next line, None at the end. Errors: `InvalidError` for one beyond the limit; `trio.TooSlowError`."""
    with trio.fail_after(REQUEST_S_MAX):
        while (end := buffered.find(b"\n")) < 0:
            if len(buffered) > REQUEST_BYTES_MAX:
                raise InvalidError(f"a request on the control socket is longer than {REQUEST_BYTES_MAX} bytes")
            more = await stream.receive_some(_READ_SIZE)
            if not more:
                return None
            buffered += more
    line = bytes(buffered[:end])
    del buffered[: end + 1]
    return line


async def _answer(stream: trio.SocketStream, line: bytes, dispatch: Dispatch) -> None:
    async def progress(step: dict[str, Any]) -> None:
        await _send(stream, {"progress": step})

    try:
        call, args = decode_request(line)
        answer = encode_line({"ok": True, "result": await dispatch(call, args, progress)})
        if len(answer) > ANSWER_BYTES_MAX:
            raise TooLargeError(f"the answer to {call} has {len(answer)} bytes", "ask for a single vault")
    except FatalError as error:
        with suppress(trio.BrokenResourceError, trio.TooSlowError):
            await _send(stream, error_answer(error))
        raise
    except MeshHoldError as error:
        answer = encode_line(error_answer(error))
    except (trio.BrokenResourceError, trio.TooSlowError):
        raise
    except Exception as error:  # the connection's boundary: a defect of one call must not stop the node
        if isinstance(error, ExceptionGroup) and error.subgroup(FatalError):
            raise
        _log.exception("a call on the control socket failed")
        unexpected = MeshHoldError("the daemon met an error that it does not know", "its log has the details")
        answer = encode_line(error_answer(unexpected))
    await _send_bytes(stream, answer)


async def _send(stream: trio.SocketStream, message: dict[str, Any]) -> None:
    await _send_bytes(stream, encode_line(message))


async def _send_bytes(stream: trio.SocketStream, data: bytes) -> None:
    with trio.fail_after(WRITE_S_MAX):
        await stream.send_all(data)
