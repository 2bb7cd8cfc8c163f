"""A busy loop lets worker threads have the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable

import trio
import trio.testing

from meshhold.blocking import PATIENCE_S, PAUSE_S, GiveWay


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
