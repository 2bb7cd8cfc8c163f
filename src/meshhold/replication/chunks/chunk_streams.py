"""How long may bytes take, and how many are under way at once? Patience and room for transfers; knows no message.

A transfer may be slow but not stand still: each piece has `PATIENCE_S`, and the whole has `TRANSFER_S`, so that a peer
that sends one byte now and then holds its place for a bounded time only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from meshhold.errors import CallTimeoutError, OverloadedError, ProtocolError
from meshhold.model.ids import short_id
from meshhold.peering.streams import PeerStream
from meshhold.replication.chunks.byte_budget import ByteBudget

PIECE_SIZE: Final = 64 * 1024
"""Bytes that have to go, or come, within `PATIENCE_S`: 16 transfers share a line of 1 Mbit/s without losing it."""
PATIENCE_S: Final = 10.0
WOUND_S: Final = 0.1
"""A deadline is moved so often at most: a fast line brings thousands of pieces a second."""
TRANSFER_S: Final = 300.0
"""For a chunk: 1 MiB takes nine seconds at 1 Mbit/s, alone."""


async def send_bytes(stream: PeerStream, data: bytes, total_s: float = TRANSFER_S) -> None:
    """Send all of `data`, and that nothing follows. Errors: `CallTimeoutError`; those of the stream."""
    view = memoryview(data)
    with _patience(stream, total_s) as clock:
        for at in range(0, len(view), PIECE_SIZE):
            clock.wind()
            await stream.send_all(view[at : at + PIECE_SIZE])
        await stream.send_eof()


async def receive_bytes(stream: PeerStream, size_max: int, total_s: float = TRANSFER_S) -> bytes:
    """Return all that comes, once it has ended.

    Errors: `ProtocolError` for more than `size_max` bytes; `CallTimeoutError`; those of the stream.
    """
    parts: list[memoryview] = []
    size = 0
    with _patience(stream, total_s) as clock:
        clock.wind()
        while part := await stream.receive_piece():
            clock.wind()
            parts.append(part)
            size += len(part)
            if size > size_max:
                raise ProtocolError(f"a stream of node {short_id(stream.peer)} brings over {size_max} bytes")
    return b"".join(parts)


async def receive_announced(stream: PeerStream, size: int, total_s: float = TRANSFER_S) -> bytes:
    """Return the `size` bytes that were announced. Errors: as `receive_bytes`, and `ProtocolError` if they differ."""
    data = await receive_bytes(stream, size, total_s)
    if len(data) != size:
        raise ProtocolError(f"a stream of node {short_id(stream.peer)} brings {len(data)} bytes, not {size}")
    return data


async def receive_report(stream: PeerStream, idle: bytes, size: int, total_s: float) -> bytes:
    """Return the `size` bytes that come at last; before them come signs of life, each one byte `idle`.

    Errors: as `receive_announced`.
    """
    report = b""
    with _patience(stream, total_s) as clock:
        clock.wind()
        while part := await stream.receive_piece():
            clock.wind()
            report = (report + bytes(part)).lstrip(idle) if not report else report + bytes(part)
            if len(report) > size:
                break
    if len(report) != size:
        raise ProtocolError(f"node {short_id(stream.peer)} did not report in {size} bytes")
    return report


class _Patience:
    """The deadline of one transfer; `wind` gives it the time for one more piece."""

    def __init__(self, scope: trio.CancelScope, total_s: float) -> None:
        self._scope = scope
        self._wound_s = float("-inf")
        self._end_s = trio.current_time() + total_s

    def wind(self) -> None:
        """Let the time for a piece begin; one that comes right after another has up to `WOUND_S` less."""
        now_s = trio.current_time()
        if now_s >= self._wound_s + WOUND_S:
            self._wound_s = now_s
            self._scope.deadline = min(now_s + PATIENCE_S, self._end_s)


@contextmanager
def _patience(stream: PeerStream, total_s: float) -> Iterator[_Patience]:
    with trio.CancelScope() as scope:
        yield _Patience(scope, total_s)
    if scope.cancelled_caught:
        raise CallTimeoutError(
            f"a transfer with node {short_id(stream.peer)} stood still for {PATIENCE_S:g} s, or took {total_s:g} s"
        )


@asynccontextmanager
async def held_in_time(budget: ByteBudget, size: int, patience_s: float) -> AsyncIterator[None]:
    """Hold `size` bytes of `budget` while the block lasts. Errors: `OverloadedError` if they are not free in time."""
    with trio.move_on_after(patience_s) as scope:
        await budget.take(size)
    if scope.cancelled_caught:
        raise OverloadedError(f"what is under way to a node leaves no room for {patience_s:.0f} s", "try again later")
    try:
        yield
    finally:
        budget.give(size)


@asynccontextmanager
async def held_now(budget: ByteBudget, size: int) -> AsyncIterator[None]:
    """Hold `size` bytes of `budget` while the block lasts. Errors: `OverloadedError` if they are not free now."""
    if size > budget.free:
        raise OverloadedError("this node transfers as many chunks as it has memory for", "ask again later")
    async with budget.held(size):
        yield
