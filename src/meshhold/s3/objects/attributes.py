"""GetObjectAttributes: what is known of an object and its parts, without its bytes. Knows no chunk.

Source: Amazon S3 API reference, "GetObjectAttributes".
"""

from __future__ import annotations

from typing import Final

from meshhold.model.entry import ObjectVersion
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.objects.customer import shown_by
from meshhold.s3.objects.gets import find_version, last_modified, part_checksums
from meshhold.s3.objects.versions import version_headers
from meshhold.s3.syntax.checksums import checksum_elements
from meshhold.s3.syntax.xml import document, tag
from meshhold.sealing.content import PartRow

PARTS_SHOWN_MAX: Final = 1000  # S3's own limit
_ATTRIBUTES: Final = frozenset(("ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"))


async def get_attributes(door: Door, request: Request) -> Response:
    """Answer with those attributes that `x-amz-object-attributes` names."""
    bucket = door.allow(request, "s3:GetObjectAttributes")
    wanted = _wanted(request)
    version = await find_version(door, request, bucket)
    await shown_by(door, request, bucket, request.key, version)
    inner = tag("ETag", version.etag) if "ETag" in wanted else ""
    if "Checksum" in wanted and version.checksums.values:
        inner += f"<Checksum>{checksum_elements(version.checksums)}</Checksum>"
    if "ObjectParts" in wanted and version.parts_count:
        inner += _parts(request, version, await door.objects.parts(bucket, request.key, version))
    if "StorageClass" in wanted:
        inner += tag("StorageClass", "STANDARD")
    if "ObjectSize" in wanted:
        inner += tag("ObjectSize", str(version.size))
    response = xml_response(document("GetObjectAttributesResponse", inner))
    response.headers += [last_modified(version), *version_headers(bucket, version)]
    return response


def _wanted(request: Request) -> set[str]:
    names = {name.strip() for name in (request.header(b"x-amz-object-attributes") or "").split(",")} - {""}
    if not names:
        raise S3Error(
            "InvalidRequest",
            "Missing required header for this request: x-amz-object-attributes. Name some of "
            f"{', '.join(sorted(_ATTRIBUTES))}.",
        )
    unknown = sorted(names - _ATTRIBUTES)
    if unknown:
        raise S3Error(
            "InvalidArgument",
            f"Invalid attribute name specified: use {', '.join(sorted(_ATTRIBUTES))}.",
            fields={"ArgumentName": "x-amz-object-attributes", "ArgumentValue": unknown[0]},
        )
    return names


def _parts(request: Request, version: ObjectVersion, rows: list[PartRow]) -> str:
    """Return a page of the parts; as in S3 their number alone where the object has no checksum."""
    count = tag("PartsCount", str(len(rows)))
    if not version.checksums.values:
        return f"<ObjectParts>{count}</ObjectParts>"
    marker = _number(request.header(b"x-amz-part-number-marker"), 0)
    limit = min(_number(request.header(b"x-amz-max-parts"), PARTS_SHOWN_MAX), PARTS_SHOWN_MAX)
    later = [row for row in rows if row.number > marker]
    shown = later[:limit]
    inner = f"{count}<PartNumberMarker>{marker}</PartNumberMarker>"
    inner += f"<NextPartNumberMarker>{shown[-1].number if shown else marker}</NextPartNumberMarker>"
    inner += f"<MaxParts>{limit}</MaxParts><IsTruncated>{'true' if len(later) > limit else 'false'}</IsTruncated>"
    for row in shown:
        sums = part_checksums(version, row).values
        inner += f"<Part><PartNumber>{row.number}</PartNumber><Size>{row.size}</Size>"
        inner += "".join(tag(f"Checksum{name}", value) for name, value in sums.items()) + "</Part>"
    return f"<ObjectParts>{inner}</ObjectParts>"


def _number(text: str | None, default: int) -> int:
    """Return a header's number; S3 takes one that it cannot read for none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 9 else default
