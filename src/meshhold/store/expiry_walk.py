"""One walk over a vault by its lifecycle: judges every key and upload, and removes what is due. Knows no schedule.

Each removal is a change of a register that happens only if the register still holds what was judged: an object that was
written anew, or tagged otherwise, in between stays, and is judged again the next time. A vault that keeps versions gets
a delete marker in place of a current object that ends, as S3 does it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import trio

from meshhold.errors import (
    ConflictError,
    FatalError,
    LockedError,
    MeshHoldError,
    NotFoundError,
    PreconditionFailedError,
)
from meshhold.model.entry import DeleteMarker, Entry, ObjectVersion, Space, Upload, Value
from meshhold.model.ids import VaultId
from meshhold.model.stamp import STAMP_SIZE
from meshhold.replication.index.registers import Registers
from meshhold.replication.tasks import open_tasks
from meshhold.rules.lifecycle import (
    DAY_MS,
    Due,
    Lifecycle,
    marker_due,
    object_due,
    object_prefixes,
    upload_due,
    upload_prefixes,
    version_due,
)
from meshhold.rules.stack import Stacked, id_of, is_versioned, shown_id, top_of
from meshhold.rules.versioning import Versioning
from meshhold.store.contract import DeleteCondition
from meshhold.store.directory import Bucket
from meshhold.store.objects import Objects
from meshhold.store.uploads import Uploads
from meshhold.store.versions import Versions

ROWS_PER_S: Final = 2_000
"""So fast an index is walked: ten million objects in an hour and a half, at 3 % of one core."""
EXAMPLES_MAX: Final = 100  # what is due that a report names
_PAGE: Final = 200  # rows between two pauses: none is longer than a request can bear
_REMOVALS_AT_ONCE: Final = 32  # half a group commit: the apps' own writes fit beside them
_LOG: Final = logging.getLogger("meshhold.lifecycle")

Progress = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class DueThing:
    """Something that is due; `what` is object, version, marker or upload."""

    what: str
    key: str
    rule: str
    due_ms: int


@dataclass(slots=True)
class ExpiryReport:
    """What one walk over a vault found and did; times in milliseconds since 1970, `bytes` are plaintext.

    `changed` were no longer as judged, `locked` are kept by a lock, `failed` could not be removed now; all of these are
    looked at again the next time. With `dry_run` nothing was removed and the counts say what would be.
    """

    vault: VaultId
    name: str
    dry_run: bool
    began_ms: int
    ended_ms: int = 0
    looked_at: int = 0
    objects: int = 0
    versions: int = 0
    markers: int = 0
    uploads: int = 0
    bytes: int = 0
    changed: int = 0
    locked: int = 0
    failed: int = 0
    error: str = ""
    examples: list[DueThing] = field(default_factory=list)

    @property
    def removed(self) -> int:
        """How many things went, or with `dry_run` would go."""
        return self.objects + self.versions + self.markers + self.uploads

    def summary(self) -> str:
        """Return the counts in words, for the log."""
        return (
            f"{self.objects} objects, {self.versions} versions, {self.markers} delete markers and {self.uploads} "
            f"uploads removed, {self.bytes} bytes"
        )


@dataclass(frozen=True, slots=True)
class Stores:
    """What a walk reads and changes. `sleep` paces it; a day of another length than the earth's is for tests."""

    registers: Registers
    objects: Objects
    uploads: Uploads
    versions: Versions
    day_ms: int = DAY_MS
    sleep: Callable[[float], Awaitable[object]] = trio.sleep


