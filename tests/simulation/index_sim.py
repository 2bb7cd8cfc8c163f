"""Is the index linearizable under every fault that leaves a majority? Whole nodes, seed by seed, on a virtual clock.

`python -m tests.simulation.index_sim --seed 1 --seeds 2000 --jobs 2` prints each seed with a violation, and how to
play it again; `--seed S --trace` tells one seed's whole life; `--bugs` plants one bug after the other and says how many
seeds it took to find it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import Pool
from typing import Final

from tests.simulation.index_bugs import BUGS, planted
from tests.simulation.index_plan import draw
from tests.simulation.index_world import Report, play

BUG_SEEDS_MAX: Final = 2_000
_SHOWN_MAX: Final = 3
_PROGRESS_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Program:
    """A simulation that is played seed by seed.

    `play` takes the name of a planted bug, or None, and a seed; `bugs` tells of each bug what it is and in which lives
    it is looked for; `summary` tells people what all reports together say.
    """

    module: str
    play: Callable[[str | None, int], Report]
    bugs: Mapping[str, tuple[str, str]]
    summary: Callable[[Sequence[Report]], str]

    def main(self, doc: str | None, arguments: Sequence[str] | None = None) -> int:
        """Play what is asked for; return 1 if a violation was found, or a planted bug was not."""
        parser = argparse.ArgumentParser(prog=self.module.rsplit(".", 1)[-1], description=doc)
        parser.add_argument("--seed", type=int, default=1, help="the first seed")
        parser.add_argument("--seeds", type=int, default=1, help="how many, one after the other")
        parser.add_argument("--jobs", type=int, default=1, help="processes")
        parser.add_argument("--bug", choices=sorted(self.bugs), help="plant this bug")
        parser.add_argument("--bugs", action="store_true", help="plant each bug in turn, and see when it is found")
        parser.add_argument("--trace", action="store_true", help="tell all that happened, and what clients were told")
        chosen = parser.parse_args(arguments)
        if chosen.bugs:
            return self.hunt(chosen.seed, max(chosen.seeds, BUG_SEEDS_MAX), chosen.jobs)
        return self.survey(range(chosen.seed, chosen.seed + chosen.seeds), chosen.jobs, chosen.bug, trace=chosen.trace)

    def survey(self, seeds: Sequence[int], jobs: int, bug: str | None = None, *, trace: bool = False) -> int:
        """Play the seeds and tell of violations; return 1 if there were any."""
        began_s = told_s = time.monotonic()
        bad = 0
        reports: list[Report] = []
        with _players(jobs) as pool:
            for count, report in enumerate(pool.imap_unordered(partial(self.play, bug), seeds), 1):
                if trace:
                    say("\n".join(report.lines))
                if report.violations:
                    bad += 1
                    self.tell(report, bug, brief=bad > _SHOWN_MAX)
                report.lines = []
                reports.append(report)
                if time.monotonic() > told_s + _PROGRESS_S:
                    told_s = time.monotonic()
                    say(f"... {count} of {len(seeds)} seeds after {told_s - began_s:.0f} s, {bad} with violations")
        passed_s = time.monotonic() - began_s
        say(f"{len(seeds)} seeds from {seeds[0]}: {bad} with violations; {self.summary(reports)} in {passed_s:.0f} s")
        return 1 if bad else 0

    def hunt(self, first: int, seeds_max: int, jobs: int) -> int:
        """Plant each bug and count the seeds until it is found; return 1 if one was not."""
        say("| planted bug | | lives | seeds until found | it shows as |")
        say("|---|---|---|---:|---|")
        missed = 0
        with _players(jobs) as pool:
            for name, (tells, lives) in self.bugs.items():
                played = 0
                shown = "**not found**"
                for report in self._until_found(pool, name, first, seeds_max):
                    played += 1
                    if report.violations:
                        shown = report.violations[0].splitlines()[0][:100]
                missed += shown == "**not found**"
                say(f"| {name} | {tells} | {lives} | {played} | {shown} |")
        return 1 if missed else 0

    def _until_found(self, pool: Pool, bug: str, first: int, seeds_max: int) -> Iterator[Report]:
        """Yield reports in the order of seeds, the first with a violation last."""
        step = 16  # what is played in vain after the find
        for begin in range(first, first + seeds_max, step):
            for report in pool.map(partial(self.play, bug), range(begin, min(begin + step, first + seeds_max)), 1):
                yield report
                if report.violations:
                    return

    def tell(self, report: Report, bug: str | None, *, brief: bool) -> None:
        """Print a seed's violations and how to see them again."""
        planted_bug = f" --bug {bug}" if bug else ""
        say(f"seed {report.seed}: {len(report.violations)} violations; replay with")
        say(f"  python -m {self.module} --seed {report.seed} --trace{planted_bug}")
        for violation in report.violations[:1] if brief else report.violations:
            say("  " + (violation.splitlines()[0] if brief else violation.replace("\n", "\n  ")))


def play_with(bug: str | None, seed: int) -> Report:
    """Play a seed, with a bug planted if one is named."""
    with planted(bug):
        return play(seed, draw(seed, BUGS[bug].races) if bug else None)


def summary(reports: Sequence[Report]) -> str:
    """Return what was asked and sent in all."""
    requests = sum(report.requests for report in reports)
    unknown = sum(report.unknown for report in reports)
    return (
        f"{requests:,} requests ({unknown / max(1, requests):.0%} of unknown outcome), "
        f"{sum(report.messages for report in reports):,} messages, "
        f"{sum(report.virtual_s for report in reports) / 3600:,.0f} virtual hours"
    )


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def _players(jobs: int) -> Iterator[Pool]:
    """Offer processes that play; all have the hash seed of this one."""
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield pool


def run_repeatably(module: str, main: Callable[[], int]) -> None:
    """Run a program so that sets of text have the same order in every process, and exit."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(  # noqa: S606 - it is this very program
            sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"}
        )  # fmt: skip
    sys.exit(main())


PROGRAM: Final = Program(
    "tests.simulation.index_sim",
    play_with,
    {name: (bug.tells, "races only" if bug.races == 1 else "mixed") for name, bug in BUGS.items()},
    summary,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for; return 1 if a violation was found, or a planted bug was not."""
    return PROGRAM.main(__doc__, arguments)


if __name__ == "__main__":
    run_repeatably(PROGRAM.module, main)
