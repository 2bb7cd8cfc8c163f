"""What is true now, given all records seen? While its mesh lasts a map only moves forward. Knows no disk, no peer."""

from __future__ import annotations

from meshhold.registry.record import Kind, Record, check_authority, newer


class Registry:
    """The newest record of each kind and key. Records go in only with their authority checked.

    What lives is asked for at each change, for each vault, and deletions only add up: so what is asked for is kept in
    order, for each kind apart, until one of that kind changes.
    """

    def __init__(self) -> None:
        self._records: dict[tuple[Kind, str], Record] = {}
        self._by_kind: dict[Kind, dict[str, Record]] = {}
        self._live: dict[Kind, list[Record]] = {}
        self._deleted: dict[Kind, list[Record]] = {}

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
        self._by_kind.setdefault(record.kind, {})[record.key] = record
        self._changed(record.kind)
        return True

    def forget(self, kind: Kind, key: str) -> None:
        """Know nothing of it any more: it is another mesh's."""
        if self._records.pop((kind, key), None) is not None:
            del self._by_kind[kind][key]
            self._changed(kind)

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
        found = self._live.get(kind)
        if found is None:
            found = self._live[kind] = self._ordered(kind, deleted=False)
        return list(found)

    def deleted(self, kind: Kind) -> list[Record]:
        """Return the deletions of a kind, ordered by key."""
        found = self._deleted.get(kind)
        if found is None:
            found = self._deleted[kind] = self._ordered(kind, deleted=True)
        return list(found)

    def _ordered(self, kind: Kind, *, deleted: bool) -> list[Record]:
        records = self._by_kind.get(kind, {})
        return sorted((r for r in records.values() if r.deleted is deleted), key=lambda record: record.key)

    def _changed(self, kind: Kind) -> None:
        self._live.pop(kind, None)
        self._deleted.pop(kind, None)
