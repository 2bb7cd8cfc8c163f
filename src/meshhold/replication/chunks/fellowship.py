"""The other members of a vault, for those who ask about chunks: who they are, what they have. Decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from meshhold.errors import FatalError, MeshHoldError
from meshhold.model.ids import ChunkId, NodeId, VaultId, short_id
from meshhold.replication.chunks.holder_contract import Holder
from meshhold.replication.chunks.holders import Holders, View
from meshhold.replication.chunks.survey_wire import Caller, RemoteWitness, Witness

_LOG: Final = logging.getLogger("meshhold.check")


class Fellowship:
    """Members of this node's vaults.

    `own` tells of this node's chunks, `holder_of` gives another node's, `repair_soon` lets repair look at a vault now.
    Resources: borrows its collaborators.
    """

    def __init__(
        self,
        holders: Holders,
        peers: Caller,
        own: Witness,
        holder_of: Callable[[NodeId], Holder],
        repair_soon: Callable[[VaultId], None],
    ) -> None:
        self.repair_soon = repair_soon
        self._holders = holders
        self._peers = peers
        self._own = own
        self._holder_of = holder_of

    def view(self, vault: VaultId) -> View | None:
        """Return who keeps a vault's chunks, or None if this node is no member."""
        return self._holders.view(vault)

    def is_live(self, node: NodeId) -> bool:
        """Tell whether a node can be asked right now."""
        return self._holders.is_live(node)

    def witness_of(self, node: NodeId) -> Witness:
        """Return whoever tells of a node's chunks, this one's too."""
        return self._own if node == self._holders.me else RemoteWitness(self._peers, node)

    async def fetch(self, vault: VaultId, chunk: ChunkId, size_hint: int) -> bytes | None:
        """Return a chunk's bytes, verified, from another node; None if none that answers has it."""
        view = self._holders.view(vault)
        for node in () if view is None else view.order(chunk):
            if node == self._holders.me or not self.is_live(node):
                continue
            try:
                return await self._holder_of(node).get(vault, chunk, size_hint)
            except FatalError:
                raise
            except MeshHoldError as error:
                _LOG.debug("no chunk %s from node %s: %s", chunk.hex(), short_id(node), error)
        return None
