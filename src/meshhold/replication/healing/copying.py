"""Who may put entries here, or take them away, outside of rounds? This node's healing; knows no other node.

Copies and the removal of tombstones take turns. What a removal rests on is that no replica can get an older entry of
its register any more. Messages of rounds are kept out by the floor; a copy that was read from another replica before
the removal looked around is kept out here: whoever looks (`confirm`) makes all copies void that were begun before. A
removal looks twice. After everybody was looked at once, an older entry can only be where a copy brought it meanwhile,
and such a copy was begun before the second look, which finds it or voids it; one begun later has a source that the
first look found without such an entry, or that got it by a copy, and so on back to one that the second look met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final

import trio

from meshhold.errors import InvalidError, ReplicaRefusedError
from meshhold.index.contract import Name, Row
from meshhold.model.ids import VaultId, short_id
from meshhold.model.stamp import ZERO, Stamp, unpack_stamp
from meshhold.register.acceptor import HORIZON_STEP_MS, WINDOW_MS
from meshhold.replication.index.contract import Absent, Outdated, Unaware
from meshhold.replication.index.replica import LocalReplica
from meshhold.replication.index.seats import Seats

_HORIZON: Final = "acceptor horizon"
Copy = tuple[Name, Row, bool]
"""A register and its ballot, what another replica holds under it, and whether it is known to be chosen."""


class Copying:
    """Takes and removes entries of this node's replica. Resources: borrows its collaborators."""

    def __init__(
        self, replica: LocalReplica, seats: Seats, now_ms: Callable[[], int], *, window_ms: int = WINDOW_MS
    ) -> None:
        self.replica = replica
        self.window_ms = window_ms
        self._seats = seats
        self._now_ms = now_ms
        self._turns: dict[VaultId, trio.Lock] = {}
        self._looks: dict[VaultId, int] = {}

    # -- copies -------------------------------------------------------------------------------------------------------

    def begin(self, vault: VaultId) -> int:
        """Return what `take` wants to know: the moment before other replicas are asked what they hold."""
        return self._looks.get(vault, 0)

    async def take(self, vault: VaultId, epoch: int, begun: int, copies: Sequence[Copy]) -> list[bool] | None:
        """Take copies, as `LocalReplica.take_copies`; None if they are void: a removal looked since `begun`.

        Errors: `ReplicaRefusedError` if the epoch in which they were judged is over.
        """
        async with self._turn(vault):
            self._check_epoch(vault, epoch)
            if begun != self.begin(vault):
                return None
            return await self.replica.take_copies(vault, copies, epoch)

    # -- floors -------------------------------------------------------------------------------------------------------

    @property
    def horizon(self) -> Stamp:
        """A ballot at or above every one that this replica has ever promised or taken."""
        raw = self.replica.index.setting(_HORIZON)
        return ZERO if raw is None else unpack_stamp(raw)

    async def raise_floor(self, until: Stamp) -> None:
        """Promise and take nothing below `until` from now on, durably.

        Errors: `InvalidError` for a stamp from the far future, which would keep everybody out for so long.
        """
        self.check_ahead(until)
        await self.replica.raise_floor(until)

    def check_ahead(self, stamp: Stamp) -> None:
        """Errors: `InvalidError` for a stamp that no right clock can have led to."""
        ahead_ms = stamp.wall_ms - self._now_ms()
        if ahead_ms > self.window_ms + HORIZON_STEP_MS:
            raise InvalidError(
                f"a ballot is {ahead_ms / 1000:g} s ahead of this machine's clock", "set the clocks of all machines"
            )

    # -- removal of tombstones ----------------------------------------------------------------------------------------

    async def fence(self, vault: VaultId, epoch: int, names: Sequence[Name]) -> None:
        """Take nothing older than these tombstones from now on, durably. Errors: `InvalidError` if one is young."""
        self._check_epoch(vault, epoch)
        highest = max(name.accepted for name in names)
        if highest.wall_ms >= self._now_ms() - self.window_ms:
            raise InvalidError("a tombstone to be removed is young by this machine's clock", "compare the clocks")
        await self.replica.raise_floor(Stamp(highest.time + 1, highest.node))

    async def confirm(self, vault: VaultId, epoch: int, names: Sequence[Name]) -> list[bool]:
        """Tell of each tombstone whether it is here, or gone for good; makes void all copies begun before."""
        async with self._turn(vault):
            self._check_epoch(vault, epoch)
            self._looks[vault] = self.begin(vault) + 1
            return self.replica.holds(vault, names)

    async def forget(self, vault: VaultId, epoch: int, names: Sequence[Name]) -> int:
        """Remove tombstones that every replica confirmed twice; return how many were still here."""
        gone = 0
        async with self._turn(vault):
            self._check_epoch(vault, epoch)
            for space, group in groupby(sorted(names), attrgetter("space")):
                gone += await self.replica.forget(vault, space, [(name.key, name.accepted) for name in group])
        return gone

    # -- parts --------------------------------------------------------------------------------------------------------

    def _turn(self, vault: VaultId) -> trio.Lock:
        return self._turns.setdefault(vault, trio.Lock())

    def _check_epoch(self, vault: VaultId, epoch: int) -> None:
        known = self._seats.adopted(vault)
        if known is None or known.epoch != epoch:
            raise ReplicaRefusedError(f"the replicas of vault {short_id(vault)} are being changed", "it is tried again")


def reason_of(refusal: Outdated | Unaware | Absent) -> str:
    """Return why a replica stays out, for people."""
    match refusal:
        case Absent(reason):
            return reason
        case Outdated(configuration):
            return f"it is in epoch {configuration.epoch} already"
        case Unaware(epoch):
            return f"it is in epoch {epoch} still"
