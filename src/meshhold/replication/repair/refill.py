"""What is this node to keep and lacks, and what does a full fellow lack? Compares digests; decides not when.

A node refills itself: of each partition that it is to keep it compares its digest with those of its live fellows, and
fetches what any of them has and it lacks, different chunks from different fellows at once. A fellow that has no
room cannot do that: the first live holder with room then gives what the full one lacks to the next in order (spill).
Such a copy is surplus where it is, and goes once all holders say that they have theirs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from meshhold.model.ids import ChunkId, NodeId
from meshhold.replication.chunks.chunk_wire import DIGEST_SIZE
from meshhold.replication.repair.transfers import IN_FLIGHT_MAX, Pass, Pushed, Transfers
from meshhold.replication.tasks import open_tasks

LANES: Final = IN_FLIGHT_MAX
"""Partitions that are compared side by side: where each has a chunk or none, they fill the places for transfers."""
_EMPTY: Final = bytes(DIGEST_SIZE)
"""The digest of a partition without chunks."""
HAS_ASKED_MAX: Final = 2_000


class _Wanted(NamedTuple):
    touched_s: float
    sources: list[NodeId]


class Refill:
    """Pulls what this node lacks, and spills what full fellows lack. Resources: borrows `transfers`."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._me = transfers.holders.me
        self._inventory = transfers.inventory

    async def run(self, work: Pass) -> None:
        """Compare all partitions that this node is to keep, and move what is lacking."""
        differing = iter(self._differing(work))

        async def lane() -> None:
            for partition, fellows in differing:  # one iterator feeds all lanes
                if not self._transfers.is_current(work):
                    return
                await self._settle(work, partition, fellows)

        async with open_tasks() as nursery:
            for _ in range(LANES):
                nursery.start_soon(lane)

    def _differing(self, work: Pass) -> Iterator[tuple[int, list[NodeId]]]:
        """Yield the partitions kept here whose digest is another one elsewhere, and where."""
        for partition in range(work.view.ring.partitions):
            holders = work.view.holders_in(partition)
            if self._me in holders:
                fellows = [
                    node
                    for node in holders
                    if node in work.told and work.told[node].digests[partition] != work.mine.digests[partition]
                ]
                if fellows:
                    yield partition, fellows

    async def _settle(self, work: Pass, partition: int, fellows: list[NodeId]) -> None:
        bits = work.view.bits
        # A node that lost its disk has nothing to list; what came meanwhile is fetched once more, which harms nothing.
        is_empty = work.mine.counts[partition] == 0
        mine: set[ChunkId] = set() if is_empty else set(await self._inventory.names(work.vault, bits, partition))
        held = await self._names(work, partition, fellows)
        wanted: dict[ChunkId, _Wanted] = {}
        for node, names in held.items():
            for chunk, touched_s in names.items():
                if chunk not in mine:
                    known = wanted.get(chunk, _Wanted(touched_s, []))
                    wanted[chunk] = _Wanted(max(known.touched_s, touched_s), [*known.sources, node])
        work.progress.chunks_left += len(wanted)
        async with open_tasks() as nursery:
            jobs = (partial(self._pull, work, chunk, want, mine) for chunk, want in wanted.items())
            await self._transfers.spread(jobs, nursery)
        for node, names in held.items():
            lacking = sorted(mine - names.keys())
            for chunk in lacking:
                work.progress.lacks(chunk)
            if lacking and node in work.full and work.agrees(node):
                await self._spill(work, partition, node, lacking)

    async def _names(self, work: Pass, partition: int, fellows: list[NodeId]) -> dict[NodeId, dict[ChunkId, float]]:
        """Return what fellows have in a partition, and since when.

        Of those with equal digests one is asked for all, and those that have nothing are not asked: else a node that
        lost its disk would be busy with telling so, partition by partition, while it fetches.
        """
        alike: dict[bytes, list[NodeId]] = defaultdict(list)
        for node in fellows:
            alike[work.told[node].digests[partition]].append(node)
        found: dict[NodeId, dict[ChunkId, float]] = {node: {} for node in alike.pop(_EMPTY, ())}

        bits = work.view.bits

        async def ask(nodes: list[NodeId]) -> None:
            for node in nodes:
                if work.may_ask(node):
                    names = await self._transfers.ask(work, node, lambda peer: peer.names(work.vault, bits, partition))
                    if names is not None:
                        held = {each.chunk: each.touched_s for each in names}
                        found.update(dict.fromkeys(nodes, held))
                        return

        async with open_tasks() as nursery:
            for nodes in alike.values():
                nursery.start_soon(ask, nodes)
        return found

    async def _pull(self, work: Pass, chunk: ChunkId, want: _Wanted, mine: set[ChunkId]) -> None:
        if await self._transfers.pull(work, chunk, want.touched_s, want.sources):
            mine.add(chunk)
            work.progress.chunks_left -= 1
        else:
            work.progress.lacks(chunk)

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
