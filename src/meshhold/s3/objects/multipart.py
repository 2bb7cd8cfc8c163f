"""Multipart uploads: create, upload a part, complete, abort, list. Knows no chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from meshhold.model.entry import Upload
from meshhold.s3.buckets.lifecycle import abort_headers, expiration_headers
from meshhold.s3.door import OWNER, Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers, Request, Response, xml_response
from meshhold.s3.objects.acls import check_acl
from meshhold.s3.objects.combining import check_part, checksum_wish, combine_parts, part_algorithm
from meshhold.s3.objects.customer import hiding_of, part_hiding_of
from meshhold.s3.objects.extras import extras_of
from meshhold.s3.objects.listings import encoding, page_size
from meshhold.s3.objects.versions import written_headers
from meshhold.s3.syntax.body import open_body, read_document
from meshhold.s3.syntax.checksums import HEADERS, announced, checksum_elements
from meshhold.s3.syntax.conditions import iso_date, write_condition
from meshhold.s3.syntax.customer import parse_customer_key
from meshhold.s3.syntax.options import (
    DESCRIBING,
    check_options,
    encryption_headers,
    stored_headers,
    user_metadata,
)
from meshhold.s3.syntax.parts import parse_part_number
from meshhold.s3.syntax.xml import document, parse_complete, tag
from meshhold.sealing.content import PartRow
from meshhold.store.contract import Digested
from meshhold.store.customer import HiddenBody, check_key, seal_of
from meshhold.store.directory import Bucket

_OWNER = f"<Owner>{tag('ID', OWNER)}{tag('DisplayName', OWNER)}</Owner>"


async def create_upload(door: Door, request: Request) -> Response:
    """Begin an upload; what describes the object is said here."""
    bucket = door.allow(request, "s3:PutObject")
    check_options(request, takes_acl=True, taken=DESCRIBING)
    check_acl(door, request, bucket)
    algorithm, kind = checksum_wish(request)
    hiding = hiding_of(request)
    extras = extras_of(door, request, bucket)
    upload = Upload(
        initiated_ms=door.now_ms(),
        initiator=request.access_key,
        headers=stored_headers(request),
        user=user_metadata(request),
        checksum=algorithm,
        checksum_kind=kind,
        extras=extras if hiding is None else replace(extras, customer=seal_of(hiding)),
    )
    upload_id = await door.uploads.begin(bucket, request.key, upload)
    name = tag("Bucket", request.bucket_name) + tag("Key", request.key.decode()) + tag("UploadId", upload_id)
    response = xml_response(document("InitiateMultipartUploadResult", name))
    if algorithm:
        response.headers.append((b"x-amz-checksum-algorithm", algorithm.encode()))
        response.headers.append((b"x-amz-checksum-type", kind.encode()))
    response.headers += encryption_headers(upload.extras.customer) + abort_headers(
        bucket, request.key, upload.initiated_ms
    )
    return response


class PartPlace(NamedTuple):
    """Where a part is to go."""

    bucket: Bucket
    upload_id: str
    number: int
    upload: Upload


async def part_place(door: Door, request: Request) -> PartPlace:
    """Return which part of which upload a request sends. Errors: what its sender, its options or its number refuse."""
    bucket = door.allow(request, "s3:PutObject")
    check_options(request)
    number = parse_part_number(request.query.get("partNumber"))
    upload_id = request.query.get("uploadId") or ""
    return PartPlace(bucket, upload_id, number, await door.uploads.find(bucket, request.key, upload_id))


async def upload_part(door: Door, request: Request) -> Response:
    """Keep one part, durable when this answers."""
    bucket, upload_id, number, upload = await part_place(door, request)
    said = announced(request.headers)
    check_part(upload, said.algorithm)
    hiding = part_hiding_of(request, upload)
    body = open_body(request, door.settings, said, algorithm=part_algorithm(upload))
    if bucket.rules.quota is not None:
        await door.objects.quotas.admit_part(bucket, upload_id, number, body.length)
    salt, content = (b"", body) if hiding is None else (hiding.salt, HiddenBody(body, hiding))
    part = await door.uploads.put_part(bucket, request.key, upload_id, number, content, salt)
    headers: Headers = [(b"etag", b'"%b"' % part.etag.encode())]
    shown = said.algorithm or part_algorithm(upload)
    if shown:
        headers.append((HEADERS[shown].encode(), part.checksums.values[shown].encode()))
    return Response(200, headers + encryption_headers(upload.extras.customer))


async def complete_upload(door: Door, request: Request) -> Response:
    """Make the parts the object."""
    bucket = door.allow(request, "s3:PutObject")
    check_options(request)
    upload_id = request.query.get("uploadId") or ""
    claims = parse_complete(await read_document(request, door.settings, says_of_object=True))
    combined = combine_parts(request)
    customer = parse_customer_key(request.headers)

    def combine(rows: Sequence[PartRow], upload: Upload | None) -> Digested:
        if upload is not None:
            check_key(upload.extras.customer, customer)
        return combined(rows, upload)

    done = await door.uploads.complete(
        bucket, request.key, upload_id, claims, combine, write_condition(request.headers)
    )
    host = (request.header(b"host") or "").strip()
    inner = (
        tag("Location", f"http://{host}{request.head.raw_path.decode('latin-1')}")
        + tag("Bucket", request.bucket_name)
        + tag("Key", request.key.decode())
        + tag("ETag", f'"{done.etag}"')
    )
    inner += checksum_elements(done.version.checksums)
    response = xml_response(document("CompleteMultipartUploadResult", inner))
    response.headers += expiration_headers(bucket, request.key, done.version) + written_headers(bucket, done.version)
    response.headers += encryption_headers(done.version.extras.customer)
    return response


async def abort_upload(door: Door, request: Request) -> Response:
    """End an upload and drop its parts."""
    bucket = door.allow(request, "s3:AbortMultipartUpload")
    await door.uploads.abort(bucket, request.key, request.query.get("uploadId") or "")
    return Response(204)


async def list_parts(door: Door, request: Request) -> Response:
    """Name the parts that have arrived."""
    bucket = door.allow(request, "s3:ListMultipartUploadParts")
    upload_id = request.query.get("uploadId") or ""
    upload = await door.uploads.find(bucket, request.key, upload_id)
    marker = _marker(request.query.get("part-number-marker"))
    limit = page_size(request.query.get("max-parts"), "max-parts")
    parts = await door.uploads.parts(bucket, upload_id, marker, limit + 1)
    shown = parts[:limit]
    rows = []
    for row in shown:
        sums = "".join(tag(f"Checksum{name}", value) for name, value in row.part.checksums.values.items())
        rows.append(
            f"<Part><PartNumber>{row.number}</PartNumber><LastModified>{iso_date(row.part.modified_ms)}</LastModified>"
            f"<ETag>&quot;{row.part.etag}&quot;</ETag><Size>{row.part.size}</Size>{sums}</Part>"
        )
    initiator = f"<Initiator>{tag('ID', upload.initiator)}{tag('DisplayName', upload.initiator)}</Initiator>"
    truncated = "true" if len(parts) > limit else "false"
    inner = (
        tag("Bucket", request.bucket_name)
        + tag("Key", request.key.decode())
        + tag("UploadId", upload_id)
        + initiator
        + _OWNER
        + f"<StorageClass>STANDARD</StorageClass><PartNumberMarker>{marker}</PartNumberMarker>"
        + f"<NextPartNumberMarker>{shown[-1].number if shown else 0}</NextPartNumberMarker>"
        + f"<MaxParts>{limit}</MaxParts><IsTruncated>{truncated}</IsTruncated>"
    )
    if upload.checksum:
        inner += tag("ChecksumAlgorithm", upload.checksum) + tag("ChecksumType", upload.checksum_kind)
    return xml_response(document("ListPartsResult", inner + "".join(rows)))


def _marker(text: str | None) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise S3Error("InvalidArgument", "part-number-marker must be a number.")
    return min(int(text), 65_535)  # the widest number that a part's name holds


async def list_uploads(door: Door, request: Request) -> Response:
    """Name the uploads in progress, with delimiter and paging as in ListObjects."""
    bucket = door.allow(request, "s3:ListBucketMultipartUploads")
    query = request.query
    prefix, delimiter = query.get("prefix") or "", query.get("delimiter") or ""
    key_marker, id_marker = query.get("key-marker") or "", query.get("upload-id-marker") or ""
    limit = page_size(query.get("max-uploads"), "max-uploads")
    encode = encoding(query.get("encoding-type"))
    page = await door.uploads.page(
        bucket, prefix.encode(), delimiter.encode(), key_marker.encode(), id_marker if key_marker else "", limit
    )
    rows = []
    for found in page.items:
        who = f"<Initiator>{tag('ID', found.upload.initiator)}{tag('DisplayName', found.upload.initiator)}</Initiator>"
        sums = ""
        if found.upload.checksum:
            sums = tag("ChecksumAlgorithm", found.upload.checksum) + tag("ChecksumType", found.upload.checksum_kind)
        rows.append(
            f"<Upload><Key>{encode(found.key)}</Key>{tag('UploadId', found.upload_id)}{who}{_OWNER}"
            f"<StorageClass>STANDARD</StorageClass><Initiated>{iso_date(found.upload.initiated_ms)}</Initiated>"
            f"{sums}</Upload>"
        )
    rows += [f"<CommonPrefixes><Prefix>{encode(common)}</Prefix></CommonPrefixes>" for common in page.prefixes]
    inner = (
        tag("Bucket", request.bucket_name)
        + f"<KeyMarker>{encode(key_marker.encode())}</KeyMarker>{tag('UploadIdMarker', id_marker)}"
        + f"<NextKeyMarker>{encode(page.next_key)}</NextKeyMarker>{tag('NextUploadIdMarker', page.next_id)}"
        + f"<Delimiter>{encode(delimiter.encode())}</Delimiter><Prefix>{encode(prefix.encode())}</Prefix>"
        + f"<MaxUploads>{limit}</MaxUploads><IsTruncated>{'true' if page.truncated else 'false'}</IsTruncated>"
    )
    if query.has("encoding-type"):
        inner += tag("EncodingType", "url")
    return xml_response(document("ListMultipartUploadsResult", inner + "".join(rows)))
