"""Nodes that keep one index together and heal each other: real parts on indexes in memory, under one wall clock.

Calls go to the other node's handlers through the codec. `Mesh.cut` takes a node off the network; `Mesh.restart` makes a
node anew over what was durable, `Mesh.wipe` over nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Any

import trio
from tests.unit.store_kit import run_inline

from meshhold.errors import MeshHoldError, PeerUnreachableError
from meshhold.index.sqlite import SqliteIndex, open_index
from meshhold.model.configuration import Configuration, found_configuration
from meshhold.model.entry import Entry, ObjectVersion, Space
from meshhold.model.ids import NodeId, OpId, VaultId, encode_id
from meshhold.model.stamp import COUNTER_BITS, Clock, Stamp
from meshhold.peering.dispatch import Dispatch, failure_of, refusal_of
from meshhold.replication.healing.copying import Copying
from meshhold.replication.healing.enrolment import Enrolment
from meshhold.replication.healing.fellow import Fellows
from meshhold.replication.healing.healing_service import HealingService
from meshhold.replication.healing.index_sync import IndexSync
from meshhold.replication.healing.reconfiguration import Reconfiguration
from meshhold.replication.healing.tombstones import Tombstones
from meshhold.replication.index.contract import Register
from meshhold.replication.index.registers import Registers, Write
from meshhold.replication.index.remote_replica import RemoteReplica
from meshhold.replication.index.replica import LocalReplica
from meshhold.replication.index.replica_service import ReplicaService
from meshhold.replication.index.seats import Seats
from meshhold.replication.throttle import Throttle
from meshhold.wire import limits
from meshhold.wire.codec import Limits, decode, encode

VAULT = VaultId("v" * 32)
WINDOW_MS = 600_000
START_MS = 1_700_000_000_000
MESSAGE = Limits(size_max=limits.Limits().message_size)


class Wall:
    """The time by everybody's clock."""

    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms


class Node:
    """One node over one index."""

    def __init__(self, mesh: Mesh, number: int, index: SqliteIndex) -> None:
        public = blake2b(b"node %d" % number, digest_size=32).digest()
        self.node = NodeId(encode_id(public))
        self.stamp_node = public[:8]
        self.number = number
        self.index = index
        self.dispatch = Dispatch()
        self.published: list[Configuration] = []
        self._mesh = mesh
        chance = random.Random(number)
        clock = self.clock = Clock(self.stamp_node)
        wall = mesh.wall
        self.seats = Seats(self.node, index)
        self.replica = LocalReplica(index, self.seats, clock, wall, node=self.stamp_node, window_ms=WINDOW_MS)
        self.registers = Registers(
            self.replica, self.seats, lambda node: RemoteReplica(self, node), clock, wall, chance=chance.random
        )
        fellows = Fellows(self, self.seats)
        self.copying = Copying(self.replica, self.seats, wall, window_ms=WINDOW_MS)
        self.sync = IndexSync(
            self.copying, self.seats, fellows, self.registers, lambda: [VAULT], self.linked, wall, chance=chance,
            throttle=Throttle(1e12),
        )  # fmt: skip
        self.enrolment = Enrolment(
            self.copying, self.seats, fellows, self.sync, self.registers, lambda: [VAULT], clock, wall, chance=chance
        )
        self.reconfiguration = Reconfiguration(
            index, self.seats, self.registers, fellows, self.enrolment, self._publish, lambda: [VAULT], chance=chance,
            name_of=lambda node: f"n{mesh.by_id[node].number}", patience_s=20.0, grace_s=5.0,
        )  # fmt: skip
        self.tombstones = Tombstones(self.copying, self.seats, fellows, wall)
        self.fellows = fellows
        ReplicaService(self.replica, lambda _vault, _peer: True).register(self.dispatch)
        HealingService(self.copying, self.seats, self.enrolment, lambda _vault, _peer: True).register(self.dispatch)

    async def _publish(self, _: VaultId, configuration: Configuration) -> None:
        self.published.append(configuration)

    # -- as a peer ----------------------------------------------------------------------------------------------------

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        """Ask a peer; see `Peers`."""
        assert timeout_s > 0
        return await self._mesh.carry(self, peer, name, body)

    def linked(self) -> Sequence[NodeId]:
        """Return the peers that can be reached."""
        return [node.node for node in self._mesh.nodes if node is not self and node.number not in self._mesh.cut]

    # -- what tests do and see ----------------------------------------------------------------------------------------

    async def put(self, key: str, text: str = "x") -> None:
        """Write an object."""
        await self.registers.change(VAULT, Space.OBJECTS, key.encode(), lambda _: Write(version(text)))

    async def delete(self, key: str) -> None:
        """Delete an object."""
        await self.registers.change(VAULT, Space.OBJECTS, key.encode(), lambda _: Write(None))

    async def get(self, key: str) -> str | None:
        """Read an object through a quorum."""
        entry = await self.registers.read(VAULT, Space.OBJECTS, key.encode())
        return entry.value.etag if entry is not None and isinstance(entry.value, ObjectVersion) else None

    def stamp(self) -> Stamp:
        """Return a ballot of this node, above all that anybody has made so far."""
        self._mesh.pass_ms(1)
        return self.clock.tick(self._mesh.wall.ms)

    async def plant(self, key: str, ballot: Stamp, text: str | None = "x") -> None:
        """Let this replica alone have accepted something, by a proposer that got no further."""
        epoch = self.seats.configuration(VAULT).epoch
        refusal = await self.replica.accept(epoch, register(key), ballot, entry(text))
        assert refusal is None, refusal

    def row(self, key: str) -> Stamp | None:
        """Return the ballot of this replica's own row."""
        found = self.index.load(VAULT, Space.OBJECTS, key.encode())
        return None if found is None else found.accepted

    @property
    def digests(self) -> bytes:
        """The digests of this replica."""
        return self.index.bucket_digests(VAULT)


