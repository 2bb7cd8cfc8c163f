"""Is every acknowledged byte kept, on as many machines as promised? Whole nodes, seed by seed, on a virtual clock.

`python -m tests.simulation.chunk_sim --seed 1 --seeds 1000 --jobs 2` prints each seed with a violation, and how to play
it again; `--seed S --trace` tells one seed's whole life; `--bugs` plants one bug after the other and says how many
seeds it took to find it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.simulation import index_sim
from tests.simulation.chunk_bugs import BUGS, planted
from tests.simulation.chunk_plan import draw
from tests.simulation.chunk_world import ChunkReport, play
from tests.simulation.index_world import Report


def play_with(bug: str | None, seed: int) -> ChunkReport:
    """Play a seed, with a bug planted if one is named."""
    with planted(bug):
        return play(seed, draw(seed, BUGS[bug].lives) if bug else None)


def summary(reports: Sequence[Report]) -> str:
    """Return what was kept and removed in all, and how long healing took at most."""
    found = [report for report in reports if isinstance(report, ChunkReport)]
    return (
        f"{index_sim.summary(reports)}; {sum(each.acknowledged for each in found):,} writes of objects acknowledged, "
        f"{sum(each.removed for each in found):,} copies removed; after healing all copies were in place within "
        f"{max(each.repaired_s for each in found):.0f} virtual s, what is dead gone within "
        f"{max(each.collected_s for each in found):.0f}; at most {max(each.tasks_max for each in found)} tasks, "
        f"{max(each.sending_max for each in found):,} bytes that nobody waited for,"
    )


PROGRAM: Final = index_sim.Program(
    "tests.simulation.chunk_sim", play_with, {name: (bug.tells, bug.lives) for name, bug in BUGS.items()}, summary
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for; return 1 if a violation was found, or a planted bug was not."""
    return PROGRAM.main(__doc__, arguments)


if __name__ == "__main__":
    index_sim.run_repeatably(PROGRAM.module, main)
