"""Sends one chunk to the nodes that are to keep it, side by side, until enough have it. Seals nothing, reads nothing.

A node that takes longer than its pace promises is stood in for, and goes on in the background: its copy comes late, and
nobody waits for it. What is under way is bounded in bytes, per node and in all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from meshhold.errors import FatalError, MeshHoldError, PeerUnreachableError, TooFewNodesError
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.replication.chunks.byte_budget import ByteBudget
from meshhold.replication.chunks.paces import Paces
from meshhold.replication.chunks.tally import Tally, is_full
from meshhold.replication.tasks import Background

SENDING_MAX: Final = 64 << 20
"""Bytes of chunks on their way to their keepers, counted once each: writes wait beyond it."""
BEHIND_PER_NODE_MAX: Final = 8 << 20
"""Bytes that may go on to one node when nobody waits any more: a link carries as much at once."""
BEHIND_MAX: Final = SENDING_MAX // 2
"""… and to all nodes: half is always there for those that somebody waits for."""

Put = Callable[[NodeId, VaultId, ChunkId, bytes], Awaitable[object]]


class _Attempt:
    """One node that was asked to keep the chunk."""

    __slots__ = ("began_s", "is_behind", "is_late", "patient_until_s", "scope")

    def __init__(self, patience_s: float) -> None:
        self.began_s = trio.current_time()
        self.patient_until_s = self.began_s + patience_s
        self.scope = trio.CancelScope()
        self.is_late = False
        self.is_behind = False


class _Job:
    """One chunk on its way."""

    __slots__ = ("chunk", "fatal", "is_awaited", "news", "running", "sealed", "tally", "vault")

    def __init__(self, vault: VaultId, chunk: ChunkId, sealed: bytes, tally: Tally) -> None:
        self.vault = vault
        self.chunk = chunk
        self.sealed = sealed
        self.tally = tally
        self.running: dict[NodeId, _Attempt] = {}
        self.news: trio.Event | None = None
        self.is_awaited = True
        self.fatal: FatalError | None = None

    def tell(self) -> None:
        """Wake who waits."""
        if self.news is not None:
            self.news.set()


class Keeping:
    """Carries chunks to nodes. `put` asks one node; `paces` is told how it went.

    `background` must run: without it nothing is kept anywhere.
    """

    def __init__(self, put: Put, paces: Paces, name_of: Callable[[NodeId], str], background: Background) -> None:
        self._put = put
        self._paces = paces
        self._name_of = name_of
        self._background = background
        self.budget = ByteBudget(SENDING_MAX)
        self.behind: dict[NodeId, int] = {}

    async def keep(self, vault: VaultId, chunk: ChunkId, sealed: bytes, tally: Tally) -> None:
        """Return when the tally says that the chunk is safe.

        Errors: `TooFewNodesError`, or `StorageFullError`, with the names of the nodes; `FatalError` of this node.
        Cancelled, it leaves at most copies that nothing refers to.
        """
        await self.budget.take(len(sealed))
        job = _Job(vault, chunk, sealed, tally)
        is_safe = False
        try:
            await self._wait(job)
            is_safe = True
        except TooFewNodesError as error:
            raise tally.explain(error, self._name_of) from error
        finally:
            job.is_awaited = False
            for node, attempt in job.running.items():
                if not (is_safe and self._fall_behind(node, attempt, len(sealed))):
                    attempt.scope.cancel()
            self._settle(job)

    async def _wait(self, job: _Job) -> None:
        while not job.tally.is_safe:
            while (node := job.tally.next_to_ask()) is not None:
                self._start(job, node)
            patient = [attempt.patient_until_s for attempt in job.running.values() if not attempt.is_late]
            if job.running or not job.tally.is_safe:  # who could not be asked at all has failed: asking again tells why
                job.news = trio.Event()
                with trio.move_on_at(min(patient, default=float("inf"))):
                    await job.news.wait()
                job.news = None
            if job.fatal is not None:
                raise job.fatal
            for attempt in job.running.values():
                if not attempt.is_late and attempt.patient_until_s <= trio.current_time():
                    attempt.is_late = True
                    job.tally.stand_in()

    def _start(self, job: _Job, node: NodeId) -> None:
        if not self._background.is_open:
            job.tally.fail(node, PeerUnreachableError("this node is starting or stopping", "try again"))
            return
        attempt = job.running[node] = _Attempt(self._paces.patience_s(node, len(job.sealed)))
        self._background.start_soon(self._attempt, job, node, attempt)

    async def _attempt(self, job: _Job, node: NodeId, attempt: _Attempt) -> None:
        size = len(job.sealed)
        failure: MeshHoldError | None = None
        try:
            with attempt.scope:
                await self._put(node, job.vault, job.chunk, job.sealed)
                job.tally.take(node)
                self._paces.note(node, size, trio.current_time() - attempt.began_s)
            if attempt.scope.cancelled_caught:
                self._paces.note_unfinished(node, size, trio.current_time() - attempt.began_s)
        except FatalError as error:  # the writer hears of it, if it still listens; the node stops in any case
            job.fatal = failure = error
            raise
        except MeshHoldError as error:
            failure = error
            (self._paces.fill if is_full(error) else self._paces.fail)(node)
        finally:
            if node not in job.tally.durable:
                job.tally.fail(node, failure or PeerUnreachableError("the transfer was given up"))
            if attempt.is_behind:
                self._catch_up(node, size)
            del job.running[node]
            if job.tally.may_be_safe:
                job.tell()
            self._settle(job)

    def _fall_behind(self, node: NodeId, attempt: _Attempt, size: int) -> bool:
        """Let a transfer go on without anybody waiting for it, if there is room; tell whether it may."""
        behind = self.behind.get(node, 0)
        if behind + size > BEHIND_PER_NODE_MAX or sum(self.behind.values()) + size > BEHIND_MAX:
            return False
        self.behind[node] = behind + size
        attempt.is_behind = True
        return True

    def _catch_up(self, node: NodeId, size: int) -> None:
        self.behind[node] -= size
        if not self.behind[node]:
            del self.behind[node]

    def _settle(self, job: _Job) -> None:
        """Give the chunk's bytes back once nobody waits and nothing runs: called when either ends."""
        if not job.is_awaited and not job.running:
            self.budget.give(len(job.sealed))
