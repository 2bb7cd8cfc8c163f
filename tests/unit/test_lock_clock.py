"""A clock that jumps ahead opens no lock early."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from meshhold.store.lock_clock import AHEAD_MS, LockClock

START_MS = 1_800_000_000_000
YEAR_S = 365 * 86_400


@dataclass
class Clocks:
    """A wall clock that somebody sets, and one that nobody does."""

    steady: float = 50.0
    set_ms: int = 0

    def wall_ms(self) -> int:
        return START_MS + int(self.steady * 1000) + self.set_ms

    def steady_s(self) -> float:
        return self.steady


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def test_a_clock_that_nobody_sets_is_believed(clocks: Clocks) -> None:
    clock = LockClock(clocks.wall_ms, clocks.steady_s)
    clocks.steady += 3 * YEAR_S
    assert clock.now_ms() == clocks.wall_ms()


@pytest.mark.parametrize("ahead_ms", [AHEAD_MS + 1, YEAR_S * 1000])
def test_a_jump_ahead_is_not_believed(clocks: Clocks, ahead_ms: int, caplog: pytest.LogCaptureFixture) -> None:
    clock = LockClock(clocks.wall_ms, clocks.steady_s)
    clocks.steady += 10
    right_ms = clocks.wall_ms()
    clocks.set_ms = ahead_ms
    assert clock.now_ms() == clock.now_ms() == right_ms + AHEAD_MS
    assert len(caplog.records) == 1, "it is said once"
    assert "restart the daemon" in caplog.text


def test_many_small_steps_ahead_do_not_add_up(clocks: Clocks) -> None:
    clock = LockClock(clocks.wall_ms, clocks.steady_s)
    for step in range(1, 20):
        clocks.set_ms = step * (AHEAD_MS // 2)
        assert clock.now_ms() <= START_MS + int(clocks.steady * 1000) + AHEAD_MS


def test_a_clock_that_was_ahead_at_the_start_and_is_set_right_does_not_jump_again(clocks: Clocks) -> None:
    clocks.set_ms = YEAR_S * 1000
    clock = LockClock(clocks.wall_ms, clocks.steady_s)
    clocks.set_ms = 0
    right_ms = clocks.wall_ms()
    assert clock.now_ms() == right_ms
    clocks.set_ms = YEAR_S * 500
    assert clock.now_ms() == right_ms + AHEAD_MS
