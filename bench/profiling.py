"""Where does MeshHold's time go? Samples the daemon under one load at a time. Knows no code of the daemon."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.cases import CASES, MIB, Case
from bench.contender import Contender
from bench.failures import BenchError
from bench.install import tool, wrk
from bench.meshhold_target import MeshHold
from bench.processes import last_words
from bench.workspace import open_workspace

PROFILED: Final = {"put4k": 16, "get4k": 16, "put64k": 16, "get64k": 16, "list500": 16, "put64m": 4, "get64m": 4}
_RATE_HZ: Final = 250
_MARGIN_S: Final = 1.0  # the load begins before the sampling and outlasts it
_TOP: Final = 40
_WAITING: Final = "WorkerThread._work (trio/"  # between two jobs; py-spy takes its wait for a lock for work


def run_profiles(names: Sequence[str], seconds: float, out: Path) -> None:
    """Write `profile-NAME.txt` (top functions) and `profile-NAME.stacks` (for a flame graph) for each case."""
    out.mkdir(parents=True, exist_ok=True)
    cases = [case for case in CASES if case.name in names]
    with open_workspace(None) as folder:
        target = MeshHold(folder / "meshhold")
        contender = Contender(target, wrk())
        contender.open()
        try:
            if contender.failure:
                raise BenchError(contender.failure)
            for case in cases:
                contender.prepare(case)
                _profile(contender, target.daemon_pid, case, seconds, out)
        finally:
            contender.close()


def _profile(contender: Contender, pid: int, case: Case, seconds: float, out: Path) -> None:
    concurrency = PROFILED[case.name]
    print(f"  profiling {case.name} x{concurrency} for {seconds:.0f} s", file=sys.stderr, flush=True)
    os.sync()
    stacks = out / f"profile-{case.name}.stacks"
    rates: list[float] = []
    failures: list[BenchError] = []
    bodies = contender.target.folder.parent

    def load() -> None:
        try:
            whole_s = seconds + 2 * _MARGIN_S
            rates.append(contender.measure(case, concurrency, whole_s, "profile", bodies).rate)
        except BenchError as error:
            failures.append(error)

    driver = threading.Thread(target=load, name="load")
    driver.start()
    driver.join(_MARGIN_S)
    command = [*[str(tool("py-spy")), "record", "--pid", str(pid), "--duration", str(round(seconds))]]
    command += ["--rate", str(_RATE_HZ), "--format", "raw", "--threads", "--output", str(stacks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    driver.join()
    if failures:
        raise failures[0]
    if done.returncode or not stacks.exists():
        raise BenchError(f"py-spy failed: {last_words(done.stderr)}")
    unit = "MB/s" if case.size >= MIB else "requests/s"
    rate = rates[0] * case.size / 1e6 if case.size >= MIB else rates[0]
    text = f"{case.name} x{concurrency}: {rate:,.0f} {unit} while sampled at {_RATE_HZ} Hz\n\n"
    (out / f"profile-{case.name}.txt").write_text(text + top_functions(stacks.read_text()))
    print(f"  written: {out / f'profile-{case.name}.txt'}", file=sys.stderr)


def top_functions(stacks: str) -> str:
    """Return the functions with the most samples, from lines `outer;inner;innermost COUNT` that begin with a thread.

    "own" counts samples in the function itself, "total" those in it or in what it calls (recursion counted once);
    percentages are of the samples of all running threads together, pool threads without a job left out.
    """
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    threads: Counter[str] = Counter()
    for line in stacks.splitlines():
        path, _, count = line.rpartition(" ")
        thread, *frames = path.split(";")
        if not frames or frames[-1].startswith(_WAITING):
            continue
        threads[_thread_name(thread)] += int(count)
        own[_function(frames[-1])] += int(count)
        total.update(dict.fromkeys((_function(frame) for frame in frames), int(count)))
    samples = max(1, sum(own.values()))
    sections = [("threads", threads), ("own time", own), ("total time", total)]
    return "\n".join(_section(title, counter, samples) for title, counter in sections)


def _thread_name(thread: str) -> str:
    """Return the name in `thread (ID): NAME-7` without numbers, so that the threads of a pool are one row."""
    return thread.partition(": ")[2].rstrip("-0123456789 ") or thread


def _function(frame: str) -> str:
    """Return `function (file)`: the line number would scatter one function over many rows."""
    head, _, line = frame.rpartition(":")
    return f"{head})" if head and line.rstrip(")").isdigit() else frame


def _section(title: str, counter: Counter[str], samples: int) -> str:
    lines = [f"{count * 100 / samples:6.1f} %  {count:7}  {name}" for name, count in counter.most_common(_TOP)]
    return "\n".join([title, *lines, ""])
