"""A sample of the index simulation: it replays, it is clean, and it is no judge that lets everything pass."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import cpu_count
from typing import Final

import pytest
from tests.simulation.index_bugs import BUGS, planted
from tests.simulation.index_plan import draw
from tests.simulation.index_sim import main, play_with
from tests.simulation.index_world import play

SAMPLE: Final = range(1, 51)
EASY: Final = ("no-write-back", "no-lineage", "stale-accept", "list-unsettled")
"""Bugs that `EASY_SEEDS` seeds are sure to show: about every tenth does."""
EASY_SEEDS: Final = 60


def test_fifty_seeds_show_no_violation() -> None:
    with ProcessPoolExecutor(min(4, cpu_count() or 1), get_context("spawn")) as pool:
        reports = list(pool.map(play, SAMPLE, chunksize=5))
    found = {report.seed: report.violations for report in reports if report.violations}
    assert not found, "replay with python -m tests.simulation.index_sim --trace --seed " + ", ".join(map(str, found))
    assert sum(report.requests for report in reports) > 50 * len(SAMPLE)
    assert sum(report.epochs > 1 for report in reports) > 10, "the sample has hardly a change of replicas"


@pytest.mark.parametrize("seed", [2, 3, 5])
def test_the_same_seed_is_the_same_life(seed: int) -> None:
    one, other = play(seed), play(seed)
    assert one.lines == other.lines
    assert one.digest == other.digest
    assert one.digest != play(seed + 10).digest


@pytest.mark.parametrize("bug", EASY)
def test_a_planted_bug_is_found(bug: str) -> None:
    assert any(play_with(bug, seed).violations for seed in range(1, 1 + EASY_SEEDS))


def test_a_planted_bug_is_gone_afterwards() -> None:
    for bug in BUGS.values():
        before = getattr(bug.target, bug.name)
        with planted(next(name for name, each in BUGS.items() if each is bug)):
            assert getattr(bug.target, bug.name) is not before
        assert getattr(bug.target, bug.name) is before


def test_plans_differ_and_have_every_fault_now_and_then() -> None:
    plans = [draw(seed) for seed in range(200)]
    assert {kind for plan in plans for kind in plan.weights} >= {"crash", "wipe", "partition", "change", "skew", "disk"}
    assert {plan.machines for plan in plans} == {3, 4, 5}


def test_the_program_tells_how_to_see_a_violation_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "1", "--seeds", "12", "--bug", "no-lineage"]) == 1
    shown = capsys.readouterr().out
    assert "no order explains this" in shown
    assert "python -m tests.simulation.index_sim --seed" in shown
