"""What ListObjectVersions shows, and what lies below a key's current version. Changes nothing, knows no XML.

A page looks at tops first, then at the rows of the same keys. A version that was there before the look began is met at
one of both: it is filed as a row before its top goes. Rows that are newer than the top are of a time after the look.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from meshhold.model.entry import ObjectVersion, Space
from meshhold.model.stamp import STAMP_SIZE
from meshhold.replication.index.registers import Registers
from meshhold.rules.stack import (
    Stacked,
    id_of,
    is_earlier,
    parse_id,
    row_key,
    rows_end,
    rows_of,
    shown_id,
    split_row_key,
    top_of,
)
from meshhold.store.directory import Bucket
from meshhold.store.stacks import Stacks

_PAGE: Final = 64  # rows per step on the event loop: 64 inline bodies are 1 MiB at most
_ABOVE: Final = b"\xff"  # no UTF-8 key holds it, so prefix + this is above every key that begins with prefix


@dataclass(frozen=True, slots=True)
class ShownVersion:
    """One version or delete marker of a key; `id` as S3 shows it."""

    key: bytes
    version: Stacked
    is_latest: bool

    @property
    def id(self) -> str:
        """The version's id as S3 shows it."""
        return shown_id(self.version)


@dataclass(slots=True)
class VersionsPage:
    """A page of versions: keys in order, and each key's newest first.

    The next one begins after `next_key` and, with it, `next_version`, which is `""` after a common prefix.
    """

    items: list[ShownVersion] = field(default_factory=list)
    prefixes: list[bytes] = field(default_factory=list)
    truncated: bool = False
    next_key: bytes = b""
    next_version: str = ""


class Versions:
    """Reads the versions of all keys. Resources: borrows the registers and the stacks."""

    def __init__(self, registers: Registers, stacks: Stacks) -> None:
        self._registers = registers
        self._stacks = stacks

    async def earlier(self, bucket: Bucket, key: bytes) -> list[ShownVersion]:
        """Return a key's versions below the current one, newest first; at most one of them is `null`.

        Memory is that of all: up to 16 KiB each where objects are small.
        """
        top = top_of(await self._stacks.read(bucket, key))
        if top is None:
            return []
        found = [row async for row in self._stacks.earlier(bucket, key, top)]
        return [ShownVersion(key, row, is_latest=False) for row in _without_hidden_nulls(top, found)]

    async def page(
        self, bucket: Bucket, prefix: bytes, delimiter: bytes, key_marker: bytes, version_marker: str, limit: int
    ) -> VersionsPage:
        """Return up to `limit` versions and common prefixes that come after a key and, with it, one of its versions.

        `version_marker` `""` skips every version of the key. Errors: `InvalidError` for a marker that is no id.
        """
        page = VersionsPage()
        if limit == 0:
            return page
        after = key_marker
        if version_marker:
            top = top_of(await self._stacks.read(bucket, key_marker))
            if top is not None and key_marker.startswith(prefix):
                mark = await self._mark(bucket, key_marker, top, version_marker)
                _add(page, await self._shown(bucket, [(key_marker, top)], mark, limit + 1), limit)
        elif delimiter and key_marker.startswith(prefix) and key_marker.find(delimiter, len(prefix)) >= 0:
            after = key_marker[: key_marker.find(delimiter, len(prefix)) + len(delimiter)] + _ABOVE
        while not page.truncated:
            rows = await self._registers.scan(bucket.id, Space.OBJECTS, after, prefix, _PAGE)
            tops = [(key, top) for key, entry in rows if (top := top_of(entry.value)) is not None]
            plain, common = _until_common(tops, prefix, delimiter)
            _add(page, await self._shown(bucket, plain, None, limit + 1 - _count(page)), limit)
            if common and not page.truncated:
                _add_prefix(page, common, limit)
            if not common and len(rows) < _PAGE:
                break
            after = common + _ABOVE if common else rows[-1][0]
        return page

    async def _mark(self, bucket: Bucket, key: bytes, top: Stacked, marker: str) -> bytes:
        """Return the id after which the versions of `key` go on; one that is gone by now tells that as well."""
        identifier = parse_id(marker)
        if identifier is not None:
            return identifier
        null = await self._stacks.version(bucket, key, top, None)
        return bytes(STAMP_SIZE) if null is None else id_of(null)

    async def _shown(
        self, bucket: Bucket, tops: list[tuple[bytes, Stacked]], mark: bytes | None, limit: int
    ) -> list[ShownVersion]:
        """Return up to `limit` versions of keys with these tops, in order; of the first key those older than `mark`."""
        found: list[ShownVersion] = []
        if not tops:
            return found
        rows = _Rows(self._registers, bucket, tops[0][0], tops[-1][0], mark)
        for key, top in tops:
            has_null = top.extras.is_null
            if mark is None or key != tops[0][0] or id_of(top) < mark:
                found.append(_show(key, top, is_latest=True))
            while len(found) < limit and (row := await rows.next_of(key)) is not None:
                identifier, value = row
                if is_earlier(identifier, value, top) and not (has_null and value.extras.is_null):
                    found.append(_show(key, value, is_latest=False))
                    has_null |= value.extras.is_null
            if len(found) >= limit:
                break
        return found


