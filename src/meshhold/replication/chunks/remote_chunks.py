"""Another node's chunks, behind a link: small ones in calls, large ones in streams. Decides no holder and no retry."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import (
    CallRefusedError,
    ChunkCorruptError,
    ChunkMissingError,
    ProtocolError,
    TooLargeError,
)
from meshhold.model.ids import ChunkId, NodeId, VaultId, short_id
from meshhold.peering.streams import PeerStream
from meshhold.replication.chunks import bulk
from meshhold.replication.chunks import chunk_wire as wire
from meshhold.replication.chunks.byte_budget import ByteBudget
from meshhold.replication.chunks.chunk_streams import held_in_time, receive_bytes, receive_report, send_bytes
from meshhold.replication.chunks.holder_contract import Collected, Digests, Held

CALL_S: Final = 10.0
"""For an answer, and for a place among the link's streams."""
VERIFY_S: Final = 30.0
"""Sixteen chunks of 1 MiB from a disk that reads 1 MB/s beside other work."""
COLLECT_S: Final = 3600.0
"""A node with millions of chunks looks at each; it gives signs of life."""
RATE_MIN: Final = 32 * 1024
"""Bytes per second of a line on which calls that wait behind each other are waited for."""
CALLS_SIZE_MAX: Final = 4 << 20
"""Half of what a session holds of calls' bodies: the index has to come through beside."""
STREAMS_SIZE_MAX: Final = 16 << 20
"""Two windows of a connection: enough to keep a line busy, while 16 streams of 64 are in use."""
_GONE: Final = (ChunkMissingError.__name__, ChunkCorruptError.__name__)


class Carrier(Protocol):
    """Whoever reaches peers by calls and streams."""

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        """Ask a peer and return its answer. Errors: `PeerError`, `UnavailableError`, `CallRefusedError`."""

    def open_stream(
        self, peer: NodeId, name: str, body: Any, *, timeout_s: float
    ) -> AbstractAsyncContextManager[PeerStream]:
        """Open a stream; what has not ended when the block ends is broken off. Errors: as `call`."""


