"""Has this been said already? Keeps a log readable while somebody knocks a thousand times a second."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

AGAIN_AFTER_S: Final = 300.0
REMEMBERED_MAX: Final = 1_024
"""Pairs of peer and reason; beyond it the oldest is forgotten, and would be said again."""

_log = logging.getLogger("meshhold.peering")


class Refusals:
    """Logs each pair of peer and reason once in five minutes, with how often it came meanwhile."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.total = 0
        self._now = now
        self._said: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def note(self, peer: str, reason: str) -> None:
        """Count a refusal and log it if it is new. `peer`: a short node id or a host."""
        self.total += 1
        key, now_s = (peer, reason), self._now()
        said_s, silent = self._said.get(key, (-AGAIN_AFTER_S, 0))
        if now_s - said_s < AGAIN_AFTER_S:
            self._said[key] = (said_s, silent + 1)
            return
        more = f" ({silent} more of these since)" if silent else ""
        _log.warning("%s: %s%s", peer, reason, more)
        self._said[key] = (now_s, 0)
        self._said.move_to_end(key)
        if len(self._said) > REMEMBERED_MAX:
            self._said.popitem(last=False)
