"""Which connections lead to whom, and which of several to one node is used? Decides; runs nothing.

Two nodes that dial each other at once get two connections. Both sides know the same facts of each, so both choose the
same one: a direct one before a relayed one, then that whose dialler has the smaller id, and of two such, the later
dial. The others end once nothing is in progress on them. A peer that was started anew (another instance) has none of
the old connections any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

from meshhold.model.ids import NodeId

LINKS_PER_PEER_MAX: Final = 4
"""Two come from dialling each other, one more from a connection that only one side knows to be lost."""


class Contending(Protocol):
    """What is asked of a connection."""

    peer: NodeId
    via: NodeId | None
    is_dialed: bool
    dial: int
    instance: bytes

    @property
    def is_usable(self) -> bool:
        """Whether something may be begun on it."""


_Link = TypeVar("_Link", bound=Contending)


class LinkTable(Generic[_Link]):
    """The open connections of one node."""

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._links: dict[NodeId, list[_Link]] = {}

    def __iter__(self) -> Iterator[_Link]:
        """Yield every connection."""
        for links in self._links.values():
            yield from links

    def of(self, peer: NodeId) -> list[_Link]:
        """Return the connections to one peer."""
        return list(self._links.get(peer, ()))

    def add(self, link: _Link) -> tuple[bool, list[_Link], list[_Link]]:
        """Add a connection.

        Return whether the peer had none, those that ended with the peer's last run, and those that may be alive.
        """
        others = self._links.setdefault(link.peer, [])
        stale = [other for other in others if other.instance != link.instance]
        rivals = [other for other in others if other.instance == link.instance]
        others.append(link)
        return len(others) == 1, stale, rivals

    def remove(self, link: _Link) -> bool:
        """Remove a connection; return whether it was the peer's last."""
        links = self._links.get(link.peer, [])
        if link in links:
            links.remove(link)
            if not links:
                del self._links[link.peer]
                return True
        return False

    def best(self, peer: NodeId) -> _Link | None:
        """Return the connection to use, None if there is none on which anything may be begun."""
        usable = [link for link in self._links.get(peer, ()) if link.is_usable]
        return max(usable, key=self._rank, default=None)

    def losers(self, peer: NodeId) -> list[_Link]:
        """Return the connections that are superfluous beside the best."""
        best = self.best(peer)
        return [link for link in self.of(peer) if link is not best and best is not None]

    def _rank(self, link: _Link) -> tuple[bool, bool, int]:
        return link.via is None, link.is_dialed is (self._me < link.peer), link.dial
