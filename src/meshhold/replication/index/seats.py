"""Which configuration of each vault does this node go by, and does its replica vote? Knows no entry and no peer.

What is adopted here was chosen by the replicas before (see `reconfiguration`). A replica votes when it is known to hold
what it must: from the vault's beginning, or from the epoch on in which it got everything. A node that has a seat and no
state was wiped, or is new; one whose seat is younger than its state missed its own removal. Both hold nothing that
counts: rows of an earlier life are dropped before anything else happens, and the replica stays silent until `enrol`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import msgpack
import trio

from meshhold.errors import NoMajorityError
from meshhold.model.configuration import Configuration, Seat, found_configuration, unpack_configuration
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.replication.index.contract import Absent, Outdated, Unaware

_PREFIX: Final = "seat/"
_NO_MARK: Final = 0
_EARLIER: Final = "index before seats"
"""A setting that the index's migration leaves where it found rows of a program that knew no seats."""
Follower = Callable[[VaultId, Configuration], None]


class SeatIndex(Protocol):
    """What seats need of the index: small durable values, and to drop a vault's rows."""

    def setting(self, name: str) -> bytes | None:
        """Return a small durable value."""

    async def save_setting(self, name: str, value: bytes) -> None:
        """Make a small value durable."""

    async def drop_vault(self, vault: VaultId) -> None:
        """Remove every row of the vault, durably."""


@dataclass(frozen=True, slots=True)
class _State:
    """What is durable: the configuration adopted last, and the `since` of the seat whose contents are complete."""

    configuration: Configuration | None = None
    mark: int = _NO_MARK


class Seats:
    """The seats of this node. `founding` returns what the registry tells of a vault that nothing is adopted of.

    Resources: borrows `index`.
    """

    def __init__(
        self, node: NodeId, index: SeatIndex, founding: Callable[[VaultId], Configuration | None] = lambda _: None
    ) -> None:
        self.node = node
        self._index = index
        self._founding = founding
        self._states: dict[VaultId, _State] = {}
        self._turn = trio.Lock()
        self._followers: list[Follower] = []
        self._attended: dict[VaultId, int] = {}

    def follow(self, follower: Follower) -> None:
        """Tell `follower` whenever a configuration is adopted."""
        self._followers.append(follower)

    def configuration(self, vault: VaultId) -> Configuration:
        """Return the newest configuration known. Errors: `NoMajorityError` if none is."""
        state = self._state(vault)
        if state.configuration is not None:
            return state.configuration
        told = self._founding(vault)
        if told is None:
            raise NoMajorityError(
                f"this node does not know yet who keeps the index of vault {short_id(vault)}", "retry in a moment"
            )
        return told

    def adopted(self, vault: VaultId) -> Configuration | None:
        """Return what this node itself adopted last, or None."""
        return self._state(vault).configuration

    def votes(self, vault: VaultId) -> bool:
        """Tell whether this node's replica takes part in rounds of its own epoch."""
        state = self._state(vault)
        seat = None if state.configuration is None else state.configuration.seat_of(self.node)
        return state.configuration is not None and seat is not None and self._is_live(vault, state, seat)

    def stance(self, vault: VaultId, epoch: int) -> Outdated | Unaware | Absent | None:
        """Return the refusal that a question of `epoch` gets, or None if this replica answers it."""
        state = self._state(vault)
        configuration = state.configuration
        if configuration is None:
            return Unaware(0)
        if configuration.epoch != epoch:
            return Outdated(configuration) if configuration.epoch > epoch else Unaware(configuration.epoch)
        seat = configuration.seat_of(self.node)
        if seat is None:
            return Absent("it does not keep this index")
        if not self._is_live(vault, state, seat):
            return Absent("it is being refilled")
        return None

    async def found(self, vault: VaultId) -> None:
        """Begin a new vault's index, kept by this node alone, durably."""
        async with self._turn:
            await self._save(vault, _State(found_configuration([self.node]), 1))

    async def found_earlier(self, vaults: Iterable[VaultId]) -> None:
        """Take the seats of an index that this node alone kept before there were any: nothing of it was ever lost."""
        if self._index.setting(_EARLIER) != b"1":
            return
        for vault in vaults:
            if self.adopted(vault) is None:
                await self.found(vault)
        await self._index.save_setting(_EARLIER, b"0")

    async def adopt(self, vault: VaultId, configuration: Configuration) -> None:
        """Go by a chosen configuration from now on, durably; one that is not newer changes nothing."""
        async with self._turn:
            state = self._state(vault)
            known = state.configuration
            if known is not None and known.epoch >= configuration.epoch:
                return
            seat = configuration.seat_of(self.node)
            had = None if known is None else known.seat_of(self.node)
            if seat is None:
                await self._save(vault, _State(configuration))
                if had is not None:
                    await self._index.drop_vault(vault)
            elif had is not None and had.since == seat.since:
                await self._save(vault, _State(configuration, state.mark))
            else:
                await self._save(vault, _State(known))  # silent before its rows go, whatever happens in between
                await self._index.drop_vault(vault)
                await self._save(vault, _State(configuration))
        for follower in self._followers:
            follower(vault, configuration)

    async def enrol(self, vault: VaultId, since: int) -> None:
        """Let the replica vote, durably: it holds all that the seat it has `since` that epoch must hold."""
        async with self._turn:
            state = self._state(vault)
            seat = None if state.configuration is None else state.configuration.seat_of(self.node)
            if seat is not None and seat.since == since:
                await self._save(vault, _State(state.configuration, since))

    def attend(self, vault: VaultId, epoch: int) -> None:
        """Let a newcomer vote in a joint epoch: a majority of the old set knows of no later one (see `enrolment`).

        Not durable: a node that restarts asks again.
        """
        self._attended[vault] = epoch

    def is_newcomer(self, vault: VaultId) -> bool:
        """Tell whether this node's seat begins with the joint epoch that it is in."""
        configuration = self._state(vault).configuration
        seat = None if configuration is None else configuration.seat_of(self.node)
        return configuration is not None and seat is not None and _begins(configuration, seat)

    def _is_live(self, vault: VaultId, state: _State, seat: Seat) -> bool:
        """Tell whether the seat votes. A newcomer of a joint epoch may: every round has a majority of the old set.

        But one that was wiped may have voted in the next epoch before; so it must have attended to that majority.
        """
        configuration = state.configuration
        if state.mark == seat.since:
            return True
        attends = configuration is not None and self._attended.get(vault) == configuration.epoch
        return configuration is not None and attends and _begins(configuration, seat)

    async def leave(self, vault: VaultId) -> None:
        """Forget a vault that was deleted."""
        async with self._turn:
            if self._state(vault).configuration is not None:
                await self._save(vault, _State())

    def _state(self, vault: VaultId) -> _State:
        state = self._states.get(vault)
        if state is None:
            raw = self._index.setting(_PREFIX + vault)
            state = self._states[vault] = _State() if raw is None else _decode(raw)
        return state

    async def _save(self, vault: VaultId, state: _State) -> None:
        packed = None if state.configuration is None else state.configuration.pack()
        await self._index.save_setting(_PREFIX + vault, msgpack.packb([packed, state.mark]))
        self._states[vault] = state


def _begins(configuration: Configuration, seat: Seat) -> bool:
    return configuration.is_joint and seat.since == configuration.epoch


def _decode(raw: bytes) -> _State:
    packed, mark = msgpack.unpackb(raw)
    return _State(None if packed is None else unpack_configuration(packed), mark)
