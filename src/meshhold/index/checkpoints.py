"""When is the write-ahead log copied into the database file? Knows no table and no row.

Most of the copying runs beside the commits. Under steady writing it would never catch up with the log's end, and the
log can only start over when it has; so the last few pages are copied while the gate keeps commits from beginning.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

import trio

from meshhold.blocking import RunBlocking
from meshhold.errors import SyncFailedError
from meshhold.index.commits import GroupCommit
from meshhold.index.failures import failure_of

PAGES_MAX: Final = 2_048
"""8 MiB of 4 KiB pages: a checkpoint's two fsyncs are shared by some 500 small objects, and recovery reads no more."""
PAGE_SIZE: Final = 4_096
_log: Final = logging.getLogger(__name__)


class Checkpoints:
    """Keeps the log bounded. Resources: borrows `connection`, which nobody else uses."""

    def __init__(self, connection: sqlite3.Connection, commits: GroupCommit, run_blocking: RunBlocking) -> None:
        self._connection = connection
        self._commits = commits
        self._run_blocking = run_blocking
        self._pages = 0
        self._due_at = PAGES_MAX
        self._due = trio.Event()
        self._due.set()  # whatever a crash left in the log was counted by nobody: it is copied first

    def grew(self, pages: int) -> None:
        """Count `pages` (an estimate is enough) that a commit appended to the log."""
        self._pages += pages
        if self._pages >= self._due_at:
            self._due.set()

    async def run(self) -> None:
        """Copy the log whenever it has grown enough, until cancelled.

        Errors: `SyncFailedError` ends the index; any other failure (a full disk) is logged and tried again after the
        log has grown further.
        """
        while True:
            await self._due.wait()
            self._due = trio.Event()
            try:
                await self._copy()
                async with self._commits.gate:
                    left = await self._copy()
                self._pages, self._due_at = left, left + PAGES_MAX
            except sqlite3.Error as error:
                failure = failure_of(error, "copy its log into the database file")
                if isinstance(failure, SyncFailedError):
                    self._commits.stop(failure)
                    raise failure from error
                _log.warning("%s", failure)
                self._due_at = self._pages + PAGES_MAX

    async def _copy(self) -> int:
        """Copy what can be copied; return how many pages of the log are not yet in the database file."""
        _, pages, copied = await self._run_blocking(self._checkpoint, "PASSIVE")
        return int(pages) - int(copied)

    def _checkpoint(self, mode: str) -> tuple[int, int, int]:
        row: tuple[int, int, int] = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        return row
