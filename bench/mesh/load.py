"""How much of the machine did a measurement use, and how much did others? Reads /proc; knows no contender."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_IDLE_FIELDS: Final = (3, 4)  # idle and waiting for disks


class Used(NamedTuple):
    """Seconds of CPU of some processes, and the share of all processors' time that everything else took."""

    own_s: float
    others: float


class Meter:
    """Measures from its making on. `processes` count by their main threads, where all but waiting happens."""

    def __init__(self, processes: Sequence[int]) -> None:
        self._processes = processes
        self._begun = (time.perf_counter(), self._own_s(), _busy_s())

    def read(self) -> Used:
        """Return what was used so far."""
        begun_s, own_s, busy_s = self._begun
        spent_s = (time.perf_counter() - begun_s) * (os.cpu_count() or 1)
        own_s = self._own_s() - own_s
        return Used(own_s, max(0.0, _busy_s() - busy_s - own_s) / spent_s)

    def _own_s(self) -> float:
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in self._processes) / 1e9


def _busy_s() -> float:
    with Path("/proc/stat").open() as lines:
        ticks = [int(word) for word in lines.readline().split()[1:]]
    return (sum(ticks) - sum(ticks[field] for field in _IDLE_FIELDS)) * _TICK_S
