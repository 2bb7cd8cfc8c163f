"""A bound on bytes that wait or travel at once, whoever holds them. First come, first served."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class ByteBudget:
    """So many bytes, to be taken and given back. What is larger than all of it takes all of it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    async def take(self, amount: int) -> None:
        """Take bytes, once they are free. Cancelled while it waits, it has taken none; not waiting is no checkpoint."""
        if self.take_now(amount):
            return
        amount = min(amount, self.size)
        turn = (amount, trio.Event())
        self._waiting.append(turn)
        try:
            await turn[1].wait()
        except BaseException:
            if turn[1].is_set():
                self.give(amount)
            else:
                self._waiting.remove(turn)
                self._serve()
            raise

    def take_now(self, amount: int) -> bool:
        """Take bytes if they are free and nobody waits; tell whether they are taken."""
        amount = min(amount, self.size)
        if self._waiting or amount > self.free:
            return False
        self.free -= amount
        return True

    def give(self, amount: int) -> None:
        """Give bytes back that were taken by the same amount."""
        self.free += min(amount, self.size)
        self._serve()

    @asynccontextmanager
    async def held(self, amount: int) -> AsyncIterator[None]:
        """Hold bytes inside the block."""
        await self.take(amount)
        try:
            yield
        finally:
            self.give(amount)

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free:
            amount, event = self._waiting.popleft()
            self.free -= amount
            event.set()
