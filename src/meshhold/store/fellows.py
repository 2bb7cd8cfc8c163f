"""What use-cases ask of the members of vaults about chunks; see `replication.chunks.fellowship`. Decides nothing."""

from __future__ import annotations

from typing import Protocol

from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.replication.chunks.holders import View
from meshhold.replication.chunks.survey_wire import Witness


class Present(Protocol):
    """Who keeps the chunks of a vault, and who answers."""

    def view(self, vault: VaultId) -> View | None:
        """Return who keeps a vault's chunks, or None if this node is no member."""

    def is_live(self, node: NodeId) -> bool:
        """Tell whether a node can be asked right now."""


class Counted(Present, Protocol):
    """… and what each of them has."""

    def witness_of(self, node: NodeId) -> Witness:
        """Return whoever tells of a node's chunks, this one's too."""


class Mendable(Counted, Protocol):
    """… and how what is amiss is put right."""

    def repair_soon(self, vault: VaultId, /) -> None:
        """Let repair look at a vault now."""


class Fetchable(Mendable, Protocol):
    """… and a chunk itself."""

    async def fetch(self, vault: VaultId, chunk: ChunkId, size_hint: int) -> bytes | None:
        """Return a chunk's bytes, verified, from another node; None if none that answers has it."""
