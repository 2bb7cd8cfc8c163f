"""May ages be trusted? Compares the wall clock with one that only runs. Knows no chunk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from meshhold.replication.steady import steady_s

JUMP_S: Final = 600.0
"""More than any daemon corrects in one step on a machine whose clock was right: the ballot window of the index."""
_LOG: Final = logging.getLogger("meshhold.collect")


class ClockWatch:
    """Notices that the wall clock was set. `now_s` is the wall clock (since 1970), `steady_s` the other one.

    Both run at the same pace, so their difference changes only when somebody sets the wall clock. Whoever writes ages
    down takes the time from `now`: a clock that was wrong and is right again is noticed too, if an age came of it.
    Threads may use it.
    """

    def __init__(self, now_s: Callable[[], float] = time.time, steady_s: Callable[[], float] = steady_s) -> None:
        self._now_s = now_s
        self._steady_s = steady_s
        self._offset_s = now_s() - steady_s()
        self._jumped_s: float | None = None

    def now(self) -> float:
        """Return the wall clock's time, in seconds since 1970."""
        now_s, steady_s = self._now_s(), self._steady_s()
        set_by_s = now_s - steady_s - self._offset_s
        if abs(set_by_s) > JUMP_S:
            self._offset_s, self._jumped_s = now_s - steady_s, steady_s
            _LOG.warning("this machine's clock was set by %+.0f s: no dead chunk is removed here for a grace", set_by_s)
        return now_s

    def wait_s(self, grace_s: float) -> float:
        """Return for how long no age tells anything: one grace from the last jump that was noticed, else 0."""
        self.now()
        if self._jumped_s is None:
            return 0.0
        return max(0.0, self._jumped_s + grace_s - self._steady_s())
