"""A sample of the lives with versions: it replays, it is clean, and its judge does not let everything pass."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import cpu_count
from typing import Final

import pytest
from tests.simulation.versions_judge import Ledger
from tests.simulation.versions_sim import play, play_with

SAMPLE: Final = range(1, 17)
EASY: Final = ("no-filing", "blind-swap", "no-tombstone")
"""Bugs that a few lives are sure to show: about every second does."""
EASY_SEEDS: Final = 12


def test_a_sample_of_lives_shows_no_violation() -> None:
    with ProcessPoolExecutor(min(4, cpu_count() or 1), get_context("spawn")) as pool:
        reports = list(pool.map(play, SAMPLE, chunksize=4))
    found = {report.seed: report.violations for report in reports if report.violations}
    assert not found, "replay with python -m tests.simulation.versions_sim --trace --seed " + ", ".join(map(str, found))
    assert sum(report.requests for report in reports) > 50 * len(SAMPLE)


@pytest.mark.parametrize("bug", EASY)
def test_a_planted_bug_is_found(bug: str) -> None:
    assert any(play_with(bug, seed).violations for seed in range(1, 1 + EASY_SEEDS))


def test_the_same_seed_is_the_same_life() -> None:
    one, other = play(4), play(4)
    assert (one.lines, one.requests, one.messages) == (other.lines, other.requests, other.messages)


# -- the judge --------------------------------------------------------------------------------------------------------


def judged(*notes: str) -> list[str]:
    """Return the violations of a story about the versions `1` and `2`; each note is a moment later."""
    ledger = Ledger()
    for at, note in enumerate(notes):
        action, _, version = note.partition(" ")
        begin, end = at + 0.1, at + 0.9
        match action:
            case "put":
                ledger.pushed("k", version, f"etag {version}", begin, end)
            case "remove":
                ledger.removing("k", version, begin).returned = end
            case "send":
                ledger.removing("k", version, begin)
            case "top":
                ledger.seen_on_top("k", version, f"etag {version}", begin, end, "c")
            case "see":
                ledger.seen("k", version, f"etag {version}", begin, end, "c")
            case _:
                ledger.missed("k", version, begin, end, "c")
    return ledger.violations()


@pytest.mark.parametrize(
    "story",
    [
        ("put 1", "put 2", "top 2", "remove 2", "top 1", "miss 2", "see 1", "remove 1", "top "),
        ("put 1", "send 1", "see 1", "miss 1", "top "),
        ("put 1", "put 2", "send 2", "top 1", "miss 2"),
        ("put 1", "put 2", "send 1", "top 2", "see 1"),
    ],
)
def test_what_a_stack_can_have_answered_is_let_pass(story: tuple[str, ...]) -> None:
    assert judged(*story) == []


@pytest.mark.parametrize(
    "story",
    [
        ("put 1", "miss 1"),
        ("put 1", "top "),
        ("put 1", "put 2", "top 1"),
        ("put 1", "remove 1", "see 1"),
        ("put 1", "remove 1", "top 1"),
        ("put 1", "send 1", "miss 1", "see 1"),
        ("put 2", "put 1"),
        ("see 1", "miss 1"),
    ],
)
def test_what_no_stack_can_have_answered_is_found(story: tuple[str, ...]) -> None:
    assert judged(*story)
