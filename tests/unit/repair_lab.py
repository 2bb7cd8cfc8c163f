"""Several nodes that repair one vault in memory, joined by calls that may be slow, lost, or never answered.

Every removal of surplus is judged as it happens: all who were asked to keep the chunk must have a good copy at that
instant, and must have said so while they had the same view.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

import trio

from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import CallRefusedError, CallTimeoutError, MeshHoldError, PeerError, PeerUnreachableError
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.placement.planner import plan_ring
from meshhold.placement.ring import Ring, RingMember
from meshhold.replication.chunks.holder_contract import Collected, Digests, Held
from meshhold.replication.chunks.holders import Holders, Keeper, View
from meshhold.replication.chunks.local_chunks import LocalChunks
from meshhold.replication.repair.inventory import Inventory, Table
from meshhold.replication.repair.leases import Leases
from meshhold.replication.repair.repair import Repair
from meshhold.replication.repair.transfers import BYTES_PER_S, Pass
from meshhold.replication.throttle import Throttle

VAULT = VaultId("a" * 32)
EPOCH_S = 1_700_000_000.0
BITS = 3
_T = TypeVar("_T")


def chunk_of(text: str) -> tuple[ChunkId, bytes]:
    """Return a chunk and its bytes."""
    sealed = text.encode()
    return ChunkId(hash_bytes(sealed)), sealed


@cache
def ring_of(nodes: tuple[NodeId, ...]) -> Ring:
    """Return a small ring."""
    return plan_ring([RingMember(node, 1 << 40, node) for node in nodes], BITS)


@cache
def view_of(ring_nodes: tuple[NodeId, ...], everyone: tuple[NodeId, ...], factor: int, out: frozenset[NodeId]) -> View:
    """Return a view; its version names what it is made of."""
    extra = tuple(sorted(set(everyone) - set(ring_nodes)))
    version = f"{ring_nodes} {factor} {sorted(out)}"
    return View(ring_of(ring_nodes), factor, out, extra, version)


class NoFacts:
    """Facts of nobody: views are given."""

    def keepers(self, vault: VaultId) -> Sequence[Keeper]:  # noqa: ARG002 - the contract's form
        """Return nobody."""
        return ()

    def factor(self, vault: VaultId) -> int | None:  # noqa: ARG002 - the contract's form
        """Return nothing."""
        return None

    def is_live(self, node: NodeId) -> bool:  # noqa: ARG002 - the contract's form
        """Return nothing."""
        return False

    def away_s(self, node: NodeId) -> float:  # noqa: ARG002 - the contract's form
        """Return nothing."""
        return 0.0

    def rtt_s(self, node: NodeId) -> float | None:  # noqa: ARG002 - the contract's form
        """Return nothing."""
        return None


class LabHolders(Holders):
    """Views that a test sets, and links that it cuts."""

    def __init__(self, lab: Lab, me: NodeId, seen: View) -> None:
        super().__init__(NoFacts(), me)
        self._lab = lab
        self.seen = seen

    def view(self, vault: VaultId) -> View | None:  # noqa: ARG002 - there is one vault
        """Return what this node believes."""
        return self.seen

    def is_live(self, node: NodeId) -> bool:
        """Tell whether the link to a node is up."""
        return node == self.me or self._lab.is_linked(self.me, node)


class LabInventory(Inventory):
    """The same answers without a look at 256 slices: there are few chunks, and many passes."""

    async def table(self, vault: VaultId, bits: int) -> Table:
        """Return digests and counts."""
        ids = [stat.chunk for stat in self._chunks.scan(vault)]
        digests, counts = [0] * (1 << bits), [0] * (1 << bits)
        for chunk in ids:
            digests[chunk[0] >> (8 - bits)] ^= int.from_bytes(chunk[8:16], "big")
            counts[chunk[0] >> (8 - bits)] += 1
        return Table([digest.to_bytes(8, "big") for digest in digests], counts)

    async def names_in(self, vault: VaultId, bits: int, partitions: Sequence[int]) -> list[list[ChunkId]]:
        """Return the ids in some partitions."""
        ids = [stat.chunk for stat in self._chunks.scan(vault)]
        return [[chunk for chunk in ids if chunk[0] >> (8 - bits) == partition] for partition in partitions]


class LabLeases(Leases):
    """Leases of one node; `bug` plants a mistake."""

    def __init__(self, node: LabNode) -> None:
        super().__init__(lambda _vault: node.holders.seen.version, clock_s=trio.current_time)
        self._node = node
        self._bug = node.lab.bug

    def grant(self, vault: VaultId, chunk: ChunkId, view_version: str) -> bool:
        """Grant as usual, and tell the judge."""
        if self._bug == "any version":
            view_version = self._node.holders.seen.version
        if self._bug == "no mark":
            self._leaving.clear()
        granted = super().grant(vault, chunk, view_version)
        if granted:
            self._node.lab.granted.add((self._node.id, chunk, self._node.holders.seen.version))
        return granted

    def begin(self, vault: VaultId, chunks: Any) -> list[ChunkId]:
        """Begin as usual."""
        if self._bug == "no lease":
            self._granted_s.clear()
        return super().begin(vault, chunks)


class LabNode:
    """One node; its store outlasts restarts."""

    def __init__(self, lab: Lab, name: str, seen: View, capacity_bytes: int) -> None:
        self.lab = lab
        self.id = NodeId(name)
        self.store = MemoryChunkStore(now=lab.now_s, capacity_bytes=capacity_bytes)
        self.holders = LabHolders(lab, self.id, seen)
        self.life = 0
        self.start()

    def start(self) -> None:
        """Begin with what the store holds, as after a restart."""
        self.life += 1
        self.scope = trio.CancelScope()
        self.leases = LabLeases(self)
        self.inventory = LabInventory(
            self.store, self.run_blocking, lambda _vault: self.holders.seen.version, room_bytes=64
        )
        self.local = LocalChunks(self.store, self.run_blocking, self.inventory, self.leases, NoCollector())
        self.repair = Repair(
            self.holders,
            self.store,
            self.run_blocking,
            lambda node: Link(self, self.lab.nodes[node]),
            self.inventory,
            self.leases,
            Throttle(BYTES_PER_S),
            vaults=lambda: [VAULT],
            chance=self.lab.chance,
            now_s=self.lab.now_s,
        )
        surplus = self.repair._surplus
        remove = surplus._remove

        def judged(work: Pass, confirmed: list[ChunkId], asked_s: float, wall_s: float) -> int:
            before = {chunk for chunk in confirmed if self.store.has(VAULT, chunk)}
            removed = remove(work, confirmed, asked_s, wall_s)
            for chunk in before:
                if not self.store.has(VAULT, chunk):
                    self.lab.judge(self.id, chunk, work.view)
            return removed

        surplus._remove = judged  # type: ignore[method-assign]  # the judge looks on

    async def run(self, scope: trio.CancelScope) -> None:
        """Repair until the scope is cancelled; a cancelled run is a process that ended."""
        with scope:
            await self.repair.run()

    async def run_blocking(self, function: Callable[..., _T], /, *arguments: Any) -> _T:
        """Run inline, sometimes after a while: threads and disks are busy."""
        await self.lab.dawdle(removing=function is self.repair._surplus._remove)
        return function(*arguments)

    def chunks(self) -> set[ChunkId]:
        """Return what is stored here."""
        return {stat.chunk for stat in self.store.scan(VAULT)}


class NoCollector:
    """Nobody collects in the lab."""

    async def obey(self, vault: VaultId, marks: bytes) -> Collected:  # noqa: ARG002 - the contract's form
        """Remove nothing."""
        return Collected(0, 0)


class Link:
    """What one node asks of another one, over a link with faults."""

    def __init__(self, asker: LabNode, target: LabNode) -> None:
        self._asker = asker
        self._target = target
        self._lab = asker.lab

    async def _call(self, question: Callable[[LocalChunks], Any]) -> Any:
        lab, life = self._lab, self._target.life
        await self._travel(life)
        if lab.chance.random() < lab.loss:
            raise CallTimeoutError("a request was lost")
        try:
            answer = await question(self._target.local)
        except PeerError:
            raise
        except MeshHoldError as error:
            raise CallRefusedError(error.message, kind=type(error).__name__) from error
        await self._travel(life)
        if lab.chance.random() < lab.loss:
            raise CallTimeoutError("an answer was lost")
        return answer

    async def _travel(self, life: int) -> None:
        await self._lab.dawdle()
        if not self._lab.is_linked(self._asker.id, self._target.id) or self._target.life != life:
            raise PeerUnreachableError("the link is gone")

    async def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes, touched_s: float | None = None) -> bool:
        self._lab.moved += 1
        return bool(await self._call(lambda local: local.take(vault, chunk, sealed, touched_s)))

    async def get(self, vault: VaultId, chunk: ChunkId, size_hint: int) -> bytes:
        sealed: bytes = await self._call(lambda local: local.get(vault, chunk, size_hint))
        return sealed

    async def get_many(self, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bytes | None]:
        self._lab.moved += 1
        self._lab.batches.append((self._target.id, len(chunks)))
        pieces: list[bytes | None] = await self._call(lambda local: local.get_many(vault, chunks))
        return pieces

    async def names_in(self, vault: VaultId, bits: int, partitions: Sequence[int]) -> list[list[Held]]:
        self._lab.listed.append((self._target.id, len(partitions)))
        found: list[list[Held]] = await self._call(lambda local: local.names_in(vault, bits, partitions))
        return found

    async def has(self, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bool]:
        flags: list[bool] = await self._call(lambda local: local.has(vault, chunks))
        return flags

    async def renew(self, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bool]:
        flags: list[bool] = await self._call(lambda local: local.renew(vault, chunks))
        return flags

    async def verify(self, vault: VaultId, chunks: Sequence[ChunkId], view_version: str) -> list[bool]:
        if self._lab.bug == "unverified":
            return [True] * len(chunks)
        flags: list[bool] = await self._call(lambda local: local.verify(vault, chunks, view_version))
        return flags

    async def digests(self, vault: VaultId, bits: int) -> Digests:
        found: Digests = await self._call(lambda local: local.digests(vault, bits))
        if self._lab.bug == "any version":
            return found._replace(view_version=self._asker.holders.seen.version)
        return found

    async def names(self, vault: VaultId, bits: int, partition: int) -> list[Held]:
        held: list[Held] = await self._call(lambda local: local.names(vault, bits, partition))
        return held

    async def collect(self, vault: VaultId, marks: bytes) -> Collected:
        collected: Collected = await self._call(lambda local: local.collect(vault, marks))
        return collected


class Lab:
    """Some nodes, the links between them, and the judge. `bug` plants one mistake in all nodes."""

    def __init__(
        self, names: str, *, factor: int = 2, seed: int = 0, bug: str = "", capacity_bytes: int = 1 << 30
    ) -> None:
        self.chance = random.Random(seed)
        self.bug = bug
        self.factor = factor
        self.loss = 0.0
        self.delays: Sequence[float] = ()
        self.removal_delays: Sequence[float] = ()
        self.cut: set[frozenset[NodeId]] = set()
        self.granted: set[tuple[NodeId, ChunkId, str]] = set()
        self.wiped_s: dict[NodeId, float] = {}
        self.faults: list[str] = []
        self.moved = 0
        self.step_s = 0.0
        self.removals = 0
        self.batches: list[tuple[NodeId, int]] = []  # whoever was asked for chunks, and for how many
        self.listed: list[tuple[NodeId, int]] = []  # whoever was asked for names, and of how many partitions
        self.everyone = tuple(NodeId(name) for name in names)
        view = self.view(names)
        self.nodes = {NodeId(name): LabNode(self, name, view, capacity_bytes) for name in names}

    def __getitem__(self, name: str) -> LabNode:
        return self.nodes[NodeId(name)]

    def now_s(self) -> float:
        """Seconds since 1970 by every clock."""
        return EPOCH_S + trio.current_time() + self.step_s

    def view(self, names: str, out: str = "") -> View:
        """Return the view in which these nodes are the ring."""
        ring_nodes = tuple(sorted(NodeId(name) for name in names))
        return view_of(ring_nodes, self.everyone, self.factor, frozenset(NodeId(name) for name in out))

    def all_see(self, view: View) -> None:
        """Let all nodes have one view."""
        for node in self.nodes.values():
            node.holders.seen = view

    def is_linked(self, one: NodeId, other: NodeId) -> bool:
        """Tell whether two nodes can talk."""
        return frozenset((one, other)) not in self.cut

    async def dawdle(self, *, removing: bool = False) -> None:
        """Take some time."""
        delays = self.removal_delays if removing else self.delays
        if delays:
            await trio.sleep(self.chance.choice(delays))
        else:
            await trio.lowlevel.checkpoint()

    def put(self, text: str, *names: str, touched_s: float = EPOCH_S - 1_000) -> ChunkId:
        """Let nodes have a chunk since long ago."""
        chunk, sealed = chunk_of(text)
        for name in names:
            self[name].store.put(VAULT, chunk, sealed, touched_s)
        return chunk

    def whereabouts(self, chunk: ChunkId) -> set[NodeId]:
        """Return who has a good copy."""
        return {node.id for node in self.nodes.values() if node.store.verify(VAULT, chunk)}

    def judge(self, remover: NodeId, chunk: ChunkId, view: View) -> None:
        """Write down what is wrong with a removal that has just happened."""
        self.removals += 1
        present = self.whereabouts(chunk)
        for holder in view.holders(chunk):
            if holder not in present and trio.current_time() - self.wiped_s.get(holder, -1e9) > 300:
                self.faults.append(f"{remover} removed a copy that holder {holder} does not have")
            if (holder, chunk, view.version) not in self.granted:
                self.faults.append(f"{remover} relied on {holder}, which never agreed that it is to keep the chunk")
        if not present:
            self.faults.append(f"{remover} removed the last copy")

    async def pass_all(self) -> bool:
        """Let each node make one pass; tell whether all of them are content."""
        return all([await node.repair.pass_over(VAULT) for node in self.nodes.values()])

    def is_settled(self) -> bool:
        """Tell whether each chunk is on exactly those who are to keep it."""
        chunks = set().union(*(node.chunks() for node in self.nodes.values()))
        return all(
            self.whereabouts(chunk) == set(node.holders.seen.holders(chunk))
            for chunk in chunks
            for node in self.nodes.values()
        )
