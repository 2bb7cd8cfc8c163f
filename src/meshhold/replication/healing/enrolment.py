"""When may a replica vote that does not yet? Fills newcomers and wiped replicas; decides no set of replicas.

While a configuration is joint, each node of the new set reads what a majority of the old set holds, each of them in the
joint epoch, in which it completes no old round any more: so it sees all that old rounds chose. (It reads every one that
answers: where each side went on alone before, any may hold what nobody else has.) It also raises its floor to a ballot
above all that they have promised. Every old round, complete or not, had a promise of one of them;
so an entry of an old round that is found later, on a replica that kept it, is never above one that was chosen without
it. From then on a newcomer votes in stable epochs too; those of the old set read only to have what the new set needs.

Before that a newcomer takes part in joint rounds only, where a majority of the old set sees what it does not. It begins
with that when a majority of the old set, in the joint epoch, holds no later configuration. Else it may have voted in a
later epoch and been wiped since, and with replicas that lag behind it would bring joint rounds to an end that the later
epoch knows nothing of. Whoever voted later had a configuration that such a majority had taken by then.

A replica that has a seat but lost its state has forgotten its promises and its entries. It stays silent for a ballot
window of its own clock, after which no ballot that it may have promised lies ahead of its clock; then a majority of the
others, each voting, raises its floor to a ballot F of that moment, so that no round below F completes without an entry
that they show; then it reads exactly those. A majority of the others shares a replica with every quorum that this
replica was in. A newcomer that did not get ready in the joint epoch cannot be told from a wiped one, and waits too.
Source of the quorum argument: Ongaro, "Consensus: Bridging Theory and Practice" (2014), chapter 4.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, NoReturn

import msgpack
import trio

from meshhold.errors import FatalError, IntegrityError, MeshHoldError, ReplicaRefusedError
from meshhold.index.contract import Name
from meshhold.model.configuration import Configuration, Seat
from meshhold.model.entry import Space, decode_entry
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.model.stamp import ZERO, Clock, Stamp
from meshhold.replication.healing.copying import Copying
from meshhold.replication.healing.fellow import Fellows
from meshhold.replication.healing.index_sync import IndexSync
from meshhold.replication.index.registers import Registers
from meshhold.replication.index.seats import Seats
from meshhold.replication.tasks import open_tasks

LOOK_EVERY_S: Final = 5.0
"""Beside a window of minutes, soon enough; it also spaces the attempts when others are away."""
WAIT_ENROLLED_S: Final = 2.0
"""How long whoever asks is kept waiting: less than its call may take."""
FILL_AHEAD_EVERY_S: Final = 60.0
"""While the window passes the rows are copied already, so that little is left for its end."""
_SETTING: Final = "refill/"
VOTES: Final = "votes"
JOINING: Final = "joining"
NO_SEAT: Final = "no seat"
_LOG: Final = logging.getLogger("meshhold.index")


class _Waiting(NamedTuple):
    """The durable beginning of a silence: of which seat, and when by this machine's clock."""

    since: int
    began_ms: int


