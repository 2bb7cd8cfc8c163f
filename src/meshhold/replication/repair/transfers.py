"""How do questions and chunks of repair get to a peer? Bounds what is in flight; decides not which.

Whatever goes wrong with one chunk, or with one peer, is told by the answer: no such thing ends a pass of repair.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.errors import CallRefusedError, FatalError, MeshHoldError, PeerError, StorageFullError
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.replication.chunks.holder_contract import Digests, Holder
from meshhold.replication.chunks.holders import Holders, View
from meshhold.replication.repair.inventory import Inventory, Table
from meshhold.replication.repair.repair_progress import Progress
from meshhold.replication.throttle import Throttle

BYTES_PER_S: Final = 500_000_000
"""What repair may move while no app is served, so that a disk that was lost is made up for as soon as links and disks
can; beside apps it steps aside."""
IN_FLIGHT_MAX: Final = 16
"""Batches of all vaults in memory for repair, 1 MiB each but for a few: 16 MiB."""
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
    """Moves chunks for repair, at most `IN_FLIGHT_MAX` batches at once. Resources: borrows its collaborators."""

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
        """Start jobs that move one batch each, as places get free. A job is taken when there is a place for it."""
        turns = iter(jobs)
        while True:
            await self._places.acquire()
            job = next(turns, None)
            if job is None:
                self._places.release()
                return
            nursery.start_soon(self._run, job)

    async def _run(self, job: Callable[[], Awaitable[object]]) -> None:
        try:
            await job()
        finally:
            self._places.release()

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
        await self.account(work, len(sealed))
        return Pushed.KEPT

    async def account(self, work: Pass, size: int, chunks: int = 1) -> None:
        """Count chunks, of `size` bytes together, that were moved; wait until the next ones may be."""
        work.progress.moved(size, trio.current_time(), chunks)
        await self._throttle.spend(size, chunks)

    def _blame(self, work: Pass, node: NodeId, error: MeshHoldError) -> None:
        if isinstance(error, StorageFullError) or (
            isinstance(error, CallRefusedError) and error.kind == StorageFullError.__name__
        ):
            work.full.add(node)
        elif isinstance(error, PeerError):
            work.failures[node] += 1 if self.holders.is_live(node) else FAILURES_MAX
