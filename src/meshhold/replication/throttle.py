"""How fast may healing go? Bounds bytes per second, and steps aside while apps are served; knows no replica."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

BYTES_PER_S: Final = 20_000_000
"""Below what a disk or a gigabit link bears, so that apps keep their part of both."""
PAUSE_MIN_S: Final = 0.01
"""A shorter pause costs more than it spares. It stays owed: what comes next waits for both."""
BUSY_STEP_S: Final = 0.05
BUSY_STEPS: Final = 10
"""So many steps one message, or chunk, waits for apps at most: healing slows down beside them, but it ends."""


class Throttle:
    """Spends a budget of bytes over time. `is_busy` tells whether apps are being served right now."""

    def __init__(
        self,
        bytes_per_s: float = BYTES_PER_S,
        is_busy: Callable[[], bool] = lambda: False,
        *,
        sleep: Callable[[float], Awaitable[object]] = trio.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._is_busy = is_busy
        self._sleep = sleep
        self._free_at_s = float("-inf")

    async def spend(self, size: int, pieces: int = 1) -> None:
        """Account for `size` bytes in so many messages or chunks that were moved; wait until the next ones may be."""
        now_s = trio.current_time()
        self._free_at_s = max(self._free_at_s, now_s) + size / self._bytes_per_s
        if self._free_at_s - now_s >= PAUSE_MIN_S:
            await self._sleep(self._free_at_s - now_s)
        else:
            await trio.lowlevel.checkpoint()
        for _ in range(BUSY_STEPS * pieces):
            if not self._is_busy():
                return
            await self._sleep(BUSY_STEP_S)
