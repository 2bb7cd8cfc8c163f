"""DeleteObject and DeleteObjects. Knows no versions: an object is its version `null`."""

from __future__ import annotations

from typing import Final

import trio

from meshhold.errors import DeniedError, MeshHoldError
from meshhold.replication.tasks import open_tasks
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error, to_s3
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.objects.gets import check_version
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.conditions import write_condition
from meshhold.s3.syntax.options import check_options
from meshhold.s3.syntax.query import check_key
from meshhold.s3.syntax.xml import DeleteTarget, document, parse_delete, tag
from meshhold.store.contract import ALWAYS, WriteCondition
from meshhold.store.directory import Bucket

_AT_ONCE: Final = 64  # enough to fill a group commit; a request of 1,000 keys is no reason to hold 1,000 tasks


async def delete_object(door: Door, request: Request) -> Response:
    """Remove the object; 204 whether or not there was one."""
    bucket = door.allow(request, "s3:DeleteObject")
    check_options(request)
    check_version(request.query.get("versionId"))
    await door.objects.delete(bucket, request.key, write_condition(request.headers))
    return Response(204)


async def delete_objects(door: Door, request: Request) -> Response:
    """Remove up to 1,000 objects; the answer tells for each whether it went."""
    bucket = door.allow(request, "s3:DeleteObject")
    check_options(request)
    wanted = parse_delete(await read_document(request, door.settings, digest_required=True))
    results: list[S3Error | None] = [None] * len(wanted.keys)
    slots = trio.Semaphore(_AT_ONCE)

    async def delete(at: int, target: DeleteTarget) -> None:
        async with slots:
            results[at] = await _delete_one(door, bucket, target)

    async with open_tasks() as nursery:
        for at, target in enumerate(wanted.keys):
            nursery.start_soon(delete, at, target)
    rows = []
    for target, error in zip(wanted.keys, results, strict=True):
        key = tag("Key", target.key.decode())
        version = "" if target.version_id is None else tag("VersionId", target.version_id)
        if error is not None:
            rows.append(f"<Error>{key}{version}{tag('Code', error.code)}{tag('Message', error.message)}</Error>")
        elif not wanted.quiet:
            rows.append(f"<Deleted>{key}{version}</Deleted>")
    return xml_response(document("DeleteResult", "".join(rows)))


async def _delete_one(door: Door, bucket: Bucket, target: DeleteTarget) -> S3Error | None:
    try:
        check_key(target.key)
        check_version(target.version_id)
        condition = ALWAYS if target.etag is None else WriteCondition(if_match=(target.etag,))
        await door.objects.delete(bucket, target.key, condition)
    except S3Error as error:
        return error
    except MeshHoldError as error:
        if isinstance(error, DeniedError):
            raise
        return to_s3(error, is_conditional=target.etag is not None)
    return None
