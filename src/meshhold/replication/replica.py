"""One replica's part in a round: the acceptor's decisions carried out on a durable index. Knows no other replica.

The order of effects that safety rests on: a horizon is durable before a promise above the old one is given; an entry is
durable before it is acknowledged; while an entry is being saved, no round of the same register is answered, because the
answer would not tell of an entry that is about to be there; what is forgotten is refused before its row goes; an entry
whose saving outlasted its epoch is not acknowledged, so that whoever reads this replica in the new epoch has seen all
that it acknowledged in the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from meshhold.index.contract import Change, Counts, Index, Name, Row
from meshhold.index.projection import change_of
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Entry, Space, decode_entry
from meshhold.model.ids import VaultId
from meshhold.model.stamp import ZERO, Clock, Stamp, unpack_stamp
from meshhold.register.acceptor import WINDOW_MS, Acceptor, NeedHorizon, Promised, Skewed, Stale, Take, Taken
from meshhold.register.rounds import NOTHING, Answer
from meshhold.replication.contract import Absent, Interval, Listing, Outdated, Refusal, Register, Scan, Unaware
from meshhold.replication.intervals import digest_of, interval_of, read_names
from meshhold.replication.seats import Seats

_HORIZON: Final = "acceptor horizon"
SCAN_SIZE_MAX: Final = 128 * 1024
"""Bytes of entries in one page of rows: half of what a message between nodes may hold."""


class LocalReplica:
    """This node's replica of every index that it keeps; see `contract.Replica`.

    `node` is its stamp node; `clock`, shared with the proposers of this node, is moved past the horizon of the last
    run, below which nothing can be promised any more. `check_room` raises `StorageFullError` when the disk has room for
    tombstones only. Resources: borrows `index`; one `LocalReplica` per index.
    """

    def __init__(
        self,
        index: Index,
        seats: Seats,
        clock: Clock,
        now_ms: Callable[[], int],
        *,
        node: bytes,
        check_room: Callable[[], None] | None = None,
        window_ms: int = WINDOW_MS,
    ) -> None:
        stored = index.setting(_HORIZON)
        horizon = ZERO if stored is None else unpack_stamp(stored)
        clock.observe(horizon)
        self._index = index
        self._seats = seats
        self._now_ms = now_ms
        self._check_room = check_room
        self._acceptor = Acceptor(node, horizon, window_ms=window_ms)
        self._horizon_turn = trio.Lock()
        self._saving: dict[Register, trio.Event] = {}

    # -- rounds -----------------------------------------------------------------------------------------------------

    async def read(self, epoch: int, name: Register, known: Stamp = ZERO) -> Answer | Refusal:
        """Return the durable entry; see `Replica.read`."""
        return self._stance(name.vault, epoch) or _without_known(self._durable(name), known)

    async def prepare(self, epoch: int, name: Register, ballot: Stamp, known: Stamp = ZERO) -> Answer | Refusal:
        """Promise, and tell what was accepted; see `Replica.prepare`."""
        while True:
            await self._saved(name)
            refusal = self._stance(name.vault, epoch)
            if refusal is not None:
                return refusal
            answer = self._durable(name)
            match self._acceptor.prepare(name, ballot, answer.accepted, self._now_ms()):
                case Promised():
                    return _without_known(answer, known)
                case NeedHorizon():
                    await self._extend(ballot)
                case refused:
                    return refused

    async def accept(self, epoch: int, name: Register, ballot: Stamp, entry: Entry) -> Refusal | None:
        """Take the entry durably; see `Replica.accept`. Once the saving began it is not cancelled halfway."""
        while True:
            refusal = self._stance(name.vault, epoch)
            if refusal is not None:
                return refusal
            if name not in self._saving and self._acceptor.holds(name, ballot):
                accepted = ZERO  # the quiet case: any lower ballot will do, and the row need not be read again
            elif name in self._saving:
                await self._saved(name)
                continue
            else:
                accepted = self._durable(name).accepted
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
        with self._holding([name]):
            change = change_of(name.space, name.key, ballot, entry)
            with trio.CancelScope(shield=True):
                await self._save(name.vault, change)
            self._acceptor.release(name, ballot)
        return self._stance(name.vault, epoch)

    async def adopt(self, vault: VaultId, configuration: Configuration) -> None:
        """Go by a chosen configuration; see `Replica.adopt`."""
        await self._seats.adopt(vault, configuration)

    def _stance(self, vault: VaultId, epoch: int) -> Outdated | Unaware | Absent | None:
        return self._seats.stance(vault, epoch)

    # -- pages ------------------------------------------------------------------------------------------------------

    async def list_page(self, epoch: int, vault: VaultId, after: bytes, prefix: bytes, limit: int) -> Listing | Refusal:
        """Return a page of live objects; see `Replica.list_page`."""
        refusal = self._stance(vault, epoch)
        if refusal is not None:
            return refusal
        rows = self._index.list_keys(vault, after, prefix, limit)
        interval = interval_of(Space.OBJECTS, after, prefix, rows[-1].key if rows and len(rows) == limit else None)
        return Listing(rows, read_names(self._index, vault, interval))

    async def scan_page(
        self, epoch: int, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int
    ) -> Scan | Refusal:
        """Return a page of rows; see `Replica.scan_page`."""
        refusal = self._stance(vault, epoch)
        if refusal is not None:
            return refusal
        rows = self._index.scan(vault, space, after, prefix, limit)
        size = 0
        for at, (key, row) in enumerate(rows):
            size += len(key) + len(row.entry)
            if size > SCAN_SIZE_MAX and at:
                rows = rows[:at]
                break
        return Scan(rows)

    async def digests(self, epoch: int, vault: VaultId, intervals: Sequence[Interval]) -> list[bytes] | Refusal:
        """Return one digest per interval; see `Replica.digests`."""
        found: list[bytes] = []
        for interval in intervals:
            found.append(digest_of(read_names(self._index, vault, interval)))
            if len(intervals) > 1:
                await trio.lowlevel.checkpoint()
        return self._stance(vault, epoch) or found

    async def names(self, epoch: int, vault: VaultId, interval: Interval, limit: int) -> list[Name] | Refusal:
        """Return names of an interval; see `Replica.names`."""
        refusal = self._stance(vault, epoch)
        return refusal or self._index.interval(vault, interval.space, interval.after, interval.upto, limit)

    async def counts(self, vault: VaultId) -> Counts:
        """Return live objects and bytes."""
        return self._index.counts(vault)

    async def drop_vault(self, vault: VaultId) -> None:
        """Remove every register of the vault, which was deleted."""
        await self._index.drop_vault(vault)
        await self._seats.leave(vault)

    # -- healing ----------------------------------------------------------------------------------------------------

    @property
    def index(self) -> Index:
        """The rows themselves, for readers that heal; they change only through this replica."""
        return self._index

    def rows(self, vault: VaultId, names: Sequence[Name]) -> list[Row | None]:
        """Return the rows that still hold exactly the ballot of their name."""
        found = (self._index.load(vault, name.space, name.key) for name in names)
        return [
            row if row is not None and row.accepted == name.accepted else None
            for name, row in zip(names, found, strict=True)
        ]

    def holds(self, vault: VaultId, names: Sequence[Name]) -> list[bool]:
        """Tell of each name whether this replica has that very ballot, or has forgotten it for good."""
        return [self._holds(vault, name) for name in names]

    def _holds(self, vault: VaultId, name: Name) -> bool:
        row = self._index.load(vault, name.space, name.key)
        return name.accepted <= self._acceptor.floor if row is None else row.accepted == name.accepted

    async def take_copies(self, vault: VaultId, copies: Sequence[tuple[Name, Row, bool]]) -> list[bool]:
        """Take entries that other replicas accepted, durably in one commit; tell of each whether it is held now.

        The third of a copy says that it is known to be chosen: then a promise does not keep it out. Whoever got that
        promise has asked a majority, and one of those told of this entry or of a later one; so it changes nothing that
        this replica knows of it too.
        """
        if not copies:
            return []
        registers = [Register(vault, name.space, name.key) for name, _, _ in copies]
        await self._extend(max(row.accepted for _, row, _ in copies))
        while (busy := next((self._saving[each] for each in registers if each in self._saving), None)) is not None:
            await busy.wait()
        taken: list[bool] = []  # decided at one moment, and held from it on
        changes: dict[Register, Change] = {}
        for register, (name, row, chosen) in zip(registers, copies, strict=True):
            accepted = self._durable(register).accepted
            taken.append(row.accepted == accepted or self._admits(register, row.accepted, accepted, chosen=chosen))
            if taken[-1] and row.accepted != accepted:
                changes[register] = change_of(name.space, name.key, row.accepted, decode_entry(row.entry))
        if changes:
            with self._holding(list(changes)):
                with trio.CancelScope(shield=True):
                    await self._index.save_many(vault, list(changes.values()))
                for register, change in changes.items():
                    self._acceptor.release(register, change.row.accepted)
        return taken

    def _admits(self, name: Register, ballot: Stamp, accepted: Stamp, *, chosen: bool) -> bool:
        if chosen:
            return ballot > accepted
        return isinstance(self._acceptor.accept_copy(name, ballot, accepted), Take)

    async def raise_floor(self, until: Stamp) -> None:
        """Promise and take nothing below `until` any more, durably; when it returns, what was taken is to be seen."""
        await self._extend(until)
        self._acceptor.raise_floor(until)
        for saving in list(self._saving.values()):
            await saving.wait()

    async def forget(self, vault: VaultId, space: Space, keys: list[tuple[bytes, Stamp]]) -> int:
        """Remove tombstones (key and accepted ballot) for good, unless they changed; return how many went."""
        if keys:
            self._acceptor.raise_floor(max(accepted for _, accepted in keys))
        return await self._index.forget(vault, space, keys)

    # -- parts ------------------------------------------------------------------------------------------------------

    def _durable(self, name: Register) -> Answer:
        row = self._index.load(*name)
        return NOTHING if row is None else Answer(*row)

    async def _saved(self, name: Register) -> None:
        """Wait until nothing of this register is being saved."""
        while (saving := self._saving.get(name)) is not None:
            await saving.wait()

    @contextmanager
    def _holding(self, names: Sequence[Register]) -> Iterator[None]:
        """Keep rounds of these registers waiting while their entries are being saved."""
        saved = trio.Event()
        self._saving.update(dict.fromkeys(names, saved))
        try:
            yield
        finally:
            for name in names:
                del self._saving[name]
            saved.set()

    async def _save(self, vault: VaultId, change: Change) -> None:
        await self._index.save(vault, change.space, change.key, change.row, change.listed, tombstone=change.tombstone)

    async def _extend(self, ballot: Stamp) -> None:
        """Make a horizon above `ballot` durable; one at a time, so that a lower one is never written last."""
        async with self._horizon_turn:
            until = self._acceptor.horizon_for(ballot)
            if until is not None:
                await self._index.save_setting(_HORIZON, until.pack())
                self._acceptor.extend(until)


def _without_known(answer: Answer, known: Stamp) -> Answer:
    return Answer(answer.accepted, None) if answer.accepted == known else answer
