"""Tags and locks of versions, as the headers of writes ask for them and those of reads show them. Knows no storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from meshhold.errors import DeleteMarkerError, DeniedError, NotFoundError
from meshhold.model.entry import PLAIN, Extras, ObjectVersion
from meshhold.s3.door import Door
from meshhold.s3.exchange import Headers, Request
from meshhold.s3.objects.versions import refuse_marker, requested_version
from meshhold.s3.syntax.locks import HOLD, MODE, UNTIL, lock_headers, lock_of
from meshhold.s3.syntax.tags import HEADER, tags_of
from meshhold.store.directory import Bucket


def extras_of(door: Door, request: Request, bucket: Bucket) -> Extras:
    """Return tags and lock of the version that this request makes; which version it is the store decides.

    Errors: what tags and locks refuse; `DeniedError` for a sender that may write but may not set them.
    """
    headers = request.headers
    if HEADER in headers:
        door.allow(request, "s3:PutObjectTagging")
        tags = tags_of(request)
    else:
        tags = {}
    lock = bucket.rules.lock
    if not lock.mode and MODE not in headers and UNTIL not in headers and HOLD not in headers:
        return Extras(tags=tags) if tags else PLAIN
    if MODE in headers or UNTIL in headers:
        door.allow(request, "s3:PutObjectRetention")
    if HOLD in headers:
        door.allow(request, "s3:PutObjectLegalHold")
    return Extras(tags=tags, lock=lock_of(request, lock, door.now_ms()))


async def find_described(door: Door, request: Request, bucket: Bucket) -> ObjectVersion:
    """Return the version whose tags or lock a request is about.

    Errors: `NoSuchKey`, `NoSuchVersion`; `MethodNotAllowed` for a delete marker; `DeniedError` for a missing object, to
    a sender who may not know which there are.
    """
    try:
        return await door.objects.find(bucket, request.key, requested_version(request.query.get("versionId")))
    except DeleteMarkerError as error:
        refuse_marker(error, request)
    except NotFoundError:
        if not door.may_know(request, bucket, request.key):
            raise DeniedError("Access Denied") from None
        raise


async def amend_described(
    door: Door, request: Request, bucket: Bucket, change: Callable[[Extras], Extras]
) -> ObjectVersion:
    """Change tags or lock of the version that a request is about, and nothing else; return it as it is then.

    `change` may run several times; what it raises propagates. Errors: as `find_described`.
    """
    await find_described(door, request, bucket)

    def changed(version: ObjectVersion) -> ObjectVersion:
        return replace(version, extras=change(version.extras))

    return await door.objects.amend(bucket, request.key, request.query.get("versionId"), changed)


def extras_headers(extras: Extras) -> Headers:
    """Return how GET and HEAD show tags and lock."""
    headers: Headers = []
    if extras.tags:
        headers.append((b"x-amz-tagging-count", b"%d" % len(extras.tags)))
    if extras.lock is not None:
        headers += lock_headers(extras.lock)
    return headers
