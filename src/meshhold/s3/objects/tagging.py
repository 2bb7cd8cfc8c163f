"""GetObjectTagging, PutObjectTagging, DeleteObjectTagging. Touches neither bytes nor dates."""

from __future__ import annotations

from dataclasses import replace

from meshhold.s3.door import Door
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.objects.extras import amend_described, find_described
from meshhold.s3.objects.versions import version_headers
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.tags import parse_tagging, render_tagging
from meshhold.store.directory import Bucket


async def get_tagging(door: Door, request: Request) -> Response:
    """Name a version's tags."""
    bucket = door.allow(request, "s3:GetObjectTagging")
    version = await find_described(door, request, bucket)
    response = xml_response(render_tagging(version.extras.tags))
    response.headers += version_headers(bucket, version)
    return response


async def put_tagging(door: Door, request: Request) -> Response:
    """Replace a version's tags."""
    tags = parse_tagging(await read_document(request, door.settings))
    bucket = door.allow(request, "s3:PutObjectTagging", new_tags=tags)
    return await _set(door, request, bucket, tags, 200)


async def delete_tagging(door: Door, request: Request) -> Response:
    """Drop a version's tags."""
    bucket = door.allow(request, "s3:DeleteObjectTagging")
    return await _set(door, request, bucket, {}, 204)


async def _set(door: Door, request: Request, bucket: Bucket, tags: dict[str, str], status: int) -> Response:
    version = await amend_described(door, request, bucket, lambda extras: replace(extras, tags=tags))
    return Response(status, version_headers(bucket, version))
