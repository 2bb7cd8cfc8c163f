"""Labels in a dictionary: for tests. Knows no disk."""

from __future__ import annotations

from collections.abc import Callable

from meshhold.chunkstore.labels import LABEL_SIZE_MAX
from meshhold.errors import InvalidError
from meshhold.model.ids import VaultId


class MemoryLabels:
    """The contract of labels kept in memory; `has_chunks` tells whether there are chunks of a vault."""

    def __init__(self, has_chunks: Callable[[VaultId], bool] = lambda _vault: True) -> None:
        self._has_chunks = has_chunks
        self._labels: dict[VaultId, bytes] = {}

    def labelled(self) -> list[VaultId]:
        """Return the vaults that have a label, in order."""
        return sorted(self._labels)

    def read(self, vault: VaultId) -> bytes | None:
        """Return a vault's label."""
        return self._labels.get(vault)

    def write(self, vault: VaultId, label: bytes) -> bool:
        """Keep the label; "durable" here means until the process ends."""
        if len(label) > LABEL_SIZE_MAX:
            raise InvalidError(f"a label has at most {LABEL_SIZE_MAX} bytes, not {len(label)}")
        if self._has_chunks(vault):
            self._labels[vault] = label
        return vault in self._labels
