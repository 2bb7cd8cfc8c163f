"""How do sums and names stay true at each commit without being written at each? Knows no row and no transaction.

Each commit appends what it changed in a vault as one row of the table `change`; the sums are kept in memory. The rows
of `vault` and `name` are older, and say together with `change` what is true. When enough has gathered it is settled:
some buckets with each following commit, so that names which share a page are written together; at the end the sums of
the moment when settling began go to `vault`, and what they cover leaves `change`, in one commit. A crash in between
costs nothing: settling the same names again has the same effect.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

from meshhold.index.contract import BUCKETS, Counts, bucket_of
from meshhold.index.names import (
    NO_DIGESTS,
    SAVE_NAME,
    Named,
    digest_of,
    digested,
    pack_digests,
    pack_named,
    unpack_digests,
    unpack_named,
)
from meshhold.model.ids import VaultId

STATE_KEPT: Final = 0
STATE_LIVE: Final = 1
STATE_DELETED: Final = 2

SETTLE_AT: Final = 8_192
"""Names that gather before they are settled: some 3 MiB of memory and 40 ms of a start after a crash. The more gather,
the more of them share a page of `name`: some ten in a vault of 100,000 rows, one or two in one of a million."""
_SETTLED_PER_NAME: Final = 2
"""Names settled for each new one, so that settling ends before as many have gathered again."""

_VAULT: Final = "INSERT OR REPLACE INTO vault(number, id, objects, bytes, digests) VALUES(?, ?, ?, ?, ?)"
_CHANGE: Final = "INSERT INTO change(number, vault, objects, bytes, names) VALUES(?, ?, ?, ?, ?)"
_SETTLED: Final = "DELETE FROM change WHERE number <= ?"
_REMOVE_NAME: Final = "DELETE FROM name WHERE vault = ? AND bucket = ? AND space = ? AND key = ?"

VaultRow = tuple[int, str, int, int, bytes]
Gathered = dict[tuple[int, bytes], bytes | None]
"""(space, key) → the packed ballot, or None for a row that went."""


RowFacts = tuple[int, int, bytes]
"""What sums need of a row: state, size, packed ballot."""


class _Sums:
    """What is true of a vault after the last commit."""

    __slots__ = ("digests", "number", "objects", "size")

    def __init__(self, number: int, objects: int = 0, size: int = 0, digests: bytes = NO_DIGESTS) -> None:
        self.number = number
        self.objects = objects
        self.size = size
        self.digests: array[int] = unpack_digests(digests)

    def row(self, vault: VaultId) -> VaultRow:
        return self.number, vault, self.objects, self.size, pack_digests(self.digests)


class _Batch:
    """What the batch under way has changed in one vault so far."""

    __slots__ = ("names", "objects", "packed", "size")

    def __init__(self) -> None:
        self.objects = 0
        self.size = 0
        self.names: list[Named] = []
        self.packed: list[bytes] = []


class Ledger:
    """Sums and names of all vaults. Readers see what was committed; `numbers` stand for the vaults in tables."""

    def __init__(self, query: Callable[[str, Any], list[Any]], numbers: dict[VaultId, int]) -> None:
        self._numbers = numbers
        self._sums: dict[VaultId, _Sums] = {}
        self._gathered: defaultdict[tuple[int, int], Gathered] = defaultdict(dict)
        self._touched: set[VaultId] = set()
        self._unsettled = 0
        self._last = 0
        # What is being settled: places left (the next one last), up to which change, and the sums to write at the end.
        self._left: list[tuple[int, int]] = []
        self._upto: int | None = None
        self._rows: dict[VaultId, VaultRow] = {}
        # What the batch under way does; forgotten if it is rolled back.
        self._batch: defaultdict[VaultId, _Batch] = defaultdict(_Batch)
        self._dropped: set[VaultId] = set()
        self._taken: list[tuple[int, int]] = []
        self._ends = False
        self._load(query)

    def _load(self, query: Callable[[str, Any], list[Any]]) -> None:
        ids: dict[int, VaultId] = {}
        for number, vault, *sums in query("SELECT number, id, objects, bytes, digests FROM vault", ()):
            ids[number] = vault
            self._sums[vault] = _Sums(number, *sums)
        changes = query("SELECT number, vault, objects, bytes, names FROM change ORDER BY number", ())
        for last, number, objects, size, packed in changes:
            self._last = last
            self._add(ids[number], objects, size, unpack_named(packed))

    # -- reading -----------------------------------------------------------------------------------------------------

    def counts(self, vault: VaultId) -> Counts:
        """Return live objects and bytes."""
        sums = self._sums.get(vault)
        return Counts(0, 0) if sums is None else Counts(sums.objects, sums.size)

    def digests(self, vault: VaultId) -> bytes:
        """Return the digests of all buckets."""
        sums = self._sums.get(vault)
        return NO_DIGESTS if sums is None else pack_digests(sums.digests)

    def gathered(self, vault: VaultId, bucket: int) -> Gathered:
        """Return what is to be laid over the names that the table has; not to be changed."""
        return self._gathered.get((self._numbers.get(vault, -1), bucket), {})

    # -- inside a transaction ----------------------------------------------------------------------------------------

    def note(self, vault: VaultId, space: int, key: bytes, before: RowFacts | None, after: RowFacts | None) -> None:
        """Learn that a row changed; None is no row."""
        batch = self._batch[vault]
        bucket = bucket_of(space, key)
        flip, row, accepted = 0, b"", None
        if before is not None:
            state, size, ballot = before
            row = digested(space, key, ballot)
            flip = digest_of(row)
            if state == STATE_LIVE:
                batch.objects -= 1
                batch.size -= size
        if after is not None:
            state, size, accepted = after
            row = digested(space, key, accepted)
            flip ^= digest_of(row)
            if state == STATE_LIVE:
                batch.objects += 1
                batch.size += size
        batch.names.append(Named(bucket, space, key, accepted, flip))
        batch.packed.append(pack_named(bucket, row, flip, gone=accepted is None))

    def drop(self, writer: sqlite3.Connection, vault: VaultId) -> None:
        """Remove all that is kept of a vault whose last row went, perhaps in this batch."""
        number = (self._numbers.get(vault),)
        for statement in (
            "DELETE FROM name WHERE vault = ?",
            "DELETE FROM change WHERE vault = ?",
            "DELETE FROM vault WHERE number = ?",
        ):
            writer.execute(statement, number)
        self._batch.pop(vault, None)
        self._dropped.add(vault)

    def write(self, writer: sqlite3.Connection) -> None:
        """Append what the batch changed, and settle some of what has gathered; runs last in its transaction."""
        count = 0
        for number, (vault, batch) in enumerate(self._batch.items(), self._last + 1):
            if vault not in self._sums or vault in self._dropped:
                writer.execute(_VAULT, (self._numbers[vault], vault, 0, 0, NO_DIGESTS))
            change = (number, self._numbers[vault], batch.objects, batch.size, b"".join(batch.packed))
            writer.execute(_CHANGE, change)
            count += len(batch.names)
        if self._upto is not None:
            self._settle(writer, _SETTLED_PER_NAME * count)

    def _settle(self, writer: sqlite3.Connection, count: int) -> None:
        """Write at least `count` names; after the last ones, the sums that hold with them."""
        saved: list[tuple[int, int, int, bytes, bytes]] = []
        gone: list[tuple[int, int, int, bytes]] = []
        for place in reversed(self._left):
            if len(saved) + len(gone) >= count:
                break
            self._taken.append(place)
            for (space, key), accepted in sorted(self._gathered.get(place, {}).items()):
                if accepted is None:
                    gone.append((*place, space, key))
                else:
                    saved.append((*place, space, key, accepted))
        writer.executemany(SAVE_NAME, saved)
        writer.executemany(_REMOVE_NAME, gone)
        if len(self._taken) == len(self._left):
            writer.executemany(_VAULT, [row for vault, row in self._rows.items() if vault not in self._dropped])
            writer.execute(_SETTLED, (self._upto,))
            self._ends = True

    # -- after a transaction -------------------------------------------------------------------------------------------

    def ended(self, committed: bool) -> None:
        """Learn how the transaction ended."""
        if committed:
            self._take_over()
        self._batch.clear()
        self._dropped.clear()
        self._taken.clear()
        self._ends = False

    def _take_over(self) -> None:
        for place in self._taken:
            self._gathered.pop(place, None)
        del self._left[len(self._left) - len(self._taken) :]
        if self._ends:
            self._upto = None
        for vault in self._dropped:
            self._forget(vault)
        self._last += len(self._batch)
        for vault, batch in self._batch.items():
            if vault not in self._sums:
                self._sums[vault] = _Sums(self._numbers[vault])
            self._add(vault, batch.objects, batch.size, batch.names)
        if self._upto is None and self._unsettled >= SETTLE_AT:
            self._upto = self._last
            self._left = sorted(self._gathered, reverse=True)
            self._rows = {vault: self._sums[vault].row(vault) for vault in self._touched}
            self._touched.clear()
            self._unsettled = 0

    def _forget(self, vault: VaultId) -> None:
        sums = self._sums.pop(vault, None)
        self._rows.pop(vault, None)
        self._touched.discard(vault)
        if sums is not None:
            for bucket in range(BUCKETS):
                self._gathered.pop((sums.number, bucket), None)

    def _add(self, vault: VaultId, objects: int, size: int, names: Iterable[Named]) -> None:
        sums = self._sums[vault]
        sums.objects += objects
        sums.size += size
        number, digests, gathered = sums.number, sums.digests, self._gathered
        for bucket, space, key, accepted, flip in names:
            digests[bucket] ^= flip
            gathered[number, bucket][space, key] = accepted
            self._unsettled += 1
        self._touched.add(vault)
