"""Objects: put, find, send, copy, delete. Knows neither HTTP nor where chunks rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import trio

from meshhold.crypto.random import new_salt
from meshhold.errors import (
    DeleteMarkerError,
    MetadataTooLargeError,
    NoSuchObjectError,
    NoSuchVersionError,
    RefusedError,
    TooLargeError,
)
from meshhold.model.entry import PLAIN, DeleteMarker, Extras, ObjectVersion, Space, Value
from meshhold.replication.chunks.reader import ChunkReader, Sink
from meshhold.replication.chunks.writer import ChunkWriter, Flight
from meshhold.replication.index.early import Early
from meshhold.replication.index.registers import Registers
from meshhold.replication.tasks import open_tasks
from meshhold.rules.lock import check_removal
from meshhold.rules.stack import Stacked, object_of, parse_id, shown_id, top_of
from meshhold.sealing.content import Content, PartRow, open_content, seal_content
from meshhold.store.contract import (
    ALWAYS,
    ANYWAY,
    Body,
    Condition,
    Deleted,
    Metadata,
    WriteCondition,
)
from meshhold.store.directory import Bucket
from meshhold.store.gates import Gates
from meshhold.store.quotas import Quotas, check_room
from meshhold.store.renewal import Renewal
from meshhold.store.stacks import Stacks

METADATA_SIZE_MAX: Final = (
    8 * 1024
)  # S3 allows 2 KiB of user metadata; all headers together stay within one page or two
COPY_SIZE_MAX: Final = 5 * 2**30  # S3's limit for CopyObject; larger objects are copied by parts


class _NothingError(RefusedError):
    """What a condition was to judge is not there: not even a delete marker is put."""


class Objects:
    """The objects of the vaults that this node can open.

    Resources: borrows its collaborators; closes nothing.
    """

    def __init__(
        self,
        registers: Registers,
        writer: ChunkWriter,
        reader: ChunkReader,
        renewal: Renewal,
        gates: Gates,
        now_ms: Callable[[], int],
        lock_now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._registers = registers
        self._writer = writer
        self._reader = reader
        self._renewal = renewal
        self.gates = gates
        self.quotas = Quotas(registers)
        self._now_ms = now_ms
        self.lock_now_ms = lock_now_ms or now_ms
        self.stacks = Stacks(registers, gates, now_ms, self.lock_now_ms)

    async def put(
        self,
        bucket: Bucket,
        key: bytes,
        body: Body,
        metadata: Metadata,
        condition: WriteCondition = ALWAYS,
        extras: Extras = PLAIN,
    ) -> ObjectVersion:
        """Keep the body as the object, durable and visible when this returns; replaces what was there.

        Where the bucket keeps versions, what was there becomes an earlier one. `extras` say tags, lock and the client's
        own key.
        Errors: what the body raises; what the condition raises (checked first, so that a doomed upload ends early, and
        again with the write itself); `UnavailableError`. After an error the earlier object is untouched.
        """
        check_metadata(metadata)
        if condition != ALWAYS:
            self.check_condition(bucket, condition)
            condition.check(object_of(await self.stacks.read(bucket, key)))
        early = self._registers.early(bucket.id, Space.OBJECTS, key)
        with self._writer.in_flight() as flight:
            return await self._put(bucket, key, body, metadata, condition, extras, early, flight)

    async def _put(
        self,
        bucket: Bucket,
        key: bytes,
        body: Body,
        metadata: Metadata,
        condition: WriteCondition,
        extras: Extras,
        early: Early | None,
        flight: Flight,
    ) -> ObjectVersion:
        written = await self._writer.write(bucket.keys, body, before_waiting=None if early is None else early.begin)
        digested = body.finish()
        await self.renew_written(bucket, written.content, flight)
        version = ObjectVersion(
            size=written.size,
            etag=digested.etag,
            modified_ms=self._now_ms(),
            content=seal_content(bucket.keys, key, new_salt(), written.content),
            headers=metadata.headers,
            user=metadata.user,
            checksums=digested.checksums,
            extras=extras,
        )
        return await self.commit(bucket, key, version, condition, early)

    async def renew_written(self, bucket: Bucket, content: Content, flight: Flight) -> None:
        """Make what a long write made as new, right before an entry refers to it; see `Renewal.renew_written`."""
        await self._renewal.renew_written(bucket.keys, content, flight)

    async def commit(
        self,
        bucket: Bucket,
        key: bytes,
        version: ObjectVersion,
        condition: WriteCondition,
        early: Early | None = None,
    ) -> ObjectVersion:
        """Make a version whose chunks are durable the current one, if the condition holds at that moment.

        Errors: what the condition raises; `UnavailableError` for a condition in a vault that takes none;
        `QuotaExceededError`.
        """
        room = None if bucket.rules.quota is None else await self.quotas.room(bucket)

        def check(current: Value | None) -> None:
            condition.check(object_of(current))
            if room is not None:
                check_room(room, bucket, current, version.size)

        pushed = await self.stacks.push(bucket, key, version, check, early, conditional=condition != ALWAYS)
        return replace(version, extras=pushed.extras)

    def check_condition(self, bucket: Bucket, condition: WriteCondition) -> None:
        """Errors: `UnavailableError` if the vault's writes cannot be conditional and this one would be."""
        if condition != ALWAYS:
            self._registers.check_conditional(bucket.id)

    def check_versions(self, bucket: Bucket) -> None:
        """Errors: `UnavailableError` if the vault cannot keep versions, since each side goes on alone."""
        self._registers.check_conditional(bucket.id)

    async def find(self, bucket: Bucket, key: bytes, version: str | None = None) -> ObjectVersion:
        """Return the current version, or the one that S3 calls `version`.

        Errors: `NoSuchObjectError`, of which `DeleteMarkerError` is one; `NoSuchVersionError`; `InvalidError` for what
        is no id.
        """
        identifier = None if version is None else parse_id(version)
        top = top_of(await self.stacks.read(bucket, key))
        found = top
        if version is not None:
            found = None if top is None else await self.stacks.version(bucket, key, top, identifier)
        if isinstance(found, ObjectVersion):
            return found
        if found is not None:
            raise DeleteMarkerError(
                "the version is a delete marker", shown_id(found), found.modified_ms, is_named=version is not None
            )
        if version is not None:
            raise NoSuchVersionError("the specified version does not exist")
        raise NoSuchObjectError("no object has this key")

    async def amend(
        self, bucket: Bucket, key: bytes, version: str | None, change: Callable[[ObjectVersion], ObjectVersion]
    ) -> ObjectVersion:
        """Change tags and lock of the current version, or of the one that S3 calls `version`; return it as it is then.

        Reads and changes behind it see the new ones. `change` is pure and may run several times; what it raises
        propagates. Errors: as `find`; those of a change.
        """
        identifier = None if version is None else parse_id(version)
        return await self.stacks.amend(bucket, key, identifier, change, is_named=version is not None)

    async def send(self, bucket: Bucket, key: bytes, version: ObjectVersion, start: int, stop: int, sink: Sink) -> None:
        """Hand bytes `start` to `stop` of the version to the sink.

        Errors: see `ChunkReader.copy`.
        """
        content = open_content(bucket.keys, key, version.content)
        await self._reader.copy(bucket.keys, content, start, stop, sink)

    async def parts(self, bucket: Bucket, key: bytes, version: ObjectVersion) -> list[PartRow]:
        """Return the parts that the object was uploaded in; empty for one that came in one piece.

        Errors: as `send`.
        """
        return await self.parts_of(bucket, open_content(bucket.keys, key, version.content))

    async def parts_of(self, bucket: Bucket, content: Content) -> list[PartRow]:
        """Return the part table of an opened content."""
        return await self._reader.part_table(bucket.keys, content)

    async def delete(
        self,
        bucket: Bucket,
        key: bytes,
        condition: Condition = ANYWAY,
        version: str | None = None,
        *,
        may_bypass: bool = False,
    ) -> Deleted:
        """Remove the object, or the one version that is named; deleting what is not there succeeds, as in S3.

        Where the bucket keeps versions, the object goes under a delete marker, and only a named version goes for good.
        `may_bypass`: governance locks do not hold the sender. Errors: what the condition raises; `LockedError`;
        `InvalidError` for what is no version's id.
        """
        if version is not None:
            return await self._delete_version(bucket, key, condition, version, may_bypass=may_bypass)

        is_conditional = condition not in (ANYWAY, ALWAYS)

        def check(current: Value | None) -> None:
            top = top_of(current)
            condition.check(top)
            if is_conditional and top is None:
                raise _NothingError("nothing is there to be deleted")

        try:
            marker = await self.stacks.delete(bucket, key, check, conditional=is_conditional)
        except _NothingError:
            return Deleted()
        return Deleted() if marker is None else Deleted(shown_id(marker), is_marker=True)

    async def _delete_version(
        self, bucket: Bucket, key: bytes, condition: Condition, version: str, *, may_bypass: bool
    ) -> Deleted:
        identifier = parse_id(version)

        def check(found: Stacked) -> None:
            condition.check(found)
            check_removal(found.extras.lock, self.lock_now_ms(), may_bypass)

        removed = await self.stacks.remove(bucket, key, identifier, check)
        return Deleted(version, isinstance(removed, DeleteMarker), was_named=True)

    async def copy(
        self,
        source_bucket: Bucket,
        source_key: bytes,
        source: ObjectVersion,
        bucket: Bucket,
        key: bytes,
        metadata: Metadata | None,
        condition: WriteCondition = ALWAYS,
        extras: Extras | None = None,
    ) -> ObjectVersion:
        """Make the source version the object `key`; with `metadata` None its own metadata comes along.

        So do its tags, and neither its lock nor its client's own key, with `extras` None.

        Within a vault no byte moves: the new entry refers to the same chunks, renewed first. Between vaults the bytes
        are opened and sealed anew. The ETag and checksums stay the source's.
        Errors: `TooLargeError` above 5 GiB; what the condition raises; those of `send`.
        """
        if source.size > COPY_SIZE_MAX:
            raise TooLargeError(f"the source has {source.size} bytes; CopyObject takes up to 5 GiB", "copy it by parts")
        if metadata is not None:
            check_metadata(metadata)
        self.check_condition(bucket, condition)
        with self._writer.in_flight() as flight:
            content = await self._copy_content(source_bucket, source_key, source, bucket)
            await self.renew_written(bucket, content, flight)
            version = replace(
                source,
                modified_ms=self._now_ms(),
                content=seal_content(bucket.keys, key, new_salt(), content),
                headers=source.headers if metadata is None else metadata.headers,
                user=source.user if metadata is None else metadata.user,
                extras=Extras(tags=source.extras.tags) if extras is None else extras,
            )
            return await self.commit(bucket, key, version, condition)

    async def put_again(self, bucket: Bucket, key: bytes, version: ObjectVersion) -> ObjectVersion:
        """Make what once was this key's version, and is kept, the current one; no byte moves.

        Errors: `ChunkMissingError` if its content is not here.
        """
        with self._writer.in_flight():
            await self._copy_content(bucket, key, version, bucket)
            return await self.commit(bucket, key, replace(version, modified_ms=self._now_ms()), ALWAYS)

    async def _copy_content(
        self, source_bucket: Bucket, source_key: bytes, source: ObjectVersion, bucket: Bucket
    ) -> Content:
        content = open_content(source_bucket.keys, source_key, source.content)
        if content.inline is not None:
            return content
        if source_bucket.id == bucket.id:
            await self._renewal.renew(bucket.keys, content)
            return content
        parts = await self._reader.part_table(source_bucket.keys, content)
        async with self.open_range(source_bucket, source_key, source, 0, source.size) as body:
            written = await self._writer.write(bucket.keys, body)
        return await self._writer.with_parts(bucket.keys, written.content, parts)

    @asynccontextmanager
    async def open_range(
        self,
        bucket: Bucket,
        key: bytes,
        version: ObjectVersion,
        start: int,
        stop: int,
        digest: Callable[[bytes], None] | None = None,
    ) -> AsyncIterator[RangeSource]:
        """Offer bytes `start` to `stop` of a version as a source for a writer, as `ChunkReader.copy` reads them.

        `digest` hashes them on the way; without it nothing does, since opened chunks are verified already.
        """
        send, receive = trio.open_memory_channel[bytes](0)

        async def pump() -> None:
            async with send:
                await self.send(bucket, key, version, start, stop, send.send)

        async with open_tasks() as nursery:
            nursery.start_soon(pump)
            async with receive:
                yield RangeSource(receive, digest)


class RangeSource:
    """Bytes that come from an object of ours."""

    def __init__(self, pieces: trio.MemoryReceiveChannel[bytes], digest: Callable[[bytes], None] | None) -> None:
        self._pieces = pieces
        self._digest = digest

    async def receive(self) -> bytes:
        """Return the next piece, `b""` at the end."""
        try:
            return await self._pieces.receive()
        except trio.EndOfChannel:
            return b""

    def digest(self, block: bytes) -> None:
        """Hash a block, if somebody wants it hashed."""
        if self._digest is not None:
            self._digest(block)


def check_metadata(metadata: Metadata) -> None:
    """Errors: `MetadataTooLargeError` beyond 2 KiB of user metadata (as S3) or 8 KiB in all."""
    size = sum(len(name.encode()) + len(value.encode()) for name, value in metadata.user.items())
    total = size + sum(len(name) + len(value) for name, value in metadata.headers.items())
    if size > 2048 or total > METADATA_SIZE_MAX:
        raise MetadataTooLargeError(
            f"user metadata has {size} bytes, all headers {total}", f"use at most 2,048 and {METADATA_SIZE_MAX}"
        )
