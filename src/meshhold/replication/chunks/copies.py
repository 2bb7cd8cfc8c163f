"""Where a vault's chunks are kept and found: here and on other nodes, as the vault's view says. Knows no key, no index.

A vault whose only member is this node costs nothing more than the chunk store: whoever asks `is_alone` first may use
the store itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.cache import ChunkCache
from meshhold.chunkstore.contract import ChunkStore
from meshhold.errors import (
    ChunkCorruptError,
    ChunkMissingError,
    FatalError,
    MeshHoldError,
    StorageFailedError,
    UnavailableError,
)
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.replication.chunks.byte_budget import ByteBudget
from meshhold.replication.chunks.fetching import Fetching
from meshhold.replication.chunks.holder_contract import Holding
from meshhold.replication.chunks.holders import Holders, View
from meshhold.replication.chunks.keeping import Keeping
from meshhold.replication.chunks.paces import Paces
from meshhold.replication.chunks.tally import Tally
from meshhold.replication.tasks import Background, open_tasks
from meshhold.sealing.chunker import CHUNK_SIZE

RENEWED_AT_ONCE: Final = 512
"""Chunks whose renewal is asked for in one message: 16 KiB."""
MENDED_AT_ONCE: Final = 2
"""Chunks with too few copies that a renewal copies side by side."""
BACK_MAX: Final = 16 << 20
"""Bytes of fetched chunks that wait to be put back here; beyond it repair does it."""
CACHED_MAX: Final = 16 << 20
"""Bytes of fetched chunks that wait for the read cache, which one thread at a time fills; beyond it they go nowhere."""
_MANIFEST_MAX: Final = CHUNK_SIZE + 1024
"""What a chunk of unknown size is expected to have at most."""


class Copies:
    """The copies of all chunks, as one node reaches them.

    `holding_of` gives the chunks of another node. `is_alone_allowed` tells of a vault whether one copy is enough while
    others are away; `fell_short` is told of a vault in which a write has fewer copies than wanted, or on others than
    those who are to keep them; `damaged` of a chunk that this node is to have and has not. `run` must run.
    Resources: borrows its collaborators.
    """

    def __init__(
        self,
        holders: Holders,
        chunks: ChunkStore,
        run_blocking: RunBlocking,
        holding_of: Callable[[NodeId], Holding],
        *,
        name_of: Callable[[NodeId], str],
        is_alone_allowed: Callable[[VaultId], bool] = lambda _vault: False,
        fell_short: Callable[[VaultId], None] = lambda _vault: None,
        damaged: Callable[[VaultId, ChunkId], None] = lambda _vault, _chunk: None,
    ) -> None:
        self._holders = holders
        self._chunks = chunks
        self._run_blocking = run_blocking
        self._holding_of = holding_of
        self._is_alone_allowed = is_alone_allowed
        self._fell_short = fell_short
        self._damaged = damaged
        self._put_paces = Paces(holders.me)
        self._background = Background()
        self._keeping = Keeping(self._put, self._put_paces, name_of, self._background)
        self._fetching = Fetching(holders, holding_of, Paces(holders.me), name_of)
        self._back = ByteBudget(BACK_MAX)
        self._to_cache = ByteBudget(CACHED_MAX)
        self._caching = trio.Lock()

    async def run(self) -> NoReturn:
        """Carry chunks to others, until cancelled. Errors: `FatalError` of this node's store."""
        await self._background.run()

    def is_alone(self, vault: VaultId) -> bool:
        """Tell whether the vault's chunks are on this node and nowhere else: one that is no member has only its own."""
        view = self._holders.view(vault)
        return view is None or (not view.extra and [member.node for member in view.ring.members] == [self._holders.me])

    def is_complete(self, vault: VaultId) -> bool:
        """Tell whether this node is to have every chunk of the vault."""
        view = self._holders.view(vault)
        return view is None or (
            len(view.ring.members) <= view.factor and any(each.node == self._holders.me for each in view.ring.members)
        )

    # -- writing ----------------------------------------------------------------------------------------------------

    async def keep(self, vault: VaultId, chunk: ChunkId, sealed: bytes) -> None:
        """Make the chunk durable on as many nodes as its vault wants and are there; see `plan_acknowledgement`.

        A node that fails counts as one that is not there. This node keeps a copy only if it is one of those to ask.
        Errors: `TooFewNodesError`, or `StorageFullError`, naming the nodes; `FatalError`. Nothing is acknowledged then.
        """
        view = self._holders.view(vault)
        if view is None or self.is_alone(vault):
            await self._run_blocking(self._chunks.put, vault, chunk, sealed)
            return
        tally = self._tally(view, vault, chunk)
        await self._keeping.keep(vault, chunk, sealed, tally)
        if not tally.durable >= set(view.holders(chunk)):
            self._fell_short(vault)

    def _tally(self, view: View, vault: VaultId, chunk: ChunkId) -> Tally:
        members = [member.node for member in view.ring.members]
        live = self._put_paces.by_readiness(node for node in view.ring.order(chunk) if self._holders.is_live(node))
        return Tally(
            view.factor,
            members,
            live,
            doubtful=[node for node in live if self._put_paces.is_failing(node)],
            reserve=[self._holders.me] if self._holders.me in view.extra and not view.is_leaving else [],
            alone_allowed=self._is_alone_allowed(vault),
        )

    async def _put(self, node: NodeId, vault: VaultId, chunk: ChunkId, sealed: bytes) -> None:
        if node == self._holders.me:
            await self._run_blocking(self._chunks.put, vault, chunk, sealed)
        else:
            await self._holding_of(node).put(vault, chunk, sealed)

    # -- reading ----------------------------------------------------------------------------------------------------

    def get_cached(self, vault: VaultId, chunk: ChunkId, size_max: int) -> bytes | None:
        """Return the chunk's bytes if this machine's memory has them; see `ChunkStore.get_cached`."""
        return self._chunks.get_cached(vault, chunk, size_max)

    async def fetch(self, vault: VaultId, chunk: ChunkId, size: int) -> bytes:
        """Return the chunk's sealed bytes, about `size` of them, verified: this node's copy, else another's.

        Errors: as `fetch_elsewhere`.
        """
        try:
            return await self._run_blocking(self._chunks.get, vault, chunk)
        except (ChunkMissingError, ChunkCorruptError, StorageFailedError) as error:
            return await self.fetch_elsewhere(vault, chunk, size, error)

    async def fetch_elsewhere(
        self, vault: VaultId, chunk: ChunkId, size: int, why: MeshHoldError, cache: ChunkCache | None = None
    ) -> bytes:
        """Return the chunk's sealed bytes, verified, from another node; `why` says what is wrong with this one's copy.

        A copy that ought to be here is put back; another one goes into the `cache`, if one is given.
        Errors: `why` itself, or `ChunkMissingError`, if nobody has a good copy; `ContentElsewhereError` if somebody who
        cannot be asked may have one.
        """
        view = self._holders.view(vault)
        is_wanted = view is not None and self._holders.me in view.holders(chunk)
        if is_wanted or isinstance(why, ChunkCorruptError):
            self._damaged(vault, chunk)
        if view is None or self.is_alone(vault):
            raise why
        try:
            sealed = await self._fetching.fetch(view, vault, chunk, size)
        except ChunkMissingError as error:
            raise (error if isinstance(why, ChunkMissingError) else why) from error
        if not self._background.is_open:
            return sealed
        if is_wanted and self._back.take_now(len(sealed)):
            self._background.start_soon(self._put_back, vault, chunk, sealed)
        elif cache is not None and not is_wanted and self._to_cache.take_now(len(sealed)):
            self._background.start_soon(self._put_in_cache, cache, vault, chunk, sealed)
        return sealed

    async def _put_back(self, vault: VaultId, chunk: ChunkId, sealed: bytes) -> None:
        try:
            await self._run_blocking(self._chunks.put, vault, chunk, sealed)
        except UnavailableError:
            self._damaged(vault, chunk)  # a full or broken disk: repair finds another place
        finally:
            self._back.give(len(sealed))

    async def _put_in_cache(self, cache: ChunkCache, vault: VaultId, chunk: ChunkId, sealed: bytes) -> None:
        try:
            async with self._caching:  # a disk that is slow to write keeps one thread from requests, not all of them
                await self._run_blocking(cache.put, vault, chunk, sealed)
        finally:
            self._to_cache.give(len(sealed))

    # -- reusing ----------------------------------------------------------------------------------------------------

    async def renew(self, vault: VaultId, chunks: Sequence[ChunkId]) -> None:
        """Renew the chunks on a majority of the nodes that are to keep them, before something refers to them anew.

        One with fewer copies gets as many as a write makes.
        Errors: `ChunkMissingError`: one is nowhere; then refer to none. `ContentElsewhereError`; `TooFewNodesError`.
        """
        view = self._holders.view(vault)
        if view is None or self.is_alone(vault):
            await self._run_blocking(self._renew_here, vault, chunks)
            return
        distinct = list(dict.fromkeys(chunks))
        for at in range(0, len(distinct), RENEWED_AT_ONCE):
            weak = await self._renew_batch(view, vault, distinct[at : at + RENEWED_AT_ONCE])
            await self._mend(vault, weak)

    def _renew_here(self, vault: VaultId, chunks: Sequence[ChunkId]) -> None:
        for chunk in chunks:
            if not self._chunks.renew(vault, chunk):
                raise ChunkMissingError(f"chunk {chunk.hex()} of vault {vault} is missing")

    async def _renew_batch(self, view: View, vault: VaultId, chunks: Sequence[ChunkId]) -> list[ChunkId]:
        """Renew the chunks where they are to be; return those that fewer than a write's least number have."""
        wanted = min(view.factor, len(view.ring.members))
        least = 1 if self._is_alone_allowed(vault) else wanted // 2 + 1
        shares: dict[NodeId, list[ChunkId]] = {}
        for chunk in chunks:
            live = [node for node in view.ring.order(chunk) if self._holders.is_live(node)]
            for node in self._put_paces.by_readiness(live)[:wanted]:
                shares.setdefault(node, []).append(chunk)
        renewed: Counter[ChunkId] = Counter()

        async def renew_on(node: NodeId, share: list[ChunkId]) -> None:
            renewed.update(await self._renew_on(node, vault, share))

        async with open_tasks() as nursery:
            for node, share in shares.items():
                nursery.start_soon(renew_on, node, share)
        if any(renewed[chunk] < wanted for chunk in chunks):
            self._fell_short(vault)
        return [chunk for chunk in chunks if renewed[chunk] < least]

    async def _renew_on(self, node: NodeId, vault: VaultId, chunks: Sequence[ChunkId]) -> list[ChunkId]:
        """Return which of the chunks the node has, and renewed."""
        try:
            if node == self._holders.me:
                return await self._run_blocking(self._renew_those_here, vault, chunks)
            flags = await self._holding_of(node).renew(vault, chunks)
        except FatalError:
            raise
        except MeshHoldError:
            self._put_paces.fail(node)
            return []
        return [chunk for chunk, has in zip(chunks, flags, strict=False) if has is True]

    def _renew_those_here(self, vault: VaultId, chunks: Sequence[ChunkId]) -> list[ChunkId]:
        return [chunk for chunk in chunks if self._chunks.renew(vault, chunk)]

    async def _mend(self, vault: VaultId, chunks: Sequence[ChunkId]) -> None:
        """Give each chunk as many copies as a write makes."""
        turns = trio.CapacityLimiter(MENDED_AT_ONCE)

        async def mend(chunk: ChunkId) -> None:
            async with turns:
                await self.keep(vault, chunk, await self.fetch(vault, chunk, _MANIFEST_MAX))

        async with open_tasks() as nursery:
            for chunk in chunks:
                nursery.start_soon(mend, chunk)
