"""Which rumors ride on the next message? Those sent least often, each a bounded number of times. Knows no member.

Rumors about members and news of other rooms wait in two queues and share each message, so that neither keeps the other
waiting: a mesh of thousands with many lost messages accuses and refutes more than its messages hold, and one that
begins anew has news for all of them.
"""

from __future__ import annotations

from typing import Final

from meshhold.membership.messages import RUMORS_MAX, News, Rumor, size_bytes
from meshhold.model.ids import NodeId

QUEUE_MAX: Final = 8192
"""Rumors waiting at once in one queue; beyond it those sent most often give way. Twice the largest roster."""
TAKEN_MAX: Final = RUMORS_MAX // 2
"""Leaves room in a message for what is said to its receiver alone."""
_MISSES_MAX: Final = 4  # when so many do not fit, searching the queue for a smaller one costs more than it gains


_Key = NodeId | bytes


class Rumors:
    """What one node has still to tell. A new rumor about a member takes the place of the older one about it."""

    def __init__(self, queue_max: int = QUEUE_MAX) -> None:
        self._members = _Queue(queue_max)
        self._news = _Queue(queue_max)

    def __len__(self) -> int:
        return len(self._members.sent) + len(self._news.sent)

    def add(self, rumor: Rumor) -> None:
        """Begin to spread it."""
        if isinstance(rumor, News):
            self._news.add(rumor.ident, rumor)
        else:
            self._members.add(rumor.node, rumor)

    def drop(self, node: NodeId) -> None:
        """Stop spreading what is said about this member."""
        self._members.drop(node)

    def take(self, size_bytes_max: int, sends_max: int) -> tuple[Rumor, ...]:
        """Return what fits into `size_bytes_max`, and count it as sent; the `sends_max`-th time is the last.

        While both kinds wait, news get half of the room and of the places, and members what news leave.
        """
        members, news = self._members, self._news
        if not news.sent:
            return tuple(members.take(size_bytes_max, TAKEN_MAX, sends_max)[0]) if members.sent else ()
        share = 2 if members.sent else 1
        of_news, left = news.take(size_bytes_max // share, TAKEN_MAX // share, sends_max)
        room = size_bytes_max - size_bytes_max // share + left
        of_members, _ = members.take(room, TAKEN_MAX - len(of_news), sends_max)
        return (*of_news, *of_members)


class _Queue:
    """Rumors of one kind. `sent` tells of each how often it was sent."""

    def __init__(self, queue_max: int) -> None:
        self._queue_max = queue_max
        self.sent: dict[_Key, int] = {}
        self._levels: list[dict[_Key, tuple[Rumor, int]]] = [{}]
        """Rumors and their sizes by times sent; within one level in order of arrival."""

    def add(self, key: _Key, rumor: Rumor) -> None:
        """Put it where those wait that were never sent."""
        self.drop(key)
        if len(self.sent) >= self._queue_max:
            self._evict()
        self.sent[key] = 0
        self._levels[0][key] = rumor, size_bytes(rumor)

    def drop(self, key: _Key) -> None:
        """Take it out, if it waits."""
        sent = self.sent.pop(key, None)
        if sent is not None:
            del self._levels[sent][key]

    def take(self, room: int, count_max: int, sends_max: int) -> tuple[list[Rumor], int]:
        """Return at most `count_max` rumors that fit into `room` bytes, counted as sent, and the bytes left over."""
        taken: list[Rumor] = []
        misses = 0
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
                if len(taken) == count_max:
                    break
            moved.append((sent, keys))
            if misses > _MISSES_MAX or len(taken) == count_max:
                break
        for sent, keys in moved:
            self._count(sent, keys, sends_max)
        return taken, room

    def _count(self, sent: int, keys: list[_Key], sends_max: int) -> None:
        """Move these of one level to the next, or drop them after their last time."""
        level, counts = self._levels[sent], self.sent
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
