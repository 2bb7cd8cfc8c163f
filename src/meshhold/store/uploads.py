"""Multipart uploads as index state: begin, part, complete, abort, list. Knows no XML and no checksum algorithm.

An upload is one register, each part another: no part of it lives in memory, so any node may go on with it. Completion
commits the object first, then removes the upload, then its parts; what a crash leaves between is removed by `sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import trio

from meshhold.crypto.random import new_salt
from meshhold.errors import (
    InvalidError,
    InvalidPartError,
    NoSuchUploadError,
    PartOrderError,
    PartTooSmallError,
    TooLargeError,
)
from meshhold.model.entry import ObjectVersion, Part, Ref, Space, Upload, Value
from meshhold.model.stamp import STAMP_SIZE, Clock, unpack_stamp
from meshhold.replication.chunks.writer import ChunkWriter, Source, Written
from meshhold.replication.index.registers import KEEP, Change, Registers, Write
from meshhold.replication.tasks import open_tasks
from meshhold.sealing.content import Content, PartRow, open_content, seal_content
from meshhold.store.contract import Body, Combine, Digested, Metadata, WriteCondition
from meshhold.store.directory import Bucket
from meshhold.store.objects import Objects, check_metadata

PART_NUMBER_MAX: Final = 10_000  # these four are S3's limits
PART_SIZE_MIN: Final = 5 * 2**20
PART_SIZE_MAX: Final = 5 * 2**30
OBJECT_SIZE_MAX: Final = 5 * 2**40
_SEPARATOR: Final = b"\x00"  # no object key holds it
_PAGE: Final = 500
_REMOVALS_AT_ONCE: Final = 64  # enough to fill a group commit


@dataclass(frozen=True, slots=True)
class PartClaim:
    """A part as the completing client names it; ETag without quotes, checksums by upper-case algorithm."""

    number: int
    etag: str
    checksums: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListedUpload:
    """An upload in progress."""

    key: bytes
    upload_id: str
    upload: Upload


@dataclass(slots=True)
class UploadsPage:
    """A page of uploads; `next_key` and `next_id` are where the next one begins."""

    items: list[ListedUpload] = field(default_factory=list)
    prefixes: list[bytes] = field(default_factory=list)
    truncated: bool = False
    next_key: bytes = b""
    next_id: str = ""


@dataclass(frozen=True, slots=True)
class ListedPart:
    """A part that has arrived."""

    number: int
    part: Part


@dataclass(frozen=True, slots=True)
class Completion:
    """The object that a completion made, or, asked again, had made."""

    etag: str
    version: ObjectVersion


class Uploads:
    """Multipart uploads of the vaults that this node can open. Resources: borrows its collaborators."""

    def __init__(
        self, registers: Registers, writer: ChunkWriter, objects: Objects, clock: Clock, now_ms: Callable[[], int]
    ) -> None:
        self._registers = registers
        self._writer = writer
        self._objects = objects
        self._clock = clock
        self._now_ms = now_ms

    async def begin(self, bucket: Bucket, key: bytes, upload: Upload) -> str:
        """Begin an upload and return its id: 32 hex digits that sort by time."""
        check_metadata(Metadata(upload.headers, upload.user))
        identifier = self._clock.tick(self._now_ms()).pack()

        def decide(_: Value | None) -> Change:
            return Write(upload)

        with self._objects.gates.writing(bucket.id):
            await self._registers.change(bucket.id, Space.UPLOADS, key + _SEPARATOR + identifier, decide)
        return identifier.hex()

    async def find(self, bucket: Bucket, key: bytes, upload_id: str) -> Upload:
        """Return an upload in progress. Errors: `NoSuchUploadError`."""
        entry = await self._registers.read(bucket.id, Space.UPLOADS, _upload_key(key, upload_id))
        if entry is None or not isinstance(entry.value, Upload):
            raise NoSuchUploadError("the upload was completed, aborted or never begun")
        return entry.value

    async def put_part(
        self, bucket: Bucket, key: bytes, upload_id: str, number: int, body: Body, salt: bytes = b""
    ) -> Part:
        """Keep one part, durable when this returns; a part with the same number is replaced.

        `salt` is that of the body's key stream where the client's own key hides it.

        Errors: `NoSuchUploadError`, `InvalidError` for the number, what the body raises, `UnavailableError`.
        """
        check_part_number(number)
        await self.find(bucket, key, upload_id)
        with self._writer.in_flight() as flight:
            written = await self._writer.write(bucket.keys, body)
            await self._objects.renew_written(bucket, written.content, flight)
            return await self._commit_part(bucket, key, upload_id, number, written, body.finish(), salt)

    async def copy_part(
        self,
        bucket: Bucket,
        key: bytes,
        upload_id: str,
        number: int,
        source: Source,
        digest: Callable[[], Digested],
        salt: bytes = b"",
    ) -> Part:
        """Keep a part whose bytes come from an object; `digest` is asked once they have all been read."""
        check_part_number(number)
        await self.find(bucket, key, upload_id)
        with self._writer.in_flight() as flight:
            written = await self._writer.write(bucket.keys, source)
            await self._objects.renew_written(bucket, written.content, flight)
            return await self._commit_part(bucket, key, upload_id, number, written, digest(), salt)

    async def _commit_part(
        self,
        bucket: Bucket,
        key: bytes,
        upload_id: str,
        number: int,
        written: Written,
        digested: Digested,
        salt: bytes,
    ) -> Part:
        if written.size > PART_SIZE_MAX:
            raise TooLargeError(f"a part of {written.size} bytes exceeds 5 GiB", "use smaller parts")
        name = _part_key(upload_id, number)
        sealed = seal_content(bucket.keys, name, new_salt(), written.content)
        part = Part(written.size, digested.etag, self._now_ms(), sealed, digested.checksums, salt)
        with self._objects.gates.writing(bucket.id):
            await self._registers.change(bucket.id, Space.PARTS, name, lambda _: Write(part))
        try:
            await self.find(bucket, key, upload_id)
        except NoSuchUploadError:  # aborted or completed meanwhile: do not leave the part behind
            await self._remove(bucket, Space.PARTS, [name])
            raise
        return part

    async def parts(self, bucket: Bucket, upload_id: str, after: int, limit: int) -> list[ListedPart]:
        """Return up to `limit` parts with a number greater than `after`, in order."""
        prefix = _identifier(upload_id)
        found: list[ListedPart] = []
        position = _part_key(upload_id, after)
        while len(found) < limit:
            page = await self._registers.scan(bucket.id, Space.PARTS, position, prefix, min(_PAGE, limit))
            found += [
                ListedPart(int.from_bytes(name[STAMP_SIZE:], "big"), entry.value)
                for name, entry in page
                if isinstance(entry.value, Part)
            ]
            if len(page) < min(_PAGE, limit):
                break
            position = page[-1][0]
        return found[:limit]

    async def complete(
        self,
        bucket: Bucket,
        key: bytes,
        upload_id: str,
        claims: Sequence[PartClaim],
        combine: Combine,
        condition: WriteCondition,
    ) -> Completion:
        """Make the named parts the object, in their order, if the condition holds.

        Asked again after success, it answers the same as long as the object is still that one.
        Errors: `NoSuchUploadError`, `PartOrderError`, `InvalidPartError`, `PartTooSmallError`, `TooLargeError`, what
        `combine` and the condition raise. After an error the upload is as it was.
        """
        self._objects.check_condition(bucket, condition)
        try:
            upload = await self.find(bucket, key, upload_id)
        except NoSuchUploadError:
            return await self._completed_before(bucket, key, claims)
        if any(one.number >= other.number for one, other in pairwise(claims)):
            raise PartOrderError("the parts are not in ascending order of their numbers")
        chosen, numbers = await self._choose(bucket, upload_id, claims)
        rows = [PartRow(number, part.size, part.etag, part.checksums, part.salt) for number, part in chosen]
        digested = combine(rows, upload)
        with self._writer.in_flight() as flight:
            content = await self._join(bucket, upload_id, chosen, rows)
            await self._objects.renew_written(bucket, content, flight)
            version = ObjectVersion(
                size=sum(part.size for _, part in chosen),
                etag=digested.etag,
                modified_ms=self._now_ms(),
                content=seal_content(bucket.keys, key, new_salt(), content),
                headers=upload.headers,
                user=upload.user,
                checksums=digested.checksums,
                parts_count=len(rows),
                extras=upload.extras,
            )
            version = await self._objects.commit(bucket, key, version, condition)
        await self._discard(bucket, key, upload_id, numbers)
        return Completion(version.etag, version)

    async def _choose(
        self, bucket: Bucket, upload_id: str, claims: Sequence[PartClaim]
    ) -> tuple[list[tuple[int, Part]], list[int]]:
        """Return the claimed parts, and the numbers of all parts that there are.

        They are read page by page, and after a small part, which makes an error, none is kept: ten thousand short ones
        would be 160 MB.
        """
        chosen: list[tuple[int, Part]] = []
        numbers: list[int] = []
        small: ListedPart | None = None
        wanted = iter(claims)
        claim = next(wanted, None)
        while page := await self.parts(bucket, upload_id, numbers[-1] if numbers else 0, _PAGE):
            for row in page:
                numbers.append(row.number)
                if claim is not None and claim.number <= row.number:
                    part = _matching(claim, row.part if row.number == claim.number else None)
                    claim = next(wanted, None)
                    if claim is not None and part.size < PART_SIZE_MIN:
                        small = small or row
                    if small is None:
                        chosen.append((row.number, part))
        if claim is not None:
            _matching(claim, None)
        if small is not None:
            raise PartTooSmallError(
                f"part {small.number} has {small.part.size} bytes; all but the last need 5 MiB", "send larger parts"
            )
        if sum(part.size for _, part in chosen) > OBJECT_SIZE_MAX:
            raise TooLargeError("the object would exceed 5 TiB", "split it")
        return chosen, numbers

    async def _completed_before(self, bucket: Bucket, key: bytes, claims: Sequence[PartClaim]) -> Completion:
        """Answer a repeated completion: the parts are gone, but their ETags still make the object's."""
        entry = await self._registers.read(bucket.id, Space.OBJECTS, key)
        current = None if entry is None else entry.value
        if isinstance(current, ObjectVersion) and current.parts_count == len(claims) > 0:
            content = open_content(bucket.keys, key, current.content)
            rows = await self._objects.parts_of(bucket, content)
            if [(row.number, row.etag) for row in rows] == [(claim.number, claim.etag) for claim in claims]:
                return Completion(current.etag, current)
        raise NoSuchUploadError("the upload was completed, aborted or never begun")

    async def _join(
        self, bucket: Bucket, upload_id: str, chosen: Sequence[tuple[int, Part]], rows: Sequence[PartRow]
    ) -> Content:
        """Put the parts' refs behind one another: no byte of theirs is read, save short ones kept inline."""
        refs: list[Ref] = []
        for at, (number, part) in enumerate(chosen):
            content = open_content(bucket.keys, _part_key(upload_id, number), part.content)
            if content.inline is None:
                refs += content.refs
            elif content.inline:
                refs.append(await self._writer.store_block(bucket.keys, content.inline))
            if at % 100 == 99:
                await trio.lowlevel.checkpoint()
        return await self._writer.pack(bucket.keys, refs, rows)

    async def abort(self, bucket: Bucket, key: bytes, upload_id: str) -> None:
        """End an upload and drop its parts. Errors: `NoSuchUploadError`."""
        await self.find(bucket, key, upload_id)
        known = [row.number for row in await self.parts(bucket, upload_id, 0, PART_NUMBER_MAX)]
        await self._discard(bucket, key, upload_id, known)

    async def _discard(self, bucket: Bucket, key: bytes, upload_id: str, numbers: Iterable[int]) -> None:
        await self._remove(bucket, Space.UPLOADS, [_upload_key(key, upload_id)])
        await self._remove(bucket, Space.PARTS, [_part_key(upload_id, number) for number in numbers])

    async def _remove(self, bucket: Bucket, space: Space, names: Sequence[bytes]) -> None:
        def decide(current: Value | None) -> Change:
            return KEEP if current is None else Write(None)

        async def remove(name: bytes) -> None:
            await self._registers.change(bucket.id, space, name, decide)

        for at in range(0, len(names), _REMOVALS_AT_ONCE):
            async with open_tasks() as nursery:
                for name in names[at : at + _REMOVALS_AT_ONCE]:
                    nursery.start_soon(remove, name)

    async def page(
        self, bucket: Bucket, prefix: bytes, delimiter: bytes, after_key: bytes, after_id: str, limit: int
    ) -> UploadsPage:
        """Return up to `limit` uploads and common prefixes by key and time, after a key and, with it, an upload id.

        `after_id` `""` skips every upload of `after_key`, and every key below it where it is a common prefix.
        """
        position = _position_after(after_key, after_id, delimiter)
        page = UploadsPage()
        while True:
            rows = await self._registers.scan(bucket.id, Space.UPLOADS, position, prefix, _PAGE)
            for name, entry in rows:
                if not isinstance(entry.value, Upload) or name <= position:
                    continue
                key, identifier = name[: -STAMP_SIZE - 1], name[-STAMP_SIZE:]
                if len(page.items) + len(page.prefixes) == limit:
                    page.truncated = True
                    return page
                at = key.find(delimiter, len(prefix)) if delimiter else -1
                if at >= 0:
                    common = key[: at + len(delimiter)]
                    page.prefixes.append(common)
                    page.next_key, page.next_id, position = common, "", common + b"\xff"
                else:
                    page.items.append(ListedUpload(key, identifier.hex(), entry.value))
                    page.next_key, page.next_id, position = key, identifier.hex(), name
            if len(rows) < _PAGE:
                return page
            position = max(position, rows[-1][0])

    async def sweep(self, bucket: Bucket) -> int:
        """Remove parts whose upload is gone (a crash came between); return how many."""
        live: set[bytes] = set()
        position = b""
        while page := await self._registers.scan(bucket.id, Space.UPLOADS, position, b"", _PAGE):
            live |= {name[-STAMP_SIZE:] for name, entry in page if entry.value is not None}
            position = page[-1][0]
        orphans: list[bytes] = []
        position = b""
        while page := await self._registers.scan(bucket.id, Space.PARTS, position, b"", _PAGE):
            orphans += [name for name, entry in page if entry.value is not None and name[:STAMP_SIZE] not in live]
            position = page[-1][0]
        # an upload that began after the first walk is newer than every orphan: look again before removing
        gone = [name for name in orphans if unpack_stamp(name[:STAMP_SIZE]).wall_ms < self._now_ms() - _SETTLED_MS]
        await self._remove(bucket, Space.PARTS, gone)
        return len(gone)


