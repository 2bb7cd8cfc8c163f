"""The index of a vault kept as chunks now, and on how many machines these are. Knows no schedule and no recovery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from meshhold.errors import NotFoundError
from meshhold.model.ids import ChunkId, NodeId, short_id
from meshhold.replication.chunks.survey import Survey, Verdict
from meshhold.replication.chunks.survey_wire import IDS_MAX
from meshhold.replication.collecting.snapshots import Snapshot, Snapshots
from meshhold.store.directory import Bucket
from meshhold.store.fellows import Mendable
from meshhold.store.vaults import Vaults

LOOK_EVERY_S: Final = 1.0
PATIENCE_S: Final = 60.0
"""So long nothing may come nearer before the wait ends: a machine that restarts is back by then."""
_ENOUGH: Final = frozenset({Verdict.FINE, Verdict.MISPLACED})
Progress = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class SafeView:
    """The newest snapshot of a vault's index, begun at `taken_ms` (since 1970), and how safe it is.

    `objects` live ones and their `bytes` are in it; it rests in `chunks` chunks. Each of them is on `copies` machines
    at least, and is to be on `wanted`, which is `factor` where there are so many; `lacking` have too few. `is_new`: the
    index had changed since the one before. `silent`: names of members that did not tell what they have, and why.
    """

    vault: str
    name: str
    taken_ms: int
    objects: int
    bytes: int
    chunks: int
    copies: int
    wanted: int
    factor: int
    lacking: int
    is_new: bool
    silent: dict[str, str]


class Writing(Protocol):
    """Whoever writes what lies beside chunks; see `store.labels`."""

    async def write(self) -> None:
        """Make the labels here as they should be, durably."""


class Safekeeping:
    """Takes snapshots because somebody asks.

    `fellows` reaches the other members, `name_of` gives a node's name; `beside` is brought up to date before anything
    is called safe. Resources: borrows its collaborators.
    """

    def __init__(
        self,
        vaults: Vaults,
        snapshots: Snapshots,
        fellows: Mendable,
        me: NodeId,
        beside: Writing,
        *,
        name_of: Callable[[NodeId], str] = short_id,
        now_s: Callable[[], float] = trio.current_time,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._vaults = vaults
        self._snapshots = snapshots
        self._fellows = fellows
        self._me = me
        self._beside = beside
        self._name_of = name_of
        self._now_s = now_s
        self._patience_s = patience_s

    async def snapshot(self, vault: str, progress: Progress) -> SafeView:
        """Keep a vault's index as it is now, and wait until each chunk of it has as many copies as it is to have.

        Returns too when nothing came nearer to that for a minute: `lacking` tells.
        Errors: `NoSuchVaultError`; `NotFoundError` if the vault is deleted meanwhile; `UnavailableError` if the index
        cannot be read, or its chunks cannot be kept; `IntegrityError`.
        """
        bucket = self._vaults.find(vault)
        taken = await self._snapshots.take(bucket.keys)
        snapshot = taken or self._snapshots.newest(bucket.keys)
        if snapshot is None:
            raise NotFoundError(f"vault {bucket.name!r} was deleted meanwhile")
        await self._beside.write()
        chunks = list(dict.fromkeys([ref.chunk async for ref in self._snapshots.blocks(bucket.keys, snapshot)]))
        fewest, good_until_s = len(chunks) + 1, 0.0
        while True:
            view = await self._look(bucket, snapshot, chunks, is_new=taken is not None)
            if view.lacking < fewest:
                fewest, good_until_s = view.lacking, self._now_s() + self._patience_s
            if not view.lacking or self._now_s() >= good_until_s:
                return view
            self._fellows.repair_soon(bucket.id)
            await progress({"vault": bucket.name, "chunks": view.chunks, "too few copies": view.lacking})
            await trio.sleep(LOOK_EVERY_S)

    async def _look(self, bucket: Bucket, snapshot: Snapshot, chunks: list[ChunkId], *, is_new: bool) -> SafeView:
        view = self._fellows.view(bucket.id)
        survey = Survey(bucket.id, view, self._fellows, self._fellows.witness_of, self._me, deep=False)
        copies: list[int] = []
        lacking = 0
        for at in range(0, len(chunks), IDS_MAX):
            found = await survey.look(chunks[at : at + IDS_MAX])
            copies += [each.copies for each in found]
            lacking += sum(each.verdict not in _ENOUGH for each in found)
        return SafeView(
            vault=bucket.id,
            name=bucket.name,
            taken_ms=snapshot.taken_ms,
            objects=snapshot.objects,
            bytes=snapshot.size,
            chunks=len(chunks),
            copies=min(copies),
            wanted=survey.wanted,
            factor=bucket.replication_factor,
            lacking=lacking,
            is_new=is_new,
            silent={self._name_of(node): reason for node, reason in survey.silent.items()},
        )
