"""Gets one chunk from the nodes that may have it: the quickest keeper first, the next one on any doubt.

Whoever reaches a node verifies what it sends: bytes that do not hash to the chunk's name are an error, and another node
is asked. Knows neither keys nor this node's disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from meshhold.errors import (
    CallRefusedError,
    ChunkCorruptError,
    ChunkMissingError,
    ContentElsewhereError,
    FatalError,
    IntegrityError,
    MeshHoldError,
)
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.replication.chunks.byte_budget import ByteBudget
from meshhold.replication.chunks.holder_contract import Holding
from meshhold.replication.chunks.holders import Holders, View
from meshhold.replication.chunks.paces import Paces
from meshhold.replication.tasks import open_tasks

FETCHING_MAX: Final = 64 << 20
"""Bytes of chunks on their way here."""
SIDE_BY_SIDE_MAX: Final = 3
"""Nodes that are asked for one chunk at once: the first, and those asked because it takes long."""
ASKED_MAX: Final = 16
"""Members asked at once whether they have a chunk that those who should have not."""
NAMED_MAX: Final = 5
"""Machines that an error names; it counts the others."""
_ABSENT: Final = frozenset({ChunkMissingError.__name__, ChunkCorruptError.__name__})


class _Search:
    """One chunk that is looked for: what came back so far."""

    __slots__ = ("chunk", "doubts", "found", "news", "running", "size", "vault")

    def __init__(self, vault: VaultId, chunk: ChunkId, size: int) -> None:
        self.vault = vault
        self.chunk = chunk
        self.size = size
        self.doubts: dict[NodeId, MeshHoldError] = {}
        self.found: bytes | None = None
        self.running = 0
        self.news = trio.Event()

    def tell(self) -> None:
        """Wake who waits."""
        self.news.set()
        self.news = trio.Event()


class Fetching:
    """Fetches chunks from other nodes. `paces` is told how it went. Resources: borrows its collaborators."""

    def __init__(
        self,
        holders: Holders,
        holding_of: Callable[[NodeId], Holding],
        paces: Paces,
        name_of: Callable[[NodeId], str],
    ) -> None:
        self._holders = holders
        self._holding_of = holding_of
        self._paces = paces
        self._name_of = name_of
        self.budget = ByteBudget(FETCHING_MAX)

    async def fetch(self, view: View, vault: VaultId, chunk: ChunkId, size: int) -> bytes:
        """Return the chunk's sealed bytes, verified; `size` says about how many they are.

        Errors: `ChunkMissingError` if no member has it; `ContentElsewhereError` if one that cannot be asked may have.
        """
        search = _Search(vault, chunk, size)
        likely = self._likely(view, chunk, size)
        await self._ask(search, likely)
        if search.found is None:
            others = self._paces.by_readiness(self._askable(view.order(chunk), likely))
            await self._ask(search, await self._having(search, others))
        if search.found is None:
            raise self._verdict(search, view)
        return search.found

    def _likely(self, view: View, chunk: ChunkId, size: int) -> list[NodeId]:
        """Return those who are to keep it, the quickest first, and as many who may have stood in for them."""
        keepers = sorted(self._askable(view.holders(chunk)), key=lambda node: self._cost_s(node, size))
        stand_ins = self._askable(view.order(chunk), keepers)[: view.factor]
        return self._paces.by_readiness([*keepers, *stand_ins])

    def _askable(self, nodes: Iterable[NodeId], but: Sequence[NodeId] = ()) -> list[NodeId]:
        me = self._holders.me
        return [node for node in nodes if node != me and node not in but and self._holders.is_live(node)]

    def _cost_s(self, node: NodeId, size: int) -> float:
        """Return how long a node is likely to take; of one that was not measured lately only the way is known."""
        known_s = self._paces.measured_s(node, size)
        if known_s is None:
            known_s = self._holders.rtt_s(node)
        return float("inf") if known_s is None else known_s

    async def _ask(self, search: _Search, nodes: Sequence[NodeId]) -> None:
        """Ask one after the other until one has sent the chunk; the next one also when the last takes long."""
        waiting = list(nodes)
        async with open_tasks() as nursery:
            while search.found is None and (waiting or search.running):
                patience_s = float("inf")
                if waiting and search.running < SIDE_BY_SIDE_MAX:
                    node = waiting.pop(0)
                    search.running += 1
                    nursery.start_soon(self._get, search, node)
                    if waiting and search.running < SIDE_BY_SIDE_MAX:  # no longer than the next one would be given
                        patience_s = min(self._paces.patience_s(each, search.size) for each in (node, waiting[0]))
                news = search.news
                with trio.move_on_after(patience_s):
                    await news.wait()
            nursery.cancel_scope.cancel()

    async def _get(self, search: _Search, node: NodeId) -> None:
        began_s: float | None = None
        is_over = False
        try:
            async with self.budget.held(search.size):
                began_s = trio.current_time()
                sealed = await self._holding_of(node).get(search.vault, search.chunk, search.size)
            is_over = True
            self._paces.note(node, search.size, trio.current_time() - began_s)
            search.found = sealed
        except FatalError:
            raise
        except MeshHoldError as error:
            is_over = True
            search.doubts[node] = error
            if not _is_absent(error) or isinstance(error, ChunkCorruptError):  # it sent other bytes: ask it last
                self._paces.fail(node)
        finally:
            if not is_over and began_s is not None:  # another was faster: this one would have taken longer than that
                self._paces.note_unfinished(node, search.size, trio.current_time() - began_s)
            search.running -= 1
            search.tell()

    async def _having(self, search: _Search, nodes: Sequence[NodeId]) -> list[NodeId]:
        """Return those of the nodes that say that they have the chunk."""
        having: set[NodeId] = set()
        turns = trio.CapacityLimiter(ASKED_MAX)

        async def ask(node: NodeId) -> None:
            async with turns:
                try:
                    flags = await self._holding_of(node).has(search.vault, [search.chunk])
                except FatalError:
                    raise
                except MeshHoldError as error:
                    search.doubts[node] = error
                    self._paces.fail(node)
                    return
            if flags == [True]:
                having.add(node)
            else:
                search.doubts[node] = ChunkMissingError(f"{self._name_of(node)} does not have it")

        async with open_tasks() as nursery:
            for node in nodes:
                nursery.start_soon(ask, node)
        return [node for node in nodes if node in having]

    def _verdict(self, search: _Search, view: View) -> MeshHoldError:
        """Return why nobody sent the chunk."""
        silent = [
            node
            for node in view.members
            if node != self._holders.me and (node not in search.doubts or not _is_absent(search.doubts[node]))
        ]
        if not silent:
            return ChunkMissingError(f"no machine has chunk {search.chunk.hex()} of vault {search.vault}")
        names = sorted(self._name_of(node) for node in silent)
        shown = ", ".join(names[:NAMED_MAX]) + (f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else "")
        return ContentElsewhereError(
            f"no machine that answers has a part of the content, and {shown} cannot be asked",
            "start these machines, or wait until they are reachable; see `meshhold node list`",
        )


def _is_absent(error: MeshHoldError) -> bool:
    """Tell whether a node's answer means that it has no good copy."""
    return isinstance(error, IntegrityError) or (isinstance(error, CallRefusedError) and error.kind in _ABSENT)
