"""Which chunks does nothing refer to any more? Marks by walking the index, then lets every holder sweep. No schedule.

A chunk goes only if nothing refers to it and it was last put, or renewed, more than a grace before the walk began. Why
no live chunk goes, whoever writes where meanwhile:

1. The walk misses nothing that was acknowledged before it began, and nothing that may still come into force: the rows
   of every index replica are read, also those that only one accepted, for a write of unknown outcome. If one of them
   does not answer, if the replicas changed, or if anything cannot be read, nothing is removed anywhere (`sources`).
2. Refs move only forward in the order of the walk: a completed upload moves them from parts to an object, a new version
   from an object to an earlier one, a merge from an object to what is kept aside; and who takes a ref away writes its
   new place first. What is current again because a later version was deleted is copied there: its row stays for as
   long as the version lives. So what moves while the walk runs is met at the one place or at the other, since all
   parts are marked before all objects and these before all earlier versions and what is kept aside. Uploads in
   progress need no care besides: their parts are rows, however old.
3. A ref that the walk has not met was therefore written after it began: by a put, a part, a copy or a completion. Each
   of these puts or renews its chunks first, on as many machines as a write needs; and if that took longer than a
   quarter of the grace it renews all of them again before its row is written. So they were touched less than a quarter
   of the grace before the row, hence less than that before the walk began.
4. What is left of the grace covers what holders cannot see: an order that is a quarter of the grace on its way (it is
   broken off after that), and clocks. A holder counts with its own clock, so only a change of it matters: a jump of
   more than ten minutes while it runs stops it for a grace, and one while it was off shows as a difference from the
   sender's clock, of which an eighth of the grace is borne at either end (see `obeying`).
5. On this node there is an exact rule instead: nothing goes that was touched since the oldest write in flight began.

A copy that missed a renewal, since its machine was away, may go although others were renewed; it is put back by repair.
Several nodes may collect at once. What is dead does not live for ever: a copy made by repair keeps its age. The rows of
the newest snapshot count as refs too, so that an index brought back from it finds its chunks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import FatalError, MeshHoldError, NoMajorityError
from meshhold.model.entry import Ref, Space
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.replication.chunks import holder_contract
from meshhold.replication.chunks.holders import Holders
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.replication.chunks.walk import walk_refs, walk_values
from meshhold.replication.chunks.writer import ChunkWriter
from meshhold.replication.collecting.marks import Marks, Order
from meshhold.replication.collecting.obeying import Collected, Obeying
from meshhold.replication.collecting.sources import Sources
from meshhold.replication.index.registers import Registers
from meshhold.replication.tasks import open_tasks
from meshhold.sealing.chunker import CHUNK_SIZE

__all__ = ["Collected", "Collector", "Company", "Marks"]

WAY_PART: Final = 4
"""The part of the grace that an order may be on its way; see the module's docstring."""
WAY_S_MAX: Final = 3600.0
WAY_S_MIN: Final = 10.0
ORDERS_AT_ONCE: Final = 2
"""Each is up to 64 MiB in memory while it is sent."""
WALKED: Final = (Space.PARTS, Space.OBJECTS, Space.VERSIONS, Space.CONFLICTS)
_LOG: Final = logging.getLogger("meshhold.collect")


class Obedient(Protocol):
    """A member that holds chunks; see `remote_chunks`."""

    async def collect(self, vault: VaultId, marks: bytes) -> holder_contract.Collected:
        """Let it carry out a packed order; return the chunks and bytes that it removed."""


class Roots(Protocol):
    """What refers to chunks beside the index: snapshots of it."""

    def refs(self, keys: VaultKeys) -> AsyncIterator[Ref]:
        """Yield every ref. Errors: `UnavailableError` if some cannot be read now."""


@dataclass(frozen=True, slots=True)
class Company:
    """The other members: who they are, and how an order reaches one."""

    holders: Holders
    holder_of: Callable[[NodeId], Obedient]


