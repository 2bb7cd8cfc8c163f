"""Which rows of this replica may have been written without a quorum? Knows no entry: it keeps one mark for each vault.

While a vault lets each side go on alone, any row may be known to its own replica only. When the vault goes back to
rounds, those rows are replaced by what a quorum chooses, and what is lost by that must be told from what a round left
unfinished. So the end of such an era is durable before the first round after it replaces anything.
"""

from __future__ import annotations

from typing import Final, Protocol

from meshhold.model.ids import VaultId
from meshhold.model.stamp import ZERO, Stamp, unpack_stamp

_PREFIX: Final = "alone until/"
_OPEN: Final = b"now"


class EraIndex(Protocol):
    """What eras need of the index: small durable values."""

    def setting(self, name: str) -> bytes | None:
        """Return a small durable value."""

    async def save_setting(self, name: str, value: bytes) -> None:
        """Make a small value durable."""


class Eras:
    """The last era of each vault in which replicas went on alone. Resources: borrows `index`."""

    def __init__(self, index: EraIndex) -> None:
        self._index = index
        self._marks: dict[VaultId, bytes] = {}

    def is_open(self, vault: VaultId) -> bool:
        """Tell whether the era lasts."""
        return self._mark(vault) == _OPEN

    def end(self, vault: VaultId) -> Stamp:
        """Return the ballot above which every row came by a round; `ZERO` if all did. The era must not be open."""
        mark = self._mark(vault)
        return unpack_stamp(mark) if mark else ZERO

    async def begin(self, vault: VaultId) -> None:
        """Let an era begin, durably."""
        await self._save(vault, _OPEN)

    async def close(self, vault: VaultId, horizon: Stamp) -> None:
        """End the era, durably; no row of it has a ballot above `horizon`."""
        await self._save(vault, horizon.pack())

    def _mark(self, vault: VaultId) -> bytes:
        mark = self._marks.get(vault)
        if mark is None:
            mark = self._marks[vault] = self._index.setting(_PREFIX + vault) or b""
        return mark

    async def _save(self, vault: VaultId, mark: bytes) -> None:
        await self._index.save_setting(_PREFIX + vault, mark)
        self._marks[vault] = mark