class RemoteChunks:
    """The chunks of node `node`; see `Holder`.

    Meant to be kept: one of them bounds what is under way to its node.
    Errors of every method besides: `OverloadedError` when what is under way to the node leaves no room for long;
    `ProtocolError` for an answer that is none. Hashes up to 4 MiB on the event loop (1 MiB: 0.2 ms).
    """

    def __init__(self, peers: Carrier, node: NodeId, now: Callable[[], float] = time.time) -> None:
        self.node = node
        self._peers = peers
        self._now = now
        self._calls = ByteBudget(CALLS_SIZE_MAX)
        self._streams = ByteBudget(STREAMS_SIZE_MAX)

    async def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes, touched_s: float | None = None) -> bool:
        """Let the node keep a chunk: durable there when this returns; True if it had no good copy."""
        body: dict[str, Any] = {"v": vault, "c": chunk}
        if touched_s is not None:
            body["a"] = wire.age_ms(touched_s, self._now())
        size = len(sealed)
        if size <= wire.IN_CALL_MAX:
            body["x"] = sealed
            return wire.read_flags(await self._call(wire.PUT, body, size), 1)[0]
        body["n"] = size
        async with (
            held_in_time(self._streams, size, _queue_s(STREAMS_SIZE_MAX)),
            self._peers.open_stream(self.node, wire.PUT_STREAM, body, timeout_s=CALL_S) as stream,
        ):
            await send_bytes(stream, sealed)
            return wire.read_flags(await receive_bytes(stream, 1), 1)[0]

    async def get(self, vault: VaultId, chunk: ChunkId, size_hint: int) -> bytes:
        """Return a chunk's bytes, verified against its id.

        Errors besides: `ChunkMissingError`, also for a damaged copy; `ChunkCorruptError` if other bytes came.
        """
        try:
            sealed = await self._fetch(vault, chunk, size_hint)
        except CallRefusedError as error:
            if error.kind in _GONE:
                why = f"node {short_id(self.node)} has no good copy of chunk {chunk.hex()}"
                raise ChunkMissingError(why, "another holder is asked") from error
            raise
        if hash_bytes(sealed) != chunk:
            raise ChunkCorruptError(
                f"node {short_id(self.node)} sent other bytes than those of chunk {chunk.hex()}",
                "check that node's disk and memory: it verified them before it sent them",
            )
        return sealed

    async def _fetch(self, vault: VaultId, chunk: ChunkId, size_hint: int) -> bytes:
        body = {"v": vault, "c": chunk}
        if size_hint <= wire.IN_CALL_MAX:
            try:
                sealed = await self._call(wire.GET, body, size_hint)
            except CallRefusedError as error:
                if error.kind != TooLargeError.__name__:
                    raise
            else:
                if isinstance(sealed, bytes):
                    return sealed
                raise ProtocolError(f"node {short_id(self.node)} did not answer with the bytes of a chunk")
        async with (
            held_in_time(self._streams, max(size_hint, wire.IN_CALL_MAX), _queue_s(STREAMS_SIZE_MAX)),
            self._peers.open_stream(self.node, wire.GET_STREAM, body, timeout_s=CALL_S) as stream,
        ):
            await stream.send_eof()
            return await receive_bytes(stream, wire.SEALED_MAX, size_hint=size_hint)

    async def get_many(self, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bytes | None]:
        """Return the bytes of the first of these chunks, not verified; see `Holder`."""
        async with (
            held_in_time(self._streams, bulk.BATCH_SIZE, _queue_s(STREAMS_SIZE_MAX)),
            self._peers.open_stream(
                self.node, bulk.GET_MANY_STREAM, {"v": vault, "c": b"".join(chunks)}, timeout_s=CALL_S
            ) as stream,
        ):
            await stream.send_eof()
            return bulk.read_pieces(await receive_bytes(stream, bulk.ANSWER_MAX), len(chunks))

    async def has(self, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bool]:
        """Tell of each chunk whether the node has a copy, not verified."""
        return await self._flags(wire.HAS, vault, chunks)

    async def renew(self, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bool]:
        """Let the age of these chunks begin anew; False for one that is not there."""
        return await self._flags(wire.RENEW, vault, chunks)

    async def verify(self, vault: VaultId, chunks: Sequence[ChunkId], view_version: str) -> list[bool]:
        """Tell of each chunk whether the node has a good copy and has leased it; see `Holder.verify`."""
        flags: list[bool] = []
        for batch in wire.batches(chunks, wire.VERIFIED_MAX):
            body = {"v": vault, "c": b"".join(batch), "w": view_version}
            answer = await self._peers.call(self.node, wire.VERIFY, body, timeout_s=VERIFY_S)
            flags += wire.read_flags(answer, len(batch))
        return flags

    async def digests(self, vault: VaultId, bits: int) -> Digests:
        """Return what the node has in each of 2^`bits` partitions. Of several messages, the last tells its state."""
        digests: list[bytes] = []
        while True:
            count = min((1 << bits) - len(digests), wire.DIGESTS_MAX)
            body = {"v": vault, "b": bits, "p": len(digests)}
            # A node that has just begun looks at all its chunks' names for the first one.
            answer = await self._peers.call(self.node, wire.DIGESTS, body, timeout_s=VERIFY_S)
            found = wire.read_digests(answer, count)
            digests += found.digests
            if len(digests) == 1 << bits:
                return found._replace(digests=digests)

    async def names(self, vault: VaultId, bits: int, partition: int) -> list[Held]:
        """Return what the node has in a partition, in the order of ids."""
        found: list[Held] = []
        is_last = False
        while not is_last:
            after = found[-1].chunk if found else b""
            body = {"v": vault, "b": bits, "p": partition, "f": after}
            answer = await self._peers.call(self.node, wire.NAMES, body, timeout_s=VERIFY_S)
            page, is_last = wire.read_names(answer, bits, partition, after, self._now())
            found += page
            if len(found) > wire.NAMES_MAX:
                raise ProtocolError(f"node {short_id(self.node)} tells of over {wire.NAMES_MAX} chunks in a partition")
        return found

    async def names_in(self, vault: VaultId, bits: int, partitions: Sequence[int]) -> list[list[Held]]:
        """Return what the node has in the first of these partitions; see `Holder`."""
        body = {"v": vault, "b": bits, "p": bulk.pack_partitions(partitions)}
        answer = await self._peers.call(self.node, bulk.NAMES_OF_MANY, body, timeout_s=VERIFY_S)
        found = bulk.read_names(answer, bits, partitions, self._now())
        return found or [await self.names(vault, bits, partitions[0])]

    async def collect(self, vault: VaultId, marks: bytes) -> Collected:
        """Order the node to remove what these marks do not name. Errors besides: `TooLargeError`."""
        if len(marks) > wire.MARKS_MAX:
            raise TooLargeError(f"marks of {len(marks)} bytes do not travel; the limit is {wire.MARKS_MAX}")
        body = {"v": vault, "n": len(marks)}
        async with self._peers.open_stream(self.node, wire.COLLECT_STREAM, body, timeout_s=CALL_S) as stream:
            await send_bytes(stream, marks, COLLECT_S)
            report = await receive_report(stream, wire.WORKING, wire.COLLECTED_SIZE, COLLECT_S)
            return wire.read_collected(report)

    async def _call(self, name: str, body: dict[str, Any], size: int) -> Any:
        """Ask with, or for, `size` bytes of a chunk. What waits in front of it on the line is waited for too."""
        async with held_in_time(self._calls, size, _queue_s(CALLS_SIZE_MAX)):
            return await self._peers.call(
                self.node, name, body, timeout_s=_queue_s(self._calls.size - self._calls.free)
            )

    async def _flags(self, call: str, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bool]:
        flags: list[bool] = []
        for batch in wire.batches(chunks, wire.IDS_MAX):
            body = {"v": vault, "c": b"".join(batch)}
            flags += wire.read_flags(await self._peers.call(self.node, call, body, timeout_s=CALL_S), len(batch))
        return flags


def _queue_s(size: int) -> float:
    """Return how long an answer may take that `size` bytes stand in front of."""
    return CALL_S + size / RATE_MIN