class Walk:
    """One walk over one vault; it fills its report as it goes. `holds` tells whether the rules are still in force.

    Resources: borrows its stores.
    """

    def __init__(
        self,
        stores: Stores,
        bucket: Bucket,
        lifecycle: Lifecycle,
        report: ExpiryReport,
        *,
        holds: Callable[[], bool],
        progress: Progress | None,
    ) -> None:
        self._stores = stores
        self._holds = holds
        self._bucket = bucket
        self._lifecycle = lifecycle
        self._report = report
        self._progress = progress
        self._now_ms = report.began_ms
        self._keeps_versions = bucket.rules.versioning is not Versioning.NEVER

    async def run(self) -> None:
        """Walk uploads first, then keys.

        Errors: those of reading the index; `ConflictError` as soon as the rules are no longer in force.
        """
        for prefix in upload_prefixes(self._lifecycle):
            async for page in self._pages(Space.UPLOADS, prefix):
                await self._side_by_side(self._judge_upload, page)
        for prefix in object_prefixes(self._lifecycle):
            async for page in self._pages(Space.OBJECTS, prefix):
                await self._side_by_side(self._judge_key, page)

    async def _pages(self, space: Space, prefix: bytes) -> AsyncIterator[list[tuple[bytes, Entry]]]:
        after = b""
        while page := await self._stores.registers.scan(self._bucket.id, space, after, prefix, _PAGE):
            if not self._holds():
                raise ConflictError(
                    "what is set on the bucket changed on the way", "the next walk goes by the new rules"
                )
            yield page
            after = page[-1][0]
            self._report.looked_at += len(page)
            if self._progress is not None:
                await self._progress({"looked at": self._report.looked_at, "due": self._report.removed})
            await self._stores.sleep(len(page) / ROWS_PER_S)

    async def _side_by_side(
        self, judge: Callable[[bytes, Value | None], Awaitable[None]], page: list[tuple[bytes, Entry]]
    ) -> None:
        """Judge a page's rows, a few at once. One that cannot be removed now does not stop the others."""
        slots = trio.Semaphore(_REMOVALS_AT_ONCE)

        async def guarded(key: bytes, value: Value | None) -> None:
            async with slots:
                try:
                    await judge(key, value)
                except FatalError:
                    raise
                except (PreconditionFailedError, NotFoundError):
                    self._report.changed += 1
                except LockedError:
                    self._report.locked += 1
                except MeshHoldError as error:
                    self._report.failed += 1
                    _LOG.warning("vault %s: what is due could not be removed now: %s", self._bucket.name, error)

        async with open_tasks() as nursery:
            for key, entry in page:
                if entry.value is not None and not self._stays(key, entry.value):
                    nursery.start_soon(guarded, key, entry.value)

    def _stays(self, key: bytes, value: Value) -> bool:
        """Tell at once of what most rows are: an object without versions whose time has not come."""
        if not isinstance(value, ObjectVersion) or self._keeps_versions or is_versioned(value):
            return False
        due = self._object_due(key, value)
        return due is None or due.at_ms > self._now_ms

    def _object_due(self, key: bytes, seen: ObjectVersion) -> Due | None:
        day_ms = self._stores.day_ms
        return object_due(self._lifecycle, key, seen.size, seen.extras.tags, seen.modified_ms, day_ms)

    # -- uploads ------------------------------------------------------------------------------------------------------

    async def _judge_upload(self, name: bytes, value: Value | None) -> None:
        if not isinstance(value, Upload):
            return
        key, identifier = name[: -STAMP_SIZE - 1], name[-STAMP_SIZE:]
        due = upload_due(self._lifecycle, key, value.initiated_ms, self._stores.day_ms)
        if not self._is_due("upload", key, due):
            return
        if not self._report.dry_run:
            await self._stores.uploads.abort(self._bucket, key, identifier.hex())
        self._report.uploads += 1

    # -- objects and their versions -----------------------------------------------------------------------------------

    async def _judge_key(self, key: bytes, value: Value | None) -> None:
        top = top_of(value)
        earlier = 0
        if top is not None and (is_versioned(value) or self._keeps_versions):
            earlier = await self._judge_earlier(key, top)
        if isinstance(top, ObjectVersion):
            await self._judge_object(key, top)
        elif top is not None and not earlier:
            await self._judge_marker(key, top)

    async def _judge_object(self, key: bytes, seen: ObjectVersion) -> None:
        if not self._is_due("object", key, self._object_due(key, seen)):
            return
        if not self._report.dry_run:
            # not a conditional request, which a vault whose machines go on alone would refuse: what is known here is
            # compared in the change itself
            await self._stores.objects.stacks.delete(self._bucket, key, partial(check_same, seen))
        self._report.objects += 1
        self._report.bytes += seen.size

    async def _judge_marker(self, key: bytes, seen: DeleteMarker) -> None:
        due = marker_due(self._lifecycle, key, seen.modified_ms, self._stores.day_ms)
        if not self._is_due("marker", key, due):
            return
        if not self._report.dry_run:
            await self._stores.objects.delete(self._bucket, key, AsJudged(seen=seen), shown_id(seen))
        self._report.markers += 1

    async def _judge_earlier(self, key: bytes, top: Stacked) -> int:
        """Judge the versions below the current one; return how many stay."""
        staying, since_ms = 0, top.modified_ms
        for newer, shown in enumerate(await self._stores.versions.earlier(self._bucket, key)):
            seen = shown.version
            size = seen.size if isinstance(seen, ObjectVersion) else None
            tags = seen.extras.tags
            due = version_due(self._lifecycle, key, size, tags, since_ms, newer, self._stores.day_ms)
            if not self._is_due("version", key, due) or (
                not self._report.dry_run and not await self._end_version(key, seen)
            ):
                staying += 1
            else:
                self._report.versions += 1
                self._report.bytes += size or 0
            since_ms = seen.modified_ms
        return staying

    async def _end_version(self, key: bytes, seen: Stacked) -> bool:
        """Remove an earlier version; tell whether it went. One that a lock keeps does not keep the others."""
        try:
            await self._stores.objects.delete(self._bucket, key, AsJudged(seen=seen), shown_id(seen))
        except LockedError:
            self._report.locked += 1
            return False
        except PreconditionFailedError:
            self._report.changed += 1
            return False
        return True

    def _is_due(self, what: str, key: bytes, due: Due | None) -> bool:
        """Tell whether something ends now; note it as an example."""
        if due is None or due.at_ms > self._now_ms:
            return False
        if len(self._report.examples) < EXAMPLES_MAX:
            shown = key.decode("utf-8", "backslashreplace")
            self._report.examples.append(DueThing(what, shown, due.rule, due.at_ms))
        return True


@dataclass(frozen=True, slots=True)
class AsJudged(DeleteCondition):
    """Lets go exactly the version that was judged, and what S3 never shows beside it: older ones called `null`."""

    seen: Stacked | None = None

    def check(self, version: Stacked | None) -> None:
        """Errors: `PreconditionFailedError`, and for a version that is gone too."""
        if self.seen is None or version is None or id_of(version) > id_of(self.seen):
            raise _changed()
        if id_of(version) == id_of(self.seen):
            check_same(self.seen, version)


def check_same(seen: Stacked, current: Value | None) -> None:
    """Let a removal pass if the version is the one that was judged: in content, tags and lock, wherever it lies.

    Errors: `PreconditionFailedError`.
    """
    found = top_of(current)
    if found is None or _placeless(found) != _placeless(seen):
        raise _changed()


def _placeless(version: Stacked) -> Stacked:
    """Return a version without what changes as others of its stack come and go."""
    return replace(version, extras=replace(version.extras, revision=0, gone=()))


def _changed() -> PreconditionFailedError:
    return PreconditionFailedError("the object is not the one that was judged", "lifecycle")
