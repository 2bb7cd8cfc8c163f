"""Which rumors ride on the next message? Those sent least often, each a bounded number of times. Knows no member."""

from __future__ import annotations

from typing import Final

from meshhold.membership.messages import RUMORS_MAX, News, Rumor, size_bytes
from meshhold.model.ids import NodeId

QUEUE_MAX: Final = 8192
"""Rumors waiting at once; beyond it those sent most often give way. Twice the largest roster."""

TAKEN_MAX: Final = RUMORS_MAX // 2
"""Leaves room in a message for what is said to its receiver alone."""
_MISSES_MAX: Final = 4  # when so many do not fit, searching the queue for a smaller one costs more than it gains


_Key = NodeId | bytes


class Rumors:
    """A queue of rumors. A new one about a member takes the place of the older one about it."""

    def __init__(self, queue_max: int = QUEUE_MAX) -> None:
        self._queue_max = queue_max
        self._sent: dict[_Key, int] = {}
        self._levels: list[dict[_Key, tuple[Rumor, int]]] = [{}]
        """Rumors and their sizes by times sent; within one level in order of arrival."""

    def __len__(self) -> int:
        return len(self._sent)

    def add(self, rumor: Rumor) -> None:
        """Begin to spread it."""
        key = _key(rumor)
        self.drop(key)
        if len(self._sent) >= self._queue_max:
            self._evict()
        self._sent[key] = 0
        self._levels[0][key] = rumor, size_bytes(rumor)

    def drop(self, key: _Key) -> None:
        """Stop spreading what is said about this member (or these news)."""
        sent = self._sent.pop(key, None)
        if sent is not None:
            del self._levels[sent][key]

    def take(self, size_bytes_max: int, sends_max: int) -> tuple[Rumor, ...]:
        """Return what fits into `size_bytes_max`, and count it as sent; the `sends_max`-th time is the last."""
        if not self._sent:
            return ()
        taken: list[Rumor] = []
        room, misses = size_bytes_max, 0
        moved: list[tuple[int, list[_Key]]] = []
        for sent, level in enumerate(self._levels):
            if not level:
                continue
            keys: list[_Key] = []
            for key, (rumor, size) in level.items():
                if size > room:
                    misses += 1
                    if misses > _MISSES_MAX:
                        break
                    continue
                keys.append(key)
                taken.append(rumor)
                room -= size
                if len(taken) == TAKEN_MAX:
                    break
            moved.append((sent, keys))
            if misses > _MISSES_MAX or len(taken) == TAKEN_MAX:
                break
        for sent, keys in moved:
            self._count(sent, keys, sends_max)
        return tuple(taken)

    def _count(self, sent: int, keys: list[_Key], sends_max: int) -> None:
        """Move these of one level to the next, or drop them after their last time."""
        level, counts = self._levels[sent], self._sent
        if sent + 1 >= sends_max:
            for key in keys:
                del level[key], counts[key]
            return
        if len(self._levels) <= sent + 1:
            self._levels.append({})
        following = self._levels[sent + 1]
        for key in keys:
            following[key] = level.pop(key)
            counts[key] = sent + 1

    def _evict(self) -> None:
        level = next(level for level in reversed(self._levels) if level)
        self.drop(next(iter(level)))


def _key(rumor: Rumor) -> _Key:
    return rumor.ident if isinstance(rumor, News) else rumor.node
