"""How much is each member to hold? Fair shares in whole numbers; knows no hash and no partition.

A member's share is the part of all partitions that it holds one copy of; for a factor of `f` all shares add up to `f`.
Shares follow capacity as far as two rules let them: a member holds a partition once at most, and copies of a partition
are in distinct zones while there are zones left. So no zone's members hold more than one copy of everything together
unless the factor exceeds the number of zones, and then none holds less than one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from meshhold.placement.ring import RingMember

ONE: Final = 1 << 40
"""One copy of everything: a hundred members of unequal size still have 30 bits each."""


def fair_shares(members: Sequence[RingMember], factor: int) -> list[int]:
    """Return each member's share for `factor`, in units of 1/ONE and at least 1 of them.

    Shares grow with the factor, member by member. They add up to `factor` but for rounding, or to the number of
    members if that is less. The arithmetic is exact, so every machine finds the same.
    """
    if factor >= len(members):
        return [ONE] * len(members)
    sizes: Counter[str] = Counter()
    for member in members:
        sizes[member.zone] += member.capacity
    total = sum(sizes.values())
    low, high = 0, ONE * total  # at `high` even one byte of capacity stands for a whole copy
    while low < high:  # the level at which the shares reach the factor
        level = (low + high) // 2
        if sum(_at_level(members, sizes, total, level, factor)) < factor * ONE:
            low = level + 1
        else:
            high = level
    return _at_level(members, sizes, total, low, factor)


def _at_level(members: Sequence[RingMember], sizes: Counter[str], total: int, level: int, factor: int) -> list[int]:
    """Return the shares if all of the capacity together stood for `level`, but for the two rules."""
    if factor <= len(sizes):
        of_zone = {zone: min(ONE, level * size // total) for zone, size in sizes.items()}
        return [max(1, of_zone[each.zone] * each.capacity // sizes[each.zone]) for each in members]
    return [
        max(1, min(ONE, max(level * each.capacity // total, ONE * each.capacity // sizes[each.zone])))
        for each in members
    ]
