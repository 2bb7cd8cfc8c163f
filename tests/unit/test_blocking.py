"""A busy loop lets worker threads have the interpreter lock."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from meshhold.blocking import PATIENCE_S, PAUSE_S, GiveWay, in_threads


async def test_the_loop_pauses_only_while_a_blocking_call_is_under_way(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - pytest-trio finds the clock by the argument
) -> None:
    pauses: list[float] = []
    done = trio.Event()

    async def elsewhere(function: Callable[..., object], /, *arguments: object) -> object:
        await trio.sleep(PATIENCE_S * 3.5)
        return function(*arguments)

    give_way = GiveWay(pauses.append)
    run_blocking = give_way.wrap(elsewhere)  # type: ignore[arg-type] # less generic than the protocol

    async def call() -> None:
        assert await run_blocking(max, 1, 2) == 2
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_way.run)
        await trio.sleep(1.0)
        assert pauses == []
        nursery.start_soon(call)
        await done.wait()
        await trio.sleep(1.0)
        nursery.cancel_scope.cancel()
    assert pauses == [PAUSE_S] * 3


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
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        go_on.set()
    assert done == ["ran"]
    with trio.CancelScope() as scope:
        scope.cancel()
        await run_blocking(done.append, "never")
    assert done == ["ran"]
