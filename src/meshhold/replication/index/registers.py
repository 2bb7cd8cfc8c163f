"""Linearizable reads and changes of registers, as the use-cases see them. Knows ballots, not HTTP, chunks or SQL.

A change is a round: prepare, look at what is there, decide, accept. The decision is a pure function of the current
value and may be asked again when another node was faster; the op id in each entry keeps a repeated change from taking
effect twice.

A vault that lets each side go on alone is read and changed through one replica instead; see `available`.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple, NoReturn

import trio

from meshhold.errors import (
    ContentionError,
    PeerError,
    RefusedError,
    StorageFailedError,
    StorageFullError,
    UnavailableError,
    UnknownOutcomeError,
)
from meshhold.index.contract import Counts, Row
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Entry, Space, Value, decode_entry, describe_key
from meshhold.model.ids import NodeId, OpId, VaultId, short_id
from meshhold.model.stamp import ZERO, Clock, Stamp
from meshhold.register.lineage import Outcome, outcome, succeed
from meshhold.replication.index.available import Available, Done, NearestRows
from meshhold.replication.index.contract import Register, Replica, Replicas
from meshhold.replication.index.early import Early
from meshhold.replication.index.panel import Panel
from meshhold.replication.index.reading import Listings, OwnReading, Reading, Scanning
from meshhold.replication.index.replica import LocalReplica
from meshhold.replication.index.rounds import Failed, Rounds, Sight
from meshhold.replication.index.seats import Seats
from meshhold.replication.index.turns import Turns

DEADLINE_S: Final = 10.0
"""A client's own time-out is rarely below half a minute; ten seconds of lost races mean that waiting does not help."""
BACK_OFF_FIRST_S: Final = 0.005
BACK_OFF_MAX_S: Final = 0.5
NO_MAJORITY_S: Final = 3.0
"""So long a round is tried again while too few replicas answer: a node starts, or a link returns, within less."""
EARLY_S: Final = 20.0
"""An early promise that is older is asked for anew: other writers may have come since."""
AVAILABLE_SUPPORTED: Final = True
"""Whether a vault may let each side go on alone."""
_STORAGE: Final = (StorageFullError, StorageFailedError)


class Write(NamedTuple):
    """The decision to store `value`; None deletes. `always`: the deletion is recorded even where nothing is deleted."""

    value: Value | None
    always: bool = False


class Keep(NamedTuple):
    """The decision to leave the register as it is."""


KEEP: Final = Keep()
Change = Write | Keep
Decide = Callable[[Value | None], Change]


class Fence(NamedTuple):
    """What holds back a change that comes late: a deletion that is recorded stays, and nothing is decided after a time.

    The time is told by both clocks, in milliseconds since 1970 and in Trio's seconds: one of them is set by people, the
    other stands still while the machine sleeps.
    """

    until_ms: int
    until_s: float


class Changed(NamedTuple):
    """The entries before and after a change; the same one if nothing was written, None if there never was one."""

    before: Entry | None
    after: Entry | None


class _Sent(NamedTuple):
    """Accepts that went out and were refused somewhere: their effect is known only from a later look at the register.

    `base_generation` is the first one's, the oldest on which the op can have taken effect; the rest is the last one's.
    """

    base_generation: int
    before: Entry | None
    entry: Entry


