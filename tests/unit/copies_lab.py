"""Members of one vault as their fellow sees them: stores in memory that are fast, slow, full, stuck or lie."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from tests.unit.store_kit import run_inline

from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import (
    CallRefusedError,
    CallTimeoutError,
    ChunkCorruptError,
    ChunkMissingError,
    PeerUnreachableError,
)
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.placement.ring import Ring, RingMember
from meshhold.replication.chunks.copies import Copies
from meshhold.replication.chunks.holders import Holders, Keeper
from meshhold.replication.tasks import open_tasks

VAULT = VaultId("v" * 32)
ME = NodeId("me")
STUCK_S = 10.0
"""After so long without progress a link gives a transfer up."""
GIB = 1 << 30
_RINGS: dict[tuple[RingMember, ...], Ring] = {}  # planned once for all labs: it takes a tenth of a second


class Shelf:
    """Another node: `mood` is what is wrong with it, `delay_s` how long each answer takes."""

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.mood = "fine"
        self.delay_s = 0.001
        self.kept: dict[ChunkId, bytes] = {}
        self.renewed: list[ChunkId] = []
        self.asked: list[tuple[str, float]] = []
        self.busy = 0
        self.busiest = 0
        self.cancelled = 0

    async def put(self, _vault: VaultId, chunk: ChunkId, sealed: bytes, /) -> None:
        """Keep a chunk, at the end of the delay."""
        await self._answer("put", len(sealed))
        if self.mood == "full":
            raise CallRefusedError("no room left", kind="StorageFullError")
        self.kept[chunk] = sealed

    async def get(self, _vault: VaultId, chunk: ChunkId, size_hint: int, /) -> bytes:
        """Return a chunk, verified, as `RemoteChunks` does: a `liar` sends other bytes, a `rotten` one has none."""
        await self._answer("get", size_hint)
        if chunk not in self.kept or self.mood == "rotten":
            raise ChunkMissingError(f"{self.node} has it not")
        sealed = b"other bytes" if self.mood == "liar" else self.kept[chunk]
        if hash_bytes(sealed) != chunk:
            raise ChunkCorruptError(f"{self.node} sent other bytes")
        return sealed

    async def has(self, _vault: VaultId, chunks: Sequence[ChunkId], /) -> list[bool]:
        """Tell what is here."""
        await self._answer("has", 0)
        return [chunk in self.kept for chunk in chunks]

    async def renew(self, _vault: VaultId, chunks: Sequence[ChunkId], /) -> list[bool]:
        """Renew what is here."""
        await self._answer("renew", 0)
        self.renewed += [chunk for chunk in chunks if chunk in self.kept]
        return [chunk in self.kept for chunk in chunks]

    async def _answer(self, question: str, size: int) -> None:
        self.asked.append((question, trio.current_time()))
        self.busy += size
        self.busiest = max(self.busiest, self.busy)
        try:
            if self.mood == "broken":
                raise PeerUnreachableError("the link broke")
            await trio.sleep(STUCK_S if self.mood == "stuck" else self.delay_s)
            if self.mood == "stuck":
                raise CallTimeoutError("no progress")
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.busy -= size


class Lab:
    """A vault with this node and others named `n1`, `n2` …; `short` and `damaged` note calls."""

    def __init__(self, others: int, factor: int = 3, *, me_reliable: bool = True, blocking: Any = run_inline) -> None:
        self.shelves = {node: Shelf(node) for node in (NodeId(f"n{at}") for at in range(1, others + 1))}
        self.me_reliable = me_reliable
        self.wanted_copies = factor
        self.down: set[NodeId] = set()
        self.distances: dict[NodeId, float] = {}
        self.alone_allowed = False
        self.short: list[VaultId] = []
        self.damaged: list[ChunkId] = []
        self.chunks = MemoryChunkStore()
        self.holders = Holders(self, ME)
        self.holders._rings = _RINGS
        self.copies = Copies(
            self.holders,
            self.chunks,
            blocking,
            self.shelves.__getitem__,
            name_of=lambda node: f"machine {node}",
            is_alone_allowed=lambda _vault: self.alone_allowed,
            fell_short=self.short.append,
            damaged=lambda _vault, chunk: self.damaged.append(chunk),
        )

    def keepers(self, _vault: VaultId) -> Sequence[Keeper]:
        """Return all members."""
        mine = Keeper(ME, GIB, "here", reliable=self.me_reliable)
        return [mine, *(Keeper(node, GIB, f"zone {node}") for node in self.shelves)]

    def factor(self, _vault: VaultId) -> int:
        """Return how many copies there are to be."""
        return self.wanted_copies

    def is_live(self, node: NodeId) -> bool:
        """Tell who is linked."""
        return node not in self.down

    def away_s(self, node: NodeId) -> float:
        """Nobody is away for long."""
        return 1.0 if node in self.down else 0.0

    def rtt_s(self, node: NodeId) -> float | None:
        """Return what was set."""
        return self.distances.get(node)

    def order(self, chunk: ChunkId) -> list[NodeId]:
        """Return who takes the chunk, in order."""
        view = self.holders.view(VAULT)
        assert view is not None
        return view.order(chunk)

    def others(self, chunk: ChunkId) -> list[Shelf]:
        """Return the other nodes in the chunk's order."""
        return [self.shelves[node] for node in self.order(chunk) if node != ME]

    def sealed(self, first: NodeId | None = None, size: int = 1000) -> tuple[ChunkId, bytes]:
        """Return bytes and their name; with `first`, such that this node comes first in the order."""
        for salt in range(10_000):
            sealed = salt.to_bytes(4, "big") * (size // 4)
            chunk = ChunkId(hash_bytes(sealed))
            if first is None or self.order(chunk)[0] == first:
                return chunk, sealed
        raise AssertionError(f"nothing falls to {first}")

    def where(self, chunk: ChunkId) -> set[NodeId]:
        """Return who has the chunk."""
        mine = {ME} if self.chunks.has(VAULT, chunk) else set()
        return mine | {node for node, shelf in self.shelves.items() if chunk in shelf.kept}

    def give(self, chunk: ChunkId, sealed: bytes, *nodes: NodeId) -> None:
        """Let nodes have a chunk."""
        for node in nodes:
            if node == ME:
                self.chunks.put(VAULT, chunk, sealed)
            else:
                self.shelves[node].kept[chunk] = sealed

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and every bound is given back."""
        keeping, fetching = self.copies._keeping, self.copies._fetching
        tasks = keeping._background.running
        budgets = [keeping.budget, fetching.budget]
        return not tasks and not keeping.behind and all(each.free == each.size for each in budgets)


@asynccontextmanager
async def running(lab: Lab) -> AsyncIterator[Lab]:
    """Let the lab's copies run."""
    async with open_tasks() as nursery:
        nursery.start_soon(lab.copies.run)
        await trio.testing.wait_all_tasks_blocked()
        yield lab
        nursery.cancel_scope.cancel()
