"""Where should the next commit run: on the event loop or in a worker thread? Knows no database; times are arguments.

A commit in a thread costs two hand-overs of the interpreter lock, 0.1 ms when the loop is idle and many milliseconds
when it is busy; on a disk whose fsync is quicker than that, the loop waits less by committing itself. A slow disk must
not stop the loop, so a commit that was slow sends the following ones to a thread for `AWAY_FACTOR` times as long as it
took: the loop then spends at most 5 % of its time on slow commits, whatever the disk does.
"""

from __future__ import annotations

from typing import Final

CHEAP_S: Final = 0.002
"""Beside a busy loop a thread needs longer than this to win the interpreter lock back (see `meshhold.blocking`)."""
AWAY_FACTOR: Final = 20


class CommitPace:
    """Remembers until when commits go to a thread.

    Only commits made on the loop are measured: a thread's time includes its wait for the interpreter lock and says
    nothing about the disk.
    """

    def __init__(self) -> None:
        self._away_until_s = float("-inf")

    def on_loop(self, now_s: float) -> bool:
        """Tell whether a commit beginning at `now_s` should run on the event loop."""
        return now_s >= self._away_until_s

    def note(self, took_s: float, now_s: float) -> None:
        """Learn that a commit on the loop took `took_s` and ended at `now_s`."""
        if took_s > CHEAP_S:
            self._away_until_s = now_s + took_s * AWAY_FACTOR