class Collector:
    """Removes dead chunks of the vaults that this node can open, here and on the other members.

    `obeying` sweeps here; None makes one. `company` None: there are no others. `now_s` is the wall clock, from which
    only differences are taken. Resources: borrows its collaborators; memory is 2 bytes per chunk of one vault.
    """

    def __init__(
        self,
        registers: Registers,
        chunks: ChunkStore,
        reader: ChunkReader,
        writer: ChunkWriter,
        run_blocking: RunBlocking,
        *,
        obeying: Obeying | None = None,
        company: Company | None = None,
        roots: Roots | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._registers = registers
        self._chunks = chunks
        self._reader = reader
        self._writer = writer
        self._run_blocking = run_blocking
        self._obeying = obeying or Obeying(chunks, run_blocking, oldest_start_s=lambda: writer.oldest_start_s)
        self._company = company
        self._roots = roots
        self._now_s = now_s

    def leads(self, vault: VaultId) -> bool:
        """Tell whether it is this node's turn to collect by itself: it votes, first of the index replicas that live."""
        seats = self._registers.seats
        try:
            configuration = seats.configuration(vault)
        except NoMajorityError:
            return False
        if not seats.votes(vault) or seats.node not in configuration.members:
            return False
        if self._company is None:
            return True
        return seats.node == min(node for node in configuration.members if self._company.holders.is_live(node))

    async def collect(self, keys: VaultKeys, cutoff_s: float, salt: int) -> Collected:
        """Remove the vault's chunks that nothing refers to and that were last put before `cutoff_s` (since 1970).

        What lost in a merge and was kept long enough goes first. Members that are away, or refuse, keep theirs until
        the next time; the count is of those that answered.
        Errors: `IntegrityError` when a manifest cannot be read: its chunks are then unknown, and nothing is removed;
        `UnavailableError` and `PeerError` when the index cannot be walked as a whole: likewise. `ConflictError` while
        ages here are in doubt; the others have been told then.
        """
        began_s = self._now_s()
        began = began_s, trio.current_time()
        grace_s = max(0.0, began_s - cutoff_s)
        cutoff_s = min(cutoff_s, self._writer.oldest_start_s)
        vault = keys.vault_id
        await self._registers.expire_conflicts(vault)
        marks = Marks(await self._expected(vault), salt)
        epoch = await self._mark(keys, marks)
        others = self._others(vault)
        totals: list[Collected] = []
        if others:
            await self._send(vault, others, Order(marks, grace_s, 0.0, 0.0, epoch), began, totals)
        totals.append(await self._obeying.sweep(vault, marks, cutoff_s, grace_s))
        return Collected(sum(each.removed for each in totals), sum(each.bytes for each in totals))

    # -- marking ------------------------------------------------------------------------------------------------------

    async def _mark(self, keys: VaultKeys, marks: Marks) -> int:
        """Mark everything that is referred to; return the epoch of the index replicas that said so."""
        sources = Sources(self._registers, keys.vault_id)
        for space in WALKED:  # this order: see the module's docstring
            for rows in sources.all():
                async for _, _, content in walk_values(rows, keys, space):
                    async for ref in walk_refs(self._reader, keys, content):
                        marks.add(ref.chunk)
        if self._roots is not None:
            async for ref in self._roots.refs(keys):
                marks.add(ref.chunk)
        sources.check_unchanged()
        return sources.epoch

    async def _expected(self, vault: VaultId) -> int:
        """Return about how many chunks are referred to: what is here, or where others have some what the index says.

        More than there are costs memory, fewer let some dead chunks look alive.
        """
        stored = await self._run_blocking(self._count, vault)
        if not self._others(vault):
            return stored
        counts = await self._registers.counts(vault)
        return stored if counts is None else max(stored, counts.objects + counts.bytes // CHUNK_SIZE)

    def _count(self, vault: VaultId) -> int:
        return sum(1 for _ in self._chunks.scan(vault))

    # -- the others ---------------------------------------------------------------------------------------------------

    def _others(self, vault: VaultId) -> Sequence[NodeId]:
        """Return the other members that can be told now."""
        view = None if self._company is None else self._company.holders.view(vault)
        if self._company is None or view is None:
            return ()
        holders = self._company.holders
        return [node for node in view.members if node != holders.me and holders.is_live(node)]

    async def _send(
        self,
        vault: VaultId,
        others: Sequence[NodeId],
        order: Order,
        began: tuple[float, float],
        totals: list[Collected],
    ) -> None:
        """Send the order to all, a few at a time. `began`: when the walk did, by the wall clock and by Trio's."""
        waiting = list(others)

        async def send_in_turn() -> None:
            while waiting:
                node = waiting.pop()
                now_s = self._now_s()  # the wall clock goes on while the machine sleeps, Trio's is never set back
                ago_s = max(now_s - began[0], trio.current_time() - began[1])
                found = await self._send_one(vault, node, replace(order, walk_ago_s=ago_s, sent_s=now_s))
                if found is not None:
                    totals.append(found)

        async with open_tasks() as nursery:
            for _ in range(ORDERS_AT_ONCE):
                nursery.start_soon(send_in_turn)

    async def _send_one(self, vault: VaultId, node: NodeId, order: Order) -> Collected | None:
        """Send an order to one member; None if it does not carry it out."""
        assert self._company is not None, "there are members"  # noqa: S101 - only then is anybody in the list
        limit_s = max(WAY_S_MIN, min(WAY_S_MAX, order.grace_s / WAY_PART))
        try:
            with trio.move_on_after(limit_s):
                return Collected(*await self._company.holder_of(node).collect(vault, order.pack()))
        except FatalError:
            raise
        except MeshHoldError as error:
            _LOG.info("node %s keeps its dead chunks of vault %s: %s", short_id(node), short_id(vault), error)
            return None
        _LOG.info("node %s did not carry out an order to collect within %.0f s", short_id(node), limit_s)
        return None
