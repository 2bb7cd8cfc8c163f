"""What has to move when one ring follows another, and how many copies stay if machines go? Knows no byte and no disk.

Amounts are in copies of everything: 0.5 is half of a vault's sealed bytes, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from meshhold.model.ids import NodeId
from meshhold.placement.ring import Ring


@dataclass(frozen=True, slots=True)
class Move:
    """A partition whose holders change. Both lists are in the order of holders; a swap of ranks alone is no move."""

    partition: int
    gain: tuple[NodeId, ...]
    lose: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Moves:
    """All that moves for one factor. `bits` is that of the ring with more partitions, which these are numbers of."""

    bits: int
    changes: tuple[Move, ...]

    @property
    def volume(self) -> float:
        """How much has to be copied."""
        return sum(len(move.gain) for move in self.changes) / (1 << self.bits)

    @property
    def gained(self) -> dict[NodeId, float]:
        """How much each node gets, where that is anything."""
        return self._by_node([node for move in self.changes for node in move.gain])

    @property
    def lost(self) -> dict[NodeId, float]:
        """How much each node can drop once the others have it, where that is anything."""
        return self._by_node([node for move in self.changes for node in move.lose])

    def _by_node(self, nodes: list[NodeId]) -> dict[NodeId, float]:
        return {node: count / (1 << self.bits) for node, count in Counter(nodes).items()}


def plan_moves(old: Ring, new: Ring, factor: int, factor_after: int | None = None) -> Moves:
    """Return what moves from `old` to `new` for a vault of this factor, partition by partition.

    `factor_after` is the factor from then on, where that changes too.
    """
    bits = max(old.bits, new.bits)
    factor_after = factor if factor_after is None else factor_after
    changes = []
    for partition in range(1 << bits):
        before = old.holders_in(partition >> bits - old.bits, factor)
        after = new.holders_in(partition >> bits - new.bits, factor_after)
        if before != after and set(before) != set(after):
            gain = tuple(node for node in after if node not in before)
            lose = tuple(node for node in before if node not in after)
            changes.append(Move(partition, gain, lose))
    return Moves(bits, tuple(changes))


def count_copies(ring: Ring, factor: int, without: Collection[NodeId]) -> list[int]:
    """Return how many copies each partition has left, if all were in place, when these nodes are gone at once."""
    gone = frozenset(without)
    return [
        sum(node not in gone for node in ring.holders_in(partition, factor)) for partition in range(ring.partitions)
    ]
