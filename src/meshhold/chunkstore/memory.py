"""Chunks in a dictionary: for tests and simulations. Forgets everything with the process; knows no disk."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

from meshhold.chunkstore.contract import ChunkStat, Usage
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import ChunkCorruptError, ChunkMissingError, StorageFullError
from meshhold.model.ids import ChunkId, VaultId


class MemoryChunkStore:
    """The chunk contract kept in memory; `capacity_bytes` bounds it, `now` gives seconds since 1970."""

    def __init__(self, *, capacity_bytes: int = 1 << 30, now: Callable[[], float] = time.time) -> None:
        self._capacity = capacity_bytes
        self._now = now
        self._lock = threading.Lock()
        self._vaults: dict[VaultId, dict[ChunkId, tuple[bytes, float]]] = {}
        self._quarantine: dict[VaultId, dict[str, bytes]] = {}
        self._used = 0
        self._changes = itertools.count(1)
        self._marks: dict[tuple[VaultId, int], int] = {}

    def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes, touched_s: float | None = None) -> bool:
        """Keep `sealed`; "durable" here means until the process ends."""
        with self._lock:
            chunks = self._vaults.setdefault(vault, {})
            held = chunks.get(chunk)
            fresh = held is None or hash_bytes(held[0]) != chunk
            grown = len(sealed) - (len(held[0]) if held else 0)
            if fresh and self._used + grown > self._capacity:
                raise StorageFullError(f"the capacity of {self._capacity} bytes is used up", "raise the capacity")
            if fresh:
                self._used += grown
                self._mark(vault, chunk)
            stamp = self._now() if touched_s is None else touched_s
            if held is not None and touched_s is not None:
                stamp = max(stamp, held[1])
            chunks[chunk] = (sealed if fresh or held is None else held[0], stamp)
            return fresh

    def get(self, vault: VaultId, chunk: ChunkId) -> bytes:
        """Return the chunk's bytes, verified."""
        with self._lock:
            held = self._vaults.get(vault, {}).get(chunk)
            if held is None:
                raise ChunkMissingError(f"chunk {chunk.hex()} is not in the store")
            if hash_bytes(held[0]) == chunk:
                return held[0]
            self._drop(vault, chunk)
            self._quarantine.setdefault(vault, {})[chunk.hex()] = held[0]
        raise ChunkCorruptError(f"chunk {chunk.hex()} does not hash to its id; the copy is in quarantine")

    def get_cached(self, vault: VaultId, chunk: ChunkId, size_max: int) -> bytes | None:
        """Return the chunk's bytes, verified, if they are at most `size_max`."""
        held = self._vaults.get(vault, {}).get(chunk)
        small = held is not None and len(held[0]) <= size_max
        return held[0] if held is not None and small and hash_bytes(held[0]) == chunk else None

    def has(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Tell whether a copy is there."""
        return chunk in self._vaults.get(vault, {})

    def stat(self, vault: VaultId, chunk: ChunkId) -> ChunkStat | None:
        """Return size and age of a copy; None if there is none."""
        held = self._vaults.get(vault, {}).get(chunk)
        return None if held is None else ChunkStat(chunk, len(held[0]), held[1])

    def verify(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Tell whether a good copy is there; a bad one goes to quarantine."""
        try:
            self.get(vault, chunk)
        except (ChunkMissingError, ChunkCorruptError):
            return False
        return True

    def renew(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Make `touched_s` now; False if the chunk is not there."""
        with self._lock:
            chunks = self._vaults.get(vault, {})
            if chunk in chunks:
                chunks[chunk] = (chunks[chunk][0], self._now())
            return chunk in chunks

    def remove_if_unused_since(self, vault: VaultId, chunk: ChunkId, cutoff_s: float) -> bool:
        """Remove the chunk unless it was put or renewed at or after `cutoff_s`."""
        with self._lock:
            held = self._vaults.get(vault, {}).get(chunk)
            if held is not None and held[1] >= cutoff_s:
                return False
            if held is not None:
                self._drop(vault, chunk)
            return True

    def scan(self, vault: VaultId) -> Iterator[ChunkStat]:
        """Yield the chunks that are there when the scan begins, in the order of their ids."""
        with self._lock:
            stats = [ChunkStat(chunk, len(held[0]), held[1]) for chunk, held in self._vaults.get(vault, {}).items()]
        yield from sorted(stats)

    def list_slice(self, vault: VaultId, first: int) -> list[ChunkId]:
        """Return the ids that begin with this byte, in order."""
        with self._lock:
            return sorted(chunk for chunk in self._vaults.get(vault, {}) if chunk[0] == first)

    def slice_mark(self, vault: VaultId, first: int) -> int | None:
        """Return the number of the last change of the slice's names."""
        return self._marks.get((vault, first), 0)

    def drop_vault(self, vault: VaultId) -> None:
        """Forget the vault's chunks and quarantine."""
        with self._lock:
            for chunk in list(self._vaults.get(vault, {})):
                self._drop(vault, chunk)
            self._quarantine.pop(vault, None)

    def quarantined(self, vault: VaultId) -> list[str]:
        """Return the names in quarantine, in order."""
        return sorted(self._quarantine.get(vault, {}))

    def usage(self) -> Usage:
        """Return the capacity and what is left of it."""
        return Usage(self._capacity, max(self._capacity - self._used, 0))

    def _drop(self, vault: VaultId, chunk: ChunkId) -> None:
        self._used -= len(self._vaults[vault].pop(chunk)[0])
        self._mark(vault, chunk)

    def _mark(self, vault: VaultId, chunk: ChunkId) -> None:
        self._marks[vault, chunk[0]] = next(self._changes)
