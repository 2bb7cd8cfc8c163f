"""How fast are other nodes, and whom to ask last? Remembers times and failures; sends nothing.

A transfer of n bytes is taken to cost as much as `BASE_BYTES` + n bytes do: one number per node then serves small
chunks, where the way counts, and large ones, where the line does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import trio

from meshhold.model.ids import NodeId

BASE_BYTES: Final = 64 * 1024
"""What a home's uplink (20 Mbit/s) carries in a round trip of 25 ms."""
PATIENCE_MIN_S: Final = 0.25
"""A disk that is busy with others' fsyncs takes so long now and then: no reason to ask somebody else."""
PATIENCE_MAX_S: Final = 5.0
"""After so long somebody else is asked, however slow the line is known to be."""
PATIENCE_UNKNOWN_S: Final = 1.0
PATIENCE_FACTOR: Final = 8
"""Times of one line vary by less, unless something is wrong."""
SHUNNED_S: Final = 5.0
"""So long a node that failed is asked last; twice as long after each further failure in a row."""
SHUNNED_MAX_S: Final = 60.0
FULL_S: Final = 60.0
"""So long a node without room is asked last to keep something."""
SLOW_TIMES: Final = 100
"""A node that takes so many times as long as the fastest is asked last …"""
SLOW_MIN_S: Final = PATIENCE_MAX_S
"""… if it would be stood in for anyway: beside a LAN every other line is slow, and good enough."""
SLOW_S: Final = 60.0
"""… until its last measurement is so old."""
_NEWEST_PART: Final = 0.25
_CHUNK: Final = 1 << 20


class Paces:
    """What is known of the speed of nodes for one kind of work. `me`, which needs no line, is not compared with others.

    Time is Trio's clock.
    """

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._s_per_byte: dict[NodeId, float] = {}
        self._measured_s: dict[NodeId, float] = {}
        self._failures: dict[NodeId, int] = {}
        self._shunned_until: dict[NodeId, float] = {}
        self._full_until: dict[NodeId, float] = {}

    def note(self, node: NodeId, size: int, took_s: float) -> None:
        """Note that a transfer of so many bytes succeeded."""
        self._failures.pop(node, None)
        self._shunned_until.pop(node, None)
        self._full_until.pop(node, None)
        self._measure(node, size, took_s)

    def note_unfinished(self, node: NodeId, size: int, after_s: float) -> None:
        """Note that a transfer was given up: it would have taken longer than that."""
        if after_s > (self.expected_s(node, size) or 0.0):
            self._measure(node, size, after_s)

    def _measure(self, node: NodeId, size: int, took_s: float) -> None:
        newest = took_s / (BASE_BYTES + size)
        self._s_per_byte[node] = self._s_per_byte.get(node, newest) * (1 - _NEWEST_PART) + newest * _NEWEST_PART
        self._measured_s[node] = trio.current_time()

    def fail(self, node: NodeId) -> None:
        """Note that the node did not do what it was asked for."""
        failures = self._failures[node] = self._failures.get(node, 0) + 1
        shunned_s = min(SHUNNED_S * 2 ** min(failures - 1, 10), SHUNNED_MAX_S)
        self._shunned_until[node] = trio.current_time() + shunned_s

    def is_full(self, node: NodeId) -> bool:
        """Tell whether the node had no room lately."""
        return self._full_until.get(node, 0.0) > trio.current_time()

    def fill(self, node: NodeId) -> None:
        """Note that the node has no room."""
        self._full_until[node] = trio.current_time() + FULL_S

    def expected_s(self, node: NodeId, size: int) -> float | None:
        """Return how long a transfer is likely to take, None for a node of which nothing is known."""
        pace = self._s_per_byte.get(node)
        return None if pace is None else pace * (BASE_BYTES + size)

    def measured_s(self, node: NodeId, size: int) -> float | None:
        """Return the same, None also where the last measurement is so old that the node deserves another."""
        is_old = trio.current_time() - self._measured_s.get(node, float("-inf")) > SLOW_S
        return None if is_old else self.expected_s(node, size)

    def patience_s(self, node: NodeId, size: int) -> float:
        """Return how long to wait for a node before somebody else is asked as well."""
        expected = self.expected_s(node, size)
        if expected is None:
            return PATIENCE_UNKNOWN_S
        return min(max(PATIENCE_MIN_S, PATIENCE_FACTOR * expected), PATIENCE_MAX_S)

    def is_failing(self, node: NodeId) -> bool:
        """Tell whether the node failed, or had no room, so lately that it does not count as there."""
        if node not in self._shunned_until and node not in self._full_until:  # as most nodes, most of the time
            return False
        return self._shunned_until.get(node, 0.0) > trio.current_time() or self.is_full(node)

    def is_slow(self, node: NodeId) -> bool:
        """Tell whether the node was far slower than the fastest a while ago."""
        pace = self._s_per_byte.get(node)
        if pace is None or node == self._me or pace * (BASE_BYTES + _CHUNK) <= SLOW_MIN_S:
            return False
        if trio.current_time() - self._measured_s[node] > SLOW_S:
            return False
        return pace >= SLOW_TIMES * min(each for other, each in self._s_per_byte.items() if other != self._me)

    def by_readiness(self, nodes: Iterable[NodeId]) -> list[NodeId]:
        """Return the nodes in their order, but slow ones behind the others, and failing ones behind these."""
        return sorted(nodes, key=lambda node: (self.is_failing(node), self.is_slow(node)))
