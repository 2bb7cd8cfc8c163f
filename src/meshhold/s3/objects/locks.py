"""GetObjectRetention, PutObjectRetention, GetObjectLegalHold, PutObjectLegalHold. What holds is `rules.lock`'s."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from meshhold.errors import DeniedError
from meshhold.model.entry import Extras, ObjectVersion
from meshhold.rules.lock import check_change
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.objects.extras import amend_described, find_described
from meshhold.s3.objects.versions import version_headers
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.locks import (
    UNLOCKED,
    check_future,
    check_lockable,
    parse_legal_hold,
    parse_retention,
    render_legal_hold,
    render_retention,
)
from meshhold.store.directory import Bucket

BYPASS: Final = b"x-amz-bypass-governance-retention"


async def get_retention(door: Door, request: Request) -> Response:
    """Say until when a version is kept, and in which mode. Errors: `NoSuchObjectLockConfiguration` if in none."""
    bucket = door.allow(request, "s3:GetObjectRetention")
    version = await _find(door, request, bucket)
    lock = version.extras.lock
    if lock is None or not lock.mode:
        raise _nothing_set()
    response = xml_response(render_retention(lock))
    response.headers += version_headers(bucket, version)
    return response


async def put_retention(door: Door, request: Request) -> Response:
    """Set until when a version is kept; an empty `<Retention>` takes it off, where that is allowed."""
    bucket = door.allow(request, "s3:PutObjectRetention")
    check_lockable(bucket.rules.lock)
    wish = parse_retention(await read_document(request, door.settings))
    if wish.mode:
        check_future(wish.until_ms, door.now_ms())
    bypasses = may_bypass(door, request)

    def change(extras: Extras) -> Extras:
        old = extras.lock
        check_change(old, wish, door.objects.lock_now_ms(), bypasses)
        return replace(extras, lock=replace(wish, legal_hold=old is not None and old.legal_hold))

    version = await amend_described(door, request, bucket, change)
    return Response(200, version_headers(bucket, version))


async def get_legal_hold(door: Door, request: Request) -> Response:
    """Say whether a version is under a legal hold. Errors: `NoSuchObjectLockConfiguration` if nothing was ever set."""
    bucket = door.allow(request, "s3:GetObjectLegalHold")
    version = await _find(door, request, bucket)
    if version.extras.lock is None:
        raise _nothing_set()
    response = xml_response(render_legal_hold(version.extras.lock))
    response.headers += version_headers(bucket, version)
    return response


async def put_legal_hold(door: Door, request: Request) -> Response:
    """Put a version under a legal hold, or end it."""
    bucket = door.allow(request, "s3:PutObjectLegalHold")
    check_lockable(bucket.rules.lock)
    hold = parse_legal_hold(await read_document(request, door.settings))

    def change(extras: Extras) -> Extras:
        return replace(extras, lock=replace(extras.lock or UNLOCKED, legal_hold=hold))

    version = await amend_described(door, request, bucket, change)
    return Response(200, version_headers(bucket, version))


async def _find(door: Door, request: Request, bucket: Bucket) -> ObjectVersion:
    check_lockable(bucket.rules.lock)
    return await find_described(door, request, bucket)


def _nothing_set() -> S3Error:
    return S3Error(
        "NoSuchObjectLockConfiguration", "The specified object does not have a ObjectLock configuration of this kind."
    )


def may_bypass(door: Door, request: Request) -> bool:
    """Tell whether the request asks to go around governance, and its sender may."""
    if request.headers.get(BYPASS, b"").strip().lower() != b"true":
        return False
    try:
        door.allow(request, "s3:BypassGovernanceRetention")
    except DeniedError:
        return False
    return True
