"""Who keeps a vault's index: shown to people, chosen for them, changed when members change. Knows no round of a change.

How replicas are exchanged without losing an entry is `IndexChange`'s; here is decided which ones, and when. A node that
does not answer is never made a replica: writes would wait for it. So the choice is looked at again and again, by those
that keep the index, and a machine that comes later is taken in when it comes.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn, Protocol

import trio

from meshhold.errors import (
    ConflictError,
    FatalError,
    InvalidError,
    MeshHoldError,
    NoMajorityError,
    UnavailableError,
)
from meshhold.model.configuration import REPLICAS_MAX, Configuration, Mode
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.registry.record import Kind
from meshhold.replication.index import registers
from meshhold.replication.index.seats import Seats
from meshhold.rules.versioning import Versioning
from meshhold.store.directory import TRUSTED, Bucket, Directory
from meshhold.store.nodes import NodeFacts, Nodes
from meshhold.store.replica_choice import REPLICAS_WANTED, choose_replicas
from meshhold.store.roll_call import ReplicaView, RollCall

_LOG: Final = logging.getLogger("meshhold.index")
LOOK_EVERY_S: Final = 15.0
"""A person who starts the new machine sees it taken in within a minute; a look costs nothing while nothing differs."""
SAME_LOOKS: Final = 2
"""So many looks in a row must want the same, so that news that is still travelling moves nothing back and forth."""
REPLICAS_ALONE_MAX: Final = 2
"""Replicas of a vault whose sides go on alone: of three, one that is cut off could miss that the others stopped."""
TURN_LOOKS: Final = 2
"""So many looks later the next one of the replicas begins what the one before it did not."""
NEWCOMER_S: Final = 3.0
"""So long a new member may take to hear that it is one."""


class IndexChange(Protocol):
    """Exchanges the replicas of an index while it is in use; see `replication.healing.reconfiguration`."""

    async def change(self, vault: VaultId, nodes: Sequence[NodeId], mode: Mode) -> Configuration:
        """Let `nodes` keep the index in this mode; return the configuration once it is in force.

        Errors: `UnavailableError` names who is missing. A change that has begun goes on by itself.
        """

    async def current(self, vault: VaultId) -> Configuration:
        """Return what is in force, as a majority of the replicas says. Errors: `NoMajorityError`."""

    async def survive(self, vault: VaultId, gone: NodeId) -> Configuration:
        """Let this node keep the index alone, where `gone` was the only other one; return what is in force then.

        Errors: `ConflictError` and `NoMajorityError` say why it cannot: nothing has changed then.
        """


@dataclass(frozen=True, slots=True)
class IndexView:
    """Who keeps an index, and how.

    `leaving` keep it until the change under way has ended; `awaited` names nodes that will keep it once they answer;
    `error` says why the last change that this node tried did not end. `modes` can be chosen.
    """

    consistency: str
    pinned: bool
    changing: bool
    replicas: tuple[ReplicaView, ...]
    leaving: tuple[ReplicaView, ...]
    awaited: tuple[str, ...]
    error: str
    modes: tuple[str, ...]


@dataclass(slots=True)
class _Move:
    """A change that this node tries."""

    nodes: tuple[NodeId, ...]
    mode: Mode
    done: trio.Event = field(default_factory=trio.Event)
    error: MeshHoldError | None = None


class IndexReplicas:
    """The index replicas of the vaults that this node is trusted in.

    Resources: borrows its collaborators. While `run` is running, changes go on after their callers left; before, a
    caller waits for the end.
    """

    def __init__(
        self,
        directory: Directory,
        nodes: Nodes,
        seats: Seats,
        roll_call: RollCall,
        change: IndexChange,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._directory = directory
        self._nodes = nodes
        self._seats = seats
        self._roll_call = roll_call
        self._change = change
        self._chance = chance
        self._nursery: trio.Nursery | None = None
        self._moves: dict[VaultId, _Move] = {}
        self._wishes: dict[VaultId, tuple[frozenset[NodeId], int]] = {}

    # -- asked by people --------------------------------------------------------------------------------------------

    async def view(self, bucket: Bucket) -> IndexView:
        """Return who keeps the index, having asked each. Errors: `NoMajorityError` if nobody says who does."""
        configuration = self._seats.configuration(bucket.id)
        states = await self._roll_call.views(bucket.id, configuration)
        move = self._moves.get(bucket.id)
        members = configuration.members
        wanted = (
            members if bucket.index_pinned else self._choice(bucket.id, members, wanted=_wanted(configuration.mode))
        )
        return IndexView(
            consistency=str(configuration.mode),
            pinned=bucket.index_pinned,
            changing=configuration.is_joint or (move is not None and not move.done.is_set()),
            replicas=tuple(states[node] for node in members),
            leaving=tuple(states[node] for node in configuration.nodes if node not in members),
            awaited=tuple(self._nodes.name_of(node) for node in wanted if node not in members),
            error=str(move.error) if move is not None and move.error is not None else "",
            modes=offered_modes(),
        )

    async def set(
        self, bucket: Bucket, nodes: Sequence[NodeId] | None, *, auto: bool, mode: Mode | None, patience_s: float
    ) -> bool:
        """Pin the replicas to `nodes`, or with `auto` leave the choice to this program; change the mode if it is given.

        Returns whether the change ended within `patience_s`; it goes on otherwise.
        Errors: `InvalidError`, `ConflictError` for a node that is no trusted member; `UnavailableError` if a new
        replica does not answer, or too few of the present ones do: these stay the replicas then.
        """
        if mode is not None and str(mode) not in offered_modes():
            raise InvalidError(
                f"consistency {mode} is not offered by this version", f"use {', '.join(offered_modes())}"
            )
        if nodes is not None:
            self._check(bucket, nodes)
        configuration = await self._change.current(bucket.id)
        mode = mode or configuration.mode
        if auto:
            wanted = _wanted(mode)
            nodes = await self._within_reach(bucket.id, configuration.members[:wanted], NEWCOMER_S, wanted=wanted)
        chosen = configuration.members if nodes is None else tuple(nodes)
        _check_mode(bucket, chosen, mode)
        silent = await self._roll_call.silent(bucket.id, set(chosen) - set(configuration.nodes), NEWCOMER_S)
        if silent:
            names = ", ".join(self._nodes.name_of(node) for node in sorted(silent))
            raise UnavailableError(
                f"the index of vault {bucket.name!r} stays where it is, since {names} cannot be asked to keep it",
                "start these machines, or choose others",
            )
        if auto or nodes is not None:
            await self._pin(bucket, pinned=not auto)
        return await self._move(bucket.id, configuration, chosen, mode, patience_s)

    async def renew(self, vault: VaultId, *, patience_s: float) -> bool:
        """Choose anew after the members changed, unless people chose; return whether nothing is left to be done.

        Errors: `UnavailableError` if too few of the present replicas answer.
        """
        bucket = self._directory.by_id.get(vault)
        if bucket is None or bucket.index_pinned:
            return True
        configuration = await self._change.current(vault)
        wanted = _wanted(configuration.mode)
        chosen = await self._within_reach(vault, configuration.members, NEWCOMER_S, wanted=wanted)
        moved = await self._move(vault, configuration, chosen, configuration.mode, patience_s)
        return moved and set(chosen) == set(self._choice(vault, configuration.members, wanted=wanted))

    async def share(self, vault: VaultId, nodes: Sequence[NodeId], mode: Mode, *, patience_s: float) -> None:
        """Let `nodes` keep the index of a vault that this node has just founded, as far as they answer.

        Others of them are taken in by `look`. Errors: `UnavailableError` if no majority of them answers, or not in
        time; those of `IndexChange.change`.
        """
        me = self._directory.identity.node_id
        nodes = nodes or [me]  # all others are leaving the vault that it is like
        silent = await self._roll_call.silent(vault, set(nodes) - {me}, NEWCOMER_S)
        awake = [node for node in nodes if node not in silent]
        least = 1 if mode is Mode.AVAILABLE else len(nodes) // 2 + 1
        if len(awake) < least:
            raise UnavailableError(
                f"{least} of {', '.join(map(self._nodes.name_of, nodes))} must answer to keep the new index, and "
                f"{', '.join(sorted(map(self._nodes.name_of, silent)))} cannot be asked; "
                "nothing was created",
                "start these machines, or change the replicas of the vault that it was to be like",
            )
        with trio.move_on_after(patience_s) as patience:
            await self._change.change(vault, awake, mode)
        if patience.cancelled_caught:
            raise UnavailableError(
                f"{', '.join(map(self._nodes.name_of, awake))} did not take the new index over within "
                f"{patience_s:.0f} s; nothing was created",
                "try again in a moment; `meshhold node list` shows who answers",
            )
        bucket = self._directory.by_id.get(vault)
        if bucket is not None and bucket.index_pinned and not silent:
            await self._pin(bucket, pinned=True)

    def keeps(self, vault: VaultId, node: NodeId) -> bool:
        """Tell whether a node keeps the index, as far as this one knows."""
        return node in self._seats.configuration(vault).nodes

    async def take_from(self, bucket: Bucket, node: NodeId, *, patience_s: float, gone: bool = False) -> bool:
        """Let others keep the index in place of `node`; return whether it keeps nothing any more after `patience_s`.

        Of replicas that people chose the others stay, and another member takes the place if there is one. `gone`: the
        node is lost for good, so where no majority is left without it, this node may go on alone.
        Errors: `UnavailableError` if too few of the present replicas answer, `ConflictError` if this node cannot go on
        alone: nothing has changed then.
        """
        kept = len(self._seats.configuration(bucket.id).members)
        try:
            configuration = await self._change.current(bucket.id)
        except NoMajorityError:
            if not gone:
                raise
            configuration = await self._change.survive(bucket.id, node)
        staying = [each for each in configuration.members if each != node]
        wanted = kept if bucket.index_pinned else _wanted(configuration.mode)
        chosen = await self._within_reach(bucket.id, staying, 0.0, without=node, wanted=wanted)
        if not chosen:
            raise UnavailableError(
                f"{self._nodes.name_of(node)} alone keeps the index of vault {bucket.name!r}, and no other trusted "
                "member answers that could",
                "start one of them, or add a member",
            )
        moved = await self._move(bucket.id, configuration, chosen, configuration.mode, patience_s)
        return moved or not self.keeps(bucket.id, node)

    # -- by itself --------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Carry changes out, and look now and then whether one is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    await trio.sleep(LOOK_EVERY_S * (0.75 + self._chance() / 2))
                    for bucket in list(self._directory.by_id.values()):
                        try:
                            await self.look(bucket)
                        except FatalError:
                            raise
                        except MeshHoldError as error:
                            _LOG.debug("index of vault %s: %s", short_id(bucket.id), error)
            finally:
                self._nursery = None
        raise AssertionError("runs until cancelled")

    async def look(self, bucket: Bucket) -> None:
        """Begin a change if this node keeps the index and the choice has been another one for long enough.

        The first replica begins; each of the others only if those before it did not. What is in force is told to the
        registry where that tells of something older. Errors: `MeshHoldError`, to be tried again at the next look.
        """
        configuration = self._seats.configuration(bucket.id)
        node = self._directory.identity.node_id
        if node not in configuration.members or configuration.is_joint:
            self._wishes.pop(bucket.id, None)  # a joint one is being ended by its replicas
            return
        await self._directory.publish(bucket.id, configuration)
        if bucket.index_pinned and not bucket.index_awaited:
            return
        if bucket.index_pinned:
            chosen = await self._with_awaited(bucket, configuration.members)
        else:
            wanted = _wanted(configuration.mode)
            chosen = await self._within_reach(bucket.id, configuration.members, 0.0, wanted=wanted)
        wish = frozenset(chosen)
        if wish == set(configuration.members):
            self._wishes.pop(bucket.id, None)
            return
        before, looks = self._wishes.get(bucket.id, (wish, 0))
        looks = looks + 1 if before == wish else 1
        self._wishes[bucket.id] = (wish, looks)
        move = self._moves.get(bucket.id)
        if looks >= SAME_LOOKS + TURN_LOOKS * configuration.members.index(node) and (
            move is None or move.done.is_set()
        ):
            await self._move(bucket.id, configuration, chosen, configuration.mode, 0.0)

    # -- the choice -------------------------------------------------------------------------------------------------

    def _choice(
        self,
        vault: VaultId,
        current: Sequence[NodeId],
        *,
        absent: Collection[NodeId] = (),
        wanted: int = REPLICAS_WANTED,
        pinned: bool = False,
    ) -> list[NodeId]:
        members = [facts for facts in self._trusted(vault) if facts.id not in absent]
        members = [facts for facts in members if not facts.draining] or members
        if pinned:  # people chose an unreliable one on purpose
            members = [replace(facts, reliable=True) if facts.id in current else facts for facts in members]
        return choose_replicas(members, current, wanted)

    async def _within_reach(
        self,
        vault: VaultId,
        current: Sequence[NodeId],
        patience_s: float,
        *,
        without: NodeId | None = None,
        wanted: int = REPLICAS_WANTED,
    ) -> list[NodeId]:
        """Return the choice among those that keep the index and those that answer."""
        absent = set() if without is None else {without}
        pinned = without is not None and self._directory.by_id[vault].index_pinned
        while True:
            chosen = self._choice(vault, current, absent=absent, wanted=wanted, pinned=pinned)
            silent = await self._roll_call.silent(vault, set(chosen) - set(current), patience_s)
            if not silent:
                return chosen
            absent |= silent

    async def _with_awaited(self, bucket: Bucket, current: Sequence[NodeId]) -> list[NodeId]:
        """Return who keeps a pinned index, and those of people's choice that answer by now."""
        fit = {facts.id for facts in self._trusted(bucket.id) if not facts.draining}
        missing = [node for node in bucket.index_awaited if node not in current and node in fit]
        if not missing:
            await self._pin(bucket, pinned=True)
        silent = await self._roll_call.silent(bucket.id, missing, 0.0)
        return [*current, *(node for node in missing if node not in silent)][:REPLICAS_MAX]

    def _trusted(self, vault: VaultId) -> list[NodeFacts]:
        """Return the trusted members whose facts are known and that are not banned; who is leaving is draining."""
        me = self._directory.identity.node_id
        found = []
        for record in self._directory.registry.live(Kind.MEMBER):
            if record.scope != vault or record.public["role"] != TRUSTED:
                continue
            node = NodeId(record.key.split("/", 1)[1])
            facts = self._nodes.facts(node)
            if facts is None and node == me:  # it has not been in a mesh yet
                facts = NodeFacts(node, short_id(node), (), "default", 0, reliable=True, version="")
            if facts is not None and not self._nodes.is_banned(node):
                leaving = record.public.get("leaving") is True
                found.append(replace(facts, draining=True) if leaving else facts)
        return found

    def _check(self, bucket: Bucket, nodes: Sequence[NodeId]) -> None:
        if not 1 <= len(nodes) <= REPLICAS_MAX:
            raise InvalidError(f"{len(nodes)} index replicas are not possible", f"name 1 to {REPLICAS_MAX} nodes")
        if len(set(nodes)) != len(nodes):
            raise InvalidError("a node is named twice among the index replicas", "name each once")
        trusted = {facts.id for facts in self._trusted(bucket.id)}
        for node in nodes:
            if node not in trusted:
                raise ConflictError(
                    f"{self._nodes.name_of(node)} is no trusted member of vault {bucket.name!r}",
                    "add it first with `meshhold vault add-member`",
                )

    async def _pin(self, bucket: Bucket, *, pinned: bool) -> None:
        if bucket.index_pinned is not pinned or bucket.index_awaited:
            changed = self._directory.changed_vault(bucket, index_pinned=pinned, index_awaited=[])
            await self._directory.write(changed)

    # -- asking and changing ----------------------------------------------------------------------------------------

    async def _move(
        self, vault: VaultId, configuration: Configuration, nodes: Sequence[NodeId], mode: Mode, patience_s: float
    ) -> bool:
        """Change the replicas if they are others; return whether it ended in time. Errors: what ended it early."""
        if set(nodes) == set(configuration.members) and mode == configuration.mode and not configuration.is_joint:
            return True
        with trio.move_on_after(patience_s):
            while (running := self._moves.get(vault)) is not None and not running.done.is_set():
                if (set(running.nodes), running.mode) == (set(nodes), mode):
                    break
                await running.done.wait()
        running = self._moves.get(vault)
        if running is None or running.done.is_set():
            running = self._moves[vault] = _Move(tuple(nodes), mode)
            if self._nursery is None:
                await self._carry_out(vault, running)
            else:
                self._nursery.start_soon(self._carry_out, vault, running)
        elif (set(running.nodes), running.mode) != (set(nodes), mode):
            raise UnavailableError(
                f"another change of the index of vault {short_id(vault)} is under way",
                "run this again when `meshhold vault show` tells of none",
            )
        with trio.move_on_after(patience_s):
            await running.done.wait()
        if not running.done.is_set():
            return False
        if running.error is not None:
            raise running.error
        return True

    async def _carry_out(self, vault: VaultId, move: _Move) -> None:
        names = ", ".join(map(self._nodes.name_of, move.nodes))
        try:
            await self._change.change(vault, move.nodes, move.mode)
            _LOG.info("the index of vault %s is kept by %s, %s", short_id(vault), names, move.mode)
        except FatalError:
            raise
        except MeshHoldError as error:
            move.error = error
            _LOG.warning("the index of vault %s is not kept by %s yet: %s", short_id(vault), names, error)
        finally:
            move.done.set()


def _wanted(mode: Mode) -> int:
    return REPLICAS_WANTED if mode is Mode.LINEARIZABLE else REPLICAS_ALONE_MAX


def _check_mode(bucket: Bucket, nodes: Sequence[NodeId], mode: Mode) -> None:
    if mode is Mode.AVAILABLE and len(nodes) > REPLICAS_ALONE_MAX:
        raise ConflictError(
            f"consistency {mode} is for two machines, and {len(nodes)} are to keep the index of vault {bucket.name!r}",
            f"name {REPLICAS_ALONE_MAX} with --index-replicas, or keep it linearizable: one of three may be off then",
        )
    if mode is Mode.AVAILABLE and bucket.rules.versioning is not Versioning.NEVER:
        raise ConflictError(
            f"vault {bucket.name!r} keeps versions, whose order two machines that go on alone cannot agree on",
            "keep it linearizable, or copy the objects to a vault without versioning",
        )


def offered_modes() -> tuple[str, ...]:
    """Return what a vault may prefer in this version."""
    return tuple(str(mode) for mode in Mode if mode is Mode.LINEARIZABLE or registers.AVAILABLE_SUPPORTED)