class Registers:
    """The registers of all vaults, as this node reads and changes them.

    `clock` is shared with `replica`; `replicas` reaches other nodes'; `sleep` and `chance` (0 ≤ x < 1) make the
    back-off. Resources: borrows its collaborators. Beside other nodes `run` must be running.
    """

    def __init__(
        self,
        replica: LocalReplica,
        seats: Seats,
        replicas: Replicas,
        clock: Clock,
        now_ms: Callable[[], int],
        *,
        name_of: Callable[[NodeId], str] = short_id,
        sleep: Callable[[float], Awaitable[object]] = trio.sleep,
        chance: Callable[[], float] = random.random,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.seats = seats
        self._replica = replica
        self._clock = clock
        self._now_ms = now_ms
        self._sleep = sleep
        self._chance = chance
        self._deadline_s = deadline_s
        self._turns = Turns()
        self._panel = Panel(seats.node, replica, replicas)
        self._rounds = Rounds(self._panel, seats, clock, name_of)
        self._available = Available(replica, self._panel, self._rounds, clock, now_ms)

    async def run(self) -> NoReturn:
        """Carry rounds to other nodes, until cancelled."""
        await self._panel.run()

    def replica(self, node: NodeId) -> Replica:
        """Return the replica of a node, this one's too."""
        return self._panel.replica(node)

    # -- one register -------------------------------------------------------------------------------------------------

    async def read(self, vault: VaultId, space: Space, key: bytes) -> Entry | None:
        """Return the current entry (its value None for a tombstone), or None if there never was one.

        Errors: `NoMajorityError` names the replicas that are missing; `UnknownFormatError` if it cannot be decoded,
        `StorageFailedError`.
        """
        name = Register(vault, space, key)
        if self._available.is_in_force(vault, space):
            return await self._available.read(name)
        tries = _Tries(name)
        while True:
            sight = await self._rounds.read(name)
            if isinstance(sight, Sight):
                if sight.chosen or sight.highest.accepted == ZERO:
                    return sight.entry
                return await self.settle(name)
            await self._back_off(tries, sight, None)

    async def settle(self, name: Register) -> Entry | None:
        """Make sure that a quorum holds one entry, and return it: what a change that was cut short left behind is over.

        Errors: as `change`.
        """
        return (await self.change(*name, _keep)).after

    async def change(
        self,
        vault: VaultId,
        space: Space,
        key: bytes,
        decide: Decide,
        early: Early | None = None,
        *,
        conditional: bool = False,
        fence: Fence | None = None,
    ) -> Changed:
        """Change a register by the decision that `decide` takes on its current value; durable when this returns.

        `decide` is pure and may run several times. If it raises a `RefusedError`, the value that it saw is settled
        first, so that later readers see no older one; then the error propagates. Deleting what is not there keeps it.
        `early` comes from the method of that name, for the same register. `conditional` says that the decision depends
        on the value; where each side goes on alone there is none to depend on. A `fence` is for conditional changes.
        Errors: `UnavailableError` for a conditional change there; `ContentionError` and `NoMajorityError` (nothing was
        written), `UnknownOutcomeError` (read to know), `OverloadedError`, `StorageFullError`, `StorageFailedError`
        (nothing was written).
        """
        name = Register(vault, space, key)
        if name in self._turns:
            early = None  # whoever has the turn now overtakes it
        await self._turns.take(name)
        try:
            sent: _Sent | None = None
            if self._available.is_in_force(vault, space):
                if conditional:
                    raise _unconditional(vault)
                done = await self._available.change(name, partial(_follow, decide))
                if done is not None and done.holds:
                    return Changed(done.before, done.after)
                sent = _sent_alone(done)
            return await self._change(name, decide, early, sent, fence)
        finally:
            self._turns.give(name)

    def check_conditional(self, vault: VaultId) -> None:
        """Errors: `UnavailableError` if the vault's changes cannot be conditional, since each side goes on alone."""
        if self._available.is_in_force(vault, Space.OBJECTS):
            raise _unconditional(vault)

    def early(self, vault: VaultId, space: Space, key: bytes) -> Early | None:
        """Return a promise to ask for while what is to be stored is on its way; `change` takes it.

        None where it would save nothing: one replica's word is enough, or somebody here changes the key already.
        """
        name = Register(vault, space, key)
        if self._is_alone(vault) or name in self._turns or self._available.is_in_force(vault, space):
            return None
        return Early(self.next_stamp, partial(self._rounds.prepare, name), self._panel.start_soon)

    async def current(self, vault: VaultId, space: Space, key: bytes, early: Early | None) -> Entry | None:
        """Return the current entry as `read` does: what an early promise of this register showed, if that is known.

        It may then be `EARLY_S` old. Errors: as `read`.
        """
        if early is not None:
            await early.wait()
            sight = early.sight
            is_fresh = trio.current_time() - early.since_s < EARLY_S
            if sight is not None and is_fresh and (sight.chosen or sight.highest.accepted == ZERO):
                return sight.entry
        return await self.read(vault, space, key)

    def next_stamp(self) -> Stamp:
        """Return a stamp that is used for nothing else."""
        return self._clock.tick(self._now_ms())

    async def pause(self, tries: int) -> None:
        """Wait a little before a use-case of several changes starts over because another node was faster."""
        limit_s = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2 ** min(tries, 16))
        await self._sleep(limit_s * self._chance())

    async def _change(
        self, name: Register, decide: Decide, early: Early | None, sent: _Sent | None, fence: Fence | None
    ) -> Changed:
        tries = _Tries(name)
        op: OpId | None = None if sent is None else sent.entry.op
        if early is not None:
            await early.wait()
        while True:
            if early is not None and early.sight is not None and trio.current_time() - early.since_s < EARLY_S:
                ballot, seen = early.ballot, early.sight
                early = None
            else:
                ballot = self._clock.tick(self._now_ms())
                found = await self._rounds.prepare(name, ballot)
                if isinstance(found, Failed):
                    await self._back_off(tries, found, sent)
                    continue
                seen = found
            op = op or OpId(ballot.pack())  # no other round, of this node or another, has this ballot
            done, sent, failed = await self._attempt(name, ballot, op, seen, decide, sent, fence)
            if done is not None:
                return done
            await self._back_off(tries, failed, sent)

    async def _attempt(
        self,
        name: Register,
        ballot: Stamp,
        op: OpId,
        seen: Sight,
        decide: Decide,
        sent: _Sent | None,
        fence: Fence | None,
    ) -> tuple[Changed | None, _Sent | None, Failed | None]:
        """Go on from a promise: return the result, or None, what is in flight, and why the round did not end."""
        current = seen.entry
        if sent is not None:
            match outcome(current, op, sent.base_generation):
                case Outcome.TOOK_EFFECT:
                    after = current if current and current.op == op else sent.entry
                    failed = await self._settle(name, ballot, seen, sent)
                    return (None if failed else Changed(sent.before, after)), sent, failed
                case Outcome.UNKNOWN:
                    raise _unknown(name)
                case Outcome.NOT_YET:
                    pass
        try:
            if fence is not None and self._is_fenced(fence, name, current):
                change: Change = KEEP
            else:
                change = decide(current.value if current else None)
        except RefusedError:
            failed = await self._settle(name, ballot, seen, sent)
            if failed is None:
                raise
            return None, sent, failed
        if isinstance(change, Keep) or _keeps(change, current):
            failed = await self._settle(name, ballot, seen, sent)
            return (None if failed else Changed(current, current)), sent, failed
        entry = succeed(current, op, change.value)
        failed = await self._accept(seen.configuration, name, ballot, entry)
        if failed is None:
            return Changed(current, entry), sent, None
        base_generation = sent.base_generation if sent else entry.generation - 1
        return None, _Sent(base_generation, current, entry), failed

    def _is_fenced(self, fence: Fence, name: Register, current: Entry | None) -> bool:
        """Tell whether a recorded deletion stays. Errors: `ContentionError` when it is too late to decide."""
        if current is not None and current.value is None:
            return True
        if self._now_ms() > fence.until_ms or trio.current_time() > fence.until_s:
            raise ContentionError(f"the change of {_shown(name)} took too long; nothing was written", "retry")
        return False

    async def _settle(self, name: Register, ballot: Stamp, seen: Sight, sent: _Sent | None) -> Failed | None:
        """Make sure that a quorum holds what was seen; the failure if the round was overtaken meanwhile.

        What a quorum holds already needs no write, unless an earlier accept of ours may still sit on a minority,
        where a later round would find it and take it for the highest.
        """
        entry = seen.entry
        if entry is None or (sent is None and seen.chosen):
            return None
        return await self._accept(seen.configuration, name, ballot, entry)

    async def _accept(self, configuration: Configuration, name: Register, ballot: Stamp, entry: Entry) -> Failed | None:
        failed = await self._rounds.accept(configuration, name, ballot, entry)
        if failed is not None and isinstance(failed.error, _STORAGE):  # the only replica: it was not taken
            raise failed.error
        return failed

    async def _back_off(self, tries: _Tries, failed: Failed | None, sent: _Sent | None) -> None:
        """Wait a little before the next round. Errors: what a change ends with when there is no point in one."""
        overtaken = failed is not None and failed.overtaken
        error = None if failed is None else failed.error
        if error is not None and not isinstance(error, UnavailableError):
            raise error
        if isinstance(error, _STORAGE):
            raise error
        patience_s = self._deadline_s if overtaken else min(self._deadline_s, NO_MAJORITY_S)
        if trio.current_time() >= tries.began_s + patience_s:
            if sent is not None:
                raise _unknown(tries.name)
            if error is None or overtaken:
                raise ContentionError(
                    f"others kept changing {_shown(tries.name)} for {patience_s:g} s; nothing was written", "retry"
                )
            raise error
        if tries.count:  # the first refusal is mostly a clock that lags behind; observing it was the cure
            limit_s = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2 ** min(tries.count, 16))
            await self._sleep(limit_s * self._chance())
        tries.count += 1

    # -- many registers -----------------------------------------------------------------------------------------------

    def open_reading(self, vault: VaultId) -> Listings:
        """Begin a listing: look with `rows`, then `settle`, and look again until it returns True; see `Reading`."""
        if self._is_own(vault, Space.OBJECTS):
            return OwnReading(self._replica.index, vault)
        if self._available.is_in_force(vault, Space.OBJECTS):
            return NearestRows(self._available, vault)
        return Reading(self._panel, self._rounds, vault, self.read)

    async def scan(
        self, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int
    ) -> list[tuple[bytes, Entry]]:
        """Return up to `limit` registers after `after` whose key begins with `prefix`; tombstones too.

        Errors: as `read`.
        """
        if self._is_own(vault, space):
            rows = self._replica.index.scan(vault, space, after, prefix, limit)
            return [(key, decode_entry(row.entry)) for key, row in rows]
        if self._available.is_in_force(vault, space):
            return await self._available.scan(vault, space, after, prefix, limit)
        reading = Scanning(self._panel, self._rounds, vault, self.read, space)
        while True:
            found = await reading.rows(after, prefix, limit)
            if await reading.settle():
                return found

    async def counts(self, vault: VaultId) -> Counts | None:
        """Return the live objects of a vault and their bytes, as the first replica that answers counts them, or None.

        Errors: `NoMajorityError` while it is unknown who keeps the index.
        """
        configuration = self.seats.configuration(vault)
        for node in self._panel.by_readiness(configuration.nodes):
            try:
                return await self._panel.replica(node).counts(vault)
            except PeerError:
                continue
        return None

    async def kept_aside(self, vault: VaultId, after: bytes, limit: int) -> list[tuple[bytes, Row]]:
        """Return up to `limit` rows of `Space.CONFLICTS`, as the nearest replica holds them; fewer mean the end.

        Errors: `NoMajorityError`.
        """
        return await self._available.scan_rows(vault, Space.CONFLICTS, after, b"", limit)

    async def expire_conflicts(self, vault: VaultId) -> int:
        """Remove what was kept aside long enough here; return how many rows went. Errors: those of the disk."""
        return await self._available.expire(vault)

    async def drop_vault(self, vault: VaultId) -> None:
        """Remove what this node holds of the vault; the caller has seen to it that nobody changes it any more."""
        await self._replica.drop_vault(vault)

    def _is_alone(self, vault: VaultId) -> bool:
        """Tell whether this node alone keeps the vault's index, and votes."""
        return self._rounds.is_alone(self.seats.configuration(vault)) and self.seats.votes(vault)

    def _is_own(self, vault: VaultId, space: Space) -> bool:
        """Tell whether this node's own rows need nobody's word."""
        return self.seats.votes(vault) and (self._available.is_in_force(vault, space) or self._is_alone(vault))


