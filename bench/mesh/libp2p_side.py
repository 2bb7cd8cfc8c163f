"""One side of PyPI's `libp2p` (Noise and yamux, on Trio). Runs in an environment of its own, where only libp2p is."""

from __future__ import annotations

import sys
from importlib.metadata import version

import multiaddr
import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport

from bench.mesh.side import PIECE, SMALL, Client, drive

_ECHO = TProtocol("/bench/echo/1")
_SINK = TProtocol("/bench/sink/1")
_READ = 128 * 1024
_WRITE = 64 * 1024  # what its own examples write at once; yamux cuts it into its frames


def _host() -> IHost:
    pair = create_new_key_pair()
    noise = NoiseTransport(pair, noise_privkey=create_new_x25519_key_pair().private_key)
    return new_host(key_pair=pair, sec_opt={TProtocol(NOISE): noise}, muxer_opt=create_yamux_muxer_option())


async def _exactly(stream: INetStream, size: int) -> bytes:
    got = b""
    while len(got) < size:
        more = await stream.read(size - len(got))
        if not more:
            return b""
        got += more
    return got


async def _echo(stream: INetStream) -> None:
    while request := await _exactly(stream, SMALL):
        await stream.write(request)


async def _sink(stream: INetStream) -> None:
    while head := await _exactly(stream, 8):
        size = int.from_bytes(head, "big")
        while size:
            size -= len(await stream.read(min(_READ, size)))
        await stream.write(b"!")


async def _serve() -> None:
    host = _host()
    host.set_stream_handler(_ECHO, _echo)
    host.set_stream_handler(_SINK, _sink)
    async with host.run(listen_addrs=[multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        address = str(host.get_addrs()[0])
        print(address, flush=True)
        await trio.sleep_forever()


class Libp2pClient(Client):
    """One connection; a stream for bulk and one for each task that calls, kept open: the cheapest way it has."""

    def __init__(self, host: IHost, address: str) -> None:
        self._host = host
        self._info = info_from_p2p_addr(multiaddr.Multiaddr(address))
        self._bulk: INetStream | None = None
        self._idle: list[INetStream] = []

    async def open(self) -> None:
        """Connect."""
        await self._host.connect(self._info)

    async def bulk(self, pieces: int) -> None:
        """Send the pieces and wait until they are received."""
        if self._bulk is None:
            self._bulk = await self._host.new_stream(self._info.peer_id, [_SINK])
        await self._bulk.write((pieces * len(PIECE)).to_bytes(8, "big"))
        for _ in range(pieces):
            for at in range(0, len(PIECE), _WRITE):
                await self._bulk.write(PIECE[at : at + _WRITE])
        await _exactly(self._bulk, 1)

    async def call(self, request: bytes) -> bytes:
        """Send a request and wait for its echo."""
        stream = self._idle.pop() if self._idle else await self._host.new_stream(self._info.peer_id, [_ECHO])
        await stream.write(request)
        answer = await _exactly(stream, SMALL)
        self._idle.append(stream)
        return answer

    async def version(self) -> str:
        """Return the release."""
        return f"libp2p {version('libp2p')}, Noise, yamux"


async def _drive(address: str) -> None:
    host = _host()
    async with host.run(listen_addrs=[]):
        await drive(Libp2pClient(host, address), True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(_serve)
    else:
        trio.run(_drive, sys.argv[2])
