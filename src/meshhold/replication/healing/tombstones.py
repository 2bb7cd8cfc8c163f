"""Which deletions may be forgotten, and in which order? Asks all replicas; knows no wire.

A tombstone may go when no replica has, or can get, an older entry of its register: all hold it, or have forgotten it
for good. So it takes a stable configuration whose every seat votes and answers. All raise their floor above it; all are
asked twice whether they hold it (see `copying` for why twice); then all remove it, this node last, whose row is what
makes it try again. Whatever breaks off in between leaves tombstones that are harmless, and that go another time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from meshhold.errors import FatalError, MeshHoldError
from meshhold.index.contract import Name
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Space
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.replication.healing.copying import Copying
from meshhold.replication.healing.differences import NAMES_MAX, cut
from meshhold.replication.healing.fellow import Fellows
from meshhold.replication.healing.healing_wire import Phase
from meshhold.replication.index.seats import Seats
from meshhold.replication.tasks import open_tasks

SWEPT_MAX: Final = 512
"""Tombstones of one call: a commit of some 20 ms, and four short messages to each replica."""
VERSION_WINDOWS: Final = 3
"""Ballot windows that the tombstone of a version is kept at least: it fences whoever read the version as an object's
current one and is about to file it, up to a minute later. Two windows are for the clock of the node that wrote it,
which may be one behind while that of the node that forgets it is one ahead; what is left of the third is many times
that minute."""
_LOG: Final = logging.getLogger("meshhold.index")


class Tombstones:
    """Removes old deletions of vaults. Resources: borrows its collaborators."""

    def __init__(self, copying: Copying, seats: Seats, fellows: Fellows, now_ms: Callable[[], int]) -> None:
        self._copying = copying
        self._seats = seats
        self._fellows = fellows
        self._now_ms = now_ms
        self._positions: dict[VaultId, tuple[Space, bytes]] = {}

    async def sweep(self, vault: VaultId, older_than_ms: int) -> int:
        """Remove tombstones last accepted more than `older_than_ms` ago, on all replicas; return how many went here.

        Looks at up to `SWEPT_MAX` and goes on from there at the next call, round and round; see `round_ended`. Nothing
        younger than the ballot window goes, whatever is asked. Removes nothing, and ends the round, unless every
        replica votes and answers.
        Errors: those of this node's disk.
        """
        configuration = self._seats.adopted(vault)
        if configuration is None or configuration.is_joint or not self._seats.votes(vault):
            self._positions.pop(vault, None)
            return 0
        names = self._next(vault, older_than_ms)
        if not names:
            return 0
        gone = await self._remove(vault, configuration, names)
        if gone is None:
            self._positions.pop(vault, None)
            return 0
        return gone

    def round_ended(self, vault: VaultId) -> bool:
        """Tell whether the last call of `sweep` came to the end of the vault's tombstones, or gave up for now."""
        return vault not in self._positions

    def _next(self, vault: VaultId, older_than_ms: int) -> list[Name]:
        """Return the next tombstones that are old enough, as many as fit into a message, and move on."""
        now_ms, window_ms = self._now_ms(), self._copying.window_ms
        oldest_kept_ms = now_ms - max(older_than_ms, window_ms)
        oldest_version_ms = now_ms - max(older_than_ms, VERSION_WINDOWS * window_ms)
        found = self._copying.replica.index.tombstones(vault, self._positions.get(vault), SWEPT_MAX)
        fitting = cut(found)
        if len(found) < SWEPT_MAX <= NAMES_MAX and len(fitting) == len(found):
            self._positions.pop(vault, None)
        else:
            self._positions[vault] = fitting[-1].space, fitting[-1].key
        return [
            name
            for name in fitting
            if name.accepted.wall_ms < (oldest_version_ms if name.space is Space.VERSIONS else oldest_kept_ms)
        ]

    async def _remove(self, vault: VaultId, configuration: Configuration, names: list[Name]) -> int | None:
        """Remove what all replicas agree to; None if one of them has no part in it."""
        epoch = configuration.epoch
        others = [node for node in configuration.nodes if node != self._seats.node]
        try:
            await self._copying.fence(vault, epoch, names)
            if await self._ask(vault, epoch, others, names, Phase.FENCE) is None:
                return None
            for _ in range(2):
                agreed = await self._ask(vault, epoch, others, names, Phase.CONFIRM)
                if agreed is None:
                    return None
                agreed.append(await self._copying.confirm(vault, epoch, names))
                names = [name for name, flags in zip(names, zip(*agreed, strict=True), strict=True) if all(flags)]
                if not names:
                    return 0
            if await self._ask(vault, epoch, others, names, Phase.FORGET) is None:
                return None
            return await self._copying.forget(vault, epoch, names)
        except FatalError:
            raise
        except MeshHoldError as error:
            _LOG.info("tombstones of vault %s stay for now: %s", short_id(vault), error)
            return None

    async def _ask(
        self, vault: VaultId, epoch: int, others: Sequence[NodeId], names: Sequence[Name], phase: Phase
    ) -> list[list[bool]] | None:
        """Return what each of the others says of each name; None if one of them does not answer."""
        answers: list[list[bool]] = []

        async def ask(node: NodeId) -> None:
            try:
                answers.append(await self._fellows(node).sweep(vault, epoch, names, phase))
            except FatalError:
                raise
            except MeshHoldError as error:
                _LOG.info("tombstones of vault %s stay: node %s: %s", short_id(vault), short_id(node), error)

        if others:
            async with open_tasks() as nursery:
                for node in others:
                    nursery.start_soon(ask, node)
        else:
            await trio.lowlevel.checkpoint()
        return answers if len(answers) == len(others) else None