class _Rows:
    """The rows of the versions of keys from `first` to `last`, in their order."""

    def __init__(self, registers: Registers, bucket: Bucket, first: bytes, last: bytes, mark: bytes | None) -> None:
        self._registers = registers
        self._bucket = bucket
        self._after = rows_of(first) if mark is None else row_key(first, mark)
        self._end = rows_end(last)
        self._rows: deque[tuple[bytes, Stacked]] = deque()
        self._is_over = False

    async def next_of(self, key: bytes) -> tuple[bytes, Stacked] | None:
        """Return the next version of `key` and its id; None if there is none, and ever after."""
        while True:
            while self._rows and self._rows[0][0] < rows_of(key):  # of a key that has no top
                self._rows.popleft()
            if self._rows:
                if self._rows[0][0] > rows_end(key):
                    return None
                name, row = self._rows.popleft()
                return split_row_key(name)[1], row
            if self._is_over:
                return None
            page = await self._registers.scan(self._bucket.id, Space.VERSIONS, self._after, b"", _PAGE)
            self._rows.extend((name, live) for name, entry in page if (live := top_of(entry.value)) is not None)
            self._is_over = len(page) < _PAGE or page[-1][0] >= self._end
            self._after = page[-1][0] if page else self._after
            await trio.lowlevel.checkpoint()


def _show(key: bytes, version: Stacked, *, is_latest: bool) -> ShownVersion:
    """Return what is shown of a version: all but its content, of which a page would be megabytes."""
    shown = replace(version, content=b"") if isinstance(version, ObjectVersion) else version
    return ShownVersion(key, shown, is_latest)


def _until_common(
    tops: list[tuple[bytes, Stacked]], prefix: bytes, delimiter: bytes
) -> tuple[list[tuple[bytes, Stacked]], bytes]:
    """Return the keys before the first one with a common prefix, and that prefix, `b""` without one."""
    if delimiter:
        for at, (key, _) in enumerate(tops):
            cut = key.find(delimiter, len(prefix))
            if cut >= 0:
                return tops[:at], key[: cut + len(delimiter)]
    return tops, b""


def _count(page: VersionsPage) -> int:
    return len(page.items) + len(page.prefixes)


def _add(page: VersionsPage, found: list[ShownVersion], limit: int) -> None:
    room = limit - _count(page)
    page.truncated = len(found) > room
    page.items += found[:room]
    if found[:room]:
        last = page.items[-1]
        page.next_key, page.next_version = last.key, id_of(last.version).hex()


def _add_prefix(page: VersionsPage, common: bytes, limit: int) -> None:
    if _count(page) == limit:
        page.truncated = True
        return
    page.prefixes.append(common)
    page.next_key, page.next_version = common, ""


def _without_hidden_nulls(top: Stacked, rows: list[Stacked]) -> list[Stacked]:
    """Return the rows below a top without those `null` ones that a newer one hides."""
    shown = []
    has_null = top.extras.is_null
    for row in rows:
        if not (has_null and row.extras.is_null):
            shown.append(row)
            has_null |= row.extras.is_null
    return shown
