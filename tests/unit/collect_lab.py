"""Several nodes with index replicas and chunks in memory: objects whose chunks are on two of them, collected on all."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from tests.unit.replica_lab import Lab, Member, open_lab
from tests.unit.store_kit import BytesBody, combine, run_inline

from meshhold.chunkstore.contract import ChunkStat
from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ChunkMissingError, PeerUnreachableError
from meshhold.model.configuration import Configuration, Mode, Seat, found_configuration
from meshhold.model.entry import Upload
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.replication.chunks import holder_contract
from meshhold.replication.chunks.holders import Holders, Keeper
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.replication.chunks.writer import ChunkWriter
from meshhold.replication.collecting.collector import Collector, Company
from meshhold.replication.collecting.obeying import Obeying
from meshhold.store.contract import ALWAYS, Metadata
from meshhold.store.directory import Bucket
from meshhold.store.gates import Gates
from meshhold.store.objects import Objects
from meshhold.store.renewal import Renewal
from meshhold.store.uploads import PartClaim, Uploads

KEYS = VaultKeys(b"k" * 32)
VAULT = KEYS.vault_id
BUCKET = Bucket(VAULT, KEYS, "photos", "photos", 1, 2)
COPIES = 2


class Spread:
    """Stands for chunks on several machines: a put or a renewal is on two of them, a read takes any copy."""

    def __init__(self, me: int, stores: Sequence[MemoryChunkStore]) -> None:
        self._order = [stores[(me + step) % len(stores)] for step in range(len(stores))]

    def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes) -> bool:
        """Keep a chunk on two nodes."""
        fresh = [store.put(vault, chunk, sealed) for store in self._order[:COPIES]]
        return any(fresh)

    def get(self, vault: VaultId, chunk: ChunkId) -> bytes:
        """Return any copy."""
        for store in self._order:
            if store.has(vault, chunk):
                return store.get(vault, chunk)
        raise ChunkMissingError(f"chunk {chunk.hex()} is nowhere")

    def get_cached(self, _vault: VaultId, _chunk: ChunkId, _size_max: int) -> bytes | None:
        """Return nothing."""
        return None

    def has(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Tell whether any node has it."""
        return any(store.has(vault, chunk) for store in self._order)

    def renew(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Renew every copy."""
        renewed = [store.renew(vault, chunk) for store in self._order]
        return any(renewed)

    def scan(self, vault: VaultId) -> Iterator[ChunkStat]:
        """Yield what the first node has."""
        return self._order[0].scan(vault)


class Crowd:
    """The facts of the mesh: everybody is a reliable member, and here unless it is cut off."""

    def __init__(self, lab: CollectLab, me: NodeId) -> None:
        self._lab = lab
        self._me = me

    def keepers(self, _vault: VaultId) -> list[Keeper]:
        return [Keeper(node, 1 << 40, "home") for node in self._lab.nodes]

    def factor(self, _vault: VaultId) -> int:
        return COPIES

    def is_live(self, node: NodeId) -> bool:
        return (self._me, node) not in self._lab.lab.cut

    def away_s(self, _node: NodeId) -> float:
        return 0.0

    def rtt_s(self, _node: NodeId) -> float | None:
        return None


class CollectNode:
    """One node: its use-cases over its replica's registers and the spread chunks."""

    def __init__(self, lab: CollectLab, member: Member, at: int, grace_s: float) -> None:
        self.lab = lab
        self.id = member.id
        self.member = member
        self.grace_s = grace_s
        self.skew_s = 0.0
        self.store = lab.stores[at]
        spread: Any = Spread(at, lab.stores)
        self.writer = ChunkWriter(spread, run_inline, now_s=self.now_s)
        self.reader = ChunkReader(spread, run_inline)
        renewal = Renewal(spread, self.reader, run_inline)
        self.objects = Objects(member.registers, self.writer, self.reader, renewal, Gates(), member.now_ms)
        self.uploads = Uploads(member.registers, self.writer, self.objects, member.clock, member.now_ms)
        self.obeying = Obeying(
            self.store, run_inline, now_s=self.now_s, oldest_start_s=lambda: self.writer.oldest_start_s
        )
        self.holders = Holders(Crowd(lab, self.id), self.id)
        company = Company(self.holders, lambda node: Courier(self, node))
        self.collector = Collector(
            member.registers,
            self.store,
            self.reader,
            self.writer,
            run_inline,
            obeying=self.obeying,
            company=company,
            now_s=self.now_s,
        )

    def now_s(self) -> float:
        """Seconds since 1970 by this node's clock."""
        return self.member.now_ms() / 1000 + self.skew_s

    async def put(self, key: bytes, content: bytes, body: BytesBody | None = None) -> None:
        """Put an object."""
        await self.objects.put(BUCKET, key, body or BytesBody(content), Metadata())

    async def get(self, key: bytes) -> bytes:
        """Return an object's bytes."""
        version = await self.objects.find(BUCKET, key)
        pieces: list[bytes] = []

        async def sink(piece: bytes) -> None:
            pieces.append(piece)

        await self.objects.send(BUCKET, key, version, 0, version.size, sink)
        return b"".join(pieces)

    async def upload(self, key: bytes, content: bytes) -> tuple[str, list[PartClaim]]:
        """Begin an upload of one part."""
        upload_id = await self.uploads.begin(BUCKET, key, Upload(self.member.now_ms(), "tester"))
        part = await self.uploads.put_part(BUCKET, key, upload_id, 1, BytesBody(content))
        return upload_id, [PartClaim(1, part.etag)]

    async def complete(self, key: bytes, upload_id: str, claims: list[PartClaim]) -> None:
        """Complete it."""
        await self.uploads.complete(BUCKET, key, upload_id, claims, combine, ALWAYS)

    async def collect(self, salt: int = 1) -> int:
        """Collect from here; return how many chunks went everywhere."""
        return (await self.collector.collect(KEYS, self.now_s() - self.grace_s, salt)).removed


class Courier:
    """Brings an order to another node."""

    def __init__(self, sender: CollectNode, target: NodeId) -> None:
        self._sender = sender
        self._target = target

    async def collect(self, vault: VaultId, marks: bytes) -> holder_contract.Collected:
        """Let the target obey."""
        lab = self._sender.lab
        await trio.sleep(lab.order_delay_s)
        if (self._sender.id, self._target) in lab.lab.cut:
            raise PeerUnreachableError(f"{self._target} is cut off")
        lab.orders.append((self._sender.id, self._target))
        return await lab[self._target].obeying.obey(vault, marks)


class CollectLab:
    """The nodes by name."""

    def __init__(self, lab: Lab, grace_s: float, seed: int) -> None:
        self.lab = lab
        self.chance = random.Random(seed)
        self.order_delay_s = 0.0
        self.orders: list[tuple[NodeId, NodeId]] = []
        self.nodes = list(lab.members)
        self.stores = [MemoryChunkStore(now=self._clock_of(member)) for member in lab.members.values()]
        self._nodes = {
            node: CollectNode(self, member, at, grace_s) for at, (node, member) in enumerate(lab.members.items())
        }

    def _clock_of(self, member: Member) -> Any:
        return lambda: self._nodes[member.id].now_s()  # noqa: PLW0108 - the node comes after its store

    def __getitem__(self, name: str) -> CollectNode:
        return self._nodes[NodeId(name)]

    def __iter__(self) -> Iterator[CollectNode]:
        return iter(self._nodes.values())

    def copies(self, chunk: ChunkId) -> int:
        """Return how many nodes have a chunk."""
        return sum(store.has(VAULT, chunk) for store in self.stores)

    def stored(self) -> set[ChunkId]:
        """Return every chunk that is anywhere."""
        return {stat.chunk for store in self.stores for stat in store.scan(VAULT)}

    def drag(self, slowest_s: float) -> None:
        """Let every question between nodes take a while."""
        for member in self.lab.members.values():
            carry = member.call

            async def call(peer: NodeId, name: str, body: Any, *, timeout_s: float, carry: Any = carry) -> Any:
                await trio.sleep(self.chance.random() * slowest_s)
                return await carry(peer, name, body, timeout_s=timeout_s)

            setattr(member, "call", call)  # noqa: B010 - a method of this one instance


@asynccontextmanager
async def open_collect_lab(
    names: Sequence[str] = ("a", "b", "c"),
    seats: int = 3,
    *,
    grace_s: float = 1000.0,
    seed: int = 0,
    mode: Mode = Mode.LINEARIZABLE,
) -> AsyncIterator[CollectLab]:
    """Open nodes with these names, the first `seats` of which keep the index of the vault."""
    async with open_lab(names, seats) as lab:
        configuration = found_configuration([NodeId(name) for name in names[:seats]])
        if mode is not Mode.LINEARIZABLE:
            configuration = Configuration(1, tuple(Seat(NodeId(name), 1) for name in names[:seats]), mode=mode)
        for member in lab.members.values():
            await member.seats.adopt(VAULT, configuration)
            if configuration.seat_of(member.id) is not None:
                await member.seats.enrol(VAULT, 1)
        yield CollectLab(lab, grace_s, seed)
