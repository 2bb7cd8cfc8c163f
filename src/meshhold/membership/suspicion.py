"""When is a suspect dead? A deadline that each independent accuser brings closer. Knows no clock: callers pass it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from meshhold.model.ids import NodeId

_STALE_MAX: Final = 4
"""Deadlines kept for each suspicion on average; more are outdated ones, and worth a cleaning."""
_FEW: Final = 64
NEVER: Final = float("inf")


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
    def is_settled(self) -> bool:
        """Tell whether further accusers change nothing."""
        return len(self.accusers) > self._wanted

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
            if accuser not in self.accusers and not self.is_settled:
                self.accusers.append(accuser)
        if len(self.accusers) == before:
            return False
        self.deadline_s = self.start_s + self.duration_s
        return True

    def postpone(self, late_s: float) -> None:
        """Leave out a time in which this node was deaf."""
        self.start_s += late_s
        self.deadline_s += late_s


class Suspicions:
    """The open suspicions of one node, and which of them ends first: found without looking at the others."""

    def __init__(self) -> None:
        self._open: dict[NodeId, Suspicion] = {}
        self.get: Callable[[NodeId], Suspicion | None] = self._open.get
        """Returns a node's suspicion, or None if it is no suspect. No method: it is called for each rumor."""
        self._deadlines: list[tuple[float, NodeId]] = []  # a heap; who is not open until then is outdated

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._open)

    def begin(self, node: NodeId, suspicion: Suspicion) -> None:
        """Open one."""
        self._open[node] = suspicion
        self._note(node, suspicion)

    def accuse(self, node: NodeId, suspicion: Suspicion, accusers: Iterable[NodeId]) -> bool:
        """Count accusers of an open one; tell whether any was new and wanted."""
        is_new = suspicion.accuse(accusers)
        if is_new:
            self._note(node, suspicion)
        return is_new

    def close(self, node: NodeId) -> None:
        """Suspect the node no more, if anybody did."""
        self._open.pop(node, None)

    def clear(self) -> None:
        """Suspect nobody."""
        self._open.clear()
        self._deadlines.clear()

    def postpone(self, late_s: float) -> None:
        """Leave out a time in which this node was deaf."""
        for suspicion in self._open.values():
            suspicion.postpone(late_s)
        self._rebuild()

    @property
    def due_s(self) -> float:
        """When the first of them ends."""
        deadlines = self._deadlines
        while deadlines:
            deadline_s, node = deadlines[0]
            suspicion = self._open.get(node)
            if suspicion is not None and suspicion.deadline_s == deadline_s:
                return deadline_s
            heappop(deadlines)
        return NEVER

    def close_overdue(self, now_s: float) -> list[NodeId]:
        """Close those that have ended; return their nodes, the longest overdue first."""
        found: list[NodeId] = []
        while self.due_s <= now_s:
            node = heappop(self._deadlines)[1]
            del self._open[node]
            found.append(node)
        return found

    def _note(self, node: NodeId, suspicion: Suspicion) -> None:
        if len(self._deadlines) >= _STALE_MAX * len(self._open) + _FEW:
            self._rebuild()
            return
        heappush(self._deadlines, (suspicion.deadline_s, node))

    def _rebuild(self) -> None:
        self._deadlines = [(each.deadline_s, node) for node, each in self._open.items()]
        heapify(self._deadlines)
