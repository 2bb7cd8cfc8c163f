"""How do chunks that this node lacks get here? In batches, each one stream and one hop to the disk; decides not which.

A batch holds about as many chunks as make one of the largest usual ones, by the size of those that came before it:
sixteen of 64 KiB cost one question, one answer and one thread instead of sixteen of each. Each is durable by itself.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

import trio

from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import StorageFullError
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.replication.chunks.bulk import BATCH_MAX, BATCH_SIZE
from meshhold.replication.repair.transfers import Pass, Transfers
from meshhold.replication.tasks import open_tasks
from meshhold.sealing.chunker import CHUNK_SIZE

_NEWEST_PART: Final = 8
"""An eighth of the usual size is that of the last chunk: after a dozen small ones the next is taken to be small."""
KEEPING_MAX: Final = 3
"""Batches that are written at once. Each is a moment's work of a slow disk: what peers ask here does not queue behind
all that is under way."""


class Want(NamedTuple):
    """A chunk that is lacking here, when it was last put or renewed where it is, and the nodes that may have it."""

    chunk: ChunkId
    touched_s: float
    sources: list[NodeId]


class _Kept(NamedTuple):
    """What became of a batch that came: what is durable here, what were other bytes, and whether there was room."""

    kept: list[ChunkId]
    size: int
    others: list[Want]
    is_full: bool


class Pulling:
    """Fetches chunks for repair. Resources: borrows `transfers`."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._me = transfers.holders.me
        self._busy: Counter[NodeId] = Counter()
        self._usual_size = CHUNK_SIZE
        self._keeping = trio.CapacityLimiter(KEEPING_MAX)

    async def pull(self, work: Pass, wanted: Iterable[Want]) -> set[ChunkId]:
        """Fetch chunks, each from the least busy of its sources; return those that are durable here now.

        What one source has not after all is asked of another. Ends early when this node is full or has another view.
        """
        kept: set[ChunkId] = set()
        queue = deque(wanted)
        while queue:
            again: list[Want] = []
            async with open_tasks() as nursery:
                await self._transfers.spread(self._batches(work, queue, kept, again), nursery)
            queue = deque(again)
        return kept

    def _batches(
        self, work: Pass, queue: deque[Want], kept: set[ChunkId], again: list[Want]
    ) -> Iterator[Callable[[], Awaitable[None]]]:
        """Yield jobs that fetch one batch each, made up when there is a place for it."""
        while queue and self._me not in work.full and self._transfers.is_current(work):
            askable = [node for node in queue[0].sources if work.may_ask(node)]
            if not askable:
                queue.popleft()
                continue
            source = min(askable, key=lambda node: (self._busy[node], self._transfers.holders.rtt_s(node) or 0.0))
            batch: list[Want] = []
            most = min(max(BATCH_SIZE // max(self._usual_size, 1), 1), BATCH_MAX)
            while queue and len(batch) < most and source in queue[0].sources:
                batch.append(queue.popleft())
            self._busy[source] += 1
            yield partial(self._fetch, work, source, batch, kept, again)

    async def _fetch(
        self, work: Pass, source: NodeId, batch: list[Want], kept: set[ChunkId], again: list[Want]
    ) -> None:
        """Fetch a batch and keep it; what is to be asked for once more goes to `again`."""
        try:
            chunks = [want.chunk for want in batch]
            pieces = await self._transfers.ask(work, source, lambda peer: peer.get_many(work.vault, chunks))
        finally:
            self._busy[source] -= 1
        if pieces is None:
            again.extend(_without(batch, source))
            return
        again.extend(batch[len(pieces) :])
        came = [(want, piece) for want, piece in zip(batch, pieces, strict=False) if piece is not None]
        absent = [want for want, piece in zip(batch, pieces, strict=False) if piece is None]
        del pieces
        for _, piece in came:
            self._usual_size += (len(piece) - self._usual_size) // _NEWEST_PART
        async with self._keeping:
            done = await self._transfers.run_blocking(self._keep, work.vault, came, self._transfers.now_s())
        del came
        again.extend(_without([*absent, *done.others], source))
        kept.update(done.kept)
        if done.is_full:
            self._transfers.inventory.note_full()
            work.full.add(self._me)
            work.progress.wait_for("this node has no room left")
        if done.kept:
            work.progress.chunks_left -= len(done.kept)
            await self._transfers.account(work, done.size, len(done.kept))

    def _keep(self, vault: VaultId, came: Sequence[tuple[Want, bytes]], now_s: float) -> _Kept:
        """Verify and keep one chunk after the other, each durable by itself. Blocks."""
        kept: list[ChunkId] = []
        others: list[Want] = []
        size = 0
        for want, sealed in came:
            if hash_bytes(sealed) != want.chunk:
                others.append(want)
                continue
            try:
                # An age is a peer's word: one from the future would keep a chunk for as long as that peer likes.
                self._transfers.chunks.put(vault, want.chunk, sealed, min(want.touched_s, now_s))
            except StorageFullError:
                return _Kept(kept, size, others, is_full=True)
            kept.append(want.chunk)
            size += len(sealed)
        return _Kept(kept, size, others, is_full=False)


def _without(batch: Iterable[Want], source: NodeId) -> Iterator[Want]:
    for want in batch:
        yield want._replace(sources=[node for node in want.sources if node != source])
