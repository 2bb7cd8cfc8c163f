"""How do many callers' writes share one commit? Knows no table: callers hand in functions that run statements.

One task owns the writing connection. It takes all that has gathered, runs it inside one transaction on the event loop
(statements are short, and a thread would have to win the interpreter lock back after each), commits where `CommitPace`
says, and only then wakes the callers. While one commit is under way the next batch gathers.

A batch that fails is rolled back and fails for its own callers only, except a failed fsync: then nothing written later
could be trusted, so the task ends with `SyncFailedError`, and so does every later call.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Final

import trio

from meshhold.blocking import RunBlocking
from meshhold.errors import FatalError, MeshHoldError, StorageFailedError, SyncFailedError
from meshhold.index.failures import failure_of
from meshhold.index.pace import CommitPace

PENDING_MAX: Final = 1_024
"""Callers whose writes wait or are being committed: 16 MiB of the largest entries, if each has one. More must wait."""
_STRETCH: Final = 32
"""Writes run without letting other tasks in: about a millisecond."""

Work = Callable[[], object]


class _Batch:
    """Writes that share one commit. `failure` is set before `done`, or stays None for a durable batch."""

    __slots__ = ("callers", "done", "failure", "works")

    def __init__(self) -> None:
        self.callers = 0
        self.works: list[Work] = []
        self.done = trio.Event()
        self.failure: MeshHoldError | None = None


class GroupCommit:
    """Durable writes, grouped.

    `before_commit` runs last in each transaction, `after(committed)` right after it ended either way. `one_connection`
    tells that readers share the connection: then they must never run inside a transaction, so all stays on the loop.
    Resources: borrows `connection`; `gate` is held during each transaction.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        run_blocking: RunBlocking,
        *,
        before_commit: Work,
        after: Callable[[bool], None],
        one_connection: bool = False,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._connection = connection
        self._run_blocking = run_blocking
        self._before_commit = before_commit
        self._after = after
        self._one_connection = one_connection
        self._now_s = now_s
        self._pace = CommitPace()
        self._gathering = _Batch()
        self._wake = trio.Event()
        self._room = trio.Semaphore(PENDING_MAX)
        self._fatal: FatalError | None = None
        self._closed = False
        self.gate = trio.Lock()
        """Whoever holds it keeps commits from beginning."""

    async def submit(self, *works: Work) -> None:
        """Run `works` in the next transaction; return when that is durable.

        Each must be short and synchronous. Cancelling the wait does not undo them.
        Errors: what `failure_of` makes of SQLite's error; then nothing of `works` has happened.
        """
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            await self._room.acquire()
        if self._closed:
            self._room.release()
            raise self._refusal()
        batch = self._gathering
        batch.works += works
        batch.callers += 1
        self._wake.set()
        await batch.done.wait()
        if batch.failure is not None:
            raise type(batch.failure)(batch.failure.message, batch.failure.fix) from batch.failure

    async def run(self) -> None:
        """Commit batches until cancelled; a batch that has begun to gather is still committed.

        Errors: `SyncFailedError`, after all waiting callers were told.
        """
        try:
            while True:
                if not self._gathering.works:
                    self._wake = trio.Event()
                    await self._wake.wait()
                await self._commit_gathered()
        finally:
            self._closed = True
            if self._fatal is None:
                await self._commit_gathered()
            self._end_batch(self._take(), self._refusal())

    def stop(self, failure: FatalError) -> None:
        """Refuse every later write: durability was lost elsewhere (in a checkpoint)."""
        self._fatal = failure
        self._closed = True

    def _refusal(self) -> MeshHoldError:
        return self._fatal or StorageFailedError("the index is closed", "start the node again")

    def _take(self) -> _Batch:
        batch, self._gathering = self._gathering, _Batch()
        return batch

    async def _commit_gathered(self) -> None:
        with trio.CancelScope(shield=True):  # a transaction that has begun ends, and its callers learn how
            try:
                self.gate.acquire_nowait()
            except trio.WouldBlock:
                await self.gate.acquire()
            try:
                batch = self._take()
                if batch.works:
                    await self._commit(batch)
            finally:
                self.gate.release()

    async def _commit(self, batch: _Batch) -> None:
        failure: MeshHoldError | None = StorageFailedError("the index's writer stopped", "start the node again")
        try:
            await self._transaction(batch.works)
            failure = None
        except (sqlite3.Error, OverflowError) as error:  # OverflowError: a number that SQLite's 64 bits cannot hold
            failure = failure_of(error, "save")
            if isinstance(failure, SyncFailedError):
                self.stop(failure)
                raise failure from error
        finally:
            if failure is not None:
                self._roll_back()
            self._after(failure is None)
            self._end_batch(batch, failure)

    async def _transaction(self, works: list[Work]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        for number, work in enumerate(works, 1):
            work()
            if number % _STRETCH == 0 and not self._one_connection:
                await trio.lowlevel.checkpoint()
        self._before_commit()
        began_s = self._now_s()
        if self._one_connection or self._pace.on_loop(began_s):
            self._connection.execute("COMMIT")
            ended_s = self._now_s()
            self._pace.note(ended_s - began_s, ended_s)
        else:
            await self._run_blocking(self._connection.execute, "COMMIT")

    def _roll_back(self) -> None:
        if not self._connection.in_transaction:
            return  # SQLite has rolled back by itself, as it may on a full disk or an I/O error
        try:
            self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            fatal = SyncFailedError(
                f"the index cannot undo a failed write: {error}", "check the disk, then start again"
            )
            self.stop(fatal)
            raise fatal from error

    def _end_batch(self, batch: _Batch, failure: MeshHoldError | None) -> None:
        batch.failure = failure
        batch.done.set()
        for _ in range(batch.callers):
            self._room.release()
