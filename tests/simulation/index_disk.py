"""An index in memory whose disk can be slow, full or broken, and loses what was not durable. Knows no node.

It keeps the contract of `meshhold.index.contract`: rows become visible when they are durable, all or none of one call,
and what fails is not there afterwards. A crash keeps any part of what was being written, call by call.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import MeshHoldError, StorageFailedError, StorageFullError
from meshhold.index.contract import (
    BUCKETS,
    DIGEST_SIZE,
    SAVE_MANY_MAX,
    Change,
    Counts,
    Listed,
    Look,
    Name,
    Row,
    bucket_of,
)
from meshhold.model.entry import Space
from meshhold.model.ids import VaultId
from meshhold.model.stamp import Stamp, unpack_stamp

_NUMBER_MAX = 2**63 - 1  # as SQLite: a larger number cannot be saved
_KEY_SIZE_MAX = 2**16 - 1
_Place = tuple[Space, bytes]


@dataclass(slots=True)
class Ills:
    """What is wrong with a disk at the moment. Chances are per call; a delay lies between half and all of `delay_s`."""

    delay_s: float = 0.0
    write_fails: float = 0.0
    read_fails: float = 0.0
    full: bool = False


class _VaultRows:
    """The durable rows of one vault."""

    def __init__(self) -> None:
        self.rows: dict[_Place, Change] = {}
        self.keys: dict[Space, list[bytes]] = {space: [] for space in Space}
        self.live: list[bytes] = []
        self.size = 0
        self._digests = [0] * BUCKETS
        self._packed: bytes | None = None

    def put(self, change: Change) -> None:
        place = (change.space, change.key)
        if place in self.rows:
            self._take_out(self.rows[place])
        else:
            insort(self.keys[change.space], change.key)
        self.rows[place] = change
        self._count(change)
        if change.listed is not None:
            insort(self.live, change.key)
            self.size += change.listed.size

    def remove(self, space: Space, key: bytes) -> None:
        self._take_out(self.rows.pop((space, key)))
        keys = self.keys[space]
        del keys[bisect_left(keys, key)]

    def _take_out(self, change: Change) -> None:
        self._count(change)
        if change.listed is not None:
            del self.live[bisect_left(self.live, change.key)]
            self.size -= change.listed.size

    def _count(self, change: Change) -> None:
        named = bytes((change.space,)) + len(change.key).to_bytes(2, "big") + change.key + change.row.accepted.pack()
        digest = int.from_bytes(hash_bytes(named)[:DIGEST_SIZE], "big")
        self._digests[bucket_of(change.space, change.key)] ^= digest
        self._packed = None

    def digests(self) -> bytes:
        """All buckets' digests; see `Index.bucket_digests`."""
        if self._packed is None:
            self._packed = b"".join(digest.to_bytes(DIGEST_SIZE, "big") for digest in self._digests)
        return self._packed

    def names(self) -> Iterator[Name]:
        """All rows by (space, key)."""
        return (
            Name(space, key, self.rows[space, key].row.accepted) for space in sorted(Space) for key in self.keys[space]
        )


@dataclass(slots=True)
class Disk:
    """What survives a crash. `ills` may be changed at any time."""

    ills: Ills = field(default_factory=Ills)
    vaults: defaultdict[VaultId, _VaultRows] = field(default_factory=lambda: defaultdict(_VaultRows))
    settings: dict[str, bytes] = field(default_factory=dict)
    records: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def wipe(self) -> None:
        """Forget everything, as a new disk has."""
        self.vaults.clear()
        self.settings.clear()
        self.records.clear()


class _Unit:
    """What one call writes: applied whole or not at all."""

    __slots__ = ("done", "failure", "work")

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.done = trio.Event()
        self.failure: MeshHoldError | None = None

    def end(self, failure: MeshHoldError | None) -> None:
        self.failure = failure
        self.done.set()


