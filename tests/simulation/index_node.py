"""One simulated machine: what survives on it, and one run of the node after the other. Decides no fault.

A run is assembled as the daemon assembles a node, without doors: real store, registers, replica, healing; the disk, the
network and the clocks are the simulation's.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final, TypeVar

import msgpack
import trio
from tests.simulation.index_disk import Disk, MemoryIndex, open_index
from tests.simulation.index_network import Links, Network

from meshhold.chunkstore.contract import ChunkStore
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import MeshHoldError
from meshhold.model.configuration import Configuration, unpack_configuration
from meshhold.model.ids import NodeId, VaultId, encode_id
from meshhold.model.stamp import Clock
from meshhold.peering.dispatch import Dispatch
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.replication.chunks.writer import ChunkWriter
from meshhold.replication.healing.copying import Copying
from meshhold.replication.healing.enrolment import Enrolment
from meshhold.replication.healing.fellow import Fellows
from meshhold.replication.healing.healing_service import HealingService
from meshhold.replication.healing.index_sync import IndexSync
from meshhold.replication.healing.reconfiguration import Reconfiguration
from meshhold.replication.healing.tombstones import Tombstones
from meshhold.replication.index.registers import Registers
from meshhold.replication.index.remote_replica import RemoteReplica
from meshhold.replication.index.replica import LocalReplica
from meshhold.replication.index.replica_service import ReplicaService
from meshhold.replication.index.seats import Seats
from meshhold.store.directory import Bucket
from meshhold.store.gates import Gates
from meshhold.store.listing import Listing
from meshhold.store.objects import Objects
from meshhold.store.renewal import Renewal
from meshhold.store.uploads import Uploads

EPOCH_MS: Final = 1_700_000_000_000
"""What the right clock shows when the simulation begins: milliseconds since 1970."""
_PUBLISHED: Final = ("configuration", "published")
_TELL: Final = "sim.configuration/1"
TELL_FIRST_S: Final = 1.0
TELL_EVERY_S: Final = 60.0
_T = TypeVar("_T")
KEYS: Final = VaultKeys(b"v" * 32)
BUCKET: Final = Bucket(KEYS.vault_id, KEYS, "vault", "vault", EPOCH_MS, 1)
VAULT: Final[VaultId] = BUCKET.id


def _vaults() -> list[VaultId]:
    return [VAULT]


async def run_inline(function: Callable[..., _T], /, *arguments: Any) -> _T:
    """Run blocking work at once: what it does is not what is simulated."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class Machine:
    """What survives of a node: its identity, its disk and its clock."""

    def __init__(self, number: int, grain_ms: int = 1) -> None:
        self.number = number
        public = blake2b(b"node %d" % number, digest_size=32).digest()
        self.node = NodeId(encode_id(public))
        self.stamp_node = public[:8]
        self.disk = Disk()
        self.skew_ms = 0
        self.grain_ms = grain_ms
        """The clock goes in steps of this; some machines' clocks are coarse."""
        self.runs = 0
        self.run: Run | None = None

    @property
    def name(self) -> str:
        """How people call it."""
        return f"n{self.number}"

    def now_ms(self) -> int:
        """Milliseconds since 1970, as this machine believes."""
        right_ms = EPOCH_MS + int(trio.current_time() * 1000) + self.skew_ms
        return right_ms // self.grain_ms * self.grain_ms


