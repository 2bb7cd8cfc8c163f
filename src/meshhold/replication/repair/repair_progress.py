"""How far is the repair of one vault on this node? Adds up what it is told; knows no peer and no store."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from meshhold.model.ids import ChunkId

RATE_WINDOW_S: Final = 30.0
SHORT_MAX: Final = 1_000
"""Ids that are remembered as lacking somewhere; beyond it they are only counted, once per pass each."""


class Rate:
    """Bytes per second over the last `RATE_WINDOW_S`, counted by whole seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=int(RATE_WINDOW_S) + 1)
        self._began_s: float | None = None

    def add(self, size: int, now_s: float) -> None:
        """Count bytes."""
        if self._began_s is None or self.per_s(now_s) == 0.0:
            self._began_s = now_s
        second = int(now_s)
        if self._seconds and self._seconds[-1][0] == second:
            size += self._seconds.pop()[1]
        self._seconds.append((second, size))

    def per_s(self, now_s: float) -> float:
        """Return the rate; 0 if nothing was counted for a whole window."""
        counted = sum(size for second, size in self._seconds if second > now_s - RATE_WINDOW_S)
        began_s = now_s if self._began_s is None else self._began_s
        return counted / min(max(now_s - began_s, 1.0), RATE_WINDOW_S)


@dataclass(slots=True)
class Progress:
    """One vault's repair on this node: the pass under way, or the last one.

    Times are those of a steady clock but `finished_at`, seconds since 1970. `chunks_left` is what is known to be moved
    to or from this node yet; `surplus`: copies here that other nodes are to keep. `short`: chunks known to be lacking
    on a node that is to keep them, up to `SHORT_MAX` of `short_count`.
    """

    phase: str = "idle"
    chunks_done: int = 0
    bytes_done: int = 0
    chunks_left: int = 0
    surplus: int = 0
    removed: int = 0
    short_count: int = 0
    short: set[ChunkId] = field(default_factory=set)
    finished_at: float | None = None
    complete: bool = False
    waiting: str = ""
    rate: Rate = field(default_factory=Rate)

    def begin(self) -> None:
        """Begin a pass: counts start anew, the rate goes on."""
        self.phase, self.waiting, self.complete = "comparing", "", False
        self.chunks_done = self.bytes_done = self.chunks_left = self.surplus = self.removed = self.short_count = 0
        self.short = set()

    def moved(self, size: int, now_s: float, chunks: int = 1) -> None:
        """Count chunks, of `size` bytes together, that were moved."""
        self.chunks_done += chunks
        self.bytes_done += size
        self.rate.add(size, now_s)

    def lacks(self, chunk: ChunkId) -> None:
        """Count a chunk that somebody lacks who is to keep it."""
        if chunk not in self.short:
            self.short_count += 1
            if len(self.short) < SHORT_MAX:
                self.short.add(chunk)

    def wait_for(self, reason: str) -> None:
        """Say why this pass cannot do all; the first reason stays."""
        self.waiting = self.waiting or reason

    @property
    def bytes_left(self) -> int:
        """Bytes left, as far as known: chunks left by the mean size of those that were moved."""
        return self.chunks_left * self.bytes_done // self.chunks_done if self.chunks_done else 0

    def eta_s(self, now_s: float) -> float | None:
        """Return in how many seconds what is known to be left is moved; None while that is unknown."""
        if not self.chunks_left:
            return 0.0
        per_s = self.rate.per_s(now_s)
        return self.bytes_left / per_s if per_s and self.chunks_done else None

    def show(self, now_s: float) -> dict[str, Any]:
        """Return the form that people and scripts are shown."""
        eta_s = self.eta_s(now_s)
        return {
            "phase": self.phase,
            "chunks_done": self.chunks_done,
            "bytes_done": self.bytes_done,
            "chunks_left": self.chunks_left,
            "bytes_left": self.bytes_left,
            "bytes_per_s": round(self.rate.per_s(now_s)),
            "eta_s": None if eta_s is None else round(eta_s, 1),
            "finished_at": self.finished_at,
            "complete": self.complete,
            "waiting": self.waiting,
            "surplus": self.surplus,
            "removed": self.removed,
            "short": self.short_count,
        }
