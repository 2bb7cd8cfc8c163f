"""Puts one load on one server with wrk and says what came of it. Knows no target by name."""

from __future__ import annotations

import math
import random
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.failures import BenchError
from bench.processes import last_words

_SCRIPT: Final = Path(__file__).with_name("load.lua")
_TIMEOUT_S: Final = 60  # a slower request counts as a timeout; wrk reserves 8 bytes for each microsecond of it
_GRACE_S: Final = 60.0
_P99_REQUESTS_MIN: Final = (
    10  # wrk rounds a percentile of fewer samples down to a middling one; the largest is shown then
)


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: request targets of equal length if there is a body, over `concurrency` connections.

    `once` stops after the last target instead of beginning again.
    """

    method: str
    host: str
    targets: Sequence[str]
    concurrency: int
    seconds: float
    body: Path | None = None
    once: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """What came back: successes a second, latencies in milliseconds, failures by kind (empty if there were none)."""

    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    completed: int
    errors: dict[str, int]


def run_load(wrk: str, load: Load) -> Measurement:
    """Run wrk for `load.seconds` and return what it saw. Errors: `BenchError` if nothing was completed."""
    with tempfile.NamedTemporaryFile("w", suffix=".targets") as targets:
        targets.write("\n".join(load.targets))
        targets.flush()
        nonce = random.getrandbits(40) << 10  # a double holds it exactly, and 2^10 requests' worth keeps runs apart
        command = [
            *[wrk, "-t1", f"-c{load.concurrency}", f"-d{math.ceil(load.seconds)}s", f"--timeout={_TIMEOUT_S}s"],
            *["-s", str(_SCRIPT), f"http://{load.host}/", "--"],
            *[targets.name, load.method, load.host, str(load.body or "-"), str(nonce)],
            "once" if load.once else "cycle",
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=load.seconds + _TIMEOUT_S + _GRACE_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"wrk did not end {_TIMEOUT_S + _GRACE_S:.0f} s after its time") from error
    return parse_output(done.stdout + done.stderr, load.concurrency)


def parse_output(output: str, concurrency: int) -> Measurement:
    """Read the line that the Lua script prints.

    In a closed loop every request but the first `concurrency` begins at the moment an earlier one completes, so
    between the first and the last beginning `calls - concurrency` requests were completed. That is exact where
    counting within a fixed time would cut off the few requests under way, which for large bodies are most of them.
    """
    lines = [line for line in output.splitlines() if line.startswith("BENCH ")]
    if not lines:
        raise BenchError(f"wrk failed: {last_words(output)}")
    found = {name: float(value) for name, _, value in (word.partition("=") for word in lines[-1].split()[1:])}
    errors = {name: int(found[name]) for name in ("connect", "read", "write", "status", "timeout") if found[name]}
    completed = int(found["calls"]) - concurrency
    failed = sum(errors.get(name, 0) for name in ("read", "write", "status"))
    if completed < 1 or found["elapsed_us"] <= 0:
        why = ", ".join(f"{count} {name}" for name, count in errors.items()) or "too slow for the time given"
        raise BenchError(f"no request was completed: {why}")
    p50_ms, p99_ms = found["p50_us"] / 1e3, found["p99_us"] / 1e3
    return Measurement(
        rate=max(0, completed - failed) / (found["elapsed_us"] / 1e6),
        p50_ms=p50_ms,
        p99_ms=p99_ms if completed >= _P99_REQUESTS_MIN else max(p50_ms, found["max_us"] / 1e3),
        max_ms=found["max_us"] / 1e3,
        completed=completed,
        errors=errors,
    )
