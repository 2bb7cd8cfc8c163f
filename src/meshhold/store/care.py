"""Is everything still there and sound, and what may go? Check, scrub and collect as use-cases. Knows no schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStat, ChunkStore
from meshhold.errors import IntegrityError
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.replication.chunks.survey import OwnWitness, Survey
from meshhold.replication.chunks.survey_wire import Witness
from meshhold.replication.collecting.collector import Collector
from meshhold.replication.index.registers import Registers
from meshhold.store.checking import PROGRESS_EVERY, Check, CheckReport, Progress
from meshhold.store.directory import Bucket, Directory
from meshhold.store.fellows import Fetchable
from meshhold.store.vaults import Vaults


@dataclass(slots=True)
class ScrubReport:
    """What a scrub rehashed: chunks and bytes of their sealed form; `corrupt` names the chunks that it quarantined.

    `repaired` counts those of them that were fetched anew from another machine. The others are lost to this one for
    now, or for good.
    """

    chunks: int = 0
    bytes: int = 0
    corrupt: list[str] = field(default_factory=list)
    repaired: int = 0


@dataclass(slots=True)
class CollectReport:
    """What a collection removed: chunks, bytes of their sealed form, and tombstones of deleted keys."""

    removed: int = 0
    bytes: int = 0
    tombstones: int = 0


class TombstoneSweep(Protocol):
    """Whoever removes the tombstones of a vault for good."""

    async def sweep(self, vault: VaultId, older_than_ms: int) -> int:
        """Remove some that were accepted longer ago, going on where the last call ended; return how many went."""

    def round_ended(self, vault: VaultId) -> bool:
        """Tell whether the last call came to the end."""


class Care:
    """Check, scrub and collect for the vaults of this node.

    `fellows` reaches the other members of vaults; without it, or in a vault that has one member, this node's chunks
    are all there are. `own` tells of this node's chunks, `name_of` gives a node's name. `kept` names the vaults whose
    chunks are here, those too that this node cannot open; None: those that it can.

    `grace_s`: how long an unreferenced chunk is kept. Resources: borrows its collaborators.
    """

    def __init__(
        self,
        directory: Directory,
        vaults: Vaults,
        registers: Registers,
        chunks: ChunkStore,
        reader: ChunkReader,
        collector: Collector,
        run_blocking: RunBlocking,
        *,
        tombstones: TombstoneSweep,
        grace_s: float,
        new_salt: Callable[[], bytes],
        fellows: Fetchable | None = None,
        own: Witness | None = None,
        name_of: Callable[[NodeId], str] = short_id,
        kept: Callable[[], Iterable[VaultId]] | None = None,
    ) -> None:
        self._directory = directory
        self._vaults = vaults
        self._registers = registers
        self._chunks = chunks
        self._reader = reader
        self._collector = collector
        self._run_blocking = run_blocking
        self._tombstones = tombstones
        self._grace_s = grace_s
        self._new_salt = new_salt
        self._fellows = fellows
        self._own = own or OwnWitness(chunks, run_blocking)
        self._name_of = name_of
        self._kept = kept or (lambda: list(directory.by_id))
        self._me = directory.identity.node_id
        self._collecting = trio.Lock()

    async def check(self, vault: str | None, progress: Progress, *, deep: bool = False) -> list[CheckReport]:
        """Tell for every object and part whether its chunks are where they should be; with `deep` each copy is read.

        Every member is asked, side by side. What has too few copies is given to repair.
        Errors: `NoSuchVaultError`. Damage is no error: it is in the report.
        """
        return [await self._check_vault(bucket, progress, deep=deep) for bucket in self._chosen(vault)]

    async def _check_vault(self, bucket: Bucket, progress: Progress, *, deep: bool) -> CheckReport:
        view = None if self._fellows is None else self._fellows.view(bucket.id)
        if view is not None and len(view.members) < 2:
            view = None
        survey = Survey(bucket.id, view, self._fellows, self._witness_of, self._me, deep=deep)
        check = Check(
            bucket,
            self._registers,
            self._reader,
            survey,
            progress,
            deep=deep,
            name_of=self._name_of,
        )
        report = await check.run()
        if report.damaged_copies or any(report.totals.get(kind) for kind in ("under_replicated", "misplaced")):
            self._repair_soon(bucket.id)
        return report

    def _witness_of(self, node: NodeId) -> Witness:
        if node == self._me or self._fellows is None:
            return self._own
        return self._fellows.witness_of(node)

    async def scrub(self, vault: str | None, progress: Progress, *, pause_s_per_mib: float = 0.0) -> ScrubReport:
        """Rehash every stored chunk; damaged ones go to quarantine and are fetched anew from who has a good copy.

        Where nobody has one, `check` names what they belonged to. It takes no keys: None means every vault kept here.
        """
        report = ScrubReport()
        known = self._directory.by_id
        for vault_id in self._kept() if vault is None else [self._vaults.find(vault).id]:
            name = known[vault_id].name if vault_id in known else short_id(vault_id)
            stats = self._chunks.scan(vault_id)
            while (stat := await self._run_blocking(next, stats, None)) is not None:
                try:
                    await self._run_blocking(self._chunks.get, vault_id, stat.chunk)
                except IntegrityError:
                    await self._mend(vault_id, stat, report)
                report.chunks += 1
                report.bytes += stat.size
                if report.chunks % PROGRESS_EVERY == 0:
                    await progress({"vault": name, "chunks": report.chunks, "bytes": report.bytes})
                if pause_s_per_mib:
                    await trio.sleep(pause_s_per_mib * stat.size / 2**20)
        return report

    async def _mend(self, vault: VaultId, stat: ChunkStat, report: ScrubReport) -> None:
        """Fetch a damaged chunk from another node. What cannot be had now is left to repair, which tries again."""
        report.corrupt.append(stat.chunk.hex())
        if self._fellows is None:
            return
        sealed = await self._fellows.fetch(vault, stat.chunk, stat.size)
        if sealed is None:
            self._repair_soon(vault)
            return
        await self._run_blocking(self._chunks.put, vault, stat.chunk, sealed, stat.touched_s)
        report.repaired += 1

    def _repair_soon(self, vault: VaultId) -> None:
        if self._fellows is not None:
            self._fellows.repair_soon(vault)

    async def collect(self, vault: str | None, *, grace_s: float | None = None, in_turn: bool = False) -> CollectReport:
        """Remove chunks that nothing refers to and that are older than the grace, and tombstones past their window.

        `in_turn`: chunks only of vaults whose collection is this node's turn; a person may ask any node.
        """
        grace_s = self._grace_s if grace_s is None else grace_s
        report = CollectReport()
        async with self._collecting:
            for bucket in self._chosen(vault):
                if not in_turn or self._collector.leads(bucket.id):
                    now_ms = self._directory.now_ms()
                    salt = int.from_bytes(self._new_salt()[:4], "big")
                    found = await self._collector.collect(bucket.keys, now_ms / 1000 - grace_s, salt)
                    report.removed += found.removed
                    report.bytes += found.bytes
                swept = False
                while not swept:
                    report.tombstones += await self._tombstones.sweep(bucket.id, TOMBSTONE_WINDOW_MS)
                    swept = self._tombstones.round_ended(bucket.id)
        return report

    def _chosen(self, vault: str | None) -> Iterable[Bucket]:
        if vault is not None:
            return [self._vaults.find(vault)]
        return list(self._directory.by_id.values())


TOMBSTONE_WINDOW_MS: Final = 2 * 10 * 60 * 1000  # twice the ballot window: no message that old can still be taken
