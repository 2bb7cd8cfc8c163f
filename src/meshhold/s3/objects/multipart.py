"""Multipart uploads: create, upload a part, complete, abort, list. Knows no chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from meshhold.model.entry import Checksums, Upload
from meshhold.s3.buckets.lifecycle import abort_headers, expiration_headers
from meshhold.s3.door import OWNER, Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers, Request, Response, xml_response
from meshhold.s3.objects.listings import encoding, page_size
from meshhold.s3.objects.puts import checksum_headers
from meshhold.s3.syntax.body import open_body, read_document
from meshhold.s3.syntax.checksums import HEADERS, SIZES, announced, composite, full_object
from meshhold.s3.syntax.conditions import iso_date, write_condition
from meshhold.s3.syntax.options import check_options, encryption_headers, stored_headers, user_metadata
from meshhold.s3.syntax.xml import document, parse_complete, tag
from meshhold.sealing.content import PartRow
from meshhold.store.contract import Combine, Digested

_OWNER = f"<Owner>{tag('ID', OWNER)}{tag('DisplayName', OWNER)}</Owner>"


async def create_upload(door: Door, request: Request) -> Response:
    """Begin an upload; what describes the object is said here."""
    bucket = door.allow(request, "s3:PutObject")
    check_options(request, public=door.is_public(bucket))
    algorithm, kind = _checksum_wish(request)
    upload = Upload(
        initiated_ms=door.now_ms(),
        initiator=request.access_key,
        headers=stored_headers(request),
        user=user_metadata(request),
        checksum=algorithm,
        checksum_kind=kind,
    )
    upload_id = await door.uploads.begin(bucket, request.key, upload)
    name = tag("Bucket", request.bucket_name) + tag("Key", request.key.decode()) + tag("UploadId", upload_id)
    response = xml_response(document("InitiateMultipartUploadResult", name))
    if algorithm:
        response.headers.append((b"x-amz-checksum-algorithm", algorithm.encode()))
        response.headers.append((b"x-amz-checksum-type", kind.encode()))
    response.headers += encryption_headers(request) + abort_headers(bucket, request.key, upload.initiated_ms)
    return response


def _checksum_wish(request: Request) -> tuple[str, str]:
    """Return algorithm and type of the checksum that the upload is to have; empty without a wish."""
    raw = request.header(b"x-amz-checksum-algorithm")
    kind = (request.header(b"x-amz-checksum-type") or "").upper()
    if raw is None:
        if kind:
            raise S3Error("InvalidRequest", "x-amz-checksum-type needs x-amz-checksum-algorithm beside it.")
        return "", ""
    algorithm = raw.upper()
    if algorithm not in SIZES:
        raise S3Error("InvalidRequest", f"Checksum algorithm {raw!r} is not known; use one of {', '.join(SIZES)}.")
    kind = kind or ("FULL_OBJECT" if algorithm == "CRC64NVME" else "COMPOSITE")
    possible = {"CRC64NVME": ("FULL_OBJECT",), "SHA1": ("COMPOSITE",), "SHA256": ("COMPOSITE",)}
    if kind not in possible.get(algorithm, ("FULL_OBJECT", "COMPOSITE")):
        raise S3Error("InvalidRequest", f"The {kind} checksum type cannot be used with {algorithm}.")
    return algorithm, kind


def part_number(request: Request) -> int:
    """Return the request's part number. Errors: `InvalidArgument` unless it is 1 to 10,000."""
    text = request.query.get("partNumber") or ""
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= 10_000:
        raise S3Error(
            "InvalidArgument",
            "Part number must be an integer between 1 and 10000, inclusive",
            fields={"ArgumentName": "partNumber", "ArgumentValue": text},
        )
    return int(text)


async def upload_part(door: Door, request: Request) -> Response:
    """Keep one part, durable when this answers."""
    bucket = door.allow(request, "s3:PutObject")
    check_options(request)
    number = part_number(request)
    upload_id = request.query.get("uploadId") or ""
    upload = await door.uploads.find(bucket, request.key, upload_id)
    said = announced(request.headers).algorithm
    if said and upload.checksum and said != upload.checksum:
        raise S3Error(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {upload.checksum.lower()}, "
            f"actual checksum Type: {said.lower()}",
        )
    body = open_body(request, door.settings, algorithm=upload.checksum)
    if bucket.rules.quota is not None:
        await door.objects.quotas.admit_part(bucket, upload_id, body.length)
    part = await door.uploads.put_part(bucket, request.key, upload_id, number, body)
    headers: Headers = [(b"etag", b'"%b"' % part.etag.encode())]
    sums = checksum_headers(part.checksums)[: len(part.checksums.values)]  # a part's checksum has no type
    return Response(200, headers + sums + encryption_headers(request))


async def complete_upload(door: Door, request: Request) -> Response:
    """Make the parts the object."""
    bucket = door.allow(request, "s3:PutObject")
    check_options(request)
    upload_id = request.query.get("uploadId") or ""
    claims = parse_complete(await read_document(request, door.settings))
    done = await door.uploads.complete(
        bucket, request.key, upload_id, claims, _combine(request), write_condition(request.headers)
    )
    host = (request.header(b"host") or "").strip()
    inner = (
        tag("Location", f"http://{host}{request.head.raw_path.decode('latin-1')}")
        + tag("Bucket", request.bucket_name)
        + tag("Key", request.key.decode())
        + tag("ETag", f'"{done.etag}"')
    )
    sums = done.version.checksums
    inner += "".join(tag(f"Checksum{name}", value) for name, value in sums.values.items())
    if sums.values:
        inner += tag("ChecksumType", sums.kind)
    response = xml_response(document("CompleteMultipartUploadResult", inner))
    response.headers += expiration_headers(bucket, request.key, done.version)
    return response


def _combine(request: Request) -> Combine:
    """Return how parts' digests become the object's, checked against what the completion itself announces."""
    wanted = {name: request.header(header.encode()) for name, header in HEADERS.items()}
    wanted_kind = (request.header(b"x-amz-checksum-type") or "").upper()
    size = request.header(b"x-amz-mp-object-size")

    def combine(rows: Sequence[PartRow], upload: Upload | None) -> Digested:
        etag = hashlib.md5(b"".join(bytes.fromhex(row.etag) for row in rows), usedforsecurity=False).hexdigest()
        if size is not None and size != str(sum(row.size for row in rows)):
            raise S3Error("InvalidRequest", "The provided 'x-amz-mp-object-size' header does not match the parts.")
        sums = Checksums()
        if upload is not None and upload.checksum:
            kind = upload.checksum_kind
            if wanted_kind not in ("", kind):
                raise S3Error("InvalidRequest", f"The upload's checksum type is {kind}, not {wanted_kind}.")
            values = [(row.checksums.values.get(upload.checksum, ""), row.size) for row in rows]
            if kind == "COMPOSITE":
                value = composite(upload.checksum, (text for text, _ in values))
            else:
                value = full_object(upload.checksum, values)
            expected = wanted[upload.checksum]
            if expected is not None and expected != value.partition("-")[0] and expected != value:
                raise S3Error("BadDigest", f"The {upload.checksum} you specified did not match the parts' own.")
            sums = Checksums(kind, {upload.checksum: value})
        return Digested(f"{etag}-{len(rows)}", sums)

    return combine


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
