"""What fuzzers tell while they run and at their end. Knows no target: callers count their own outcomes."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable

Report = Callable[[str], object]


class Pace:
    """How far a run is; tells it after every `every` inputs."""

    def __init__(self, report: Report, every: int) -> None:
        self._report = report
        self._every = every
        self._started_s = time.monotonic()

    def passed(self, inputs: int) -> None:
        """Take note that so many inputs have passed."""
        if inputs % self._every == 0:
            self._report(f"{inputs} inputs, {inputs / max(0.001, time.monotonic() - self._started_s):.0f} a second")


def arguments() -> tuple[int, int, str]:
    """Return count, seed and what alone is to be run, from the command line."""
    words = [*sys.argv[1:4], "", "", ""]
    return int(words[0] or 1_000_000), int(words[1] or 1), words[2]


def say(line: str) -> None:
    """Print at once: whoever stops a run sees how far it came."""
    print(line, flush=True)  # noqa: T201 -- a program's output


def show(outcomes: Counter[str]) -> None:
    """Print how often each outcome was seen, and how much memory the run took."""
    for outcome, count in sorted(outcomes.items()):
        say(f"{count:9}  {outcome}")
    say(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
