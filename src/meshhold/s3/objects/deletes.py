"""DeleteObject and DeleteObjects: conditions, versions, what went. Knows no stack of versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from meshhold.errors import MeshHoldError
from meshhold.replication.tasks import open_tasks
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error, to_s3
from meshhold.s3.exchange import Request, Response, decode_header, xml_response
from meshhold.s3.objects.locks import may_bypass
from meshhold.s3.objects.versions import deletion_headers, deletion_tags, requested_version
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.conditions import parse_date, write_condition
from meshhold.s3.syntax.options import check_options
from meshhold.s3.syntax.query import check_key
from meshhold.s3.syntax.xml import DeleteTarget, document, parse_delete, tag
from meshhold.store.contract import ANYWAY, DeleteCondition, Deleted
from meshhold.store.directory import Bucket

_AT_ONCE: Final = 64  # enough to fill a group commit; a request of 1,000 keys is no reason to hold 1,000 tasks
_MODIFIED: Final = b"x-amz-if-match-last-modified-time"
_SIZE: Final = b"x-amz-if-match-size"
_CONDITIONS: Final = frozenset(
    (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", _MODIFIED, _SIZE)
)


async def delete_object(door: Door, request: Request) -> Response:
    """Remove the object, or put a delete marker on its versions, or remove one version; 204 whatever was there."""
    version = requested_version(request.query.get("versionId"))
    bucket = door.allow(request, "s3:DeleteObject")
    check_options(request)
    condition = _condition(request.headers)
    bypasses = version is not None and may_bypass(door, request)
    deleted = await door.objects.delete(bucket, request.key, condition, version, may_bypass=bypasses)
    return Response(204, deletion_headers(deleted))


def _condition(headers: Mapping[bytes, bytes]) -> DeleteCondition:
    """Return the condition of a deletion. Errors: `InvalidArgument`; those of `write_condition`."""
    if _CONDITIONS.isdisjoint(headers):
        return ANYWAY
    write = write_condition(headers)
    if b"if-none-match" in headers:
        raise S3Error("NotImplemented", "If-None-Match on a deletion is not offered: use If-Match.")
    modified, size = headers.get(_MODIFIED), headers.get(_SIZE)
    return _read_condition(
        None if write.if_match is None else write.if_match[0],
        None if modified is None else decode_header(modified),
        None if size is None else decode_header(size),
    )


def _read_condition(etag: str | None, modified: str | None, size: str | None) -> DeleteCondition:
    modified_s = None if modified is None else parse_date(modified.strip())
    if modified is not None and modified_s is None:
        raise S3Error("InvalidArgument", f"{modified!r} is no time: use Wed, 21 Oct 2015 07:28:00 GMT.")
    if size is not None and not (size.isascii() and size.isdigit() and len(size) < 20):
        raise S3Error("InvalidArgument", f"{size!r} is no size in bytes.")
    return DeleteCondition(
        None if etag is None else etag.strip().strip('"'), modified_s, None if size is None else int(size)
    )


async def delete_objects(door: Door, request: Request) -> Response:
    """Remove up to 1,000 objects or versions; the answer tells for each what happened."""
    bucket = door.allow_some(request, "s3:DeleteObject")
    check_options(request)
    wanted = parse_delete(await read_document(request, door.settings, digest_required=True))
    bypasses = may_bypass(door, request)
    results: list[S3Error | Deleted] = [Deleted()] * len(wanted.keys)
    slots = trio.Semaphore(_AT_ONCE)

    async def delete(at: int, target: DeleteTarget) -> None:
        async with slots:
            results[at] = await _delete_one(door, request, bucket, target, bypasses=bypasses)

    async with open_tasks() as nursery:
        for at, target in enumerate(wanted.keys):
            nursery.start_soon(delete, at, target)
    rows = []
    for target, result in zip(wanted.keys, results, strict=True):
        key = tag("Key", target.key.decode())
        if isinstance(result, S3Error):
            version = "" if target.version_id is None else tag("VersionId", target.version_id)
            rows.append(f"<Error>{key}{version}{tag('Code', result.code)}{tag('Message', result.message)}</Error>")
        elif not wanted.quiet:
            rows.append(f"<Deleted>{key}{deletion_tags(result)}</Deleted>")
    return xml_response(document("DeleteResult", "".join(rows)))


async def _delete_one(
    door: Door, request: Request, bucket: Bucket, target: DeleteTarget, *, bypasses: bool
) -> S3Error | Deleted:
    try:
        check_key(target.key)
        version = requested_version(target.version_id)
        door.check(request, bucket, "s3:DeleteObject", target.key, names_version=version is not None)
        condition = _read_condition(target.etag, target.modified, target.size)
        return await door.objects.delete(bucket, target.key, condition, version, may_bypass=bypasses)
    except S3Error as error:
        return error
    except MeshHoldError as error:
        return to_s3(error, is_conditional=target.etag is not None)
