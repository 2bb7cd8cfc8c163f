"""What may a key hold after a crash, given what was sent and what was acknowledged? Knows no client and no clock.

One register per key. A change that was acknowledged before another one began is overwritten by it once that one is
acknowledged; a change that was sent and not acknowledged may have taken effect or not.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass

ABSENT = "absent"
"""The state of a key that was deleted, or never put."""


@dataclass(slots=True)
class Change:
    """One request that changes a key: the state it leads to, and when it began and ended in the journal's order."""

    state: str
    began: int
    acknowledged: int | None = None


class Journal:
    """Changes by key, in an order that is the test's own. Thread-safe."""

    def __init__(self) -> None:
        self._order = itertools.count(1)
        self._lock = threading.Lock()
        self._changes: dict[str, list[Change]] = {}
        self.acknowledged = 0
        self.in_flight = 0

    def began(self, key: str, state: str) -> Change:
        """Note that a request is about to be sent."""
        with self._lock:
            change = Change(state, next(self._order))
            self._changes.setdefault(key, [Change(ABSENT, -1, 0)]).append(change)
            return change

    def ended(self, change: Change) -> None:
        """Note that the request was acknowledged."""
        with self._lock:
            change.acknowledged = next(self._order)
            self.acknowledged += 1

    def refused(self, key: str, change: Change) -> None:
        """Note that the answer told that nothing was done."""
        with self._lock:
            self._changes[key].remove(change)

    def names(self) -> list[str]:
        """Return every key that a request named."""
        with self._lock:
            return sorted(self._changes)

    def allowed(self, key: str) -> set[str]:
        """Return the states that the key may be in."""
        with self._lock:
            changes = self._changes[key]
            latest_base = max(c.began for c in changes if c.acknowledged is not None)
            return {c.state for c in changes if c.acknowledged is None or c.acknowledged > latest_base}

    def settle(self, key: str, state: str) -> None:
        """Begin anew from the state that was found: no request is in flight any more."""
        with self._lock:
            self.in_flight += sum(change.acknowledged is None for change in self._changes[key])
            self._changes[key] = [Change(state, next(self._order), next(self._order))]