class _Tries:
    """How often and since when a round of one register is tried."""

    def __init__(self, name: Register) -> None:
        self.name = name
        self.count = 0
        self.began_s = trio.current_time()


def _keep(_: Value | None) -> Change:
    return KEEP


def _follow(decide: Decide, current: Entry | None, ballot: Stamp) -> Entry | None:
    """Return the entry that a decision makes follow the current one; None to leave it."""
    change = decide(current.value if current else None)
    if isinstance(change, Keep) or _keeps(change, current):
        return None
    return succeed(current, OpId(ballot.pack()), change.value)


def _keeps(change: Write, current: Entry | None) -> bool:
    """Tell whether a change deletes what is not there."""
    return change.value is None and not change.always and (current is None or current.value is None)


def _sent_alone(done: Done | None) -> _Sent | None:
    """Return what a change that one replica took stands for when rounds go on with it."""
    if done is None or done.after is None:
        return None
    return _Sent(done.after.generation - 1, done.before, done.after)


def _unconditional(vault: VaultId) -> UnavailableError:
    return UnavailableError(
        f"vault {short_id(vault)} lets each machine go on alone (consistency: available), so no write can depend on "
        "what is stored",
        f"send it without If-Match and If-None-Match, or run `meshhold vault set {short_id(vault)} --consistency "
        "linearizable`",
    )


def _unknown(name: Register) -> UnknownOutcomeError:
    return UnknownOutcomeError(f"the change of {_shown(name)} may or may not have taken effect", "read it to know")


def _shown(name: Register) -> str:
    return describe_key(name.space, name.key)
