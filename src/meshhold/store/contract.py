"""The words in which a door talks to the use-cases: bodies, conditions, metadata. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meshhold.errors import NoSuchObjectError, PreconditionFailedError
from meshhold.model.entry import Checksums, DeleteMarker, ObjectVersion, Upload, Value
from meshhold.replication.chunks.writer import Source
from meshhold.sealing.content import PartRow


@dataclass(frozen=True, slots=True)
class Digested:
    """What the received bytes hash to: the ETag (without quotes) and the checksums that are kept."""

    etag: str
    checksums: Checksums


class Body(Source, Protocol):
    """A body whose sender announced digests. `finish` is called once, after the end, before anything is committed."""

    def finish(self) -> Digested:
        """Return the digests. Errors: `RefusedError` or the door's own error when an announced digest differs."""


Combine = Callable[[Sequence[PartRow], Upload | None], Digested]
"""Derives an object's ETag and checksums from its parts'; the upload is None where it is gone already."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a client says of an object: `headers` it gets back (lowercase), and user metadata without the prefix."""

    headers: dict[str, str] = field(default_factory=dict)
    user: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WriteCondition:
    """When a write may happen. `if_match` lists ETags without quotes, `*` for any object; None for no condition.

    `if_none_match` is an ETag that the object must not have; where there is no object, it passes.
    """

    if_match: tuple[str, ...] | None = None
    if_absent: bool = False
    if_none_match: str | None = None

    def check(self, current: Value | None) -> None:
        """Let the write pass, or raise. Pure: it may be asked several times for one request.

        A delete marker is no object. Errors: `PreconditionFailedError`; `NoSuchObjectError` for `If-Match` on a key
        without object, as S3 answers.
        """
        if isinstance(current, DeleteMarker):
            current = None
        if self.if_absent and current is not None:
            raise PreconditionFailedError("an object with this key exists", "If-None-Match")
        if isinstance(current, ObjectVersion) and current.etag == self.if_none_match:
            raise PreconditionFailedError("the object has this ETag", "If-None-Match")
        if self.if_match is not None:
            if current is None:
                raise NoSuchObjectError("no object has this key, so none can match If-Match")
            if isinstance(current, ObjectVersion) and "*" not in self.if_match and current.etag not in self.if_match:
                raise PreconditionFailedError("the object has another ETag", "If-Match")


ALWAYS = WriteCondition()


class Condition(Protocol):
    """What judges a deletion by the version that is to be deleted."""

    def check(self, version: ObjectVersion | DeleteMarker | None, /) -> None:
        """Let the deletion pass, or raise a `RefusedError`. Pure; None where there is nothing."""


@dataclass(frozen=True, slots=True)
class DeleteCondition:
    """When a deletion may happen: None for no condition. `etag` is without quotes, `*` for anything that is there.

    `modified_s` is the version's time in whole seconds since 1970, `size` its size in bytes. What is not there fits
    every condition, as S3 has it, so that a deletion may be repeated; a delete marker fits no ETag and no size.
    """

    etag: str | None = None
    modified_s: int | None = None
    size: int | None = None

    def check(self, version: ObjectVersion | DeleteMarker | None) -> None:
        """Let the deletion pass, or raise. Pure. Errors: `PreconditionFailedError`."""
        if version is None:
            return
        etag, size = (version.etag, version.size) if isinstance(version, ObjectVersion) else (None, None)
        if self.etag not in (None, "*", etag):
            raise PreconditionFailedError("the object has another ETag", "If-Match")
        if self.modified_s is not None and self.modified_s != version.modified_ms // 1000:
            raise PreconditionFailedError(
                "the object was modified at another time", "x-amz-if-match-last-modified-time"
            )
        if self.size is not None and self.size != size:
            raise PreconditionFailedError("the object has another size", "x-amz-if-match-size")


ANYWAY = DeleteCondition()


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion did. `version` is the id, as S3 shows it, of the version that went, or of the marker made.

    It is `""` where versions were never kept. `is_marker`: a delete marker was made, or the version that went was one.
    `was_named`: one version was asked for.
    """

    version: str = ""
    is_marker: bool = False
    was_named: bool = False
