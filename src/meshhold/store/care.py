"""Is everything still there and sound, and what may go? Check, scrub and collect as use-cases. Knows no schedule."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.errors import IntegrityError
from meshhold.model.entry import Space, Upload
from meshhold.model.ids import ChunkId, OpId, VaultId
from meshhold.replication.collector import Collector
from meshhold.replication.reader import ChunkReader
from meshhold.replication.registers import Registers
from meshhold.replication.walk import walk_changes, walk_refs
from meshhold.sealing.content import Content
from meshhold.store.directory import Bucket, Directory
from meshhold.store.vaults import Vaults

Progress = Callable[[dict[str, Any]], Awaitable[None]]
NAMED_MAX: Final = 1000  # how many damaged objects a report names; it always counts them all
_PROGRESS_EVERY: Final = 500


@dataclass(slots=True)
class CheckReport:
    """What a check found. `missing` and `corrupt` name up to `NAMED_MAX` objects each; `damaged` counts them all.

    `elsewhere` counts objects and parts whose content another machine took, so that it is not looked for here.
    """

    vault: str
    objects: int = 0
    chunks: int = 0
    bytes: int = 0
    uploads: int = 0
    damaged: int = 0
    elsewhere: int = 0
    missing: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ScrubReport:
    """What a scrub rehashed: chunks and bytes of their sealed form; `corrupt` names the chunks that it quarantined."""

    chunks: int = 0
    bytes: int = 0
    corrupt: list[str] = field(default_factory=list)


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

    `other_taker` names the other machine that made a change; see `Whereabouts`. `grace_s`: how long an unreferenced
    chunk is kept. Resources: borrows its collaborators.
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
        other_taker: Callable[[VaultId, OpId], str] = lambda _vault, _op: "",
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
        self._other_taker = other_taker
        self._collecting = trio.Lock()

    async def check(self, vault: str | None, progress: Progress, *, deep: bool = False) -> list[CheckReport]:
        """Tell for every object and part whether all its chunks are here; with `deep` read and verify each.

        Errors: `NoSuchVaultError`. Damage is no error: it is in the report.
        """
        return [await self._check_vault(bucket, progress, deep=deep) for bucket in self._chosen(vault)]

    async def _check_vault(self, bucket: Bucket, progress: Progress, *, deep: bool) -> CheckReport:
        report = CheckReport(bucket.name)
        for space in (Space.OBJECTS, Space.PARTS):
            async for key, op, value, content in walk_changes(self._registers, bucket.keys, space):
                if space is Space.OBJECTS:
                    report.objects += 1
                    report.bytes += value.size
                name = f"{bucket.alias or bucket.name}/{key.decode('utf-8', 'backslashreplace')}"
                if space is Space.PARTS:
                    number = int.from_bytes(key[-2:], "big")
                    name = f"{bucket.alias or bucket.name}, part {number} of upload {key[:-2].hex()}"
                await self._check_content(bucket, name, op, content, report, deep=deep)
                if space is Space.OBJECTS and report.objects % _PROGRESS_EVERY == 0:
                    await progress({"vault": bucket.name, "objects": report.objects, "chunks": report.chunks})
        after = b""
        while page := await self._registers.scan(bucket.id, Space.UPLOADS, after, b"", _PROGRESS_EVERY):
            report.uploads += sum(isinstance(entry.value, Upload) for _, entry in page)
            after = page[-1][0]
        return report

    async def _check_content(
        self, bucket: Bucket, name: str, op: OpId, content: Content, report: CheckReport, *, deep: bool
    ) -> None:
        missing = corrupt = False
        try:
            async for ref in walk_refs(self._reader, bucket.keys, content):
                report.chunks += 1
                state = await self._run_blocking(self._state_of, bucket, ref.chunk, deep)
                missing |= state == "missing"
                corrupt |= state == "corrupt"
        except IntegrityError:  # a manifest chunk that cannot be read: what lies below it is out of reach
            corrupt = not missing
        if missing and not corrupt and self._other_taker(bucket.id, op):
            report.elsewhere += 1
            return
        report.damaged += missing or corrupt
        for found, names in ((missing, report.missing), (corrupt, report.corrupt)):
            if found and len(names) < NAMED_MAX:
                names.append(name)

    def _state_of(self, bucket: Bucket, chunk: ChunkId, deep: bool) -> str:
        if not self._chunks.has(bucket.id, chunk):
            return "missing"
        if deep:
            try:
                self._chunks.get(bucket.id, chunk)
            except IntegrityError:
                return "corrupt"
        return "here"

    async def scrub(self, vault: str | None, progress: Progress, *, pause_s_per_mib: float = 0.0) -> ScrubReport:
        """Rehash every stored chunk; damaged ones go to quarantine, and `check` names what they belonged to."""
        report = ScrubReport()
        for bucket in self._chosen(vault):
            stats = self._chunks.scan(bucket.id)
            while (stat := await self._run_blocking(next, stats, None)) is not None:
                try:
                    await self._run_blocking(self._chunks.get, bucket.id, stat.chunk)
                except IntegrityError:
                    report.corrupt.append(stat.chunk.hex())
                report.chunks += 1
                report.bytes += stat.size
                if report.chunks % _PROGRESS_EVERY == 0:
                    await progress({"vault": bucket.name, "chunks": report.chunks, "bytes": report.bytes})
                if pause_s_per_mib:
                    await trio.sleep(pause_s_per_mib * stat.size / 2**20)
        return report

    async def collect(self, vault: str | None, *, grace_s: float | None = None) -> CollectReport:
        """Remove chunks that nothing refers to and that are older than the grace, and tombstones past their window."""
        grace_s = self._grace_s if grace_s is None else grace_s
        report = CollectReport()
        async with self._collecting:
            for bucket in self._chosen(vault):
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
