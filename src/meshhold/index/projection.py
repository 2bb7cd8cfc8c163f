"""Which row does an entry become, and what does a listing show of it? Knows no SQL: it maps values to rows."""

from __future__ import annotations

from meshhold.index.contract import Change, Listed, Row
from meshhold.model.entry import Entry, ObjectVersion, Space, encode_entry
from meshhold.model.stamp import Stamp


def listed_of(key: bytes, entry: Entry) -> Listed | None:
    """Return the listing row of a live object, or None for a tombstone, an upload or a part."""
    value = entry.value
    if not isinstance(value, ObjectVersion):
        return None
    sums = value.checksums
    checksum = f"{','.join(sorted(sums.values))}:{sums.kind}" if sums.values else ""
    return Listed(key, value.size, value.etag, value.modified_ms, checksum)


def change_of(space: Space, key: bytes, accepted: Stamp, entry: Entry) -> Change:
    """Return the row to save for `entry` that was taken under the ballot `accepted`."""
    listed = listed_of(key, entry) if space is Space.OBJECTS else None
    return Change(space, key, Row(accepted, encode_entry(entry)), listed, entry.value is None)
