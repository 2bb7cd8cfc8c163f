"""Which machines may keep a vault's chunks, and which of them are here? Reads records, membership and links.

A machine that was given up with what it had (`remove-member --gone`) and comes back is no member. To itself it is one
that is leaving, so that repair moves what it has to those that are, as from any that leaves; to these it is nobody to
fetch from or to count on, but they take what it hands over. One that was removed otherwise was emptied first, by people
who may not trust it any more: nobody listens to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from meshhold.model.ids import NodeId, VaultId
from meshhold.registry.record import Kind
from meshhold.registry.state import Registry
from meshhold.replication.chunks.holders import Keeper
from meshhold.store.nodes import Nodes


class Presence(Protocol):
    """Whoever knows of links and of membership."""

    def is_linked(self, node: NodeId) -> bool:
        """Tell whether there is a link to the node now."""

    def is_alive(self, node: NodeId) -> bool:
        """Tell whether membership believes that the node runs."""

    def rtt_s(self, node: NodeId) -> float | None:
        """Return the round trip to a node, None while it is not measured."""


class VaultKeepers:
    """The facts that `Holders` goes by.

    `me` is this node and `capacity` what it offers, for a node whose own record is not written yet. Absence counts from
    the start of this process at the earliest: what was before is not known.
    """

    def __init__(
        self,
        registry: Registry,
        nodes: Nodes,
        presence: Presence,
        me: NodeId,
        capacity: Callable[[], int],
        *,
        now_s: Callable[[], float] = trio.current_time,
    ) -> None:
        self._registry = registry
        self._nodes = nodes
        self._presence = presence
        self._me = me
        self._capacity = capacity
        self._now_s = now_s
        self._seen_s: dict[NodeId, float] = {}

    def keepers(self, vault: VaultId) -> Sequence[Keeper]:
        """Return the vault's members, none of them banned; and this node if it was given up and came back."""
        found = [self._keeper(self._me, leaving=True)] if self._was_given_up(vault, self._me) else []
        for record in self._registry.live(Kind.MEMBER):
            node = NodeId(record.key.split("/", 1)[1])
            if record.scope == vault and not self._nodes.is_banned(node):
                found.append(self._keeper(node, leaving=record.public.get("leaving") is True))
        return found

    def _keeper(self, node: NodeId, *, leaving: bool) -> Keeper:
        facts = self._nodes.facts(node)
        if facts is None:  # a node that was never in a mesh has no record of itself; of others it comes in a moment
            return Keeper(node, self._capacity() if node == self._me else 1, "", node == self._me, leaving)
        return Keeper(node, facts.room, facts.zone, facts.reliable, leaving or facts.draining)

    def factor(self, vault: VaultId) -> int | None:
        """Return how many copies each chunk of the vault is to have; None for an unknown vault."""
        record = self._registry.get(Kind.VAULT, vault)
        return None if record is None else int(record.public["replication_factor"])

    def is_member(self, vault: VaultId, node: NodeId) -> bool:
        """Tell whether a node is a member of the vault, trusted or not, and not banned."""
        return self._registry.get(Kind.MEMBER, f"{vault}/{node}") is not None and not self._nodes.is_banned(node)

    def may_hand_over(self, vault: VaultId, node: NodeId) -> bool:
        """Tell whether a node may give what it has of a vault to its members: it is one, or was given up with it."""
        return self.is_member(vault, node) or self._was_given_up(vault, node)

    def vaults(self) -> list[VaultId]:
        """Return the vaults that this node is a member of, or was until it was given up; it need not open them."""
        mine = (r for r in self._registry.live(Kind.MEMBER) if r.key.split("/", 1)[1] == self._me)
        found = [VaultId(r.scope) for r in mine if self._registry.get(Kind.VAULT, r.scope) is not None]
        return found + self.given_up()

    def given_up(self) -> list[VaultId]:
        """Return the vaults of which this node may have chunks, since it was given up with what it had."""
        mine = (VaultId(r.scope) for r in self._registry.deleted(Kind.MEMBER) if r.key.split("/", 1)[1] == self._me)
        return [vault for vault in mine if self._was_given_up(vault, self._me)]

    def _was_given_up(self, vault: VaultId, node: NodeId) -> bool:
        record = self._registry.known(Kind.MEMBER, f"{vault}/{node}")
        is_gone = record is not None and record.deleted and record.public.get("gone") is True
        return is_gone and self._registry.get(Kind.VAULT, vault) is not None and not self._nodes.is_banned(node)

    def is_live(self, node: NodeId) -> bool:
        """Tell whether a node can be asked right now."""
        return self._presence.is_linked(node)

    def away_s(self, node: NodeId) -> float:
        """Return for how long a node has not been seen, as far as this process knows."""
        now_s = self._now_s()
        if node == self._me or self._presence.is_linked(node) or self._presence.is_alive(node):
            self._seen_s[node] = now_s
        return now_s - self._seen_s.setdefault(node, now_s)

    def rtt_s(self, node: NodeId) -> float | None:
        """Return the round trip to a node, None while it is not measured."""
        return self._presence.rtt_s(node)
