"""May this replica promise, or take, a ballot? Decides for all registers of one replica; knows no disk and no clock.

Rules (CASPaxos, one register per key; a ballot is a stamp, so ballots order across registers):

- promise `b` iff `b` is above every promise made and above the accepted ballot; take `b` iff no higher promise was made
  and `b` is above the accepted ballot;
- promises live in memory under a durable *horizon*: nothing above it is promised or taken, and after a restart all up
  to it counts as promised, so a forgotten promise is never broken and no promise costs an fsync;
- the table of promises is bounded: evicting one raises a *floor*, at or below which all counts as promised. That
  refuses too much, never too little;
- ballots of other nodes further than the window from this machine's clock are refused, so that one wrong clock cannot
  poison keys for years and no late message can revive what was removed. A node's own ballots are exempt: they come from
  the very clock they would be compared with, and when that clock is corrected backwards its earlier ballots lie in the
  future; refusing them would lock the owner out of its own data.

Ignored here: who proposes, what an entry means, when a row is durable. The caller passes the register's durable
accepted ballot, makes a horizon durable before it tells `extend`, and calls `release` once the row it took is durable.

Source: Rystsov, "CASPaxos: Replicated State Machines without logs" (2018); Lamport, "Paxos Made Simple" (2001).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, NamedTuple

from meshhold.model.stamp import COUNTER_BITS, ZERO, Stamp

WINDOW_MS: Final = 10 * 60 * 1000
"""Clocks of honest machines differ by less, and messages older than this are dead."""
HORIZON_STEP_MS: Final = 2_000
"""One fsync per step of activity. After a restart this node's stamps run ahead of its clock by at most one step, and a
process that ends again and again takes about as long to start: its stamps do not drift away from the others' clocks."""
PROMISES_MAX: Final = 16_384
"""Changes in flight at one replica; with keys of 1 KiB the table stays below 20 MiB."""
_LAST_COUNTER: Final = (1 << COUNTER_BITS) - 1
_WALL_MAX_MS: Final = (1 << 64 - COUNTER_BITS) - 1
_LAST_NODE: Final = b"\xff" * 8


class Promised(NamedTuple):
    """No lower ballot will be taken for this register."""


class Take(NamedTuple):
    """Make the entry durable under this ballot, then call `release` and answer."""


class Taken(NamedTuple):
    """This ballot's entry is durable already: a repeated message. Answer as before."""


class Stale(NamedTuple):
    """Refused: the proposer must use a ballot above `ballot`."""

    ballot: Stamp


class NeedHorizon(NamedTuple):
    """Make `until` the durable horizon, call `extend`, then ask again."""

    until: Stamp


class Skewed(NamedTuple):
    """Refused: the ballot of `node` is `skew_ms` ahead of this machine's clock (negative: behind)."""

    node: bytes
    skew_ms: int


PROMISED: Final = Promised()
TAKE: Final = Take()
TAKEN: Final = Taken()


class Acceptor:
    """The promises of one replica.

    `node` is its own stamp node; `horizon` the durable horizon found at start (`ZERO` on the first start).
    """

    def __init__(
        self, node: bytes, horizon: Stamp, promises_max: int = PROMISES_MAX, window_ms: int = WINDOW_MS
    ) -> None:
        self._node = node
        self._window_ms = window_ms
        self._horizon = horizon
        self._floor = horizon  # for registers without a standing promise
        self._barrier = ZERO  # for all
        self._promises: OrderedDict[Hashable, Stamp] = OrderedDict()
        self._promises_max = promises_max

    @property
    def horizon(self) -> Stamp:
        """The ballot above which nothing is promised or taken."""
        return self._horizon

    def prepare(
        self, name: Hashable, ballot: Stamp, accepted: Stamp, now_ms: int
    ) -> Promised | NeedHorizon | Stale | Skewed:
        """Promise to take nothing below `ballot` for register `name`, whose durable accepted ballot is `accepted`."""
        if refusal := self._outside_window(ballot, now_ms):
            return refusal
        highest = max(self._promises.get(name, self._floor), self._barrier, accepted)
        if ballot <= highest:
            return Stale(highest)
        if until := self.horizon_for(ballot):
            return NeedHorizon(until)
        self._promise(name, ballot)
        return PROMISED

    def accept(
        self, name: Hashable, ballot: Stamp, accepted: Stamp, now_ms: int
    ) -> Take | Taken | NeedHorizon | Stale | Skewed:
        """Decide whether the entry that comes with `ballot` is to be made durable."""
        if ballot == accepted:
            return TAKEN
        return self._outside_window(ballot, now_ms) or self.accept_copy(name, ballot, accepted)

    def accept_copy(self, name: Hashable, ballot: Stamp, accepted: Stamp) -> Take | NeedHorizon | Stale:
        """Decide about an entry that another replica accepted under `ballot`, however long ago.

        It is the proposer's own message come late. What was removed does not return: its ballot is below the floor.
        """
        promised = max(self._promises.get(name, self._floor), self._barrier)
        if ballot < promised or ballot <= accepted:
            return Stale(max(promised, accepted))
        if until := self.horizon_for(ballot):  # so that `forget` need not be remembered across a restart
            return NeedHorizon(until)
        self._promise(name, ballot)
        return TAKE

    @property
    def floor(self) -> Stamp:
        """At or below it all counts as promised, for a register without a standing promise."""
        return max(self._floor, self._barrier)

    def holds(self, name: Hashable, ballot: Stamp) -> bool:
        """Tell whether `ballot` is the standing promise for `name`: then the accepted ballot is known to be lower."""
        return self._promises.get(name) == ballot

    def release(self, name: Hashable, accepted: Stamp) -> None:
        """Forget a promise that the now durable accepted ballot implies."""
        promised = self._promises.get(name)
        if promised is not None and promised <= accepted:
            del self._promises[name]

    def horizon_for(self, ballot: Stamp) -> Stamp | None:
        """Return the horizon that must be durable before `ballot` is promised, or None if it is below today's."""
        if ballot <= self._horizon:
            return None
        wall_ms = min(ballot.wall_ms + HORIZON_STEP_MS, _WALL_MAX_MS)
        return Stamp(wall_ms << COUNTER_BITS | _LAST_COUNTER, _LAST_NODE)

    def extend(self, until: Stamp) -> None:
        """Allow ballots up to `until`, which the caller has made durable. A lower horizon than today's is ignored."""
        self._horizon = max(self._horizon, until)

    def raise_floor(self, ballot: Stamp) -> None:
        """Refuse ballots below `ballot` from now on: rows about to be removed, which refused them, need not be kept.

        For this to outlast a restart the durable horizon must be at or above it.
        """
        self._barrier = max(self._barrier, ballot)

    def _promise(self, name: Hashable, ballot: Stamp) -> None:
        self._promises[name] = ballot
        self._promises.move_to_end(name)
        if len(self._promises) > self._promises_max:
            _, evicted = self._promises.popitem(last=False)
            self._floor = max(self._floor, evicted)

    def _outside_window(self, ballot: Stamp, now_ms: int) -> Skewed | None:
        skew_ms = ballot.wall_ms - now_ms
        if ballot.node == self._node or -self._window_ms <= skew_ms <= self._window_ms:
            return None
        return Skewed(ballot.node, skew_ms)
