"""Which of our errors is this SQLite error? Knows no statement: callers say what they were doing."""

from __future__ import annotations

import sqlite3
from typing import Final

from meshhold.errors import IntegrityError, MeshHoldError, StorageFailedError, StorageFullError, SyncFailedError

_SYNC_CODES: Final = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
_PRIMARY_MASK: Final = 0xFF  # an extended result code keeps its primary code in the low byte


def failure_of(error: Exception, doing: str) -> MeshHoldError:
    """Return the error to raise for `error`; `doing` completes "the index cannot …".

    A failed fsync is `SyncFailedError`: the kernel may have dropped the dirty pages, so trying again proves nothing.
    Source: https://www.sqlite.org/rescode.html; Rebello et al., "Can Applications Recover from fsync Failures?" (2020).
    """
    code = getattr(error, "sqlite_errorcode", 0)
    if code in _SYNC_CODES:
        return SyncFailedError(
            f"the index cannot {doing}: fsync failed", "check the disk and its cables, then start the node again"
        )
    match code & _PRIMARY_MASK:
        case sqlite3.SQLITE_FULL:
            return StorageFullError(
                f"the index cannot {doing}: the disk is full", "free space on the data directory's disk, then retry"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return IntegrityError(
                f"the index cannot {doing}: its file is damaged ({error})", "restore the data directory from a backup"
            )
        case _:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            return StorageFailedError(f"the index cannot {doing}: {error} ({name})", "check the disk, then retry")
