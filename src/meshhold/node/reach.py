"""How the rest of a node reaches the others while there is a mesh. Knows no vault and no meaning of a call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from meshhold.errors import PeerUnreachableError
from meshhold.membership.member import State
from meshhold.model.ids import NodeId
from meshhold.peering.gossip import Gossip
from meshhold.peering.links import Peering
from meshhold.peering.streams import PeerStream


class Reach:
    """Calls, streams, and who is there. `peering` and `gossip` return those of the mesh that runs now, or None."""

    def __init__(self, peering: Callable[[], Peering | None], gossip: Callable[[], Gossip | None]) -> None:
        self._peering = peering
        self._gossip = gossip

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        """Ask a peer; see `Peering.call`. Errors: `PeerUnreachableError` too while there is no mesh."""
        return await self._open().call(peer, name, body, timeout_s=timeout_s)

    @asynccontextmanager
    async def open_stream(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> AsyncIterator[PeerStream]:
        """Open a stream to a peer; see `Peering.open_stream`. Errors: as `call`."""
        async with self._open().open_stream(peer, name, body, timeout_s=timeout_s) as stream:
            yield stream

    def linked(self) -> Sequence[NodeId]:
        """Return the peers that have a link now."""
        peering = self._peering()
        return [] if peering is None else list(dict.fromkeys(link.peer for link in peering.links()))

    def is_linked(self, node: NodeId) -> bool:
        """Tell whether there is a link to a node now."""
        peering = self._peering()
        return peering is not None and peering.is_linked(node)

    def is_alive(self, node: NodeId) -> bool:
        """Tell whether membership believes that a node runs."""
        gossip = self._gossip()
        entry = None if gossip is None else gossip.membership.entry(node)
        return entry is not None and entry.state in {State.ALIVE, State.SUSPECT}

    def rtt_s(self, node: NodeId) -> float | None:
        """Return the round trip to a node in seconds, None while it is not measured."""
        peering = self._peering()
        return None if peering is None else peering.rtt_s(node)

    def _open(self) -> Peering:
        peering = self._peering()
        if peering is None:
            raise PeerUnreachableError("this node is in no mesh", "see `meshhold invite` and `meshhold join`")
        return peering