_SETTLED_MS: Final = 3_600_000  # an hour: far longer than a walk over the uploads takes


def check_part_number(number: int) -> None:
    """Errors: `InvalidError` unless it is 1 to 10,000."""
    if not 1 <= number <= PART_NUMBER_MAX:
        raise InvalidError("Part number must be an integer between 1 and 10000, inclusive")


def _identifier(upload_id: str) -> bytes:
    try:
        identifier = bytes.fromhex(upload_id)
    except ValueError:
        identifier = b""
    if len(identifier) != STAMP_SIZE:
        raise NoSuchUploadError("no upload has an id of this form")
    return identifier


def _upload_key(key: bytes, upload_id: str) -> bytes:
    return key + _SEPARATOR + _identifier(upload_id)


def _part_key(upload_id: str, number: int) -> bytes:
    return _identifier(upload_id) + number.to_bytes(2, "big")


def _position_after(key: bytes, upload_id: str, delimiter: bytes) -> bytes:
    if not key:
        return b""
    if upload_id:
        return _upload_key(key, upload_id)
    if delimiter and key.endswith(delimiter):
        return key + b"\xff"
    return key + _SEPARATOR + b"\xff" * STAMP_SIZE


def _matching(claim: PartClaim, part: Part | None) -> Part:
    if part is None or part.etag != claim.etag:
        raise InvalidPartError(f"part {claim.number} was not uploaded, or has another ETag")
    for algorithm, value in claim.checksums.items():
        if part.checksums.values.get(algorithm, value) != value:
            raise InvalidPartError(f"part {claim.number} has another {algorithm} checksum")
    return part
