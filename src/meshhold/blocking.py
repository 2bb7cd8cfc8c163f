"""How does blocking work leave the event loop, and get the interpreter lock while the loop is busy? Knows no work.

CPython hands the lock over when a waiting thread has seen it held for a whole switch interval. An event loop lets go of
it for microseconds at every poll; each release wakes the waiter too late to win and restarts its interval, so beside a
loop that is always busy a thread can wait for seconds. The cure is to let go on purpose, long enough for it to wake up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar

import trio

PATIENCE_S: Final = 0.001
"""A call that ends sooner needed no help; a longer one costs the loop one pause per this time."""
PAUSE_S: Final = 0.00005
"""A thread on a virtual machine wakes up in about this time; with the timer's slack, a tenth of `PATIENCE_S`."""
REST_S: Final = 2 * PAUSE_S
"""A wait of the loop in which a thread surely woke up: as long as a pause takes, with the timer's slack."""
IDLE_S: Final = 10.0
"""A thread that waits costs next to nothing; one that is started anew 0.1 ms."""

_T = TypeVar("_T")


class RunBlocking(Protocol):
    """Run a blocking call elsewhere, and wait for its end even when cancelled, as `trio.to_thread.run_sync` does.

    It is injected, so that a simulation can run the call inline: half-done disk work is never left to itself.
    """

    def __call__(self, function: Callable[..., _T], /, *arguments: Any) -> Awaitable[_T]:
        """Return what `function` returns; its errors propagate."""


class _Job:
    """One call. A thread takes it out of `call` to make it, or the cancellation of its task does, whoever is first."""

    __slots__ = ("call", "error", "result", "task")

    def __init__(self, call: Callable[[], object], task: trio.lowlevel.Task) -> None:
        self.call = [call]
        self.task = task
        self.result: Any = None
        self.error: BaseException | None = None

    def do(self) -> bool:
        """Make the call, in a thread; tell whether it was still wanted."""
        try:
            call = self.call.pop()
        except IndexError:
            return False
        try:
            self.result = call()
        except BaseException as error:  # noqa: BLE001 - raised again where it was called
            self.error = error
        return True

    def abort(self, _raise_cancel: Callable[[], object]) -> trio.lowlevel.Abort:
        """Give the call up if no thread has begun it."""
        try:
            self.call.pop()
        except IndexError:
            return trio.lowlevel.Abort.FAILED
        return trio.lowlevel.Abort.SUCCEEDED


class _Threads:
    """At most `most` threads that take jobs in turn. A thread that finds nothing to do for `IDLE_S` ends.

    `trio.to_thread` does the same and more, which nothing here asks for. Beside Trio's cache of threads, of which each
    waits for a job of its own, one that has ended a job goes on to the next without falling asleep, and a loop that was
    told of one end learns of others by the same word. Measured in three processes with five calls at once beside a
    loop with work of its own: 76 us of processor time for a call that does nothing instead of 105, and four switches
    instead of six.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._ended: deque[_Job] = deque()
        self._threads = 0
        self._wanted = 0
        self._lock = threading.Lock()  # of a thread's last look for jobs, and of starting another
        self._is_told = False

    async def run(self, call: Callable[[], object]) -> Any:
        """Return what `call` returns in a thread. Cancelled, it is waited for, unless its turn has not come."""
        job = _Job(call, trio.lowlevel.current_task())
        self._wanted += 1
        try:
            self._jobs.put(job)
            self._start_if_wanted(job)
            await trio.lowlevel.wait_task_rescheduled(job.abort)
        finally:
            self._wanted -= 1
        # The error leaves the job: its traceback leads to the thread's frames, and those to the job. If that still led
        # to the error, all would stay until cycles are looked for, with what the callers' frames hold: whole chunks.
        error, job.error = job.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error
        return job.result

    def _start_if_wanted(self, job: _Job) -> None:
        """Start a thread if there are fewer than jobs. Errors: `RuntimeError` if the job would find none at all."""
        with self._lock:
            if self._threads >= min(self._wanted, self._most):
                return
            token = trio.lowlevel.current_trio_token()
            try:
                threading.Thread(target=self._work, args=(token,), name="blocking", daemon=True).start()
                self._threads += 1
            except RuntimeError:  # the system gives no more: those that there are take turns
                if not self._threads:
                    job.call.clear()
                    raise

    def _work(self, token: trio.lowlevel.TrioToken) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_S)
            except Empty:
                with self._lock:
                    if self._jobs.empty():
                        self._threads -= 1
                        return
                continue
            if job.do():
                self._ended.append(job)
                self._tell(token)
            del job  # nothing is kept while there is nothing to do

    def _tell(self, token: trio.lowlevel.TrioToken) -> None:
        if self._is_told:  # it has not looked yet
            return
        self._is_told = True
        with suppress(trio.RunFinishedError):  # nobody waits any more
            token.run_sync_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_told = False
        while self._ended:
            trio.lowlevel.reschedule(self._ended.popleft().task)


def in_threads(threads: int) -> RunBlocking:
    """Return a runner with at most `threads` calls at once; the others wait their turn. It serves one run of Trio."""
    pool = _Threads(threads)

    async def run(function: Callable[..., _T], /, *arguments: Any) -> _T:
        await trio.lowlevel.checkpoint_if_cancelled()
        result: _T = await pool.run(partial(function, *arguments))
        return result

    return run


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
        if self._calls:
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
