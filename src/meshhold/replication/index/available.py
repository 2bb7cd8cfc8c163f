"""Reads and changes without a quorum, for vaults that let each side go on alone. Decides no winner: see `merging`.

A change is decided on what one replica holds, and acknowledged once that replica has it durably; the others are told
without anybody waiting for them, and what does not reach them is found when replicas are compared. That replica is this
node's own if it votes, else the one that answered last, as long as it does: so a node reads what it wrote. Such a read
or page may be older than what another replica has acknowledged. A change that meets the end of this way of going on is
left to the rounds, which find it by its op.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, TypeVar

import trio

from meshhold.errors import NoMajorityError, UnknownOutcomeError
from meshhold.index.contract import Listed, Row
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Entry, Space, decode_entry, describe_key
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.model.stamp import ZERO, Clock, Stamp
from meshhold.register.acceptor import Stale
from meshhold.register.rounds import Answer
from meshhold.replication.index.contract import Listing, Outdated, Refusal, Register, Replica, Scan
from meshhold.replication.index.merging import goes_alone
from meshhold.replication.index.panel import Panel, Poll
from meshhold.replication.index.replica import Follow, LocalReplica, Wrote
from meshhold.replication.index.rounds import Rounds

TRIES_MAX: Final = 5
"""How often a question is put anew because the replicas, or what they hold, change under it."""
EXPIRED_PAGE: Final = 64
"""Rows of kept conflicts looked at in one step: 1 MiB at most."""
_T = TypeVar("_T")


class Done(NamedTuple):
    """The entries before and after a change. `holds` is False if rounds must settle whether it took effect."""

    before: Entry | None
    after: Entry | None
    holds: bool = True


@dataclass(slots=True)
class _Attempt:
    """A change that is decided; `risky` once a replica may have taken it without saying so."""

    before: Entry | None
    after: Entry
    ballot: Stamp
    risky: bool = False


class Available:
    """Registers as one replica holds them. Resources: borrows its collaborators, which are those of `rounds`."""

    def __init__(
        self, local: LocalReplica, panel: Panel, rounds: Rounds, clock: Clock, now_ms: Callable[[], int]
    ) -> None:
        self._local = local
        self._panel = panel
        self._rounds = rounds
        self._seats = rounds.seats
        self._clock = clock
        self._now_ms = now_ms
        self._nearest: dict[VaultId, NodeId] = {}

    def is_in_force(self, vault: VaultId, space: Space) -> bool:
        """Tell whether the space is read and changed this way. Errors: `NoMajorityError` if nobody is known."""
        return goes_alone(self._seats.configuration(vault), space)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def read(self, name: Register) -> Entry | None:
        """Return the entry that the nearest replica holds. Errors: `NoMajorityError`, `UnknownFormatError`."""

        async def question(replica: Replica, epoch: int) -> Answer | Refusal:
            return await replica.read(epoch, name, ZERO)

        answer = await self._first(name.vault, question)
        return None if answer.entry is None else decode_entry(answer.entry)

    async def rows(self, vault: VaultId, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """Return a page of live objects, as `Index.list_keys` does. Errors: `NoMajorityError`."""
        found: list[Listed] = []

        async def question(replica: Replica, epoch: int) -> Listing | Refusal:
            return await replica.list_page(epoch, vault, after, prefix, limit - len(found))

        while len(found) < limit:
            page = await self._first(vault, question)
            found += page.rows
            if page.upto is None or page.upto <= after:
                break
            after = page.upto
        return found

    async def scan(
        self, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int
    ) -> list[tuple[bytes, Entry]]:
        """Return up to `limit` rows, tombstones too; fewer mean the end. Errors: `NoMajorityError`."""
        rows = await self.scan_rows(vault, space, after, prefix, limit)
        return [(key, decode_entry(row.entry)) for key, row in rows]

    async def scan_rows(
        self, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int
    ) -> list[tuple[bytes, Row]]:
        """Return the same with ballots, and entries in their stored form."""
        found: list[tuple[bytes, Row]] = []

        async def question(replica: Replica, epoch: int) -> Scan | Refusal:
            return await replica.scan_page(epoch, vault, space, after, prefix, limit - len(found))

        while len(found) < limit:
            page = await self._first(vault, question)
            found += page.rows
            if not page.rows:
                break
            after = found[-1][0]
            await trio.lowlevel.checkpoint()
        return found

    async def _first(self, vault: VaultId, question: Callable[[Replica, int], Awaitable[_T | Refusal]]) -> _T:
        """Return what the first replica says that answers."""
        for _ in range(TRIES_MAX):
            poll: Poll[_T] = Poll(self._seats.configuration(vault))
            for node in self._in_turn(vault, poll.configuration):
                await self._panel.ask_one(poll, node, vault, partial(_in_epoch, question, poll.configuration.epoch))
                if node in poll.answers:
                    self._nearest[vault] = node
                    return poll.answers[node]
            error = await self._rounds.failed(vault, poll)
            if poll.outdated is None:
                raise error
        raise _keeps_changing(vault)

    def _in_turn(self, vault: VaultId, configuration: Configuration) -> list[NodeId]:
        """Return the replicas in the order in which they are asked."""
        nodes = self._panel.by_readiness(configuration.nodes)
        nearest = self._nearest.get(vault)
        if nearest in nodes and not self._panel.has_failed(nearest):
            nodes.remove(nearest)
            nodes.insert(0, nearest)
        return nodes

    # -- changing -----------------------------------------------------------------------------------------------------

    async def change(self, name: Register, follow: Follow) -> Done | None:
        """Let an entry follow the one that a replica holds, durably there; None if rounds are to do it.

        Errors: `NoMajorityError` (nothing was written), `UnknownOutcomeError`, `StorageFullError`,
        `StorageFailedError`, and what `follow` raises.
        """
        attempt: _Attempt | None = None
        for _ in range(TRIES_MAX):
            configuration = self._seats.configuration(name.vault)
            if not goes_alone(configuration, name.space):
                return Done(attempt.before, attempt.after, holds=False) if attempt and attempt.risky else None
            if attempt is None and self._seats.votes(name.vault):
                wrote = await self._local.write_alone(configuration.epoch, name, follow)
                if isinstance(wrote, Wrote):
                    if wrote.after is not None and wrote.after is not wrote.before:
                        self._hand_over(Poll(configuration), name, wrote.ballot, wrote.after)
                    return Done(wrote.before, wrote.after, wrote.holds)
                continue
            poll: Poll[Answer] = Poll(configuration)
            for node in self._in_turn(name.vault, configuration):
                if attempt is None:
                    decided = await self._decide(poll, node, name, follow)
                    if isinstance(decided, Done):
                        return decided
                    attempt = decided
                if attempt is not None and await self._offer(poll, node, name, attempt):
                    self._nearest[name.vault] = node
                    self._hand_over(poll, name, attempt.ballot, attempt.after)
                    return Done(attempt.before, attempt.after)
            error = await self._rounds.failed(name.vault, poll)  # learns of later epochs and higher ballots
            if attempt is not None and not attempt.risky:
                attempt = None
            if poll.outdated is None and not any(isinstance(each, Stale) for each in poll.refusals.values()):
                raise _unknown(name) if attempt is not None else error
        raise _unknown(name) if attempt is not None else _keeps_changing(name.vault)

    async def _decide(self, poll: Poll[Answer], node: NodeId, name: Register, follow: Follow) -> _Attempt | Done | None:
        """Decide on what another node's replica holds; None if it does not tell."""
        epoch = poll.configuration.epoch
        await self._panel.ask_one(poll, node, name.vault, lambda replica: replica.read(epoch, name, ZERO))
        answer = poll.answers.pop(node, None)
        if answer is None:
            return None
        before = None if answer.entry is None else decode_entry(answer.entry)
        self._clock.observe(answer.accepted)
        ballot = self._clock.tick(self._now_ms())
        after = follow(before, ballot)
        return Done(before, before) if after is None else _Attempt(before, after, ballot)

    async def _offer(self, poll: Poll[Answer], node: NodeId, name: Register, attempt: _Attempt) -> bool:
        """Tell whether a replica holds the change durably now, be it as what lost to a later one."""
        epoch = poll.configuration.epoch
        await self._panel.ask_one(
            poll, node, name.vault, lambda replica: replica.merge(epoch, name, attempt.ballot, attempt.after)
        )
        attempt.risky = attempt.risky or node in poll.failures
        return node in poll.answers

    def _hand_over(self, poll: Poll[Answer], name: Register, ballot: Stamp, entry: Entry) -> None:
        """Let those know that were not asked yet; what one of them has that is later is taken in return."""
        epoch = poll.configuration.epoch

        async def question(replica: Replica) -> Answer | Refusal:
            answer = await replica.merge(epoch, name, ballot, entry)
            if isinstance(answer, Outdated):
                await self._seats.adopt(name.vault, answer.configuration)
            elif isinstance(answer, Answer) and answer.entry is not None and answer.accepted > ballot:
                await self._local.merge(epoch, name, answer.accepted, decode_entry(answer.entry))
            return answer

        self._panel.tell(poll, name.vault, question)

    # -- what was kept aside ------------------------------------------------------------------------------------------

    async def expire(self, vault: VaultId) -> int:
        """Remove, from this node's replica, what lost and was kept long enough; return how many rows went."""
        gone = 0
        after: bytes | None = b""
        while after is not None:
            removed, after = await self._local.expire_conflicts(vault, after, EXPIRED_PAGE)
            gone += removed
            await trio.lowlevel.checkpoint()
        return gone


class NearestRows:
    """A listing that nobody confirms; see `registers.Listings`."""

    def __init__(self, available: Available, vault: VaultId) -> None:
        self._available = available
        self._vault = vault

    async def rows(self, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """Return a page; see `Available.rows`."""
        return await self._available.rows(self._vault, after, prefix, limit)

    async def settle(self) -> bool:
        """Return True."""
        return True


async def _in_epoch(
    question: Callable[[Replica, int], Awaitable[_T | Refusal]], epoch: int, replica: Replica
) -> _T | Refusal:
    return await question(replica, epoch)


def _unknown(name: Register) -> UnknownOutcomeError:
    shown = describe_key(name.space, name.key)
    return UnknownOutcomeError(f"the change of {shown} may or may not have taken effect", "read it to know")


def _keeps_changing(vault: VaultId) -> NoMajorityError:
    return NoMajorityError(f"the index replicas of vault {short_id(vault)} are being changed", "retry in a moment")
