"""What a link sends, and who sends it: whoever has something, on the spot, or one task for what the kernel leaves.

Knows no event and no call: it asks the session for frames and gives them to the stream. Whoever has handed something to
the session calls `flush`, which sends it as far as the kernel takes it without waiting. The rest, and what comes
meanwhile, is the business of `run`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import trio

BATCH_SIZE: Final = 128 * 1024
"""Bytes sealed before they are sent: enough for one system call to pay, little enough for a probe to come between."""

TURN_SIZE: Final = 8 * BATCH_SIZE
"""Bytes sent before other tasks come between, where the kernel takes them at once: about half a millisecond."""

STALL_S_MAX: Final = 60.0  # a peer whose kernel takes nothing for so long is gone


class Sending(Protocol):
    """What an outbox asks of a stream: see `ByteStream`."""

    def send_soon(self, data: bytes | bytearray | memoryview) -> int:
        """Take as much as goes without waiting; return how many bytes."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything."""


class Outbox:
    """The sending side of one link. `next_frames` gives what to send, about so many bytes at the most, or nothing.

    What it gives is sent before it is asked again: it may be a view of what is written anew then.

    `sent_all` hears that nothing waits any more, `broken` of a stream that takes nothing more. Resources: borrows it.
    """

    def __init__(
        self,
        stream: Sending,
        next_frames: Callable[[int], list[bytes | memoryview]],
        sent_all: Callable[[], None],
        broken: Callable[[Exception], None],
    ) -> None:
        self.bytes_out = 0
        self.is_writing = True  # until `run` runs; then: it is at work, nobody else sends
        self.is_corked = False  # frames are being taken: one send follows them
        self._stream = stream
        self._next_frames = next_frames
        self._sent_all = sent_all
        self._broken = broken
        self._rest: bytes | memoryview = b""
        self._turn = 0  # bytes that `run` has sent since others came between
        self._writer: trio.lowlevel.Task | None = None

    async def run(self) -> None:
        """Send what could not be sent at once, and what more there is meanwhile."""
        while True:
            if self._rest:
                await self._send_rest()
            frames = self._next_frames(BATCH_SIZE)
            if frames:
                self._rest = _joined(frames)
                continue
            self.is_writing = False
            self._sent_all()
            self._writer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_writer)

    async def _send_rest(self) -> None:
        rest, self._rest = self._rest, b""
        sent = self._stream.send_soon(rest)
        self._turn += sent
        if sent < len(rest):
            self._turn = 0
            with trio.fail_after(STALL_S_MAX):
                await self._stream.send_all(memoryview(rest)[sent:])
        elif self._turn >= TURN_SIZE:  # others come between, but nothing is waited for
            self._turn = 0
            await trio.lowlevel.checkpoint()
        self.bytes_out += len(rest)

    def _abort_writer(self, _raise_cancel: Callable[[], object]) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def flush(self) -> None:
        """Send what waits, as far as it goes without waiting; `run` does the rest."""
        if self.is_writing or self.is_corked:
            return
        frames = self._next_frames(BATCH_SIZE)
        if not frames:
            return
        data = _joined(frames)
        try:
            sent = self._stream.send_soon(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._broken(error)
            return
        self.bytes_out += sent
        if sent < len(data):
            self._rest = memoryview(data)[sent:]
            self.wake_writer()
        elif len(data) >= BATCH_SIZE:
            self.wake_writer()
        else:
            self._sent_all()

    def flush_or_join(self, in_progress: int) -> None:
        """Send at once if nobody else is about to; else let `run` send for all who run before it."""
        if in_progress > 1:
            self.wake_writer()
        else:
            self.flush()

    def wake_writer(self) -> None:
        """Let `run` send what waits when its turn comes: with it goes what others have to send until then."""
        if self._writer is not None:
            self.is_writing = True
            task, self._writer = self._writer, None
            trio.lowlevel.reschedule(task)


def _joined(frames: list[bytes | memoryview]) -> bytes | memoryview:
    """Return frames in one piece; large ones come so."""
    return frames[0] if len(frames) == 1 else b"".join(frames)
