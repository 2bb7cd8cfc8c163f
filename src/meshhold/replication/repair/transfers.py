"""How does one chunk get from a peer to here, or from here to a peer? Bounds what is in flight; decides not which.

Whatever goes wrong with one chunk, or with one peer, is told by the answer: no such thing ends a pass of repair.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.errors import CallRefusedError, FatalError, MeshHoldError, PeerError, StorageFullError
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.replication.chunks.chunk_wire import IN_CALL_MAX
from meshhold.replication.chunks.holder_contract import Digests, Holder
from meshhold.replication.chunks.holders import Holders, View
from meshhold.replication.repair.inventory import Inventory, Table
from meshhold.replication.repair.repair_progress import Progress
from meshhold.replication.throttle import Throttle
from meshhold.sealing.chunker import CHUNK_SIZE

BYTES_PER_S: Final = 500_000_000
"""What repair may move while no app is served, so that a disk that was lost is made up for as soon as links and disks
can; beside apps it steps aside."""
IN_FLIGHT_MAX: Final = 16
"""Chunks of all vaults in memory for repair, 1 MiB each: 16 MiB."""
_NEWEST_PART: Final = 8
"""An eighth of the usual size is that of the last chunk: after a dozen small ones the next is taken to be small."""
FAILURES_MAX: Final = 3
"""So many calls that a peer lets fail, and it is asked nothing more in this pass: a dead one costs a bounded time."""
_T = TypeVar("_T")


class Pushed(enum.Enum):
    """What became of a copy that was sent."""

    KEPT = enum.auto()
    REFUSED = enum.auto()
    LOST = enum.auto()
    """This node has no good copy to send."""


@dataclass(slots=True)
class Pass:
    """One pass over one vault: what the nodes had at its beginning, and who has failed since."""

    vault: VaultId
    view: View
    progress: Progress
    mine: Table
    told: dict[NodeId, Digests] = field(default_factory=dict)
    failures: Counter[NodeId] = field(default_factory=Counter)
    full: set[NodeId] = field(default_factory=set)
    """Nodes without room, perhaps this one."""

    def may_ask(self, node: NodeId) -> bool:
        """Tell whether a node answered in this pass and still does."""
        return node in self.told and self.failures[node] < FAILURES_MAX

    def agrees(self, node: NodeId) -> bool:
        """Tell whether a node that was asked has the view of this pass."""
        return node in self.told and self.told[node].view_version == self.view.version


class Transfers:
    """Moves chunks for repair, at most `IN_FLIGHT_MAX` at once. Resources: borrows its collaborators."""

    def __init__(
        self,
        holders: Holders,
        chunks: ChunkStore,
        run_blocking: RunBlocking,
        holder_of: Callable[[NodeId], Holder],
        inventory: Inventory,
        throttle: Throttle,
        now_s: Callable[[], float],
    ) -> None:
        self.holders = holders
        self.chunks = chunks
        self.run_blocking = run_blocking
        self.holder_of = holder_of
        self.inventory = inventory
        self.now_s = now_s
        self._throttle = throttle
        self._places = trio.Semaphore(IN_FLIGHT_MAX)
        self._busy: Counter[NodeId] = Counter()
        self._usual_size = CHUNK_SIZE

    def is_current(self, work: Pass) -> bool:
        """Tell whether this node still has the view of a pass; one that has not is to end and begin anew."""
        view = self.holders.view(work.vault)
        return view is not None and view.version == work.view.version

    async def ask(self, work: Pass, node: NodeId, question: Callable[[Holder], Awaitable[_T]]) -> _T | None:
        """Return a peer's answer, None if there is none; what it lets fail is counted. Errors: `FatalError`."""
        try:
            return await question(self.holder_of(node))
        except FatalError:
            raise
        except MeshHoldError as error:
            self._blame(work, node, error)
            return None

    async def spread(self, jobs: Iterable[Callable[[], Awaitable[object]]], nursery: trio.Nursery) -> None:
        """Start jobs that move one chunk each, as places get free."""
        for job in jobs:
            await self._places.acquire()
            nursery.start_soon(self._run, job)

    async def _run(self, job: Callable[[], Awaitable[object]]) -> None:
        try:
            await job()
        finally:
            self._places.release()

    async def pull(self, work: Pass, chunk: ChunkId, touched_s: float, sources: Sequence[NodeId]) -> bool:
        """Fetch a chunk from the least busy of the sources that has a good copy; tell whether it is durable here."""
        left = list(sources)
        while (askable := [node for node in left if work.may_ask(node)]) and self.holders.me not in work.full:
            source = min(askable, key=lambda node: (self._busy[node], self.holders.rtt_s(node) or 0.0))
            left.remove(source)
            self._busy[source] += 1
            try:
                sealed = await self.ask(work, source, lambda peer: peer.get(work.vault, chunk, self._likely_size()))
            finally:
                self._busy[source] -= 1
            if sealed is not None:
                self._usual_size += (len(sealed) - self._usual_size) // _NEWEST_PART
                return await self._keep(work, chunk, sealed, touched_s)
        return False

    def _likely_size(self) -> int:
        """Return what to expect of a chunk whose size nobody told: small ones come in calls, which cost less.

        One that is larger than expected is asked for once more, by a stream.
        """
        return self._usual_size if self._usual_size <= IN_CALL_MAX else CHUNK_SIZE

    async def _keep(self, work: Pass, chunk: ChunkId, sealed: bytes, touched_s: float) -> bool:
        try:
            # An age is a peer's word: one from the future would keep a chunk for as long as that peer likes.
            touched_s = min(touched_s, self.now_s())
            await self.run_blocking(self.chunks.put, work.vault, chunk, sealed, touched_s)
        except StorageFullError:
            self.inventory.note_full()
            work.full.add(self.holders.me)
            work.progress.wait_for("this node has no room left")
            return False
        await self._account(work, len(sealed))
        return True

    async def push(self, work: Pass, chunk: ChunkId, node: NodeId) -> Pushed:
        """Give a peer a copy of a chunk that is here, with its age."""
        if node in work.full or not work.may_ask(node):
            return Pushed.REFUSED
        try:
            stat = await self.run_blocking(self.chunks.stat, work.vault, chunk)
            sealed = await self.run_blocking(self.chunks.get, work.vault, chunk)
        except FatalError:
            raise
        except MeshHoldError:  # missing, corrupt, or on a bad spot of the disk: this chunk only
            return Pushed.LOST
        touched_s = None if stat is None else stat.touched_s
        try:
            await self.holder_of(node).put(work.vault, chunk, sealed, touched_s)
        except FatalError:
            raise
        except MeshHoldError as error:
            self._blame(work, node, error)
            return Pushed.REFUSED
        await self._account(work, len(sealed))
        return Pushed.KEPT

    async def _account(self, work: Pass, size: int) -> None:
        work.progress.moved(size, trio.current_time())
        await self._throttle.spend(size)

    def _blame(self, work: Pass, node: NodeId, error: MeshHoldError) -> None:
        if isinstance(error, StorageFullError) or (
            isinstance(error, CallRefusedError) and error.kind == StorageFullError.__name__
        ):
            work.full.add(node)
        elif isinstance(error, PeerError):
            work.failures[node] += 1 if self.holders.is_live(node) else FAILURES_MAX
