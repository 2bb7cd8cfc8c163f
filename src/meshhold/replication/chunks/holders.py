"""Who is to keep a vault's chunks now, and who may have some besides? Knows rings and absences; no link and no chunk.

Two nodes that know the same members, factor and absences come to the same view, and its version says so. Nothing binds
them to it: a copy is removed only where those who are to keep it have confirmed it by the same version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from meshhold.crypto.hashing import hash_bytes
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.placement.planner import plan_ring
from meshhold.placement.ring import CAPACITY_BYTES_MAX, Ring, RingMember

OUT_AFTER_S: Final = 3600.0
"""A machine that is away for so long is stood in for: long enough for an update or a move to another shelf."""
_VERSION_BYTES: Final = 8


class Keeper(NamedTuple):
    """A member of a vault. `capacity` in bytes; `leaving`: its copies are to go elsewhere, it takes no new ones."""

    node: NodeId
    capacity: int
    zone: str
    reliable: bool = True
    leaving: bool = False


class Facts(Protocol):
    """What is known of the members of vaults."""

    def keepers(self, vault: VaultId) -> Sequence[Keeper]:
        """Return the vault's members, this node too if it is one, in any order."""

    def factor(self, vault: VaultId) -> int | None:
        """Return how many copies each chunk of the vault is to have; None for an unknown vault."""

    def is_live(self, node: NodeId) -> bool:
        """Tell whether a node can be asked right now; this one always can."""

    def away_s(self, node: NodeId) -> float:
        """Return for how long a node has not been seen, 0 while it is."""

    def rtt_s(self, node: NodeId) -> float | None:
        """Return the round trip to a node, None while it is not measured."""


@dataclass(frozen=True, slots=True)
class View:
    """Who keeps the chunks of one vault.

    `out`: ring members that are stood in for. `extra`: members outside of the ring, which may have copies all the same.
    `is_leaving`: this node is to hand over all that it has, and takes nothing any more.
    `version` is the same on two nodes if and only if ring, factor and `out` are.
    """

    ring: Ring
    factor: int
    out: frozenset[NodeId]
    extra: tuple[NodeId, ...]
    version: str
    is_leaving: bool = False
    _holders: dict[int, tuple[NodeId, ...]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def bits(self) -> int:
        """How many bits of a chunk's id tell its partition."""
        return self.ring.bits

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Every node that may have copies."""
        return (*(member.node for member in self.ring.members), *self.extra)

    @property
    def wanted(self) -> int:
        """How many copies there are to be: the factor, or one on each member that is not out where those are fewer."""
        present = sum(member.node not in self.out for member in self.ring.members)
        return min(self.factor, present or len(self.ring.members))

    def holders_in(self, partition: int) -> tuple[NodeId, ...]:
        """Return who is to keep a partition's chunks: the first of its order that are not out."""
        found = self._holders.get(partition)
        if found is None:
            order = self.ring.order_in(partition)
            present = [node for node in order if node not in self.out] or order
            found = self._holders[partition] = tuple(present[: self.factor])
        return found

    def holders(self, chunk: ChunkId) -> tuple[NodeId, ...]:
        """Return who is to keep a chunk."""
        return self.holders_in(self.ring.partition_of(chunk))

    def order(self, chunk: ChunkId) -> list[NodeId]:
        """Return all ring members in the order in which they take a chunk, then the others."""
        return [*self.ring.order(chunk), *self.extra]


class Holders:
    """The views of all vaults that this node is a member of.

    `changed` is called with a vault whose view is another one than before. Resources: borrows its facts.
    """

    def __init__(
        self,
        facts: Facts,
        me: NodeId,
        *,
        out_after_s: float = OUT_AFTER_S,
        changed: Callable[[VaultId], None] = lambda _vault: None,
    ) -> None:
        self.me = me
        self._facts = facts
        self._out_after_s = out_after_s
        self._changed = changed
        self._views: dict[VaultId, View | None] = {}
        self._rings: dict[tuple[RingMember, ...], Ring] = {}

    def view(self, vault: VaultId) -> View | None:
        """Return the vault's view, or None if this node is no member."""
        if vault not in self._views:
            self._views[vault] = self._look(vault)
        return self._views[vault]

    def is_leaving(self, vault: VaultId) -> bool:
        """Tell whether this node is to hand over all that it has of the vault."""
        view = self.view(vault)
        return view is not None and view.is_leaving

    def known(self) -> list[VaultId]:
        """Return the vaults that somebody asked about."""
        return list(self._views)

    def is_live(self, node: NodeId) -> bool:
        """Tell whether a node can be asked right now."""
        return node == self.me or self._facts.is_live(node)

    def rtt_s(self, node: NodeId) -> float | None:
        """Return the round trip to a node, 0 to this one, None while it is not measured."""
        return 0.0 if node == self.me else self._facts.rtt_s(node)

    def refresh(self, vaults: Iterable[VaultId] | None = None) -> None:
        """Look at the facts again: records have changed, or time has passed."""
        for vault in dict.fromkeys(self._views if vaults is None else vaults):
            before, after = self._views.get(vault), self._look(vault)
            self._views[vault] = after
            if before is None and after is None:
                del self._views[vault]  # deleted, or not this node's: many of these come together over the years
            if (before and before.version) != (after and after.version):
                self._changed(vault)
        used = {view.ring.members for view in self._views.values() if view is not None}
        self._rings = {members: ring for members, ring in self._rings.items() if members in used}

    def _look(self, vault: VaultId) -> View | None:
        keepers, factor = self._facts.keepers(vault), self._facts.factor(vault)
        if factor is None or all(keeper.node != self.me for keeper in keepers):
            return None
        staying = [keeper for keeper in keepers if not keeper.leaving] or list(keepers)
        chosen = [keeper for keeper in staying if keeper.reliable] or staying
        members = tuple(sorted(RingMember(k.node, min(max(k.capacity, 1), CAPACITY_BYTES_MAX), k.zone) for k in chosen))
        ring = self._rings.get(members)
        if ring is None:
            ring = self._rings[members] = plan_ring(members)
        nodes = {member.node for member in members}
        away = {node for node in nodes if node != self.me and self._facts.away_s(node) >= self._out_after_s}
        out = frozenset(away if away != nodes else ())
        extra = tuple(sorted(keeper.node for keeper in keepers if keeper.node not in nodes))
        return View(ring, factor, out, extra, _version(ring, factor, out), all(k.node != self.me for k in staying))


def _version(ring: Ring, factor: int, out: frozenset[NodeId]) -> str:
    facts = " ".join([ring.version, str(factor), *sorted(out)])
    return hash_bytes(facts.encode())[:_VERSION_BYTES].hex()
