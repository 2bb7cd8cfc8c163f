"""A nursery whose failure is one exception: callers of a use-case catch errors by type, not groups of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio


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


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
