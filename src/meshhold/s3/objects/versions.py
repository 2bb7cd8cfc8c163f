"""Version ids in requests and answers, and ListObjectVersions. Knows no stack: versions come from the store."""

from __future__ import annotations

from typing import Final, NoReturn

from meshhold.errors import DeleteMarkerError, InvalidError, NoSuchVersionError, NotFoundError
from meshhold.model.entry import ObjectVersion
from meshhold.rules.stack import parse_id, shown_id
from meshhold.rules.versioning import Versioning
from meshhold.s3.door import OWNER, Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers, Request, Response, xml_response
from meshhold.s3.objects.listings import Encode, encoding, page_size
from meshhold.s3.syntax.conditions import http_date, iso_date
from meshhold.s3.syntax.xml import document, tag
from meshhold.store.contract import Deleted
from meshhold.store.directory import Bucket
from meshhold.store.versions import ShownVersion

_OWNER: Final = f"<Owner>{tag('ID', OWNER)}{tag('DisplayName', OWNER)}</Owner>"


def requested_version(version: str | None) -> str | None:
    """Return the version that a request names, None without one.

    Errors: `InvalidArgument` for an id that none can have.
    """
    if version is not None:
        try:
            parse_id(version)
        except InvalidError:
            message = "Invalid version id specified" if version else "Version id cannot be the empty string"
            raise S3Error(
                "InvalidArgument", message, fields={"ArgumentName": "versionId", "ArgumentValue": version}
            ) from None
    return version


def version_headers(bucket: Bucket, version: ObjectVersion) -> Headers:
    """Return the header that names a version; none where the bucket never kept versions."""
    if bucket.rules.versioning is Versioning.NEVER:
        return []
    return [(b"x-amz-version-id", shown_id(version).encode())]


def written_headers(bucket: Bucket, version: ObjectVersion) -> Headers:
    """Return the header that names a version that was made; S3 does not name `null` ones."""
    return [] if version.extras.is_null else version_headers(bucket, version)


def deletion_headers(deleted: Deleted) -> Headers:
    """Return the headers that tell what a deletion did."""
    headers: Headers = [(b"x-amz-version-id", deleted.version.encode())] if deleted.version else []
    if deleted.is_marker:
        headers.append((b"x-amz-delete-marker", b"true"))
    return headers


def deletion_tags(deleted: Deleted) -> str:
    """Return the elements of a DeleteObjects answer that tell the same."""
    inner = tag("VersionId", deleted.version) if deleted.was_named else ""
    if deleted.is_marker:
        inner += "<DeleteMarker>true</DeleteMarker>" + tag("DeleteMarkerVersionId", deleted.version)
    return inner


def missing(error: NotFoundError, request: Request) -> S3Error:
    """Return the answer to a read that found no object.

    A delete marker looks as if there were nothing; asked for by its id, it says that it has no bytes.
    """
    if isinstance(error, DeleteMarkerError):
        headers = {"x-amz-delete-marker": "true", "x-amz-version-id": error.version}
        if error.is_named:
            headers |= {"allow": "DELETE", "last-modified": http_date(error.modified_ms)}
            fields = {"Method": request.head.method, "ResourceType": "DeleteMarker"}
            message = "The specified method is not allowed against this resource."
            return S3Error("MethodNotAllowed", message, fields=fields, headers=headers)
        return _no_key(request, headers)
    if isinstance(error, NoSuchVersionError):
        fields = {"Key": request.key.decode(), "VersionId": request.query.get("versionId") or ""}
        return S3Error("NoSuchVersion", "The specified version does not exist.", fields=fields)
    return _no_key(request, {})


def _no_key(request: Request, headers: dict[str, str]) -> S3Error:
    fields = {"Key": request.key.decode()}
    return S3Error("NoSuchKey", "The specified key does not exist.", fields=fields, headers=headers)


def refuse_marker(error: DeleteMarkerError, request: Request) -> NoReturn:
    """Answer a request that met a delete marker. Errors: those of `missing`."""
    raise missing(error, request) from None


async def list_versions(door: Door, request: Request) -> Response:
    """Answer ListObjectVersions."""
    bucket = door.allow(request, "s3:ListBucketVersions")
    query = request.query
    prefix, delimiter = query.get("prefix") or "", query.get("delimiter") or ""
    marker, version_marker = query.get("key-marker") or "", query.get("version-id-marker") or ""
    if version_marker and not marker:
        raise S3Error("InvalidArgument", "A version-id marker cannot be specified without a key marker.")
    requested_version(version_marker or None)
    limit = page_size(query.get("max-keys"), "max-keys")
    encode = encoding(query.get("encoding-type"))
    page = await door.versions.page(bucket, prefix.encode(), delimiter.encode(), marker.encode(), version_marker, limit)
    inner = tag("Name", request.bucket_name) + f"<Prefix>{encode(prefix.encode())}</Prefix>"
    inner += f"<KeyMarker>{encode(marker.encode())}</KeyMarker>" + tag("VersionIdMarker", version_marker)
    if page.truncated:
        inner += f"<NextKeyMarker>{encode(page.next_key)}</NextKeyMarker>"
        inner += tag("NextVersionIdMarker", page.next_version) if page.next_version else ""
    inner += f"<MaxKeys>{limit}</MaxKeys>"
    if delimiter:
        inner += f"<Delimiter>{encode(delimiter.encode())}</Delimiter>"
    if query.has("encoding-type"):
        inner += "<EncodingType>url</EncodingType>"
    inner += f"<IsTruncated>{'true' if page.truncated else 'false'}</IsTruncated>"
    rows = [_row(item, encode) for item in page.items]
    rows += [f"<CommonPrefixes><Prefix>{encode(common)}</Prefix></CommonPrefixes>" for common in page.prefixes]
    return xml_response(document("ListVersionsResult", inner + "".join(rows)))


def _row(item: ShownVersion, encode: Encode) -> str:
    version = item.version
    head = (
        f"<Key>{encode(item.key)}</Key><VersionId>{item.id}</VersionId>"
        f"<IsLatest>{'true' if item.is_latest else 'false'}</IsLatest>"
        f"<LastModified>{iso_date(version.modified_ms)}</LastModified>"
    )
    if not isinstance(version, ObjectVersion):
        return f"<DeleteMarker>{head}{_OWNER}</DeleteMarker>"
    sums = "".join(f"<ChecksumAlgorithm>{name}</ChecksumAlgorithm>" for name in sorted(version.checksums.values))
    sums += f"<ChecksumType>{version.checksums.kind}</ChecksumType>" if sums else ""
    return (
        f"<Version>{head}<ETag>&quot;{version.etag}&quot;</ETag>{sums}<Size>{version.size}</Size>"
        f"<StorageClass>STANDARD</StorageClass>{_OWNER}</Version>"
    )
