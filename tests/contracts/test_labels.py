"""What labels beside chunks promise: one suite over the disk and the memory adapter."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshhold.chunkstore.disk import DiskChunkStore
from meshhold.chunkstore.disk_labels import DiskLabels
from meshhold.chunkstore.labels import LABEL_SIZE_MAX, Labels
from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.chunkstore.memory_labels import MemoryLabels
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import InvalidError, StorageFullError
from meshhold.model.ids import ChunkId, VaultId

VAULT, OTHER = VaultId("a" * 32), VaultId("b" * 32)


@dataclass
class Bench:
    """Labels, and a way to bring a vault's first chunk and to drop it."""

    labels: Labels
    fill: Callable[[VaultId], None]
    drop: Callable[[VaultId], None]


@pytest.fixture(params=["disk", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    store: DiskChunkStore | MemoryChunkStore
    if request.param == "memory":
        store = MemoryChunkStore()
        memory = MemoryLabels(lambda vault: next(store.scan(vault), None) is not None)

        def forget(vault: VaultId) -> None:
            store.drop_vault(vault)
            memory._labels.pop(vault, None)  # one folder holds both on a disk

        return Bench(memory, lambda vault: fill(store, vault), forget)
    store = DiskChunkStore(tmp_path / "chunks")
    return Bench(DiskLabels(tmp_path / "chunks"), lambda vault: fill(store, vault), store.drop_vault)


def fill(store: DiskChunkStore | MemoryChunkStore, vault: VaultId) -> None:
    store.put(vault, ChunkId(hash_bytes(b"sealed")), b"sealed")


def test_a_label_is_read_as_it_was_written(bench: Bench) -> None:
    bench.fill(VAULT)
    assert bench.labels.read(VAULT) is None
    assert bench.labels.write(VAULT, b"one")
    assert bench.labels.write(VAULT, b"another")
    assert (bench.labels.read(VAULT), bench.labels.labelled()) == (b"another", [VAULT])


def test_without_a_chunk_there_is_no_label(bench: Bench) -> None:
    assert not bench.labels.write(VAULT, b"label")
    assert (bench.labels.read(VAULT), bench.labels.labelled()) == (None, [])


def test_each_vault_has_its_own(bench: Bench) -> None:
    for vault in (OTHER, VAULT):
        bench.fill(vault)
        assert bench.labels.write(vault, vault.encode())
    assert bench.labels.labelled() == [VAULT, OTHER]
    assert bench.labels.read(OTHER) == OTHER.encode()


def test_a_label_goes_with_its_vault(bench: Bench) -> None:
    bench.fill(VAULT)
    bench.labels.write(VAULT, b"label")
    bench.drop(VAULT)
    assert bench.labels.labelled() == []


def test_what_is_too_large_is_refused(bench: Bench) -> None:
    bench.fill(VAULT)
    bench.labels.write(VAULT, b"label")
    with pytest.raises(InvalidError, match="at most"):
        bench.labels.write(VAULT, bytes(LABEL_SIZE_MAX + 1))
    assert bench.labels.read(VAULT) == b"label"


def test_a_file_that_is_too_large_is_no_label(tmp_path: Path) -> None:
    fill(DiskChunkStore(tmp_path), VAULT)
    (tmp_path / VAULT / "label").write_bytes(bytes(LABEL_SIZE_MAX + 1))
    assert DiskLabels(tmp_path).read(VAULT) is None


def test_other_files_beside_the_vaults_are_no_labels(tmp_path: Path) -> None:
    fill(DiskChunkStore(tmp_path), VAULT)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "label").write_bytes(b"label")
    assert DiskLabels(tmp_path).labelled() == []
    with pytest.raises(InvalidError, match="not a vault id"):
        DiskLabels(tmp_path).read(VaultId("../identity"))


def test_a_full_disk_leaves_the_earlier_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(DiskChunkStore(tmp_path), VAULT)
    labels = DiskLabels(tmp_path)
    labels.write(VAULT, b"earlier")

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", refuse)
        with pytest.raises(StorageFullError):
            labels.write(VAULT, b"later")
    assert labels.read(VAULT) == b"earlier"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_label_is_durable_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the calls is the promise: the file's fsync, the rename, the folder's fsync."""
    fill(DiskChunkStore(tmp_path), VAULT)
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def watch_fsync(fd: int) -> None:
        done.append("fsync " + Path(f"/proc/self/fd/{fd}").readlink().name)
        fsync(fd)

    def watch_rename(source: str, target: str) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "rename", watch_rename)
    DiskLabels(tmp_path).write(VAULT, b"label")
    assert done == ["fsync label-0", "rename", f"fsync {VAULT}"]
