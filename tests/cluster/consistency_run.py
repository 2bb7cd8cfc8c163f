"""`python -m tests.cluster.consistency_run`: real daemons, clients and faults together, then the judgement.

A run makes a cluster, lets every workload work on it while a scenario's faults happen, heals, waits until each node
serves, reads everything again through each, and checks the whole history. What violates a rule is written out.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Final

from tests.cluster.consistency_cluster import Cluster, faketime_library, open_cluster, open_folder
from tests.cluster.consistency_doors import ANSWER_S
from tests.cluster.consistency_history import Outcome, save_history, table_of
from tests.cluster.consistency_nemeses import SCENARIOS, Log, Scenario, run_lane
from tests.cluster.consistency_workloads import WORKLOADS, Workload

from meshhold.errors import MeshHoldError

OUT: Final = Path("build/jepsen")
_CLIENTS_END_S: Final = 4 * ANSWER_S  # a lister has up to three requests before it looks whether to stop
_LANES_END_S: Final = 120.0  # a killed node's start may take its whole patience
_DONE_PER_S: Final = 1.0  # operations that must succeed at least, or the run has told too little to be called good
_CRASH: Final = ("Traceback (most recent call last)", " CRITICAL ")


@dataclass(slots=True)
class Report:
    """What came of a run."""

    name: str
    seed: int
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    strikes: int = 0
    recovery_s: float = 0.0
    violations: list[str] = field(default_factory=list)
    files: Path | None = None

    def number(self, outcome: Outcome) -> int:
        """Return how many operations came to this outcome."""
        return sum(number for (_, found), number in self.counts.items() if found == outcome)

    def __str__(self) -> str:
        done, open_ = self.number(Outcome.OK), self.number(Outcome.UNKNOWN)
        verdict = f"{len(self.violations)} VIOLATIONS, see {self.files}" if self.violations else "no violation"
        return (
            f"{self.name:<16} seed {self.seed:<6} {sum(self.counts.values()):>6} operations, {done:>6} ok, "
            f"{open_:>5} unknown, {self.strikes:>3} faults, serves again after {self.recovery_s:4.1f} s: {verdict}"
        )


def run_scenario(
    name: str,
    scenario: Scenario,
    folder: Path,
    seconds: float,
    seed: int,
    out: Path,
    *,
    kinds: Sequence[type[Workload]] = WORKLOADS,
    keep: bool = False,
) -> Report:
    """Play one scenario on a cluster of its own. Errors: `AssertionError` if nodes do not come up or serve again."""
    report = Report(name, seed)
    with open_cluster(folder, scenario.nodes, scenario.replicas, base_s=scenario.base_s) as cluster:
        origin = time.monotonic_ns()
        log = Log()
        workloads = [kind(cluster.doors, cluster.history, seed) for kind in kinds]
        try:
            with _striking(cluster, scenario, f"{name} {seed}", log):
                work(workloads, seconds)
            cluster.heal()
            report.recovery_s = cluster.wait_serving()
            for workload in workloads:
                workload.finish()
        except AssertionError as error:
            report.violations.append(f"the cluster does not come back: {error}")
        report.counts = cluster.history.count()
        report.strikes = sum(not what.startswith("undone") for _, what in log.lines)
        report.violations += [violation for workload in workloads for violation in workload.check()]
        report.violations += _crashes(folder)
        if report.number(Outcome.OK) < seconds * _DONE_PER_S:
            report.violations.append(f"only {report.number(Outcome.OK)} operations succeeded: that tells too little")
        if report.violations or keep:
            report.files = _keep(out / f"{name}-{seed}", folder, cluster, report, log.told(origin))
    return report


@contextmanager
def _striking(cluster: Cluster, scenario: Scenario, seed: str, log: Log) -> Iterator[None]:
    """Let the faults of a scenario happen while the block runs."""
    stop = threading.Event()
    lanes = [
        threading.Thread(target=run_lane, args=(cluster, scenario, lane, seed, stop, log), daemon=True)
        for lane in range(len(scenario.lanes))
    ]
    for lane in lanes:
        lane.start()
    try:
        yield
    finally:
        stop.set()
        for lane in lanes:
            lane.join(_LANES_END_S)
    assert not any(lane.is_alive() for lane in lanes), "a fault does not end"
    if log.errors:
        raise AssertionError(f"a fault failed: {log.errors[0]!r}") from log.errors[0]


def work(workloads: Sequence[Workload], seconds: float) -> None:
    """Let all clients work for so long, and wait for their last answers."""
    clients = [threading.Thread(target=client, daemon=True) for workload in workloads for client in workload.clients()]
    for client in clients:
        client.start()
    time.sleep(seconds)  # the run's length, no wait for something
    for workload in workloads:
        workload.stop.set()
    for client in clients:
        client.join(_CLIENTS_END_S)
    assert not any(client.is_alive() for client in clients), "a client does not end"


def _crashes(folder: Path) -> list[str]:
    """Return what daemons said of errors that nobody foresaw."""
    found = []
    for path in sorted(folder.glob("*.log")):
        text = path.read_text(errors="replace")
        at = min((text.index(sign) for sign in _CRASH if sign in text), default=-1)
        if at >= 0:
            found.append(f"{path.stem} met an unexpected error:\n{text[max(0, at - 200) : at + 4000]}")
    return found


def _keep(target: Path, folder: Path, cluster: Cluster, report: Report, faults: str) -> Path:
    """Write what is needed to understand a violation; return where."""
    target.mkdir(parents=True, exist_ok=True)
    save_history(cluster.history.operations, target / "history.jsonl")
    (target / "violations.txt").write_text("\n\n".join(report.violations) + "\n")
    (target / "faults.txt").write_text(faults + "\n")
    for log in folder.glob("*.log"):
        (target / log.name).write_bytes(log.read_bytes())
    return target


def main(words: Sequence[str]) -> int:
    """Play scenarios, print a line for each run; return 1 if a rule was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.consistency_run", description=__doc__)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help=f"comma-separated: {', '.join(SCENARIOS)}")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="of clients' work in each run")
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the next ones follow (0: any)")
    parser.add_argument("--keep", action="store_true", help="keep the histories of good runs too")
    parser.add_argument("--disk", action="store_true", help="keep the nodes' files on a disk, not in memory")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder for what violations leave ({OUT})")
    found = parser.parse_args(words)
    first = found.seed or random.SystemRandom().randrange(1, 10**5)
    names = found.scenarios.split(",")
    for name in names:
        if name not in SCENARIOS:
            parser.error(f"there is no scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    if not faketime_library():
        parser.error("libfaketime is missing, so clocks cannot be set: apt-get install faketime")
    reports = []
    for name in names:
        for number in range(found.runs):
            report = _play(name, found.seconds, first + number, found.out, keep=found.keep, disk=found.disk)
            print(report, flush=True)  # noqa: T201 - the program's output
            reports.append(report)
    print(_summary(reports))  # noqa: T201 - same
    return 1 if any(report.violations for report in reports) else 0


def _play(name: str, seconds: float, seed: int, out: Path, *, keep: bool, disk: bool) -> Report:
    with (
        open_folder(on_disk=disk) as folder,
        redirect_stdout(StringIO()),
    ):  # its table of times
        try:
            return run_scenario(name, SCENARIOS[name], folder, seconds, seed, out, keep=keep)
        except (AssertionError, MeshHoldError) as error:
            target = out / f"{name}-{seed}"
            target.mkdir(parents=True, exist_ok=True)
            (target / "violations.txt").write_text(f"{error!r}\n")
            return Report(name, seed, violations=[f"no cluster to test: {error}"], files=target)


def _summary(reports: Sequence[Report]) -> str:
    total: Counter[tuple[str, str]] = Counter()
    for report in reports:
        total.update(report.counts)
    bad = sum(bool(report.violations) for report in reports)
    return f"\n{table_of(total)}\n{len(reports)} runs, {bad} with violations"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
