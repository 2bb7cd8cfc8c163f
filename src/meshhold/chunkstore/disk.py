"""Chunks as files: which system calls, in which order, make one durable. Knows no key and no placement.

Layout: `<root>/<vault id>/<2 hex>/<62 hex>`, `<root>/<vault id>/quarantine/<64 hex>`, `<root>/tmp/`.

Rules:
1. A name under a vault appears by rename only, after the file's fsync; `put` returns after the folder's fsync.
2. A vault's folders are made and fsynced, up to the root, before the first put of this process relies on them.
3. Whatever changes a chunk's name (put, quarantine, remove) holds the lock of its two-digit folder.
4. A failed fsync of anything whose name others see is fatal: the kernel may have dropped the pages.
5. What is in `tmp` at start belongs to nobody: one process owns the root.
"""

# ruff: noqa: PTH100, PTH102, PTH103, PTH104, PTH108, PTH120, PTH208 - strings and `os` calls one by one: their order is the promise
from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from meshhold.chunkstore.contract import ChunkStat, Usage
from meshhold.chunkstore.places import is_vault_name, temporary_folder, vault_folder
from meshhold.chunkstore.room import Reclaimable, Room
from meshhold.chunkstore.syscalls import (
    is_no_room,
    read_cached,
    read_whole,
    stat_of,
    sync,
    sync_folder,
    translated,
    write_unseen,
)
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import ChunkCorruptError, ChunkMissingError, InvalidError, StorageFailedError
from meshhold.model.ids import CHUNK_ID_SIZE, ChunkId, VaultId

SEALED_SIZE_MAX: Final = 16 << 20
"""No chunk that is made comes near; a larger file is damaged, and is not read into memory to find out."""
RESERVE_BYTES: Final = 64 << 20
_FOLDERS: Final = 256
_QUARANTINE: Final = "quarantine"
_CHUNK_NAME: Final = re.compile(r"[0-9a-f]{62}\Z")
_NS: Final = 1_000_000_000
_SETTLED_NS: Final = 2 * _NS
"""The coarsest tick of a file system's times (FAT's)."""


class _Damaged(NamedTuple):
    """What is known of a copy that a put has to replace: bytes and time of change, 0 if there is none."""

    size: int
    stamp_ns: int


