"""What time is it, if nobody sets the clock and the machine may sleep? Knows no date."""

from __future__ import annotations

import time


def steady_s() -> float:
    """Return seconds of a clock that nobody sets and that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
