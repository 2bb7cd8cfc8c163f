"""Which rumors ride on the next message? Those sent least often, each a bounded number of times. Knows no member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshhold.membership.messages import RUMORS_MAX, News, Rumor, size_bytes
from meshhold.model.ids import NodeId

QUEUE_MAX: Final = 8192
"""Rumors waiting at once; beyond it those sent most often give way. Twice the largest roster."""

TAKEN_MAX: Final = RUMORS_MAX // 2
"""Leaves room in a message for what is said to its receiver alone."""
_MISSES_MAX: Final = 4  # when so many do not fit, searching the queue for a smaller one costs more than it gains


@dataclass(slots=True)
class _Waiting:
    rumor: Rumor
    size: int
    sent: int = 0


class Rumors:
    """A queue of rumors. A new one about a member takes the place of the older one about it."""

    def __init__(self, queue_max: int = QUEUE_MAX) -> None:
        self._queue_max = queue_max
        self._waiting: dict[NodeId | bytes, _Waiting] = {}
        self._levels: list[dict[NodeId | bytes, None]] = [{}]  # by times sent; within one, in order of arrival

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, rumor: Rumor) -> None:
        """Begin to spread it."""
        key = _key(rumor)
        self.drop(key)
        if len(self._waiting) >= self._queue_max:
            self._evict()
        self._waiting[key] = _Waiting(rumor, size_bytes(rumor))
        self._levels[0][key] = None

    def drop(self, key: NodeId | bytes) -> None:
        """Stop spreading what is said about this member (or these news)."""
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            del self._levels[waiting.sent][key]

    def take(self, size_bytes_max: int, sends_max: int) -> tuple[Rumor, ...]:
        """Return what fits into `size_bytes_max`, and count it as sent; the `sends_max`-th time is the last."""
        if not self._waiting:
            return ()
        taken: list[tuple[NodeId | bytes, _Waiting]] = []
        room, misses = size_bytes_max, 0
        for key in (key for level in self._levels for key in level):
            waiting = self._waiting[key]
            if waiting.size <= room:
                taken.append((key, waiting))
                room -= waiting.size
            else:
                misses += 1
            if misses > _MISSES_MAX or len(taken) == TAKEN_MAX:
                break
        for key, waiting in taken:
            self._count(key, waiting, sends_max)
        return tuple(waiting.rumor for _, waiting in taken)

    def _count(self, key: NodeId | bytes, waiting: _Waiting, sends_max: int) -> None:
        del self._levels[waiting.sent][key]
        waiting.sent += 1
        if waiting.sent >= sends_max:
            del self._waiting[key]
            return
        while len(self._levels) <= waiting.sent:
            self._levels.append({})
        self._levels[waiting.sent][key] = None

    def _evict(self) -> None:
        level = next(level for level in reversed(self._levels) if level)
        self.drop(next(iter(level)))


def _key(rumor: Rumor) -> NodeId | bytes:
    return rumor.ident if isinstance(rumor, News) else rumor.node
