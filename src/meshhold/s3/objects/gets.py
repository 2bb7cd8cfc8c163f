"""GetObject and HeadObject: conditions, ranges, headers, bytes. Knows no listing and no write."""

from __future__ import annotations

from meshhold.errors import DeniedError, NotFoundError
from meshhold.model.entry import PLAIN, Checksums, ObjectVersion
from meshhold.s3.buckets.lifecycle import expiration_headers
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers, Request, Response, Sink, encode_header
from meshhold.s3.objects.customer import shown_by
from meshhold.s3.objects.extras import extras_headers
from meshhold.s3.objects.versions import missing, requested_version, version_headers
from meshhold.s3.syntax.checksums import checksum_headers
from meshhold.s3.syntax.conditions import http_date, judge_read, read_conditions
from meshhold.s3.syntax.options import check_read_options, encryption_headers
from meshhold.s3.syntax.parts import find_part, parse_part_number
from meshhold.s3.syntax.ranges import parse_range
from meshhold.s3.syntax.words import encode_words
from meshhold.sealing.content import PartRow
from meshhold.store.customer import shown_to
from meshhold.store.directory import Bucket

_CACHING = ("cache-control", "expires")  # what a cache is told anew with 304 (RFC 9110, section 15.4.5)
_OVERRIDES = (
    ("response-content-type", b"content-type"),
    ("response-content-language", b"content-language"),
    ("response-expires", b"expires"),
    ("response-cache-control", b"cache-control"),
    ("response-content-disposition", b"content-disposition"),
    ("response-content-encoding", b"content-encoding"),
)


async def get_object(door: Door, request: Request) -> Response:
    """Answer GET of an object: 200, 206, 304, or an error. The bytes stream."""
    check_read_options(request)
    bucket = await _allow(door, request)
    version = await find_version(door, request, bucket)
    hidden = await shown_by(door, request, bucket, request.key, version)
    named = version_headers(bucket, version)
    unchanged = _check_conditions(request, version)
    if unchanged is not None:
        unchanged.headers += named
        return unchanged
    if request.query.pairs and request.query.has("partNumber"):
        status, headers, start, stop = await _select_part(door, request, bucket, version)
    else:
        status, headers, start, stop = _select(request, version)
    if bucket.rules.lifecycle is not None and not request.query.has("versionId"):
        headers += expiration_headers(bucket, request.key, version)
    headers += named

    async def stream(sink: Sink) -> None:
        if hidden is not None:
            sink = shown_to(sink, hidden, start)
        await door.objects.send(bucket, request.key, version, start, stop, sink)

    return Response(status, headers, stream=stream, length=stop - start)


async def _allow(door: Door, request: Request) -> Bucket:
    """Return the bucket if the sender may read the object. Who may list learns that there is nothing to read."""
    try:
        return door.allow(request, "s3:GetObject")
    except DeniedError:
        bucket = door.bucket(request)
        if door.may_know(request, bucket, request.key):
            await find_version(door, request, bucket)
        raise


async def head_object(door: Door, request: Request) -> Response:
    """Answer HEAD of an object as GET would, without the bytes."""
    response = await get_object(door, request)
    response.stream = None
    return response


async def find_version(door: Door, request: Request, bucket: Bucket) -> ObjectVersion:
    """Return the version that is asked for. Who may not list learns nothing about which keys exist."""
    wanted = requested_version(request.query.get("versionId")) if request.query.pairs else None
    try:
        return await door.objects.find(bucket, request.key, wanted)
    except NotFoundError as error:
        if not door.may_know(request, bucket, request.key):
            raise S3Error("AccessDenied", "Access Denied") from None
        raise missing(error, request) from None


def _check_conditions(request: Request, version: ObjectVersion) -> Response | None:
    verdict = judge_read(read_conditions(request.headers), version.etag, version.modified_ms)
    if verdict.status == 304:
        kept = [(name.encode(), encode_header(value)) for name, value in version.headers.items() if name in _CACHING]
        return Response(304, [(b"etag", b'"%b"' % version.etag.encode()), last_modified(version), *kept])
    if verdict.status != 200:
        raise S3Error(
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
            fields={"Condition": verdict.condition},
        )
    return None


def _select(request: Request, version: ObjectVersion) -> tuple[int, Headers, int, int]:
    headers = object_headers(request, version)
    chosen = parse_range(request.header(b"range"), version.size)
    if chosen is None:
        if _wants_checksums(request):
            headers += checksum_headers(version.checksums)
        return 200, headers, 0, version.size
    first, last = chosen
    headers.append((b"content-range", b"bytes %d-%d/%d" % (first, last, version.size)))
    return 206, headers, first, last + 1


async def _select_part(
    door: Door, request: Request, bucket: Bucket, version: ObjectVersion
) -> tuple[int, Headers, int, int]:
    """Choose the bytes that were uploaded as one part; the answer is that of a range."""
    if b"range" in request.headers:
        raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
    number = parse_part_number(request.query.get("partNumber"))
    rows = await door.objects.parts(bucket, request.key, version) if version.parts_count else []
    start, stop, row = find_part(rows, number, version.size)
    headers = object_headers(request, version)
    if _wants_checksums(request):
        headers += checksum_headers(part_checksums(version, row) if row is not None else version.checksums)
    if rows:
        headers.append((b"x-amz-mp-parts-count", b"%d" % len(rows)))
    if start == stop:  # no range names no bytes
        return 200, headers, start, stop
    headers.append((b"content-range", b"bytes %d-%d/%d" % (start, stop - 1, version.size)))
    return 206, headers, start, stop


def _wants_checksums(request: Request) -> bool:
    return request.headers.get(b"x-amz-checksum-mode", b"").upper() == b"ENABLED"


def part_checksums(version: ObjectVersion, row: PartRow) -> Checksums:
    """Return those checksums of a part that the object's own was made of."""
    kept = {name: value for name, value in row.checksums.values.items() if name in version.checksums.values}
    return Checksums(version.checksums.kind, kept)


def last_modified(version: ObjectVersion) -> tuple[bytes, bytes]:
    """Return the header `Last-Modified`."""
    return (b"last-modified", http_date(version.modified_ms).encode())


def object_headers(request: Request, version: ObjectVersion) -> Headers:
    """Return the headers that describe a version, with the request's `response-*` overrides.

    Errors: `InvalidRequest` for overrides on a request without a signature, as in S3.
    """
    stored = {name.encode(): encode_header(value) for name, value in version.headers.items()}
    if request.query.pairs:
        for parameter, overridden in _OVERRIDES:
            wish = request.query.get(parameter)
            if wish is not None:
                if request.claim is None:
                    raise S3Error(
                        "InvalidRequest", "Request specific response headers cannot be used for anonymous GET requests."
                    )
                stored[overridden] = encode_header(wish)
    headers: Headers = [
        (b"etag", b'"%b"' % version.etag.encode()),
        last_modified(version),
        (b"accept-ranges", b"bytes"),
        *stored.items(),
    ]
    extras = version.extras
    headers += encryption_headers(extras.customer)
    if extras is not PLAIN:
        headers += extras_headers(extras)
    for name, value in version.user.items():
        headers.append((b"x-amz-meta-" + name.encode("latin-1"), encode_words(value).encode()))
    return headers
