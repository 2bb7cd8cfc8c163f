"""By how much must a race be corrected so that nobody wins too often? Knows capacities and shares, no hash.

The first `factor` of several clocks to ring are chosen. A clock's speed is its runner's capacity, which is fair while
one is chosen. Of two and more, the small are chosen too often, since the large can be chosen only once. So:

1. The larger are sped up by what their own part of the mesh says (`_BOOSTS`), which a member that comes or goes hardly
   changes. In large meshes nobody is.
2. Whoever would still exceed `EXCESS_PERMILLE` of its share is slowed down, to just there. That hangs on all others,
   and each change of it moves data between nodes that neither came nor went, so it is left for few.

Floating point is used for +, -, *, / alone, never summed by `sum` (whose rounding differs between versions of Python):
these four are rounded alike on every machine, which logarithms and powers are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from meshhold.placement.shares import ONE

PAR: Final = 1 << 20
"""The handicap of the fastest for its size."""
EXCESS_PERMILLE: Final = 1_086
"""The rest of the way to 1,100 is for chance."""
EXCESS_PERMILLE_LARGE: Final = 1_070
"""The same in a large mesh, where nobody is sped up."""

_Line = tuple[tuple[float, float], ...]

_BOOSTS: Final[dict[int, _Line]] = {
    2: (
        *((0.0, 1.0), (0.15, 1.041), (0.3, 1.01), (0.45, 1.041), (0.6, 1.051)),
        *((0.72, 1.089), (0.82, 1.15), (0.91, 1.234), (1.0, 1.649), (1.3, 1.751)),
    ),
    3: (
        *((0.0, 1.0), (0.15, 1.14), (0.3, 1.271), (0.45, 1.493), (0.6, 1.493)),
        *((0.72, 1.567), (0.82, 1.589), (0.91, 1.636), (1.0, 1.636), (1.3, 2.067)),
    ),
}
"""For each factor, how much a runner is sped up, by its capacity over that which stands for one copy: lines through
these points. Found by trying many meshes of ten for what moves least: each rise moves data when a zone grows along it,
and without one the small are slowed down instead, which moves more.
"""
_ROUNDS_MAX: Final = 16
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


def plan_handicaps(
    capacities: Sequence[int], shares: Sequence[int], factor: int, *, is_large: bool = False
) -> list[int]:
    """Return for each runner what its speed is to be multiplied by, in units of 1/PAR, up to `PAR`.

    `shares` are in units of 1/ONE and add up to `factor`; the two lists go together.
    `is_large` is for a mesh with the larger number of partitions, whose zones have many members: there boosts move more
    than they save.
    """
    runners = len(capacities)
    if factor == 1 or factor >= runners:
        return [PAR] * runners
    excess = EXCESS_PERMILLE_LARGE if is_large else EXCESS_PERMILLE
    boosts = [1.0] * runners if is_large else _boosts(capacities, shares, _BOOSTS[factor])
    largest = max(capacities)
    sizes = [max(capacity / largest, _SLOWEST) for capacity in capacities]
    par = [size * boost for size, boost in zip(sizes, boosts, strict=True)]
    limits = [min(1.0, share * excess / (1000 * ONE)) for share in shares]
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
    return [max(1, int(PAR * speed / size)) for speed, size in zip(speeds, sizes, strict=True)]


def _boosts(capacities: Sequence[int], shares: Sequence[int], levels: _Line) -> list[float]:
    """Return how much each is sped up, the most by 1, before anybody is slowed down."""
    share, capacity = max((share, capacity) for share, capacity in zip(shares, capacities, strict=True) if share < ONE)
    boosts = [_level(part * share / (capacity * ONE), levels) for part in capacities]
    most = max(boosts)
    return [boost / most for boost in boosts]


def _level(part: float, levels: _Line) -> float:
    """Return the height of a line of straight pieces through these points."""
    for (start, low), (end, high) in pairwise(levels):
        if part < end:
            return low + (high - low) * (part - start) / (end - start)
    return levels[-1][1]


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
