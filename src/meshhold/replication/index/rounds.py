"""One round of a register over its replicas: promise, then accept. Knows no decision and no retry.

A round belongs to one configuration. Every promise of it and every acceptance counts in that epoch alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from meshhold.errors import (
    FatalError,
    MeshHoldError,
    NoMajorityError,
    StorageFailedError,
    StorageFullError,
    UnavailableError,
)
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Entry, decode_entry
from meshhold.model.ids import NodeId, VaultId, encode_id, short_id
from meshhold.model.stamp import ZERO, Clock, Stamp
from meshhold.register.acceptor import Skewed, Stale
from meshhold.register.rounds import NOTHING, Answer, judge
from meshhold.replication.index.contract import Absent, Outdated, Refusal, Register, Replica
from meshhold.replication.index.panel import Panel, Poll
from meshhold.replication.index.seats import Seats

_STORAGE: Final = (StorageFullError, StorageFailedError)


class Sight(NamedTuple):
    """What a quorum showed: the highest answer, and whether a quorum holds it already."""

    configuration: Configuration
    highest: Answer
    chosen: bool

    @property
    def entry(self) -> Entry | None:
        """The entry of the highest answer. Errors: `UnknownFormatError`."""
        return None if self.highest.entry is None else decode_entry(self.highest.entry)


class Failed(NamedTuple):
    """There was no quorum; `error` says why. `overtaken`: only because a higher ballot is under way."""

    error: MeshHoldError
    overtaken: bool


class Rounds:
    """Runs rounds. `name_of` gives a node's name for messages to people. Resources: borrows its collaborators."""

    def __init__(self, panel: Panel, seats: Seats, clock: Clock, name_of: Callable[[NodeId], str] = short_id) -> None:
        self.panel = panel
        self.seats = seats
        self._clock = clock
        self._name_of = name_of

    def is_alone(self, configuration: Configuration) -> bool:
        """Tell whether this node's replica is the only one: a round then needs nobody else."""
        return (
            len(configuration.seats) == 1
            and configuration.seats[0].node == self.panel.node
            and not configuration.before
        )

    async def read(self, name: Register) -> Sight | Failed:
        """Ask a quorum what it has accepted; more of them if those of the first one differ."""
        configuration = self.seats.configuration(name.vault)
        if self.is_alone(configuration):
            answer = await self.panel.local.read(configuration.epoch, name, ZERO)
            if isinstance(answer, Answer):
                return Sight(configuration, answer, chosen=True)
        poll: Poll[Answer] = Poll(configuration)
        known = await self._ask_local(poll, name, lambda local: local.read(configuration.epoch, name, ZERO))
        if not poll.has_quorum:
            await self.panel.ask(poll, name.vault, lambda replica: replica.read(configuration.epoch, name, known))
        sight = await self._conclude(name, poll)
        if isinstance(sight, Sight) and not sight.chosen and sight.highest.accepted > ZERO:
            await self.panel.ask(
                poll, name.vault, lambda replica: replica.read(configuration.epoch, name, known), everybody=True
            )
            sight = await self._conclude(name, poll)
        return sight

    async def prepare(self, name: Register, ballot: Stamp) -> Sight | Failed:
        """Get a quorum's promise to take nothing below `ballot`, and see what it has accepted so far."""
        configuration = self.seats.configuration(name.vault)
        epoch = configuration.epoch
        if self.is_alone(configuration):
            answer = await self.panel.local.prepare(epoch, name, ballot, ZERO)
            if isinstance(answer, Answer):
                return Sight(configuration, answer, chosen=True)
        poll: Poll[Answer] = Poll(configuration)
        known = await self._ask_local(poll, name, lambda local: local.prepare(epoch, name, ballot, ZERO))
        if not poll.has_quorum and not any(isinstance(each, Stale | Outdated) for each in poll.refusals.values()):
            await self.panel.ask(poll, name.vault, lambda replica: replica.prepare(epoch, name, ballot, known))
        return await self._conclude(name, poll)

    async def accept(self, configuration: Configuration, name: Register, ballot: Stamp, entry: Entry) -> Failed | None:
        """Let a quorum take the entry durably; None once it has. All replicas are told."""
        if self.is_alone(configuration):
            refused = await self.panel.local.accept(configuration.epoch, name, ballot, entry)
            if refused is None:
                return None
        poll: Poll[bool] = Poll(configuration)

        async def question(replica: Replica) -> bool | Refusal:
            refusal = await replica.accept(configuration.epoch, name, ballot, entry)
            return True if refusal is None else refusal

        await self.panel.ask(poll, name.vault, question, everybody=True)
        if poll.has_quorum:
            return None
        return await self._failed(name.vault, poll)

    async def _ask_local(
        self, poll: Poll[Answer], name: Register, question: Callable[[Replica], Awaitable[Answer | Refusal]]
    ) -> Stamp:
        """Ask this node's own replica, if it is one: whoever is asked next need not send what is here already."""
        if self.panel.node not in poll.configuration.nodes:
            return ZERO
        await self.panel.ask_here(poll, name.vault, question)
        own = poll.answers.get(self.panel.node)
        return ZERO if own is None else own.accepted

    async def _conclude(self, name: Register, poll: Poll[Answer]) -> Sight | Failed:
        own = poll.answers.get(self.panel.node, NOTHING)
        answers = {node: own if answer.accepted == own.accepted else answer for node, answer in poll.answers.items()}
        seen = judge(answers, poll.configuration.has_quorum)
        if seen is None:
            return await self._failed(name.vault, poll)
        return Sight(poll.configuration, seen.highest, seen.chosen)

    async def failed(self, vault: VaultId, poll: Poll[Any]) -> MeshHoldError:
        """Learn from the refusals of any poll, and return why it has no quorum."""
        return (await self._failed(vault, poll)).error

    async def _failed(self, vault: VaultId, poll: Poll[Any]) -> Failed:
        """Learn from the refusals, then say why there is no quorum."""
        newer = poll.outdated
        if newer is not None:
            await self.seats.adopt(vault, newer)
            return Failed(_no_quorum(vault, poll, self._name_of), overtaken=True)
        stale = [each.ballot for each in poll.refusals.values() if isinstance(each, Stale)]
        for ballot in stale:
            self._clock.observe(ballot)
        possible = {node for node in poll.configuration.nodes if node not in poll.failures and not _is_out(poll, node)}
        if stale and poll.configuration.has_quorum(possible):
            return Failed(_no_quorum(vault, poll, self._name_of), overtaken=True)
        return Failed(_no_quorum(vault, poll, self._name_of), overtaken=False)


