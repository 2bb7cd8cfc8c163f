"""When is a vault's copy on this node compared with those of other nodes, and how far is that? Knows no single chunk.

Each node that is to keep chunks sees to its own completeness (`refill`); each that has chunks of others moves them to
these (`surplus`). Both go by differences as they are found, so a pass that ends halfway has lost nothing: the next
finds what is left. A pass begins when this node starts, when a link to a member opens, when the view changes, when a
write or a read came upon a copy that is not where it should be, and every `EVERY_S`; soon again while work is left.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NoReturn

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.errors import FatalError, MeshHoldError
from meshhold.membership.chance import Chance
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.replication.chunks.holder_contract import Holder
from meshhold.replication.chunks.holders import Holders, View
from meshhold.replication.repair.inventory import Inventory
from meshhold.replication.repair.leases import Leases
from meshhold.replication.repair.refill import Refill
from meshhold.replication.repair.repair_progress import Progress
from meshhold.replication.repair.surplus import Surplus
from meshhold.replication.repair.transfers import Pass, Transfers
from meshhold.replication.tasks import open_tasks
from meshhold.replication.throttle import Throttle

EVERY_S: Final = 600.0
"""What no trigger told of is found within that time; equal nodes exchange 8 KiB."""
RETRY_S: Final = 60.0
"""While something is left: half a lease, so surplus goes soon after the leases on it are over."""
SOON_S: Final = 0.2
"""Links open and records arrive in bunches; one pass serves them all."""
PAUSE_S: Final = 2.0
PAUSE_MAX_S: Final = 60.0
COMPARE_SHARE: Final = 5
"""A pass follows another after so many times what comparing took: that takes a sixth of a core at most."""
LOOK_S: Final = 60.0
"""So often this node looks which vaults there are, if nobody tells."""
PASSES_MAX: Final = 4
"""Vaults that are repaired side by side; they share places and rate."""
ASKED_MAX: Final = 16
"""Members whose digests are fetched side by side."""
_LOG: Final = logging.getLogger("meshhold.repair")


class Repair:
    """Keeps this node's copies complete and moves those that others are to keep.

    `vaults` names the vaults this node is a member of; `chance` spreads passes; `now_s` is the time since 1970, by
    which copies have their age. Resources: borrows its collaborators.
    """

    def __init__(
        self,
        holders: Holders,
        chunks: ChunkStore,
        run_blocking: RunBlocking,
        holder_of: Callable[[NodeId], Holder],
        inventory: Inventory,
        leases: Leases,
        throttle: Throttle,
        *,
        vaults: Callable[[], Iterable[VaultId]],
        chance: Chance,
        now_s: Callable[[], float],
    ) -> None:
        self._holders = holders
        self._chunks = chunks
        self._run_blocking = run_blocking
        self._inventory = inventory
        self._vaults = vaults
        self._chance = chance
        self._now_s = now_s
        self._transfers = Transfers(holders, chunks, run_blocking, holder_of, inventory, throttle, now_s)
        self._refill = Refill(self._transfers)
        self._surplus = Surplus(self._transfers, leases)
        self._progress: dict[VaultId, Progress] = {}
        self._locks: dict[VaultId, trio.Lock] = {}
        self._due_s: dict[VaultId, float] = {}
        self._earliest_s: dict[VaultId, float] = {}
        self._running: set[VaultId] = set()
        self._places = trio.CapacityLimiter(PASSES_MAX)
        self._wake = trio.Event()

    # -- triggers -----------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Make passes until cancelled. Errors: `FatalError`; anything else is logged, shown, and tried again."""
        async with open_tasks() as nursery:
            while True:
                self._wake = trio.Event()
                now_s = trio.current_time()
                present = set(self._vaults())
                for vault in [*self._due_s, *self._progress]:
                    if vault not in present | self._running:
                        self._forget(vault)
                for vault in present:
                    if self._due_s.setdefault(vault, now_s + SOON_S) <= now_s and vault not in self._running:
                        self._running.add(vault)
                        self._due_s[vault] = math.inf
                        nursery.start_soon(self._pass_in_turn, vault)
                waits = [due_s for vault, due_s in self._due_s.items() if vault not in self._running]
                with trio.move_on_at(min([now_s + LOOK_S, *waits])):
                    await self._wake.wait()
        raise AssertionError("a nursery is left by an error only")

    def soon(self, vault: VaultId) -> None:
        """Let a pass begin: something is known to have changed, or not to be where it should."""
        at_s = max(trio.current_time() + SOON_S, self._earliest_s.get(vault, -math.inf))
        self._due_s[vault] = min(self._due_s.get(vault, math.inf), at_s)
        self._wake.set()

    def greet(self, peer: NodeId) -> None:
        """Let passes begin over the vaults of a peer to which a link has opened."""
        for vault in self._vaults():
            view = self._holders.view(vault)
            if view is not None and peer in view.members:
                self.soon(vault)

    def progress(self) -> dict[VaultId, Progress]:
        """Return how far each vault is; its times are those of trio's clock."""
        return dict(self._progress)

    def _forget(self, vault: VaultId) -> None:
        for known in (self._due_s, self._earliest_s, self._progress, self._locks):
            known.pop(vault, None)

    async def _pass_in_turn(self, vault: VaultId) -> None:
        again_s = RETRY_S
        try:
            async with self._places:
                if await self.pass_over(vault):
                    again_s = EVERY_S
        except FatalError:
            raise
        except MeshHoldError as error:
            _LOG.warning("repair of vault %s stopped: %s", short_id(vault), error)
        finally:
            self._running.discard(vault)
            now_s = trio.current_time()
            again_s *= self._chance.uniform(0.9, 1.1)
            # Whoever called `soon` meanwhile wants it sooner.
            wanted_s = max(self._due_s.get(vault, math.inf), self._earliest_s.get(vault, now_s))
            self._due_s[vault] = min(wanted_s, now_s + again_s)
            self._wake.set()

    # -- one pass -----------------------------------------------------------------------------------------------------

    async def pass_over(self, vault: VaultId) -> bool:
        """Make one pass over a vault; tell whether all that this node knows of is where it should be.

        Errors: `StorageFailedError` of this node's disk; `FatalError`.
        """
        async with self._locks.setdefault(vault, trio.Lock()):
            view = self._holders.view(vault)
            if view is None:
                self._progress.pop(vault, None)
                return True
            progress = self._progress.setdefault(vault, Progress())
            progress.begin()
            try:
                if view.members != (self._holders.me,):
                    await self._compare_and_move(vault, view, progress)
                settled = progress.chunks_left == progress.surplus == progress.short_count == 0
                progress.complete = settled and not progress.waiting
                progress.finished_at = self._now_s()
            except MeshHoldError as error:
                progress.waiting = str(error)
                raise
            finally:
                progress.phase = "waiting" if progress.waiting else "idle"
            return progress.complete

    async def _compare_and_move(self, vault: VaultId, view: View, progress: Progress) -> None:
        began_s = trio.current_time()
        work = Pass(vault, view, progress, await self._inventory.table(vault, view.bits))
        if await self._inventory.is_full():
            work.full.add(self._holders.me)
            progress.wait_for("this node has no room left")
        await self._ask_digests(work, await self._concerned(work))
        if work.full:  # whoever is next in order may be asked to take what they lack
            await self._ask_digests(work, {member.node for member in view.ring.members} - view.out)
        now_s = trio.current_time()
        pause_s = min(max((now_s - began_s) * COMPARE_SHARE, PAUSE_S), PAUSE_MAX_S)
        progress.phase = "moving"
        try:
            async with open_tasks() as nursery:
                nursery.start_soon(self._refill.run, work)
                nursery.start_soon(self._surplus.run, work)
        finally:
            self._earliest_s[vault] = trio.current_time() + pause_s
        if not self._transfers.is_current(work):
            self.soon(vault)

    async def _concerned(self, work: Pass) -> set[NodeId]:
        """Return the nodes that are to keep chunks which this node has, or is to keep, too."""
        found: set[NodeId] = set()
        for partition, count in enumerate(work.mine.counts):
            holders = work.view.holders_in(partition)
            if count or self._holders.me in holders:
                found.update(holders)
            if partition % 1024 == 0:
                await trio.lowlevel.checkpoint()
        return found

    async def _ask_digests(self, work: Pass, nodes: set[NodeId]) -> None:
        places = trio.CapacityLimiter(ASKED_MAX)
        bits = work.view.bits

        async def ask(node: NodeId) -> None:
            async with places:
                told = await self._transfers.ask(work, node, lambda peer: peer.digests(work.vault, bits))
            if told is None:
                work.progress.wait_for(f"node {short_id(node)} does not tell what it has")
                return
            work.told[node] = told
            if told.is_full:
                work.full.add(node)

        async with open_tasks() as nursery:
            for node in sorted(nodes - {self._holders.me} - work.told.keys()):
                if self._holders.is_live(node):
                    nursery.start_soon(partial(ask, node))
                else:
                    work.progress.wait_for(f"node {short_id(node)} is away")
