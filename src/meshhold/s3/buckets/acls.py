"""GetBucketAcl, PutBucketAcl, and the ACL of a bucket that is made. Knows no object.

READ for everybody on a bucket is the grant to `anonymous` with listing. A key minted with `--may-publish` writes it and
takes it back; other keys may only say what holds.
"""

from __future__ import annotations

from meshhold.model.grant import UNLIMITED, Permission
from meshhold.model.ids import ANONYMOUS
from meshhold.rules.public_access import Ownership
from meshhold.s3.buckets.ownership import ownership_at_creation
from meshhold.s3.door import OWNER, Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.objects.acls import beyond, check_block, check_grantees, check_ownership, not_supported, read_acl
from meshhold.s3.syntax.acl import Acl, acl_of_headers, render_acl
from meshhold.store.directory import Bucket


async def get_acl(door: Door, request: Request) -> Response:
    """Say who may list the bucket: its owner, and everybody where a grant or a policy lets them."""
    bucket = door.allow(request, "s3:GetBucketAcl")
    return xml_response(render_acl(OWNER, public=door.is_public(bucket)))


async def put_acl(door: Door, request: Request) -> Response:
    """Make the bucket public or private as far as the key may, else take what holds."""
    bucket = door.allow(request, "s3:PutBucketAcl")
    await _apply(door, request, bucket, await read_acl(door, request))
    return Response(200)


def acl_at_creation(door: Door, request: Request) -> Acl | None:
    """Return the ACL that a new bucket is to have, None for a private one: before it is made.

    Errors: `AccessControlListNotSupported` where the key could not give it.
    """
    acl = acl_of_headers(request.headers, OWNER)
    if acl is None or acl.is_private:
        return None
    for other in acl.others:
        if not door.access.knows(other):
            raise S3Error("InvalidArgument", "Invalid id", fields={"ArgumentName": "CanonicalUser/ID"})
    if not acl.is_public_read or ownership_at_creation(request) is Ownership.ENFORCED:
        raise not_supported(
            f"{acl.name} is not offered",
            "create the bucket without it, and grant keys access with `meshhold s3-perm grant`",
        )
    if not door.access.may_publish(request.access_key):
        raise _may_not_publish(acl, request.bucket_name)
    return acl


async def _apply(door: Door, request: Request, bucket: Bucket, acl: Acl) -> None:
    check_ownership(bucket, acl)
    check_block(bucket, acl)
    check_grantees(door, bucket, acl)
    grant = door.access.grant_of(ANONYMOUS, bucket)
    if acl.is_private:
        if grant is None:
            return
        if not door.access.may_publish(request.access_key):
            raise not_supported(
                f"{acl.name} does not hold: everybody may read objects of this bucket",
                f"take that back with `meshhold s3-perm revoke anonymous {bucket.alias}`",
            )
        await door.access.withdraw(bucket)
    elif acl.is_public_read:
        wanted = Permission.READ | Permission.LIST
        if grant is not None and grant.permissions == wanted and grant.limits == UNLIMITED:
            return
        if not door.access.may_publish(request.access_key):
            raise _may_not_publish(acl, bucket.alias)
        await door.access.publish(bucket)
    else:
        raise beyond(bucket, acl)


def _may_not_publish(acl: Acl, bucket_name: str) -> S3Error:
    return not_supported(
        f"{acl.name} would let everybody read the bucket, which this key may not decide",
        f"let them with `meshhold s3-perm grant anonymous {bucket_name} read --list`, or mint a key with "
        "`meshhold s3-key add --may-publish`",
    )
