"""GetBucketTagging, PutBucketTagging, DeleteBucketTagging. Knows no object."""

from __future__ import annotations

from meshhold.rules.bucket import Aspect
from meshhold.rules.tags import BUCKET_TAGS_MAX
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.tags import parse_tagging, render_tagging


async def get_tagging(door: Door, request: Request) -> Response:
    """Name the bucket's tags."""
    bucket = door.allow(request, "s3:GetBucketTagging")
    if not bucket.rules.tags:
        raise S3Error("NoSuchTagSet", "The TagSet does not exist", fields={"BucketName": request.bucket_name})
    return xml_response(render_tagging(bucket.rules.tags))


async def put_tagging(door: Door, request: Request) -> Response:
    """Replace the bucket's tags."""
    bucket = door.allow(request, "s3:PutBucketTagging")
    tags = parse_tagging(await read_document(request, door.settings), BUCKET_TAGS_MAX)
    await door.rules.set(bucket, Aspect.TAGS, tags)
    return Response(204)


async def delete_tagging(door: Door, request: Request) -> Response:
    """Drop the bucket's tags."""
    bucket = door.allow(request, "s3:PutBucketTagging")
    await door.rules.set(bucket, Aspect.TAGS, {})
    return Response(204)
