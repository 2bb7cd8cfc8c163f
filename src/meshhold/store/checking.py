"""Is every object whole, and on enough machines? Walks the index of a vault. Repairs nothing, knows no schedule."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from meshhold.errors import ChunkMissingError, ContentElsewhereError, IntegrityError
from meshhold.model.entry import ObjectVersion, Part, Space, Upload
from meshhold.model.ids import ChunkId, NodeId
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.replication.chunks.survey import Survey, Verdict
from meshhold.replication.chunks.walk import walk_refs, walk_values
from meshhold.replication.index.registers import Registers
from meshhold.rules.stack import shown_id
from meshhold.sealing.content import Content
from meshhold.store.directory import Bucket

Progress = Callable[[dict[str, Any]], Awaitable[None]]
NAMED_MAX: Final = 1000
"""How many objects of each kind a report names; it always counts them all."""
PROGRESS_EVERY: Final = 500
BATCH: Final = 2_000
"""Chunks that all members are asked about at once: one message of 64 KiB to each."""
DEEP_BATCH: Final = 128
"""Chunks that are read before progress is told again: at most 128 MiB on each machine."""
_UPLOADS_PAGE: Final = 500
_LOST: Final = (Verdict.MISSING, Verdict.CORRUPT)
_AT_RISK: Final = (Verdict.UNREACHABLE, Verdict.UNDER_REPLICATED, Verdict.MISPLACED)


@dataclass(slots=True)
class CheckReport:
    """What a check found. Each list names up to `NAMED_MAX` objects and parts; `totals` counts each kind whole.

    `missing` and `corrupt` are lost: every machine was asked. `damaged` counts those that are either. Of `unreachable`
    ones nobody who answers has some chunk, and the nodes in `silent` do not answer. `under_replicated` ones have fewer
    copies than `wanted`, `misplaced` ones have enough, but not all where they belong. An object is named by the worst
    of its chunks. `bytes` are those of the objects, `versions` counts the rows of earlier ones; `copies` are sound
    copies of the `chunks`, all in all, and `damaged_copies` those that were found damaged and put aside; `members` is
    how many machines were to be asked and `factor` how many copies there would be, were there machines enough.
    """

    vault: str
    objects: int = 0
    chunks: int = 0
    bytes: int = 0
    versions: int = 0
    uploads: int = 0
    damaged: int = 0
    missing: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    under_replicated: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    copies: int = 0
    damaged_copies: int = 0
    members: int = 1
    wanted: int = 1
    factor: int = 1
    silent: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Subject:
    """An object or part whose chunks are being asked about; `is_broken`: a manifest chunk of it is damaged."""

    name: str
    is_broken: bool = False
    verdicts: set[Verdict] = field(default_factory=set)


class Check:
    """One check of one vault, for one report.

    `name_of` gives a node's name. Resources: borrows all.
    """

    def __init__(
        self,
        bucket: Bucket,
        registers: Registers,
        reader: ChunkReader,
        survey: Survey,
        progress: Progress,
        *,
        deep: bool,
        name_of: Callable[[NodeId], str],
    ) -> None:
        self.report = CheckReport(
            bucket.name,
            members=len(survey.members),
            wanted=survey.wanted,
            factor=bucket.replication_factor,
        )
        self._bucket = bucket
        self._registers = registers
        self._reader = reader
        self._survey = survey
        self._progress = progress
        self._batch = DEEP_BATCH if deep else BATCH
        self._name_of = name_of
        self._asking: dict[ChunkId, list[_Subject]] = {}
        self._refs = 0
        self._walked: list[_Subject] = []

    async def run(self) -> CheckReport:
        """Walk objects, earlier versions, then parts of unfinished uploads; return the report. Damage is no error.

        Errors: those of the index while it cannot be read.
        """
        report, bucket = self.report, self._bucket
        for space in (Space.OBJECTS, Space.VERSIONS, Space.PARTS):
            async for key, value, content in walk_values(self._registers, bucket.keys, space):
                if space is Space.OBJECTS:
                    report.objects += 1
                    report.bytes += value.size
                report.versions += space is Space.VERSIONS
                subject = _Subject(self._named(space, key, value))
                await self._walk(subject, content)
                self._walked.append(subject)
                if len(self._walked) >= BATCH:  # small objects have no chunk that would end the batch
                    await self._ask()
                if space is Space.OBJECTS and report.objects % PROGRESS_EVERY == 0:
                    await self._tell()
        await self._ask()
        await self._count_uploads()
        report.silent = {self._name_of(node): reason for node, reason in self._survey.silent.items()}
        return report

    def _named(self, space: Space, key: bytes, value: ObjectVersion | Part) -> str:
        shown = self._bucket.alias or self._bucket.name
        if isinstance(value, ObjectVersion):
            version = "" if space is Space.OBJECTS else f", version {shown_id(value)}"
            return f"{shown}/{key.decode('utf-8', 'backslashreplace')}{version}"
        return f"{shown}, part {int.from_bytes(key[-2:], 'big')} of upload {key[:-2].hex()}"

    async def _walk(self, subject: _Subject, content: Content) -> None:
        try:
            async for ref in walk_refs(self._reader, self._bucket.keys, content):
                self.report.chunks += 1
                self._refs += 1
                self._asking.setdefault(ref.chunk, []).append(subject)
                if self._refs >= self._batch:
                    await self._ask()
                    if self._batch == DEEP_BATCH:
                        await self._tell()
        except ContentElsewhereError:  # a manifest chunk out of reach, and with it what lies below
            subject.verdicts.add(Verdict.UNREACHABLE)
        except ChunkMissingError:
            subject.verdicts.add(Verdict.MISSING)
        except IntegrityError:
            subject.is_broken = True

    async def _ask(self) -> None:
        """Learn how the collected chunks are, and judge the objects that were walked to their end."""
        asking, self._asking, self._refs = self._asking, {}, 0
        if asking:
            for subjects, finding in zip(asking.values(), await self._survey.look(list(asking)), strict=True):
                self.report.copies += finding.copies * len(subjects)
                self.report.damaged_copies += finding.damaged
                for subject in subjects:
                    subject.verdicts.add(finding.verdict)
        for subject in self._walked:
            self._judge(subject)
        self._walked.clear()

    def _judge(self, subject: _Subject) -> None:
        verdicts = subject.verdicts
        lost = [verdict for verdict in _LOST if verdict in verdicts]
        if subject.is_broken:
            lost = [Verdict.CORRUPT]  # its bad manifest is in quarantine, so that it was found missing afterwards
        self.report.damaged += bool(lost)
        for verdict in lost or [verdict for verdict in _AT_RISK if verdict in verdicts][:1]:
            kind = verdict.value
            self.report.totals[kind] = self.report.totals.get(kind, 0) + 1
            names: list[str] = getattr(self.report, kind)
            if len(names) < NAMED_MAX:
                names.append(subject.name)

    async def _tell(self) -> None:
        step: dict[str, Any] = {
            "vault": self.report.vault,
            "objects": self.report.objects,
            "chunks": self.report.chunks,
        }
        if self.report.damaged:
            step["lost"] = self.report.damaged
        await self._progress(step)

    async def _count_uploads(self) -> None:
        after = b""
        while page := await self._registers.scan(self._bucket.id, Space.UPLOADS, after, b"", _UPLOADS_PAGE):
            self.report.uploads += sum(isinstance(entry.value, Upload) for _, entry in page)
            after = page[-1][0]
