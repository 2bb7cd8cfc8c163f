"""How much memory do a target's processes hold? Reads /proc; knows nothing of what they do."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.processes import session_pids

_INTERVAL_S: Final = 0.2  # five samples a second cost under 1 % of a core; VmHWM catches what falls between
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes over all processes: the largest sampled sum, and the sum of each process's own peak (VmHWM)."""

    peak_rss: int
    peak_hwm: int


class MemorySampler:
    """Samples while entered. `leaders` gives the session ids, so that restarted servers are followed."""

    def __init__(self, leaders: Callable[[], frozenset[int]]) -> None:
        self._leaders = leaders
        self._peak_rss = 0
        self._peak_hwm = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="memory")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def read(self) -> Memory:
        """Return the peaks since the start."""
        self._sample()
        return Memory(self._peak_rss, self._peak_hwm)

    def _run(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            self._sample()

    def _sample(self) -> None:
        rss = hwm = 0
        for pid in session_pids(self._leaders()):
            try:
                rss += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
                hwm += _high_water(pid)
            except (OSError, IndexError):  # it ended while we looked
                continue
        self._peak_rss = max(self._peak_rss, rss)
        self._peak_hwm = max(self._peak_hwm, hwm)


def _high_water(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
