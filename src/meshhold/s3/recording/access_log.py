"""The log of requests: files of bounded size, written beside requests and never in their way. Knows no line's form.

Lines wait in a bounded queue; a thread writes them about once a second. If the disk does not keep up, or is full, lines
are dropped and counted, and requests go on. The file is opened anew where another one, or none, has its name: so
programs that rotate logs by renaming need not tell the daemon, and those that truncate lose nothing either.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import trio

from meshhold.blocking import RunBlocking
from meshhold.s3.recording.log_lines import combined_line, json_line
from meshhold.s3.recording.served import HEADER_MAX, TARGET_MAX, Served

QUEUE_MAX: Final = 8_192
"""Lines that may wait: some seconds at full load, 4 MiB as requests are, 42 MiB if all are as long as they can be."""
FLUSH_S: Final = 1.0
_COMPLAIN_S: Final = 60.0  # a full disk is one line a minute in the daemon's log
_MODE: Final = 0o640  # it holds names of objects
_FORMS: Final[dict[str, Callable[[Served], str]]] = {"combined": combined_line, "json": json_line}
_LOG: Final = logging.getLogger("meshhold.s3")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where and how: `form` is `combined` or `json`; a file that would exceed `size_max` bytes gives way to a new one.

    `files_max` counts the current file too, so that all together take about their product.
    """

    path: Path
    form: str = "combined"
    size_max: int = 64 * 2**20
    files_max: int = 5


class AccessLog:
    """Writes served requests to a file. `record` may be called at any time, `run` must be running.

    Resources: owns the file; `run` closes it.
    """

    def __init__(self, settings: LogSettings, run_blocking: RunBlocking, *, wait_s: float = FLUSH_S) -> None:
        self._settings = settings
        self._run_blocking = run_blocking
        self._wait_s = wait_s
        self._line = _FORMS[settings.form]
        self._waiting: deque[Served] = deque()
        self._file: int | None = None
        self._complained_s = -_COMPLAIN_S
        self.dropped = 0

    def record(self, served: Served) -> None:
        """Let a request be written; one for which there is no room is dropped and counted."""
        if len(self._waiting) >= QUEUE_MAX:
            self.dropped += 1
            return
        if len(served.target) > TARGET_MAX or len(served.referer) > HEADER_MAX or len(served.agent) > HEADER_MAX:
            served = served._replace(
                target=served.target[:TARGET_MAX], referer=served.referer[:HEADER_MAX], agent=served.agent[:HEADER_MAX]
            )
        self._waiting.append(served)

    def check(self) -> None:
        """Have the file open before the first request. Errors: `OSError` if it cannot be."""
        self._open(0)

    async def run(self) -> NoReturn:
        """Write what waits, about once a second, until cancelled; then what is left."""
        try:
            while True:
                await trio.sleep(self._wait_s)
                await self.flush()
        finally:
            with trio.CancelScope(shield=True):
                await self.flush()
            self._close()
        raise AssertionError("the log is written until cancelled")

    async def flush(self) -> None:
        """Write what waits. What cannot be written is dropped and counted, and the daemon's log says why."""
        if not self._waiting:
            return
        batch = list(self._waiting)
        self._waiting.clear()
        try:
            await self._run_blocking(self._write, batch)
        except OSError as error:
            self.dropped += len(batch)
            now_s = trio.current_time()
            if now_s - self._complained_s >= _COMPLAIN_S:
                self._complained_s = now_s
                _LOG.error(
                    "%s cannot be written (%s): %d lines of it are lost so far, requests go on",
                    self._settings.path,
                    error.strerror,
                    self.dropped,
                )

    # -- in a thread --------------------------------------------------------------------------------------------------

    def _write(self, batch: list[Served]) -> None:
        raw = "".join(self._line(served) + "\n" for served in batch).encode("utf-8", "backslashreplace")
        self._open(len(raw))
        file = self._file
        assert file is not None, "it is open"  # noqa: S101 - the line above opened it or raised
        view = memoryview(raw)
        while view:
            view = view[os.write(file, view) :]

    def _open(self, more: int) -> None:
        """Have the file open that has the log's name, with room for `more` bytes."""
        path = self._settings.path
        if self._file is not None:
            mine = os.fstat(self._file)
            try:
                named = path.stat()
            except FileNotFoundError:
                named = None
            if named is None or (named.st_dev, named.st_ino) != (mine.st_dev, mine.st_ino):
                self._close()
        if self._file is None:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        found = os.fstat(self._file)
        if stat.S_ISREG(found.st_mode) and found.st_size and found.st_size + more > self._settings.size_max:
            self._close()
            self._rotate()
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)

    def _rotate(self) -> None:
        """Give each older file the next number; the oldest one goes."""
        path, count = self._settings.path, self._settings.files_max
        if count == 1:
            path.unlink(missing_ok=True)
            return
        for number in range(count - 2, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
