"""How long may bytes take, and how many are under way at once? Patience and room for transfers; knows no message.

A transfer may be slow but not stand still: something has to move within `PATIENCE_S`, and the whole has `TRANSFER_S`,
so that a peer that sends one byte now and then holds its place for a bounded time only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from meshhold.errors import OverloadedError, ProtocolError, TooLargeError
from meshhold.model.ids import short_id
from meshhold.peering.streams import Patience, PeerStream
from meshhold.replication.chunks.byte_budget import ByteBudget

PATIENCE_S: Final = 10.0
"""So long nothing may come, or go: 16 transfers in turns of 64 KiB share a line of 1 Mbit/s without losing it."""
TRANSFER_S: Final = 300.0
"""For a chunk: 1 MiB takes nine seconds at 1 Mbit/s, alone."""


async def send_bytes(stream: PeerStream, data: bytes, total_s: float = TRANSFER_S) -> None:
    """Send all of `data`, and that nothing follows. Errors: `CallTimeoutError`; those of the stream."""
    await stream.send_all(data, _patience(total_s), is_last=True)


async def receive_bytes(stream: PeerStream, size_max: int, total_s: float = TRANSFER_S, *, size_hint: int = 0) -> bytes:
    """Return all that comes, once it has ended; `size_hint` is how much that probably is.

    Errors: `ProtocolError` for more than `size_max` bytes; `CallTimeoutError`; those of the stream.
    """
    try:
        return await stream.receive_all(size_max, _patience(total_s), size_hint=size_hint)
    except TooLargeError as error:
        raise ProtocolError(f"a stream of node {short_id(stream.peer)} brings over {size_max} bytes") from error


async def receive_announced(stream: PeerStream, size: int, total_s: float = TRANSFER_S) -> bytes:
    """Return the `size` bytes that were announced. Errors: as `receive_bytes`, and `ProtocolError` if they differ."""
    data = await receive_bytes(stream, size, total_s, size_hint=size)
    if len(data) != size:
        raise ProtocolError(f"a stream of node {short_id(stream.peer)} brings {len(data)} bytes, not {size}")
    return data


async def receive_report(stream: PeerStream, idle: bytes, size: int, total_s: float) -> bytes:
    """Return the `size` bytes that come at last; before them come signs of life, each one byte `idle`.

    Errors: as `receive_announced`.
    """
    report, patience = b"", _patience(total_s)
    while part := await stream.receive_piece(patience):
        report = (report + bytes(part)).lstrip(idle) if not report else report + bytes(part)
        if len(report) > size:
            break
    if len(report) != size:
        raise ProtocolError(f"node {short_id(stream.peer)} did not report in {size} bytes")
    return report


def _patience(total_s: float) -> Patience:
    return Patience(PATIENCE_S, total_s)


@asynccontextmanager
async def held_in_time(budget: ByteBudget, size: int, patience_s: float) -> AsyncIterator[None]:
    """Hold `size` bytes of `budget` while the block lasts. Errors: `OverloadedError` if they are not free in time."""
    if not budget.take_now(size):
        with trio.move_on_after(patience_s) as scope:
            await budget.take(size)
        if scope.cancelled_caught:
            why = f"what is under way to a node leaves no room for {patience_s:.0f} s"
            raise OverloadedError(why, "try again later")
    try:
        yield
    finally:
        budget.give(size)


@contextmanager
def held_now(budgets: Sequence[ByteBudget], size: int) -> Iterator[None]:
    """Hold `size` bytes of each budget while the block lasts. Errors: `OverloadedError` if they are not free now."""
    taken = 0
    try:
        for budget in budgets:
            if size > budget.free or not budget.take_now(size):
                raise OverloadedError("this node transfers as many chunks as it has memory for", "ask again later")
            taken += 1
        yield
    finally:
        for budget in budgets[:taken]:
            budget.give(size)
