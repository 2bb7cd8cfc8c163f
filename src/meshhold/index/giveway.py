"""How does a worker thread get the interpreter lock back while the event loop is busy? Knows nothing of its work.

CPython hands the lock over when a waiting thread has seen it held for a whole switch interval. An event loop lets go of
it for microseconds at every poll; each release wakes the waiter too late to win and restarts its interval, so beside a
loop that is always busy a thread can wait for seconds. The cure is to let go on purpose, long enough for it to wake up.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import trio

PATIENCE_S: Final = 0.001
"""A call that ends sooner needed no help; a longer one costs the loop one pause per this time."""
PAUSE_S: Final = 0.00005
"""A thread on a virtual machine wakes up in about this time; with the timer's slack, a tenth of `PATIENCE_S`."""

_T = TypeVar("_T")


class RunBlocking(Protocol):
    """Run a blocking call elsewhere and wait for its end even when cancelled, as `trio.to_thread.run_sync` does."""

    def __call__(self, function: Callable[..., _T], /, *arguments: Any) -> Awaitable[_T]:
        """Return what `function` returns; its errors propagate."""


class GiveWay:
    """A `RunBlocking` around another one, whose calls get the interpreter lock while `run` runs."""

    def __init__(self, run_blocking: RunBlocking, pause: Callable[[float], object] = time.sleep) -> None:
        self._run_blocking = run_blocking
        self._pause = pause
        self._calls = 0
        self._begun = trio.Event()

    async def __call__(self, function: Callable[..., _T], /, *arguments: Any) -> _T:
        """Run the call; see `RunBlocking`."""
        self._calls += 1
        self._begun.set()
        try:
            return await self._run_blocking(function, *arguments)
        finally:
            self._calls -= 1

    async def run(self) -> None:
        """Pause the loop now and then for as long as calls are under way, until cancelled."""
        while True:
            if not self._calls:
                self._begun = trio.Event()
                await self._begun.wait()
            await trio.sleep(PATIENCE_S)
            if self._calls:
                self._pause(PAUSE_S)
