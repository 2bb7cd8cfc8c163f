"""What only the disk store can get wrong about slices and verification: foreign files, young folders, bad sectors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from meshhold.chunkstore import disk
from meshhold.chunkstore.disk import DiskChunkStore
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import InvalidError, StorageFailedError
from meshhold.model.ids import ChunkId, VaultId

VAULT = VaultId("a" * 32)
RAW = b"sealed bytes"
CHUNK = ChunkId(hash_bytes(RAW))


def folder_of(root: Path) -> Path:
    return root / VAULT / CHUNK.hex()[:2]


def test_files_that_are_no_chunks_are_not_listed(tmp_path: Path) -> None:
    store = DiskChunkStore(tmp_path)
    store.put(VAULT, CHUNK, RAW)
    for name in ("lost+found", ".nfs0001", "a" * 61, "a" * 63, "A" * 62, "g" * 62, "0" * 60 + "  "):
        (folder_of(tmp_path) / name).touch()
    assert store.list_slice(VAULT, CHUNK[0]) == [CHUNK]


def test_a_folder_that_changed_just_now_tells_no_mark(tmp_path: Path) -> None:
    """The next change may come within the same tick of the file system's clock."""
    store = DiskChunkStore(tmp_path)
    assert store.slice_mark(VAULT, CHUNK[0]) == 0
    store.put(VAULT, CHUNK, RAW)
    changed_ns = folder_of(tmp_path).stat().st_mtime_ns
    assert store.slice_mark(VAULT, CHUNK[0]) is None
    os.utime(folder_of(tmp_path), ns=(changed_ns, changed_ns - 3_000_000_000))
    assert store.slice_mark(VAULT, CHUNK[0]) == changed_ns - 3_000_000_000
    os.utime(folder_of(tmp_path), ns=(changed_ns, changed_ns + 3_600_000_000_000))
    assert store.slice_mark(VAULT, CHUNK[0]) is None, "a clock that was ahead tells nothing either"


def test_a_copy_that_cannot_be_read_is_not_good_and_a_put_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DiskChunkStore(tmp_path)
    store.put(VAULT, CHUNK, RAW)

    def fail(_fd: int, _size_max: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(disk, "read_whole", fail)
        assert not store.verify(VAULT, CHUNK)
        assert store.has(VAULT, CHUNK)
        assert store.put(VAULT, CHUNK, RAW, 1_700_000_000.0)
    assert store.verify(VAULT, CHUNK)


def test_a_disk_that_refuses_to_list_is_no_empty_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskChunkStore(tmp_path)
    store.put(VAULT, CHUNK, RAW)

    def fail(_path: str) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(StorageFailedError, match="listing"):
        store.list_slice(VAULT, CHUNK[0])


def test_a_vault_that_is_none_has_no_slices(tmp_path: Path) -> None:
    store = DiskChunkStore(tmp_path)
    for ask in (store.list_slice, store.slice_mark):
        with pytest.raises(InvalidError):
            ask(VaultId("../../etc"), 0)