class Run:
    """One run of a node, from its start to its crash. Made by `start`."""

    def __init__(
        self,
        machine: Machine,
        network: Network,
        chunks: ChunkStore,
        chance: random.Random,
        window_ms: int,
        note_adopted: Callable[[Run, Configuration], None],
    ) -> None:
        self.machine = machine
        self.node = machine.node
        self.arrived = False
        self._window_ms = window_ms
        self._note_adopted = note_adopted
        self.dispatch = Dispatch()
        self.ended = trio.Event()
        self._network = network
        self._chunks = chunks
        self.chance = chance
        self._parts: dict[int, trio.CancelScope] = {}
        self._part_count = 0
        self._dead = False
        self._life = trio.CancelScope()

    @contextmanager
    def alive(self) -> Iterator[trio.CancelScope]:
        """Run the block as a part of the node: its crash cancels the block."""
        with trio.CancelScope() as scope:
            if self._dead:
                scope.cancel()
            self._part_count += 1
            number = self._part_count
            self._parts[number] = scope
            try:
                yield scope
            finally:
                del self._parts[number]

    def crash(self) -> None:
        """End everything at once; of what was being written to the disk a part is kept."""
        if self._dead:
            return
        self._dead = True
        if self.arrived:
            self.index.crash()
            self._network.leave(self.node)
        for scope in list(self._parts.values()):
            scope.cancel()
        self._life.cancel()

    async def live(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be a node until the crash."""
        try:
            with self._life:
                async with open_index(self.machine.disk, self.chance) as self.index, trio.open_nursery() as nursery:
                    self._assemble(self.index, self._network.peers_of(self.node))
                    for chore in self._chores():
                        nursery.start_soon(chore)
                    self._network.arrive(self)
                    self.arrived = True
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self.ended.set()

    def _assemble(self, index: MemoryIndex, peers: Links) -> None:
        machine = self.machine
        self.peers = peers
        self.clock = Clock(machine.stamp_node)
        self.seats = Seats(self.node, index, lambda _: self.published)
        self.seats.follow(lambda _, configuration: self._note_adopted(self, configuration))
        self.replica = LocalReplica(
            index, self.seats, self.clock, machine.now_ms, node=machine.stamp_node, window_ms=self._window_ms
        )
        self.registers = Registers(
            self.replica,
            self.seats,
            lambda node: RemoteReplica(peers, node),
            self.clock,
            machine.now_ms,
            chance=self.chance.random,
        )
        ReplicaService(self.replica, lambda _vault, _peer: True).register(self.dispatch)
        self.dispatch.on_call(_TELL, self._handle_tell)
        writer, reader, renewal = self._assemble_chunks(peers)
        self.objects = Objects(self.registers, writer, reader, renewal, Gates(), machine.now_ms)
        self.uploads = Uploads(self.registers, writer, self.objects, self.clock, machine.now_ms)
        self.listing = Listing(self.registers)

        self._assemble_healing(peers)

    def _assemble_chunks(self, _: Links) -> tuple[ChunkWriter, ChunkReader, Renewal]:
        """Keep chunks where all nodes find them: here they are not what is simulated."""
        writer = ChunkWriter(self._chunks, run_inline, now_s=lambda: self.machine.now_ms() / 1000)
        reader = ChunkReader(self._chunks, run_inline)
        return writer, reader, Renewal(self._chunks, reader, run_inline)

    def _assemble_healing(self, peers: Links) -> None:
        machine, chance = self.machine, self.chance
        fellows = Fellows(peers, self.seats)
        copying = Copying(self.replica, self.seats, machine.now_ms, window_ms=self._window_ms)
        self.sync = IndexSync(
            copying, self.seats, fellows, self.registers, _vaults, peers.linked, machine.now_ms, chance=chance
        )
        self.enrolment = Enrolment(
            copying, self.seats, fellows, self.sync, self.registers, _vaults, self.clock, machine.now_ms, chance=chance
        )
        self.tombstones = Tombstones(copying, self.seats, fellows, machine.now_ms)
        self._reconfiguration = Reconfiguration(
            self.index,
            self.seats,
            self.registers,
            fellows,
            self.enrolment,
            lambda _, configuration: self.publish(configuration),
            _vaults,
            chance=chance,
        )
        HealingService(copying, self.seats, self.enrolment, lambda _vault, _peer: True).register(self.dispatch)

    def _chores(self) -> list[Callable[[], Awaitable[object]]]:
        return [
            self.registers.run,
            self.sync.run,
            self.enrolment.run,
            self._reconfiguration.run,
            self._hear_of_configurations,
            self._sweep,
        ]

    async def change_replicas(self, nodes: Sequence[NodeId]) -> Configuration:
        """Change who keeps the index; see `Reconfiguration.change`."""
        return await self._reconfiguration.change(VAULT, nodes)

    async def _sweep(self) -> None:
        """Remove old deletions now and then."""
        while True:
            await trio.sleep(self._window_ms / 1000 * self.chance.uniform(0.1, 0.5))
            try:
                await self.tombstones.sweep(VAULT, 0)
            except MeshHoldError:
                continue  # the disk is ill; another time

    # -- the registry, as far as it matters here: the newest configuration that anybody published ----------------------

    @property
    def published(self) -> Configuration | None:
        """The newest configuration that this node heard of."""
        raw = self.machine.disk.records.get(_PUBLISHED)
        return None if raw is None else unpack_configuration(msgpack.unpackb(raw))

    async def publish(self, configuration: Configuration) -> None:
        """Keep a configuration, durably, and tell others by and by; an older one than is known changes nothing."""
        known = self.published
        if known is None or known.epoch < configuration.epoch:
            await self.index.save_records([(*_PUBLISHED, msgpack.packb(configuration.pack()))])

    async def _handle_tell(self, _: NodeId, body: Any) -> Any:
        if body is not None:
            await self.publish(unpack_configuration(body))
        return None if self.published is None else self.published.pack()

    async def _hear_of_configurations(self) -> None:
        pause_s = TELL_FIRST_S
        while True:
            await trio.sleep(pause_s * self.chance.uniform(0.5, 1.0))
            pause_s = TELL_EVERY_S
            linked = self.peers.linked()
            if not linked:
                continue
            known = self.published
            try:
                body = None if known is None else known.pack()
                heard = await self.peers.call(self.chance.choice(linked), _TELL, body, timeout_s=TELL_EVERY_S)
                if heard is not None:
                    await self.publish(unpack_configuration(heard))
            except MeshHoldError:
                continue  # another peer, another time
