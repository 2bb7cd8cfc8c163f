"""ListBuckets, HeadBucket, GetBucketLocation, GetBucketVersioning, CreateBucket, DeleteBucket. Knows no objects."""

from __future__ import annotations

from meshhold.errors import AliasTakenError, InvalidError
from meshhold.model.grant import Permission
from meshhold.model.ids import ANONYMOUS, check_bucket_name
from meshhold.s3.buckets.locks import ENABLED_HEADER, wish_at_creation
from meshhold.s3.door import OWNER, Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.syntax.body import read_document
from meshhold.s3.syntax.conditions import iso_date
from meshhold.s3.syntax.options import check_options
from meshhold.s3.syntax.xml import document, parse_create_bucket, tag


async def list_buckets(door: Door, request: Request) -> Response:
    """Name the buckets that the key has a grant on."""
    if request.access_key == ANONYMOUS:
        raise S3Error("AccessDenied", "Access Denied: listing buckets needs a signed request.")
    rows = "".join(
        f"<Bucket>{tag('Name', bucket.alias)}{tag('CreationDate', iso_date(bucket.created_ms))}</Bucket>"
        for bucket in door.vaults.granted(request.access_key)
    )
    owner = f"<Owner>{tag('ID', OWNER)}{tag('DisplayName', OWNER)}</Owner>"
    return xml_response(document("ListAllMyBucketsResult", f"{owner}<Buckets>{rows}</Buckets>"))


async def head_bucket(door: Door, request: Request) -> Response:
    """Tell whether the bucket is there and may be listed."""
    door.allow(request, "s3:ListBucket")
    return Response(200, [(b"x-amz-bucket-region", door.settings.region.encode())])


async def get_location(door: Door, request: Request) -> Response:
    """Name the region."""
    door.allow(request, "s3:GetBucketLocation")
    return xml_response(document("LocationConstraint", door.settings.region))


async def get_versioning(door: Door, request: Request) -> Response:
    """Say that versioning was never enabled, as S3 does: with an empty document."""
    door.allow(request, "s3:GetBucketVersioning")
    return xml_response(document("VersioningConfiguration", ""))


async def create_bucket(door: Door, request: Request) -> Response:
    """Make a vault with this alias, for a key minted with `--create-buckets`; the key gets read and write on it."""
    if request.access_key == ANONYMOUS:
        raise S3Error("AccessDenied", "Access Denied: creating a bucket needs a signed request.")
    _check_name(request.bucket_name)
    lock = wish_at_creation(request)
    check_options(request, taken=frozenset((ENABLED_HEADER,)))
    constraint = parse_create_bucket(await read_document(request, door.settings))
    if constraint not in (None, "", door.settings.region):
        raise S3Error("InvalidLocationConstraint", f"The only region here is {door.settings.region!r}.")
    taken = door.vaults.known_alias(request.bucket_name)
    if taken is not None:
        if door.access.may(request.access_key, taken, Permission.WRITE):
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
        vault = await door.vaults.create(request.bucket_name, alias=request.bucket_name, lock=lock)
    except AliasTakenError:
        raise S3Error("OperationAborted", "The bucket is being created by another request; try again.") from None
    await door.access.grant(request.access_key, vault.id, Permission.READ | Permission.WRITE | Permission.OWN)
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
