"""Which chunks that others keep are on this disk too, for reading only, and when do they give way? Knows no key.

Knows no placement and no other node either. Nothing here counts as a copy, is shown to a peer or outlives the process.

Layout: `<root>/<number of the process's run>/<number>`, sealed bytes as a holder keeps them.

Rules:
1. Nothing is fsynced: every read verifies the bytes by their name, and drops what does not hash to it.
2. What is in the root at start belongs to nobody. It is never looked at, and goes in `sweep`.
3. A file has one name in its life, and whoever takes its entry out of the index removes it: no two threads do.
4. As much as the cache may take is also to be free on the disk, beyond what the chunk store reserves; otherwise it does
   not grow, and its oldest chunks go until that is free: it uses `used + free - reserve - size_max` bytes at most.
5. No failure of the disk reaches the caller: it is a miss.
"""

# ruff: noqa: PTH102, PTH108, PTH208 - strings and `os` calls one by one, as in the store beside it
from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from meshhold.chunkstore.new_file import BLOCK, open_with
from meshhold.chunkstore.syscalls import read_cached, read_whole
from meshhold.crypto.hashing import hash_bytes
from meshhold.model.ids import ChunkId, VaultId

ENTRIES_MAX: Final = 65_536
"""Chunks: what is known of each takes some 300 bytes of memory, so 20 MiB in all, and 64 GiB of large objects."""
GIVEN_BACK_AT_ONCE: Final = 32 << 20
"""Bytes that a chunk without room gets: twice what the store writes before it asks again how much is free. Not all at
once, since to remove 65,536 small files takes seconds."""
_COMPLAINT_EVERY_S: Final = 60.0
_LOG: Final = logging.getLogger("meshhold.chunks")


class CacheUse(NamedTuple):
    """Bytes and chunks that are here, and the most bytes there may be; reads that found theirs here, and the others."""

    used: int
    size_max: int
    chunks: int
    hits: int
    misses: int


class _Kept(NamedTuple):
    """One cached chunk: whose it is, its file's name, and its bytes."""

    vault: VaultId
    number: int
    size: int


