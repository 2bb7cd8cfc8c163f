"""A node's use-cases in memory, under a clock that the test turns, with blocking work run inline."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.crypto.identity import Identity
from meshhold.index.sqlite import SqliteIndex, open_index
from meshhold.model.entry import Checksums, ObjectVersion, Upload
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.model.stamp import Clock
from meshhold.node.index_keeping import IndexKeeping, Surroundings
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.replication.chunks.writer import ChunkWriter
from meshhold.replication.collecting.collector import Collector
from meshhold.replication.index.contract import Replica
from meshhold.replication.index.seats import Seats
from meshhold.replication.records.record_keeper import RecordKeeper
from meshhold.sealing.content import PartRow
from meshhold.store.access import Access
from meshhold.store.care import Care
from meshhold.store.contract import ALWAYS, Digested, Metadata, WriteCondition
from meshhold.store.directory import Bucket, Directory
from meshhold.store.gates import Gates
from meshhold.store.listing import Listing
from meshhold.store.objects import Objects
from meshhold.store.renewal import Renewal
from meshhold.store.uploads import Completion, PartClaim, Uploads
from meshhold.store.vaults import Vaults

KIB = 1024
MIB = 2**20
GRACE_S = 24 * 3600.0
SEED = b"s" * 32

_T = TypeVar("_T")


class Wall:
    """The time that everything here is told."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self.ms

    def now_s(self) -> float:
        """Seconds since 1970."""
        return self.ms / 1000

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.ms += int(seconds * 1000)


async def run_inline(function: Callable[..., _T], *arguments: object) -> _T:
    """Run blocking work where the simulation can order it; two checkpoints stand for the hop to a thread and back."""
    await trio.lowlevel.checkpoint()
    result = function(*arguments)
    with trio.CancelScope(shield=True):  # a cancelled caller waits for the thread's end
        await trio.lowlevel.checkpoint()
    return result


class BytesBody:
    """A body that arrives in pieces; `before` is awaited before each, `digested` is what its MD5 says."""

    def __init__(
        self, content: bytes, piece_size: int = 256 * KIB, before: Callable[[int], Awaitable[None]] | None = None
    ) -> None:
        self._pieces = [content[at : at + piece_size] for at in range(0, len(content), piece_size)]
        self._before = before
        self._given = 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    async def receive(self) -> bytes:
        """Return the next piece."""
        await trio.lowlevel.checkpoint()
        if self._before is not None:
            await self._before(self._given)
        self._given += 1
        return self._pieces.pop(0) if self._pieces else b""

    def digest(self, block: bytes) -> None:
        """Hash a block."""
        self._md5.update(block)

    def finish(self) -> Digested:
        """Return the ETag."""
        return Digested(self._md5.hexdigest(), Checksums())


def combine(rows: Sequence[PartRow], _: Upload | None) -> Digested:
    """Return S3's ETag of a multipart object."""
    joined = b"".join(bytes.fromhex(row.etag) for row in rows)
    return Digested(f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(rows)}", Checksums())


def nobody_else(node: NodeId) -> Replica:
    """Stand for the replicas of other nodes where there are none."""
    raise AssertionError(f"a node alone asks for the replica of {node}")


class Nobody:
    """Stands for the mesh of a node alone."""

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        raise AssertionError(f"a node alone calls {peer}: {name}, {body}, {timeout_s}")


