"""Is there room for one more chunk? Keeps a running total against the capacity, and a reserve free on the file system.

Knows no folder and no chunk: the store tells it what came and went, and how to count what is there. The reserve is what
the index needs to go on deleting and cleaning up when everything else is full.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Protocol

from meshhold.chunkstore.contract import Usage
from meshhold.errors import StorageFullError
from meshhold.model.ids import VaultId

_ASK_PART: Final = 4
"""The file system is asked again after at most 1/4 of the reserve was written, so others' use is seen in time."""


class Reclaimable(Protocol):
    """Whoever uses room of the same disk for as long as no chunk needs it. Thread-safe."""

    @property
    def used(self) -> int:
        """The bytes that it uses."""

    def give_back(self) -> bool:
        """Remove something, now; tell whether there was anything. Called until it suffices."""

    def drop_vault(self, vault: VaultId) -> None:
        """Remove what it has of a vault."""


class Room:
    """Bytes of chunks against two bounds. Thread-safe.

    `free_bytes` asks the file system for (all, free to this process); `count_bytes` counts what the store holds: it is
    called once, and only if there is a capacity, while the store keeps others from writing. What `reclaimable` uses
    counts as free, and is taken back, as much as it takes, before anybody hears that the disk is full.
    """

    def __init__(
        self,
        reserve_bytes: int,
        capacity_bytes: int | None,
        free_bytes: Callable[[], tuple[int, int]],
        count_bytes: Callable[[], int],
        reclaimable: Reclaimable | None = None,
    ) -> None:
        self._reserve = reserve_bytes
        self._capacity = capacity_bytes
        self._free_bytes = free_bytes
        self._count_bytes = count_bytes
        self._reclaimable = reclaimable
        self._used: int | None = None
        self._credit = 0
        self._counting = threading.Lock()
        self._lock = threading.Lock()

    def ensure_counted(self) -> None:
        """Count once what is there; no lock of the store may be held."""
        if self._capacity is None or self._used is not None:
            return
        with self._counting:
            if self._used is None:
                self._used = self._count_bytes()

    def take(self, size: int) -> None:
        """Set `size` bytes aside. Errors: `StorageFullError` with the bound that is reached, then nothing is taken."""
        with self._lock:
            if self._capacity is not None and self._used is not None and self._used + size > self._capacity:
                raise StorageFullError(
                    f"the node's capacity of {self._capacity} bytes is used up ({self._used} are)",
                    "raise node.capacity, or delete objects",
                )
            if size > self._credit:
                self._credit = self._ask(size)
            self._credit -= size
            if self._used is not None:
                self._used += size

    def give_back(self, size: int) -> None:
        """Tell that `size` bytes were removed, or set aside and not written."""
        with self._lock:
            if self._used is not None:
                self._used = max(self._used - size, 0)

    def reclaim(self) -> bool:
        """Take back some of what is reclaimable; tell whether that was anything."""
        return self._reclaimable is not None and self._reclaimable.give_back()

    def usage(self) -> Usage:
        """Return the room that is left, by both bounds."""
        total, free = self._free_bytes()
        free = max(free + (0 if self._reclaimable is None else self._reclaimable.used) - self._reserve, 0)
        if self._capacity is not None:
            self.ensure_counted()
            total = min(total, self._capacity)
            free = min(free, max(self._capacity - (self._used or 0), 0))
        return Usage(total, free)

    def _ask(self, size: int) -> int:
        _, free = self._free_bytes()
        while free - self._reserve < size and self.reclaim():
            _, free = self._free_bytes()
        if free - self._reserve < size:
            raise StorageFullError(
                f"the disk has {free} bytes free, of which {self._reserve} stay in reserve",
                "free some space on it; writing goes on by itself",
            )
        return min(free - self._reserve, max(self._reserve // _ASK_PART, size))
