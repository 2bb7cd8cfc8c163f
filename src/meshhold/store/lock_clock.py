"""What time do locks go by? Never much later than a clock that nobody sets says. Knows no lock and no version.

A wall clock that jumps ahead would open every retention whose date it passes. So of all clocks seen while the daemon
runs the earliest is believed, and never more than ten minutes besides. What this cannot tell: a clock that was ahead
already when the daemon started. In a mesh the other replicas of the index refuse changes from such a machine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from meshhold.replication.steady import steady_s

AHEAD_MS: Final = 600_000
"""More than any daemon corrects in one step on a machine whose clock was right: the ballot window of the index."""
_LOG: Final = logging.getLogger("meshhold.locks")


class LockClock:
    """The time that locks go by. `now_ms` is the wall clock (since 1970), `steady_s` one that nobody sets.

    Both run at the same pace, so what is between them grows only when somebody sets the wall clock ahead.
    """

    def __init__(self, now_ms: Callable[[], int], steady_s: Callable[[], float] = steady_s) -> None:
        self._wall_ms = now_ms
        self._steady_s = steady_s
        self._between_ms = now_ms() - self._steady_ms()
        self._told = False

    def now_ms(self) -> int:
        """Return milliseconds since 1970, at most ten minutes ahead of the earliest clock seen since the start."""
        wall_ms, steady_ms = self._wall_ms(), self._steady_ms()
        self._between_ms = min(self._between_ms, wall_ms - steady_ms)
        latest_ms = self._between_ms + steady_ms + AHEAD_MS
        if wall_ms <= latest_ms:
            return wall_ms
        if not self._told:
            self._told = True
            _LOG.warning(
                "this machine's clock was set ahead by %d s: retentions go by the earlier time; if the new one is "
                "right, restart the daemon",
                (wall_ms - self._between_ms - steady_ms) // 1000,
            )
        return latest_ms

    def _steady_ms(self) -> int:
        return int(self._steady_s() * 1000)
