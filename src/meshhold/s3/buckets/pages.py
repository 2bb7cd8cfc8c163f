"""Which buckets does a page of ListBuckets show? Knows no vault; callers pass what the sender may see.

Source: Amazon S3 API reference, "ListBuckets".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.query import Query
from meshhold.store.directory import Bucket

PAGE_MAX: Final = 10_000  # S3's own limit
_PARAMETERS: Final = frozenset(("max-buckets", "continuation-token", "prefix", "bucket-region"))


@dataclass(frozen=True, slots=True)
class BucketsPage:
    """What a request asks for: buckets whose name begins with `prefix` and comes after `after`, up to `limit`.

    `is_here` is false for another region than this one. `is_asked_for`: the request has any such parameter.
    """

    prefix: str
    after: str
    limit: int
    is_here: bool
    is_asked_for: bool

    def of(self, buckets: Sequence[Bucket]) -> tuple[list[Bucket], str]:
        """Return the page of `buckets`, sorted by alias, and the token of the next one; `""` after the last."""
        fitting = [b for b in buckets if self.is_here and b.alias.startswith(self.prefix) and b.alias > self.after]
        shown = fitting[: self.limit]
        more = len(fitting) > len(shown)
        return shown, base64.urlsafe_b64encode(shown[-1].alias.encode()).decode() if more else ""


def parse_page(query: Query, region: str) -> BucketsPage:
    """Return what the query asks for. Errors: `InvalidArgument`, naming the parameter."""
    return BucketsPage(
        prefix=query.get("prefix") or "",
        after=_after(query.get("continuation-token")),
        limit=_limit(query.get("max-buckets")),
        is_here=query.get("bucket-region") in (None, "", region),
        is_asked_for=not _PARAMETERS.isdisjoint(query.names()),
    )


def _limit(text: str | None) -> int:
    if not text:
        return PAGE_MAX
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= PAGE_MAX:
        raise _refusal("max-buckets", text, f"max-buckets must be an integer between 1 and {PAGE_MAX}, inclusive")
    return int(text)


def _after(token: str | None) -> str:
    if not token:
        return ""
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _refusal("continuation-token", token, "The continuation token provided is incorrect") from None


def _refusal(name: str, text: str, why: str) -> S3Error:
    return S3Error("InvalidArgument", why, fields={"ArgumentName": name, "ArgumentValue": text})
