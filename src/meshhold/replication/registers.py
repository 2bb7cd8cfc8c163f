"""Linearizable reads and changes of registers, as the use-cases see them. Knows ballots, not HTTP, chunks or SQL.

A change is a round: prepare, look at what is there, decide, accept. The decision is a pure function of the current
value and may be asked again when another node was faster; the op id in each entry keeps a repeated change from taking
effect twice.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import trio

from meshhold.errors import ContentionError, RefusedError, UnavailableError, UnknownOutcomeError
from meshhold.index.contract import Counts, Listed
from meshhold.model.entry import Entry, Space, Value, decode_entry
from meshhold.model.ids import OpId, VaultId, encode_id, short_id
from meshhold.model.stamp import Clock, Stamp
from meshhold.register.acceptor import WINDOW_MS, Skewed, Stale
from meshhold.register.lineage import Outcome, outcome, succeed
from meshhold.register.rounds import Answer, judge
from meshhold.replication.replica import LocalReplica, Register
from meshhold.replication.turns import Turns

DEADLINE_S: Final = 10.0
"""A client's own time-out is rarely below half a minute; ten seconds of lost races mean that waiting does not help."""
BACK_OFF_FIRST_S: Final = 0.005
BACK_OFF_MAX_S: Final = 0.5
SWEEP_ROWS: Final = 512
"""Rows that one call of `forget_tombstones` looks at, in slices of `_SWEEP_SLICE` between which others run."""
_SWEEP_SLICE: Final = 64
_ROUND_BEGIN: Final = (Space.OBJECTS, b"")
_REPLICAS: Final = 1


class Write(NamedTuple):
    """The decision to store `value`; None deletes."""

    value: Value | None


class Keep(NamedTuple):
    """The decision to leave the register as it is."""