class Enrolment:
    """Makes this node's replicas vote. `vaults` names those whose index it may keep.

    Its window is that of `copying`, hence of the acceptor. Resources: borrows its collaborators.
    """

    def __init__(
        self,
        copying: Copying,
        seats: Seats,
        fellows: Fellows,
        sync: IndexSync,
        registers: Registers,
        vaults: Callable[[], Iterable[VaultId]],
        clock: Clock,
        now_ms: Callable[[], int],
        *,
        chance: random.Random,
        name_of: Callable[[NodeId], str] = short_id,
        sleep: Callable[[float], Awaitable[object]] = trio.sleep,
    ) -> None:
        self._copying = copying
        self._index = copying.replica.index
        self._seats = seats
        self._fellows = fellows
        self.sync = sync
        self._registers = registers
        self._vaults = vaults
        self._clock = clock
        self._now_ms = now_ms
        self._chance = chance
        self._name_of = name_of
        self._sleep = sleep
        self._states: dict[VaultId, str] = {}
        self._finished: dict[VaultId, int] = {}
        self._filled_ahead_s: dict[VaultId, float] = {}
        self._working: set[VaultId] = set()
        self._wake = trio.Event()
        self._news = trio.Event()
        seats.follow(lambda _vault, _configuration: self._wake.set())

    # -- what others see ----------------------------------------------------------------------------------------------

    def state(self, vault: VaultId) -> str:
        """Return what this node's replica of the vault is doing, for people."""
        configuration = self._seats.adopted(vault)
        if configuration is None or configuration.seat_of(self._seats.node) is None:
            return NO_SEAT
        if self._seats.votes(vault):
            return VOTES
        return JOINING if self._seats.is_newcomer(vault) else self._states.get(vault, "silent")

    def states(self) -> dict[VaultId, str]:
        """Return the state of every vault in which this node has a seat."""
        return {vault: state for vault in self._vaults() if (state := self.state(vault)) != NO_SEAT}

    async def wait_enrolled(self, vault: VaultId, epoch: int) -> bool:
        """Tell whether this node got ready for the epoch after the joint `epoch`; waits a little if it is about to.

        `run` does the work, whoever asks and however long it takes.
        """
        self._wake.set()
        with trio.move_on_after(WAIT_ENROLLED_S):
            while self._finished.get(vault) != epoch:
                await self._news.wait()
        return self._finished.get(vault) == epoch

    # -- when ---------------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Get ready wherever this node has to, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                for vault in self._vaults():
                    if vault not in self._working and self._needs_work(vault):
                        self._working.add(vault)
                        nursery.start_soon(self._work, vault)
                with trio.move_on_after(LOOK_EVERY_S * self._chance.uniform(0.5, 1.0)):
                    await self._wake.wait()

    def _needs_work(self, vault: VaultId) -> bool:
        configuration = self._seats.adopted(vault)
        node = self._seats.node
        if configuration is None or configuration.seat_of(node) is None:
            return False
        if not self._seats.votes(vault):
            return True
        joins = configuration.is_joint and node in configuration.members
        return joins and self._finished.get(vault) != configuration.epoch

    async def _work(self, vault: VaultId) -> None:
        try:
            configuration = self._seats.adopted(vault)
            if not self._seats.votes(vault) and not self._seats.is_newcomer(vault):
                await self.refill(vault)
            elif configuration is not None:
                await self.enrol_now(vault, configuration.epoch)
        except FatalError:
            raise
        except MeshHoldError as error:
            self._tell(vault, f"waiting: {error}")
            await self._sleep(LOOK_EVERY_S * self._chance.random())
        finally:
            self._working.discard(vault)

    # -- in a joint epoch ---------------------------------------------------------------------------------------------

    async def enrol_now(self, vault: VaultId, epoch: int) -> bool:
        """Get ready for the epoch that follows the joint `epoch`; True once this node is.

        Errors: `ReplicaRefusedError` names those of the old set that are missing; those of the disk.
        """
        configuration = self._seats.adopted(vault)
        node = self._seats.node
        if configuration is None or configuration.epoch != epoch or node not in configuration.members:
            return False
        if self._finished.get(vault) == epoch:
            return True
        if self._seats.is_newcomer(vault) and not self._seats.votes(vault):
            await self._attend(vault, configuration)
        if not configuration.is_joint or not self._seats.votes(vault):
            return False  # a wiped replica is refilled first
        old = {seat.node for seat in configuration.before}
        read: set[NodeId] = {node} & old
        missing: dict[NodeId, str] = {}
        highest = ZERO
        for source in _shuffled(self._chance, old - {node}):
            try:
                promised = await self._horizon_of(vault, epoch, source)
                pulled = await self.sync.pull(vault, source, strict=True)
            except FatalError:
                raise
            except MeshHoldError as error:
                missing[source] = error.message
                continue
            if pulled.complete:
                read.add(source)
                highest = max(highest, promised)
            else:
                missing[source] = "some of what it holds is contested"
        if not _is_majority(read, old):
            raise self._missing(missing, "getting ready for a change of the index replicas")
        await self._copying.raise_floor(highest)
        return await self._enrol_in(vault, configuration)

    async def _attend(self, vault: VaultId, joint: Configuration) -> None:
        """Take part in joint rounds, unless the joint epoch may be over. Errors: as `enrol_now`."""
        name = Name(Space.CONFIGURATION, b"", ZERO)
        heard: set[NodeId] = set()
        missing: dict[NodeId, str] = {}

        async def ask(node: NodeId) -> None:
            try:
                (row,) = await self._fellows(node).rows(vault, joint.epoch, [name])
                value = None if row is None else decode_entry(row.entry).value
            except FatalError:
                raise
            except MeshHoldError as error:
                missing[node] = error.message
                return
            if isinstance(value, Configuration) and value.epoch > joint.epoch:
                missing[node] = f"it holds the configuration of epoch {value.epoch}"
            else:
                heard.add(node)

        old = {seat.node for seat in joint.before}
        async with open_tasks() as nursery:
            for node in sorted(old):
                nursery.start_soon(ask, node)
        if not _is_majority(heard, old) or any("holds the configuration" in why for why in missing.values()):
            raise self._missing(missing, "taking part in a change of the index replicas")
        known = self._seats.adopted(vault)
        if known == joint:
            self._seats.attend(vault, joint.epoch)

    async def _enrol_in(self, vault: VaultId, configuration: Configuration) -> bool:
        """Let this node vote after the joint epoch, unless that is over already.

        A node that was wiped cannot know by itself whether it voted in a later epoch before. Whoever did so had a
        configuration that was chosen then, which a quorum of the joint epoch still tells of.
        """
        epoch = configuration.epoch
        seat = configuration.seat_of(self._seats.node)
        entry = await self._registers.read(vault, Space.CONFIGURATION, b"")
        latest = None if entry is None else entry.value
        known = self._seats.adopted(vault)
        is_over = isinstance(latest, Configuration) and latest.epoch > epoch
        if seat is None or is_over or known is None or known.epoch != epoch:
            return False
        await self._seats.enrol(vault, seat.since)
        self._finished[vault] = epoch
        self._tell(vault, VOTES)
        return True

    async def _horizon_of(self, vault: VaultId, epoch: int, node: NodeId) -> Stamp:
        """Return a ballot beyond which a node has promised nothing. Errors: `InvalidError` if its clock is far off."""
        horizon = await self._fellows(node).floor(vault, epoch, ZERO)
        self._copying.check_ahead(horizon)
        return horizon

    # -- a seat without state -----------------------------------------------------------------------------------------

    async def refill(self, vault: VaultId) -> bool:
        """Go on with the return of a replica that lost its state; True once it votes.

        Errors: `ReplicaRefusedError` names the replicas that are missing; those of the disk.
        """
        configuration = self._seats.adopted(vault)
        seat = None if configuration is None else configuration.seat_of(self._seats.node)
        if configuration is None or seat is None:
            return False
        if self._seats.votes(vault):
            return True
        if self._seats.is_newcomer(vault):
            return False  # it joins
        others = [node for node in configuration.nodes if node != seat.node]
        if not others:
            self._tell(vault, "lost: this node alone kept the index, and it is gone")
            return False
        until_ms = await self._silence_ends_ms(vault, seat)
        if self._now_ms() < until_ms:
            until = datetime.fromtimestamp(until_ms / 1000, UTC)
            self._tell(vault, f"waiting until {until:%Y-%m-%d %H:%M:%S} UTC")
            await self._fill_ahead(vault, others)
            return False
        self._tell(vault, "refilling")
        sets = [[each.node for each in seats] for seats in (configuration.seats, configuration.before) if seats]
        own_sets = [set(nodes) - {seat.node} for nodes in sets if seat.node in nodes]
        floor, fenced = await self._fence(vault, configuration, others, own_sets)
        read, missing = await self._read_all(vault, fenced)
        if not _is_each_majority(read, own_sets):
            raise self._missing(missing, "refilling this node's replica")
        await self._copying.raise_floor(floor)
        known = self._seats.adopted(vault)
        if known is None or known.epoch != configuration.epoch:
            return False
        await self._seats.enrol(vault, seat.since)
        await self._index.save_setting(_SETTING + vault, b"")
        self._tell(vault, VOTES)
        _LOG.info("the index of vault %s is refilled: this node votes again", short_id(vault))
        return True

    async def _silence_ends_ms(self, vault: VaultId, seat: Seat) -> int:
        """Return until when the seat stays silent; its beginning is durable."""
        raw = self._index.setting(_SETTING + vault)
        waiting = _decode(raw) if raw else None
        now_ms = self._now_ms()
        if waiting is None or waiting.since != seat.since or waiting.began_ms > now_ms:  # the clock was set back
            waiting = _Waiting(seat.since, now_ms)
            await self._index.save_setting(_SETTING + vault, msgpack.packb(list(waiting)))
        return waiting.began_ms + self._copying.window_ms + 1

    async def _fill_ahead(self, vault: VaultId, others: Sequence[NodeId]) -> None:
        now_s = trio.current_time()
        if now_s < self._filled_ahead_s.get(vault, float("-inf")) + FILL_AHEAD_EVERY_S:
            return
        self._filled_ahead_s[vault] = now_s
        for node in _shuffled(self._chance, others):
            try:
                await self.sync.pull(vault, node)
                return
            except FatalError:
                raise
            except MeshHoldError as error:
                _LOG.debug("node %s gives no rows ahead: %s", short_id(node), error)

    async def _fence(
        self, vault: VaultId, configuration: Configuration, others: Sequence[NodeId], own_sets: Sequence[set[NodeId]]
    ) -> tuple[Stamp, list[NodeId]]:
        """Let a majority of the others take nothing below a ballot of now; return it and them."""
        missing: dict[NodeId, str] = {}
        reached: list[NodeId] = []
        for node in others:
            try:
                self._clock.observe(await self._horizon_of(vault, configuration.epoch, node))
                reached.append(node)
            except FatalError:
                raise
            except MeshHoldError as error:
                missing[node] = error.message
        floor = self._clock.tick(self._now_ms())
        fenced: list[NodeId] = []
        for node in reached:
            try:
                await self._fellows(node).floor(vault, configuration.epoch, floor)
                fenced.append(node)
            except FatalError:
                raise
            except MeshHoldError as error:
                missing[node] = error.message
        if not _is_each_majority(fenced, own_sets):
            raise self._missing(missing, "refilling this node's replica")
        return floor, fenced

    async def _read_all(self, vault: VaultId, sources: Sequence[NodeId]) -> tuple[set[NodeId], dict[NodeId, str]]:
        read: set[NodeId] = set()
        missing: dict[NodeId, str] = {}
        for source in sources:
            try:
                pulled = await self.sync.pull(vault, source, strict=True)
            except FatalError:
                raise
            except MeshHoldError as error:
                missing[source] = error.message
                continue
            if pulled.complete:
                read.add(source)
            else:
                missing[source] = "some of what it holds could not be read"
        return read, missing

    # -- parts --------------------------------------------------------------------------------------------------------

    def _missing(self, missing: dict[NodeId, str], what: str) -> ReplicaRefusedError:
        named = ", ".join(f"{self._name_of(node)} ({why})" for node, why in missing.items())
        return ReplicaRefusedError(f"{what} needs more index replicas; missing: {named}", "start those machines")

    def _tell(self, vault: VaultId, state: str) -> None:
        if self._states.get(vault) != state:
            _LOG.info("index of vault %s: %s", short_id(vault), state)
        self._states[vault] = state
        self._news.set()
        self._news = trio.Event()


def _is_majority(nodes: Collection[NodeId], of: Collection[NodeId]) -> bool:
    return len(set(nodes) & set(of)) > len(of) // 2


def _is_each_majority(nodes: Collection[NodeId], sets: Sequence[Collection[NodeId]]) -> bool:
    """Tell whether `nodes` hold a majority of each set; of one without anybody, nothing is needed."""
    return all(not each or _is_majority(nodes, each) for each in sets)


def _shuffled(chance: random.Random, nodes: Iterable[NodeId]) -> list[NodeId]:
    found = sorted(nodes)
    chance.shuffle(found)
    return found


def _decode(raw: bytes) -> _Waiting | None:
    try:
        since, began_ms = msgpack.unpackb(raw)
        return _Waiting(int(since), int(began_ms))
    except (ValueError, TypeError, IntegrityError):
        return None
