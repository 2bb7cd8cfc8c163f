"""What do the samples say? Medians over rounds, ratios, a table, JSON. Knows no server and measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from textwrap import shorten
from typing import Any, Final

from bench.cases import CASES, MIB
from bench.run import Sample

BASELINE: Final = "seaweedfs"
_SIZES: Final = {case.name: case.size for case in CASES}


@dataclass(frozen=True, slots=True)
class Row:
    """One case at one concurrency on one target: medians over the rounds that succeeded.

    `mb_s` is 10^6 bytes a second (0 where bytes say nothing), `ratio` the rate over SeaweedFS's (None if unknown),
    `failure` the reason of the rounds that did not succeed.
    """

    case: str
    concurrency: int
    target: str
    rate: float
    mb_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    requests: int
    rounds: int
    ratio: float | None
    failure: str


def summarize(samples: Sequence[Sample]) -> list[Row]:
    """Return one row for each case, concurrency and target, in the order in which they first appear."""
    groups: dict[tuple[str, int, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.case, sample.concurrency, sample.target), []).append(sample)
    rates = {key: median(found) for key, group in groups.items() if (found := _rates(group))}
    return [_row(key, group, rates) for key, group in sorted(groups.items(), key=_by_case)]


def _rates(group: Sequence[Sample]) -> list[float]:
    return [sample.measurement.rate for sample in group if sample.measurement is not None]


def _by_case(item: tuple[tuple[str, int, str], list[Sample]]) -> tuple[int, int]:
    (case, concurrency, _), _ = item
    return list(_SIZES).index(case), concurrency


def _row(key: tuple[str, int, str], group: Sequence[Sample], rates: Mapping[tuple[str, int, str], float]) -> Row:
    case, concurrency, target = key
    found = [sample.measurement for sample in group if sample.measurement is not None]
    base = rates.get((case, concurrency, BASELINE))
    rate = rates.get(key, 0.0)
    return Row(
        case=case,
        concurrency=concurrency,
        target=target,
        rate=rate,
        mb_s=rate * _SIZES[case] / 1e6,
        p50_ms=median(m.p50_ms for m in found) if found else 0.0,
        p99_ms=median(m.p99_ms for m in found) if found else 0.0,
        errors=sum(sum(m.errors.values()) for m in found),
        requests=sum(m.completed for m in found),
        rounds=len(found),
        ratio=rate / base if base and found else None,
        failure=next((sample.failure for sample in group if sample.failure), ""),
    )


_WHY_WIDTH: Final = 110  # the results file has it whole
_HEADINGS: Final = ("case", "conc", "target", "req/s", "MB/s", "median ms", "p99 ms", "errors", "vs SeaweedFS")


def table(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """Return the rows as text for a terminal; a row that failed says why."""
    lines: list[tuple[str, ...]] = [_HEADINGS]
    last = ("", 0)
    for row in rows:
        if lines[1:] and (row.case, row.concurrency) != last:
            lines.append(("",) * len(_HEADINGS))
        last = (row.case, row.concurrency)
        lines.append(_cells(row, titles))
    return layout(lines)


def _cells(row: Row, titles: Mapping[str, str]) -> tuple[str, ...]:
    name = (row.case, str(row.concurrency), titles[row.target])
    if not row.rounds:
        return (*name, f"failed: {shorten(row.failure, _WHY_WIDTH)}")
    rate = f"{row.rate:,.0f}" if row.rate >= 100 else f"{row.rate:.2f}"
    note = f"{row.errors}" + (f" (a round failed: {shorten(row.failure, _WHY_WIDTH)})" if row.failure else "")
    mb_s = f"{row.mb_s:,.1f}" if row.mb_s else ""
    ratio = f"{row.ratio:.2f}x" if row.ratio is not None else ""
    return (*name, rate, mb_s, f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}", note, ratio)


def layout(lines: Sequence[Sequence[str]]) -> str:
    """Align columns: words to the left, figures to the right; a line with fewer cells ends in free text."""
    full = max(len(line) for line in lines)
    widths = [max(len(line[at]) for line in lines if len(line) == full) for at in range(full)]
    return "\n".join(_line(cells, widths, full) for cells in lines)


def _line(cells: Sequence[str], widths: Sequence[int], full: int) -> str:
    padded = []
    for at, cell in enumerate(cells):
        is_free = len(cells) < full and at == len(cells) - 1
        is_figure = cell[:1].isdigit() and at > 0
        padded.append(cell if is_free else cell.rjust(widths[at]) if is_figure else cell.ljust(widths[at]))
    return "  ".join(padded).rstrip()


def as_json(samples: Sequence[Sample], rows: Sequence[Row]) -> dict[str, Any]:
    """Return the rows and every sample behind them."""
    return {"rows": [asdict(row) for row in rows], "samples": [asdict(sample) for sample in samples]}


def mib(size: float) -> str:
    """Return bytes as MiB."""
    return f"{size / MIB:,.0f} MiB"
