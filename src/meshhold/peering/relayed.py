"""A peer's stream through a relay, as the transport's contract wants it: a session runs over it as over TCP.

Knows no handshake: that the relay sees sealed frames only is the doing of the session that runs here.
"""

from __future__ import annotations

import trio

from meshhold.errors import MeshHoldError
from meshhold.model.ids import short_id
from meshhold.peering.streams import PeerStream


class RelayedStream:
    """A `ByteStream` over a stream to a relay. Resources: owns the stream. `error` is what it was lost by."""

    def __init__(self, stream: PeerStream) -> None:
        self.peer_address = f"relay:{short_id(stream.peer)}"
        self.closed = trio.Event()
        self.error: MeshHoldError | None = None
        self._stream = stream

    def send_soon(self, data: bytes | bytearray | memoryview) -> int:
        """Take all of `data` if nothing else waits to be sent."""
        try:
            return self._stream.send_soon(data)
        except MeshHoldError as error:
            raise self._lost(error) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything."""
        try:
            await self._stream.send_all(data)
        except MeshHoldError as error:
            raise self._lost(error) from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes."""
        try:
            return await self._stream.receive_some(max_bytes)
        except MeshHoldError as error:
            raise self._lost(error) from error

    async def send_eof(self) -> None:
        """End this direction."""
        try:
            await self._stream.send_eof()
        except MeshHoldError as error:
            raise self._lost(error) from error

    async def aclose(self) -> None:
        """Close both directions."""
        self.closed.set()
        await self._stream.aclose()

    def _lost(self, error: MeshHoldError) -> trio.BrokenResourceError:
        self.error = error
        return trio.BrokenResourceError(f"the relay lost the connection: {error.message}")
