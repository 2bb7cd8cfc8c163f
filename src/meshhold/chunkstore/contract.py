"""What a place for sealed chunks promises. Knows no key: it sees ciphertext, and can verify it by name.

Methods block and are thread-safe: callers run them in worker threads. The order that makes a chunk durable is the
adapter's affair; that `put` returns only after it, is the contract.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from meshhold.model.ids import ChunkId, VaultId


class ChunkStat(NamedTuple):
    """One stored chunk: bytes of its sealed form, and when (seconds since 1970) it was last put."""

    chunk: ChunkId
    size: int
    touched_s: float


class Usage(NamedTuple):
    """Room for chunks, in bytes: what the store's file system has in all, and what is free to this process."""

    total: int
    free: int


class ChunkStore(Protocol):
    """Immutable sealed chunks by vault and id (the BLAKE3 hash of the bytes)."""

    def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes, touched_s: float | None = None) -> bool:
        """Keep `sealed` durably; return True if the chunk was not there yet, or only a damaged copy.

        Idempotent. A copy that is already there is verified and made durable; a damaged one is replaced. Its
        `touched_s` becomes now (None), or the one that is given unless what was there is younger: a copy that is made
        of another one keeps that one's age. After an exception nothing half-written is visible under the id.
        Errors: `StorageFullError`, `StorageFailedError`; `SyncFailedError` ends the process.
        """

    def get(self, vault: VaultId, chunk: ChunkId) -> bytes:
        """Return the chunk's bytes, verified against the id.

        Errors: `ChunkMissingError`; `ChunkCorruptError` after moving the bad copy to quarantine;
        `StorageFailedError` when the disk refuses to answer.
        """

    def get_cached(self, vault: VaultId, chunk: ChunkId, size_max: int) -> bytes | None:
        """Return the chunk's bytes, verified, if they are in memory and at most `size_max`; else None.

        For the event loop: it waits for no data from the disk. None says nothing about the chunk; ask `get`.
        """

    def has(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Tell whether a copy is there, without verifying it."""

    def stat(self, vault: VaultId, chunk: ChunkId) -> ChunkStat | None:
        """Return what is known of a copy without verifying it; None if there is none."""

    def verify(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Read the copy and tell whether it is good. A bad one goes to quarantine; an unreadable one is not good."""

    def renew(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Make `touched_s` of a stored chunk now, before something refers to it anew; False if it is not there.

        Atomic against `remove_if_unused_since`, like `put`.
        """

    def remove_if_unused_since(self, vault: VaultId, chunk: ChunkId, cutoff_s: float) -> bool:
        """Remove the chunk unless it was put or renewed at or after `cutoff_s`; return whether it is gone now.

        Atomic against `put`: a chunk that a `put` has acknowledged after this call began is not removed by it.
        """

    def scan(self, vault: VaultId) -> Iterator[ChunkStat]:
        """Yield the vault's chunks in the order of their ids, with bounded memory (one fan-out folder at a time)."""

    def list_slice(self, vault: VaultId, first: int) -> list[ChunkId]:
        """Return the ids that begin with the byte `first`, in order. Looks at names only, so it is quick."""

    def slice_mark(self, vault: VaultId, first: int) -> int | None:
        """Return a number that another one follows whenever ids come to, or go from, `list_slice`.

        None: it cannot be told now, because a change right after this one might go unseen. Take the mark before the
        list: a list of an equal mark is the same list.
        """

    def drop_vault(self, vault: VaultId) -> None:
        """Remove every chunk of the vault, quarantine included."""

    def quarantined(self, vault: VaultId) -> list[str]:
        """Return the names of the vault's quarantined files."""

    def usage(self) -> Usage:
        """Return the room that is left."""
