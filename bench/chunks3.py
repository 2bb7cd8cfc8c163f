"""`python -m bench.chunks3`: objects in chunks on three nodes, beside SeaweedFS on three volume servers.

Each with two copies and with three. All four are started first; then each round measures each of them in turn, as
`bench.run` does, so that a noisy minute of the machine meets all. What counts is the median of the rounds, and of the
ratios within a round. All share this machine's processors and its one disk.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.cases import CASES, LARGE, MIB, SMALL, Case
from bench.cpu import CountedContender
from bench.failures import BenchError
from bench.footprint import Footprint, footprints
from bench.install import wrk
from bench.load import Measurement
from bench.refill3 import LARGE_OBJECT, SMALL_OBJECT, refill_json, refill_table, run_refill
from bench.report import layout, mib
from bench.run import Plan, Sample, run_cases
from bench.seaweed3 import SeaweedThreeCopies, SeaweedTwoCopies
from bench.targets import Target
from bench.three import ThreeCopies, TwoCopies, TwoCopiesUncached
from bench.workspace import describe_machine, open_workspace

PAIRS: Final[tuple[tuple[type[Target], type[Target]], ...]] = (
    (TwoCopies, SeaweedTwoCopies),
    (ThreeCopies, SeaweedThreeCopies),
    (TwoCopiesUncached, SeaweedThreeCopies),
)
ON_DEMAND: Final = (TwoCopiesUncached,)
"""Measured only if `--targets` names it."""
LARGE_DISTINCT: Final = 12
"""Uploads of 64 MiB in one run: with three copies 2.3 GiB."""
AIMS: Final = {"put4k": 0.5, "get4k": 0.5, "put64k": 0.5, "get64k": 0.5, "put64m": 1.5, "get64m": 0.6, "list500": 1.5}
_STANDARD: Final = ("put4k", "get4k", "put64k", "get64k", "list500", "put64m", "get64m")
MEASURED: Final[tuple[Case, ...]] = (
    *(case for case in CASES if case.name in _STANDARD and not case.is_large),
    Case("put1m", "PUT", MIB, SMALL, distinct=600),
    Case("get1m", "GET", MIB, SMALL, prepared=64),
    *(
        replace(case, concurrencies=LARGE, distinct=min(case.distinct, LARGE_DISTINCT))
        for case in CASES
        if case.name in _STANDARD and case.is_large
    ),
)
_REFILL: Final = "refill"
Costs = Mapping[tuple[str, int, int], Sequence[float]]
Rates = dict[tuple[str, int, str, int], Measurement]


def _kinds() -> list[type[Target]]:
    return list(dict.fromkeys(kind for pair in PAIRS for kind in pair))


def _rates(samples: Sequence[Sample]) -> Rates:
    return {(s.case, s.concurrency, s.target, s.round): s.measurement for s in samples if s.measurement is not None}


def case_table(samples: Sequence[Sample], names: Sequence[str]) -> str:
    """Return a line for each case: medians, and the median of the ratios within rounds for each number of copies."""
    found, sizes = _rates(samples), {case.name: case.size for case in MEASURED}
    pairs = [
        (ours, theirs)
        for ours, theirs in PAIRS
        if ours.name in names or (theirs.name in names and ours not in ON_DEMAND)
    ]
    headings = [word for ours, theirs in pairs for word in (ours.title, "p99 ms", theirs.title, "p99 ms", "ratio")]
    lines: list[tuple[str, ...]] = [("case", "conc", *headings, "aim")]
    for case, concurrency in dict.fromkeys((s.case, s.concurrency) for s in samples):
        cells = [case, str(concurrency)]
        for pair in pairs:
            for target in pair:
                cells += _figures(found, case, concurrency, target.name, sizes[case])
            ratio = pair_ratio(found, case, concurrency, pair[0].name, pair[1].name)
            cells.append("-" if ratio is None else f"{ratio:.2f}x")
        lines.append((*cells, f"{AIMS[case]:g}" if case in AIMS else ""))
    failures = sorted({f"{s.case} x{s.concurrency} on {s.target}: {s.failure}" for s in samples if s.failure})
    errors = sorted(f"{case} x{n} on {target}: {m.errors}" for (case, n, target, _), m in found.items() if m.errors)
    return "\n".join([layout(lines), *failures, *errors])


def _figures(found: Rates, case: str, concurrency: int, target: str, size: int) -> tuple[str, str]:
    rounds = [m for (c, n, t, _), m in found.items() if (c, n, t) == (case, concurrency, target)]
    if not rounds:
        return "-", "-"
    rate = median(m.rate for m in rounds)
    shown = f"{rate * size / 1e6:,.0f} MB/s" if size >= MIB else f"{rate:,.0f}/s"
    return shown, f"{median(m.p99_ms for m in rounds):,.1f}"


def pair_ratio(found: Rates, case: str, concurrency: int, ours: str, theirs: str) -> float | None:
    """Return the median over the rounds of our rate over theirs, None where one of both is missing."""
    ratios = [
        mine.rate / found[case, concurrency, theirs, turn].rate
        for (c, n, t, turn), mine in found.items()
        if (c, n, t) == (case, concurrency, ours) and (case, concurrency, theirs, turn) in found
    ]
    return median(ratios) if ratios else None


def cost_table(costs: Mapping[str, Costs]) -> str:
    """Return what a request costs all processes of a target and its dearest one, in ms of processor time (medians)."""
    titles = {kind.name: kind.title for pair in PAIRS for kind in pair}
    lines = [("CPU ms a request", "conc", *(f"{titles[name]}: all, dearest" for name in costs))]
    for case, concurrency in dict.fromkeys((case, n) for found in costs.values() for case, n, _ in found):
        cells = []
        for found in costs.values():
            runs = [spent for (c, n, _), spent in found.items() if (c, n) == (case, concurrency)]
            whole, dearest = (median(map(measure, runs)) if runs else 0.0 for measure in (sum, max))
            cells.append(f"{whole:,.2f}, {dearest:,.2f}")
        lines.append((case, str(concurrency), *cells))
    return layout(lines)


def memory_table(held: dict[str, list[Footprint]]) -> str:
    """Return a line for each process at the end of the run."""
    lines: list[tuple[str, ...]] = [("target", "process", "RSS", "PSS", "peak")]
    for name, processes in held.items():
        lines += [(name, each.command, mib(each.rss), mib(each.pss), mib(each.peak)) for each in processes]
        sums = [sum(getattr(each, field) for each in processes) for field in ("rss", "pss", "peak")]
        lines.append((name, "all", *map(mib, sums)))
    return layout(lines)


def main(words: Sequence[str]) -> int:
    """Measure, print the tables, write `chunks3.json`."""
    found = _options(words)
    cases = [case for case in MEASURED if case.name in found.only]
    plan = Plan(found.rounds, found.seconds, 2 * found.seconds)
    results: dict[str, Any] = {}
    try:
        driver = wrk()
        with open_workspace(found.work) as folder:
            results["machine"] = describe_machine(folder)
            if cases:
                _measure(found.targets, driver, cases, plan, folder, results)
            if _REFILL in found.only:
                refills = run_refill(folder, found.refill_mib * MIB, LARGE_OBJECT, found.rounds)
                refills += run_refill(folder, found.refill_mib * MIB // 8, SMALL_OBJECT, found.rounds)
                results["refill"] = refill_json(refills)
                print("\n" + refill_table(refills))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    results["load_after"] = os.getloadavg()
    print(f"\nload before {results['machine']['load_before']:.1f}, after {results['load_after'][0]:.1f}")
    found.out.mkdir(parents=True, exist_ok=True)
    path = found.out / "chunks3.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written: {path}")
    return 0


def _measure(
    targets: Sequence[str], driver: str, cases: Sequence[Case], plan: Plan, folder: Path, results: dict[str, Any]
) -> None:
    kinds = [kind for kind in _kinds() if kind.name in targets]
    held: dict[str, list[Footprint]] = {}
    with ExitStack() as stack:
        contenders = [CountedContender(kind(folder / kind.name), driver) for kind in kinds]
        for contender in contenders:
            stack.callback(contender.close)
            contender.open()
        samples = run_cases(contenders, cases, plan, folder)
        for contender in contenders:
            held[contender.target.title] = footprints(contender.target.servers.leaders)
    results["samples"] = [asdict(sample) for sample in samples]
    results["memory"] = {name: [asdict(each) for each in processes] for name, processes in held.items()}
    costs = {contender.target.name: contender.cpu_ms for contender in contenders}
    results["cpu_ms"] = [
        {"target": name, "case": case, "concurrency": concurrency, "round": turn, "ms": spent}
        for name, found in costs.items()
        for (case, concurrency, turn), spent in found.items()
    ]
    print(case_table(samples, targets))
    print("\n" + cost_table(costs))
    print("\n" + memory_table(held))


def _options(words: Sequence[str]) -> argparse.Namespace:
    names = [case.name for case in MEASURED]
    kinds = [kind.name for kind in _kinds()]
    usual = [kind.name for kind in _kinds() if kind not in ON_DEMAND]
    parser = argparse.ArgumentParser(prog="python -m bench.chunks3", description="Measure chunks on three nodes.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a small case; a large one takes twice as long")
    parser.add_argument("--only", default=",".join([*names, _REFILL]), help=f"comma-separated: {', '.join(names)}")
    parser.add_argument("--targets", default=",".join(usual), help=f"comma-separated: {', '.join(kinds)}")
    parser.add_argument(
        "--refill-mib",
        type=int,
        default=256,
        help="content that the wiped node fetches anew; an eighth in small chunks",
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for results (build/bench)")
    parser.add_argument("--work", type=Path, help="folder for the servers' data (a new one under ~/.cache)")
    found = parser.parse_args(words)
    found.only, found.targets = found.only.split(","), found.targets.split(",")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
