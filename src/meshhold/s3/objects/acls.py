"""GetObjectAcl, PutObjectAcl and ACLs that come with uploads: taken where they say what holds. Changes nothing.

Who may read is said by grants and policies, for whole buckets or prefixes; an ACL that says otherwise is refused, so
that no client believes in access, or in a protection, that is not there.
"""

from __future__ import annotations

from meshhold.model.ids import ANONYMOUS
from meshhold.rules.public_access import Ownership
from meshhold.s3.admission import covers
from meshhold.s3.door import OWNER, Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.objects.gets import find_version
from meshhold.s3.objects.versions import version_headers
from meshhold.s3.syntax.acl import HEADERS, Acl, acl_of_document, acl_of_headers, render_acl
from meshhold.s3.syntax.body import read_document
from meshhold.store.directory import Bucket


async def get_acl(door: Door, request: Request) -> Response:
    """Say who may read the object: the owner, and everybody where a grant or a policy lets them."""
    bucket = door.allow(request, "s3:GetObjectAcl")
    version = await find_version(door, request, bucket)
    response = xml_response(render_acl(OWNER, public=door.is_public(bucket, request.key)))
    response.headers += version_headers(bucket, version)
    return response


async def put_acl(door: Door, request: Request) -> Response:
    """Take an ACL that says what holds. Errors: `AccessControlListNotSupported` names what would make it hold."""
    bucket = door.allow(request, "s3:PutObjectAcl")
    acl = await read_acl(door, request)
    version = await find_version(door, request, bucket)
    check_object_acl(door, bucket, request.key, acl)
    return Response(200, version_headers(bucket, version))


async def read_acl(door: Door, request: Request) -> Acl:
    """Return what headers or body ask for.

    Errors: `MissingSecurityHeader` for neither, `UnexpectedContent` for both.
    """
    raw = await read_document(request, door.settings)
    acl = acl_of_headers(request.headers, OWNER)
    if acl is None:
        if not raw.strip():
            raise S3Error("MissingSecurityHeader", "Your request was missing a required header: send x-amz-acl.")
        return acl_of_document(raw, OWNER)
    if raw.strip():
        raise S3Error("UnexpectedContent", "This request does not support content: the headers say the ACL already.")
    return acl


def check_acl(door: Door, request: Request, bucket: Bucket) -> None:
    """Judge the ACL that an upload's headers ask for, if they do. Errors: as `put_acl`."""
    if not HEADERS.isdisjoint(request.headers):
        acl = acl_of_headers(request.headers, OWNER)
        if acl is not None:
            check_object_acl(door, bucket, request.key, acl)


def check_object_acl(door: Door, bucket: Bucket, key: bytes, acl: Acl) -> None:
    """Take what says what holds for an object. Errors: `AccessDenied`, `AccessControlListNotSupported`."""
    check_ownership(bucket, acl)
    check_block(bucket, acl)
    check_grantees(door, bucket, acl)
    grant = door.access.grant_of(ANONYMOUS, bucket)
    granted = grant is not None and covers(grant, "s3:GetObject", key.decode(), None)
    if acl.is_private and granted:
        raise not_supported(
            f"{acl.name} does not hold: everybody may read this object",
            f"take that back with `meshhold s3-perm revoke anonymous {bucket.alias}`, or limit it with --prefix",
        )
    if acl.is_private:
        return
    if acl.is_public_read:
        if granted or door.is_public(bucket, key):
            return
        raise not_supported(
            f"{acl.name} is not offered for one object",
            "upload without an ACL, or let everybody read the bucket or a prefix of it with "
            f"`meshhold s3-perm grant anonymous {bucket.alias} read`",
        )
    raise beyond(bucket, acl)


def check_ownership(bucket: Bucket, acl: Acl) -> None:
    """Errors: `AccessControlListNotSupported` where the bucket was set to take no ACL."""
    if bucket.rules.ownership is Ownership.ENFORCED and not acl.yields_to_owner:
        raise S3Error(
            "AccessControlListNotSupported",
            f"The bucket does not allow ACLs: its object ownership is {Ownership.ENFORCED}.",
        )


def check_block(bucket: Bucket, acl: Acl) -> None:
    """Errors: `AccessDenied` for an ACL that would be public where the bucket was set to refuse such."""
    block = bucket.rules.block
    if block is not None and block.block_acls and acl.is_public:
        raise S3Error("AccessDenied", "Access Denied: the bucket's public access block refuses public ACLs.")


def check_grantees(door: Door, bucket: Bucket, acl: Acl) -> None:
    """Errors: `InvalidArgument` for an id that is no key's, `AccessControlListNotSupported` for one that is."""
    for other in sorted(acl.others):
        if not door.access.knows(other):
            raise S3Error("InvalidArgument", "Invalid id", fields={"ArgumentName": "CanonicalUser/ID"})
        raise not_supported(
            f"{acl.name} grants something to {other}",
            f"keys get access to buckets and prefixes with `meshhold s3-perm grant {other} {bucket.alias} PERMS`",
        )


def beyond(bucket: Bucket, acl: Acl) -> S3Error:
    """Return the refusal of an ACL that no grant expresses."""
    return not_supported(
        f"{acl.name} is not offered",
        "an ACL here is private or public-read; grant keys access with "
        f"`meshhold s3-perm grant ACCESS_KEY_ID {bucket.alias} PERMS`",
    )


def not_supported(message: str, fix: str) -> S3Error:
    """Return the refusal of an ACL, with what to do instead."""
    return S3Error("AccessControlListNotSupported", f"{message}: {fix}.")
