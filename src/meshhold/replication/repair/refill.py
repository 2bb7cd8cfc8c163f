"""What is this node to keep and lacks, and what does a full fellow lack? Compares digests; decides not when.

A node refills itself: of each partition that it is to keep it compares its digest with those of its live fellows, and
fetches what any of them has and it lacks, different chunks from different fellows at once. A fellow that has no
room cannot do that: the first live holder with room then gives what the full one lacks to the next in order (spill).
Such a copy is surplus where it is, and goes once all holders say that they have theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

from meshhold.model.ids import ChunkId, NodeId
from meshhold.replication.repair.naming import Differing, Told, ask_names, next_group
from meshhold.replication.repair.pulling import Pulling, Want
from meshhold.replication.repair.transfers import IN_FLIGHT_MAX, Pass, Pushed, Transfers
from meshhold.replication.tasks import open_tasks

LANES: Final = IN_FLIGHT_MAX
"""Groups of partitions that are settled side by side: where each has a chunk or none, they fill the places."""
HAS_ASKED_MAX: Final = 2_000


class Refill:
    """Pulls what this node lacks, and spills what full fellows lack. Resources: borrows `transfers`."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._pulling = Pulling(transfers)
        self._me = transfers.holders.me
        self._inventory = transfers.inventory

    async def run(self, work: Pass) -> None:
        """Compare all partitions that this node is to keep, and move what is lacking."""
        async with open_tasks() as nursery:
            for lane in range(LANES):
                nursery.start_soon(self._run_lane, work, lane)

    async def _run_lane(self, work: Pass, lane: int) -> None:
        """Settle one lane's share of the partitions, in order.

        Lanes are far from each other among the ids: what they fetch goes to different folders of the store, each of
        which is written by one thread at a time.
        """
        first, last = (at * work.view.ring.partitions // LANES for at in (lane, lane + 1))
        differing = self._differing(work, range(first, last))
        waiting: deque[Differing] = deque()
        while group := [*waiting] or next_group(work, differing):
            if not self._transfers.is_current(work):
                return
            settled = await self._settle(work, group)
            waiting = deque(each for each in group if each.partition not in settled)

    def _differing(self, work: Pass, partitions: Iterable[int]) -> Iterator[Differing]:
        """Yield the partitions kept here whose digest is another one elsewhere, and where."""
        for partition in partitions:
            holders = work.view.holders_in(partition)
            if self._me in holders:
                fellows = [
                    node
                    for node in holders
                    if node in work.told and work.told[node].digests[partition] != work.mine.digests[partition]
                ]
                if fellows:
                    yield Differing(partition, fellows)

    async def _settle(self, work: Pass, group: list[Differing]) -> set[int]:
        """Fetch what is lacking in the first of these partitions, and spill; return which ones."""
        mine = await self._mine(work, group)
        told = await ask_names(self._transfers, work, group)
        wanted = [want for partition, held in told.items() for want in _wanted(mine[partition], held)]
        work.progress.chunks_left += len(wanted)
        kept = await self._pulling.pull(work, wanted)
        for want in wanted:
            if want.chunk in kept:
                mine[work.view.ring.partition_of(want.chunk)].add(want.chunk)
            else:
                work.progress.lacks(want.chunk)
        for partition, held in told.items():
            for node, names in held.items():
                lacking = sorted(mine[partition] - names.keys())
                for chunk in lacking:
                    work.progress.lacks(chunk)
                if lacking and node in work.full and work.agrees(node):
                    await self._spill(work, partition, node, lacking)
        return set(told)

    async def _mine(self, work: Pass, group: list[Differing]) -> dict[int, set[ChunkId]]:
        """Return what this node has in some partitions.

        A node that lost its disk has nothing to list; what came meanwhile is fetched once more, which harms nothing.
        """
        mine: dict[int, set[ChunkId]] = {each.partition: set() for each in group}
        listed = [partition for partition in mine if work.mine.counts[partition]]
        if listed:
            names = await self._inventory.names_in(work.vault, work.view.bits, listed)
            mine.update(zip(listed, map(set, names), strict=True))
        return mine

    async def _spill(self, work: Pass, partition: int, full: NodeId, lacking: list[ChunkId]) -> None:
        """Let the next in order keep what a full fellow lacks, if that is this node's to do."""
        holders = work.view.holders_in(partition)
        able = [node for node in holders if node not in work.full and (node == self._me or work.may_ask(node))]
        if not able or able[0] != self._me:
            return
        takers = [
            node
            for node in work.view.ring.order_in(partition)
            if node not in holders and node not in work.full and work.may_ask(node)
        ]
        # Each full holder has a taker of its own: its place among the full ones.
        place = [node for node in holders if node in work.full].index(full)
        for taker in takers[place : place + 1]:
            for at in range(0, len(lacking), HAS_ASKED_MAX):
                await self._give(work, taker, lacking[at : at + HAS_ASKED_MAX])

    async def _give(self, work: Pass, taker: NodeId, chunks: list[ChunkId]) -> None:
        there = await self._transfers.ask(work, taker, lambda peer: peer.has(work.vault, chunks))
        if there is None:
            return

        async def push(chunk: ChunkId) -> None:
            if await self._transfers.push(work, chunk, taker) is not Pushed.KEPT:
                work.progress.wait_for("a node that is full lacks chunks, and the next in order did not take them")

        async with open_tasks() as nursery:
            jobs = (partial(push, chunk) for chunk, has in zip(chunks, there, strict=True) if not has)
            await self._transfers.spread(jobs, nursery)


def _wanted(mine: set[ChunkId], told: Told) -> list[Want]:
    """Return what fellows have and this node has not, as young as the youngest copy, in the order of ids."""
    found: dict[ChunkId, Want] = {}
    for node, names in told.items():
        for chunk, touched_s in names.items():
            if chunk not in mine:
                known = found.get(chunk)
                if known is None:
                    found[chunk] = Want(chunk, touched_s, [node])
                else:
                    found[chunk] = Want(chunk, max(known.touched_s, touched_s), [*known.sources, node])
    return [found[chunk] for chunk in sorted(found)]
