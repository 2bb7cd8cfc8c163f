"""What the durable home of a node's index promises. Knows neither ballot rules nor sealing: it keeps rows.

Reads are synchronous and short: they run on the event loop, bounded by `limit`. Writes are grouped: many callers'
rows share one commit, and each caller returns when its own row is durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from meshhold.crypto.hashing import hash_bytes
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


class Change(NamedTuple):
    """One row to be saved, with what the index derives nothing of itself; see `projection.change_of`."""

    space: Space
    key: bytes
    row: Row
    listed: Listed | None
    """None unless it is a live object."""
    tombstone: bool = False
    """Whether the entry is a deletion, to be forgotten one day. A delete marker is none: it is an object's version."""


class Name(NamedTuple):
    """One row as replicas compare it: which register, and the ballot under which its entry was taken."""

    space: Space
    key: bytes
    accepted: Stamp


class Look(NamedTuple):
    """A stretch of a vault's objects as it was at one moment."""

    rows: list[Listed]
    """The live ones."""
    names: list[tuple[bytes, bytes]]
    """Keys and packed ballots of all rows of the stretch: tombstones and delete markers too."""
    is_whole: bool
    """Whether nothing with the prefix follows the last of the names."""


BUCKETS: Final = 1024
"""Buckets of a vault's registers: a digest of all is 8 KiB, and one bucket of a million rows is a page of names.
Replicas compare digests of each other, so neither this number nor the hashes below ever change."""
DIGEST_SIZE: Final = 8
"""Bytes of a bucket's digest: two buckets that differ by chance look equal once in 2^64."""

SAVE_MANY_MAX: Final = 1_000
"""Rows of one `save_many`: some 50 ms of which other writers wait for their turn."""


def bucket_of(space: int, key: bytes) -> int:
    """Return the bucket, from 0, of the register in `space` that `key` names; the same on every node."""
    return int.from_bytes(hash_bytes(bytes((space,)) + key)[:2], "big") & (BUCKETS - 1)


class Counts(NamedTuple):
    """Live objects of a vault and their plaintext bytes."""

    objects: int
    bytes: int


class Index(Protocol):
    """Rows of registers by vault, space and key (bytes order)."""

    def load(self, vault: VaultId, space: Space, key: bytes) -> Row | None:
        """Return the committed row, or None if there never was one (or its tombstone was removed)."""

    async def save(
        self, vault: VaultId, space: Space, key: bytes, row: Row, listed: Listed | None, *, tombstone: bool = False
    ) -> None:
        """Make the row durable, replacing what was there; `listed` and `tombstone` as in `Change`.

        Cancelling the wait does not undo the write. Rows saved by concurrent calls share a commit.
        Errors: `StorageFullError`, `StorageFailedError` (then the row is not there); a failed fsync is fatal.
        """

    async def save_many(self, vault: VaultId, changes: Sequence[Change]) -> None:
        """Make the rows durable in one commit: all or none; otherwise like `save` of each, in their order.

        Errors: `ValueError` for more than `SAVE_MANY_MAX` rows.
        """

    def list_keys(self, vault: VaultId, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """Return up to `limit` live objects whose key begins with `prefix` and is greater than `after`, in key order.

        The cost grows with `limit`, not with the number of keys or tombstones.
        """

    def look(self, vault: VaultId, after: bytes, prefix: bytes, limit: int, names_max: int) -> Look:
        """Return up to `limit` live objects as `list_keys` does, with the names of all rows among and before them.

        It is one query, so that a row and its name are of the same moment, whatever is being saved. It ends early
        when there are `names_max` names. Their ballots are as they are stored, like those of `ballots`.
        """

    def first_key(self, vault: VaultId, at_least: bytes, prefix: bytes) -> bytes | None:
        """Return the first live object's key that begins with `prefix` and is at least `at_least`; one seek."""

    def scan(self, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int) -> list[tuple[bytes, Row]]:
        """Return up to `limit` rows (tombstones too) whose key begins with `prefix` and is greater than `after`."""

    def bucket_digests(self, vault: VaultId) -> bytes:
        """Return `BUCKETS` digests of `DIGEST_SIZE` bytes, in the order of the buckets' numbers.

        A digest is the XOR over the bucket's rows, tombstones too, of the first 8 bytes of BLAKE3(space (1 byte),
        length of the key (2 bytes, big endian), key, accepted). It changes in the commit that changes the row, and
        replicas that hold the same rows have the same digests, whatever the order they came in. Cost: one read.
        """

    def bucket_names(
        self, vault: VaultId, bucket: int, limit: int, after: tuple[Space, bytes] | None = None
    ) -> list[Name]:
        """Return up to `limit` rows of a bucket, tombstones too, that come after `after`, by (space, key).

        The cost grows with `limit`, not with the number of rows in the vault.
        """

    def interval(self, vault: VaultId, space: Space, after: bytes, upto: bytes | None, limit: int) -> list[Name]:
        """Return up to `limit` rows, tombstones too, with `after` < key <= `upto` (None: to the end), in key order."""

    def ballots(
        self, vault: VaultId, space: Space, after: bytes, upto: bytes | None, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Return the keys and packed ballots of `interval`: half its cost, where names are compared and not looked at.

        The ballots are as they are stored: whoever unpacks one learns whether it is sound.
        """

    def tombstones(self, vault: VaultId, after: tuple[Space, bytes] | None, limit: int) -> list[Name]:
        """Return up to `limit` rows of all spaces that hold a deletion and come after `after`, by (space, key).

        The cost grows with `limit`, not with the number of live rows.
        """

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
