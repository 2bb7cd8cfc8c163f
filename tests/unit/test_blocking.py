"""A busy loop lets worker threads have the interpreter lock."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable

import pytest
import trio
import trio.testing

from meshhold import blocking
from meshhold.blocking import PATIENCE_S, PAUSE_S, REST_S, GiveWay, RunBlocking, in_threads, open_threads


class _LostError(Exception):
    pass


class _Loop:
    """An event loop's day, by the clock that it gives to what watches it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.pauses_at_s: list[float] = []
        self.give_way = GiveWay(self._pause, lambda: self.now_s)

    def _pause(self, seconds: float) -> None:
        assert seconds == PAUSE_S
        self.pauses_at_s.append(self.now_s)
        self.now_s += 2 * seconds  # the timer's slack

    def blocked_until(self, end: trio.Event) -> RunBlocking:
        """Return a runner whose calls last until then."""

        async def elsewhere(function: Callable[..., object], /, *arguments: object) -> object:
            await end.wait()
            return function(*arguments)

        return self.give_way.wrap(elsewhere)  # type: ignore[arg-type] # less generic than the protocol

    def turn(self, *, busy_s: float, waits_s: float) -> None:
        """Run tasks for a while, then wait for the system."""
        self.now_s += busy_s
        self.give_way.before_io_wait(waits_s)
        self.now_s += waits_s
        self.give_way.after_io_wait(waits_s)

    def run(self, seconds: float, *, busy_s: float, waits_s: float) -> int:
        """Take turns for so long; return how often it paused."""
        before, end_s = len(self.pauses_at_s), self.now_s + seconds
        while self.now_s < end_s:
            self.turn(busy_s=busy_s, waits_s=waits_s)
        return len(self.pauses_at_s) - before


async def test_a_busy_loop_pauses_only_while_a_blocking_call_is_under_way() -> None:
    loop = _Loop()
    end = trio.Event()
    run_blocking = loop.blocked_until(end)
    assert loop.run(0.1, busy_s=100e-6, waits_s=5e-6) == 0

    async def call() -> None:
        assert await run_blocking(max, 1, 2) == 2

    async with trio.open_nursery() as nursery:
        began_s = loop.now_s
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        paused = loop.run(0.1, busy_s=100e-6, waits_s=5e-6)
        assert 0.1 / (PATIENCE_S + 4 * PAUSE_S) < paused <= 0.1 / PATIENCE_S
        assert loop.pauses_at_s[0] - began_s >= PATIENCE_S
        end.set()
    assert loop.run(0.1, busy_s=100e-6, waits_s=5e-6) == 0


async def test_a_loop_that_rests_by_itself_is_not_paused() -> None:
    loop = _Loop()
    end = trio.Event()
    run_blocking = loop.blocked_until(end)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_blocking, max, 1, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert loop.run(0.1, busy_s=500e-6, waits_s=REST_S) == 0
        assert loop.run(0.1, busy_s=500e-6, waits_s=REST_S / 2) > 0
        end.set()


async def test_the_loop_tells_of_its_waits_while_threads_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr(GiveWay, "after_io_wait", lambda _self, timeout: looks.append(timeout))
    async with open_threads(1, 2) as runners:
        assert [await run_blocking(max, 1, 2) for run_blocking in runners] == [2, 2]
    assert looks
    looks.clear()
    await trio.lowlevel.checkpoint()
    assert not looks


async def test_a_call_in_a_thread_returns_raises_and_takes_turns() -> None:
    run_blocking = in_threads(1)
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def wait() -> str:
        begun.set()
        go_on.wait(5)
        order.append("first")
        return threading.current_thread().name

    async def first() -> None:
        assert await run_blocking(wait) != threading.current_thread().name

    async def second() -> None:
        with pytest.raises(ZeroDivisionError):
            await run_blocking(lambda: order.append("second") or 1 // 0)  # type: ignore[func-returns-value] # one line

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        while not begun.is_set():
            await trio.lowlevel.checkpoint()
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
        go_on.set()
    assert order == ["first", "second"]
    assert await run_blocking(max, 1, 2) == 2  # its place is free again


async def test_what_a_call_raised_is_gone_once_it_is_dealt_with() -> None:
    """Not when cycles are next looked for: the frames that its traceback names hold whole chunks."""
    run_blocking = in_threads(1)

    def fail() -> None:
        raise _LostError

    async def ask() -> weakref.ref[_LostError]:
        try:
            await run_blocking(fail)
        except _LostError as error:
            return weakref.ref(error)
        raise AssertionError("it did not fail")

    gc.disable()
    try:
        lost = await ask()
        await run_blocking(max, 1, 2)  # the thread has ended its first call by now
        assert lost() is None
    finally:
        gc.enable()


async def test_a_call_that_is_cancelled_is_waited_for_and_one_that_waits_never_begins() -> None:
    run_blocking = in_threads(1)
    begun, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def wait() -> None:
        begun.set()
        go_on.wait(5)
        done.append("ran")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_blocking, wait)
        while not begun.is_set():
            await trio.lowlevel.checkpoint()
        nursery.start_soon(run_blocking, done.append, "never")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        assert done == []
        go_on.set()
    assert done == ["ran"]
    with trio.CancelScope() as scope:
        scope.cancel()
        await run_blocking(done.append, "never")
    assert done == ["ran"]


async def test_no_more_calls_run_at_once_than_there_are_threads() -> None:
    run_blocking = in_threads(2)
    go_on, at_once, most, lock = threading.Event(), 0, 0, threading.Lock()

    def work() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        go_on.wait(5)
        with lock:
            at_once -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(run_blocking, work)
        while most < 2:
            await trio.lowlevel.checkpoint()
        go_on.set()
    assert most == 2


async def test_a_thread_without_work_ends_and_another_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "IDLE_S", 0.001)
    run_blocking = in_threads(1)
    first = await run_blocking(threading.current_thread)
    while first.is_alive():
        await trio.lowlevel.checkpoint()
    assert await run_blocking(threading.current_thread) is not first


async def test_a_call_that_finds_no_thread_fails_and_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    run_blocking = in_threads(2)
    made: list[str] = []

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            await run_blocking(made.append, "never")
    await run_blocking(made.append, "once there is one")
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_blocking, made.append, "by the one thread")
            nursery.start_soon(run_blocking, made.append, "by the one thread")
    assert made == ["once there is one", "by the one thread", "by the one thread"]
