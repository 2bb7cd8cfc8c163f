"""One replica's part in a round: the acceptor's decisions carried out on a durable index. Knows no other replica.

The order of effects that safety rests on: a horizon is durable before a promise above the old one is given; an entry is
durable before it is acknowledged; while an entry is being saved, no round of the same register is answered, because the
answer would not tell of an entry that is about to be there; what is forgotten is refused before its row goes; an entry
whose saving outlasted its epoch is not acknowledged, so that whoever reads this replica in the new epoch has seen all
that it acknowledged in the old one.

Where each side goes on alone (`merging.goes_alone`) promises do not count: entries are merged, and what loses without
having been seen is kept aside in the commit that replaces it. So are rows of such a time that a round replaces later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import trio

from meshhold.errors import ProtocolError
from meshhold.index.contract import SAVE_MANY_MAX, Change, Counts, Index, Name, Row
from meshhold.index.projection import change_of
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Entry, Space, decode_entry, encode_entry
from meshhold.model.ids import VaultId, encode_id, short_id
from meshhold.model.stamp import ZERO, Clock, Stamp, unpack_stamp
from meshhold.register.acceptor import WINDOW_MS, Acceptor, NeedHorizon, Promised, Skewed, Stale, Take, Taken
from meshhold.register.rounds import NOTHING, Answer
from meshhold.replication.index.contract import Absent, Interval, Listing, Outdated, Refusal, Register, Scan, Unaware
from meshhold.replication.index.eras import Eras
from meshhold.replication.index.intervals import digest_of, fitting_keys, read_ballots
from meshhold.replication.index.merging import CONFLICT_GRACE_MS, conflict_key, goes_alone, lost_to, merge
from meshhold.replication.index.seats import Seats

_HORIZON: Final = "acceptor horizon"
LIST_SIZE_MAX: Final = 96 * 1024
"""Bytes of the keys that one page of live objects names, so of those it shows too: both fit into a message."""
NAMES_MAX: Final = 2_000
"""Names in one page: tombstones between live objects are among them."""
SCAN_SIZE_MAX: Final = 128 * 1024
"""Bytes of entries in one page of rows: half of what a message between nodes may hold."""
COPIES_MAX: Final = SAVE_MANY_MAX // 2
"""Copies of one commit: each may bring a row that is kept aside."""
_LOG: Final = logging.getLogger("meshhold.index")
Follow = Callable[[Entry | None, Stamp], Entry | None]
"""Returns the entry that follows the present one under a ballot; None to leave it."""


class Wrote(NamedTuple):
    """What one replica made durable by itself under `ballot`. `holds`: the epoch is still the one it was asked in."""

    before: Entry | None
    after: Entry | None
    ballot: Stamp
    holds: bool


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
        self._clock = clock
        self._node = node
        self._window_ms = window_ms
        self._now_ms = now_ms
        self._check_room = check_room
        self._eras = Eras(index)
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
            await self._mind_era(name.vault)
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
                asides = self._asides(name, entry, ballot)
                busy = self._busy(asides)
                if busy is None:
                    break
                await busy.wait()
        if self._check_room is not None and entry.value is not None:
            self._check_room()
        with self._holding([name, *asides]):
            await self._save(name.vault, [change_of(name.space, name.key, ballot, entry), *asides.values()])
            self._acceptor.release(name, ballot)
        return self._stance(name.vault, epoch)

    async def adopt(self, vault: VaultId, configuration: Configuration) -> None:
        """Go by a chosen configuration; see `Replica.adopt`."""
        await self._seats.adopt(vault, configuration)

    def _stance(self, vault: VaultId, epoch: int) -> Outdated | Unaware | Absent | None:
        return self._seats.stance(vault, epoch)

    # -- without a quorum -------------------------------------------------------------------------------------------

    async def write_alone(self, epoch: int, name: Register, follow: Follow) -> Wrote | Refusal:
        """Let the entry that `follow` returns follow the present one, durably, by this replica's word alone.

        What `follow` raises propagates: nothing was written. Errors: `StorageFullError`, `StorageFailedError`.
        """
        while True:
            await self._mind_era(name.vault)
            refusal = self._stance(name.vault, epoch)
            if refusal is not None:
                return refusal
            if name in self._saving:
                await self._saved(name)
                continue
            answer = self._durable(name)
            self._clock.observe(max(answer.accepted, self._acceptor.floor))
            ballot = self._clock.tick(self._now_ms())
            if self._acceptor.horizon_for(ballot) is None:
                break
            await self._extend(ballot)
        before = None if answer.entry is None else decode_entry(answer.entry)
        after = follow(before, ballot)
        if after is None:
            return Wrote(before, before, answer.accepted, holds=True)
        if self._check_room is not None and after.value is not None:
            self._check_room()
        with self._holding([name]):
            await self._save(name.vault, [change_of(name.space, name.key, ballot, after)])
        return Wrote(before, after, ballot, self._stance(name.vault, epoch) is None)

    async def merge(self, epoch: int, name: Register, ballot: Stamp, entry: Entry) -> Answer | Refusal:
        """Merge what another node wrote just now; see `Replica.merge`."""
        refusal = self._stance(name.vault, epoch)
        if refusal is not None:
            return refusal
        if not self._merges(name.vault, name.space):
            raise ProtocolError(f"vault {short_id(name.vault)} is changed by rounds, not by merging")
        skew_ms = ballot.wall_ms - self._now_ms()
        if ballot.node != self._node and not -self._window_ms <= skew_ms <= self._window_ms:
            return Skewed(ballot.node, skew_ms)
        if self._index.load(*name) is None and ballot <= self._acceptor.floor:
            return Stale(self._acceptor.floor)  # it may have been deleted, and the deletion forgotten
        if self._check_room is not None and entry.value is not None:
            self._check_room()
        row = Row(ballot, encode_entry(entry))
        await self.take_copies(name.vault, [(Name(name.space, name.key, ballot), row, True)])
        return self._stance(name.vault, epoch) or _without_known(self._durable(name), ballot)

    def _merges(self, vault: VaultId, space: Space) -> bool:
        """Tell whether this node's replica takes changes of the space by merging, in the epoch that it goes by."""
        configuration = self._seats.adopted(vault)
        return configuration is not None and goes_alone(configuration, space)

    async def _mind_era(self, vault: VaultId) -> None:
        """See to it that the vault's era is open exactly while objects are merged."""
        while self._eras.is_open(vault) != self._merges(vault, Space.OBJECTS):
            if self._eras.is_open(vault):
                await self._eras.close(vault, self._acceptor.horizon)
            else:
                await self._eras.begin(vault)

    # -- pages ------------------------------------------------------------------------------------------------------

    async def list_page(self, epoch: int, vault: VaultId, after: bytes, prefix: bytes, limit: int) -> Listing | Refusal:
        """Return a page of live objects; see `Replica.list_page`."""
        refusal = self._stance(vault, epoch)
        if refusal is not None:
            return refusal
        rows, names, is_whole = self._index.look(vault, after, prefix, limit, NAMES_MAX)
        fitting = fitting_keys([key for key, _ in names], LIST_SIZE_MAX)
        if fitting < len(names):
            names = names[:fitting]
            rows = [row for row in rows if row.key <= names[-1][0]]
            is_whole = False
        if is_whole:
            return Listing(rows, names, None)
        return Listing(rows, names, names[-1][0] if names else after)

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
            found.append(digest_of(read_ballots(self._index, vault, interval)))
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

    async def take_copies(
        self, vault: VaultId, copies: Sequence[tuple[Name, Row, bool]], epoch: int | None = None
    ) -> list[bool]:
        """Take entries that other replicas accepted, durably in one commit; tell of each whether it is held now.

        The third of a copy says that it is known to be chosen: then a promise does not keep it out. Whoever got that
        promise has asked a majority, and one of those told of this entry or of a later one; so it changes nothing that
        this replica knows of it too. That was found out in `epoch`, and proves nothing in a later one; None: in any.
        """
        if not copies:
            return []
        if len(copies) > COPIES_MAX:
            first = await self.take_copies(vault, copies[:COPIES_MAX], epoch)
            return first + await self.take_copies(vault, copies[COPIES_MAX:], epoch)
        registers = [Register(vault, name.space, name.key) for name, _, _ in copies]
        found = self._clock.tick(self._now_ms())
        ahead = {row.accepted for name, row, _ in copies if self._is_ahead(vault, name, row)}
        if ahead:
            node = short_id(encode_id(max(ahead).node))
            _LOG.warning("%d entries wait: the clock of node %s is ahead", len(ahead), node)
        await self._extend(max([found, *(row.accepted for _, row, _ in copies if row.accepted not in ahead)]))
        while True:
            await self._mind_era(vault)
            adopted = self._seats.adopted(vault)
            if epoch is not None and (adopted is None or adopted.epoch != epoch):
                copies = [(name, row, False) for name, row, _ in copies]
            taken, changes = self._plan(vault, copies, found)  # decided at one moment, and held from it on
            busy = self._busy([*registers, *changes])
            if busy is None:
                break
            await busy.wait()
        if changes:
            with self._holding(list(changes)):
                await self._save(vault, list(changes.values()))
                for register, change in changes.items():
                    self._acceptor.release(register, change.row.accepted)
        return taken

    def _plan(
        self, vault: VaultId, copies: Sequence[tuple[Name, Row, bool]], found: Stamp
    ) -> tuple[list[bool], dict[Register, Change]]:
        """Tell of each copy whether this replica is to hold it, and which rows change for that.

        What is kept aside is kept under the ballot `found`, and counts as held; so does what was kept long enough.
        """
        taken: list[bool] = []
        changes: dict[Register, Change] = {}
        for name, row, chosen in copies:
            register = Register(vault, name.space, name.key)
            mine = changes[register].row if register in changes else self._index.load(*register)
            accepted = ZERO if mine is None else mine.accepted
            alone = self._merges(vault, name.space)
            held = not self._is_ahead(vault, name, row) and (
                alone or self._admits(register, row.accepted, accepted, chosen=chosen)
            )
            taken.append(held or row.accepted == accepted)
            if not held or row.accepted == accepted:
                continue
            entry = decode_entry(row.entry)
            if not alone:
                changes.update(self._asides(register, entry, found))
            elif name.space is Space.CONFLICTS:
                if row.accepted < accepted or (entry.value is not None and self._is_past_grace(row.accepted)):
                    continue
            else:
                current, lost = merge(mine, row)
                if lost is not None and name.space is Space.OBJECTS:
                    changes.update(self._kept_aside(register, lost, found, changes))
                if current is mine:
                    continue
            changes[register] = change_of(name.space, name.key, row.accepted, entry)
        return taken, changes

    def _asides(self, name: Register, entry: Entry, found: Stamp) -> dict[Register, Change]:
        """Return what is to be kept aside when a round's entry replaces a row of the time of going alone."""
        end = ZERO if name.space is not Space.OBJECTS else self._eras.end(name.vault)
        mine = None if end == ZERO else self._index.load(*name)
        if mine is None or mine.accepted > end:
            return {}
        lost = lost_to(entry, decode_entry(mine.entry))
        return {} if lost is None else self._kept_aside(name, lost, found, {})

    def _kept_aside(
        self, name: Register, lost: Entry, found: Stamp, changes: dict[Register, Change]
    ) -> dict[Register, Change]:
        """Return the row that keeps what lost, unless there is one, or was and somebody took it away."""
        register = Register(name.vault, Space.CONFLICTS, conflict_key(name.key, lost.op))
        if register in changes or self._index.load(*register) is not None:
            return {}
        return {register: change_of(Space.CONFLICTS, register.key, found, lost)}

    def _is_past_grace(self, found: Stamp) -> bool:
        """Tell whether what was found to have lost at `found` has been kept long enough."""
        return found.wall_ms < self._now_ms() - CONFLICT_GRACE_MS

    def _is_ahead(self, vault: VaultId, name: Name, row: Row) -> bool:
        """Tell whether a row to be merged would win for long, because its node's clock is wrong."""
        ballot = row.accepted
        is_far = ballot.node != self._node and ballot.wall_ms > self._now_ms() + self._window_ms
        return is_far and self._merges(vault, name.space)

    async def expire_conflicts(self, vault: VaultId, after: bytes, limit: int) -> tuple[int, bytes | None]:
        """Remove what was kept aside long enough, of the first `limit` rows after a key; return how many went.

        With it comes where to go on, None at the end. Every node does this by itself.
        """
        rows = self._index.scan(vault, Space.CONFLICTS, after, b"", limit)
        old = [
            (key, row.accepted)
            for key, row in rows
            if self._is_past_grace(row.accepted) and decode_entry(row.entry).value is not None
        ]
        gone = await self.forget(vault, Space.CONFLICTS, old)
        return gone, rows[-1][0] if len(rows) == limit else None

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

    def _busy(self, names: Iterable[Register]) -> trio.Event | None:
        """Return the end of a saving that concerns one of these registers, if there is any."""
        return next((self._saving[name] for name in names if name in self._saving), None)

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

    async def _save(self, vault: VaultId, changes: Sequence[Change]) -> None:
        """Make rows durable in one commit. Once it began it is not cancelled halfway."""
        with trio.CancelScope(shield=True):
            if len(changes) > 1:
                await self._index.save_many(vault, changes)
            else:
                space, key, row, listed, tombstone = changes[0]
                await self._index.save(vault, space, key, row, listed, tombstone=tombstone)

    async def _extend(self, ballot: Stamp) -> None:
        """Make a horizon above `ballot` durable; one at a time, so that a lower one is never written last."""
        async with self._horizon_turn:
            until = self._acceptor.horizon_for(ballot)
            if until is not None:
                await self._index.save_setting(_HORIZON, until.pack())
                self._acceptor.extend(until)


def _without_known(answer: Answer, known: Stamp) -> Answer:
    return Answer(answer.accepted, None) if answer.accepted == known else answer
