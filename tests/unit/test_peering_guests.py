"""Who comes with a pass may redeem it, and nothing else: he is no peer, stays for seconds, and guests are few."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.mesh_nodes import SWARM_KEY, Node, until, virtual_time

from meshhold.errors import CallRefusedError, PeerError, PeerUnreachableError
from meshhold.model.ids import NodeId
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.guests import GUEST_S
from meshhold.peering.links import Peering, open_peering
from meshhold.peering.settings import LinkEvent
from meshhold.transport.memory import MemoryNetwork

PASS = b"p" * 32
OLD_KEY = b"o" * 32


class Host:
    """A node that takes passes; `told` is what its rooms hear of links."""

    def __init__(self) -> None:
        self.node = Node("host")
        self.told: list[LinkEvent] = []
        self.guests = Dispatch()
        self.guests.on_call("admit/1", self._admit)

    async def _admit(self, peer: NodeId, body: Any) -> Any:
        return [peer, body]

    def up(self, network: MemoryNetwork) -> Any:
        """Open its peering; the old key is dialled with too, the pass is not."""
        return open_peering(
            self.node.identity,
            [SWARM_KEY, OLD_KEY, PASS],
            network.transport("host"),
            dispatch=self.node.dispatch,
            listen=["host:7777"],
            watch=self.told.append,
            guest_dispatch=self.guests,
        )


def dialler(network: MemoryNetwork, name: str, key: bytes) -> Any:
    node = Node(name)
    return open_peering(node.identity, [key], network.transport(name), dispatch=node.dispatch)


async def meet(host: Peering, network: MemoryNetwork, name: str, key: bytes, call: str) -> Any:
    """Dial with a key and call once; return the answer, or the kind of the refusal."""
    host.set_swarm_keys([SWARM_KEY, OLD_KEY, PASS], dialed=2)
    async with dialler(network, name, key) as peering:
        peer = await peering.join("host:7777")
        try:
            return await peering.call(peer, call, "x", timeout_s=5)
        except CallRefusedError as error:
            return error.kind


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=1)


@virtual_time
class TestGuests:
    async def test_a_guest_may_redeem_and_nothing_else(self, network: MemoryNetwork) -> None:
        host = Host()
        async with host.up(network) as peering:
            guest = Node("guest").node_id
            assert await meet(peering, network, "guest", PASS, "admit/1") == [guest, "x"]
            assert await meet(peering, network, "other", PASS, "echo/1") == "UnknownCallError"
            assert host.told == []
            for key in (SWARM_KEY, OLD_KEY):  # who has a key of the mesh is a peer, and finds nothing for guests
                assert await meet(peering, network, "peer", key, "echo/1") == "x"
                assert await meet(peering, network, "peer", key, "admit/1") == "UnknownCallError"
            assert len(host.told) > 0

    async def test_a_guest_is_shown_out(self, network: MemoryNetwork) -> None:
        host = Host()
        async with host.up(network) as peering:
            peering.set_swarm_keys([SWARM_KEY, PASS])
            async with dialler(network, "guest", PASS) as guest:
                begun_s = trio.current_time()
                await guest.join("host:7777")
                assert peering.links() == []
                with pytest.raises(PeerUnreachableError):
                    await peering.call(Node("guest").node_id, "echo/1", "x", timeout_s=1)
                await until(lambda: not guest.links(), GUEST_S + 1)
                assert trio.current_time() - begun_s >= GUEST_S

    async def test_guests_are_few(self, network: MemoryNetwork) -> None:
        """A pass that went round among many fills the places of handshakes for its address, and no more."""
        host = Host()
        async with host.up(network) as peering:
            peering.set_swarm_keys([SWARM_KEY, PASS])
            came = 0
            async with trio.open_nursery() as nursery:

                async def come() -> None:
                    nonlocal came
                    async with dialler(network, "crowd", PASS) as guest:
                        try:
                            await guest.join("host:7777")
                        except PeerError:
                            return
                        came += 1
                        await trio.sleep(5)

                for _ in range(30):
                    nursery.start_soon(come)
            assert came == 8
            assert host.told == []
