"""How fast does a node whose chunks are gone get them back? Measured beside plain transfers over the same link.

Three nodes keep every chunk of a vault. The third one's chunks are removed while it is stopped. Before it is started
again, `bench.chunk_peer` runs in its place: the same node, without repair, that only reads chunks of the first one and
drops them. Repair reads from both others, asks for names, and makes each chunk durable besides.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.cases import KIB, MIB
from bench.client import open_client
from bench.failures import BenchError
from bench.processes import last_words
from bench.report import layout
from bench.three import NODES, ThreeCopies

_LAST: Final = NODES - 1
LARGE_OBJECT: Final = 16 * MIB
SMALL_OBJECT: Final = 64 * KIB
_POLL_S: Final = 0.1
_REFILL_S_MAX: Final = 600.0
_PEER_S_MAX: Final = 300.0


@dataclass(frozen=True, slots=True)
class RefillRound:
    """Bytes a second: refilling from the first chunk to the last, and plain reads one by one and four at once.

    `from_start` counts from the start of the daemon.
    """

    chunks: int
    size: int
    refill: float
    from_start: float
    one: float
    four: float


def run_refill(folder: Path, size: int, object_size: int, rounds: int) -> list[RefillRound]:
    """Measure so many rounds on one mesh that holds `size` bytes of objects. Errors: `BenchError`."""
    target = ThreeCopies(folder / "refill")
    try:
        endpoint = target.start()
        with open_client(endpoint) as client:
            for number in range(-(-size // object_size)):
                client.put(f"refill/{number:06}", os.urandom(object_size))
        target.wait(lambda: _count(target, _LAST) >= _count(target, 0), "all nodes have all chunks")
        found = []
        for turn in range(rounds):
            print(f"  refill: round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
            found.append(_round(target))
        return found
    finally:
        target.stop()
        shutil.rmtree(target.folder, ignore_errors=True)


def _chunks(target: ThreeCopies, number: int) -> list[Path]:
    return list((target.home(number) / "chunks" / target.vault).glob("[0-9a-f][0-9a-f]/*"))


def _count(target: ThreeCopies, number: int) -> int:
    """Count without a look at files or paths: whoever polls shares processors with what it measures."""
    base = target.home(number) / "chunks" / target.vault
    return sum(_names(f"{base}/{first:02x}") for first in range(256))


def _names(folder: str) -> int:
    try:
        return len(os.listdir(folder))  # noqa: PTH208 - names only, no paths
    except FileNotFoundError:
        return 0


def _round(target: ThreeCopies) -> RefillRound:
    kept = _chunks(target, 0)
    wanted, size = len(kept), sum(path.stat().st_size for path in kept)
    target.stop_node(_LAST)
    shutil.rmtree(target.home(_LAST) / "chunks")
    os.sync()
    plain = _plain(target)
    os.sync()
    began_s = time.monotonic()
    target.start_node(_LAST)
    first_s, first, done = 0.0, 0, 0
    while done < wanted:
        time.sleep(_POLL_S)
        done, now_s = _count(target, _LAST), time.monotonic()
        if done and not first:
            first_s, first = now_s, done
        if now_s - began_s > _REFILL_S_MAX:
            raise BenchError(f"after {_REFILL_S_MAX:.0f} s the wiped node has {done} of {wanted} chunks")
    rate = size * (wanted - first) / wanted / max(now_s - first_s, _POLL_S)
    return RefillRound(wanted, size, rate, size / (now_s - began_s), plain["one"], plain["four"])


def _plain(target: ThreeCopies) -> dict[str, float]:
    """Read all chunks of the first node in the place of the last one."""
    command = [sys.executable, "-m", "bench.chunk_peer", str(target.home(_LAST)), str(target.home(0)), target.vault]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PEER_S_MAX, check=False)
    if done.returncode:
        raise BenchError(f"plain transfers failed: {last_words(done.stderr)}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def refill_table(rounds: Sequence[RefillRound]) -> str:
    """Return the rounds as text, and the median of the ratios."""
    lines: list[tuple[str, ...]] = [
        ("chunks", "KiB each", "refill MB/s", "from start", "one by one", "4 at once", "of one", "of 4")
    ]
    for each in rounds:
        speeds = (each.refill, each.from_start, each.one, each.four)
        ratios = (each.refill / each.one, each.refill / each.four)
        lines.append(
            (
                str(each.chunks),
                f"{each.size / each.chunks / KIB:,.0f}",
                *(f"{s / 1e6:,.1f}" for s in speeds),
                *map(_percent, ratios),
            )
        )
    last = ""
    for kib in dict.fromkeys(round(each.size / each.chunks / KIB) for each in rounds):
        found = [each for each in rounds if round(each.size / each.chunks / KIB) == kib]
        to_one, to_four = (median(r.refill / r.one for r in found), median(r.refill / r.four for r in found))
        last += f"\n{kib} KiB, median: {_percent(to_one)} of reading one by one, {_percent(to_four)} of four at once"
    return (
        "a wiped node gets its chunks back, beside plain transfers between two nodes\n"
        + layout(lines)
        + last
        + " (aim: 60 %)"
    )


def _percent(ratio: float) -> str:
    return f"{ratio * 100:.0f} %"


def refill_json(rounds: Sequence[RefillRound]) -> list[dict[str, Any]]:
    """Return the rounds for a results file."""
    return [asdict(each) for each in rounds]
