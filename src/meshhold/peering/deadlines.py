"""Which waiting calls are too late? One timer for all calls of a link: one for each would cost a tenth of a call."""

from __future__ import annotations

from collections.abc import Container
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final

_SLACK: Final = 1_024
"""Answered calls that are kept at least, and as many again as are waiting, until they are cleared away."""


class Deadlines:
    """Numbers of calls by the time at which they are too late; `waiting` is where a call is while it has no answer."""

    def __init__(self, waiting: Container[int]) -> None:
        self._waiting = waiting
        self._heap: list[tuple[float, int]] = []
        self._clear_at = _SLACK

    def __len__(self) -> int:
        """Return how many are kept, with answered ones."""
        return len(self._heap)

    @property
    def next_s(self) -> float:
        """When to look next; never if there is nothing to wait for."""
        return self._heap[0][0] if self._heap else inf

    def add(self, deadline_s: float, number: int) -> bool:
        """Remember a call; return whether it is the first that will be too late."""
        if len(self._heap) >= self._clear_at:
            self._heap = [entry for entry in self._heap if entry[1] in self._waiting]
            heapify(self._heap)
            self._clear_at = 2 * len(self._heap) + _SLACK
        entry = (deadline_s, number)
        heappush(self._heap, entry)
        return self._heap[0] is entry

    def expired(self, now_s: float) -> list[int]:
        """Return the calls that are too late, and forget them."""
        late = []
        while self._heap and self._heap[0][0] <= now_s:
            number = heappop(self._heap)[1]
            if number in self._waiting:
                late.append(number)
        return late
