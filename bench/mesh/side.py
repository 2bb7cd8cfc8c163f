"""What each contender's client must do, and the loop that drives it. Imports nothing but Trio: libp2p lives elsewhere.

A side is a program: `serve` prints its address and serves until it is ended; `drive ADDRESS` reads commands from its
standard input, one a line (`bulk SECONDS`, `calls SECONDS`, `many SECONDS`), and answers each with one line of figures.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import trio

PIECE = bytes(1024 * 1024)
SMALL = 100
MANY = 16
_BATCH = 32  # pieces between two looks at the clock


class Client:
    """A contender's client."""

    async def open(self) -> None:
        """Connect, where that is not done by the first use."""

    async def bulk(self, pieces: int) -> None:
        """Send so many pieces in one stream and wait until the other side has taken them."""
        raise NotImplementedError

    async def call(self, request: bytes) -> bytes:
        """Send a small request, return its echo."""
        raise NotImplementedError

    async def version(self) -> str:
        """Return what is measured."""
        raise NotImplementedError


async def drive(client: Client, concurrent: bool) -> None:
    """Obey standard input until it ends."""
    await client.open()
    print(json.dumps({"version": await client.version(), "concurrent": concurrent}), flush=True)
    async for line in trio.wrap_file(sys.stdin):
        what, _, seconds = line.strip().partition(" ")
        print(json.dumps(await _measure(client, what, float(seconds))), flush=True)


async def _measure(client: Client, what: str, seconds: float) -> dict[str, Any]:
    begun = time.perf_counter()
    if what == "bulk":
        sent = 0
        while (spent := time.perf_counter() - begun) < seconds:
            await client.bulk(_BATCH)
            sent += _BATCH * len(PIECE)
        spent = time.perf_counter() - begun
        return {"mib_per_s": sent / spent / 2**20}
    times: list[float] = []
    async with trio.open_nursery() as nursery:
        for _ in range(MANY if what == "many" else 1):
            nursery.start_soon(_call_until, client, begun + seconds, times)
    spent = time.perf_counter() - begun
    times.sort()
    return {
        "count": len(times),
        "per_s": len(times) / spent,
        "median_us": times[len(times) // 2] * 1e6,
        "p99_us": times[-len(times) // 100] * 1e6,
    }


async def _call_until(client: Client, end: float, times: list[float]) -> None:
    request = bytes(SMALL)
    now = time.perf_counter()
    while now < end:
        begun = now
        await client.call(request)
        now = time.perf_counter()
        times.append(now - begun)
