"""When lifecycles are followed by themselves, and how fast a disk is read again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from meshhold.config import RepairConfig
from meshhold.errors import UnavailableError
from meshhold.node import chores
from meshhold.store.care import ScrubReport


class FakeExpiry:
    """Notes when it is run; every second run fails."""

    def __init__(self) -> None:
        self.runs: list[float] = []
        self.next_ms: int | None = None

    async def run(self, reference: str | None) -> list[Any]:
        assert reference is None
        self.runs.append(trio.current_time())
        if len(self.runs) % 2 == 0:
            raise UnavailableError("the index is away")
        return [SimpleNamespace(removed=1, name="photos", summary=lambda: "1 objects removed")]


async def _follow(day_s: int, for_s: float) -> tuple[list[float], int | None]:
    expiry = FakeExpiry()
    node: Any = SimpleNamespace(
        expiry=expiry,
        config=SimpleNamespace(s3=SimpleNamespace(lifecycle_day_s=day_s)),
        directory=SimpleNamespace(now_ms=lambda: int(trio.current_time() * 1000)),
    )
    began_s = trio.current_time()
    with trio.move_on_after(for_s):
        await chores._follow_lifecycles(node)
    return [round(at_s - began_s, 3) for at_s in expiry.runs], expiry.next_ms


async def test_once_an_hour_and_first_when_the_apps_have_settled(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - pytest-trio finds the clock by the argument
) -> None:
    """A walk that fails is tried again the next time."""
    began_ms = int(trio.current_time() * 1000)
    runs, next_ms = await _follow(86_400, 3 * 3600)
    assert runs == [600, 4200, 7800]
    assert next_ms == began_ms + 11_400_000


async def test_a_test_that_shortens_days_need_not_wait(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - pytest-trio finds the clock by the argument
) -> None:
    assert (await _follow(10, 3.5))[0] == [1, 2, 3]


async def test_a_scrub_is_as_fast_as_the_configuration_says() -> None:
    """It pauses after each chunk for as long as the chunk takes at that rate; the reading comes on top."""
    pauses: list[float] = []

    async def scrub(vault: str | None, _progress: object, *, pause_s_per_mib: float) -> ScrubReport:
        assert vault is None
        pauses.append(pause_s_per_mib)
        return ScrubReport()

    for rate in (20 * 2**20, 2**20):
        config = SimpleNamespace(repair=RepairConfig(scrub_bytes_per_s=rate))
        node: Any = SimpleNamespace(care=SimpleNamespace(scrub=scrub), config=config)
        await chores._scrub(node)
    assert pauses == [0.05, 1.0]
