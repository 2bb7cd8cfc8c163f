"""Healing keeps to its share of disk and link, steps aside for apps, and tells how far it is."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshhold.model.ids import NodeId
from meshhold.replication.healing.pulling import Progress
from meshhold.replication.throttle import BUSY_STEP_S, BUSY_STEPS, PAUSE_MIN_S, Throttle


async def test_bytes_take_their_time_together(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    """Two that spend from one budget wait for each other; what was not used is not saved up."""
    throttle = Throttle(1_000)
    await trio.sleep(100)
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(throttle.spend, 500)
        nursery.start_soon(throttle.spend, 1_500)
    assert trio.current_time() - began_s == pytest.approx(2.0)


async def test_short_pauses_are_not_made_but_stay_owed(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    pauses: list[float] = []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        await trio.sleep(pause_s)

    throttle = Throttle(1_000, sleep=sleep)
    began_s = trio.current_time()
    for _ in range(1_000):
        await throttle.spend(1)
    assert trio.current_time() - began_s == pytest.approx(1.0, abs=PAUSE_MIN_S)
    assert min(pauses) >= PAUSE_MIN_S
    assert len(pauses) <= 1_000 * 0.001 / PAUSE_MIN_S + 1


async def test_each_piece_of_a_batch_steps_aside(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    """Many small chunks at once go no faster beside apps than one by one; they go on as soon as the door is idle."""
    busy = True
    throttle = Throttle(1e12, is_busy=lambda: busy)
    began_s = trio.current_time()
    await throttle.spend(1, pieces=3)
    assert trio.current_time() - began_s == pytest.approx(3 * BUSY_STEPS * BUSY_STEP_S)
    busy = False
    await throttle.spend(1, pieces=3)
    assert trio.current_time() - began_s == pytest.approx(3 * BUSY_STEPS * BUSY_STEP_S)


async def test_a_busy_door_slows_healing_down_but_never_stops_it(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    throttle = Throttle(1e12, is_busy=lambda: True)
    began_s = trio.current_time()
    await throttle.spend(1)
    assert trio.current_time() - began_s == pytest.approx(BUSY_STEPS * BUSY_STEP_S)


def test_progress_tells_rate_and_remaining_time() -> None:
    """Rows of buckets that were not looked at yet are estimated from those that were."""
    progress = Progress(NodeId("n" * 52), 10.0)
    assert progress.show(10.0)["eta_s"] == 0.0
    progress.buckets_seen, progress.buckets_left, progress.named = 10, 30, 100
    progress.behind, progress.rows, progress.bytes = 20, 80, 8_000
    shown = progress.show(12.0)
    assert (shown["state"], shown["rows_behind"], shown["rows_per_s"], shown["eta_s"]) == ("copying", 320, 40.0, 8.0)
    progress.ended_s, progress.behind, progress.buckets_left = 12.0, 0, 0
    assert progress.show(99.0)["state"] == "done"
    assert progress.show(99.0)["rows_per_s"] == 40.0
    progress.error = "gone"
    assert progress.show(99.0)["state"] == "failed"
