"""The words in which a door talks to the use-cases: bodies, conditions, metadata. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meshhold.errors import NoSuchObjectError, PreconditionFailedError
from meshhold.model.entry import Checksums, ObjectVersion, Upload, Value
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
    """When a write may happen. `if_match` lists ETags without quotes, `*` for any object; None for no condition."""

    if_match: tuple[str, ...] | None = None
    if_absent: bool = False

    def check(self, current: Value | None) -> None:
        """Let the write pass, or raise. Pure: it may be asked several times for one request.

        Errors: `PreconditionFailedError`; `NoSuchObjectError` for `If-Match` on a key without object, as S3 answers.
        """
        if self.if_absent and current is not None:
            raise PreconditionFailedError("an object with this key exists", "If-None-Match")
        if self.if_match is not None:
            if current is None:
                raise NoSuchObjectError("no object has this key, so none can match If-Match")
            if isinstance(current, ObjectVersion) and "*" not in self.if_match and current.etag not in self.if_match:
                raise PreconditionFailedError("the object has another ETag", "If-Match")


ALWAYS = WriteCondition()
