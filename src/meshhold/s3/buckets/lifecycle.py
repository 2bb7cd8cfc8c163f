"""A bucket's lifecycle: setting and showing its rules, and the headers that announce an end. Judges nothing due."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import msgpack

from meshhold.model.entry import ObjectVersion
from meshhold.rules.bucket import Aspect
from meshhold.rules.lifecycle import Due, object_due, pack_lifecycle, upload_due
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers, Request, Response, xml_response
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.conditions import http_date
from meshhold.s3.syntax.lifecycle import parse_lifecycle, render_lifecycle
from meshhold.store.directory import Bucket

STORED_SIZE_MAX: Final = 56 * 1024  # a record is at most 64 KiB, its seal, names and signature included
_MOMENT_MAX_MS: Final = 253_402_300_799_000  # the last second of the year 9999; HTTP has no later one


async def put_lifecycle(door: Door, request: Request) -> Response:
    """Let these rules hold for the bucket, in place of earlier ones."""
    bucket = door.allow(request, "s3:PutLifecycleConfiguration")
    lifecycle = parse_lifecycle(await read_document(request, door.settings, digest_required=True))
    size = len(msgpack.packb(pack_lifecycle(lifecycle)))
    if size > STORED_SIZE_MAX:
        raise S3Error(
            "InvalidRequest",
            f"The rules take {size} bytes, and a bucket keeps at most {STORED_SIZE_MAX}. Use fewer or shorter rules.",
        )
    await door.rules.set(bucket, Aspect.LIFECYCLE, lifecycle)
    return Response(200)


async def get_lifecycle(door: Door, request: Request) -> Response:
    """Show the rules."""
    lifecycle = door.allow(request, "s3:GetLifecycleConfiguration").rules.lifecycle
    if lifecycle is None:
        raise S3Error(
            "NoSuchLifecycleConfiguration",
            "The lifecycle configuration does not exist",
            fields={"BucketName": request.bucket_name},
        )
    return xml_response(render_lifecycle(lifecycle))


async def delete_lifecycle(door: Door, request: Request) -> Response:
    """Let no rule hold any more; 204 whether or not there was one."""
    bucket = door.allow(request, "s3:PutLifecycleConfiguration")
    await door.rules.set(bucket, Aspect.LIFECYCLE, None)
    return Response(204)


# -- what answers announce ------------------------------------------------------------------------------------------


def expiration_headers(bucket: Bucket, key: bytes, version: ObjectVersion) -> Headers:
    """Return the header that says when a current object ends and by which rule; none where it stays."""
    lifecycle = bucket.rules.lifecycle
    if lifecycle is None:
        return []
    due = object_due(lifecycle, key, version.size, version.extras.tags, version.modified_ms)
    if due is None or due.at_ms > _MOMENT_MAX_MS:
        return []
    return [(b"x-amz-expiration", f'expiry-date="{_moment(due)}", rule-id="{quote(due.rule, safe="")}"'.encode())]


def abort_headers(bucket: Bucket, key: bytes, initiated_ms: int) -> Headers:
    """Return the headers that say when an upload is aborted unless it ends before; none where it stays."""
    lifecycle = bucket.rules.lifecycle
    due = None if lifecycle is None else upload_due(lifecycle, key, initiated_ms)
    if due is None or due.at_ms > _MOMENT_MAX_MS:
        return []
    return [(b"x-amz-abort-date", _moment(due).encode()), (b"x-amz-abort-rule-id", quote(due.rule, safe="").encode())]


def _moment(due: Due) -> str:
    return http_date(max(due.at_ms, 0))
