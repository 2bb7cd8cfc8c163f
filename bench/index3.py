"""`python -m bench.index3`: 4 KiB objects and pages on three nodes that all keep the index, beside one node alone.

Both are started first; then each round measures each of them in turn, as `bench.run` does, so that a noisy minute meets
both. What counts is the median of the rounds, and of the ratios within a round. The three share this machine's
processors and its disk: three machines would have three of each, and a network between them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Final

from bench.cases import CASES
from bench.contender import Contender
from bench.failures import BenchError
from bench.install import wrk
from bench.meshhold_target import MeshHold
from bench.report import layout
from bench.run import Plan, Sample, run_cases
from bench.three import Three
from bench.workspace import describe_machine, open_workspace

MEASURED: Final = ("put4k", "get4k", "list500")


def _table(samples: Sequence[Sample]) -> str:
    """Return a line for each case: medians, and the median of the ratios within rounds."""
    found = {(s.case, s.concurrency, s.target, s.round): s.measurement for s in samples if s.measurement is not None}
    lines: list[tuple[str, ...]] = [
        ("case", "conc", "one node /s", "median ms", "p99 ms", "3 nodes /s", "median ms", "p99 ms", "3 against one")
    ]
    for case, concurrency in dict.fromkeys((s.case, s.concurrency) for s in samples):
        cells = [case, str(concurrency)]
        for target in (MeshHold.name, Three.name):
            rounds = [m for (c, n, t, _), m in found.items() if (c, n, t) == (case, concurrency, target)]
            if rounds:
                cells.append(f"{median(m.rate for m in rounds):,.0f}")
                cells += [f"{median(m.p50_ms for m in rounds):.2f}", f"{median(m.p99_ms for m in rounds):.2f}"]
            else:
                cells += ["-", "-", "-"]
        ratios = [
            three.rate / found[case, concurrency, MeshHold.name, turn].rate
            for (c, n, t, turn), three in found.items()
            if (c, n, t) == (case, concurrency, Three.name) and (case, concurrency, MeshHold.name, turn) in found
        ]
        cells.append(f"{median(ratios):.2f}x" if ratios else "-")
        lines.append(tuple(cells))
    failures = sorted({f"{s.case} on {s.target}: {s.failure}" for s in samples if s.failure})
    return "\n".join([layout(lines), *failures])


def main(words: Sequence[str]) -> int:
    """Measure, print the table, write `index3.json`."""
    parser = argparse.ArgumentParser(prog="python -m bench.index3", description="Measure three nodes beside one.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for results (build/bench)")
    parser.add_argument("--work", type=Path, help="folder for the nodes' data (a new one under ~/.cache)")
    found = parser.parse_args(words)
    plan = Plan(found.rounds, found.seconds, found.seconds)
    cases = [case for case in CASES if case.name in MEASURED]
    try:
        driver = wrk()
        with open_workspace(found.work) as folder, ExitStack() as stack:
            machine = describe_machine(folder)
            contenders = [Contender(kind(folder / kind.name), driver) for kind in (MeshHold, Three)]
            for contender in contenders:
                stack.callback(contender.close)
                contender.open()
            samples = run_cases(contenders, cases, plan, folder)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(_table(samples))
    found.out.mkdir(parents=True, exist_ok=True)
    path = found.out / "index3.json"
    path.write_text(json.dumps({"machine": machine, "samples": [asdict(s) for s in samples]}, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return 0 if any(s.measurement for s in samples) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
