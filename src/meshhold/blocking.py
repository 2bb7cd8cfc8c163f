"""How does blocking work leave the event loop, and get the interpreter lock while the loop is busy? Knows no work.

CPython hands the lock over when a waiting thread has seen it held for a whole switch interval. An event loop lets go of
it for microseconds at every poll; each release wakes the waiter too late to win and restarts its interval, so beside a
loop that is always busy a thread can wait for seconds. The cure is to let go on purpose, long enough for it to wake up.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol, TypeVar

import outcome
import trio

PATIENCE_S: Final = 0.001
"""A call that ends sooner needed no help; a longer one costs the loop one pause per this time."""
PAUSE_S: Final = 0.00005
"""A thread on a virtual machine wakes up in about this time; with the timer's slack, a tenth of `PATIENCE_S`."""
REST_S: Final = 2 * PAUSE_S
"""A wait of the loop in which a thread surely woke up: as long as a pause takes, with the timer's slack."""

_T = TypeVar("_T")


class RunBlocking(Protocol):
    """Run a blocking call elsewhere, and wait for its end even when cancelled, as `trio.to_thread.run_sync` does.

    It is injected, so that a simulation can run the call inline: half-done disk work is never left to itself.
    """

    def __call__(self, function: Callable[..., _T], /, *arguments: Any) -> Awaitable[_T]:
        """Return what `function` returns; its errors propagate."""


def in_threads(threads: int) -> RunBlocking:
    """Return a runner with at most `threads` calls at once; the others wait their turn."""
    limiter = trio.CapacityLimiter(threads)

    async def run(function: Callable[..., _T], /, *arguments: Any) -> _T:
        await trio.lowlevel.checkpoint_if_cancelled()
        place = object()
        try:
            limiter.acquire_on_behalf_of_nowait(place)
        except trio.WouldBlock:
            await limiter.acquire_on_behalf_of(place)
        try:
            return await _in_a_thread(lambda: function(*arguments))
        finally:
            limiter.release_on_behalf_of(place)

    return run


async def _in_a_thread(call: Callable[[], _T]) -> _T:
    """Return what `call` returns in a thread of Trio's, once it ends.

    `trio.to_thread` does the same and more, which nothing here asks for: a way back from the thread, context variables,
    a name for the thread. Measured with a call that does nothing: 24 us of processor time instead of 37 (eight at
    once), 48 instead of 69 (alone).

    What the call raises is taken out of the thread's hands. Its traceback leads to the thread's frame; if that still
    led to the error, both would stay until cycles are looked for, with all that the callers' frames hold: a MiB for
    each chunk that is not here.
    """
    token, task = trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()
    answers: list[_T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again where it was called
            errors.append(error)

    def deliver(_: outcome.Outcome[None]) -> None:
        with suppress(trio.RunFinishedError):  # nobody waits any more
            token.run_sync_soon(trio.lowlevel.reschedule, task)

    def abort(_raise_cancel: Callable[[], object]) -> trio.lowlevel.Abort:
        return trio.lowlevel.Abort.FAILED

    trio.lowlevel.start_thread_soon(work, deliver)
    await trio.lowlevel.wait_task_rescheduled(abort)
    if errors:
        raise errors.pop()
    return answers.pop()


class GiveWay(trio.abc.Instrument):
    """Gives the interpreter lock to the calls of the runners that it wraps, while it is among the loop's instruments.

    The loop tells it of each of its waits for the system: a few of them are real rests, in which a thread gets the lock
    by itself. Looking there costs a microsecond, where a task with a timer of its own cost the loop up to a tenth.
    """

    def __init__(
        self, pause: Callable[[float], object] = time.sleep, now_s: Callable[[], float] = time.perf_counter
    ) -> None:
        self._pause = pause
        self._now_s = now_s
        self._calls = 0
        self._wait_began_s = 0.0
        self._busy_since_s = 0.0

    def wrap(self, run_blocking: RunBlocking) -> RunBlocking:
        """Return a runner whose calls the loop makes room for."""

        async def run(function: Callable[..., _T], /, *arguments: Any) -> _T:
            if not self._calls:
                self._busy_since_s = self._now_s()
            self._calls += 1
            try:
                return await run_blocking(function, *arguments)
            finally:
                self._calls -= 1

        return run

    def before_io_wait(self, timeout: float) -> None:
        """Note when the loop begins to wait."""
        del timeout
        self._wait_began_s = self._now_s()

    def after_io_wait(self, timeout: float) -> None:
        """Pause, if calls are under way and the loop has not rested for as long as they are to be patient."""
        del timeout
        if not self._calls:
            return
        now_s = self._now_s()
        if now_s - self._wait_began_s >= REST_S:
            self._busy_since_s = now_s
        elif now_s - self._busy_since_s >= PATIENCE_S:
            self._pause(PAUSE_S)
            self._busy_since_s = self._now_s()


@asynccontextmanager
async def open_threads(*sizes: int) -> AsyncIterator[list[RunBlocking]]:
    """Yield a runner for each size: so many calls of it run at once, and a busy loop gives way to all of them."""
    give_way = GiveWay()
    trio.lowlevel.add_instrument(give_way)
    try:
        yield [give_way.wrap(in_threads(size)) for size in sizes]
    finally:
        trio.lowlevel.remove_instrument(give_way)