KEEP: Final = Keep()
Change = Write | Keep
Decide = Callable[[Value | None], Change]


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
    """The registers of all vaults on this node.

    `clock` is shared with `replica`; `sleep` and `chance` (0 ≤ x < 1) make the back-off. Resources: borrows `replica`.
    """

    def __init__(
        self,
        replica: LocalReplica,
        clock: Clock,
        now_ms: Callable[[], int],
        *,
        sleep: Callable[[float], Awaitable[object]] = trio.sleep,
        chance: Callable[[], float] = random.random,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._replica = replica
        self._clock = clock
        self._now_ms = now_ms
        self._sleep = sleep
        self._chance = chance
        self._deadline_s = deadline_s
        self._turns = Turns()
        self._sweeps: dict[VaultId, tuple[Space, bytes]] = {}

    async def read(self, vault: VaultId, space: Space, key: bytes) -> Entry | None:
        """Return the current entry (its value None for a tombstone), or None if there never was one.

        Errors: `UnknownFormatError` if it cannot be decoded, `StorageFailedError`.
        """
        answer = await self._replica.read(Register(vault, space, key))
        return _entry_of(answer)

    async def change(self, vault: VaultId, space: Space, key: bytes, decide: Decide) -> Changed:
        """Change a register by the decision that `decide` takes on its current value; durable when this returns.

        `decide` is pure and may run several times. If it raises a `RefusedError`, the value that it saw is settled
        first, so that later readers see no older one; then the error propagates. Deleting what is not there keeps it.
        Errors: `ContentionError` (nothing was written), `UnknownOutcomeError` (read to know), `OverloadedError`,
        `StorageFullError`, `StorageFailedError` (nothing was written).
        """
        name = Register(vault, space, key)
        await self._turns.take(name)
        try:
            return await self._change(name, decide)
        finally:
            self._turns.give(name)

    async def _change(self, name: Register, decide: Decide) -> Changed:
        deadline = trio.current_time() + self._deadline_s
        ballot = self._clock.tick(self._now_ms())
        op = OpId(ballot.pack())  # no other round, of this node or another, has this ballot
        sent: _Sent | None = None
        tries = 0
        while True:
            answer = await self._replica.prepare(name, ballot)
            if isinstance(answer, Answer):
                done, sent = await self._attempt(name, ballot, op, answer, decide, sent)
                if done is not None:
                    return done
            elif isinstance(answer, Stale):
                self._clock.observe(answer.ballot)
            else:
                raise _wrong_clock(answer)
            if trio.current_time() >= deadline:
                raise _gave_up(name.key, self._deadline_s, sent)
            if tries:  # the first refusal is mostly a clock that lags behind; observing it was the cure
                limit_s = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2 ** min(tries, 16))
                await self._sleep(limit_s * self._chance())
            tries += 1
            ballot = self._clock.tick(self._now_ms())

    async def _attempt(
        self, name: Register, ballot: Stamp, op: OpId, answer: Answer, decide: Decide, sent: _Sent | None
    ) -> tuple[Changed | None, _Sent | None]:
        """Go on from a promise: return the result, or None and what is in flight if the round was overtaken."""
        current = _entry_of(answer)
        if sent is not None:
            match outcome(current, op, sent.base_generation):
                case Outcome.TOOK_EFFECT:
                    after = current if current and current.op == op else sent.entry
                    settled = await self._settle(name, ballot, answer, sent)
                    return (Changed(sent.before, after) if settled else None), sent
                case Outcome.UNKNOWN:
                    raise _unknown(name.key)
                case Outcome.NOT_YET:
                    pass
        try:
            change = decide(current.value if current else None)
        except RefusedError:
            if await self._settle(name, ballot, answer, sent):
                raise
            return None, sent
        if isinstance(change, Keep) or (change.value is None and (current is None or current.value is None)):
            settled = await self._settle(name, ballot, answer, sent)
            return (Changed(current, current) if settled else None), sent
        entry = succeed(current, op, change.value)
        if await self._accept(name, ballot, entry):
            return Changed(current, entry), sent
        base_generation = sent.base_generation if sent else entry.generation - 1
        return None, _Sent(base_generation, current, entry)

    async def _settle(self, name: Register, ballot: Stamp, answer: Answer, sent: _Sent | None) -> bool:
        """Make sure that a majority holds what `answer` shows; return False if the round was overtaken meanwhile.

        What a majority holds already needs no write, unless an earlier accept of ours may still sit on a minority,
        where a later round would find it and take it for the highest.
        """
        seen = judge((answer,), _REPLICAS)
        if answer.entry is None or (sent is None and seen is not None and seen.chosen):
            return True
        return await self._accept(name, ballot, decode_entry(answer.entry))

    async def _accept(self, name: Register, ballot: Stamp, entry: Entry) -> bool:
        refusal = await self._replica.accept(name, ballot, entry)
        if isinstance(refusal, Skewed):
            raise _wrong_clock(refusal)
        if refusal is not None:
            self._clock.observe(refusal.ballot)
        return refusal is None

    # -- ranges ------------------------------------------------------------------------------------------------------

    async def list_keys(self, vault: VaultId, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """Return up to `limit` live objects after `after` whose key begins with `prefix`, in key order."""
        return self._replica.list_keys(vault, after, prefix, limit)

    async def first_key(self, vault: VaultId, at_least: bytes, prefix: bytes) -> bytes | None:
        """Return the first live object's key that begins with `prefix` and is at least `at_least`."""
        return self._replica.first_key(vault, at_least, prefix)

    async def scan(
        self, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int
    ) -> list[tuple[bytes, Entry]]:
        """Return up to `limit` registers after `after` whose key begins with `prefix`; tombstones too."""
        rows = self._replica.scan(vault, space, after, prefix, limit)
        return [(key, decode_entry(row.entry)) for key, row in rows]

    def counts(self, vault: VaultId) -> Counts:
        """Return the live objects of a vault and their bytes."""
        return self._replica.counts(vault)

    async def drop_vault(self, vault: VaultId) -> None:
        """Remove every register of the vault; the caller has seen to it that nobody changes them any more."""
        self._sweeps.pop(vault, None)
        await self._replica.drop_vault(vault)

    async def forget_tombstones(self, vault: VaultId, older_than_ms: int) -> int:
        """Remove tombstones last accepted more than `older_than_ms` ago; return how many went.

        Looks at up to `SWEEP_ROWS` rows and goes on from there at the next call, over all spaces and round again; see
        `round_ended`.
        Nothing younger than the window goes, whatever is asked: a late message could bring the deleted value back.
        """
        oldest_kept_ms = self._now_ms() - max(older_than_ms, WINDOW_MS)
        space, after = self._sweeps.get(vault, _ROUND_BEGIN)
        gone = 0
        for _ in range(SWEEP_ROWS // _SWEEP_SLICE):
            rows = self._replica.scan(vault, space, after, b"", _SWEEP_SLICE)
            dead = [
                (key, row.accepted)
                for key, row in rows
                if row.accepted.wall_ms < oldest_kept_ms and decode_entry(row.entry).value is None
            ]
            if dead:
                gone += await self._replica.forget(vault, space, dead)
            if rows:
                after = rows[-1][0]
            if len(rows) < _SWEEP_SLICE:
                space, after = Space((space + 1) % len(Space)), b""
            await trio.lowlevel.checkpoint()
            if (space, after) == _ROUND_BEGIN:
                break
        self._sweeps[vault] = (space, after)
        return gone

    def round_ended(self, vault: VaultId) -> bool:
        """Tell whether the last call of `forget_tombstones` came to the end of the vault's rows."""
        return self._sweeps.get(vault, _ROUND_BEGIN) == _ROUND_BEGIN


def _entry_of(answer: Answer) -> Entry | None:
    return None if answer.entry is None else decode_entry(answer.entry)


def _gave_up(key: bytes, deadline_s: float, sent: _Sent | None) -> UnavailableError:
    if sent is not None:
        return _unknown(key)
    return ContentionError(f"others kept changing {_shown(key)} for {deadline_s:g} s; nothing was written", "retry")


def _unknown(key: bytes) -> UnknownOutcomeError:
    return UnknownOutcomeError(f"the change of {_shown(key)} may or may not have taken effect", "read it to know")


def _wrong_clock(skewed: Skewed) -> UnavailableError:
    ahead = "ahead of" if skewed.skew_ms > 0 else "behind"
    node = short_id(encode_id(skewed.node))
    return UnavailableError(
        f"node {node}'s clock is {abs(skewed.skew_ms) / 1000:g} s {ahead} a replica's",
        "set the clocks of both machines",
    )


def _shown(key: bytes) -> str:
    return repr(key.decode("utf-8", "backslashreplace"))
