"""What does a listing show of an entry? Knows no SQL: it maps stored values to listing rows."""

from __future__ import annotations

from meshhold.index.contract import Listed
from meshhold.model.entry import Entry, ObjectVersion


def listed_of(key: bytes, entry: Entry) -> Listed | None:
    """Return the listing row of a live object, or None for a tombstone, an upload or a part."""
    value = entry.value
    if not isinstance(value, ObjectVersion):
        return None
    sums = value.checksums
    checksum = f"{','.join(sorted(sums.values))}:{sums.kind}" if sums.values else ""
    return Listed(key, value.size, value.etag, value.modified_ms, checksum)
