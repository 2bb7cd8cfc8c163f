"""Who came with a pass in place of the mesh's key? A guest is answered what guests may ask, and is no peer of anybody.

Knows no pass: keys are told apart by their swarm ids. A guest keeps his place among the handshakes, so guests are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from meshhold.errors import PeerUnreachableError
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.link import Link
from meshhold.wire.handshake import swarm_id

GUEST_S: Final = 15.0  # one call and its answer


class Guests:
    """The guests of one node; without a `dispatch` there are none, and whoever has a key that is taken is a peer."""

    def __init__(self, dispatch: Dispatch | None) -> None:
        self.dispatch = dispatch
        self._swarms: frozenset[bytes] = frozenset()

    def set_keys(self, keys: Sequence[bytes]) -> None:
        """Treat whoever comes with one of these keys as a guest."""
        self._swarms = frozenset(map(swarm_id, keys))

    def dispatch_for(self, swarm: bytes, *, is_dialed: bool) -> Dispatch | None:
        """Return what a guest is answered by, None for a peer."""
        return self.dispatch if swarm in self._swarms and not is_dialed else None

    def receive(self, _link: Link) -> None:
        """Take a guest's greeting: nobody is told of it."""

    async def wait_gone(self, link: Link) -> None:
        """Wait until a guest has gone, and show him out after `GUEST_S`. A peer is not waited for."""
        if link.is_guest:
            with trio.move_on_after(GUEST_S):
                await link.closed.wait()
            link.break_off(PeerUnreachableError("a guest has stayed for too long"))
