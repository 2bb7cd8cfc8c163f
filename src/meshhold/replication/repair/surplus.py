"""Which copies are here without being asked for, and when may they go? Moves them to whoever is to keep them.

Why no last copy goes, whatever the views, the delays and the restarts, is told in `leases`; this is the attempt itself.
A holder that is away, full, or has another view leaves the surplus where it is. What a live holder lacks is given to it
all the same, whatever its view: that costs room for a while, and never a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

import trio

from meshhold.model.ids import ChunkId, NodeId, short_id
from meshhold.replication.repair.leases import STEP_S, USE_S, Leases
from meshhold.replication.repair.transfers import Pass, Pushed, Transfers
from meshhold.replication.tasks import open_tasks

LANES: Final = 4
"""Partitions that are emptied side by side."""
BATCH: Final = 64
"""Chunks of one attempt, at most 1 MiB each but for a few: a disk that reads 2 MiB/s hashes them within `USE_S`."""


class Surplus:
    """Moves surplus copies to the holders and removes those that all of these have. Resources: borrows both."""

    def __init__(self, transfers: Transfers, leases: Leases) -> None:
        self._transfers = transfers
        self._leases = leases
        self._holders = transfers.holders
        self._chunks = transfers.chunks

    async def run(self, work: Pass) -> None:
        """Go through all partitions of which there are chunks here and that other nodes are to keep."""
        partitions = list(self._partitions(work))
        work.progress.surplus = sum(work.mine.counts[partition] for partition in partitions)
        work.progress.chunks_left += work.progress.surplus
        turns = iter(partitions)

        async def lane() -> None:
            for partition in turns:  # one iterator feeds all lanes
                if not self._transfers.is_current(work):
                    return
                await self._empty(work, partition)

        async with open_tasks() as nursery:
            for _ in range(LANES):
                nursery.start_soon(lane)

    def _partitions(self, work: Pass) -> Iterator[int]:
        for partition, count in enumerate(work.mine.counts):
            if count and self._holders.me not in work.view.holders_in(partition):
                yield partition

    async def _empty(self, work: Pass, partition: int) -> None:
        holders = work.view.holders_in(partition)
        askable = [node for node in holders if work.may_ask(node)]
        for node in holders:
            if node not in askable:
                work.progress.wait_for(f"node {short_id(node)} is to keep chunks that are here, and does not answer")
        if not askable:
            return
        names = await self._transfers.inventory.names(work.vault, work.view.bits, partition)
        for at in range(0, len(names), BATCH):
            batch = names[at : at + BATCH]
            everywhere = await self._hand_over(work, askable, batch)
            if len(askable) == len(holders):
                await self._attempt(work, holders, everywhere)

    # -- giving -------------------------------------------------------------------------------------------------------

    async def _hand_over(self, work: Pass, holders: Iterable[NodeId], batch: list[ChunkId]) -> list[ChunkId]:
        """Give the holders what they lack; return the chunks that all of them have then, as far as they say."""
        lacking: set[ChunkId] = set()

        async def give(node: NodeId) -> None:
            there = await self._transfers.ask(work, node, lambda peer: peer.has(work.vault, batch))
            if there is None:
                lacking.update(batch)
                return
            async with open_tasks() as transfers:
                jobs = (partial(push, chunk, node) for chunk, has in zip(batch, there, strict=True) if not has)
                await self._transfers.spread(jobs, transfers)

        async def push(chunk: ChunkId, node: NodeId) -> None:
            outcome = await self._transfers.push(work, chunk, node)
            if outcome is not Pushed.KEPT:
                lacking.add(chunk)
                work.progress.lacks(chunk)
                if node in work.full:
                    work.progress.wait_for(f"node {short_id(node)} has no room left")

        async with open_tasks() as nursery:
            for node in holders:
                nursery.start_soon(give, node)
        return [chunk for chunk in batch if chunk not in lacking]

    # -- removing -----------------------------------------------------------------------------------------------------

    async def _attempt(self, work: Pass, holders: Iterable[NodeId], batch: list[ChunkId]) -> None:
        """Remove those copies of which every holder says that it has a good one and keeps it."""
        if not all(work.agrees(node) for node in holders):
            work.progress.wait_for("other nodes do not agree yet on who is to keep which chunks")
            return
        begun = self._leases.begin(work.vault, batch)
        if len(begun) < len(batch):
            work.progress.wait_for("other nodes rely for a moment on copies that are here")
        if not begun:
            return
        try:
            asked_s, wall_s = self._leases.clock_s(), self._transfers.now_s()
            confirmed = await self._confirmed(work, holders, begun)
            if confirmed and self._transfers.is_current(work):
                removed = await self._transfers.run_blocking(self._remove, work, confirmed, asked_s, wall_s)
                work.progress.removed += removed
                work.progress.surplus -= removed
                work.progress.chunks_left -= removed
        finally:
            self._leases.end(work.vault, begun)

    async def _confirmed(self, work: Pass, holders: Iterable[NodeId], begun: list[ChunkId]) -> list[ChunkId]:
        """Return the chunks of which all holders have a good copy under a lease; none if one takes too long."""
        good = set(begun)

        async def ask(node: NodeId) -> None:
            said = await self._transfers.ask(work, node, lambda peer: peer.verify(work.vault, begun, work.view.version))
            good.intersection_update(
                chunk for chunk, yes in zip(begun, said or [False] * len(begun), strict=True) if yes
            )

        with trio.move_on_after(USE_S) as patience:
            async with open_tasks() as nursery:
                for node in holders:
                    nursery.start_soon(ask, node)
        return [] if patience.cancelled_caught else [chunk for chunk in begun if chunk in good]

    def _remove(self, work: Pass, confirmed: list[ChunkId], asked_s: float, wall_s: float) -> int:
        """Remove copies while the yeses count, at most `USE_S` after the asking began. Blocks."""
        removed = 0
        for chunk in confirmed:
            passed_s = self._leases.clock_s() - asked_s
            if passed_s >= USE_S or self._transfers.now_s() < wall_s + passed_s - STEP_S:
                break
            # What was put or renewed meanwhile is younger than this, even if the clock was set back unnoticed.
            removed += self._chunks.remove_if_unused_since(work.vault, chunk, wall_s - STEP_S)
        return removed
