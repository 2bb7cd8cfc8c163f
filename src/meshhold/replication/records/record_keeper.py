"""The registry on this node: checked, merged, durable, and told to whoever derives something from it.

Knows no peer and no vault's secret. A record is durable before anyone sees it, and nobody's record gets in unchecked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import trio

from meshhold.errors import ConflictError, IntegrityError
from meshhold.index.contract import Records
from meshhold.model.ids import NodeId, short_id
from meshhold.model.stamp import Clock
from meshhold.registry.digest import Held, held
from meshhold.registry.record import RECORD_SIZE_MAX, Kind, Record, check_authority, decode_record, encode_record
from meshhold.registry.shape import check_shape
from meshhold.registry.state import Registry

WINDOW_MS: Final = 10 * 60 * 1000  # a stamp further ahead would make its record, and this clock, unbeatable for years
RECORDS_MAX: Final = 100_000  # about 50 MiB of usual records: no home comes near
SIZE_MAX: Final = 64 * 1024 * 1024  # encoded: a hostile member's large records cannot fill the memory either
_LOG: Final = logging.getLogger("meshhold.registry")

Follower = Callable[[Sequence[Record], NodeId | None], None]
"""Is told what became current, and which peer it came from (None: this node wrote it)."""


class RecordKeeper:
    """The records that this node knows.

    `refused` counts records from outside that were not let in, by reason; `left_out` names those that did not verify at
    start. Resources: borrows `records`.
    """

    def __init__(self, records: Records, clock: Clock, now_ms: Callable[[], int]) -> None:
        self._records = records
        self._clock = clock
        self._now_ms = now_ms
        self._merging = trio.Lock()
        self._followers: list[Follower] = []
        self._held: dict[tuple[Kind, str], Held] = {}
        self._sizes: dict[tuple[Kind, str], int] = {}
        self._size = 0
        self.registry = Registry()
        self.refused: dict[str, int] = {}
        self.left_out: list[str] = []
        for kind, key, raw in records.load_records():
            try:
                record = decode_record(raw)
                check_shape(record)
                self.registry.merge(record)
                self._hold(record, len(raw))
                clock.observe(record.stamp)
            except IntegrityError as error:
                self.left_out.append(f"{kind} {key}: {error.message}")

    @property
    def held(self) -> list[Held]:
        """What is known, as a comparison with another node names it."""
        return list(self._held.values())

    def follow(self, follower: Follower) -> None:
        """Call `follower` with each batch of records that became current, after it is durable."""
        self._followers.append(follower)

    async def write(self, *records: Record) -> None:
        """Make records of this node's own durable together, then visible. Errors: `ConflictError` for one too large."""
        async with self._merging:
            await self._take([record for record in records if self.registry.would_take(record)], None)

    async def receive(self, raws: Iterable[bytes], source: NodeId) -> int:
        """Take records from outside; return how many were news. Bad ones are refused one by one, counted and named."""
        async with self._merging:
            news: dict[tuple[Kind, str], Record] = {}
            for raw in raws:
                record = self._checked(raw, short_id(source))
                if record is not None:
                    news[record.kind, record.key] = record
            if news:
                await self._take(list(news.values()), source)
            return len(news)

    async def forget(self, goes: Callable[[Record], bool]) -> None:
        """Drop records for good, without a trace: this node has left the mesh that they are of."""
        async with self._merging:
            gone = [record for record in self.registry.all() if goes(record)]
            await self._records.forget_records([(record.kind, record.key) for record in gone])
            for record in gone:
                self.registry.forget(record.kind, record.key)
                del self._held[record.kind, record.key]
                self._size -= self._sizes.pop((record.kind, record.key))
            for follower in self._followers:
                follower([], None)

    def _checked(self, raw: bytes, source: str) -> Record | None:
        """Return the record if it is news and may be believed."""
        try:
            record = decode_record(raw)
            check_shape(record)
        except IntegrityError as error:
            self._refuse(source, "form", error.message)
            return None
        fault = self._fault(record, len(raw))
        if fault is not None:
            self._refuse(source, *fault)
        elif self.registry.would_take(record):
            try:
                check_authority(record)
            except IntegrityError as error:
                self._refuse(source, "authority", error.message)
            else:
                return record
        return None

    def _fault(self, record: Record, size: int) -> tuple[str, str] | None:
        if record.stamp.wall_ms > self._now_ms() + WINDOW_MS:
            return "stamp", f"record {record.kind} {record.key!r} is stamped more than ten minutes ahead"
        before = self._sizes.get((record.kind, record.key))
        if (len(self._held) >= RECORDS_MAX and before is None) or self._size + size - (before or 0) > SIZE_MAX:
            return "room", f"{RECORDS_MAX} records, or {SIZE_MAX} bytes of them, are known already"
        return None

    def _refuse(self, source: str, reason: str, message: str) -> None:
        """Count it; log the 1st, 2nd, 4th, 8th … of its reason, so that a flood stays short."""
        self.refused[reason] = count = self.refused.get(reason, 0) + 1
        if count & (count - 1) == 0:
            _LOG.warning("record from %s refused (%d so far): %s", source, count, message)

    async def _take(self, records: list[Record], source: NodeId | None) -> None:
        rows: list[tuple[str, str, bytes]] = []
        for record in records:
            raw = encode_record(record)
            if len(raw) > RECORD_SIZE_MAX:
                raise ConflictError(f"{record.kind} {record.key} does not fit a record", "use shorter names")
            rows.append((record.kind, record.key, raw))
        await self._records.save_records(rows)
        for record, (_, _, raw) in zip(records, rows, strict=True):
            self.registry.merge(record)
            self._hold(record, len(raw))
            self._clock.observe(record.stamp)
        for follower in self._followers:
            follower(records, source)

    def _hold(self, record: Record, size: int) -> None:
        name = record.kind, record.key
        self._held[name] = held(record)
        self._size += size - self._sizes.get(name, 0)
        self._sizes[name] = size
