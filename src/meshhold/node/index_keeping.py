"""This node's part in keeping indexes with others: rounds, healing, changes of replicas. Decides no behaviour."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import trio

from meshhold.index.contract import Index
from meshhold.model.ids import NodeId, VaultId
from meshhold.model.stamp import Clock
from meshhold.peering.dispatch import Dispatch
from meshhold.register.acceptor import WINDOW_MS
from meshhold.replication.healing.copying import Copying
from meshhold.replication.healing.enrolment import Enrolment
from meshhold.replication.healing.fellow import Fellows
from meshhold.replication.healing.healing_service import HealingService
from meshhold.replication.healing.index_sync import IndexSync
from meshhold.replication.healing.reconfiguration import Publish, Reconfiguration
from meshhold.replication.healing.tombstones import Tombstones
from meshhold.replication.index.registers import Registers
from meshhold.replication.index.remote_replica import Caller, RemoteReplica
from meshhold.replication.index.replica import LocalReplica
from meshhold.replication.index.replica_service import MayAsk, ReplicaService
from meshhold.replication.index.seats import Seats
from meshhold.replication.throttle import Throttle


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the keeping of indexes needs of the node around it.

    `vaults` names those whose index this node may keep, `may_ask` tells who may ask about one, `linked` which nodes
    have a link now; `name_of` gives names for messages to people; `publish` tells the mesh of new replicas.
    """

    peers: Caller
    linked: Callable[[], Sequence[NodeId]]
    vaults: Callable[[], Iterable[VaultId]]
    may_ask: MayAsk
    name_of: Callable[[NodeId], str]
    publish: Publish
    chance: random.Random


class IndexKeeping:
    """All that keeps indexes, tied together.

    `throttle` bounds how fast rows are caught up with. Resources: borrows the index and its surroundings.
    """

    def __init__(
        self,
        index: Index,
        seats: Seats,
        clock: Clock,
        now_ms: Callable[[], int],
        around: Surroundings,
        *,
        stamp_node: bytes,
        check_room: Callable[[], None] | None = None,
        window_ms: int = WINDOW_MS,
        throttle: Throttle | None = None,
    ) -> None:
        chance, name_of, vaults = around.chance, around.name_of, around.vaults
        self.seats = seats
        self.replica = LocalReplica(
            index, seats, clock, now_ms, node=stamp_node, check_room=check_room, window_ms=window_ms
        )
        self.registers = Registers(
            self.replica,
            seats,
            partial(RemoteReplica, around.peers),
            clock,
            now_ms,
            name_of=name_of,
            chance=chance.random,
        )
        fellows = Fellows(around.peers, seats)
        copying = Copying(self.replica, seats, now_ms, window_ms=window_ms)
        self.sync = IndexSync(
            copying, seats, fellows, self.registers, vaults, around.linked, now_ms, chance=chance, throttle=throttle
        )
        self.enrolment = Enrolment(
            copying, seats, fellows, self.sync, self.registers, vaults, clock, now_ms, chance=chance, name_of=name_of
        )
        self.reconfiguration = Reconfiguration(
            index,
            seats,
            self.registers,
            fellows,
            self.enrolment,
            around.publish,
            vaults,
            chance=chance,
            name_of=name_of,
        )
        self.tombstones = Tombstones(copying, seats, fellows, now_ms)
        self._services = (
            ReplicaService(self.replica, around.may_ask),
            HealingService(copying, seats, self.enrolment, around.may_ask),
        )

    def register(self, dispatch: Dispatch) -> None:
        """Answer what other nodes ask of this one's replicas."""
        for service in self._services:
            service.register(dispatch)

    def shown(self) -> dict[VaultId, dict[str, Any]]:
        """Return how this node's replica of each vault is doing, for people and scripts.

        `state` is `votes`, or says what it waits for; the rest is that of the last comparison (`Progress.show`), if
        there was one since the start.
        """
        progress = self.sync.progress()
        return {vault: {**progress.get(vault, {}), "state": state} for vault, state in self.enrolment.states().items()}

    async def run(self) -> NoReturn:
        """Keep on, until cancelled."""
        async with trio.open_nursery() as nursery:
            for run in (self.registers.run, self.sync.run, self.enrolment.run, self.reconfiguration.run):
                nursery.start_soon(run)
        raise AssertionError("indexes are kept until cancelled")
