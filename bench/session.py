"""One run from beginning to end: start all, measure, print, write. The only place that names the targets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.cases import CASES
from bench.contender import Contender
from bench.failures import BenchError
from bench.huge import huge_json, huge_table, run_huge
from bench.install import plot_python, wrk
from bench.meshhold_target import MeshHold
from bench.pages import QUICK_SIZES, SIZES, page_json, page_table, run_pages
from bench.processes import last_words
from bench.report import as_json, layout, mib, summarize, table
from bench.run import Plan, run_cases
from bench.targets import Rclone, SeaweedFS, Target
from bench.workspace import describe_machine, open_workspace

TARGETS: Final[dict[str, type[Target]]] = {kind.name: kind for kind in (MeshHold, SeaweedFS, Rclone)}
EXTRAS: Final = ("pages", "huge")
_PLOT: Final = Path(__file__).with_name("plot.py")


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure on what, how long, and where results and data go."""

    plan: Plan
    chosen: Sequence[str]
    targets: Sequence[str]
    is_quick: bool
    huge_gib: float
    out: Path
    work: Path | None


def run_session(options: Options) -> int:
    """Measure, print the tables, write `results.json` and the plot; return 1 if nothing could be measured."""
    driver = wrk()
    results: dict[str, Any] = {}
    with open_workspace(options.work) as folder:
        results["machine"] = describe_machine(folder)
        results["plan"] = asdict(options.plan)
        _measure_cases(options, driver, folder, results)
        if "meshhold" in options.targets:
            _measure_extras(options, driver, folder, results)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nwritten: {path}{_plot(path, options.out)}")
    measured = [row["rounds"] for row in (*results["rows"], *results.get("pages", ()))]
    measured += [row["seconds"] for row in results.get("huge", ())]
    return 0 if any(measured) else 1


def _measure_cases(options: Options, driver: str, folder: Path, results: dict[str, Any]) -> None:
    """Run the side-by-side cases, print their tables and add them to the results."""
    cases = [case for case in CASES if case.name in options.chosen]
    contenders = [Contender(TARGETS[name](folder / name), driver) for name in options.targets] if cases else []
    with ExitStack() as open_contenders:
        for contender in contenders:
            print(f"  starting {contender.target.name}", file=sys.stderr, flush=True)
            open_contenders.callback(contender.close)
            contender.open()
        samples = run_cases(contenders, cases, options.plan, folder) if contenders else []
    rows = summarize(samples)
    results["targets"] = {contender.target.name: _describe(contender) for contender in contenders}
    results.update(as_json(samples, rows))
    if contenders:
        print("\n" + table(rows, {name: kind.title for name, kind in TARGETS.items()}))
        print("\n" + _memory_table(contenders))


def _describe(contender: Contender) -> dict[str, Any]:
    target = contender.target
    return {
        "title": target.title,
        "version": contender.version,
        "promise": target.promise,
        "failure": contender.failure,
        "memory": asdict(contender.memory) if contender.memory else None,
    }


def _memory_table(contenders: Sequence[Contender]) -> str:
    lines: list[tuple[str, ...]] = [("target", "peak RSS", "peak VmHWM", "an answer means", "version")]
    for contender in contenders:
        target = contender.target
        if contender.memory is None:
            lines.append((target.title, f"failed: {contender.failure}"))
            continue
        peaks = (mib(contender.memory.peak_rss), mib(contender.memory.peak_hwm))
        lines.append((target.title, *peaks, target.promise, contender.version))
    return "memory of all processes over the whole run (sum of RSS as sampled; sum of each one's own peak)\n" + layout(
        lines
    )


def _measure_extras(options: Options, driver: str, folder: Path, results: dict[str, Any]) -> None:
    """Run what is measured of MeshHold alone."""
    if "pages" in options.chosen:
        sizes = QUICK_SIZES if options.is_quick else SIZES
        pages = run_pages(driver, folder, sizes, options.plan.rounds, options.plan.small_s)
        results["pages"] = page_json(pages)
        print("\n" + page_table(pages))
    if "huge" in options.chosen:
        huge = run_huge(folder, int(options.huge_gib * 2**30))
        results["huge"] = huge_json(huge)
        print("\n" + huge_table(huge))


def _plot(results: Path, out: Path) -> str:
    """Draw the plot; return what to say of it. A plot that fails costs no figures."""
    try:
        command = [str(plot_python()), str(_PLOT), str(results), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        return f" (no plot: {error})"
    if done.returncode:
        return f" (no plot: {last_words(done.stderr)})"
    return f", {out / 'bench.svg'}, {out / 'bench.png'}"
