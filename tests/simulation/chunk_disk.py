"""Chunks on a disk that can be slow, full or broken, rot, be wiped, and loses what was not fsynced. Knows no node.

What a put acknowledged is durable. A renewal and a removal are not fsynced: a crash soon after them may undo them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from meshhold.chunkstore.contract import Usage
from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import StorageFailedError, StorageFullError
from meshhold.model.ids import ChunkId, VaultId

UNSYNCED_S: Final = 30.0
"""As long as a kernel keeps what nobody asked it to write."""


@dataclass(slots=True)
class ChunkIlls:
    """What is wrong with the disk at the moment.

    Chances are per call. A delay lies between half and all of `delay_s`; half of it passes after the work was done.
    """

    delay_s: float = 0.0
    write_fails: float = 0.0
    read_fails: float = 0.0
    full: bool = False


class _Unsynced(NamedTuple):
    """What a crash may bring back: how a copy was before a renewal or a removal at `at_s`."""

    at_s: float
    vault: VaultId
    chunk: ChunkId
    held: tuple[bytes, float]


Removed = Callable[[VaultId, ChunkId, bytes], None]


class SimulatedChunks(MemoryChunkStore):
    """A `ChunkStore` that survives its node's crashes. `up_s` is a clock that nobody sets wrong.

    `ills` may be changed at any time; `removed` is called after a chunk was removed.
    """

    def __init__(self, chance: random.Random, now: Callable[[], float], up_s: Callable[[], float]) -> None:
        super().__init__(now=now)
        self.ills = ChunkIlls()
        self.removed: Removed = lambda _vault, _chunk, _sealed: None
        self.chance = chance
        self.up_s = up_s
        self._unsynced: dict[tuple[VaultId, ChunkId], _Unsynced] = {}

    # -- the contract, on an ill disk --------------------------------------------------------------------------------

    def put(self, vault: VaultId, chunk: ChunkId, sealed: bytes, touched_s: float | None = None) -> bool:
        """See `ChunkStore.put`."""
        self._fail(self.ills.write_fails, "write")
        if self.ills.full and not self.is_good(vault, chunk):
            raise StorageFullError("the disk is full", "end the simulated ill")
        fresh = super().put(vault, chunk, sealed, touched_s)
        self._unsynced.pop((vault, chunk), None)
        return fresh

    def get(self, vault: VaultId, chunk: ChunkId) -> bytes:
        """See `ChunkStore.get`."""
        self._fail(self.ills.read_fails, "read")
        return super().get(vault, chunk)

    def verify(self, vault: VaultId, chunk: ChunkId) -> bool:
        """See `ChunkStore.verify`: an unreadable copy is not good."""
        try:
            return super().verify(vault, chunk)
        except StorageFailedError:
            return False

    def renew(self, vault: VaultId, chunk: ChunkId) -> bool:
        """See `ChunkStore.renew`."""
        self._fail(self.ills.write_fails, "write")
        self._remember(vault, chunk)
        return super().renew(vault, chunk)

    def remove_if_unused_since(self, vault: VaultId, chunk: ChunkId, cutoff_s: float) -> bool:
        """See `ChunkStore.remove_if_unused_since`."""
        self._fail(self.ills.write_fails, "write")
        held = self._vaults.get(vault, {}).get(chunk)
        self._remember(vault, chunk)
        gone = super().remove_if_unused_since(vault, chunk, cutoff_s)
        if gone and held is not None:
            self.removed(vault, chunk, held[0])
        return gone

    def usage(self) -> Usage:
        """See `ChunkStore.usage`."""
        found = super().usage()
        return Usage(found.total, 0) if self.ills.full else found

    def _fail(self, chance: float, verb: str) -> None:
        if chance and self.chance.random() < chance:
            raise StorageFailedError(f"the disk failed to {verb}", "end the simulated ill")

    def _remember(self, vault: VaultId, chunk: ChunkId) -> None:
        held = self._vaults.get(vault, {}).get(chunk)
        known = self._unsynced.get((vault, chunk))
        if held is not None and (known is None or known.at_s < self.up_s() - UNSYNCED_S):
            self._unsynced[vault, chunk] = _Unsynced(self.up_s(), vault, chunk, held)

    # -- what happens to it ------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Lose the power: each renewal and removal that was not written yet is undone, or not."""
        since_s = self.up_s() - UNSYNCED_S
        unsynced, self._unsynced = self._unsynced, {}
        for undone in unsynced.values():
            if undone.at_s >= since_s and self.chance.random() < 0.5:
                self._bring_back(undone)

    def _bring_back(self, undone: _Unsynced) -> None:
        chunks = self._vaults.setdefault(undone.vault, {})
        held = chunks.get(undone.chunk)
        if held is None:
            self._used += len(undone.held[0])
            chunks[undone.chunk] = undone.held
            self._mark(undone.vault, undone.chunk)
        elif held[0] == undone.held[0]:
            chunks[undone.chunk] = (held[0], min(held[1], undone.held[1]))

    def wipe(self) -> None:
        """Forget everything, as a new disk has."""
        for vault in list(self._vaults):
            self.drop_vault(vault)
        self._unsynced.clear()

    def damage(self, vault: VaultId, chunk: ChunkId) -> None:
        """Flip a bit of a copy, cut its end off, or make its bytes zero."""
        sealed, touched_s = self._vaults[vault][chunk]
        if not sealed:  # cut off at its beginning by an earlier damage
            return
        at = self.chance.randrange(len(sealed))
        bad = self.chance.choice(
            [
                sealed[:at] + bytes([sealed[at] ^ (1 << self.chance.randrange(8))]) + sealed[at + 1 :],
                sealed[:at],
                bytes(len(sealed)),
            ]
        )
        self._used += len(bad) - len(sealed)
        self._vaults[vault][chunk] = (bad, touched_s)

    # -- what a judge may see ----------------------------------------------------------------------------------------

    def names(self, vault: VaultId) -> list[ChunkId]:
        """Return the ids of all copies, good and bad, in order."""
        return sorted(self._vaults.get(vault, {}))

    def peek(self, vault: VaultId, chunk: ChunkId) -> bytes | None:
        """Return a good copy's bytes, changing nothing; None if there is none."""
        held = self._vaults.get(vault, {}).get(chunk)
        return held[0] if held is not None and hash_bytes(held[0]) == chunk else None

    def future_s(self, vault: VaultId, now_s: float) -> float:
        """Return how many seconds after `now_s` the youngest copy was touched, by a wrong clock; at least 0."""
        return max([0.0, *(held[1] - now_s for held in self._vaults.get(vault, {}).values())])

    def is_good(self, vault: VaultId, chunk: ChunkId) -> bool:
        """Tell whether a good copy is there."""
        return self.peek(vault, chunk) is not None
