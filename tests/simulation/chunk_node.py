"""One simulated machine that keeps chunks, and the runs of its node: all that the daemon has for it, without doors.

What is the simulation's: the disk, the network, the clocks, and how records of members spread.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import trio
from tests.simulation.chunk_disk import SimulatedChunks
from tests.simulation.chunk_roster import Roster, RosterFacts
from tests.simulation.index_network import Links, Network
from tests.simulation.index_node import EPOCH_MS, KEYS, VAULT, Machine, Run

from meshhold.errors import MeshHoldError
from meshhold.model.configuration import Configuration
from meshhold.model.ids import NodeId, VaultId
from meshhold.replication.chunks.chunk_service import ChunkService
from meshhold.replication.chunks.copies import Copies
from meshhold.replication.chunks.holder_contract import Holder
from meshhold.replication.chunks.holders import Holders
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.replication.chunks.remote_chunks import Carrier, RemoteChunks
from meshhold.replication.chunks.writer import ChunkWriter
from meshhold.replication.collecting.clock_watch import ClockWatch
from meshhold.replication.collecting.collector import Collector, Company
from meshhold.replication.collecting.obeying import Obeying
from meshhold.replication.repair.inventory import Inventory
from meshhold.replication.repair.leases import Leases
from meshhold.replication.repair.repair import Repair
from meshhold.replication.throttle import Throttle
from meshhold.store.renewal import Renewal

LOOK_S: Final = 20.0
"""So often a node looks who is there and for how long others have been away."""
_T = TypeVar("_T")


@dataclass(slots=True)
class Pace:
    """How long things take in a life, in seconds."""

    grace_s: float = 1800.0
    collect_s: float = 600.0
    scrub_s: float = 1200.0
    out_after_s: float = 300.0


class ChunkMachine(Machine):
    """What survives of a node that keeps chunks. `roster` is the newest state of the records that it has heard of."""

    def __init__(self, number: int, grain_ms: int, chance: random.Random, roster: Callable[[], Roster]) -> None:
        super().__init__(number, grain_ms)
        self.store_now: Callable[[], float] = lambda: self.now_ms() / 1000
        """The clock of its store, which each run watches."""
        self.chunks = SimulatedChunks(chance, lambda: self.store_now(), trio.current_time)  # noqa: PLW0108 - as it is then
        self._first = roster
        self._known: Roster | None = None
        self.slow_s = 0.0
        """What each piece of work of its disk takes."""
        self.in_flight_max = 0
        """The most bytes that were under way to others at once."""

    @property
    def roster(self) -> Roster:
        """The newest records that it has heard of."""
        return self._known or self._first()

    def hear(self, roster: Roster) -> bool:
        """Take records; return whether they are news."""
        if self._known is not None and self._known.version >= roster.version:
            return False
        self._known = roster
        return True


class ChunkRun(Run):
    """One run of a node that keeps chunks."""

    def __init__(
        self,
        machine: ChunkMachine,
        network: Network,
        chance: random.Random,
        window_ms: int,
        note_adopted: Callable[[Run, Configuration], None],
        pace: Pace,
    ) -> None:
        super().__init__(machine, network, machine.chunks, chance, window_ms, note_adopted)
        self.box = machine
        self.pace = pace
        self._links_seen: frozenset[NodeId] = frozenset()

    async def run_blocking(self, function: Callable[..., _T], /, *arguments: Any) -> _T:
        """Run work of the disk, which takes its time before and after it is done: a crash may come between."""
        slow_s = max(self.box.chunks.ills.delay_s, self.box.slow_s)
        if not slow_s:
            await trio.lowlevel.checkpoint()
            return function(*arguments)
        delay_s = slow_s * self.chance.uniform(0.25, 0.5)
        await trio.sleep(delay_s)
        result = function(*arguments)
        await trio.sleep(delay_s)
        return result

    @property
    def is_trusted(self) -> bool:
        """Whether this node has the vault's keys."""
        return self.node in self.box.roster.trusted

    def _is_member(self, _: VaultId, node: NodeId) -> bool:
        return node in self.box.roster.nodes and self.node in self.box.roster.nodes

    def _now_s(self) -> float:
        return self.box.now_ms() / 1000

    def _assemble_chunks(self, peers: Links) -> tuple[ChunkWriter, ChunkReader, Renewal]:
        box = self.box
        facts = RosterFacts(self.node, lambda: box.roster, peers.linked, trio.current_time)
        self.holders = Holders(facts, self.node, out_after_s=self.pace.out_after_s, changed=self._soon)
        self._remotes: dict[NodeId, RemoteChunks] = {}
        self.copies = Copies(
            self.holders,
            box.chunks,
            self.run_blocking,
            self._holder_of,
            name_of=lambda node: node[:8],
            fell_short=self._soon,
            damaged=lambda vault, _chunk: self._soon(vault),
        )
        self.writer = ChunkWriter(box.chunks, self.run_blocking, copies=self.copies, now_s=self._now_s)
        self.reader = ChunkReader(box.chunks, self.run_blocking, copies=self.copies)
        self._assemble_care()
        return self.writer, self.reader, Renewal(box.chunks, self.reader, self.run_blocking, copies=self.copies)

    def _assemble_care(self) -> None:
        box, chunks = self.box, self.box.chunks
        inventory = Inventory(chunks, self.run_blocking, self._view_version)
        leases = Leases(self._view_version, clock_s=trio.current_time)
        watch = ClockWatch(self._now_s, trio.current_time)
        box.store_now = watch.now
        self.obeying = Obeying(
            chunks,
            self.run_blocking,
            watch=watch,
            now_s=self._now_s,
            oldest_start_s=lambda: self.writer.oldest_start_s,
            epoch_known=lambda _: 0 if self.published is None else self.published.epoch,
        )
        self.service = ChunkService(
            chunks,
            self.run_blocking,
            self._is_member,
            lambda _, node: node in box.roster.trusted,
            inventory,
            leases,
            self.obeying,
            self._now_s,
            is_leaving=self.holders.is_leaving,
        )
        self.service.register(self.dispatch)
        self.repair = Repair(
            self.holders,
            chunks,
            self.run_blocking,
            self._holder_of,
            inventory,
            leases,
            Throttle(),
            vaults=lambda: [VAULT] if self.node in box.roster.nodes else [],
            chance=self.chance,
            now_s=self._now_s,
        )
        self.collector = Collector(
            self.registers,
            chunks,
            self.reader,
            self.writer,
            self.run_blocking,
            obeying=self.obeying,
            company=Company(self.holders, self._holder_of),
            now_s=self._now_s,
        )

    def _view_version(self, vault: VaultId) -> str | None:
        view = self.holders.view(vault)
        return None if view is None else view.version

    def _holder_of(self, node: NodeId) -> Holder:
        if node == self.node:
            return self.service.local
        if node not in self._remotes:
            # The simulated links have what of the real ones is used here.
            self._remotes[node] = RemoteChunks(cast("Carrier", self.peers), node, self._now_s)
        return self._remotes[node]

    def _soon(self, vault: VaultId) -> None:
        self.repair.soon(vault)

    def hear(self, roster: Roster) -> None:
        """Take records of members, as sync of the registry brings them."""
        if self.box.hear(roster) and self.arrived:
            self.holders.refresh([VAULT])

    # -- what it does by itself ----------------------------------------------------------------------------------------

    def _chores(self) -> list[Callable[[], Awaitable[object]]]:
        return [*super()._chores(), self.copies.run, self.repair.run, self._look, self._collect_often, self._scrub]

    async def _look(self) -> None:
        """See who is there, as links that open and close tell."""
        while True:
            linked = frozenset(self.peers.linked())
            for node in sorted(linked - self._links_seen):
                self.repair.greet(node)
            self._links_seen = linked
            self.holders.refresh([VAULT])
            await trio.sleep(LOOK_S * self.chance.uniform(0.5, 1.0))

    async def _collect_often(self) -> None:
        while True:
            await trio.sleep(self.pace.collect_s * self.chance.uniform(0.2, 1.0))
            if self.is_trusted and self.collector.leads(VAULT):
                await self.collect()

    async def collect(self) -> int:
        """Collect what nothing refers to; return how many copies went, -1 for none since it could not."""
        try:
            found = await self.collector.collect(KEYS, self._now_s() - self.pace.grace_s, self.chance.getrandbits(31))
        except MeshHoldError:
            return -1
        return found.removed

    async def _scrub(self) -> None:
        """Read all chunks now and then, so that silent damage is found while other copies are good."""
        while True:
            await trio.sleep(self.pace.scrub_s * self.chance.uniform(0.5, 1.0))
            bad = [chunk for chunk in self.box.chunks.names(VAULT) if not await self._verify(chunk)]
            if bad:
                self.repair.soon(VAULT)

    async def _verify(self, chunk: Any) -> bool:
        return await self.run_blocking(self.box.chunks.verify, VAULT, chunk)


def right_s() -> float:
    """Return what a right clock shows: seconds since 1970."""
    return EPOCH_MS / 1000 + trio.current_time()
