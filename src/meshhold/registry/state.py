"""What is true now, given all records seen? While its mesh lasts a map only moves forward. Knows no disk, no peer."""

from __future__ import annotations

from meshhold.registry.record import Kind, Record, check_authority, newer


class Registry:
    """The newest record of each kind and key. Records go in only with their authority checked."""

    def __init__(self) -> None:
        self._records: dict[tuple[Kind, str], Record] = {}

    def would_take(self, record: Record) -> bool:
        """Tell whether the record is newer than what is known. Its authority is not looked at."""
        known = self._records.get((record.kind, record.key))
        return known is None or (known != record and newer(known, record) is not known)

    def merge(self, record: Record) -> bool:
        """Take the record if it is newer than what is known; return whether anything changed.

        Errors: `IntegrityError` for a record that its author may not write; nothing changes then.
        """
        if not self.would_take(record):
            return False
        check_authority(record)
        self._records[record.kind, record.key] = record
        return True

    def forget(self, kind: Kind, key: str) -> None:
        """Know nothing of it any more: it is another mesh's."""
        self._records.pop((kind, key), None)

    def all(self) -> list[Record]:
        """Return every record, deletions included."""
        return list(self._records.values())

    def known(self, kind: Kind, key: str) -> Record | None:
        """Return the record, be it a deletion, or None if there never was one."""
        return self._records.get((kind, key))

    def get(self, kind: Kind, key: str) -> Record | None:
        """Return the record unless it was deleted or never known."""
        record = self._records.get((kind, key))
        return None if record is None or record.deleted else record

    def live(self, kind: Kind) -> list[Record]:
        """Return the records of a kind that are not deleted, ordered by key."""
        return sorted(
            (r for (k, _), r in self._records.items() if k is kind and not r.deleted), key=lambda record: record.key
        )

    def deleted(self, kind: Kind) -> list[Record]:
        """Return the deletions of a kind, ordered by key."""
        return sorted(
            (r for (k, _), r in self._records.items() if k is kind and r.deleted), key=lambda record: record.key
        )
