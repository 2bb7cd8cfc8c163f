"""Who may shake hands, how many at once, and for how long? Runs the handshake over a stream; knows no link."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from meshhold.errors import HandshakeRefusedError, InvalidError, OverloadedError
from meshhold.model.ids import NodeId, short_id
from meshhold.peering.table import LINKS_PER_PEER_MAX
from meshhold.transport.contract import ByteStream, parse_address
from meshhold.wire.framing import FrameReader, encode_frame
from meshhold.wire.handshake import Handshake


async def shake_hands(stream: ByteStream, handshake: Handshake, timeout_s: float) -> tuple[FrameReader, list[bytes]]:
    """Finish `handshake` over `stream`; return the reader of what follows, and the frames that came already.

    Resources: does not close `stream`. Errors: `HandshakeRefusedError`, `ProtocolError`.
    """
    reader = FrameReader(first_sizes_max=handshake.incoming_sizes)
    early: list[bytes] = []
    try:
        with trio.fail_after(timeout_s):
            while True:
                message = handshake.next_message()
                if message is not None:
                    await stream.send_all(encode_frame(message))
                if handshake.done:
                    return reader, early
                data = await stream.receive_some()
                if not data:
                    fix = "its log says why; a wrong swarm key is the usual cause"
                    raise HandshakeRefusedError("remote", "the peer closed the connection", fix)
                for frame in reader.feed(data):
                    if handshake.done:
                        early.append(bytes(frame))
                    else:
                        handshake.receive(bytes(frame))
    except trio.TooSlowError as error:
        raise HandshakeRefusedError("remote", f"not finished within {timeout_s:g} s") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise HandshakeRefusedError("remote", "the connection was cut") from error


def check_welcome(peer: NodeId, expected: NodeId | None, banned: frozenset[NodeId], *, is_leaving: bool) -> None:
    """Errors: `HandshakeRefusedError` for a node that has proven who it is and is not wanted."""
    if expected is not None and peer != expected:
        raise HandshakeRefusedError("remote", f"node {short_id(peer)} answers in the place of another")
    if peer in banned:
        raise HandshakeRefusedError("remote", f"node {short_id(peer)} is banned")
    if is_leaving:
        raise HandshakeRefusedError("local", "this node is leaving")


def check_room(links_of_peer: int, links: int, links_max: int) -> None:
    """Errors: `HandshakeRefusedError` when the peer, or all peers together, have as many links as they may."""
    if links_of_peer >= LINKS_PER_PEER_MAX:
        raise HandshakeRefusedError("remote", f"{LINKS_PER_PEER_MAX} links with it are open already")
    if links >= links_max:
        raise HandshakeRefusedError("local", f"{links_max} links are open already")


class Gate:
    """Bounds handshakes that strangers begin, in all and per address, so that they cost bounded memory and time."""

    def __init__(self, total_max: int, per_address_max: int) -> None:
        self._total_max = total_max
        self._per_address_max = per_address_max
        self._busy: Counter[str] = Counter()

    @contextmanager
    def admit(self, host: str) -> Iterator[None]:
        """Hold a place for one handshake. Errors: `OverloadedError` when there is none."""
        if self._busy.total() >= self._total_max:
            raise OverloadedError(f"{self._total_max} handshakes are going on")
        if self._busy[host] >= self._per_address_max:
            raise OverloadedError(f"{self._per_address_max} handshakes with this address are going on")
        self._busy[host] += 1
        try:
            yield
        finally:
            self._busy[host] -= 1
            if not self._busy[host]:
                del self._busy[host]


def host_of(address: str) -> str:
    """Return the host of an address, all of it if it has no port."""
    try:
        return parse_address(address).host
    except InvalidError:
        return address
