"""Does a page of 1,000 keys cost the same among a thousand keys and among a million? One node for each size."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.cases import page_key
from bench.client import open_client, signer_now
from bench.failures import BenchError
from bench.load import Load, Measurement, run_load
from bench.meshhold_target import MeshHold
from bench.presign import Endpoint
from bench.processes import last_words
from bench.report import layout

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
QUICK_SIZES: Final = SIZES[:2]
PAGE: Final = 1_000
_PLACES: Final = 200  # pages spread over the key space
_FILL_TIMEOUT_S: Final = 1_800.0


@dataclass(frozen=True, slots=True)
class PageRow:
    """Pages of 1,000 keys among `keys`: medians over rounds; `ratio` is the median time over the smallest size's."""

    keys: int
    rate: float
    p50_ms: float
    p99_ms: float
    errors: int
    rounds: int
    ratio: float | None
    failure: str


def run_pages(wrk: str, folder: Path, sizes: Sequence[int], rounds: int, seconds: float) -> list[PageRow]:
    """Fill one node for each size, then measure them in turns."""
    found: dict[int, list[Measurement]] = {size: [] for size in sizes}
    failures: dict[int, str] = {}
    with ExitStack() as nodes:
        endpoints: dict[int, Endpoint] = {}
        for size in sizes:
            print(f"  filling an index with {size:,} rows", file=sys.stderr, flush=True)
            node = MeshHold(folder / f"pages-{size}")
            nodes.callback(node.stop)
            try:
                endpoints[size] = _filled(node, size)
            except (BenchError, OSError) as error:
                failures[size] = str(error)
        for _ in range(rounds):
            for size, endpoint in endpoints.items():
                try:
                    found[size].append(run_load(wrk, _load(endpoint, size, seconds)))
                except BenchError as error:
                    failures[size] = str(error)
    base = median(m.p50_ms for m in found[sizes[0]]) if found[sizes[0]] else None
    return [_row(size, found[size], base, failures.get(size, "")) for size in sizes]


def _filled(node: MeshHold, size: int) -> Endpoint:
    endpoint = node.start()
    node.stop()
    fill = [sys.executable, "-m", "bench.fill", str(node.data_dir), node.vault_id, str(size)]
    done = subprocess.run(fill, capture_output=True, text=True, timeout=_FILL_TIMEOUT_S, check=False)
    if done.returncode:
        raise BenchError(f"the fill failed: {last_words(done.stderr)}")
    node.launch()
    with open_client(endpoint) as client:
        for first in {0, size - PAGE}:
            page = client.get_target(_targets(endpoint, [first])[0])
            if page.count(b"<Key>") != PAGE:
                raise BenchError(f"a page has {page.count(b'<Key>')} keys instead of {PAGE}")
    return endpoint


def _load(endpoint: Endpoint, size: int, seconds: float) -> Load:
    spare = size - PAGE
    firsts = sorted({spare * place // (_PLACES - 1) for place in range(_PLACES)})
    return Load("GET", endpoint.host, _targets(endpoint, firsts), 1, seconds)


def _targets(endpoint: Endpoint, firsts: Sequence[int]) -> list[str]:
    """Return a signed page request for each number that a page is to begin at."""
    signer = signer_now(endpoint)
    query = {"list-type": "2", "max-keys": str(PAGE), "prefix": "photos/"}
    after = [{"start-after": page_key(first - 1)} if first else {} for first in firsts]
    return [signer.target("GET", "", {**query, **more}) for more in after]


def _row(size: int, found: Sequence[Measurement], base: float | None, failure: str) -> PageRow:
    if not found:
        return PageRow(size, 0, 0, 0, 0, 0, None, failure)
    p50_ms = median(m.p50_ms for m in found)
    return PageRow(
        keys=size,
        rate=median(m.rate for m in found),
        p50_ms=p50_ms,
        p99_ms=median(m.p99_ms for m in found),
        errors=sum(sum(m.errors.values()) for m in found),
        rounds=len(found),
        ratio=p50_ms / base if base else None,
        failure=failure,
    )


def page_table(rows: Sequence[PageRow]) -> str:
    """Return the rows as text."""
    lines: list[tuple[str, ...]] = [("keys", "pages/s", "median ms", "p99 ms", "errors", "time vs 1k")]
    for row in rows:
        if not row.rounds:
            lines.append((f"{row.keys:,}", f"failed: {row.failure}"))
            continue
        ratio = f"{row.ratio:.2f}x" if row.ratio is not None else "?"
        cells = (f"{row.rate:,.1f}", f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}", str(row.errors), ratio)
        lines.append((f"{row.keys:,}", *cells))
    return "MeshHold: pages of 1,000 keys (synthetic rows, written into the index of a stopped node)\n" + layout(lines)


def page_json(rows: Sequence[PageRow]) -> list[dict[str, Any]]:
    """Return the rows for a results file."""
    return [asdict(row) for row in rows]
