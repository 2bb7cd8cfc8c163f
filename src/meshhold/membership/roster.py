"""What is believed of each member? Entries, their merge law, and digests of them. Knows no clock: callers pass `now_s`.

The law: of two beliefs about one node the higher incarnation wins; within one incarnation the graver state
(left > dead > suspect > alive); of two statements with one incarnation and state (only a copied identity makes them)
the smaller proof: without meaning, but the same everywhere. So merging commutes, associates and is idempotent.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from meshhold.membership.chance import Chance
from meshhold.membership.member import ALIVE, DEAD, LEFT, SUSPECT, Member, State
from meshhold.membership.messages import BUCKETS
from meshhold.model.ids import NodeId

_GRAVITY: Final = {ALIVE: 0, SUSPECT: 1, DEAD: 2, LEFT: 3}


@dataclass(frozen=True, slots=True)
class Entry:
    """A belief, held since `since_s`. `former_life` is the life before this one, which never returns.

    `remembered` marks what only this node's disk says after a restart: shown as dead, told to nobody.
    """

    member: Member
    state: State
    since_s: float
    former_life: bytes = b""
    remembered: bool = False

    @property
    def is_live(self) -> bool:
        """Tell whether it is still probed and counted: a suspect is, until its deadline."""
        return self.state is ALIVE or self.state is SUSPECT

    def turned(self, state: State, now_s: float) -> Entry:
        """Return the belief that the member is in this state since now."""
        return Entry(self.member, state, now_s, self.former_life, self.remembered)


def merge(one: tuple[Member, State], other: tuple[Member, State]) -> tuple[Member, State]:
    """Return the belief that wins, by the law above. Both must be about one node."""
    return max(one, other, key=_rank)


def beats(one: tuple[Member, State], other: tuple[Member, State]) -> bool:
    """Tell whether `one` wins over `other` and says something else."""
    return _rank(one) > _rank(other)


def bucket_of(node: NodeId) -> int:
    """Return the part of the digest that the node belongs to. Anything even and the same everywhere would do."""
    return crc32(node.encode()) % BUCKETS


class Roster:
    """All entries of one node, its own included."""

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._entries: dict[NodeId, Entry] = {}
        self.get: Callable[[NodeId], Entry | None] = self._entries.get
        """Returns what is believed of a node, or None if it is not known. No method: it is called for each rumor."""
        self._parts: list[list[NodeId]] = [[] for _ in range(BUCKETS)]
        self.live: list[NodeId] = []
        """The others that are alive or suspect, in the order of their ids."""
        self.dead: dict[NodeId, Entry] = {}
        """In the order in which they died, and so are `left`."""
        self.left: dict[NodeId, Entry] = {}
        self.marks = [0] * BUCKETS

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    @property
    def size(self) -> int:
        """How many nodes live in the mesh, this one included: `n` in every formula."""
        return len(self.live) + 1

    def put(self, entry: Entry) -> None:
        """Believe this of its node from now on."""
        node = entry.member.node
        before = self._entries.get(node)
        self._entries[node] = entry
        if before is None:
            self._parts[bucket_of(node)].append(node)
        elif before.is_live and entry.is_live:
            if before.member is not entry.member:
                self.marks[bucket_of(node)] ^= before.member.mark ^ entry.member.mark
            return
        else:
            self._remove(before)
        if entry.is_live:
            self.marks[bucket_of(node)] ^= entry.member.mark
            if node != self._me:
                insort(self.live, node)
        else:
            (self.dead if entry.state is DEAD else self.left)[node] = entry

    def drop(self, node: NodeId) -> None:
        """Forget the node."""
        entry = self._entries.pop(node, None)
        if entry is not None:
            self._parts[bucket_of(node)].remove(node)
            self._remove(entry)

    def forget(self, before_s: float) -> None:
        """Forget the dead and the left that are so since before `before_s`."""
        for gone in (self.dead, self.left):
            while gone and next(iter(gone.values())).since_s < before_s:
                self.drop(next(iter(gone)))

    def _remove(self, entry: Entry) -> None:
        """Take the entry out of what sums the entries up."""
        node = entry.member.node
        if not entry.is_live:
            del (self.dead if entry.state is DEAD else self.left)[node]
            return
        self.marks[bucket_of(node)] ^= entry.member.mark
        if node != self._me:
            del self.live[bisect_left(self.live, node)]

    def neighbour(self) -> NodeId | None:
        """Return the live member whose id follows this node's, around the end: the one it watches."""
        if not self.live:
            return None
        return self.live[bisect_right(self.live, self._me) % len(self.live)]

    def sample(self, count: int, rng: Chance, without: NodeId | None = None) -> list[NodeId]:
        """Return up to `count` different members that are alive and are not `without`."""
        drawn = rng.sample(self.live, min(len(self.live), count + 3))  # some may be suspect or `without`
        return [node for node in drawn if node != without and self._entries[node].state is ALIVE][:count]

    def in_buckets(self, indexes: Iterable[int]) -> dict[int, list[Entry]]:
        """Return what may be told of the members in these parts of the digest."""
        return {
            index: [entry for node in self._parts[index] if not (entry := self._entries[node]).remembered]
            for index in indexes
        }


def _rank(belief: tuple[Member, State]) -> tuple[int, int, int]:
    member, state = belief
    return member.incarnation, _GRAVITY[state], -int.from_bytes(member.proof)
