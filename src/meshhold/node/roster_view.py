"""What does this node know of each node of its mesh, as people see it? Reads membership, links and records."""

from __future__ import annotations

import trio

from meshhold.admin.services import NodeView
from meshhold.errors import NotFoundError
from meshhold.membership.machine import Membership
from meshhold.membership.member import Member
from meshhold.model.ids import NodeId, short_id
from meshhold.peering.links import Peering
from meshhold.store.nodes import NodeFacts, Nodes


class RosterView:
    """One look at the mesh. Without `membership` and `peering` (no mesh runs) every other node counts as dead."""

    def __init__(self, me: NodeFacts, nodes: Nodes, membership: Membership | None, peering: Peering | None) -> None:
        self._me = me
        self._nodes = nodes
        self._membership = membership
        self._peering = peering

    def views(self) -> list[NodeView]:
        """Return every node that is known, this one first, then by name."""
        known = {facts.id: facts for facts in self._nodes.all()}
        if self._membership is not None:
            known |= {entry.member.node: facts_of(entry.member) for entry in self._membership.entries()}
        known.setdefault(self._me.id, self._me)
        views = [self._view(facts) for facts in known.values()]
        return sorted(views, key=lambda view: (not view.is_me, view.name, view.id))

    def view(self, ref: str) -> NodeView:
        """Return one node's view, by name or unique prefix of its id. Errors: `NotFoundError`, `InvalidError`."""
        views = self.views()
        exact = [view for view in views if ref in (view.id, view.name)]
        found = exact or [view for view in views if ref and view.id.startswith(ref)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFoundError(f"no node is called {ref!r}", "see `meshhold node list`")
        return self._view(self._nodes.find(ref))

    def _view(self, facts: NodeFacts) -> NodeView:
        is_me = facts.id == self._me.id
        entry = self._membership.entry(facts.id) if self._membership is not None else None
        rtt_s = self._peering.rtt_s(facts.id) if self._peering is not None else None
        state = "alive" if is_me else str(entry.state) if entry is not None else "dead"
        since_s = None if entry is None or is_me else max(0.0, trio.current_time() - entry.since_s)
        accusers = self._membership.accusers(facts.id) if self._membership is not None else ()
        return NodeView(
            id=facts.id,
            name=facts.name,
            state=state,
            is_me=is_me,
            route=self._route(facts.id, is_me=is_me),
            rtt_ms=None if rtt_s is None else round(rtt_s * 1000, 2),
            zone=facts.zone,
            capacity=facts.capacity,
            reliable=facts.reliable,
            version=facts.version,
            addresses=facts.addresses,
            last_seen_s=0.0 if state == "alive" and not is_me else since_s,
            suspected_by=tuple(short_id(each) for each in accusers),
        )

    def _route(self, node: NodeId, *, is_me: bool) -> str:
        if self._peering is None:
            return "none"
        if is_me:
            return "listening" if self._peering.addresses else "none"
        links = [link for link in self._peering.links() if link.peer == node]
        if any(link.via is None for link in links):
            return "direct"
        for link in links:
            if link.via is not None:
                facts = self._nodes.facts(link.via)
                return f"relayed via {facts.name if facts else short_id(link.via)}"
        return "none"


def facts_of(member: Member) -> NodeFacts:
    """Return what a member's statement says, as a record would."""
    return NodeFacts(
        id=member.node,
        name=member.name,
        addresses=member.addresses,
        zone=member.zone,
        capacity=member.capacity,
        reliable=member.reliable,
        version=member.version,
    )
