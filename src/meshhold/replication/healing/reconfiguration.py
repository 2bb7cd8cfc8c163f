"""How does one set of index replicas become another? Leads the change step by step; knows no row and no disk.

The configuration is itself a register of the vault, changed by rounds of its own replicas. A change (1) writes the
joint configuration under the old quorums; (2) is adopted by a majority of the old set, so that no old round completes
any more; (3) has a majority of the new set enrolled (see `enrolment`), so that each of its quorums knows what was
chosen before; (4) writes the next stable configuration under joint quorums; (5) is adopted everywhere, and those that
left drop their rows. Each step can be done by any replica and twice: whoever finds a change standing still goes on with
it. Two changes at once meet at step 1, where one of them comes later and begins after the other's end.
Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), section 4.3; Rystsov, "CASPaxos" (2018), section 2.3.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

import trio

from meshhold.errors import (
    ConflictError,
    FatalError,
    IntegrityError,
    InvalidError,
    MeshHoldError,
    NoMajorityError,
    PeerError,
    ReplicaRefusedError,
    UnavailableError,
    UnknownOutcomeError,
)
from meshhold.index.contract import Index
from meshhold.model.configuration import REPLICAS_MAX, Configuration, Mode
from meshhold.model.entry import Space, Value, decode_entry
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.replication.healing.enrolment import Enrolment
from meshhold.replication.healing.fellow import Fellows
from meshhold.replication.index.registers import KEEP, Change, Registers, Write
from meshhold.replication.index.seats import Seats
from meshhold.replication.tasks import open_tasks

PATIENCE_S: Final = 300.0
"""How long `change` waits for the new replicas to be filled before it tells the caller that this goes on without."""
GRACE_S: Final = 30.0
"""How long a change waits for the last new replica once a majority is ready: whoever is late stays silent for a whole
window afterwards."""
ASK_EVERY_S: Final = 1.0
STILL_S: Final = 30.0
"""A change that stands still for so long is taken over."""
LOOK_EVERY_S: Final = 15.0
SILENT_S: Final = 5.0
"""How long a replica that is said to be gone may take to contradict."""
ROUNDS_MAX: Final = 8
"""Changes of others that one change waits for."""
_KEY: Final = b""
_LOG: Final = logging.getLogger("meshhold.index")
Publish = Callable[[VaultId, Configuration], Awaitable[None]]
"""Tells the mesh of a stable configuration. Idempotent: it may come again, from several nodes."""


@dataclass(slots=True)
class _Ready:
    """Which nodes of the new set are enrolled, and why the others are not."""

    nodes: set[NodeId] = field(default_factory=set)
    missing: dict[NodeId, str] = field(default_factory=dict)


class Reconfiguration:
    """Changes sets of index replicas. `vaults` names those whose index this node may keep.

    `name_of` gives a node's name for messages to people. Resources: borrows its collaborators.
    """

    def __init__(
        self,
        index: Index,
        seats: Seats,
        registers: Registers,
        fellows: Fellows,
        enrolment: Enrolment,
        publish: Publish,
        vaults: Callable[[], Iterable[VaultId]],
        *,
        chance: random.Random,
        name_of: Callable[[NodeId], str] = short_id,
        sleep: Callable[[float], Awaitable[object]] = trio.sleep,
        patience_s: float = PATIENCE_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._index = index
        self._seats = seats
        self._registers = registers
        self._fellows = fellows
        self._enrolment = enrolment
        self._publish = publish
        self._vaults = vaults
        self._chance = chance
        self._name_of = name_of
        self._sleep = sleep
        self._patience_s = patience_s
        self._grace_s = grace_s
        self._turns: dict[VaultId, trio.Lock] = {}
        self._seen: dict[VaultId, tuple[int, float]] = {}
        self._published: dict[VaultId, int] = {}

    # -- changing -----------------------------------------------------------------------------------------------------

    async def change(self, vault: VaultId, nodes: Sequence[NodeId], mode: Mode = Mode.LINEARIZABLE) -> Configuration:
        """Let these nodes keep the vault's index from now on; return the stable configuration that this led to.

        Somebody else's next change may have followed already; one that is under way before is ended first.
        Errors: `InvalidError`; `UnavailableError` if a new node does not answer (nothing is changed); `NoMajorityError`
        and `UnavailableError` name who is missing, and tell whether the change goes on by itself; `ConflictError` if
        others kept changing it.
        """
        if not 0 < len(nodes) <= REPLICAS_MAX or len(set(nodes)) != len(nodes):
            raise InvalidError(f"{len(nodes)} index replicas were named", f"name 1 to {REPLICAS_MAX}, each once")
        async with self._turn(vault):
            for _ in range(ROUNDS_MAX):
                current = await self._finish(vault, self._patience_s)
                if set(current.members) == set(nodes) and current.mode is mode:
                    return current
                await self._check_present(vault, current, nodes, mode)
                joint = current.begin_change(nodes, mode)
                if await self._begin(vault, current, joint):
                    await self._finish(vault, self._patience_s)
                    return joint.end_change()
        raise ConflictError("others keep changing the index replicas of this vault", "see `meshhold vault show`")

    async def current(self, vault: VaultId) -> Configuration:
        """Return what is in force, as a quorum of the replicas tells. Errors: `NoMajorityError`."""
        return await self._read(vault)

    # -- without the other one of two ---------------------------------------------------------------------------------

    async def survive(self, vault: VaultId, gone: NodeId) -> Configuration:
        """Keep the index alone from now on, since the other one of two replicas is gone for good.

        Nothing that was acknowledged is missing, although nobody else is asked. Both seats make each quorum of a
        stable epoch e, so this replica has accepted whatever was chosen in it, and before: it votes. A configuration
        of a later epoch is chosen in e first, and shows in this replica's own row; a joint one still needs majorities
        of both sets, hence this replica, which answers in its own epoch only. So nobody goes by an epoch above e + 1,
        and once this replica goes by e + 2 no round of e or e + 1 completes any more. Whoever asks it is told; the
        other half, should it come back, has no seat in e + 2 and drops its rows: what it alone accepted was not chosen.

        That holds as long as one of the two does this and not the other as well: both would go on apart, each with its
        own e + 2. Nobody can tell from here, so a person must know that the machine will never come back with its data.
        Where each side goes on alone, what only the other one had taken is lost.
        Returns what is in force then, and does nothing if `gone` has no seat in it.
        Errors: `ConflictError` and `NoMajorityError` say what is missing, and nothing has changed; those of the disk.
        """
        async with self._turn(vault):
            known = self._seats.configuration(vault)
            me = self._seats.node
            seat = known.seat_of(me)
            if gone in known.nodes:
                self._check_survivor(vault, known, gone)
                await self._check_gone(vault, gone)
                if seat is None or self._seats.configuration(vault) != known:
                    raise ConflictError("who keeps the index has changed meanwhile", "see `meshhold vault show`")
                known = Configuration(known.epoch + 2, (seat,), mode=known.mode)
                await self._seats.adopt(vault, known)
                name = self._name_of(gone)
                _LOG.warning("vault %s: its index is kept by this node alone, %s is gone", short_id(vault), name)
            if known.members == (me,) and not known.is_joint:
                if self._heard_of(vault) < known.epoch:
                    await self._registers.change(vault, Space.CONFIGURATION, _KEY, lambda _: Write(known))
                await self._tell(vault, known)
            return known

    def _check_survivor(self, vault: VaultId, known: Configuration, gone: NodeId) -> None:
        """Errors: `ConflictError`, `NoMajorityError` unless this node and the one that is gone were the only ones."""
        me = self._seats.node
        others = [node for node in known.nodes if node != gone]
        name = self._name_of(gone)
        if known.is_joint or self._heard_of(vault) > known.epoch:
            raise ConflictError(
                f"a change of the index replicas was under way when {name} went away, and whether it took effect only "
                f"{self._names(known.nodes)} can tell",
                f"start {self._names(others)}, or bring {name} back with its data; else restore a backup",
            )
        if others != [me]:
            if me not in known.nodes and len(others) == 1:
                raise ConflictError(f"{self._names(others)} keeps the index, and this node does not", "run this there")
            raise NoMajorityError(
                f"{len(known.seats)} nodes keep the index of vault {short_id(vault)}: a majority must say that {name} "
                f"is replaced, and too few of {self._names(others)} answer",
                "start these; then the ordinary way works",
            )
        if not self._seats.votes(vault):
            raise ConflictError(
                f"this node's replica is not complete, and only {name} has the rest",
                f"bring {name} back with its data, or restore a backup",
            )

    async def _check_gone(self, vault: VaultId, node: NodeId) -> None:
        """Errors: `ConflictError` if the node answers, whatever it says."""
        with trio.move_on_after(SILENT_S):
            try:
                await self._fellows(node).health(vault)
            except FatalError:
                raise
            except ReplicaRefusedError:
                pass  # an answer too
            except (UnavailableError, PeerError):
                return
            except MeshHoldError:
                pass
            raise ConflictError(
                f"{self._name_of(node)} answers: it is not gone",
                f"try it without --gone, or ban it first: meshhold node ban {self._name_of(node)}",
            )

    async def _check_present(self, vault: VaultId, current: Configuration, nodes: Sequence[NodeId], mode: Mode) -> None:
        """Errors: `UnavailableError` if a node does not answer without which the change must not begin.

        A node that is to join: the change could not be ended. One that went on alone until now and stays: what only it
        holds must be known before rounds begin.
        """
        went_alone = current.mode is Mode.AVAILABLE and mode is not Mode.AVAILABLE
        for node in nodes:
            if node == self._seats.node or (node in current.members and not went_alone):
                continue
            try:
                await self._fellows(node).health(vault)
            except FatalError:
                raise
            except MeshHoldError as error:
                raise UnavailableError(
                    f"node {self._name_of(node)} cannot keep the index now: {error.message}; nothing was changed",
                    "start that machine, or choose another one",
                ) from error

    async def _begin(self, vault: VaultId, current: Configuration, joint: Configuration) -> bool:
        """Write the joint configuration; False if somebody else's change came first, or perhaps did."""

        def decide(value: Value | None) -> Change:
            found = value if isinstance(value, Configuration) and value.epoch > current.epoch else current
            return Write(joint) if found == current else KEEP

        try:
            changed = await self._registers.change(vault, Space.CONFIGURATION, _KEY, decide)
        except UnknownOutcomeError:
            _LOG.info("whether a change of the replicas of vault %s began is looked up", short_id(vault))
            return False
        return changed.after is not None and changed.after.value == joint

    # -- ending what is under way -------------------------------------------------------------------------------------

    async def _finish(self, vault: VaultId, patience_s: float) -> Configuration:
        """End the change that is under way, if there is one; return the stable configuration."""
        known = self._seats.adopted(vault)
        concerned: set[NodeId] = set()
        while True:
            current = await self._read(vault)
            concerned |= set(current.nodes)
            await self._seats.adopt(vault, current)
            if not current.is_joint:
                if known is None or known.epoch < current.epoch:
                    await self._spread(vault, current, concerned)
                await self._tell(vault, current)
                return current
            _LOG.info("vault %s: its index goes to %s", short_id(vault), self._names(current.members))
            await self._adopt_by_old_set(vault, current)
            await self._enrol_new_set(vault, current, patience_s)
            await self._end(vault, current)
            known = current

    async def _read(self, vault: VaultId) -> Configuration:
        """Return the configuration that a quorum tells of. Errors: `NoMajorityError`."""
        entry = await self._registers.read(vault, Space.CONFIGURATION, _KEY)
        known = self._seats.configuration(vault)
        found = None if entry is None else entry.value
        if isinstance(found, Configuration) and found.epoch >= known.epoch:
            return found
        return known

    async def _adopt_by_old_set(self, vault: VaultId, joint: Configuration) -> None:
        reached = await self._spread(vault, joint, joint.nodes)
        old = {seat.node for seat in joint.before}
        if len(reached & old) <= len(old) // 2:
            raise NoMajorityError(
                f"a change of the index replicas of vault {short_id(vault)} waits for a majority of the present ones; "
                f"missing: {self._names(old - reached)}",
                "start those machines: the change goes on by itself",
            )

    async def _enrol_new_set(self, vault: VaultId, joint: Configuration, patience_s: float) -> None:
        """Wait until the new set is ready: all of it, or after a grace a majority."""
        ready = _Ready()
        began_s = trio.current_time()
        majority_since_s: float | None = None
        while True:
            async with open_tasks() as nursery:
                for node in joint.members:
                    if node not in ready.nodes:
                        nursery.start_soon(self._ask_enrolled, vault, joint, node, ready)
            now_s = trio.current_time()
            if len(ready.nodes) == len(joint.members):
                return
            if len(ready.nodes) > len(joint.members) // 2:
                majority_since_s = now_s if majority_since_s is None else majority_since_s
                if now_s >= majority_since_s + self._grace_s:
                    return
            elif now_s >= began_s + patience_s:
                raise NoMajorityError(
                    f"a change of the index replicas of vault {short_id(vault)} waits for a majority of the new ones; "
                    f"missing: {self._reasons(joint, ready)}",
                    "start those machines, or wait until they are filled: the change goes on by itself",
                )
            known = self._seats.adopted(vault)
            if known is not None and known.epoch != joint.epoch:
                return  # somebody else ended it
            await self._sleep(ASK_EVERY_S * self._chance.uniform(0.5, 1.0))

    async def _ask_enrolled(self, vault: VaultId, joint: Configuration, node: NodeId, ready: _Ready) -> None:
        try:
            if node == self._seats.node:
                enrolled = await self._enrolment.wait_enrolled(vault, joint.epoch)
            else:
                enrolled = await self._fellows(node).enrol(vault, joint.epoch)
        except FatalError:
            raise
        except MeshHoldError as error:
            ready.missing[node] = error.message
            return
        if enrolled:
            ready.nodes.add(node)
        else:
            ready.missing[node] = "it is being filled"

    async def _end(self, vault: VaultId, joint: Configuration) -> None:
        """Write the stable configuration that follows, unless somebody did."""

        def decide(value: Value | None) -> Change:
            return Write(joint.end_change()) if value == joint else KEEP

        try:
            await self._registers.change(vault, Space.CONFIGURATION, _KEY, decide)
        except UnknownOutcomeError:
            _LOG.info("whether the change of the replicas of vault %s ended is looked up", short_id(vault))

    async def _spread(self, vault: VaultId, configuration: Configuration, nodes: Iterable[NodeId]) -> set[NodeId]:
        """Let all that it concerns adopt a configuration; return those that did."""
        reached: set[NodeId] = set()

        async def tell(node: NodeId) -> None:
            try:
                await self._fellows(node).adopt(vault, configuration)
            except FatalError:
                raise
            except MeshHoldError as error:
                _LOG.info("node %s does not hear of a change of replicas: %s", short_id(node), error)
            else:
                reached.add(node)

        async with open_tasks() as nursery:
            for node in nodes:
                if node == self._seats.node:
                    reached.add(node)
                else:
                    nursery.start_soon(tell, node)
        return reached

    async def _tell(self, vault: VaultId, configuration: Configuration) -> None:
        """Publish a stable configuration once; what fails is tried again by `run`."""
        if self._published.get(vault) == configuration.epoch:
            return
        try:
            await self._publish(vault, configuration)
            self._published[vault] = configuration.epoch
        except FatalError:
            raise
        except MeshHoldError as error:
            _LOG.warning("the index replicas of vault %s are not published yet: %s", short_id(vault), error)

    # -- going on with what others left -------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Take over changes that stand still, until cancelled."""
        while True:
            await self._sleep(LOOK_EVERY_S * self._chance.uniform(0.5, 1.0))
            for vault in list(self._vaults()):
                try:
                    await self._look(vault)
                except FatalError:
                    raise
                except MeshHoldError as error:
                    _LOG.info("vault %s: the change of its index replicas waits: %s", short_id(vault), error)

    async def _look(self, vault: VaultId) -> None:
        adopted = self._seats.adopted(vault)
        if adopted is None or adopted.seat_of(self._seats.node) is None or self._turn(vault).locked():
            return
        now_s = trio.current_time()
        epoch, since_s = self._seen.get(vault, (0, now_s))
        if epoch != adopted.epoch:
            self._seen[vault] = adopted.epoch, now_s
            return
        stands_still = adopted.is_joint or self._heard_of(vault) > adopted.epoch
        if stands_still and now_s >= since_s + STILL_S * self._chance.uniform(1.0, 1.5):
            async with self._turn(vault):
                await self._finish(vault, STILL_S)
            self._seen.pop(vault, None)
        elif not stands_still:
            await self._tell(vault, adopted)

    def _heard_of(self, vault: VaultId) -> int:
        """Return the epoch of the configuration in this node's own row: perhaps nobody told what followed from it."""
        row = self._index.load(vault, Space.CONFIGURATION, _KEY)
        if row is None:
            return 0
        try:
            value = decode_entry(row.entry).value
        except IntegrityError:
            return 0
        return value.epoch if isinstance(value, Configuration) else 0

    # -- parts --------------------------------------------------------------------------------------------------------

    def _turn(self, vault: VaultId) -> trio.Lock:
        return self._turns.setdefault(vault, trio.Lock())

    def _names(self, nodes: Iterable[NodeId]) -> str:
        return ", ".join(self._name_of(node) for node in nodes)

    def _reasons(self, joint: Configuration, ready: _Ready) -> str:
        return ", ".join(
            f"{self._name_of(node)} ({ready.missing.get(node, 'it does not answer')})"
            for node in joint.members
            if node not in ready.nodes
        )
