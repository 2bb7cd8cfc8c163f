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
"""Lines that all cause together: a stranger with a whole network of addresses is no different."""

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
        self._lines: Counter[str] = Counter()
        self._silenced: set[str] = set()
        self._window_s = now()

    def note(self, peer: str, reason: str) -> None:
        """Count a refusal and log it if it is new. `peer`: a short node id or a host."""
        self.total += 1
        key, now_s = (peer, _NUMBERS.sub("#", reason)), self._now()
        said_s, silent = self._said.get(key, (-AGAIN_AFTER_S, 0))
        if now_s - said_s < AGAIN_AFTER_S:
            self._said[key] = (said_s, silent + 1)
            return
        if not self._has_room(peer, now_s):
            return
        more = f" ({silent} more of these since)" if silent else ""
        _log.warning("%s: %s%s", peer, reason, more)
        self._said[key] = (now_s, 0)
        self._said.move_to_end(key)
        if len(self._said) > REMEMBERED_MAX:
            self._said.popitem(last=False)

    def _has_room(self, peer: str, now_s: float) -> bool:
        """Take a line of the peer's and of everybody's share; say once when there is none left."""
        if now_s - self._window_s >= AGAIN_AFTER_S:
            self._lines.clear()
            self._silenced.clear()
            self._window_s = now_s
        everybody = self._lines.total()
        if self._lines[peer] >= LINES_PER_PEER_MAX or everybody >= LINES_MAX:
            who = peer if everybody < LINES_MAX else "strangers and peers"
            if who not in self._silenced and len(self._silenced) < LINES_MAX:
                self._silenced.add(who)
                _log.warning("%s: refused for so many reasons that the others are only counted for a while", who)
            return False
        self._lines[peer] += 1
        return True
