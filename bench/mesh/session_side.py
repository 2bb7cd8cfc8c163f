"""One side of MeshHold's own session, through the whole of `peering`: what a service that calls another node gets."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any

import trio

from bench.mesh.side import PIECE, Client, drive
from meshhold.crypto.identity import Identity
from meshhold.crypto.noise import has_aes_instructions
from meshhold.model.ids import NodeId
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.links import Peering, open_peering
from meshhold.peering.streams import PeerStream
from meshhold.transport.tcp import TcpTransport

_SWARM_KEY = b"bench-swarm-key-of-32-bytes-long"
_SERVER = Identity(b"1" * 32)
_CLIENT = Identity(b"2" * 32)


async def _echo(_peer: NodeId, body: Any) -> Any:
    return body


async def _sink(_peer: NodeId, size: Any, stream: PeerStream) -> None:
    while piece := await stream.receive_piece():
        size -= len(piece)
    await stream.send_all(b"!" if size == 0 else b"?")
    await stream.send_eof()


async def _serve() -> None:
    dispatch = Dispatch()
    dispatch.on_call("echo/1", _echo)
    dispatch.on_stream("sink/1", _sink)
    opened = open_peering(_SERVER, [_SWARM_KEY], TcpTransport(), dispatch=dispatch, listen=["127.0.0.1:0"])
    async with opened as peering:
        print(peering.addresses[0], flush=True)
        await trio.sleep_forever()


class SessionClient(Client):
    """One link for everything."""

    def __init__(self, peering: Peering, address: str) -> None:
        self._peering = peering
        self._address = address

    async def open(self) -> None:
        """Dial."""
        await self._peering.join(self._address)

    async def bulk(self, pieces: int) -> None:
        """Send the pieces over one stream."""
        size = pieces * len(PIECE)
        async with self._peering.open_stream(_SERVER.node_id, "sink/1", size, timeout_s=10) as stream:
            for _ in range(pieces):
                await stream.send_all(PIECE)
            await stream.send_eof()
            if await stream.receive_all(1) != b"!":
                raise AssertionError("the other side counted other bytes")

    async def call(self, request: bytes) -> bytes:
        """Make one call."""
        answer: bytes = await self._peering.call(_SERVER.node_id, "echo/1", request, timeout_s=10)
        return answer

    async def version(self) -> str:
        """Return the release."""
        cipher = "AES-256-GCM" if has_aes_instructions() else "ChaCha20-Poly1305"
        return f"meshhold {version('meshhold')}, Noise {cipher}"


async def _drive(address: str) -> None:
    async with AsyncExitStack() as stack:
        opened = open_peering(_CLIENT, [_SWARM_KEY], TcpTransport(), dispatch=Dispatch())
        await drive(SessionClient(await stack.enter_async_context(opened), address), True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(_serve)
    else:
        trio.run(_drive, sys.argv[2])
