"""What the label on a vault's chunks promises: bytes that say what they are, kept beside them. Knows no record.

A disk may outlive the machine that it was in. Its chunks alone are of no use: where an object's chunks are is told by
the index, and where the index is kept as chunks is told by a record. So the records lie beside the chunks, one file for
each vault. Methods block and are thread-safe: callers run them in worker threads.
"""

from __future__ import annotations

from typing import Final, Protocol

from meshhold.model.ids import VaultId

LABEL_SIZE_MAX: Final = 8 << 20
"""Thousands of grants and rules fit; a larger file is no label, and is not read into memory to find out."""


class Labels(Protocol):
    """One label for each vault of which there are chunks."""

    def labelled(self) -> list[VaultId]:
        """Return the vaults that have a label, in order. Errors: `StorageFailedError`."""

    def read(self, vault: VaultId) -> bytes | None:
        """Return a vault's label, None if there is none, or one that is too large. Errors: `StorageFailedError`."""

    def write(self, vault: VaultId, label: bytes) -> bool:
        """Put the label in the place of an earlier one, durably; False, and nothing is there, without any chunk.

        After an exception the earlier one is there whole, or the new one.
        Errors: `InvalidError` for one that is too large; `StorageFullError`, `StorageFailedError`; `SyncFailedError`
        ends the process.
        """
