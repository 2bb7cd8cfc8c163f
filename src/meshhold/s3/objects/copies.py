"""CopyObject and UploadPartCopy: the source's name, conditions and range. Knows no chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from meshhold.errors import DeleteMarkerError, NoSuchVersionError, NotFoundError
from meshhold.model.entry import Checksums, Extras, ObjectVersion
from meshhold.s3.buckets.lifecycle import expiration_headers
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers, Request, Response, xml_response
from meshhold.s3.objects.acls import check_acl
from meshhold.s3.objects.combining import part_algorithm
from meshhold.s3.objects.customer import hiding_of, part_hiding_of, shown_by
from meshhold.s3.objects.extras import extras_of
from meshhold.s3.objects.multipart import part_place
from meshhold.s3.objects.versions import requested_version, version_headers, written_headers
from meshhold.s3.syntax.body import PartDigests
from meshhold.s3.syntax.checksums import SIZES, checksum_elements, new_checksum
from meshhold.s3.syntax.conditions import iso_date, judge_read, read_conditions, write_condition
from meshhold.s3.syntax.options import (
    DESCRIBING,
    REDIRECT,
    check_options,
    encryption_headers,
    redirect_location,
    stored_headers,
    user_metadata,
)
from meshhold.s3.syntax.query import parse_copy_source
from meshhold.s3.syntax.ranges import parse_copy_range
from meshhold.s3.syntax.xml import document, tag
from meshhold.store.contract import Digested, Metadata
from meshhold.store.customer import Hidden, Recoded, RecodedCopy, seal_of
from meshhold.store.directory import Bucket
from meshhold.store.objects import COPY_SIZE_MAX

_CHANGES: Final = frozenset(
    (
        b"x-amz-storage-class",
        b"x-amz-server-side-encryption",
        b"x-amz-server-side-encryption-customer-algorithm",
        b"x-amz-website-redirect-location",
    )
)
"""Headers that make a copy of an object to itself a change of it."""


async def copy_object(door: Door, request: Request) -> Response:
    """Make one object from another, with the source's metadata or (`REPLACE`) the request's."""
    bucket = door.allow(request, "s3:PutObject")
    check_options(request, takes_acl=True, taken=DESCRIBING)
    check_acl(door, request, bucket)
    source_bucket, source_key, source = await _find_source(door, request)
    directive = request.headers.get(b"x-amz-metadata-directive", b"COPY").upper()
    if directive not in (b"COPY", b"REPLACE"):
        raise S3Error("InvalidArgument", "Unknown metadata directive: use COPY or REPLACE.")
    extras = _extras(door, request, bucket, source_bucket, source_key, source)
    metadata = Metadata(stored_headers(request), user_metadata(request)) if directive == b"REPLACE" else None
    is_itself = bucket.id == source_bucket.id and request.key == source_key and not _names_version(request)
    if is_itself and metadata is None and _CHANGES.isdisjoint(request.headers):
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes.",
        )
    metadata = metadata or _kept_metadata(request, source)
    condition = write_condition(request.headers)
    if bucket.rules.quota is not None:
        await door.objects.quotas.admit(bucket, request.key, source.size)
    if source.size > COPY_SIZE_MAX:
        raise S3Error("InvalidRequest", "The copy source is larger than 5 GiB; copy it by parts.")
    hidden = await shown_by(door, request, source_bucket, source_key, source, copy_source=True)
    hiding = hiding_of(request)
    algorithm = request.header(b"x-amz-checksum-algorithm")
    if algorithm is not None:
        source = await _with_checksum(door, source_bucket, source_key, source, algorithm.upper(), hidden)
    elif hiding is not None and hidden is None:  # what the source tells, the hidden copy does not
        source = replace(source, checksums=Checksums())
    if hidden is None and hiding is None:
        version = await door.objects.copy(
            source_bucket, source_key, source, bucket, request.key, metadata, condition, extras
        )
    else:
        extras = replace(extras, customer=None if hiding is None else seal_of(hiding))
        metadata = metadata or Metadata(source.headers, source.user)
        async with door.objects.open_range(source_bucket, source_key, source, 0, source.size) as pieces:
            body = RecodedCopy(pieces, source.checksums, shown_by=hidden, hiding=hiding)
            version = await door.objects.put(bucket, request.key, body, metadata, condition, extras)
    response = _result("CopyObjectResult", version.etag, version.modified_ms, version.checksums)
    response.headers += expiration_headers(bucket, request.key, version) + written_headers(bucket, version)
    response.headers += encryption_headers(version.extras.customer)
    response.headers += _source_headers(source_bucket, source)
    return response


def _kept_metadata(request: Request, source: ObjectVersion) -> Metadata | None:
    """Return the source's metadata with the request's own redirect, None where that changes nothing.

    A website's redirect is never copied: it says where one object went.
    """
    location = redirect_location(request)
    if source.headers.get(REDIRECT) == location:
        return None
    kept = {name: value for name, value in source.headers.items() if name != REDIRECT}
    return Metadata(kept if location is None else kept | {REDIRECT: location}, source.user)


async def _with_checksum(
    door: Door, bucket: Bucket, key: bytes, source: ObjectVersion, algorithm: str, hidden: Hidden | None
) -> ObjectVersion:
    """Return the source with this checksum of the whole, which reading it gives unless it has it already.

    `hidden` shows its bytes where a client's own key hides them.
    """
    if algorithm not in SIZES:
        raise S3Error(
            "InvalidRequest", f"Checksum algorithm {algorithm!r} is not known; use one of {', '.join(SIZES)}."
        )
    if source.checksums.kind == "FULL_OBJECT" and algorithm in source.checksums.values:
        return source
    checksum = new_checksum(algorithm)
    async with door.objects.open_range(bucket, key, source, 0, source.size) as pieces:
        shown = Recoded(pieces, shown_by=hidden)
        while piece := await shown.receive():
            checksum.update(piece)
    return replace(source, checksums=Checksums("FULL_OBJECT", {algorithm: checksum.value()}))


def _extras(
    door: Door, request: Request, bucket: Bucket, source_bucket: Bucket, source_key: bytes, source: ObjectVersion
) -> Extras:
    """Return tags and lock of the copy: the source's tags, unless they are replaced; never the source's lock.

    Errors: `InvalidArgument`; those of `extras_of`; `DeniedError` for who may not read the source's tags or set them.
    """
    directive = request.headers.get(b"x-amz-tagging-directive", b"COPY").upper()
    if directive not in (b"COPY", b"REPLACE"):
        raise S3Error("InvalidArgument", "Unknown tagging directive: use COPY or REPLACE.")
    extras = extras_of(door, request, bucket)
    if directive == b"REPLACE" or extras.tags == source.extras.tags:
        return extras
    tags = source.extras.tags
    if tags:
        known, request.existing_tags = request.existing_tags, tags
        try:
            door.check(request, source_bucket, "s3:GetObjectTagging", source_key, names_version=_names_version(request))
        finally:
            request.existing_tags = known
        door.allow(request, "s3:PutObjectTagging", new_tags=tags)
    return replace(extras, tags=tags)


async def upload_part_copy(door: Door, request: Request) -> Response:
    """Make a part from an object or a range of it."""
    bucket, upload_id, number, upload = await part_place(door, request)
    source_bucket, source_key, source = await _find_source(door, request)
    chosen = parse_copy_range(request.header(b"x-amz-copy-source-range"), source.size)
    start, stop = (0, source.size) if chosen is None else (chosen[0], chosen[1] + 1)
    if bucket.rules.quota is not None:
        await door.objects.quotas.admit_part(bucket, upload_id, number, stop - start)
    digests = PartDigests(part_algorithm(upload))
    hidden = await shown_by(door, request, source_bucket, source_key, source, copy_source=True)
    hiding = part_hiding_of(request, upload)
    async with door.objects.open_range(source_bucket, source_key, source, start, stop, digest=digests.update) as pieces:
        if hidden is None and hiding is None:
            part = await door.uploads.copy_part(bucket, request.key, upload_id, number, pieces, digests.digested)
        else:
            recoded = Recoded(pieces, shown_by=hidden, start=start, hiding=hiding)
            salt = b"" if hiding is None else hiding.salt

            def digested() -> Digested:
                return recoded.told(digests.digested())

            part = await door.uploads.copy_part(bucket, request.key, upload_id, number, recoded, digested, salt)
    response = _result("CopyPartResult", part.etag, part.modified_ms, part.checksums)
    response.headers += encryption_headers(upload.extras.customer) + _source_headers(source_bucket, source)
    return response


async def _find_source(door: Door, request: Request) -> tuple[Bucket, bytes, ObjectVersion]:
    """Return the object that `x-amz-copy-source` names, if the sender may read it and the conditions hold."""
    name, key, version_id = parse_copy_source(request.headers[b"x-amz-copy-source"])
    wanted = requested_version(version_id)
    bucket = await door.allow_source(request, name, key, version_id)
    try:
        source = await door.objects.find(bucket, key, wanted)
    except NotFoundError as error:
        raise _no_source(error, key) from None
    verdict = judge_read(read_conditions(request.headers, copy_source=True), source.etag, source.modified_ms)
    if verdict.status != 200:
        raise S3Error(
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
            fields={"Condition": f"x-amz-copy-source-{verdict.condition}"},
        )
    return bucket, key, source


def _names_version(request: Request) -> bool:
    """Tell whether the source is one version: to copy an earlier one to its key brings it back."""
    return parse_copy_source(request.headers[b"x-amz-copy-source"])[2] is not None


def _no_source(error: NotFoundError, key: bytes) -> S3Error:
    if isinstance(error, DeleteMarkerError) and error.is_named:
        return S3Error("InvalidRequest", "The source of a copy request may not specifically refer to a delete marker.")
    code = "NoSuchVersion" if isinstance(error, NoSuchVersionError) else "NoSuchKey"
    return S3Error(code, "The copy source does not exist.", fields={"Key": key.decode()})


def _source_headers(bucket: Bucket, source: ObjectVersion) -> Headers:
    return [(b"x-amz-copy-source-version-id", value) for _, value in version_headers(bucket, source)]


def _result(root: str, etag: str, modified_ms: int, checksums: Checksums) -> Response:
    inner = tag("LastModified", iso_date(modified_ms)) + tag("ETag", f'"{etag}"')
    inner += checksum_elements(checksums)
    return xml_response(document(root, inner))
