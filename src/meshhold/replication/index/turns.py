"""Whose turn is it to change a key? Knows nothing about what is changed.

Writers of one node that race on one key would only push each other's ballots aside; taking turns, each needs one round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

import trio

from meshhold.errors import OverloadedError

WAITERS_MAX: Final = 1_024
"""Waiting changes of one node, over all keys: more means that clients pile up faster than the disk can follow."""


class Turns:
    """First come, first served, per key; a key that nobody wants costs nothing."""

    def __init__(self, waiters_max: int = WAITERS_MAX) -> None:
        self._queues: dict[Hashable, deque[trio.Event]] = {}
        self._waiting = 0
        self._waiters_max = waiters_max

    def __len__(self) -> int:
        """Return how many keys are taken."""
        return len(self._queues)

    def __contains__(self, name: object) -> bool:
        """Tell whether somebody has the turn on `name`."""
        return name in self._queues

    async def take(self, name: Hashable) -> None:
        """Wait for the turn on `name`; end it with `give`. Errors: `OverloadedError` when too many wait already."""
        queue = self._queues.get(name)
        if queue is None:
            self._queues[name] = deque()
            return
        if self._waiting >= self._waiters_max:
            raise OverloadedError(f"{self._waiting} changes wait for busy keys", "retry more slowly")
        turn = trio.Event()
        queue.append(turn)
        self._waiting += 1
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # the turn came together with the cancellation: pass it on
                self.give(name)
            else:
                queue.remove(turn)
            raise
        finally:
            self._waiting -= 1

    def give(self, name: Hashable) -> None:
        """End the turn on `name`: the next waiter has it."""
        queue = self._queues[name]
        if queue:
            queue.popleft().set()
        else:
            del self._queues[name]
