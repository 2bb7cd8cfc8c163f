"""ListBuckets, HeadBucket, GetBucketLocation, CreateBucket, DeleteBucket. Knows no objects."""

from __future__ import annotations

from typing import Final

from meshhold.errors import AliasTakenError, InvalidError, NoSuchVaultError
from meshhold.model.grant import Permission
from meshhold.model.ids import ANONYMOUS, check_bucket_name
from meshhold.rules.bucket import Aspect
from meshhold.rules.public_access import Ownership
from meshhold.s3.buckets.acls import acl_at_creation
from meshhold.s3.buckets.locks import ENABLED_HEADER, wish_at_creation
from meshhold.s3.buckets.ownership import ownership_at_creation
from meshhold.s3.buckets.pages import parse_page
from meshhold.s3.door import OWNER, Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers, Request, Response, xml_response
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.conditions import iso_date
from meshhold.s3.syntax.options import check_options
from meshhold.s3.syntax.xml import document, parse_create_bucket, tag

_LEGACY_REGION: Final = "us-east-1"
"""Where S3 answers the creation of a bucket that one has already with 200, and changes nothing.
Source: Amazon S3 API reference, "Error responses", BucketAlreadyOwnedByYou."""


async def list_buckets(door: Door, request: Request) -> Response:
    """Name the buckets that the key has a grant on."""
    if request.access_key == ANONYMOUS:
        raise S3Error("AccessDenied", "Access Denied: listing buckets needs a signed request.")
    page = parse_page(request.query, door.settings.region)
    found, token = page.of(door.vaults.granted(request.access_key))
    region = tag("BucketRegion", door.settings.region) if page.is_asked_for else ""
    rows = "".join(
        f"<Bucket>{tag('Name', bucket.alias)}{tag('CreationDate', iso_date(bucket.created_ms))}{region}</Bucket>"
        for bucket in found
    )
    owner = f"<Owner>{tag('ID', OWNER)}{tag('DisplayName', OWNER)}</Owner>"
    inner = f"{owner}<Buckets>{rows}</Buckets>"
    if token:
        inner += tag("ContinuationToken", token)
    if page.prefix:
        inner += tag("Prefix", page.prefix)
    return xml_response(document("ListAllMyBucketsResult", inner))


async def head_bucket(door: Door, request: Request) -> Response:
    """Tell whether the bucket is there and may be listed; with `read-stats`, an option of Ceph's, what it holds."""
    bucket = door.allow(request, "s3:ListBucket")
    headers: Headers = [
        (b"x-amz-bucket-region", door.settings.region.encode()),
        (b"x-amz-access-point-alias", b"false"),
    ]
    if request.query.get("read-stats") == "true":
        counts = await door.listing.counts(bucket)
        if counts is not None:
            headers.append((b"x-rgw-object-count", b"%d" % counts.objects))
            headers.append((b"x-rgw-bytes-used", b"%d" % counts.bytes))
    return Response(200, headers)


async def get_location(door: Door, request: Request) -> Response:
    """Name the region."""
    door.allow(request, "s3:GetBucketLocation")
    return xml_response(document("LocationConstraint", door.settings.region))


async def create_bucket(door: Door, request: Request) -> Response:
    """Make a vault with this alias, for a key minted with `--create-buckets`; the key owns it.

    It is shared as the vault is that the key was minted with `--like`, if it was.
    """
    if request.access_key == ANONYMOUS:
        raise S3Error("AccessDenied", "Access Denied: creating a bucket needs a signed request.")
    _check_name(request.bucket_name)
    lock = wish_at_creation(request)
    check_options(request, takes_acl=True, taken=frozenset((ENABLED_HEADER,)))
    acl, ownership = acl_at_creation(door, request), ownership_at_creation(request)
    constraint = parse_create_bucket(await read_document(request, door.settings))
    if constraint not in (None, "", door.settings.region):
        raise S3Error("InvalidLocationConstraint", f"The only region here is {door.settings.region!r}.")
    taken = door.vaults.known_alias(request.bucket_name)
    if taken is not None:
        if door.access.may(request.access_key, taken, Permission.WRITE):
            if door.settings.region == _LEGACY_REGION:
                return Response(200, [(b"location", b"/" + request.bucket_name.encode())])
            raise S3Error(
                "BucketAlreadyOwnedByYou",
                "Your previous request to create the named bucket succeeded and you already own it.",
                fields={"BucketName": request.bucket_name},
            )
        raise S3Error(
            "BucketAlreadyExists", "The bucket exists and this key has no grant on it; see `meshhold s3-perm grant`."
        )
    if not door.access.may_create_buckets(request.access_key):
        raise S3Error(
            "AccessDenied",
            "This key may not create buckets. Create a vault with `meshhold vault create` and name it with "
            "`meshhold vault s3-alias`, or mint a key with `meshhold s3-key add --create-buckets`.",
        )
    try:
        await door.founding.create(
            request.bucket_name,
            like=door.access.like_of(request.access_key),
            alias=request.bucket_name,
            lock=lock,
            owner=request.access_key,
        )
    except AliasTakenError:
        raise S3Error("OperationAborted", "The bucket is being created by another request; try again.") from None
    except NoSuchVaultError:
        raise S3Error(
            "AccessDenied",
            "The vault that this key's buckets are to be like is gone; mint another key with "
            "`meshhold s3-key add --create-buckets --like VAULT`.",
        ) from None
    bucket = door.vaults.bucket(request.bucket_name)
    if ownership is not Ownership.UNSET:
        await door.rules.set(bucket, Aspect.OWNERSHIP, ownership)
    if acl is not None:
        await door.access.publish(bucket)
    return Response(200, [(b"location", b"/" + request.bucket_name.encode())])


def _check_name(name: str) -> None:
    try:
        check_bucket_name(name)
    except InvalidError as error:
        raise S3Error("InvalidBucketName", str(error), fields={"BucketName": name}) from error


async def delete_bucket(door: Door, request: Request) -> Response:
    """Delete a bucket without objects and its vault, for a key that could have created it; unfinished uploads too."""
    bucket = door.allow(request, "s3:DeleteBucket")
    if not door.access.may_create_buckets(request.access_key):
        raise S3Error(
            "AccessDenied",
            "This key may not delete buckets: use `meshhold vault delete`, or a key minted with --create-buckets.",
        )
    await door.vaults.delete(bucket.id, with_uploads=True)
    return Response(204)
