"""Do stacks of versions hold under every fault that leaves a majority? Whole nodes, seed by seed.

`python -m tests.simulation.versions_sim --seed 1 --seeds 200 --jobs 2`; what it takes is what `index_sim` takes. A
life here has a bucket that keeps versions: they are put, marked deleted, removed by their ids, so that earlier ones
become current again, found, listed and tagged, while machines crash in the middle and tombstones are forgotten.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

from tests.simulation.index_bugs import Bug, plant
from tests.simulation.index_plan import Plan, draw, keep_versions
from tests.simulation.index_sim import Program, run_repeatably, summary
from tests.simulation.index_world import Report, World, play_in
from tests.simulation.versions_judge import Ledger
from tests.simulation.versions_workload import WEIGHTS, VersionsClient

from meshhold.replication.index.registers import Registers
from meshhold.store import stacks
from meshhold.store.stacks import Stacks

_HASTE: Final = 0.4


class VersionsWorld(World):
    """Machines whose clients keep versions."""

    def __init__(self, seed: int, plan: Plan) -> None:
        super().__init__(seed, plan)
        self.ledger = Ledger()

    def make_client(self, name: str, chance: random.Random) -> VersionsClient:
        """Return a program that keeps versions."""
        return VersionsClient(name, chance, self.history, self.plan.mix, self.doors, self.ledger)

    def judge(self, report: Report) -> None:
        """Write into the report what was wrong."""
        super().judge(report)
        report.violations += self.ledger.violations()
        report.requests = self.ledger.requests


def plan_of(seed: int) -> Plan:
    """Return the seed's plan: that of the index's life, with fewer keys, so that stacks grow and shrink.

    In a third of the lives clients have so little patience that many requests end halfway.
    """
    plan = draw(seed)
    chance = random.Random(f"versions {seed}")
    plan.mix.weights = dict(WEIGHTS)
    favourite = chance.choice([None, "put", "remove", "remove_top", "delete", "tag"])
    if favourite is not None:
        plan.mix.weights[favourite] *= 3
    plan.mix.keys = chance.choice([("a",), ("a",), ("a", "d/x")])
    if chance.random() < _HASTE:
        plan.mix.weights = {"put": 8, "remove_top": 10, "remove": 3, "get": 2, "find": 10, "tag": 2}
        plan.mix.patience_s = chance.choice([3.0, 8.0, 20.0]) * plan.weather.delay_s
        plan.mix.think_s = 0.2
        plan.mix.faithful = 0.2
    return plan


def play(seed: int) -> Report:
    """Live the life of a seed and return what came of it; each third is one of clients that know of no versions."""
    if seed % 3:
        return play_in(lambda: VersionsWorld(seed, plan_of(seed)), Report(seed))
    plan = draw(seed)
    keep_versions(plan.mix)
    return play_in(lambda: World(seed, plan), Report(seed))


# -- bugs ------------------------------------------------------------------------------------------------------------


def _files_late(change: Any) -> Any:
    async def changed(self: Registers, *arguments: Any, **options: Any) -> Any:
        options.pop("fence", None)
        return await change(self, *arguments, **options)

    return changed


def _buries_nothing(_: Any) -> Any:
    async def bury(*_arguments: Any, **_options: Any) -> None:
        return None

    return bury


def _swaps_blindly(swap: Any) -> Any:
    async def swapped(self: Stacks, bucket: Any, key: bytes, _: Any, new: Any, early: Any = None) -> bool:
        current = await self.read(bucket, key)
        return bool(await swap(self, bucket, key, current, new, early))

    return swapped


BUGS: Final = {
    "no-filing": Bug("a new version goes on top without the old one being filed", Stacks, "_file", _buries_nothing),
    "blind-swap": Bug("the top is replaced whatever it has become", Stacks, "_swap", _swaps_blindly),
    "no-touch": Bug(
        "an earlier version is deleted without the top saying so", stacks, "marked", lambda _: lambda top, _gone: top
    ),
    "no-gone": Bug("a deletion leaves to the row to tell of it", stacks, "promoted", lambda was: (
        lambda row, above, _gone: was(row, above, ())
    )),
    "late-filing": Bug("what was deleted is filed", Registers, "change", _files_late),
    "no-tombstone": Bug("what was deleted has no tombstone", Stacks, "_bury", _buries_nothing),
}  # fmt: skip


def play_with(bug: str | None, seed: int) -> Report:
    """Play a seed, with a bug planted if one is named."""
    with plant(None if bug is None else BUGS[bug]):
        return play(seed)


PROGRAM: Final = Program(
    "tests.simulation.versions_sim", play_with, {name: (bug.tells, "mixed") for name, bug in BUGS.items()}, summary
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for; return 1 if a violation was found, or a planted bug was not."""
    return PROGRAM.main(__doc__, arguments)


if __name__ == "__main__":
    run_repeatably(PROGRAM.module, main)