class Mesh:
    """Nodes that reach each other."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.wall = Wall()
        self.nodes: list[Node] = []
        self.cut: set[int] = set()
        self.calls: Counter[str] = Counter()
        self.bytes = 0
        self.before_call: Callable[[Node, Node, str, Any], Awaitable[None]] | None = None
        self.chores = False
        self._nursery = nursery
        self._scopes: dict[int, trio.CancelScope] = {}
        self._indexes: dict[int, SqliteIndex] = {}

    @property
    def by_id(self) -> dict[NodeId, Node]:
        """The nodes by their ids."""
        return {node.node: node for node in self.nodes}

    async def carry(self, caller: Node, peer: NodeId, name: str, body: Any) -> Any:
        """Take a call to its handler and the answer back."""
        await trio.lowlevel.checkpoint()
        target = self.by_id[peer]
        if self.before_call is not None:
            await self.before_call(caller, target, name, body)
        if {caller.number, target.number} & self.cut:
            raise PeerUnreachableError(f"there is no link to n{target.number}")
        raw = encode(body, MESSAGE)
        self.calls[name] += 1
        try:
            answer = await target.dispatch.calls[name](caller.node, decode(raw, MESSAGE))
        except MeshHoldError as error:
            raise refusal_of(failure_of(error, caller.node, name), peer, name) from error
        packed = encode(answer, MESSAGE)
        self.bytes += len(raw) + len(packed)
        return decode(packed, MESSAGE)

    async def add(self) -> Node:
        """Let one more node begin, without a seat."""
        node = await self._make()
        self._begin(node)
        return node

    async def _make(self) -> Node:
        number = len(self.nodes)
        self._indexes[number] = await self._nursery.start(_hold_index)
        self.nodes.append(node := Node(self, number, self._indexes[number]))
        return node

    async def restart(self, number: int, *, wiped: bool = False) -> Node:
        """Let a node begin again over what was durable."""
        self._scopes[number].cancel()
        if wiped:
            self._indexes[number] = await self._nursery.start(_hold_index)
        node = self.nodes[number] = Node(self, number, self._indexes[number])
        self._begin(node)
        return node

    def _begin(self, node: Node) -> None:
        scope = self._scopes[node.number] = trio.CancelScope()

        async def live() -> None:
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(node.registers.run)
                    nursery.start_soon(node.enrolment.run)
                    if self.chores:
                        nursery.start_soon(node.sync.run)
                        nursery.start_soon(node.reconfiguration.run)

        self._nursery.start_soon(live)

    async def found(self, count: int) -> list[Node]:
        """Let `count` nodes keep the index together from its beginning."""
        nodes = [await self._make() for _ in range(count)]
        configuration = found_configuration([node.node for node in nodes])
        for node in nodes:
            await node.seats.adopt(VAULT, configuration)
            await node.seats.enrol(VAULT, 1)
            self._begin(node)
        return nodes

    def pass_ms(self, ms: int) -> None:
        """Let time pass by everybody's clock."""
        self.wall.ms += ms


@asynccontextmanager
async def open_mesh() -> AsyncIterator[Mesh]:
    """Yield a mesh without nodes; everything ends with it."""
    async with trio.open_nursery() as nursery:
        yield Mesh(nursery)
        nursery.cancel_scope.cancel()


async def _hold_index(*, task_status: trio.TaskStatus[SqliteIndex]) -> None:
    async with open_index(None, run_blocking=run_inline) as index:
        task_status.started(index)
        await trio.sleep_forever()


def version(text: str) -> ObjectVersion:
    """Return an object whose ETag is `text`."""
    return ObjectVersion(len(text), text, 1, text.encode())


def entry(text: str | None, op: bytes = b"o" * 16) -> Entry:
    """Return an entry; None: a tombstone."""
    return Entry(OpId(op), None if text is None else version(text))


def register(key: str) -> Register:
    """Return the name of an object's register."""
    return Register(VAULT, Space.OBJECTS, key.encode())


def stamp_at(wall_ms: int, node: Node) -> Stamp:
    """Return a ballot of a node at some time."""
    return Stamp(wall_ms << COUNTER_BITS, node.stamp_node)


async def wait_until(reached: Callable[[], bool], within_s: float) -> None:
    """Wait by trio's clock, which is a virtual one here. Errors: `TooSlowError`."""
    with trio.fail_after(within_s):
        while not reached():  # noqa: ASYNC110 - many things may lead to it
            await trio.sleep(0.05)
