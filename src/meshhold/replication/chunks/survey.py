"""Who has which chunks, and are they enough? Asks all members of a vault side by side. Repairs and names nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.errors import ChunkCorruptError, ChunkMissingError, FatalError, MeshHoldError
from meshhold.model.ids import ChunkId, NodeId, VaultId, short_id
from meshhold.replication.chunks.holders import View
from meshhold.replication.chunks.survey_wire import State, Stock, Witness
from meshhold.replication.tasks import open_tasks

_LOG: Final = logging.getLogger("meshhold.check")
TRIES: Final = 2
"""A link that broke is made anew within seconds; a machine that fails twice is not waited for again."""
COUNTED_FOR_S: Final = 5.0
COUNT_PART: Final = 10
"""Counting takes at most every tenth moment, however many chunks there are and however often people ask."""


class Verdict(Enum):
    """How a chunk's copies are, from fine to worst."""

    FINE = "fine"
    MISPLACED = "misplaced"
    """There are enough copies, but not all where they belong."""
    UNDER_REPLICATED = "under_replicated"
    UNREACHABLE = "unreachable"
    """Nobody who answers has it, and not everybody answers."""
    CORRUPT = "corrupt"
    """Everybody answers, nobody has a sound copy, somebody has a damaged one."""
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One chunk: its verdict, how many sound copies there are, and how many damaged ones were found."""

    verdict: Verdict
    copies: int
    damaged: int


class Presence(Protocol):
    """Whoever knows which nodes can be asked."""

    def is_live(self, node: NodeId) -> bool:
        """Tell whether a node can be asked right now."""


class OwnWitness:
    """This node's chunks.

    `keeps_index` tells whether this node keeps a vault's index, `may_take` whether more chunks may come; `on_damage` is
    called with a vault of which a copy was found damaged, so that it is fetched anew.
    """

    def __init__(
        self,
        chunks: ChunkStore,
        run_blocking: RunBlocking,
        keeps_index: Callable[[VaultId], bool] = lambda _vault: False,
        *,
        on_damage: Callable[[VaultId], None] = lambda _vault: None,
        may_take: Callable[[VaultId], bool] = lambda _vault: True,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chunks = chunks
        self._run_blocking = run_blocking
        self._keeps_index = keeps_index
        self._on_damage = on_damage
        self._may_take = may_take
        self._now_s = now_s
        self._counted: dict[VaultId, tuple[float, int, int]] = {}  # good until, chunks, bytes

    async def survey(self, vault: VaultId, chunks: Sequence[ChunkId], *, deep: bool) -> list[State]:
        """Look in one thread; see `Witness`."""
        states = await self._run_blocking(self._look, vault, chunks, deep)
        if State.DAMAGED in states:
            self._on_damage(vault)
        return states

    def _look(self, vault: VaultId, chunks: Sequence[ChunkId], deep: bool) -> list[State]:
        if not deep:
            return [State.HERE if self._chunks.has(vault, chunk) else State.ABSENT for chunk in chunks]
        return [self._read(vault, chunk) for chunk in chunks]

    def _read(self, vault: VaultId, chunk: ChunkId) -> State:
        try:
            self._chunks.get(vault, chunk)
        except ChunkMissingError:
            return State.ABSENT
        except ChunkCorruptError:
            return State.DAMAGED
        return State.HERE

    async def stock(self, vault: VaultId) -> Stock:
        """Count, unless that was done a moment ago; see `Witness`."""
        may_take = self._may_take(vault)  # asked first: what came before the answer is counted
        good_until_s, chunks, size = self._counted.get(vault, (float("-inf"), 0, 0))
        began_s = self._now_s()
        if began_s >= good_until_s:
            chunks, size = await self._run_blocking(self._count, vault)
            now_s = self._now_s()
            good_for_s = max(COUNTED_FOR_S, COUNT_PART * (now_s - began_s)) if chunks else 0.0
            self._counted[vault] = (now_s + good_for_s, chunks, size)
        return Stock(chunks, size, self._chunks.usage().free, self._keeps_index(vault), may_take)

    def _count(self, vault: VaultId) -> tuple[int, int]:
        chunks = size = 0
        for stat in self._chunks.scan(vault):
            chunks += 1
            size += stat.size
        return chunks, size


class Survey:
    """One look at the copies of a vault's chunks, batch by batch.

    `witness_of` reaches any member, this node too. `silent` says who could not be asked, and why: whoever fails is
    asked no more in this survey, so that one machine that hangs costs its time-out once. `view` None stands for this
    node alone. Resources: borrows its collaborators.
    """

    def __init__(
        self,
        vault: VaultId,
        view: View | None,
        presence: Presence | None,
        witness_of: Callable[[NodeId], Witness],
        me: NodeId,
        *,
        deep: bool,
    ) -> None:
        self._vault = vault
        self._view = view
        self._presence = presence
        self._witness_of = witness_of
        self._deep = deep
        self.members = (me,) if view is None else view.members
        self._ring = frozenset(self.members if view is None else (member.node for member in view.ring.members))
        self.wanted = 1 if view is None else view.wanted
        self.silent: dict[NodeId, str] = {}

    async def look(self, chunks: Sequence[ChunkId]) -> list[Finding]:
        """Return what was found of each chunk. Errors: those of this node's disk; no other node's."""
        states: dict[NodeId, list[State]] = {}

        async def ask(node: NodeId) -> None:
            found = await self._ask(node, chunks)
            if found is not None:
                states[node] = found

        async with open_tasks() as nursery:
            for node in self.members:
                if node not in self.silent:
                    nursery.start_soon(ask, node)
        return [self._judge(chunk, {node: states[node][at] for node in states}) for at, chunk in enumerate(chunks)]

    async def _ask(self, node: NodeId, chunks: Sequence[ChunkId]) -> list[State] | None:
        for last in (*(False,) * (TRIES - 1), True):
            if self._presence is not None and not self._presence.is_live(node):
                self.silent[node] = "it is not connected"
                return None
            try:
                return await self._witness_of(node).survey(self._vault, chunks, deep=self._deep)
            except FatalError:
                raise
            except MeshHoldError as error:
                if self._presence is None:
                    raise
                _LOG.info("node %s does not tell of its chunks: %s", short_id(node), error)
                if last:
                    self.silent[node] = error.message
        return None

    def _judge(self, chunk: ChunkId, states: dict[NodeId, State]) -> Finding:
        having = {node for node, state in states.items() if state is State.HERE}
        damaged = sum(state is State.DAMAGED for state in states.values())
        return Finding(self._verdict(chunk, having, damaged), len(having), damaged)

    def _verdict(self, chunk: ChunkId, having: set[NodeId], damaged: int) -> Verdict:
        if not having:
            if self.silent:
                return Verdict.UNREACHABLE
            return Verdict.CORRUPT if damaged else Verdict.MISSING
        if self._view is None:
            return Verdict.FINE
        if len(having & self._ring) < self.wanted:  # a phone's copy is one to read from, not one to count on
            return Verdict.UNDER_REPLICATED
        return Verdict.FINE if having.issuperset(self._view.holders(chunk)) else Verdict.MISPLACED
