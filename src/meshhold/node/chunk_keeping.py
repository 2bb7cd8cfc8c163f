"""This node's part in keeping chunks with others: who keeps what, copies, repair, answers. Decides no behaviour."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.cache import ChunkCache
from meshhold.chunkstore.contract import ChunkStore
from meshhold.model.ids import NodeId, VaultId
from meshhold.node.reach import Reach
from meshhold.node.vault_keepers import VaultKeepers
from meshhold.peering.dispatch import Dispatch
from meshhold.registry.record import Kind, Record
from meshhold.replication.chunks.chunk_service import ChunkService
from meshhold.replication.chunks.copies import Copies
from meshhold.replication.chunks.fellowship import Fellowship
from meshhold.replication.chunks.holder_contract import Holder
from meshhold.replication.chunks.holders import Holders
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.replication.chunks.remote_chunks import RemoteChunks
from meshhold.replication.chunks.survey import OwnWitness
from meshhold.replication.chunks.survey_wire import SurveyService
from meshhold.replication.chunks.writer import ChunkWriter
from meshhold.replication.collecting.clock_watch import ClockWatch
from meshhold.replication.collecting.obeying import Obeying
from meshhold.replication.repair.inventory import Inventory
from meshhold.replication.repair.leases import Leases
from meshhold.replication.repair.repair import Repair
from meshhold.replication.repair.settings import Settings
from meshhold.replication.throttle import Throttle

LOOK_S: Final = 5.0
"""Absence is counted in minutes: so often this node looks who is away, and whether the read cache is to give way."""
_TOLD_BY: Final = frozenset({Kind.NODE, Kind.VAULT, Kind.MEMBER, Kind.BAN})


@dataclass(frozen=True, slots=True)
class ChunkSurroundings:
    """What the keeping of chunks needs of the node around it.

    `is_trusted` tells whether a node is a trusted member of a vault, `is_alone_allowed` whether one copy is enough
    while the others are away, `keeps_index` whether this node keeps a vault's index, `index_replicas` how many nodes
    do, `index_epoch` which epoch of them this node has heard of; `name_of` gives names for messages to people; `watch`
    is the clock of the store.
    """

    keepers: VaultKeepers
    reach: Reach
    is_trusted: Callable[[VaultId, NodeId], bool]
    is_alone_allowed: Callable[[VaultId], bool]
    keeps_index: Callable[[VaultId], bool]
    index_replicas: Callable[[VaultId], int]
    index_epoch: Callable[[VaultId], int]
    name_of: Callable[[NodeId], str]
    watch: ClockWatch
    chance: random.Random


class ChunkKeeping:
    """All that keeps chunks, tied together.

    `run_blocking` is for this node's own requests, `run_for_others` for repair and for what peers ask: a greedy one
    does not crowd out the apps. `reader` is for what clients read and `upkeep_reader` for the node's own ends: only
    the first one sees the `cache`. Resources: borrows the store, the cache and its surroundings.
    """

    def __init__(
        self,
        chunks: ChunkStore,
        cache: ChunkCache,
        me: NodeId,
        around: ChunkSurroundings,
        run_blocking: RunBlocking,
        run_for_others: RunBlocking,
        settings: Settings,
    ) -> None:
        self._keepers = around.keepers
        self._me = me
        self.cache = cache
        self._run_for_others = run_for_others
        self.holders = Holders(around.keepers, me, out_after_s=settings.out_after_s, changed=self._changed)
        self.leases = Leases(self._view_version)
        self.inventory = Inventory(chunks, run_for_others, self._view_version)
        self.obeying = Obeying(
            chunks,
            run_for_others,
            watch=around.watch,
            oldest_start_s=lambda: self.writer.oldest_start_s,
            epoch_known=around.index_epoch,
        )
        self._service = ChunkService(
            chunks,
            run_for_others,
            around.keepers.is_member,
            around.is_trusted,
            self.inventory,
            self.leases,
            self.obeying,
            damaged=self._changed,
            may_hand_over=around.keepers.may_hand_over,
            is_leaving=self.holders.is_leaving,
        )
        # Each bounds what is on its way to its node, so there is one.
        remote = functools.cache(lambda node: RemoteChunks(around.reach, node))

        def holder_of(node: NodeId) -> Holder:
            return self._service.local if node == me else remote(node)

        self.holder_of = holder_of
        self.repair = Repair(
            self.holders,
            chunks,
            run_for_others,
            holder_of,
            self.inventory,
            self.leases,
            Throttle(settings.bytes_per_s, self._is_busy),
            vaults=around.keepers.vaults,
            chance=around.chance,
            now_s=time.time,
        )
        self.copies = Copies(
            self.holders,
            chunks,
            run_blocking,
            holder_of,
            name_of=around.name_of,
            is_alone_allowed=around.is_alone_allowed,
            fell_short=self.repair.soon,
            damaged=lambda vault, _chunk: self.repair.soon(vault),
        )
        self._index_replicas = around.index_replicas
        self.writer = ChunkWriter(chunks, run_blocking, copies=self.copies, is_index_dear=self._is_index_dear)
        self.reader = ChunkReader(chunks, run_blocking, copies=self.copies, cache=cache)
        self.upkeep_reader = ChunkReader(chunks, run_blocking, copies=self.copies)
        self.witness = OwnWitness(
            chunks, run_for_others, around.keeps_index, on_damage=self.repair.soon, may_take=self._service.may_take
        )
        self.fellowship = Fellowship(self.holders, around.reach, self.witness, holder_of, self.repair.soon)
        self._surveys = SurveyService(self.witness, around.keepers.is_member)

    def _is_index_dear(self, vault: VaultId) -> bool:
        view = self.holders.view(vault)
        return view is not None and view.wanted < self._index_replicas(vault)

    def vaults(self) -> list[VaultId]:
        """Return the vaults that this node is a member of, or was until it was given up with what it had."""
        return self._keepers.vaults()

    def given_up(self) -> list[dict[str, Any]]:
        """Return what is still here of vaults that this node was given up with, as people and scripts are shown it.

        `vault`, `chunks` (not yet removed), `short` (those of them that a member lacks), `waiting` (for what, or `""`).
        """
        known = self.repair.progress()
        shown = [(vault, known[vault]) for vault in self._keepers.given_up() if vault in known]
        return [
            {"vault": vault, "chunks": each.surplus, "short": each.short_count, "waiting": each.waiting}
            for vault, each in shown
            if each.surplus
        ]

    def is_member(self, vault: VaultId, node: NodeId) -> bool:
        """Tell whether a node is a member of a vault."""
        return self._keepers.is_member(vault, node)

    def waiting(self, vault: VaultId) -> str:
        """Tell what repair of a vault waits for, `""` for nothing."""
        progress = self.repair.progress().get(vault)
        return "" if progress is None else progress.waiting

    def rate(self, vault: VaultId) -> float:
        """Return how many bytes per second repair of a vault has moved of late."""
        progress = self.repair.progress().get(vault)
        return 0.0 if progress is None else progress.rate.per_s(trio.current_time())

    def register(self, dispatch: Dispatch) -> None:
        """Answer what other nodes ask about this one's chunks."""
        self._service.register(dispatch)
        self._surveys.register(dispatch)

    def greet(self, peer: NodeId) -> None:
        """Compare chunks with a peer to which a link has opened."""
        self.repair.greet(peer)

    def hear(self, records: Sequence[Record], _source: NodeId | None = None) -> None:
        """Look again who is to keep what: these records are new."""
        if any(record.kind in _TOLD_BY for record in records):
            self._look()

    async def run(self) -> NoReturn:
        """Keep on, until cancelled."""
        async with trio.open_nursery() as nursery:
            for run in (self.copies.run, self.repair.run, self._watch_absences, self._tend_cache):
                nursery.start_soon(run)
        raise AssertionError("chunks are kept until cancelled")

    async def _watch_absences(self) -> NoReturn:
        while True:
            self._look()
            await trio.sleep(LOOK_S)

    async def _tend_cache(self) -> NoReturn:
        await self._run_for_others(self.cache.sweep)
        while True:
            if self.cache.used:
                mine = {vault for vault in self._keepers.vaults() if self._keepers.is_member(vault, self._me)}
                await self._run_for_others(self.cache.tend, mine)
            await trio.sleep(LOOK_S)

    def _look(self) -> None:
        self.holders.refresh([*self.holders.known(), *self._keepers.vaults()])

    def _changed(self, vault: VaultId) -> None:
        self.repair.soon(vault)

    def _view_version(self, vault: VaultId) -> str | None:
        view = self.holders.view(vault)
        return None if view is None else view.version

    def _is_busy(self) -> bool:
        return self.reader.reading > 0 or self.writer.oldest_start_s != float("inf")
