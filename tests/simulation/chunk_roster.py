"""Who is a member of the simulated vault, as records that spread by and by. Knows no link; decides no change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from meshhold.model.ids import NodeId, VaultId
from meshhold.placement.planner import BITS_MIN, plan_ring
from meshhold.placement.ring import Ring, RingMember
from meshhold.replication.chunks.holders import Keeper, View

RING_BITS: Final = max(BITS_MIN, 6)
"""Some chunks in each partition: what goes wrong with one of a partition can go wrong with its neighbours."""


@dataclass(frozen=True, slots=True)
class Roster:
    """One state of the records: members in order of node id, whom the vault trusts, and how many copies it wants."""

    version: int
    factor: int
    members: tuple[Keeper, ...]
    trusted: frozenset[NodeId]

    @property
    def nodes(self) -> frozenset[NodeId]:
        """All members."""
        return frozenset(keeper.node for keeper in self.members)

    @property
    def staying(self) -> tuple[Keeper, ...]:
        """Those that are not leaving."""
        return tuple(keeper for keeper in self.members if not keeper.leaving)

    def with_factor(self, factor: int) -> Roster:
        """Return the next state, with another factor."""
        return replace(self, version=self.version + 1, factor=factor)

    def with_member(self, keeper: Keeper, *, trusted: bool) -> Roster:
        """Return the next state, with a member that is new or changed."""
        others = [each for each in self.members if each.node != keeper.node]
        mine = frozenset([keeper.node]) if trusted else frozenset()
        return replace(
            self,
            version=self.version + 1,
            members=tuple(sorted([*others, keeper])),
            trusted=self.trusted - {keeper.node} | mine,
        )

    def without(self, node: NodeId) -> Roster:
        """Return the next state, without a member."""
        members = tuple(each for each in self.members if each.node != node)
        return replace(self, version=self.version + 1, members=members, trusted=self.trusted - {node})

    def keeper(self, node: NodeId) -> Keeper | None:
        """Return one member's record."""
        return next((each for each in self.members if each.node == node), None)


class RosterFacts:
    """The facts that one node goes by: the records it has heard of, and whom it sees. `roster` tells the former.

    Absence counts from the first look on, as a process that has just begun knows nothing of before.
    """

    def __init__(
        self,
        me: NodeId,
        roster: Callable[[], Roster],
        linked: Callable[[], Sequence[NodeId]],
        now_s: Callable[[], float],
    ) -> None:
        self._me = me
        self._roster = roster
        self._linked = linked
        self._now_s = now_s
        self._seen_s: dict[NodeId, float] = {}

    def keepers(self, _: VaultId) -> Sequence[Keeper]:
        """Return the members."""
        return self._roster().members

    def factor(self, _: VaultId) -> int | None:
        """Return how many copies there are to be."""
        return self._roster().factor

    def is_live(self, node: NodeId) -> bool:
        """Tell whether there is a link to a node."""
        return node in self._linked()

    def away_s(self, node: NodeId) -> float:
        """Return for how long a node has not been seen."""
        now_s = self._now_s()
        if node == self._me or self.is_live(node):
            self._seen_s[node] = now_s
        return now_s - self._seen_s.setdefault(node, now_s)

    def rtt_s(self, node: NodeId) -> float | None:
        """Return a round trip that is a different one for each pair of nodes."""
        return (hash_pair(self._me, node) % 100 + 1) / 1000


def hash_pair(one: str, other: str) -> int:
    """Return a number that is the same whoever of the two asks."""
    return sum(map(ord, one[:8] + other[:8]))


@cache
def plan(members: tuple[RingMember, ...]) -> Ring:
    """Return the ring of these members, planned once for all nodes: planning is pure."""
    return plan_ring(members, bits=RING_BITS)


def view_of(roster: Roster) -> View:
    """Return who is to keep what once all is well: nobody is stood in for."""
    staying = roster.staying or roster.members
    chosen = [keeper for keeper in staying if keeper.reliable] or staying
    ring = plan(tuple(sorted(RingMember(keeper.node, keeper.capacity, keeper.zone) for keeper in chosen)))
    extra = tuple(sorted(roster.nodes - {keeper.node for keeper in chosen}))
    return View(ring, roster.factor, frozenset(), extra, "")
