"""One timer for many calls."""

from __future__ import annotations

from math import inf

from meshhold.peering.deadlines import Deadlines


def test_calls_expire_in_time_and_once() -> None:
    waiting = {1, 2, 3}
    deadlines = Deadlines(waiting)
    for number, deadline_s in ((1, 5.0), (2, 3.0), (3, 9.0)):
        assert deadlines.add(deadline_s, number) is (number != 3)  # whether it is the earliest yet
    assert deadlines.next_s == 3.0
    assert deadlines.expired(2.9) == []
    assert deadlines.expired(5.0) == [2, 1]
    assert deadlines.expired(5.0) == []
    assert deadlines.next_s == 9.0


def test_answered_calls_do_not_expire() -> None:
    waiting = {1, 2}
    deadlines = Deadlines(waiting)
    deadlines.add(1.0, 1)
    deadlines.add(1.0, 2)
    waiting.discard(1)
    assert deadlines.expired(2.0) == [2]
    assert deadlines.next_s == inf


def test_answered_calls_are_cleared_away() -> None:
    waiting: set[int] = set()
    deadlines = Deadlines(waiting)
    for number in range(50_000):
        waiting.add(number)
        deadlines.add(60.0 + number, number)
        waiting.discard(number - 100)
    assert len(deadlines) < 3_000
    assert deadlines.expired(1e9) == sorted(waiting)
