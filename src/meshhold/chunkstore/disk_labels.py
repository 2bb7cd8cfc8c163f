"""Labels as files `<root>/<vault id>/label` beside a vault's chunks. Knows no record and no chunk.

The folder is the chunk store's: it makes it with the first chunk and removes it, label and all, with the vault. So a
label never makes one, and one that is being written when the vault goes is gone with it.
"""

# ruff: noqa: PTH104, PTH108, PTH208 - strings and `os` calls one by one: their order is the promise
from __future__ import annotations

import itertools
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from meshhold.chunkstore.labels import LABEL_SIZE_MAX
from meshhold.chunkstore.syscalls import read_whole, stat_of, sync_folder, sync_unseen, translated, write_whole
from meshhold.errors import InvalidError
from meshhold.model.ids import VaultId

_NAME: Final = "label"
_TEMPORARY: Final = "tmp"  # the chunk store's
_VAULT_NAME: Final = re.compile(r"[a-z2-7]{32}\Z")


class DiskLabels:
    """The contract of labels in the folders of a `DiskChunkStore` of the same `root`, which is to be there."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._names = itertools.count()

    def labelled(self) -> list[VaultId]:
        """Return the vaults whose folder has a label."""
        with translated("listing", self._root):
            names = [name for name in sorted(os.listdir(self._root)) if _VAULT_NAME.match(name)]
            return [VaultId(name) for name in names if stat_of(f"{self._root}/{name}/{_NAME}") is not None]

    def read(self, vault: VaultId) -> bytes | None:
        """Return the bytes of the file."""
        path = f"{self._folder(vault)}/{_NAME}"
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
        folder = self._folder(vault)
        if stat_of(folder) is None:
            return False
        temporary = f"{self._root}/{_TEMPORARY}/label-{next(self._names)}"
        with translated("writing a label to", self._root):
            try:
                self._write_aside(temporary, label)
                os.rename(temporary, f"{folder}/{_NAME}")
                sync_folder(folder)
            except FileNotFoundError:  # the vault was dropped meanwhile
                return False
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
        return True

    def _write_aside(self, path: str, label: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_whole(fd, label)
            sync_unseen(fd, path)
        finally:
            os.close(fd)

    def _folder(self, vault: VaultId) -> str:
        if not _VAULT_NAME.match(vault):
            raise InvalidError(f"{vault!r} is not a vault id")
        return f"{self._root}/{vault}"
