"""One replica's part in a round: the acceptor's decisions carried out on a durable index. Knows no other replica.

The order of effects that safety rests on: a horizon is durable before a promise above the old one is given; an entry is
durable before it is acknowledged; while an entry is being saved, no round of the same register is answered, because the
answer would not tell of an entry that is about to be there; what is forgotten is refused before its row goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import trio

from meshhold.index.contract import Counts, Index, Listed, Row
from meshhold.index.projection import listed_of
from meshhold.model.entry import Entry, Space, encode_entry
from meshhold.model.ids import VaultId
from meshhold.model.stamp import ZERO, Clock, Stamp, unpack_stamp
from meshhold.register.acceptor import Acceptor, NeedHorizon, Promised, Skewed, Stale, Taken
from meshhold.register.rounds import NOTHING, Answer

_HORIZON: Final = "acceptor horizon"


class Register(NamedTuple):
    """The name of one register."""

    vault: VaultId
    space: Space
    key: bytes


class Replica(Protocol):
    """One member that holds registers: this node, or another one behind a link."""

    async def read(self, name: Register) -> Answer:
        """Return what the replica has durably accepted."""

    async def prepare(self, name: Register, ballot: Stamp) -> Answer | Stale | Skewed:
        """Promise to take nothing below `ballot`, and return what was accepted so far; or refuse."""

    async def accept(self, name: Register, ballot: Stamp, entry: Entry) -> Stale | Skewed | None:
        """Take `entry` durably (None), or refuse. Repeating it is harmless.

        Errors: `StorageFullError`, `StorageFailedError`: the entry was not taken.
        """


class LocalReplica:
    """This node's replica.

    `node` is its stamp node; `clock`, shared with the proposers of this node, is moved past the horizon of the last
    run, below which nothing can be promised any more. `check_room` raises `StorageFullError` when the disk has room for
    tombstones only. Resources: borrows `index`; one `LocalReplica` per index.
    """

    def __init__(
        self,
        index: Index,
        clock: Clock,
        now_ms: Callable[[], int],
        *,
        node: bytes,
        check_room: Callable[[], None] | None = None,
    ) -> None:
        stored = index.setting(_HORIZON)
        horizon = ZERO if stored is None else unpack_stamp(stored)
        clock.observe(horizon)
        self._index = index
        self._now_ms = now_ms
        self._check_room = check_room
        self._acceptor = Acceptor(node, horizon)
        self._horizon_turn = trio.Lock()
        self._saving: dict[Register, trio.Event] = {}

    async def read(self, name: Register) -> Answer:
        """Return the durable entry; see `Replica.read`."""
        row = self._index.load(*name)
        return NOTHING if row is None else Answer(*row)

    async def prepare(self, name: Register, ballot: Stamp) -> Answer | Stale | Skewed:
        """Promise, and tell what was accepted; see `Replica.prepare`."""
        while True:
            answer = await self._durable(name)
            match self._acceptor.prepare(name, ballot, answer.accepted, self._now_ms()):
                case Promised():
                    return answer
                case NeedHorizon():
                    await self._extend(ballot)
                case refusal:
                    return refusal

    async def accept(self, name: Register, ballot: Stamp, entry: Entry) -> Stale | Skewed | None:
        """Take the entry durably; see `Replica.accept`. Once the saving began it is not cancelled halfway."""
        while True:
            if name not in self._saving and self._acceptor.holds(name, ballot):
                accepted = ZERO  # the quiet case: any lower ballot will do, and the row need not be read again
            else:
                accepted = (await self._durable(name)).accepted
            decision = self._acceptor.accept(name, ballot, accepted, self._now_ms())
            if isinstance(decision, NeedHorizon):
                await self._extend(ballot)
            elif isinstance(decision, Taken):
                return None
            elif isinstance(decision, (Stale, Skewed)):
                return decision
            else:
                break
        if self._check_room is not None and entry.value is not None:
            self._check_room()
        saved = self._saving[name] = trio.Event()
        try:
            with trio.CancelScope(shield=True):
                row = Row(ballot, encode_entry(entry))
                await self._index.save(*name, row, listed_of(name.key, entry) if name.space is Space.OBJECTS else None)
            self._acceptor.release(name, ballot)
        finally:
            del self._saving[name]
            saved.set()
        return None

    async def forget(self, vault: VaultId, space: Space, keys: list[tuple[bytes, Stamp]]) -> int:
        """Remove tombstones (key and accepted ballot) for good, unless they changed; return how many went."""
        if keys:
            self._acceptor.forget(max(accepted for _, accepted in keys))
        return await self._index.forget(vault, space, keys)

    async def drop_vault(self, vault: VaultId) -> None:
        """Remove every register of the vault."""
        await self._index.drop_vault(vault)

    def list_keys(self, vault: VaultId, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """Return a page of live objects; see `Index.list_keys`."""
        return self._index.list_keys(vault, after, prefix, limit)

    def first_key(self, vault: VaultId, at_least: bytes, prefix: bytes) -> bytes | None:
        """Return the first live key; see `Index.first_key`."""
        return self._index.first_key(vault, at_least, prefix)

    def scan(self, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int) -> list[tuple[bytes, Row]]:
        """Return a page of rows; see `Index.scan`."""
        return self._index.scan(vault, space, after, prefix, limit)

    def counts(self, vault: VaultId) -> Counts:
        """Return live objects and bytes."""
        return self._index.counts(vault)

    async def _durable(self, name: Register) -> Answer:
        """Return what is durably accepted, once nothing of this register is being saved."""
        while (saving := self._saving.get(name)) is not None:
            await saving.wait()
        row = self._index.load(*name)
        return NOTHING if row is None else Answer(*row)

    async def _extend(self, ballot: Stamp) -> None:
        """Make a horizon above `ballot` durable; one at a time, so that a lower one is never written last."""
        async with self._horizon_turn:
            until = self._acceptor.horizon_for(ballot)
            if until is not None:
                await self._index.save_setting(_HORIZON, until.pack())
                self._acceptor.extend(until)
