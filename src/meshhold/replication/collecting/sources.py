"""Whose rows tell what a vault refers to, or may yet refer to? Those of every index replica. Judges no row."""

from __future__ import annotations

from meshhold.errors import UnavailableError
from meshhold.model.entry import Entry, Space, decode_entry
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.replication.chunks.walk import Rows
from meshhold.replication.index.contract import Replica, Scan
from meshhold.replication.index.registers import Registers


class OneReplica:
    """The rows of one replica, as it holds them in one epoch."""

    def __init__(self, node: NodeId, replica: Replica, epoch: int) -> None:
        self._node = node
        self._replica = replica
        self._epoch = epoch

    async def scan(
        self, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int
    ) -> list[tuple[bytes, Entry]]:
        """Return a page; see `walk.Rows`. Errors: `UnavailableError` if it does not vote; those of the link."""
        found: list[tuple[bytes, Entry]] = []
        while len(found) < limit:
            page = await self._replica.scan_page(self._epoch, vault, space, after, prefix, limit - len(found))
            if not isinstance(page, Scan):
                raise UnavailableError(
                    f"node {short_id(self._node)} does not tell what its index of vault {short_id(vault)} refers to",
                    "see `meshhold vault show`",
                )
            if not page.rows:
                break
            found += [(key, decode_entry(row.entry)) for key, row in page.rows]
            after = found[-1][0]
        return found


class Sources:
    """What has to be read so that no row is missed that is in force or may yet be, in one epoch of the index replicas.

    Every replica is read. A quorum would tell of all that was acknowledged; but a row that only one replica accepted,
    for a write that nobody was told of, comes into force when a read finds it, and then it must find its chunks. A
    replica that does not answer may hold such rows: nothing is collected until it does, or others keep the index.
    """

    def __init__(self, registers: Registers, vault: VaultId) -> None:
        self._registers = registers
        self._vault = vault
        self._configuration = registers.seats.configuration(vault)

    @property
    def epoch(self) -> int:
        """The epoch whose replicas are read."""
        return self._configuration.epoch

    def all(self) -> list[Rows]:
        """Return the rows to be walked. Errors of reading them: `UnavailableError`, `PeerError`."""
        nodes, epoch = self._configuration.nodes, self._configuration.epoch
        if len(nodes) == 1:
            return [self._registers]
        return [OneReplica(node, self._registers.replica(node), epoch) for node in nodes]

    def check_unchanged(self) -> None:
        """Errors: `UnavailableError` if others keep the index than when the walk began: a page may have missed some."""
        if self._registers.seats.configuration(self._vault) != self._configuration:
            raise UnavailableError(
                f"the index replicas of vault {short_id(self._vault)} changed while it was walked; nothing was removed",
                "collect again when the change has ended",
            )