class DiskChunkStore:
    """The chunk contract on a local file system; `root` is made if it is not there.

    `reserve_bytes` stay free for the index; `capacity_bytes` bounds the chunks (quarantine apart; None: the disk
    decides), which are counted once, at the first call that needs it. `now` gives seconds since 1970. `reclaimable` is
    on the same disk until a put finds no room: then it gives some back, until there is enough or it has nothing left.
    Errors of the constructor: `StorageFailedError` if the root cannot be used.
    """

    def __init__(
        self,
        root: Path,
        *,
        reserve_bytes: int = RESERVE_BYTES,
        capacity_bytes: int | None = None,
        now: Callable[[], float] = time.time,
        reclaimable: Reclaimable | None = None,
    ) -> None:
        self._root = str(root)
        self._reclaimable = reclaimable
        self._tmp = temporary_folder(self._root)
        self._now = now
        self._names = itertools.count()
        self._stripes = [threading.Lock() for _ in range(_FOLDERS)]
        self._ready: set[VaultId] = set()
        self._making = threading.Lock()
        self._removals: dict[tuple[VaultId, ChunkId], object] = {}
        self._room = Room(reserve_bytes, capacity_bytes, self._free_bytes, self._count_bytes, reclaimable)
        with translated("opening", self._root):
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            shutil.rmtree(self._tmp, ignore_errors=True)
            os.makedirs(self._tmp, mode=0o700, exist_ok=True)
            sync_folder(os.path.dirname(os.path.abspath(self._root)))

    # -- the contract -----------------------------------------------------------------------------------------------

    def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes, touched_s: float | None = None) -> bool:
        """Keep `sealed` durably; the caller vouches that it hashes to `chunk`."""
        if len(sealed) > SEALED_SIZE_MAX:
            raise InvalidError(f"a sealed chunk has at most {SEALED_SIZE_MAX} bytes, not {len(sealed)}")
        folder, path = self._place(vault, chunk)
        with translated("writing a chunk to", self._root):
            self._room.ensure_counted()
            with self._stripes[chunk[0]]:
                try:
                    self._in_room(partial(self._make_folders, vault))
                    stamp, is_aged = _to_ns(self._now() if touched_s is None else touched_s), touched_s is not None
                    damaged = self._renew(path, chunk, len(sealed), stamp, is_aged=is_aged)
                    if damaged is not None:
                        # Whatever renewed the damaged copy meant the chunk.
                        self._write(path, sealed, damaged.size, max(stamp, damaged.stamp_ns) if is_aged else stamp)
                    sync_folder(folder)
                except BaseException:
                    self._ready.discard(vault)  # the folders may be gone: look again next time
                    raise
                self._removals.pop((vault, chunk), None)
        return damaged is not None

    def get(self, vault: VaultId, chunk: ChunkId) -> bytes:
        """Return the chunk's bytes, verified; a bad copy goes to quarantine."""
        _, path = self._place(vault, chunk)
        with translated("reading a chunk from", self._root):
            sealed = self._read_verified(path, chunk)
            if sealed is not None:
                return sealed
            with self._stripes[chunk[0]]:
                # A put may have replaced the bad copy meanwhile.
                sealed = self._read_verified(path, chunk)
                if sealed is not None:
                    return sealed
                self._quarantine(vault, chunk, path)
        raise ChunkCorruptError(
            f"chunk {chunk.hex()} of vault {vault} does not hash to its id; the copy is in quarantine",
            "check the disk; another copy, if there is one, repairs it",
        )

    def get_cached(self, vault: VaultId, chunk: ChunkId, size_max: int) -> bytes | None:
        """Return the chunk's bytes, verified, if the page cache holds all of them and they are at most `size_max`."""
        _, path = self._place(vault, chunk)
        try:
            sealed = read_cached(path, size_max)
        except OSError:
            return None
        return sealed if sealed is not None and hash_bytes(sealed) == chunk else None

    def has(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Tell whether a copy is there, without verifying it."""
        _, path = self._place(vault, chunk)
        with translated("looking for a chunk in", self._root):
            return stat_of(path) is not None

    def stat(self, vault: VaultId, chunk: ChunkId) -> ChunkStat | None:
        """Return size and age of a copy; None if there is none."""
        _, path = self._place(vault, chunk)
        with translated("looking for a chunk in", self._root):
            found = stat_of(path)
        return None if found is None else ChunkStat(chunk, found.st_size, found.st_mtime)

    def verify(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Tell whether a good copy is there; a bad one goes to quarantine, an unreadable one stays for a put."""
        try:
            self.get(vault, chunk)
        except (ChunkMissingError, ChunkCorruptError, StorageFailedError):
            return False
        return True

    def renew(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Make `touched_s` now without verifying the copy. Not fsynced: only this process collects."""
        _, path = self._place(vault, chunk)
        with translated("renewing a chunk in", self._root), self._stripes[chunk[0]]:
            stamp = _to_ns(self._now())
            try:
                os.utime(path, ns=(stamp, stamp))
            except FileNotFoundError:
                return False
            self._removals.pop((vault, chunk), None)
        return True

    def remove_if_unused_since(self, vault: VaultId, chunk: ChunkId, cutoff_s: float) -> bool:
        """Remove the chunk unless it was put or renewed at or after `cutoff_s`; a put that overtakes this call wins."""
        _, path = self._place(vault, chunk)
        claim = self._removals.setdefault((vault, chunk), object())
        with translated("removing a chunk from", self._root), self._stripes[chunk[0]]:
            overtaken = self._removals.pop((vault, chunk), None) is not claim
            found = stat_of(path)
            if found is None:
                return True
            if overtaken or found.st_mtime >= cutoff_s:
                return False
            os.unlink(path)
            self._room.give_back(found.st_size)
            return True

    def scan(self, vault: VaultId) -> Iterator[ChunkStat]:
        """Yield the vault's chunks in the order of their ids; one folder's names are in memory at a time."""
        base = self._vault_path(vault)
        for number in range(_FOLDERS):
            folder = f"{base}/{number:02x}"
            with translated("listing", folder):
                stats = [ChunkStat(chunk, stat.st_size, stat.st_mtime) for chunk, stat in _chunks_in(folder, number)]
            yield from sorted(stats)

    def list_slice(self, vault: VaultId, first: int) -> list[ChunkId]:
        """Return the ids of one folder, in order, without looking at its files."""
        folder = f"{self._vault_path(vault)}/{first:02x}"
        with translated("listing", folder):
            try:
                names = os.listdir(folder)
            except FileNotFoundError:
                return []
        head, is_chunk, read = f"{first:02x}", _CHUNK_NAME.match, bytes.fromhex
        return [ChunkId(read(head + name)) for name in sorted(names) if is_chunk(name)]

    def slice_mark(self, vault: VaultId, first: int) -> int | None:
        """Return when the folder's names changed last, in ns; 0 if there is no folder.

        The clock is the kernel's, as it is of the time that it is compared with: two changes within one tick of it
        leave the same time, so one that is young tells nothing.
        """
        folder = f"{self._vault_path(vault)}/{first:02x}"
        with translated("looking at", folder):
            found = stat_of(folder)
        if found is None:
            return 0
        return found.st_mtime_ns if time.time_ns() - found.st_mtime_ns >= _SETTLED_NS else None

    def drop_vault(self, vault: VaultId) -> None:
        """Remove the vault's folder whole: one rename takes it out of sight, then its files go."""
        gone = f"{self._tmp}/{next(self._names)}-{vault}"
        if self._reclaimable is not None:
            self._reclaimable.drop_vault(vault)
        with translated("removing a vault from", self._root):
            self._room.ensure_counted()
            with self._all_stripes():
                self._ready.discard(vault)
                with suppress(FileNotFoundError):
                    os.rename(self._vault_path(vault), gone)
                sync_folder(self._root)
            self._room.give_back(_bytes_in(gone))
            if stat_of(gone) is not None:
                shutil.rmtree(gone)

    def quarantined(self, vault: VaultId) -> list[str]:
        """Return the names of the vault's quarantined files, in order."""
        folder = f"{self._vault_path(vault)}/{_QUARANTINE}"
        with translated("listing", folder):
            try:
                return sorted(os.listdir(folder))
            except FileNotFoundError:
                return []

    def usage(self) -> Usage:
        """Return the room that is left: the least of the disk's (reserve apart) and the capacity's."""
        with translated("measuring", self._root):
            return self._room.usage()

    # -- putting ----------------------------------------------------------------------------------------------------

    def _make_folders(self, vault: VaultId) -> None:
        """See rule 2. All folders at once: two fsyncs for a vault instead of one for each folder."""
        if vault in self._ready:
            return
        with self._making:
            base = self._vault_path(vault)
            for folder in (base, *(f"{base}/{number:02x}" for number in range(_FOLDERS))):
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700)
            sync_folder(base)
            sync_folder(self._root)
            self._ready.add(vault)

    def _renew(self, path: str, chunk: ChunkId, size: int, stamp_ns: int, *, is_aged: bool) -> _Damaged | None:
        """Stamp a good copy that is there, durably: None; else tell what is there. `is_aged`: a younger one stays."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return _Damaged(0, 0)
        try:
            found = os.fstat(fd)
            damaged = _Damaged(found.st_size, found.st_mtime_ns)
            try:
                sealed = read_whole(fd, size)
            except OSError:  # an unreadable copy is a damaged copy: the new one takes its place
                return damaged
            if sealed is None or hash_bytes(sealed) != chunk:
                return damaged
            if not is_aged or stamp_ns > found.st_mtime_ns:
                os.utime(fd, ns=(stamp_ns, stamp_ns))
            sync(fd, path)
            return None
        finally:
            os.close(fd)

    def _write(self, path: str, sealed: bytes, replaced: int, stamp_ns: int) -> None:
        self._in_room(partial(self._write_once, path, sealed, stamp_ns))
        self._room.give_back(replaced)

    def _in_room(self, work: Callable[[], None]) -> None:
        """Do what may find no room, again as long as some is taken back: a quota is not seen in what is free."""
        while True:
            try:
                return work()
            except OSError as error:
                if not is_no_room(error) or not self._room.reclaim():
                    raise

    def _write_once(self, path: str, sealed: bytes, stamp_ns: int) -> None:
        self._room.take(len(sealed))
        temporary = f"{self._tmp}/{next(self._names)}"
        try:
            write_unseen(temporary, sealed, stamp_ns)
            os.rename(temporary, path)
        except BaseException:
            self._room.give_back(len(sealed))
            with suppress(OSError):
                os.unlink(temporary)
            raise

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read_verified(self, path: str, chunk: ChunkId) -> bytes | None:
        """Return the bytes, or None if they do not hash to the id."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ChunkMissingError(f"chunk {chunk.hex()} is not in the store") from error
        try:
            sealed = read_whole(fd, SEALED_SIZE_MAX)
        finally:
            os.close(fd)
        return sealed if sealed is not None and hash_bytes(sealed) == chunk else None

    def _quarantine(self, vault: VaultId, chunk: ChunkId, path: str) -> None:
        """Move the bad copy aside; a later bad copy of the same chunk takes its place, which bounds the folder."""
        folder = f"{self._vault_path(vault)}/{_QUARANTINE}"
        found = stat_of(path)
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        os.rename(path, f"{folder}/{chunk.hex()}")
        self._room.give_back(found.st_size if found else 0)

    # -- places and room --------------------------------------------------------------------------------------------

    def _vault_path(self, vault: VaultId) -> str:
        return vault_folder(self._root, vault)

    def _place(self, vault: VaultId, chunk: ChunkId) -> tuple[str, str]:
        if len(chunk) != CHUNK_ID_SIZE:
            raise InvalidError(f"a chunk id has {CHUNK_ID_SIZE} bytes, not {len(chunk)}")
        name = chunk.hex()
        folder = f"{self._vault_path(vault)}/{name[:2]}"
        return folder, f"{folder}/{name[2:]}"

    @contextmanager
    def _all_stripes(self) -> Iterator[None]:
        with ExitStack() as held:
            for stripe in self._stripes:
                held.enter_context(stripe)
            yield

    def _free_bytes(self) -> tuple[int, int]:
        found = os.statvfs(self._root)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def _count_bytes(self) -> int:
        with self._all_stripes():
            vaults = [name for name in os.listdir(self._root) if is_vault_name(name)]
            return sum(_bytes_in(f"{self._root}/{name}") for name in vaults)


def _to_ns(moment_s: float) -> int:
    """Return nanoseconds that, read back as seconds, are `moment_s`: not a product, which would round."""
    fraction, whole = math.modf(moment_s)
    return int(whole) * _NS + math.ceil(fraction * _NS)


def _chunks_in(folder: str, number: int) -> Iterator[tuple[ChunkId, os.stat_result]]:
    """Yield the chunks of one folder in no order; what vanishes meanwhile is left out."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            if _CHUNK_NAME.match(entry.name):
                with suppress(FileNotFoundError):
                    yield ChunkId(bytes([number]) + bytes.fromhex(entry.name)), entry.stat()


def _bytes_in(base: str) -> int:
    """Return the bytes of all chunks under a vault's folder."""
    return sum(stat.st_size for number in range(_FOLDERS) for _, stat in _chunks_in(f"{base}/{number:02x}", number))
