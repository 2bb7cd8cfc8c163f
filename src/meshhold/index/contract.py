"""What the durable home of a node's index promises. Knows neither ballot rules nor sealing: it keeps rows.

Reads are synchronous and short: they run on the event loop, bounded by `limit`. Writes are grouped: many callers'
rows share one commit, and each caller returns when its own row is durable.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from meshhold.model.entry import Space
from meshhold.model.ids import VaultId
from meshhold.model.stamp import Stamp


class Row(NamedTuple):
    """What a replica durably holds of one register: the ballot it accepted last, and the entry in its stored form."""

    accepted: Stamp
    entry: bytes


class Listed(NamedTuple):
    """What a listing shows of one live object; derived from its entry when the row is saved."""

    key: bytes
    size: int
    etag: str
    modified_ms: int
    checksum: str
    """Algorithm (and `:kind`) of the object's checksum, or `""`."""


class Counts(NamedTuple):
    """Live objects of a vault and their plaintext bytes."""

    objects: int
    bytes: int


class Index(Protocol):
    """Rows of registers by vault, space and key (bytes order)."""

    def load(self, vault: VaultId, space: Space, key: bytes) -> Row | None:
        """Return the committed row, or None if there never was one (or its tombstone was removed)."""

    async def save(self, vault: VaultId, space: Space, key: bytes, row: Row, listed: Listed | None) -> None:
        """Make the row durable, replacing what was there; `listed` is None unless it is a live object.

        Cancelling the wait does not undo the write. Rows saved by concurrent calls share a commit.
        Errors: `StorageFullError`, `StorageFailedError` (then the row is not there); a failed fsync is fatal.
        """

    def list_keys(self, vault: VaultId, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """Return up to `limit` live objects whose key begins with `prefix` and is greater than `after`, in key order.

        The cost grows with `limit`, not with the number of keys or tombstones.
        """

    def first_key(self, vault: VaultId, at_least: bytes, prefix: bytes) -> bytes | None:
        """Return the first live object's key that begins with `prefix` and is at least `at_least`; one seek."""

    def scan(self, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int) -> list[tuple[bytes, Row]]:
        """Return up to `limit` rows (tombstones too) whose key begins with `prefix` and is greater than `after`."""

    async def forget(self, vault: VaultId, space: Space, keys: list[tuple[bytes, Stamp]]) -> int:
        """Remove those rows that still hold exactly this accepted ballot; return how many went."""

    async def drop_vault(self, vault: VaultId) -> None:
        """Remove every row of the vault, durably."""

    def counts(self, vault: VaultId) -> Counts:
        """Return live objects and bytes; kept up to date by `save`, so the cost is one read."""

    def setting(self, name: str) -> bytes | None:
        """Return a small durable value of this replica (horizon, schema facts)."""

    async def save_setting(self, name: str, value: bytes) -> None:
        """Make a small value durable."""


class Records(Protocol):
    """The registry's records as they are persisted: opaque bytes by kind and key. Loaded whole at start."""

    def load_records(self) -> list[tuple[str, str, bytes]]:
        """Return every record as (kind, key, stored form)."""

    async def save_records(self, records: list[tuple[str, str, bytes]]) -> None:
        """Make the records durable in one commit: all or none."""

    async def forget_records(self, names: list[tuple[str, str]]) -> None:
        """Drop the records of these kinds and keys in one commit; unknown ones are no error."""
