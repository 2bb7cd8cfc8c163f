"""Whose turn is it to read? The tasks of one link that read and serve. Knows neither frames nor what a call asks.

One of them reads. When a call that it read has to wait, it stays with that call, and another one reads on: an idle one,
or a new one. So a call that need not wait costs no switch of tasks, and one that waits holds up no other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from meshhold.peering.serving import Paused, Serving

IDLE_MAX: Final = 8  # tasks kept for their next turn: the usual burst of one peer


class Turns:
    """The tasks, each of which is a `run`; `start` starts one more.

    `read` reads until a call has to wait, or returns None when there is nothing more to read.
    """

    def __init__(
        self, read: Callable[[], Awaitable[Paused | None]], serving: Serving, start: Callable[[], None]
    ) -> None:
        self._read = read
        self._serving = serving
        self._start = start
        self._idle: list[trio.lowlevel.Task] = []

    async def run(self) -> None:
        """Read, finish a call that has to wait, wait for the next turn to read; return when tasks enough wait for it.

        All calls that a task serves share a scope, until one of them is cancelled: a scope for each would cost a
        quarter of what a call costs in all.
        """
        reads = True
        paused: Paused | None = None
        while True:
            with trio.CancelScope() as scope:
                while not scope.cancel_called:
                    if not (reads or await self._wait()):
                        return
                    paused = await self._read()
                    if paused is None:
                        return
                    reads = False
                    await self._serving.finish_call(paused, scope)
            if scope.cancelled_caught and paused is not None:
                self._serving.cut_call(paused.event.call, scope)

    def pass_on(self) -> None:
        """Let another task read, from its next step on."""
        if self._idle:
            trio.lowlevel.reschedule(self._idle.pop())
        else:
            self._start()

    async def _wait(self) -> bool:
        """Wait until this task is to read; return False at once if tasks enough wait already."""
        if len(self._idle) >= IDLE_MAX:
            return False
        self._idle.append(task := trio.lowlevel.current_task())

        def abort(_raise_cancel: Callable[[], object]) -> trio.lowlevel.Abort:
            self._idle.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return True
