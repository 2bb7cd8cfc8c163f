"""May one more value go into the index? Keeps the end of the disk for deletions. Knows no disk and no row.

A deletion is a write too: on a disk that is full to the last byte nobody could delete anything. Chunks stop first (see
`chunkstore.room`), then values of the index, and only deletions use the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from meshhold.errors import StorageFullError

INDEX_RESERVE_BYTES: Final = 32 << 20
"""Twice what the index's log may grow to (8 MiB) and what its file grows by when the log is copied, and as much again
for a burst of deletions between. Half of what chunks leave free."""


class IndexRoom:
    """The bound on values.

    `free_bytes` asks the file system what is free to this process; `reusable_bytes` the index for space inside its file
    that earlier deletions left: up to half of the reserve it counts as free, since a value that fills it needs no more
    than a place in the log.
    """

    def __init__(
        self,
        free_bytes: Callable[[], int],
        reusable_bytes: Callable[[], int],
        reserve_bytes: int = INDEX_RESERVE_BYTES,
    ) -> None:
        self._free_bytes = free_bytes
        self._reusable_bytes = reusable_bytes
        self._reserve = reserve_bytes

    def check(self) -> None:
        """Let a value in. Errors: `StorageFullError` naming what is free and what is kept."""
        free = self._free_bytes()
        if free >= self._reserve:
            return
        if free + min(self._reusable_bytes(), self._reserve // 2) < self._reserve:
            raise StorageFullError(
                f"the disk has {free} bytes free, and the last {self._reserve} are kept for deletions",
                "free some space on it, or delete objects; writing goes on by itself",
            )
