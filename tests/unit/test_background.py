"""Tasks that outlive the requests which start them."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from meshhold.errors import StorageFailedError
from meshhold.replication.tasks import Background


async def test_a_task_goes_on_after_whoever_started_it() -> None:
    background, go_on, done = Background(), trio.Event(), trio.Event()

    async def work(then: trio.Event) -> None:
        await go_on.wait()
        then.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(background.run)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            background.start_soon(work, done)
            await trio.sleep_forever()
        await trio.testing.wait_all_tasks_blocked()
        assert (background.is_open, background.running) == (True, 1)
        go_on.set()
        await done.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert background.running == 0
        nursery.cancel_scope.cancel()
    assert not background.is_open


async def test_nothing_is_started_where_nothing_runs() -> None:
    with pytest.raises(RuntimeError):
        Background().start_soon(trio.sleep, 1)


async def test_what_a_task_raises_ends_it_as_one_exception() -> None:
    background = Background()

    async def fail() -> None:
        raise StorageFailedError("the disk is gone")

    async def start() -> None:
        await trio.testing.wait_all_tasks_blocked()
        background.start_soon(trio.sleep_forever)
        background.start_soon(fail)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        with pytest.raises(StorageFailedError, match="the disk is gone"):
            await background.run()
    assert not background.is_open
