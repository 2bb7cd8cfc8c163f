"""A promise that is asked for while what is to be stored is still on its way. Knows no register and decides nothing.

What comes of it is only a beginning: the change itself looks whether it is still good, and asks again if it is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from meshhold.errors import FatalError, MeshHoldError
from meshhold.model.stamp import ZERO, Stamp
from meshhold.replication.index.rounds import Failed, Sight


class Early:
    """A promise that may be asked for before the change is ready: `begin` asks, once there is something to wait for.

    `sight` stays None if it was not given. `start` lets a task run beside the request, or tells that it cannot.
    """

    __slots__ = ("_done", "_next_stamp", "_prepare", "_start", "ballot", "sight", "since_s")

    def __init__(
        self,
        next_stamp: Callable[[], Stamp],
        prepare: Callable[[Stamp], Awaitable[Sight | Failed]],
        start: Callable[[Callable[[], Awaitable[None]]], bool],
    ) -> None:
        self.ballot = ZERO
        self.sight: Sight | None = None
        self.since_s = 0.0
        self._next_stamp = next_stamp
        self._prepare = prepare
        self._start = start
        self._done: trio.Event | None = None

    def begin(self) -> None:
        """Ask; the change goes on from the answer."""
        if self._done is None:
            done = self._done = trio.Event()
            self.ballot = self._next_stamp()
            if not self._start(partial(self._ask, done)):
                done.set()

    async def wait(self) -> None:
        """Wait for the answer, if it was asked for."""
        if self._done is not None:
            await self._done.wait()

    async def _ask(self, done: trio.Event) -> None:
        try:
            sight = await self._prepare(self.ballot)
            if isinstance(sight, Sight):
                self.sight, self.since_s = sight, trio.current_time()
        except FatalError:
            raise
        except MeshHoldError:
            pass  # the change itself will meet it
        finally:
            done.set()
