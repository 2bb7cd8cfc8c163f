"""How far is the copying of one vault's rows from another replica? Adds up what it is told; knows no wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from meshhold.model.ids import NodeId, short_id


class Pulled(NamedTuple):
    """What one pull did. `complete`: this replica, or a quorum, now knows all that the source held at its beginning."""

    complete: bool
    rows: int = 0
    bytes: int = 0
    settled: int = 0


@dataclass(slots=True)
class Progress:
    """One vault's pull, under way or over. Times are those of trio's clock."""

    source: NodeId
    began_s: float
    ended_s: float | None = None
    behind: int = 0
    """Rows known to be missing."""
    buckets_left: int = 0
    """Buckets that differ and whose rows are not known yet."""
    buckets_seen: int = 0
    named: int = 0
    """Rows found missing in the buckets seen."""
    rows: int = 0
    bytes: int = 0
    settled: int = 0
    left: int = 0
    """Rows that could be neither taken nor settled."""
    error: str = ""

    def show(self, now_s: float) -> dict[str, Any]:
        """Return the form that people and scripts are shown; `eta_s` is None when it is unknown."""
        seconds = max((self.ended_s if self.ended_s is not None else now_s) - self.began_s, 1e-3)
        per_bucket = self.named / self.buckets_seen if self.buckets_seen else 0.0
        behind = self.behind + round(per_bucket * self.buckets_left)
        rate = self.rows / seconds
        running = self.ended_s is None
        return {
            "source": short_id(self.source),
            "state": "copying" if running else self._outcome(),
            "rows_behind": behind,
            "rows_pulled": self.rows,
            "rows_settled": self.settled,
            "rows_left": self.left,
            "bytes": self.bytes,
            "rows_per_s": round(rate, 1),
            "eta_s": round(behind / rate, 1) if running and rate else (None if running and behind else 0.0),
            "error": self.error,
        }

    def _outcome(self) -> str:
        if self.error:
            return "failed"
        return "incomplete" if self.left else "done"
