"""GetBucketPolicy, PutBucketPolicy, DeleteBucketPolicy, GetBucketPolicyStatus. Judges nothing: see `rules.policy`."""

from __future__ import annotations

from meshhold.errors import InvalidError
from meshhold.model.ids import ANONYMOUS
from meshhold.rules.bucket import Aspect
from meshhold.rules.policy import parse_policy
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.xml import document, tag

_JSON = (b"content-type", b"application/json")


async def get_policy(door: Door, request: Request) -> Response:
    """Return the policy as it was set. Errors: `NoSuchBucketPolicy`."""
    bucket = door.allow(request, "s3:GetBucketPolicy")
    policy = bucket.rules.policy
    if policy is None:
        raise S3Error(
            "NoSuchBucketPolicy", "The bucket policy does not exist", fields={"BucketName": request.bucket_name}
        )
    return Response(200, [_JSON], policy.document.encode())


async def put_policy(door: Door, request: Request) -> Response:
    """Set the policy.

    Errors: `MalformedPolicy` names what cannot be judged; `AccessDenied` for a public one where such are blocked.
    """
    bucket = door.allow(request, "s3:PutBucketPolicy")
    raw = await read_document(request, door.settings)
    try:
        policy = parse_policy(raw.decode(), request.bucket_name)
    except UnicodeDecodeError:
        raise S3Error("MalformedPolicy", "The policy is not UTF-8.") from None
    except InvalidError as error:
        raise S3Error("MalformedPolicy", str(error)) from error
    block = bucket.rules.block
    if block is not None and block.block_policy and policy.is_public:
        raise S3Error("AccessDenied", "Access Denied: the bucket's public access block refuses public policies.")
    await door.rules.set(bucket, Aspect.POLICY, policy)
    return Response(204)


async def delete_policy(door: Door, request: Request) -> Response:
    """Set no policy any more; 204 whether or not there was one."""
    bucket = door.allow(request, "s3:DeleteBucketPolicy")
    await door.rules.set(bucket, Aspect.POLICY, None)
    return Response(204)


async def get_policy_status(door: Door, request: Request) -> Response:
    """Say whether a policy, or a grant, gives something to everybody."""
    bucket = door.allow(request, "s3:GetBucketPolicyStatus")
    by_policy = bucket.rules.policy is not None and bucket.rules.policy.is_public
    is_public = by_policy or door.access.grant_of(ANONYMOUS, bucket) is not None
    return xml_response(document("PolicyStatus", tag("IsPublic", "true" if is_public else "false")))