class MemoryIndex:
    """An `Index` and `Records` on a `Disk`; made by `open_index`."""

    def __init__(self, disk: Disk, chance: random.Random) -> None:
        self.disk = disk
        self._chance = chance
        self._gathering: list[_Unit] = []
        self._writing: list[_Unit] = []
        self._wake = trio.Event()
        self._closed = False

    # -- writing -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Commit batch after batch, until cancelled."""
        while True:
            if not self._gathering:
                self._wake = trio.Event()
                await self._wake.wait()
            self._writing, self._gathering = self._gathering, []
            await trio.sleep(self.disk.ills.delay_s * self._chance.uniform(0.5, 1.0))
            self._commit()

    def _commit(self) -> None:
        units, self._writing = self._writing, []
        for unit in units:
            unit.end(self._try(unit))

    def _try(self, unit: _Unit) -> MeshHoldError | None:
        ills = self.disk.ills
        if ills.full:
            return StorageFullError("the disk is full", "end the simulated ill")
        if ills.write_fails and self._chance.random() < ills.write_fails:
            return StorageFailedError("the disk failed to write", "end the simulated ill")
        unit.work()
        return None

    def close(self) -> None:
        """Commit what was submitted, then refuse."""
        self._closed = True
        self._commit()
        self._writing, self._gathering = self._gathering, []
        self._commit()

    def crash(self) -> None:
        """Lose the power: of what is being written any part is kept, of what waits nothing."""
        self._closed = True
        writing, self._writing = self._writing, []
        waiting, self._gathering = self._gathering, []
        for unit in writing:
            if self._chance.random() < 0.5:
                unit.work()
        for unit in (*writing, *waiting):
            unit.end(_closed())

    async def _submit(self, work: Callable[[], None]) -> None:
        if self._closed:
            raise _closed()
        unit = _Unit(work)
        self._gathering.append(unit)
        self._wake.set()
        await unit.done.wait()
        if unit.failure is not None:
            raise unit.failure

    async def save(
        self, vault: VaultId, space: Space, key: bytes, row: Row, listed: Listed | None, *, tombstone: bool = False
    ) -> None:
        """See `Index.save`."""
        await self.save_many(vault, [Change(space, key, row, listed, tombstone)])

    async def save_many(self, vault: VaultId, changes: Sequence[Change]) -> None:
        """See `Index.save_many`."""
        if len(changes) > SAVE_MANY_MAX:
            raise ValueError(f"{len(changes)} rows in one commit: save at most {SAVE_MANY_MAX} at a time")
        for change in changes:
            if change.listed is not None and change.listed.size > _NUMBER_MAX:
                raise StorageFailedError(f"a size of {change.listed.size} cannot be saved")
            if len(change.key) > _KEY_SIZE_MAX:
                raise StorageFailedError(f"a key of {len(change.key)} bytes cannot be named")

        def work() -> None:
            for change in changes:
                self.disk.vaults[vault].put(change)

        await self._submit(work)

    async def forget(self, vault: VaultId, space: Space, keys: list[tuple[bytes, Stamp]]) -> int:
        """See `Index.forget`."""
        gone = 0

        def work() -> None:
            nonlocal gone
            rows = self.disk.vaults[vault]
            for key, accepted in keys:
                held = rows.rows.get((space, key))
                if held is not None and held.row.accepted == accepted:
                    rows.remove(space, key)
                    gone += 1

        await self._submit(work)
        return gone

    async def drop_vault(self, vault: VaultId) -> None:
        """See `Index.drop_vault`."""
        await self._submit(lambda: self.disk.vaults.__setitem__(vault, _VaultRows()))

    async def save_setting(self, name: str, value: bytes) -> None:
        """See `Index.save_setting`."""
        await self._submit(lambda: self.disk.settings.__setitem__(name, value))

    async def save_records(self, records: list[tuple[str, str, bytes]]) -> None:
        """See `Records.save_records`."""
        if not all(isinstance(value, bytes) for _, _, value in records):
            raise StorageFailedError("a record that is no byte string cannot be saved")
        await self._submit(lambda: self.disk.records.update({(kind, key): value for kind, key, value in records}))

    async def forget_records(self, names: list[tuple[str, str]]) -> None:
        """See `Records.forget_records`."""

        def work() -> None:
            for name in names:
                self.disk.records.pop(name, None)

        await self._submit(work)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _rows(self, vault: VaultId) -> _VaultRows:
        ills = self.disk.ills
        if ills.read_fails and self._chance.random() < ills.read_fails:
            raise StorageFailedError("the disk failed to read", "end the simulated ill")
        return self.disk.vaults[vault]

    def load(self, vault: VaultId, space: Space, key: bytes) -> Row | None:
        """See `Index.load`."""
        held = self._rows(vault).rows.get((space, key))
        return None if held is None else held.row

    def list_keys(self, vault: VaultId, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """See `Index.list_keys`."""
        rows = self._rows(vault)
        page = _page(rows.live, after, prefix, limit)
        return [listed for key in page if (listed := rows.rows[Space.OBJECTS, key].listed) is not None]

    def look(self, vault: VaultId, after: bytes, prefix: bytes, limit: int, names_max: int) -> Look:
        """See `Index.look`."""
        rows = self._rows(vault)
        page = _page(rows.keys[Space.OBJECTS], after, prefix, names_max + 1)
        look = Look([], [], len(page) < names_max and limit > 0)
        for key in page[:names_max]:
            held = rows.rows[Space.OBJECTS, key]
            if held.listed is not None:
                if len(look.rows) >= limit:
                    return look._replace(is_whole=False)
                look.rows.append(held.listed)
            look.names.append((key, held.row.accepted.pack()))
        return look._replace(is_whole=look.is_whole and len(look.rows) < limit)

    def first_key(self, vault: VaultId, at_least: bytes, prefix: bytes) -> bytes | None:
        """See `Index.first_key`."""
        live = self._rows(vault).live
        at = bisect_left(live, max(at_least, prefix))
        return live[at] if at < len(live) and live[at].startswith(prefix) else None

    def scan(self, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int) -> list[tuple[bytes, Row]]:
        """See `Index.scan`."""
        rows = self._rows(vault)
        return [(key, rows.rows[space, key].row) for key in _page(rows.keys[space], after, prefix, limit)]

    def bucket_digests(self, vault: VaultId) -> bytes:
        """See `Index.bucket_digests`."""
        return self._rows(vault).digests()

    def bucket_names(
        self, vault: VaultId, bucket: int, limit: int, after: tuple[Space, bytes] | None = None
    ) -> list[Name]:
        """See `Index.bucket_names`."""
        names = self._rows(vault).names()
        return _first(limit, after, (name for name in names if bucket_of(name.space, name.key) == bucket))

    def interval(self, vault: VaultId, space: Space, after: bytes, upto: bytes | None, limit: int) -> list[Name]:
        """See `Index.interval`."""
        pairs = self.ballots(vault, space, after, upto, limit)
        return [Name(space, key, unpack_stamp(accepted)) for key, accepted in pairs]

    def ballots(
        self, vault: VaultId, space: Space, after: bytes, upto: bytes | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """See `Index.ballots`."""
        rows = self._rows(vault)
        keys = rows.keys[space]
        end = len(keys) if upto is None else bisect_right(keys, upto)
        chosen = keys[bisect_right(keys, after) : end][: max(0, limit)]
        return [(key, rows.rows[space, key].row.accepted.pack()) for key in chosen]

    def tombstones(self, vault: VaultId, after: tuple[Space, bytes] | None, limit: int) -> list[Name]:
        """See `Index.tombstones`."""
        rows = self._rows(vault)
        return _first(limit, after, (name for name in rows.names() if _is_deletion(rows.rows[name.space, name.key])))

    def counts(self, vault: VaultId) -> Counts:
        """See `Index.counts`."""
        rows = self._rows(vault)
        return Counts(len(rows.live), rows.size)

    def setting(self, name: str) -> bytes | None:
        """See `Index.setting`."""
        return self.disk.settings.get(name)

    def load_records(self) -> list[tuple[str, str, bytes]]:
        """See `Records.load_records`."""
        return [(*name, value) for name, value in sorted(self.disk.records.items())]


@asynccontextmanager
async def open_index(disk: Disk, chance: random.Random) -> AsyncIterator[MemoryIndex]:
    """Open the index that `disk` holds. Resources: on leaving, what was submitted is durable, unless it crashed."""
    index = MemoryIndex(disk, chance)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(index.run)
            yield index
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:  # the body's own error passes as it was raised
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
    finally:
        index.close()


def _closed() -> StorageFailedError:
    return StorageFailedError("the index is closed", "start the node again")


def _is_deletion(change: Change) -> bool:
    return change.tombstone


def _page(keys: Sequence[bytes], after: bytes, prefix: bytes, limit: int) -> list[bytes]:
    at = bisect_right(keys, after) if after >= prefix else bisect_left(keys, prefix)
    page: list[bytes] = []
    while at < len(keys) and len(page) < limit and keys[at].startswith(prefix):
        page.append(keys[at])
        at += 1
    return page


def _first(limit: int, after: tuple[Space, bytes] | None, names: Iterator[Name]) -> list[Name]:
    page: list[Name] = []
    for name in names:
        if len(page) >= limit:
            break
        if after is None or (name.space, name.key) > after:
            page.append(name)
    return page
