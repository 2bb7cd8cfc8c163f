"""How many requests and bytes, by key and by bucket, since the daemon started? Bounded, in memory; knows no request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from meshhold.s3.recording.served import Served

SERIES_MAX: Final = 1_000
"""Keys and buckets counted by themselves, a few KiB each at most; those that come later are counted as `OTHERS`."""
OTHERS: Final = "(others)"
ANONYMOUS: Final = "anonymous"


@dataclass(slots=True)
class Series:
    """What one key, or one bucket, has seen; `requests` by operation and class of status (2 for 2xx)."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True, slots=True)
class SeriesView:
    """One series as people see it; `requests` maps an operation to its counts by class, such as `2xx`."""

    name: str
    total: int
    requests: dict[str, dict[str, int]]
    bytes_in: int
    bytes_out: int


class Counters:
    """Counts served requests. `is_bucket` tells whether a name is one, so that guessed names make no series."""

    def __init__(self, is_bucket: Callable[[str], bool], since_s: float) -> None:
        self._is_bucket = is_bucket
        self._since_s = since_s
        self._keys: dict[str, Series] = {}
        self._buckets: dict[str, Series] = {}

    def record(self, served: Served) -> None:
        """Count a request."""
        _count(self._keys, served.sender or ANONYMOUS, served)
        bucket = served.bucket
        if bucket and (bucket in self._buckets or self._is_bucket(bucket)):
            _count(self._buckets, bucket, served)

    def view(self) -> dict[str, object]:
        """Return `since_ms` and the series of `keys` and `buckets`, the busiest first."""
        return {"since_ms": int(self._since_s * 1000), "keys": _views(self._keys), "buckets": _views(self._buckets)}


def _count(table: dict[str, Series], name: str, served: Served) -> None:
    series = table.get(name)
    if series is None:
        if len(table) >= SERIES_MAX:
            name = OTHERS
        series = table.setdefault(name, Series())
    series.requests[served.operation or "-", served.status // 100] += 1
    series.bytes_in += served.bytes_in
    series.bytes_out += served.bytes_out


def _views(table: dict[str, Series]) -> list[SeriesView]:
    views = []
    for name, series in table.items():
        requests: dict[str, dict[str, int]] = {}
        for (operation, status), count in sorted(series.requests.items()):
            requests.setdefault(operation, {})[f"{status}xx"] = count
        views.append(SeriesView(name, series.requests.total(), requests, series.bytes_in, series.bytes_out))
    return sorted(views, key=lambda view: (-view.total, view.name))
