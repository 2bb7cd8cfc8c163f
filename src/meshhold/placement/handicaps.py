"""By how much must a race be corrected so that nobody wins too often? Knows capacities and shares, no hash.

The first `factor` of several clocks to ring are chosen. A clock's speed is its runner's capacity, which is fair while
one is chosen. Of two and more, the small are chosen too often, since the large can be chosen only once. Whoever would
exceed `EXCESS_PERMILLE` of its share is slowed down, to just there: what is corrected changes with each member that
comes or goes, and then moves data between nodes that neither came nor went.

Floating point is used for +, -, *, / alone, never summed by `sum` (whose rounding differs between versions of Python):
these four are rounded alike on every machine, which logarithms and powers are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from meshhold.placement.shares import ONE

PAR: Final = 1 << 20
"""The handicap of who is not slowed down."""
EXCESS_PERMILLE: Final = 1_070
"""The rest of the way to 1,100 is for chance."""

_ROUNDS_MAX: Final = 10
_SLOWEST: Final = 1e-6
"""A runner with less of the largest's capacity counts as having that: bounds the steps below."""
_NEVER: Final = 1e-9
_FIRST_STEP: Final = 1 / 32
"""Of the time until the first of all rings, on average."""
_UNTIL: Final = 20.0
"""So many times as long as the slowest take on average: what is decided later does not count."""
_STRIDE_MAX: Final = 4.0
"""A correction's exponent: who is nearly always chosen has to be slowed much to be chosen a little less."""
_CLOSE: Final = 1.003


def plan_handicaps(capacities: Sequence[int], shares: Sequence[int], factor: int) -> list[int]:
    """Return for each runner what its speed is to be multiplied by, in units of 1/PAR, up to `PAR`.

    `shares` are in units of 1/ONE and add up to `factor`; the two lists go together.
    """
    runners = len(capacities)
    if factor == 1 or factor >= runners:
        return [PAR] * runners
    largest = max(capacities)
    par = [max(capacity / largest, _SLOWEST) for capacity in capacities]
    limits = [min(1.0, share * EXCESS_PERMILLE / (1000 * ONE)) for share in shares]
    speeds = par
    for _ in range(_ROUNDS_MAX):
        odds = _chosen_odds(speeds, factor)
        if all(
            found <= limit * _CLOSE and (speed == full or found * _CLOSE >= limit)
            for found, limit, speed, full in zip(odds, limits, speeds, par, strict=True)
        ):
            break
        speeds = [
            min(full, speed * _power(limit / found, min(_STRIDE_MAX, 1 / max(1 - limit, 1e-6))))
            for found, limit, speed, full in zip(odds, limits, speeds, par, strict=True)
        ]
    return [max(1, int(PAR * speed / full)) for speed, full in zip(speeds, par, strict=True)]


def _chosen_odds(speeds: Sequence[float], factor: int) -> list[float]:
    """Return how likely each exponential clock is among the first `factor` to ring; speeds are up to 1.

    A clock is, if fewer than `factor` others have rung before it: the integral of that over the time of its ring. Each
    step lasts as long as all before it, so the odds of waiting on are squares of those of the step before. What the
    steps lose is made up for by the sum, which is known.
    """
    odds = [0.0] * len(speeds)
    slowest, together = 0.0, 0.0
    for place, speed in enumerate(sorted(speeds)):
        slowest += speed if place <= len(speeds) - factor else 0.0
        together += speed
    time, until = _FIRST_STEP / together, _UNTIL / slowest
    start, middle = [1.0] * len(speeds), [_decay(speed * time / 2) for speed in speeds]
    end = [still * still for still in middle]
    is_first = True
    while time < until:
        few = _odds_of_few(middle, factor)
        odds = [sofar + (a - b) * chance for sofar, a, b, chance in zip(odds, start, end, few, strict=True)]
        middle = [a * b for a, b in zip(middle, end, strict=True)] if is_first else [still * still for still in middle]
        start, end = end, [still * still for still in end]
        time, is_first = time * 2, False
    total = 0.0
    for chance in odds:
        total += chance
    return [min(1.0, max(chance * factor / total, _NEVER)) for chance in odds]


def _odds_of_few(waiting: Sequence[float], factor: int) -> list[float]:
    """Return for each clock how likely fewer than `factor` others have rung, if each still waits with these odds."""
    after = [[1.0] + [0.0] * (factor - 1)]
    for still in reversed(waiting):
        after.append(_one_more(after[-1], still))
    after.reverse()
    before = after[-1]
    found = []
    for runner, still in enumerate(waiting):
        few, behind = 0.0, 0.0
        for rung in range(factor):  # `rung` clocks before it in the list, and up to the rest of them after it
            behind += after[runner + 1][rung]
            few += before[factor - 1 - rung] * behind
        found.append(few)
        before = _one_more(before, still)
    return found


def _one_more(counts: Sequence[float], still: float) -> list[float]:
    """Return how likely 0, 1, … clocks have rung when one more is counted, which still waits with the odds `still`."""
    rung = 1 - still
    return [counts[0] * still, *[here * still + fewer * rung for fewer, here in pairwise(counts)]]


def _decay(time: float) -> float:
    """Return e^-time, to 9 digits."""
    part = time / 4096
    grown = 1 + part * (1 + part * (0.5 + part / 6))
    for _ in range(12):
        grown *= grown
        if grown > 1e30:
            return 0.0
    return 1 / grown


def _power(base: float, exponent: float) -> float:
    """Return about base^exponent for a positive base: whole powers exactly, and straight between them."""
    result, left = 1.0, exponent
    while left >= 1:
        result *= base
        left -= 1
    return result * (1 + left * (base - 1))
