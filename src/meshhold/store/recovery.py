"""When no majority of a vault's index replicas will ever answer again: founds the index anew from its snapshot.

The new index belongs to this node alone, in an epoch far beyond any that the old replicas can have reached. That is
what makes it the vault's: who keeps it is published in the registry, every node that still has a seat of an earlier
epoch adopts what it reads there, and one without a seat in it drops its rows. So old replicas that return come back as
empty ones and can be chosen again, and until they have heard they answer in an epoch that nobody asks for. Orders to
collect that one of them might give are refused by whoever has read the record.

If this node is one of the old replicas and votes, its own rows stay and the snapshot only adds what it missed.
Otherwise it is silent until all rows are back. Each row gets a ballot of the moment at which the snapshot was begun:
below every change since, above those before. An attempt that broke off is simply begun again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

import trio

from meshhold.errors import (
    ConflictError,
    FatalError,
    IntegrityError,
    MeshHoldError,
    NoMajorityError,
    NotFoundError,
    UnavailableError,
)
from meshhold.index.contract import Name, Row
from meshhold.model.configuration import Configuration, Mode, Seat, unpack_configuration
from meshhold.model.entry import Space, encode_entry
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.model.stamp import COUNTER_BITS, Stamp
from meshhold.registry.record import Kind, Record
from meshhold.replication.collecting.snapshots import Snapshot, Snapshots
from meshhold.replication.index.registers import Registers, Write
from meshhold.replication.index.replica import COPIES_MAX, LocalReplica
from meshhold.replication.index.seats import Seats
from meshhold.replication.records.record_keeper import RecordKeeper
from meshhold.sealing.index_blocks import IndexRow
from meshhold.store.directory import Bucket, Directory
from meshhold.store.roll_call import ReplicaView
from meshhold.store.vaults import Vaults

EPOCHS_AHEAD: Final = 1_000
"""More changes of the replicas than this node can have missed: each takes a majority that answers."""
_UNFINISHED: Final = "recovering/"
_LOG: Final = logging.getLogger("meshhold.recovery")
Progress = Callable[[dict[str, Any]], Awaitable[None]]


class Roll(Protocol):
    """Whoever asks each index replica by itself; see `store.roll_call`."""

    async def views(self, vault: VaultId, configuration: Configuration) -> dict[NodeId, ReplicaView]:
        """Return how each replica of a configuration is."""


class Majority(Protocol):
    """Whoever asks the index replicas; see `replication.healing.reconfiguration`."""

    async def current(self, vault: VaultId) -> Configuration:
        """Return what is in force, as a majority says. Errors: `NoMajorityError`."""


@dataclass(frozen=True, slots=True)
class RecoveryView:
    """What a recovery brings back: the index as of `taken_ms` (since 1970), its live objects and their bytes.

    `replicas` are the names of those that kept it; `keeps_rows`: this node was one of them, and what it has stays.
    `rows` counts what was put back, 0 before.
    """

    vault: str
    name: str
    taken_ms: int
    objects: int
    bytes: int
    replicas: tuple[str, ...]
    keeps_rows: bool
    rows: int = 0


class Recovery:
    """Recovers indexes of vaults that this node is trusted in.

    `stamp_node` and `name_of` as elsewhere. Resources: borrows its collaborators.
    """

    def __init__(
        self,
        directory: Directory,
        vaults: Vaults,
        registers: Registers,
        replica: LocalReplica,
        majority: Majority,
        roll: Roll,
        snapshots: Snapshots,
        *,
        stamp_node: bytes,
        name_of: Callable[[NodeId], str] = short_id,
    ) -> None:
        self._directory = directory
        self._vaults = vaults
        self._registers = registers
        self._seats = registers.seats
        self._replica = replica
        self._majority = majority
        self._roll = roll
        self._snapshots = snapshots
        self._stamp_node = stamp_node
        self._name_of = name_of
        self._turn = trio.Lock()

    async def plan(self, vault: str) -> RecoveryView:
        """Tell what `recover` would bring back. Errors: as `recover`; nothing changes."""
        bucket = self._vaults.find(vault)
        return self._view(bucket, await self._snapshot(bucket))

    async def recover(self, vault: str, progress: Progress) -> RecoveryView:
        """Found the index anew on this node and put the rows of the newest snapshot back.

        Errors: `ConflictError` while a majority of the replicas answers, or where another node has more of the index
        than this one; `NotFoundError` without a snapshot;
        `IntegrityError` and `UnavailableError` if its chunks cannot be read now: all of them are looked at before
        anything changes.
        """
        async with self._turn:
            bucket = self._vaults.find(vault)
            snapshot = await self._snapshot(bucket)
            view = self._view(bucket, snapshot)
            async for _ in self._snapshots.read(bucket.keys, snapshot):
                pass
            await self._replica.index.save_setting(_UNFINISHED + bucket.id, b"1")
            configuration = await self._found(bucket, keeps_rows=view.keeps_rows)
            rows = await self._put_back(bucket, snapshot, configuration, progress)
            seat = configuration.seat_of(self._seats.node)
            if seat is not None:
                await self._seats.enrol(bucket.id, seat.since)
            await self._registers.change(bucket.id, Space.CONFIGURATION, b"", lambda _: Write(configuration))
            await self._directory.publish(bucket.id, configuration)
            await self._replica.index.save_setting(_UNFINISHED + bucket.id, b"")
            _LOG.warning("vault %s: its index was founded anew here, with %d rows", short_id(bucket.id), rows)
            return RecoveryView(**{**_fields(view), "rows": rows})

    # -- before -------------------------------------------------------------------------------------------------------

    async def _snapshot(self, bucket: Bucket) -> Snapshot:
        """Return the newest snapshot, if there is a reason to use it."""
        known = self._seats.adopted(bucket.id)
        begun = known is not None and known.members == (self._seats.node,) and not known.is_joint
        if not (begun and self._replica.index.setting(_UNFINISHED + bucket.id)):
            await self._check_lost(bucket)
        snapshot = self._snapshots.newest(bucket.keys)
        if snapshot is None:
            raise NotFoundError(
                f"no node that this one has met has a snapshot of the index of vault {bucket.name!r}",
                "bring one of its index replicas back, or connect more nodes of the mesh",
            )
        return snapshot

    async def _check_lost(self, bucket: Bucket) -> None:
        try:
            current = await self._majority.current(bucket.id)
        except FatalError:
            raise
        except UnavailableError:
            await self._check_no_better_place(bucket)
            return
        names = ", ".join(self._name_of(node) for node in current.members)
        raise ConflictError(
            f"a majority of the index replicas of vault {bucket.name!r} answers ({names}): nothing is lost",
            "replace one that is gone with: meshhold vault remove-member VAULT NODE --gone",
        )

    async def _check_no_better_place(self, bucket: Bucket) -> None:
        """Errors: `ConflictError` if this node has no part of the index, and another one that answers does."""
        try:
            configuration = self._seats.configuration(bucket.id)
        except NoMajorityError:
            return
        if self._seats.votes(bucket.id):
            return
        views = await self._roll.views(bucket.id, configuration)
        voting = [view.name for node, view in views.items() if view.state == "votes" and node != self._seats.node]
        if voting:
            raise ConflictError(
                f"{', '.join(voting)} has a part of the index of vault {bucket.name!r}, newer than any snapshot",
                "run this there: what it has stays then",
            )

    def _view(self, bucket: Bucket, snapshot: Snapshot) -> RecoveryView:
        try:
            replicas = self._seats.configuration(bucket.id).members
        except NoMajorityError:
            replicas = ()
        return RecoveryView(
            vault=bucket.id,
            name=bucket.name,
            taken_ms=snapshot.taken_ms,
            objects=snapshot.objects,
            bytes=snapshot.size,
            replicas=tuple(self._name_of(node) for node in replicas),
            keeps_rows=self._seats.votes(bucket.id),
        )

    # -- the new index ------------------------------------------------------------------------------------------------

    async def _found(self, bucket: Bucket, *, keeps_rows: bool) -> Configuration:
        """Go by a configuration of this node alone from now on."""
        me = self._seats.node
        known = self._seats.adopted(bucket.id)
        told = self._told(bucket.id)
        if known is not None and known.members == (me,) and keeps_rows:
            return known  # an attempt that broke off came so far
        epoch = max(known.epoch if known else 0, told.epoch if told else 0) + EPOCHS_AHEAD
        kept = known.seat_of(me) if known is not None and keeps_rows else None
        mode = (known or told or Configuration(1, (Seat(me, 1),))).mode
        configuration = Configuration(epoch, (kept or Seat(me, epoch),), mode=mode or Mode.LINEARIZABLE)
        await self._seats.adopt(bucket.id, configuration)
        return configuration

    def _told(self, vault: VaultId) -> Configuration | None:
        record = self._directory.registry.get(Kind.INDEX, vault)
        return None if record is None else unpack_configuration(record.public["configuration"])

    async def _put_back(
        self, bucket: Bucket, snapshot: Snapshot, configuration: Configuration, progress: Progress
    ) -> int:
        ballot = Stamp(snapshot.taken_ms << COUNTER_BITS, self._stamp_node)
        done = 0
        async for rows in self._snapshots.read(bucket.keys, snapshot):
            for at in range(0, len(rows), COPIES_MAX):
                await self._take(bucket.id, rows[at : at + COPIES_MAX], ballot, configuration.epoch)
            done += len(rows)
            await progress({"vault": bucket.name, "rows": done})
        return done

    async def _take(self, vault: VaultId, rows: Sequence[IndexRow], ballot: Stamp, epoch: int) -> None:
        copies = [(Name(row.space, row.key, ballot), Row(ballot, encode_entry(row.entry)), True) for row in rows]
        await self._replica.take_copies(vault, copies, epoch)


def _fields(view: RecoveryView) -> dict[str, Any]:
    return {name: getattr(view, name) for name in RecoveryView.__slots__}


class IndexNews:
    """Lets this node's seats follow what the registry publishes of index replicas.

    Only stable configurations that were chosen are published, or one that a person's `recover` founded; so the later
    epoch is right, also for a replica that missed everything in between. Resources: borrows its collaborators.
    """

    def __init__(self, keeper: RecordKeeper, seats: Seats) -> None:
        self._keeper = keeper
        self._seats = seats
        self._arrived = trio.Event()
        keeper.follow(self._listen)

    def _listen(self, records: Sequence[Record], _source: NodeId | None) -> None:
        if any(record.kind is Kind.INDEX for record in records):
            self._arrived.set()

    def epoch_known(self, vault: VaultId) -> int:
        """Return the epoch that was published last, 0 for none."""
        record = self._keeper.registry.get(Kind.INDEX, vault)
        return 0 if record is None else unpack_configuration(record.public["configuration"]).epoch

    async def run(self) -> NoReturn:
        """Follow, until cancelled."""
        while True:
            self._arrived = trio.Event()
            await self.follow()
            await self._arrived.wait()

    async def follow(self) -> None:
        """Adopt what is published of every index that this node has a seat of and that is later than it knows."""
        for record in self._keeper.registry.live(Kind.INDEX):
            vault = VaultId(record.key)
            known = self._seats.adopted(vault)
            try:
                told = unpack_configuration(record.public["configuration"])
                if known is not None and told.epoch > known.epoch and not told.is_joint:
                    await self._seats.adopt(vault, told)
            except FatalError:
                raise
            except (IntegrityError, MeshHoldError) as error:
                _LOG.warning("who keeps the index of vault %s is not followed: %s", short_id(vault), error)
