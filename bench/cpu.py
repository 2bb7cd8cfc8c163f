"""What does a request cost each process of a target in processor time? Reads /proc around a measurement.

Where others use the machine, rates tell how many processors somebody got; what a request costs moves far less.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from bench.cases import Case
from bench.contender import Contender
from bench.load import Measurement
from bench.processes import session_pids
from bench.targets import Target

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


class CountedContender(Contender):
    """A contender that keeps what each run cost: (case, connections, round) → ms a request, the dearest process last.

    The round is the label's first word. Idle work, such as probes of members, is counted in.
    """

    def __init__(self, target: Target, wrk: str) -> None:
        super().__init__(target, wrk)
        self.cpu_ms: dict[tuple[str, int, int], list[float]] = {}

    def measure(self, case: Case, concurrency: int, seconds: float, label: str, bodies: Path) -> Measurement:
        """Run one case once; see `Contender.measure`."""
        pids = session_pids(self.target.servers.leaders)
        before = {pid: cpu_s(pid) for pid in pids}
        measured = super().measure(case, concurrency, seconds, label, bodies)
        requests = measured.completed + concurrency
        spent = sorted((cpu_s(pid) - before[pid]) * 1000 / requests for pid in pids)
        self.cpu_ms[case.name, concurrency, int(label.partition("-")[0])] = spent
        return measured


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, all its threads, in seconds; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK_S
