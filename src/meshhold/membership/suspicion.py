"""When is a suspect dead? A deadline that each independent accuser brings closer. Knows no clock: callers pass it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from meshhold.model.ids import NodeId


class Suspicion:
    """One member's suspicion.

    With `c` confirmations of the `wanted` it lasts max - (max - min)·log(c + 1)/log(wanted + 1) seconds: the first
    confirmation says most. If none are wanted (too few members to give them), it lasts `min_s`.

    Source: Lifeguard §IV-B. Accusers beyond the wanted are not kept, which bounds the set.
    """

    def __init__(self, now_s: float, wanted: int, min_s: float, max_s: float) -> None:
        self.start_s = now_s
        self.accusers: list[NodeId] = []
        self._wanted = wanted
        self._min_s = min_s
        self._max_s = max_s
        self.deadline_s = now_s + self.duration_s

    @property
    def confirmations(self) -> int:
        """How many accusers there are besides the first."""
        return max(0, len(self.accusers) - 1)

    @property
    def duration_s(self) -> float:
        """Seconds from the start to the deadline, as things stand."""
        if self._wanted < 1:
            return self._min_s
        part = math.log(self.confirmations + 1) / math.log(self._wanted + 1)
        return max(self._min_s, self._max_s - part * (self._max_s - self._min_s))

    def accuse(self, accusers: Iterable[NodeId]) -> bool:
        """Count these accusers; tell whether any was new and wanted."""
        before = len(self.accusers)
        for accuser in accusers:
            if accuser not in self.accusers and len(self.accusers) <= self._wanted:
                self.accusers.append(accuser)
        if len(self.accusers) == before:
            return False
        self.deadline_s = self.start_s + self.duration_s
        return True

    def postpone(self, late_s: float) -> None:
        """Leave out a time in which this node was deaf."""
        self.start_s += late_s
        self.deadline_s += late_s
