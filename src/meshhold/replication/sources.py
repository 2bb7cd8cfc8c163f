"""Whose rows tell what a vault refers to? A quorum's, or where each side goes on alone everybody's. Judges no row."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from meshhold.errors import FatalError, MeshHoldError, NoMajorityError, UnavailableError
from meshhold.model.configuration import Mode
from meshhold.model.entry import Entry, Space, decode_entry
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.replication.contract import Replica, Scan
from meshhold.replication.registers import Registers
from meshhold.replication.walk import Rows

_PROBE: Final = 1


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
    """What has to be read so that no row in force is missed, in one epoch of the index replicas.

    Rounds: a page that a quorum confirms holds everything that was acknowledged before it was asked for. Where each
    side goes on alone a change may be on any one replica, so the rows of every replica are read; what is kept aside is
    found that way always, and there a majority must answer.
    """

    def __init__(self, registers: Registers, vault: VaultId) -> None:
        self._registers = registers
        self._vault = vault
        self._configuration = registers.seats.configuration(vault)

    @property
    def epoch(self) -> int:
        """The epoch whose replicas are read."""
        return self._configuration.epoch

    async def of(self, space: Space) -> AsyncIterator[Rows]:
        """Yield the rows to be walked for a space. Errors: `NoMajorityError`, `UnavailableError`, `PeerError`."""
        configuration = self._configuration
        if len(configuration.nodes) == 1 or not (space is Space.CONFLICTS or configuration.mode is Mode.AVAILABLE):
            yield self._registers
            return
        answered: set[NodeId] = set()
        for node in configuration.nodes:
            rows = OneReplica(node, self._registers.replica(node), configuration.epoch)
            if configuration.mode is not Mode.AVAILABLE and not await self._answers(rows, space):
                continue
            answered.add(node)
            yield rows
        if not configuration.has_quorum(answered):
            raise NoMajorityError(
                f"too few index replicas of vault {short_id(self._vault)} tell what they keep aside",
                "start those machines, or see `meshhold vault show`",
            )

    async def _answers(self, rows: OneReplica, space: Space) -> bool:
        try:
            await rows.scan(self._vault, space, b"", b"", _PROBE)
        except FatalError:
            raise
        except MeshHoldError:
            return False
        return True

    def check_unchanged(self) -> None:
        """Errors: `UnavailableError` if others keep the index than when the walk began: a page may have missed some."""
        if self._registers.seats.configuration(self._vault) != self._configuration:
            raise UnavailableError(
                f"the index replicas of vault {short_id(self._vault)} changed while it was walked; nothing was removed",
                "collect again when the change has ended",
            )
