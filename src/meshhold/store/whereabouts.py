"""Which machine took the content of an entry? Knows members and the names of changes; knows no chunk and no link.

In this version the chunks of an object stay on the machine whose door took them. The name of a change says which one
that was.
"""

from __future__ import annotations

from collections.abc import Callable

from meshhold.errors import UnknownFormatError
from meshhold.model.ids import NodeId, OpId, VaultId, decode_id, short_id
from meshhold.model.stamp import unpack_stamp
from meshhold.registry.record import Kind
from meshhold.store.directory import TRUSTED, Directory


class Whereabouts:
    """Where content is that this node has not got. `name_of` gives a node's name. Resources: borrows the directory."""

    def __init__(self, directory: Directory, name_of: Callable[[NodeId], str] = short_id) -> None:
        self._directory = directory
        self._name_of = name_of

    def other_taker(self, vault: VaultId, op: OpId) -> str:
        """Return the name of the other trusted member that made a change; `""` for this node and who is none.

        What a member took that was removed since is nowhere: its absence is damage.
        """
        try:
            taker = unpack_stamp(op).node
        except UnknownFormatError:
            return ""
        me = self._directory.identity.node_id
        for record in self._directory.registry.live(Kind.MEMBER):
            if record.scope == vault and record.public["role"] == TRUSTED:
                node = NodeId(record.key.split("/", 1)[1])
                if node != me and decode_id(node)[: len(taker)] == taker:
                    return self._name_of(node)
        return ""
