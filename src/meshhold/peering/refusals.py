"""Has this been said already? Keeps a log readable while somebody knocks a thousand times a second."""

from __future__ import annotations

import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

AGAIN_AFTER_S: Final = 300.0
REMEMBERED_MAX: Final = 1_024
"""Pairs of peer and reason; beyond it the oldest is forgotten, and would be said again."""
LINES_PER_PEER_MAX: Final = 16
"""Lines that one peer causes in `AGAIN_AFTER_S`: whoever finds ever new ways to be refused is not worth more."""
LINES_MAX: Final = 128
"""Lines that all peers cause together, and all strangers together: whoever has a whole network of addresses is no
different, and takes nothing away from what is said of nodes that have proven who they are."""

_NUMBERS: Final = re.compile(r"\d+")
_log = logging.getLogger("meshhold.peering")


class Refusals:
    """Logs each pair of peer and reason once in five minutes, with how often it came meanwhile.

    Reasons that differ in numbers only count as one: the numbers are the peer's choice. `total` counts all.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.total = 0
        self._now = now
        self._said: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        self._peers = _Lines(now())
        self._strangers = _Lines(now())

    def note(self, peer: str, reason: str) -> None:
        """Count a refusal of a node that has proven who it is, by its short id; log it if it is new."""
        self._note(self._peers, peer, reason)

    def note_stranger(self, host: str, reason: str) -> None:
        """Count a refusal of somebody who has proven nothing; log it if it is new."""
        self._note(self._strangers, host, reason)

    def _note(self, lines: _Lines, peer: str, reason: str) -> None:
        self.total += 1
        key, now_s = (peer, _NUMBERS.sub("#", reason)), self._now()
        said_s, silent = self._said.get(key, (-AGAIN_AFTER_S, 0))
        if now_s - said_s < AGAIN_AFTER_S:
            self._said[key] = (said_s, silent + 1)
            return
        if not lines.take(peer, now_s):
            return
        more = f" ({silent} more of these since)" if silent else ""
        _log.warning("%s: %s%s", peer, reason, more)
        self._said[key] = (now_s, 0)
        self._said.move_to_end(key)
        if len(self._said) > REMEMBERED_MAX:
            self._said.popitem(last=False)


class _Lines:
    """How many lines were said since the last five minutes began, of whom."""

    def __init__(self, now_s: float) -> None:
        self._begun_s = now_s
        self._lines: Counter[str] = Counter()
        self._silenced: set[str] = set()

    def take(self, peer: str, now_s: float) -> bool:
        """Take one line of the peer's share and of everybody's; say once when there is none left."""
        if now_s - self._begun_s >= AGAIN_AFTER_S:
            self._lines.clear()
            self._silenced.clear()
            self._begun_s = now_s
        everybody = self._lines.total()
        if self._lines[peer] < LINES_PER_PEER_MAX and everybody < LINES_MAX:
            self._lines[peer] += 1
            return True
        who = peer if everybody < LINES_MAX else "many at once"
        if who not in self._silenced:  # at most one for each of `LINES_MAX` peers, and one for all
            self._silenced.add(who)
            _log.warning("%s: refused for so many reasons that the others are only counted for a while", who)
        return False
