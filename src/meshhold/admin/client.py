"""How does a program on this machine ask its daemon? Plain blocking sockets: a command starts fast without Trio."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from meshhold.admin.lines import ANSWER_BYTES_MAX, PROTOCOL_VERSION, decode_line, encode_line
from meshhold.admin.socket_path import bindable
from meshhold.errors import CallRefusedError, DaemonUnreachableError

CONNECT_S_MAX: Final = 5.0
ANSWER_S_MAX: Final = 120.0  # an ordinary call takes milliseconds, a busy disk seconds


def call_daemon(
    path: Path,
    call: str,
    args: dict[str, Any] | None = None,
    *,
    start_command: str = "meshhold daemon",
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    answer_s_max: float | None = ANSWER_S_MAX,
) -> Any:
    """Run one call of the daemon that listens at `path` and return its result as JSON values.

    `answer_s_max` bounds each silence of the daemon; None waits without end (long calls, which the user can interrupt).
    Errors: `CallRefusedError` with the daemon's own kind, message and fix; `DaemonUnreachableError` naming
    `start_command` when nothing answers.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(CONNECT_S_MAX)
            with bindable(path) as name:
                connection.connect(name)
            connection.sendall(encode_line({"v": PROTOCOL_VERSION, "call": call, "args": args or {}}))
            connection.settimeout(answer_s_max)
            with connection.makefile("rb") as lines:
                return _wait_answer(lines, on_progress)
        except (FileNotFoundError, ConnectionRefusedError):
            raise DaemonUnreachableError(f"no daemon runs at {path}", f"start it with: {start_command}") from None
        except PermissionError:
            raise DaemonUnreachableError(
                f"the daemon at {path} belongs to another user", "run this command as the user who started it"
            ) from None
        except TimeoutError:
            raise DaemonUnreachableError(f"the daemon at {path} does not answer", "look at its log") from None
        except OSError as error:
            raise DaemonUnreachableError(
                f"the daemon at {path} cannot be reached: {error.strerror or error}", f"start it with: {start_command}"
            ) from None


def _wait_answer(lines: BinaryIO, on_progress: Callable[[dict[str, Any]], None] | None) -> Any:
    while True:
        line = lines.readline(ANSWER_BYTES_MAX + 1)
        if not line.endswith(b"\n"):
            raise ConnectionResetError("it stopped in the middle of an answer")
        message = decode_line(line)
        if "progress" in message:
            if on_progress is not None:
                on_progress(message["progress"])
        elif message.get("ok") is True:
            return message.get("result")
        else:
            error = message.get("error", {})
            raise CallRefusedError(
                str(error.get("message", "refused")), str(error.get("fix", "")), kind=str(error.get("kind", ""))
            )
