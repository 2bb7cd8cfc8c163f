"""How fast does repair go, and when does it stand in for somebody? Values that people choose; decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from meshhold.replication import throttle
from meshhold.replication.chunks.holders import OUT_AFTER_S
from meshhold.replication.repair.transfers import BYTES_PER_S


@dataclass(frozen=True, slots=True)
class Settings:
    """How repair of one node is.

    `bytes_per_s`: what it fetches and gives away, all vaults together. A lower rate leaves lines and disks to apps, and
    leaves chunks with too few copies for longer. `out_after_s`: how long a member is away before others stand in for
    it. Shorter means that fewer copies are missing for less time, and that an update of a machine moves its share to
    and fro. Where nodes differ in it, surplus copies wait until the last of them agrees.
    """

    bytes_per_s: float = BYTES_PER_S
    out_after_s: float = OUT_AFTER_S

    @property
    def index_bytes_per_s(self) -> float:
        """How fast an index is brought up to date: no faster than chunks."""
        return min(self.bytes_per_s, throttle.BYTES_PER_S)
