"""Putting versions on the stack of a key, taking them away, changing their tags and locks. Knows no content and no S3.

What a stack is, `rules.stack` says: the key's register holds the top, and every change of the stack is one change of
that register, by comparison with exactly the top that was read. Rows of earlier versions are written before the change
that needs them, and put right after the change that deletes them:

- a top is *filed* as a row before another one goes on it, so a crash in between leaves only a row that is the same as
  the top, which nobody shows;
- a version is deleted by a top that names it in `gone`; only then its row becomes a tombstone, and only then may a
  later top drop the name. Whoever changes the top next does what a crash left undone of it. So a deletion takes effect
  at one moment, whether the version was the top or not, and what is under a lock is judged at that moment too;
- a tombstone of a row is written whether or not there was a row: another node may have read the version as the top and
  be about to file it. It finds the tombstone and leaves it; and it does not file later than `FILING_S` after it read
  the top, by when no tombstone is forgotten (`replication.healing.tombstones` keeps those of versions longer);
- a row goes only with its version: what becomes the top again keeps its row. So references to chunks are never in
  neither place, and a walk that looks at tops first, then at rows, meets every one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from meshhold.crypto.random import new_salt
from meshhold.errors import (
    ContentionError,
    NoMajorityError,
    NoSuchObjectError,
    NoSuchVersionError,
    RefusedError,
    UnavailableError,
    UnknownOutcomeError,
)
from meshhold.model.entry import DeleteMarker, ObjectVersion, Space, Value
from meshhold.replication.index.early import Early
from meshhold.replication.index.registers import EARLY_S, KEEP, Change, Fence, Registers, Write
from meshhold.replication.index.turns import Turns
from meshhold.rules.lock import check_removal
from meshhold.rules.stack import (
    Stacked,
    amended,
    filed,
    gone_of,
    id_of,
    is_earlier,
    is_versioned,
    is_void,
    marked,
    next_id,
    plain,
    promoted,
    pushed,
    row_key,
    rows_of,
    top_of,
    void,
)
from meshhold.rules.versioning import Versioning
from meshhold.store.directory import Bucket
from meshhold.store.gates import Gates

FILING_S: Final = 60.0
"""So long after a top was read it may be filed; a promise that showed it may be `EARLY_S` old by then."""
CONTENTION_S: Final = 10.0
"""So long a change starts over because other nodes change the same stack."""
_STEP: Final = 16  # rows read to find the newest earlier version: mostly the first one is it
_PAGE: Final = 64  # rows per step where all are looked at: 64 inline bodies are 1 MiB at most

Check = Callable[[Value | None], None]
"""Judges what a key's register holds before it is replaced; pure, may be asked several times."""
CheckVersion = Callable[[Stacked], None]
"""Judges a version that is to be removed; pure, may be asked several times."""
Amend = Callable[[ObjectVersion], ObjectVersion]


class _MovedError(RefusedError):
    """The stack is not what it was when it was read."""


class _VersionedError(RefusedError):
    """The key has versions, although this node has not heard that the bucket keeps them."""


