"""Nurseries whose failure is one exception: callers of a use-case catch errors by type, not groups of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import NoReturn, TypeVarTuple

import trio

_Arguments = TypeVarTuple("_Arguments")


@asynccontextmanager
async def open_tasks() -> AsyncIterator[trio.Nursery]:
    """Open a nursery for tasks that stand or fall together.

    Errors: the first one that is not a cancellation, with the whole group as its cause; only cancellations propagate as
    trio made them.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        for error in _leaves(group):
            if not isinstance(error, trio.Cancelled):
                raise error from group
        raise


class Background:
    """Tasks that outlive the requests which start them, while `run` runs."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    @property
    def is_open(self) -> bool:
        """Whether a task can be started."""
        return self._nursery is not None

    @property
    def running(self) -> int:
        """How many tasks there are."""
        return 0 if self._nursery is None else len(self._nursery.child_tasks)

    def start_soon(self, task: Callable[[*_Arguments], Awaitable[object]], *arguments: *_Arguments) -> None:
        """Start a task. Errors: `RuntimeError` unless it `is_open`."""
        if self._nursery is None:
            raise RuntimeError("nothing runs in the background yet, or any more")
        self._nursery.start_soon(task, *arguments)

    async def run(self) -> NoReturn:
        """Let tasks run until cancelled. Errors: what one of them raises, which ends the others."""
        async with open_tasks() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None
        raise AssertionError("tasks run in the background until cancelled")


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
