"""What a link sends, whatever its stream takes at once: everything, in order, though its buffer is written anew."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
import trio
import trio.testing

from meshhold.peering.outbox import BATCH_SIZE, TURN_SIZE, Outbox


class Stream:
    """Takes `takes` bytes at once, then less and less; the rest in its own time."""

    def __init__(self, takes: Iterator[int]) -> None:
        self.sent = bytearray()
        self.sends = 0
        self._takes = takes

    def send_soon(self, data: bytes | bytearray | memoryview) -> int:
        self.sends += 1
        size = min(next(self._takes), len(data))
        self.sent += data[:size]
        return size

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            await trio.lowlevel.checkpoint()
            self.sent += rest[:10_000]
            rest = rest[10_000:]


class Source:
    """Gives views of one buffer, which it fills anew for each."""

    def __init__(self, batches: int) -> None:
        self.given = b""
        self.ends = 0
        self._left = batches
        self._buffer = memoryview(bytearray(BATCH_SIZE))

    def next_frames(self, size: int) -> list[bytes | memoryview]:
        if not self._left:
            return []
        self._left -= 1
        self._buffer[:] = bytes([self._left % 256]) * size
        self.given += bytes(self._buffer)
        return [self._buffer]

    def end(self) -> None:
        self.ends += 1


def refuse(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("seed", range(8))
async def test_what_is_taken_in_part_is_sent_before_the_buffer_is_written_anew(seed: int) -> None:
    rng = random.Random(seed)
    stream = Stream(iter(lambda: rng.choice((0, 1, 70_000, BATCH_SIZE, BATCH_SIZE)), None))
    source = Source(40)
    outbox = Outbox(stream, source.next_frames, source.end, refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        while not source.ends:
            outbox.flush()
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert stream.sent == source.given
    assert outbox.bytes_out == len(source.given)


async def test_others_come_between_after_a_turn_of_bulk() -> None:
    stream, source = Stream(iter(lambda: BATCH_SIZE, None)), Source(6 * TURN_SIZE // BATCH_SIZE)
    outbox = Outbox(stream, source.next_frames, source.end, refuse)
    sent: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        while not source.ends:
            sent.append(len(stream.sent))
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    # Two turns where the order of tasks, which is chance, lets it run twice between two of the others' steps.
    assert max(after - before for before, after in pairwise(sent)) <= 2 * TURN_SIZE
    assert len(sent) >= 2
    assert stream.sent == source.given
