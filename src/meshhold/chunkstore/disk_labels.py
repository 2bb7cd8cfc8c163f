"""Labels as files `<root>/<vault id>/label` beside a vault's chunks. Knows no record and no chunk.

The folder is the chunk store's: it makes it with the first chunk and removes it, label and all, with the vault. So a
label never makes one, and one that is being written when the vault goes is gone with it.
"""

# ruff: noqa: PTH104, PTH108, PTH208 - strings and `os` calls one by one: their order is the promise
from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from meshhold.chunkstore.labels import LABEL_SIZE_MAX
from meshhold.chunkstore.places import is_vault_name, temporary_folder, vault_folder
from meshhold.chunkstore.syscalls import read_whole, stat_of, sync_folder, translated, write_unseen
from meshhold.errors import InvalidError
from meshhold.model.ids import VaultId

_NAME: Final = "label"


class DiskLabels:
    """The contract of labels in the folders of a `DiskChunkStore` of the same `root`, which is to be there."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._names = itertools.count()

    def labelled(self) -> list[VaultId]:
        """Return the vaults whose folder has a label."""
        with translated("listing", self._root):
            names = [name for name in sorted(os.listdir(self._root)) if is_vault_name(name)]
            return [VaultId(name) for name in names if stat_of(f"{self._root}/{name}/{_NAME}") is not None]

    def read(self, vault: VaultId) -> bytes | None:
        """Return the bytes of the file."""
        path = f"{vault_folder(self._root, vault)}/{_NAME}"
        with translated("reading a label from", self._root):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                return read_whole(fd, LABEL_SIZE_MAX)
            finally:
                os.close(fd)

    def write(self, vault: VaultId, label: bytes) -> bool:
        """Write aside, fsync, rename, fsync the folder. What a crash leaves aside the chunk store clears at start."""
        if len(label) > LABEL_SIZE_MAX:
            raise InvalidError(f"a label has at most {LABEL_SIZE_MAX} bytes, not {len(label)}")
        folder = vault_folder(self._root, vault)
        temporary = f"{temporary_folder(self._root)}/label-{next(self._names)}"
        with translated("writing a label to", self._root):
            if stat_of(folder) is None:
                return False
            try:
                write_unseen(temporary, label)
                os.rename(temporary, f"{folder}/{_NAME}")
                sync_folder(folder)
            except FileNotFoundError:  # the vault was dropped meanwhile
                return False
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
        return True