class Stacks:
    """The stacks of versions of all keys; where versions were never kept, each is one object.

    `lock_now_ms` is the clock that locks go by. Resources: borrows its collaborators.
    """

    def __init__(
        self, registers: Registers, gates: Gates, now_ms: Callable[[], int], lock_now_ms: Callable[[], int]
    ) -> None:
        self._registers = registers
        self._gates = gates
        self._now_ms = now_ms
        self._lock_now_ms = lock_now_ms
        self._turns = Turns()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def read(self, bucket: Bucket, key: bytes) -> Value | None:
        """Return what the key's register holds. Errors: those of `Registers.read`."""
        entry = await self._registers.read(bucket.id, Space.OBJECTS, key)
        return None if entry is None else entry.value

    async def row(self, bucket: Bucket, key: bytes, identifier: bytes) -> Value | None:
        """Return what the row of an earlier version holds."""
        entry = await self._registers.read(bucket.id, Space.VERSIONS, row_key(key, identifier))
        return None if entry is None else entry.value

    async def earlier(self, bucket: Bucket, key: bytes, top: Stacked) -> AsyncIterator[Stacked]:
        """Yield the versions below a top, newest first; the top was read before. To be read to its end."""
        after: bytes | None = b""
        while after is not None:
            found, after = await self._rows(bucket, key, top, after, _PAGE)
            for row in found:
                yield row

    async def _rows(
        self, bucket: Bucket, key: bytes, top: Stacked, after: bytes, limit: int
    ) -> tuple[list[Stacked], bytes | None]:
        """Return the versions below a top in up to `limit` rows after a name, and where to go on, None at the end."""
        after = max(after, row_key(key, id_of(top)))
        page = await self._registers.scan(bucket.id, Space.VERSIONS, after, rows_of(key), limit)
        rows = [top_of(entry.value) for _, entry in page]
        found = [row for row in rows if row is not None and is_earlier(id_of(row), row, top)]
        return found, page[-1][0] if len(page) == limit else None

    async def _first(
        self, bucket: Bucket, key: bytes, top: Stacked, wanted: Callable[[Stacked], bool], limit: int
    ) -> Stacked | None:
        """Return the newest version below a top that is wanted."""
        after: bytes | None = b""
        while after is not None:
            found, after = await self._rows(bucket, key, top, after, limit)
            for row in found:
                if wanted(row):
                    return row
            limit = _PAGE
        return None

    # -- putting on top -----------------------------------------------------------------------------------------------

    async def push(
        self,
        bucket: Bucket,
        key: bytes,
        new: Stacked,
        check: Check,
        early: Early | None = None,
        *,
        conditional: bool = False,
    ) -> Stacked:
        """Make `new` the current version, durably; return it with its place on the stack.

        In a bucket that never kept versions it replaces what was there, in one change. `conditional`: `check` depends
        on what it is shown. Errors: what `check` raises; those of `Registers.change`; `NoSuchBucketError`.
        """
        with self._gates.writing(bucket.id):
            if bucket.rules.versioning is Versioning.NEVER:
                with suppress(_VersionedError):
                    return await self._replace(bucket, key, new, check, early, conditional)
                early = None
            async with self._turn(bucket, key):
                return await self._push(bucket, key, new, check, early)

    async def _replace(
        self, bucket: Bucket, key: bytes, new: Stacked, check: Check, early: Early | None, conditional: bool
    ) -> Stacked:
        version = plain(new)

        def decide(current: Value | None) -> Change:
            if is_versioned(current):
                raise _VersionedError("versions")
            check(current)
            return Write(version)

        await self._registers.change(bucket.id, Space.OBJECTS, key, decide, early, conditional=conditional)
        return version

    async def _push(self, bucket: Bucket, key: bytes, new: Stacked, check: Check, early: Early | None) -> Stacked:
        suspended = bucket.rules.versioning is Versioning.SUSPENDED
        tries = _Tries(self._registers, key)
        while True:
            fence = self._fence()
            entry = await self._registers.current(bucket.id, Space.OBJECTS, key, early)
            current = None if entry is None else entry.value
            check(current)
            await self._bury_pending(bucket, key, gone_of(current))
            top = top_of(current)
            gone: tuple[bytes, ...] = ()
            if top is not None and suspended:
                gone = await self._nulls(bucket, key, top)
            if top is not None and id_of(top) not in gone:
                await self._file(bucket, key, top, fence)
            chance = int.from_bytes(new_salt()[:3], "big")
            identifier = next_id(self._registers.next_stamp(), top, chance)
            value = pushed(new, identifier, current, is_null=suspended, gone=gone)
            if await self._swap(bucket, key, current, value, early):
                await self._bury_after(bucket, key, gone)
                return value
            early = None
            await tries.again()

    async def _nulls(self, bucket: Bucket, key: bytes, top: Stacked) -> tuple[bytes, ...]:
        """Return the ids of all versions that S3 calls `null`: a new one takes their place.

        Errors: `LockedError`, where this node has not heard yet that versions of the bucket are locked by now.
        """
        if top.extras.is_null:
            nulls = [top]
        else:
            nulls = [row async for row in self.earlier(bucket, key, top) if row.extras.is_null]
        for version in nulls:
            check_removal(version.extras.lock, self._lock_now_ms(), may_bypass=False)
        return tuple(id_of(version) for version in nulls)

    async def _file(self, bucket: Bucket, key: bytes, top: Stacked, fence: Fence) -> None:
        """See to it that a row holds the top, unless the version is deleted by now."""
        row = filed(top)

        def decide(current: Value | None) -> Change:
            known = top_of(current)
            if known is not None and known.extras.revision >= row.extras.revision:
                return KEEP
            return Write(row)

        name = row_key(key, id_of(top))
        await self._registers.change(bucket.id, Space.VERSIONS, name, decide, conditional=True, fence=fence)

    # -- taking away --------------------------------------------------------------------------------------------------

    async def clear(self, bucket: Bucket, key: bytes, check: Check, *, conditional: bool = False) -> None:
        """Delete the object of a bucket that never kept versions.

        Errors: what `check` raises, those of `Registers.change`; `_VersionedError` does not leave `delete`.
        """

        def decide(current: Value | None) -> Change:
            if is_versioned(current):
                raise _VersionedError("versions")
            check(current)
            return Write(None)

        await self._registers.change(bucket.id, Space.OBJECTS, key, decide, conditional=conditional)

    async def delete(
        self, bucket: Bucket, key: bytes, check: Check, *, conditional: bool = False
    ) -> DeleteMarker | None:
        """Delete the object: where versions are kept, put a delete marker on them and return it.

        Errors: what `check` raises; those of `Registers.change`.
        """
        if bucket.rules.versioning is Versioning.NEVER:
            with suppress(_VersionedError):
                await self.clear(bucket, key, check, conditional=conditional)
                return None
        with self._gates.writing(bucket.id):
            async with self._turn(bucket, key):
                made = await self._push(bucket, key, DeleteMarker(self._now_ms()), check, None)
        return made if isinstance(made, DeleteMarker) else None

    async def remove(self, bucket: Bucket, key: bytes, identifier: bytes | None, check: CheckVersion) -> Stacked | None:
        """Delete one version for good, None being what S3 calls `null`; return it, None if there is none.

        If it was the current one, the newest earlier version becomes current. Errors: as `push`.
        """
        async with self._turn(bucket, key):
            tries = _Tries(self._registers, key)
            while True:
                current = await self.read(bucket, key)
                top = top_of(current)
                if top is None:
                    await self._tidy(bucket, key, current)
                    return None
                found = await self._versions(bucket, key, top, identifier)
                if not found:
                    return None
                for version in found:
                    check(version)
                await self._bury_pending(bucket, key, gone_of(current))
                gone = tuple(id_of(version) for version in found)
                value = marked(top, gone)
                if id_of(top) in gone:
                    value = await self._below(bucket, key, top, gone)
                if await self._swap(bucket, key, current, value):
                    await self._bury_after(bucket, key, gone, value)
                    return found[0]
                await tries.again()

    async def _versions(self, bucket: Bucket, key: bytes, top: Stacked, identifier: bytes | None) -> list[Stacked]:
        """Return the version with this id; for `null` also those that it hides, oldest last."""
        if identifier is not None:
            found = await self.version(bucket, key, top, identifier)
            return [] if found is None else [found]
        nulls = [top] if top.extras.is_null else []
        return nulls + [row async for row in self.earlier(bucket, key, top) if row.extras.is_null]

    async def version(self, bucket: Bucket, key: bytes, top: Stacked, identifier: bytes | None) -> Stacked | None:
        """Return the version of the stack under `top` that has this id, None being what S3 calls `null`."""
        if identifier is None:
            if top.extras.is_null:
                return top
            return await self._first(bucket, key, top, lambda row: row.extras.is_null, _PAGE)
        if identifier == id_of(top):
            found: Stacked | None = top
        else:
            value = await self.row(bucket, key, identifier)
            found = top_of(value) if is_earlier(identifier, value, top) else None
        return None if found is None or found.extras.is_null else found

    async def _below(self, bucket: Bucket, key: bytes, top: Stacked, gone: tuple[bytes, ...]) -> Stacked:
        """Return what becomes the top when `gone`, the top among them, go."""
        row = await self._first(bucket, key, top, lambda row: id_of(row) not in gone, _STEP)
        return void(gone, top.extras.revision + 1) if row is None else promoted(row, top, gone)

    async def _bury_pending(self, bucket: Bucket, key: bytes, gone: Iterable[bytes]) -> None:
        """Do what a crash may have left undone: make the rows of deleted versions tombstones."""
        for identifier in gone:
            entry = await self._registers.read(bucket.id, Space.VERSIONS, row_key(key, identifier))
            if entry is None or entry.value is not None:
                await self._bury(bucket, key, identifier)

    async def _bury(self, bucket: Bucket, key: bytes, identifier: bytes) -> None:
        name = row_key(key, identifier)
        await self._registers.change(
            bucket.id, Space.VERSIONS, name, lambda _: Write(None, always=True), conditional=True
        )

    async def _bury_after(
        self, bucket: Bucket, key: bytes, gone: Iterable[bytes], current: Value | None = None
    ) -> None:
        """Bury what a change deleted that has taken effect: if that fails, whoever changes the stack next does it."""
        with suppress(UnavailableError):
            for identifier in gone:
                await self._bury(bucket, key, identifier)
            if is_void(current):
                await self._swap(bucket, key, current, None)

    async def _tidy(self, bucket: Bucket, key: bytes, current: Value | None) -> None:
        if is_void(current):
            await self._bury_after(bucket, key, gone_of(current), current)

    # -- changing -----------------------------------------------------------------------------------------------------

    async def amend(
        self, bucket: Bucket, key: bytes, identifier: bytes | None, change: Amend, *, is_named: bool
    ) -> ObjectVersion:
        """Change a version in place, and nothing of its place; without `is_named` the current one.

        `change` is pure and may run several times; what it raises propagates. Errors: `NoSuchObjectError`,
        `NoSuchVersionError`; as `push`.
        """
        async with self._turn(bucket, key):
            tries = _Tries(self._registers, key)
            while True:
                current = await self.read(bucket, key)
                top = top_of(current)
                found = top if top is None or not is_named else await self.version(bucket, key, top, identifier)
                if not isinstance(found, ObjectVersion) or top is None:
                    raise NoSuchVersionError("the version does not exist") if is_named else _no_object()
                new = amended(found, change(found))
                if found is top:
                    done = await self._swap(bucket, key, current, new)
                else:
                    done = await self._amend_row(bucket, key, top, found, new)
                if done:
                    return new
                await tries.again()

    async def _amend_row(self, bucket: Bucket, key: bytes, top: Stacked, old: Stacked, new: Stacked) -> bool:
        """Change the row of an earlier version, then the top, so that who read the row before starts over."""
        if not await self._compare(bucket, Space.VERSIONS, row_key(key, id_of(old)), old, new):
            return False
        try:
            return await self._swap(bucket, key, top, marked(top, top.extras.gone))
        except (ContentionError, NoMajorityError) as error:
            raise UnknownOutcomeError(
                f"what was set on a version may or may not have taken effect: {error.message}", "read it to know"
            ) from error

    # -- parts --------------------------------------------------------------------------------------------------------

    async def _swap(
        self, bucket: Bucket, key: bytes, old: Value | None, new: Value | None, early: Early | None = None
    ) -> bool:
        """Replace exactly `old` in the key's register; False if it is something else by now."""
        return await self._compare(bucket, Space.OBJECTS, key, old, new, early)

    async def _compare(
        self,
        bucket: Bucket,
        space: Space,
        name: bytes,
        old: Value | None,
        new: Value | None,
        early: Early | None = None,
    ) -> bool:
        def decide(current: Value | None) -> Change:
            if current != old:
                raise _MovedError("changed meanwhile")
            return Write(new)

        conditional = bucket.rules.versioning is not Versioning.NEVER
        try:
            await self._registers.change(bucket.id, space, name, decide, early, conditional=conditional)
        except _MovedError:
            return False
        return True

    def _fence(self) -> Fence:
        """Return the time until which what is read from now on may be filed."""
        left_s = FILING_S - EARLY_S
        return Fence(self._now_ms() + int(left_s * 1000), trio.current_time() + left_s)

    @asynccontextmanager
    async def _turn(self, bucket: Bucket, key: bytes) -> AsyncIterator[None]:
        """Let changes of one stack by this node follow one another: side by side they would undo each other's tries."""
        await self._turns.take((bucket.id, key))
        try:
            yield
        finally:
            self._turns.give((bucket.id, key))


class _Tries:
    """How often and since when a change of a stack is tried."""

    def __init__(self, registers: Registers, key: bytes) -> None:
        self._registers = registers
        self._key = key
        self._count = 0
        self._began_s = trio.current_time()

    async def again(self) -> None:
        """Wait a little before the next one. Errors: `ContentionError` when others were faster for too long."""
        if trio.current_time() >= self._began_s + CONTENTION_S:
            shown = self._key.decode("utf-8", "backslashreplace")
            raise ContentionError(f"others kept changing the versions of {shown!r}; nothing was written", "retry")
        await self._registers.pause(self._count)
        self._count += 1


def _no_object() -> NoSuchObjectError:
    return NoSuchObjectError("no object has this key")