class StoreKit:
    """All use-cases over one index and one chunk store."""

    def __init__(self, index: SqliteIndex, chunks: Any, wall: Wall) -> None:
        identity = Identity(SEED)
        self.wall = wall
        self.index = index
        self.chunks = chunks
        self.clock = Clock(identity.stamp_node)
        self.keeper = RecordKeeper(index, self.clock, wall.now_ms)
        self.directory = Directory(identity, self.keeper, self.clock, wall.now_ms)
        self.seats = Seats(identity.node_id, index)
        around = Surroundings(
            peers=Nobody(),
            linked=list,
            vaults=lambda: list(self.directory.by_id),
            may_ask=lambda _vault, _node: False,
            name_of=short_id,
            publish=self.directory.publish,
            chance=random.Random(1),
        )
        self.keeping = IndexKeeping(index, self.seats, self.clock, wall.now_ms, around, stamp_node=identity.stamp_node)
        self.replica = self.keeping.replica
        self.registers = self.keeping.registers
        self.writer = ChunkWriter(chunks, run_inline, now_s=wall.now_s)
        self.reader = ChunkReader(chunks, run_inline)
        self.gates = Gates()
        self.vaults = Vaults(self.directory, self.registers, chunks, run_inline, self.gates)
        self.access = Access(self.directory, self.vaults)
        renewal = Renewal(chunks, self.reader, run_inline)
        self.objects = Objects(self.registers, self.writer, self.reader, renewal, self.gates, wall.now_ms)
        self.uploads = Uploads(self.registers, self.writer, self.objects, self.clock, wall.now_ms)
        self.listing = Listing(self.registers)
        self.collector = Collector(self.registers, chunks, self.reader, self.writer, run_inline)
        self.care = Care(
            self.directory,
            self.vaults,
            self.registers,
            chunks,
            self.reader,
            self.collector,
            run_inline,
            tombstones=self.keeping.tombstones,
            grace_s=GRACE_S,
            new_salt=lambda: b"salt" * 6,
        )

    async def bucket(self, alias: str = "photos") -> Bucket:
        """Make a vault with this name and alias."""
        view = await self.vaults.create(alias, alias=alias)
        return self.vaults.find(view.id)

    async def put(
        self, bucket: Bucket, key: bytes, content: bytes, condition: WriteCondition = ALWAYS
    ) -> ObjectVersion:
        """Put an object."""
        return await self.objects.put(bucket, key, BytesBody(content), Metadata(), condition)

    async def get(self, bucket: Bucket, key: bytes, start: int = 0, stop: int | None = None) -> bytes:
        """Return an object's bytes."""
        version = await self.objects.find(bucket, key)
        pieces: list[bytes] = []

        async def sink(piece: bytes) -> None:
            pieces.append(piece)

        await self.objects.send(bucket, key, version, start, version.size if stop is None else stop, sink)
        return b"".join(pieces)

    async def upload(self, bucket: Bucket, key: bytes, *parts: bytes) -> tuple[str, list[PartClaim]]:
        """Begin an upload and put its parts."""
        upload_id = await self.uploads.begin(bucket, key, Upload(self.wall.ms, "tester"))
        claims = []
        for number, content in enumerate(parts, 1):
            part = await self.uploads.put_part(bucket, key, upload_id, number, BytesBody(content))
            claims.append(PartClaim(number, part.etag))
        return upload_id, claims

    async def complete(
        self, bucket: Bucket, key: bytes, upload_id: str, claims: list[PartClaim], condition: WriteCondition = ALWAYS
    ) -> Completion:
        """Complete an upload."""
        return await self.uploads.complete(bucket, key, upload_id, claims, combine, condition)

    def object_count(self, vault: VaultId) -> int:
        """Return how many live objects this node's index has of the vault."""
        return self.index.counts(vault).objects

    async def collect(self) -> int:
        """Collect all vaults; return how many chunks went."""
        return (await self.care.collect(None)).removed

    def stored(self, bucket: Bucket) -> int:
        """Return how many chunks the vault has."""
        return sum(1 for _ in self.chunks.scan(bucket.id))

    async def damaged(self) -> int:
        """Return how many objects a deep check finds damaged."""

        async def ignore(_: dict[str, Any]) -> None:
            """Nobody watches."""

        return sum(report.damaged for report in await self.care.check(None, ignore, deep=True))


@asynccontextmanager
async def open_kit(
    path: Path | None = None, *, chunks: Any = None, wall: Wall | None = None
) -> AsyncIterator[StoreKit]:
    """Open a kit on an index at `path` (None: in memory) and a chunk store (None: in memory)."""
    wall = wall or Wall()
    if chunks is None:
        chunks = MemoryChunkStore(now=wall.now_s)
    async with open_index(path, run_blocking=run_inline) as index:
        yield StoreKit(index, chunks, wall)
