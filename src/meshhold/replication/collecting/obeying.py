"""Which of the chunks here go when somebody says what is referred to? Knows ages and marks; walks no index.

Every holder judges ages by its own clock and its own files: an order tells how old a chunk must be, and how long ago
the walk began whose marks it carries, never a time of day. What is not sure stays: a chunk whose age is from a time
when the machine had no clock is renewed, after a clock was set nothing goes for a grace, and an order of a sender whose
clock differs much, or that walked an index which others have replaced since, is refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStat, ChunkStore
from meshhold.errors import ConflictError
from meshhold.model.ids import VaultId, short_id
from meshhold.replication.chunks import holder_contract
from meshhold.replication.collecting.clock_watch import JUMP_S, ClockWatch
from meshhold.replication.collecting.marks import Marks, unpack_order

KNOWN_SINCE_S: Final = 1_672_531_200.0
"""2023: no chunk is older than this program. A clock without battery begins in 1970, or when its system was built."""
SKEW_PART: Final = 8
"""Clocks of sender and holder may differ by this part of the grace, if that is more than a jump; see `collector`."""
ORDERS_MAX: Final = 3
"""Orders here at once, each with up to 64 MiB of marks; they are carried out one after the other."""
_SWEEP_BATCH: Final = 256
_LOG: Final = logging.getLogger("meshhold.collect")


@dataclass(frozen=True, slots=True)
class Collected:
    """What one round removed: chunks, and bytes of their sealed form."""

    removed: int
    bytes: int


class Obeying:
    """Removes dead chunks of one node.

    `oldest_start_s` tells when the oldest write in flight here began; `epoch_known` the epoch of a vault's index
    replicas that this node has heard of, 0 for none. Resources: borrows the chunk store; `watch` None: the clock is
    never set.
    """

    def __init__(
        self,
        chunks: ChunkStore,
        run_blocking: RunBlocking,
        *,
        watch: ClockWatch | None = None,
        now_s: Callable[[], float] = time.time,
        oldest_start_s: Callable[[], float] = lambda: float("inf"),
        epoch_known: Callable[[VaultId], int] = lambda _vault: 0,
    ) -> None:
        self._chunks = chunks
        self._run_blocking = run_blocking
        self._watch = watch
        self._now_s = now_s
        self._oldest_start_s = oldest_start_s
        self._epoch_known = epoch_known
        self._turn = trio.Lock()
        self._orders = 0

    async def obey(self, vault: VaultId, marks: bytes) -> holder_contract.Collected:
        """Carry out the order of a trusted member, whom the caller has checked; return chunks and bytes removed.

        Errors: `UnknownFormatError`; `ConflictError` says why nothing is removed here.
        """
        arrived_s = self._now_s()
        order = unpack_order(marks)
        skew_s = abs(order.sent_s - arrived_s)
        if skew_s > max(JUMP_S, order.grace_s / SKEW_PART):
            raise ConflictError(
                f"clocks differ by {skew_s:.0f} s, so ages of chunks are in doubt and none was removed",
                "set the clock of the machine that is wrong",
            )
        if order.epoch < self._epoch_known(vault):
            raise ConflictError(
                f"others keep the index of vault {short_id(vault)} by now: what the order calls dead may be in use",
                "collect on one of them",
            )
        cutoff_s = arrived_s - order.walk_ago_s - order.grace_s
        if self._orders >= ORDERS_MAX:
            raise ConflictError(f"{self._orders} orders to collect are being carried out", "it is told again later")
        self._orders += 1
        try:
            async with self._turn:
                found = await self.sweep(vault, order.marks, cutoff_s, order.grace_s)
        finally:
            self._orders -= 1
        return holder_contract.Collected(found.removed, found.bytes)

    async def sweep(self, vault: VaultId, marks: Marks, cutoff_s: float, grace_s: float) -> Collected:
        """Remove the chunks that are not marked and were last put before `cutoff_s` by this node's clock (since 1970).

        Errors: `ConflictError` while ages here are in doubt; those of the disk.
        """
        removed = size = 0
        stats = self._chunks.scan(vault)
        while batch := await self._run_blocking(_take, stats):
            self._check_clock(grace_s)
            before_s = min(cutoff_s, self._oldest_start_s())
            gone = await self._run_blocking(self._sweep_batch, vault, batch, marks, before_s)
            removed += gone.removed
            size += gone.bytes
        return Collected(removed, size)

    def _sweep_batch(self, vault: VaultId, batch: list[ChunkStat], marks: Marks, before_s: float) -> Collected:
        removed = size = 0
        for stat in batch:
            if stat.touched_s >= before_s or stat.chunk in marks:
                continue
            if stat.touched_s < KNOWN_SINCE_S:
                self._chunks.renew(vault, stat.chunk)
            elif self._chunks.remove_if_unused_since(vault, stat.chunk, before_s):
                removed += 1
                size += stat.size
        return Collected(removed, size)

    def _check_clock(self, grace_s: float) -> None:
        wait_s = 0.0 if self._watch is None else self._watch.wait_s(grace_s)
        if wait_s:
            raise ConflictError(
                f"this machine's clock was set, so the ages of its chunks are in doubt for another {wait_s:.0f} s",
                "nothing needs to be done: they are looked at again after that",
            )


def _take(stats: Iterator[ChunkStat]) -> list[ChunkStat]:
    return list(islice(stats, _SWEEP_BATCH))
