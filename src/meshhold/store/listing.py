"""What a listing shows: keys, common prefixes, where to go on. Knows no XML and no HTTP.

Cost follows the page, not the bucket: a common prefix is one seek, however many keys it hides. A page is put together
from what one replica holds, and again if the others do not confirm it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import trio

from meshhold.index.contract import Counts, Listed
from meshhold.replication.index.reading import Listings
from meshhold.replication.index.registers import Registers
from meshhold.store.directory import Bucket

PAGE_MAX: Final = 1000  # S3's largest page
_FIRST_STEP: Final = 16  # keys read after a common prefix: few, since the next one may follow at once
_ABOVE: Final = b"\xff"  # no UTF-8 key holds it, so prefix + this is above every key that begins with prefix


@dataclass(slots=True)
class Page:
    """A page of a listing. `resume_after` is None on the last page; else every later key is greater than it."""

    items: list[Listed] = field(default_factory=list)
    prefixes: list[bytes] = field(default_factory=list)
    resume_after: bytes | None = None
    last: bytes = b""
    """The last key or common prefix shown: what S3 calls the next marker."""


class Listing:
    """Lists the objects of a vault. Resources: borrows the registers."""

    def __init__(self, registers: Registers) -> None:
        self._registers = registers

    async def counts(self, bucket: Bucket) -> Counts | None:
        """Return how many objects the bucket has and their bytes, as one replica counts them; None if none answers."""
        return await self._registers.counts(bucket.id)

    async def page(self, bucket: Bucket, prefix: bytes, delimiter: bytes, after: bytes, limit: int) -> Page:
        """Return up to `limit` keys and common prefixes greater than `after`, in key order.

        `delimiter` `b""` asks for keys alone. A common prefix that equals `after` is taken as shown already.
        """
        if limit == 0:
            return Page()
        shown = len(after) - len(delimiter)  # where the delimiter is, if `after` is a common prefix
        if delimiter and after.startswith(prefix) and 0 <= after.find(delimiter, len(prefix)) == shown:
            after += _ABOVE
        reading = self._registers.open_reading(bucket.id)
        while True:
            if delimiter:
                page = await _grouped_page(reading, prefix, delimiter, after, limit)
            else:
                page = await _plain_page(reading, prefix, after, limit)
            if await reading.settle():
                return page


async def _plain_page(reading: Listings, prefix: bytes, after: bytes, limit: int) -> Page:
    rows = await reading.rows(after, prefix, limit + 1)
    page = Page(items=rows[:limit])
    if rows:
        page.last = page.items[-1].key
    if len(rows) > limit:
        page.resume_after = page.last
    return page


async def _grouped_page(reading: Listings, prefix: bytes, delimiter: bytes, after: bytes, limit: int) -> Page:
    page = Page()
    step = _FIRST_STEP
    while True:
        rows = await reading.rows(after, prefix, step)
        exhausted = len(rows) < step
        step = min(step * 4, PAGE_MAX)
        for row in rows:
            if len(page.items) + len(page.prefixes) == limit:
                page.resume_after = after
                return page
            at = row.key.find(delimiter, len(prefix))
            if at >= 0:
                common = row.key[: at + len(delimiter)]
                page.prefixes.append(common)
                page.last = common
                after = common + _ABOVE
                exhausted = False
                step = _FIRST_STEP
                break
            page.items.append(row)
            page.last = after = row.key
        if exhausted:
            return page
        await trio.lowlevel.checkpoint()
