"""Which members keep a vault's index when nobody says so? Knows no record, no link and not who is alive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

from meshhold.model.ids import NodeId

REPLICAS_WANTED: Final = 3
"""One may fail, and nobody waits for more than one other machine."""


class Candidate(Protocol):
    """What the choice needs to know of a trusted member."""

    @property
    def id(self) -> NodeId:
        """The node."""

    @property
    def zone(self) -> str:
        """Machines that fail together share one."""

    @property
    def reliable(self) -> bool:
        """Whether it stays on."""


def choose_replicas(
    candidates: Sequence[Candidate], current: Sequence[NodeId], wanted: int = REPLICAS_WANTED
) -> list[NodeId]:
    """Return up to `wanted` of the candidates: reliable ones, those that keep the index already, then distinct zones.

    Unreliable ones are taken only where there is no other, and `current` is returned where there is nobody at all, so
    that an index never has no keeper. The same arguments give the same answer on every node, whatever the order of
    `candidates`; without a change of the facts a second choice keeps the first.
    """
    known = {each.id: each for each in candidates}
    fit = {node: each for node, each in known.items() if each.reliable} or known
    keeping = [node for node in dict.fromkeys(current) if node in fit]
    chosen: list[NodeId] = []
    zones: Counter[str] = Counter()
    for pool in (keeping, sorted(fit.keys() - set(keeping))):
        rest = list(pool)
        while rest and len(chosen) < wanted:
            best = min(rest, key=lambda node: zones[fit[node].zone])  # of equals the first: pools are in order
            rest.remove(best)
            chosen.append(best)
            zones[fit[best].zone] += 1
    return chosen or list(current)
