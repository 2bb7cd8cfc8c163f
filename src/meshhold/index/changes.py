"""What must a commit write besides the rows it changes? Knows no transaction: the index says when.

Counts, bucket digests and names are summed up while the rows of a batch are written and go to their tables once, right
before the commit: a register that changed twice costs one name, a vault one row.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from typing import Final

from meshhold.crypto.hashing import hash_bytes
from meshhold.index.contract import BUCKETS, DIGEST_SIZE, bucket_of
from meshhold.model.ids import VaultId

NO_DIGESTS: Final = bytes(BUCKETS * DIGEST_SIZE)
"""The digests of a vault without rows."""
STATE_KEPT: Final = 0
STATE_LIVE: Final = 1
STATE_DELETED: Final = 2

SAVE_NAME: Final = "INSERT OR REPLACE INTO name(vault, bucket, space, key, accepted) VALUES(?, ?, ?, ?, ?)"
_REMOVE_NAME: Final = "DELETE FROM name WHERE vault = ? AND bucket = ? AND space = ? AND key = ?"
_DIGESTS: Final = "SELECT digests FROM vault WHERE number = ?"
_VAULT: Final = """INSERT INTO vault(number, id, objects, bytes, digests) VALUES(?, ?, ?, ?, ?)
    ON CONFLICT(number) DO UPDATE SET
    objects = objects + excluded.objects, bytes = bytes + excluded.bytes, digests = excluded.digests"""


def name_digest(space: int, key: bytes, accepted: bytes) -> int:
    """Return what one row adds to its bucket's digest; `accepted` is packed. See `Index.bucket_digests`.

    Errors: `OverflowError` for a key of 64 KiB or more.
    """
    named = b"".join((bytes((space,)), len(key).to_bytes(2, "big"), key, accepted))
    return int.from_bytes(hash_bytes(named)[:DIGEST_SIZE], "big")


def change_digests(digests: bytes, flips: dict[int, int]) -> bytes:
    """Return `digests` after each bucket's flip was XORed into it."""
    changed = bytearray(digests)
    for bucket, flip in flips.items():
        at = bucket * DIGEST_SIZE
        before = int.from_bytes(changed[at : at + DIGEST_SIZE], "big")
        changed[at : at + DIGEST_SIZE] = (before ^ flip).to_bytes(DIGEST_SIZE, "big")
    return bytes(changed)


class _VaultChanges:
    """What the batch has changed in one vault so far."""

    __slots__ = ("flips", "names", "objects", "size")

    def __init__(self) -> None:
        self.objects = 0
        self.size = 0
        self.flips: defaultdict[int, int] = defaultdict(int)
        self.names: dict[tuple[int, int, bytes], bytes | None] = {}
        """(bucket, space, key) → the packed ballot, or None for a row that went."""


class Changes:
    """Sums up one batch after the other."""

    def __init__(self) -> None:
        self._vaults: defaultdict[VaultId, _VaultChanges] = defaultdict(_VaultChanges)

    def note(
        self,
        vault: VaultId,
        space: int,
        key: bytes,
        before: tuple[int, int, bytes] | None,
        after: tuple[int, int, bytes] | None,
    ) -> None:
        """Learn that a row went from `before` to `after`, each (state, size, packed ballot), or None for no row."""
        changes = self._vaults[vault]
        flip = 0
        if before is not None:
            flip = name_digest(space, key, before[2])
            if before[0] == STATE_LIVE:
                changes.objects -= 1
                changes.size -= before[1]
        if after is not None:
            flip ^= name_digest(space, key, after[2])
            if after[0] == STATE_LIVE:
                changes.objects += 1
                changes.size += after[1]
        bucket = bucket_of(space, key)
        changes.flips[bucket] ^= flip
        changes.names[bucket, space, key] = None if after is None else after[2]

    def drop(self, writer: sqlite3.Connection, number: int | None, vault: VaultId) -> None:
        """Remove what is kept of a vault whose last row went, perhaps in this batch."""
        self._vaults.pop(vault, None)
        writer.execute("DELETE FROM name WHERE vault = ?", (number,))
        writer.execute("DELETE FROM vault WHERE number = ?", (number,))

    def write(self, writer: sqlite3.Connection, numbers: dict[str, int]) -> None:
        """Write what the batch summed up; runs last in its transaction."""
        for vault, changes in self._vaults.items():
            number = numbers[vault]
            row = writer.execute(_DIGESTS, (number,)).fetchone()
            digests = change_digests(NO_DIGESTS if row is None else row[0], changes.flips)
            writer.execute(_VAULT, (number, vault, changes.objects, changes.size, digests))
            names = sorted(changes.names.items())
            writer.executemany(SAVE_NAME, [(number, *name, ballot) for name, ballot in names if ballot is not None])
            writer.executemany(_REMOVE_NAME, [(number, *name) for name, ballot in names if ballot is None])

    def clear(self) -> None:
        """Begin the next batch: this one was committed or rolled back."""
        self._vaults.clear()