class ChunkCache:
    """Sealed chunks by id, the least recently used of which go first. Thread-safe; methods block.

    `size_max` bounds the bytes on disk (0: nothing is ever kept), `entries_max` the chunks. `reserve_bytes` is what the
    chunk store leaves free on the same disk. `now_s` is a clock that only goes forward. The folder above `root` is to
    be there by the first put.
    """

    def __init__(
        self,
        root: Path,
        size_max: int,
        *,
        reserve_bytes: int,
        entries_max: int = ENTRIES_MAX,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = str(root)
        self._size_max = size_max
        self._reserve = reserve_bytes
        self._entries_max = entries_max
        self._now_s = now_s
        self._names = itertools.count()
        self._kept: OrderedDict[ChunkId, _Kept] = OrderedDict()
        self._of_vault: Counter[VaultId] = Counter()
        self._used = 0
        self._hits = 0
        self._misses = 0
        self._quiet_until_s = -float("inf")
        self._lock = threading.Lock()
        """Held for the index, never for a system call: the event loop takes it too."""
        self._changing = threading.Lock()
        """Held by whoever adds, or makes room: what is freed is not taken by another thread meanwhile."""
        self._leftovers = self._list_root()
        self._folder = f"{self._root}/{_next_number(self._leftovers)}"

    @property
    def used(self) -> int:
        """The bytes on disk, in whole blocks."""
        return self._used

    def use(self) -> CacheUse:
        """Return how full it is, and what it was good for."""
        with self._lock:
            return CacheUse(self._used, self._size_max, len(self._kept), self._hits, self._misses)

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, chunk: ChunkId) -> bytes | None:
        """Return the chunk's bytes, verified; None if they are not here, or not any more."""
        kept = self._find(chunk)
        if kept is None:
            with self._lock:
                self._misses += 1
            return None
        try:
            sealed = self._read(kept)
        except OSError as error:
            if self._forget(chunk, kept):
                self._complain(error)
            return None
        if not self._is_hit(chunk, sealed):
            self._forget(chunk, kept)
            return None
        return sealed

    def get_cached(self, chunk: ChunkId, size_max: int) -> bytes | None:
        """Return the chunk's bytes, verified, if they are in memory and at most `size_max`; else None.

        For the event loop: it waits for no data from the disk. None says nothing about the chunk; ask `get`.
        """
        kept = self._find(chunk)
        if kept is None:
            return None
        try:
            sealed = read_cached(self._path(kept.number), size_max)
        except OSError:
            return None
        return sealed if self._is_hit(chunk, sealed) else None

    def _is_hit(self, chunk: ChunkId, sealed: bytes | None) -> bool:
        """Tell whether these are the chunk's bytes; count them if so."""
        if sealed is None or hash_bytes(sealed) != chunk:
            return False
        with self._lock:
            self._hits += 1
        return True

    def _find(self, chunk: ChunkId) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(chunk)
            if kept is not None:
                self._kept.move_to_end(chunk)
            return kept

    def _read(self, kept: _Kept) -> bytes | None:
        """Return the file's bytes, None if they are more than were written."""
        fd = os.open(self._path(kept.number), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_whole(fd, kept.size)
        finally:
            os.close(fd)

    # -- keeping ----------------------------------------------------------------------------------------------------

    def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes) -> bool:
        """Keep a copy, if there is room, or older ones can make some; tell whether there is one now.

        The caller vouches that `sealed` hashes to `chunk`.
        """
        if _on_disk(len(sealed)) > self._size_max:
            return False
        with self._changing:
            with self._lock:
                if chunk in self._kept:
                    return True
            number = next(self._names)
            try:
                self._make_folder()
                if not self._make_room(_on_disk(len(sealed))):
                    return False
                os.close(open_with(self._path(number), sealed))
            except OSError as error:
                self._unlink([number])
                self._complain(error)
                return False
            with self._lock:
                self._kept[chunk] = _Kept(vault, number, len(sealed))
                self._of_vault[vault] += 1
                self._used += _on_disk(len(sealed))
        return True

    def _make_folder(self) -> None:
        """Make what is not there; not the folder above the root, whose disk may have been taken away."""
        try:
            os.mkdir(self._folder, 0o700)
        except FileExistsError:
            return
        except FileNotFoundError:
            os.mkdir(self._root, 0o700)
            os.mkdir(self._folder, 0o700)

    def _make_room(self, size: int) -> bool:
        """Let the oldest go until `size` more bytes are within all bounds; tell whether they are."""
        allowed = self._allowed()
        self._trim(max(allowed - size, 0), self._entries_max - 1)
        return size <= allowed

    def _allowed(self) -> int:
        """Return how many bytes the cache may use now: see rule 4."""
        found = os.statvfs(self._folder)
        return min(self._size_max, self._used + found.f_bavail * found.f_frsize - self._reserve - self._size_max)

    # -- giving way -------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove what earlier processes left."""
        with self._changing:
            self._sweep()

    def _sweep(self) -> bool:
        """As `sweep`, in the lock; tell whether there was anything."""
        had_any = bool(self._leftovers)
        while self._leftovers:
            shutil.rmtree(f"{self._root}/{self._leftovers.pop()}", ignore_errors=True)
        return had_any

    def give_back(self) -> bool:
        """Remove what earlier processes left, or some of the oldest chunks; tell whether there was anything."""
        with self._changing:
            return self._sweep() or self._trim(max(self._used - GIVEN_BACK_AT_ONCE, 0), self._entries_max)

    def drop_vault(self, vault: VaultId) -> None:
        """Remove the chunks of a vault."""
        with self._changing:
            self._drop([vault])

    def tend(self, vaults: Collection[VaultId]) -> None:
        """Keep chunks of these vaults only, and let the oldest go until rule 4 holds; to be called now and then."""
        if not self._used:
            return
        with self._changing:
            with self._lock:
                gone = [vault for vault in self._of_vault if vault not in vaults]
            if gone:
                self._drop(gone)
            try:
                self._trim(max(self._allowed(), 0), self._entries_max)
            except OSError as error:
                self._complain(error)

    def _trim(self, used_max: int, entries_max: int) -> bool:
        """Let the oldest go until the bounds hold; tell whether any went."""
        numbers = []
        with self._lock:
            while self._used > used_max or len(self._kept) > entries_max:
                _, oldest = self._kept.popitem(last=False)
                self._subtract(oldest)
                numbers.append(oldest.number)
        self._unlink(numbers)
        return bool(numbers)

    def _drop(self, vaults: Collection[VaultId]) -> None:
        with self._lock:
            gone = {chunk: kept for chunk, kept in self._kept.items() if kept.vault in vaults}
            for chunk, kept in gone.items():
                del self._kept[chunk]
                self._subtract(kept)
        self._unlink(kept.number for kept in gone.values())

    def _forget(self, chunk: ChunkId, kept: _Kept) -> bool:
        """Drop one chunk; False if another thread has done so, or put another copy in its place."""
        with self._lock:
            if self._kept.get(chunk) is not kept:
                return False
            del self._kept[chunk]
            self._subtract(kept)
        self._unlink([kept.number])
        return True

    def _subtract(self, kept: _Kept) -> None:
        """Count one chunk less; the lock is held."""
        self._used -= _on_disk(kept.size)
        self._of_vault[kept.vault] -= 1
        if not self._of_vault[kept.vault]:
            del self._of_vault[kept.vault]

    def _unlink(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            try:
                os.unlink(self._path(number))
            except FileNotFoundError:
                continue
            except OSError as error:
                self._complain(error)

    # -- places and complaints --------------------------------------------------------------------------------------

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number}"

    def _list_root(self) -> list[str]:
        try:
            return os.listdir(self._root)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._complain(error)
            return []

    def _complain(self, error: OSError) -> None:
        """Say once a minute at most that the cache is of no use."""
        with self._lock:
            if self._now_s() < self._quiet_until_s:
                return
            self._quiet_until_s = self._now_s() + _COMPLAINT_EVERY_S
        _LOG.warning(
            "the read cache in %s failed (%s); reads go on without it: check the disk, its mount and permissions, "
            "or turn it off with node.cache_size: 0",
            self._root,
            error.strerror,
        )


def _next_number(names: Iterable[str]) -> int:
    """Return a number that is no folder's name yet."""
    return max((int(name) for name in names if name.isascii() and name.isdigit()), default=-1) + 1


def _on_disk(size: int) -> int:
    """Return the bytes that a file of `size` bytes takes."""
    return -(-size // BLOCK) * BLOCK