def _is_out(poll: Poll[Any], node: NodeId) -> bool:
    """Tell whether the replica refused for a reason that a higher ballot does not cure."""
    refusal = poll.refusals.get(node)
    return refusal is not None and not isinstance(refusal, Stale)


def _no_quorum(vault: VaultId, poll: Poll[Any], name_of: Callable[[NodeId], str]) -> MeshHoldError:
    for error in poll.failures.values():
        if isinstance(error, FatalError) or (isinstance(error, _STORAGE) and len(poll.configuration.nodes) == 1):
            return error
    for refusal in poll.refusals.values():
        if isinstance(refusal, Skewed):
            return _wrong_clock(refusal)
    missing = [
        f"{name_of(node)} ({_reason(poll, node)})" for node in poll.configuration.nodes if node not in poll.answers
    ]
    return NoMajorityError(
        f"too few of the {len(poll.configuration.nodes)} index replicas of vault {short_id(vault)} answer; missing: "
        f"{', '.join(missing)}",
        "start those machines, or see `meshhold vault show`",
    )


def _reason(poll: Poll[Any], node: NodeId) -> str:
    refusal = poll.refusals.get(node)
    if isinstance(refusal, Absent):
        return refusal.reason
    if refusal is not None:
        return "it is ahead of this node"
    error = poll.failures.get(node)
    if isinstance(error, _STORAGE):
        return "its disk fails" if isinstance(error, StorageFailedError) else "its disk is full"
    return "it does not answer"


def _wrong_clock(skewed: Skewed) -> UnavailableError:
    ahead = "ahead of" if skewed.skew_ms > 0 else "behind"
    return UnavailableError(
        f"node {short_id(encode_id(skewed.node))}'s clock is {abs(skewed.skew_ms) / 1000:g} s {ahead} a replica's",
        "set the clocks of both machines",
    )
