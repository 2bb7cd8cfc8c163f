"""ListObjects V1 and V2: parameters in, XML out. Knows no index: pages come from the store.

A row costs about half a microsecond, so rows are written by hand.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final

from meshhold.index.contract import Listed
from meshhold.s3.door import OWNER, Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Request, Response, xml_response
from meshhold.s3.syntax.conditions import iso_date_s
from meshhold.s3.syntax.escape import escape, escape_all
from meshhold.s3.syntax.query import Query, encode_key
from meshhold.s3.syntax.xml import document, tag
from meshhold.store.listing import PAGE_MAX, Page

Encode = Callable[[bytes], str]
_OWNER: Final = f"<Owner>{tag('ID', OWNER)}{tag('DisplayName', OWNER)}</Owner>"


async def list_objects(door: Door, request: Request) -> Response:
    """Answer ListObjectsV2 where `list-type=2` asks for it, else ListObjects."""
    bucket = door.allow(request, "s3:ListBucket")
    query = request.query
    kind = query.get("list-type")
    if kind not in (None, "2"):
        raise S3Error("InvalidArgument", "list-type must be 2, or absent for the first version of the listing.")
    prefix, delimiter = query.get("prefix") or "", query.get("delimiter") or ""
    if delimiter and query.get("allow-unordered") == "true":
        raise S3Error("InvalidArgument", "allow-unordered, an option of Ceph's, cannot be used with a delimiter.")
    limit = page_size(query.get("max-keys"), "max-keys")
    encode = encoding(query.get("encoding-type"))
    after = _after_v2(query) if kind else (query.get("marker") or "").encode()
    page = await door.listing.page(bucket, prefix.encode(), delimiter.encode(), after, limit)
    inner = tag("Name", request.bucket_name)
    inner += f"<Prefix>{encode(prefix.encode()) if kind else _prefix_v1(prefix, encode)}</Prefix>"
    if delimiter:
        inner += f"<Delimiter>{encode(delimiter.encode())}</Delimiter>"
    if query.has("encoding-type"):
        inner += "<EncodingType>url</EncodingType>"
    truncated = "true" if page.resume_after is not None else "false"
    inner += f"<MaxKeys>{limit}</MaxKeys><IsTruncated>{truncated}</IsTruncated>"
    inner += _head_v2(query, page, encode) if kind else _head_v1(query, page, delimiter, encode)
    owner = _OWNER if kind is None or (query.get("fetch-owner") or "").lower() == "true" else ""
    rows = _rows(page.items, encode, owner)
    rows += [f"<CommonPrefixes><Prefix>{encode(common)}</Prefix></CommonPrefixes>" for common in page.prefixes]
    return xml_response(document("ListBucketResult", inner + "".join(rows)))


def _rows(items: list[Listed], encode: Encode, owner: str) -> list[str]:
    if not items:
        return []
    keys, sizes, etags, moments_ms, checksums = zip(*items, strict=True)
    texts = escape_all(keys) if encode is _as_text else map(encode, keys)
    dates = map(iso_date_s, [moment_ms // 1000 for moment_ms in moments_ms])
    middles = {each: f"&quot;</ETag>{_checksum(each)}<Size>" for each in set(checksums)}  # a page has few
    tail = f"</Size><StorageClass>STANDARD</StorageClass>{owner}</Contents>"
    return [
        f"<Contents><Key>{text}</Key><LastModified>{date}</LastModified><ETag>&quot;{etag}{middles[checksum]}{size}{tail}"
        for text, date, etag, checksum, size in zip(texts, dates, etags, checksums, sizes, strict=True)
    ]


def _checksum(text: str) -> str:
    if not text:
        return ""
    algorithm, _, kind = text.partition(":")
    return f"<ChecksumAlgorithm>{algorithm}</ChecksumAlgorithm><ChecksumType>{kind or 'FULL_OBJECT'}</ChecksumType>"


def _prefix_v1(prefix: str, encode: Encode) -> str:
    """Return the prefix as text wherever XML can carry it: SDKs decode the keys of such a listing, not this."""
    plain = all(character.isprintable() or character in "\t\n\r" for character in prefix)
    return escape(prefix) if plain else encode(prefix.encode())


def _head_v1(query: Query, page: Page, delimiter: str, encode: Encode) -> str:
    head = f"<Marker>{encode((query.get('marker') or '').encode())}</Marker>"
    if page.resume_after is not None and delimiter:
        head += f"<NextMarker>{encode(page.last)}</NextMarker>"
    return head


def _head_v2(query: Query, page: Page, encode: Encode) -> str:
    head = f"<KeyCount>{len(page.items) + len(page.prefixes)}</KeyCount>"
    token = query.get("continuation-token")
    if token is not None:
        head += tag("ContinuationToken", token)
    start = query.get("start-after")
    if start is not None:
        head += f"<StartAfter>{encode(start.encode())}</StartAfter>"
    if page.resume_after is not None:
        head += tag("NextContinuationToken", base64.urlsafe_b64encode(page.resume_after).decode())
    return head


def _after_v2(query: Query) -> bytes:
    token = query.get("continuation-token")
    if not token:
        return (query.get("start-after") or "").encode()
    try:
        after = base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        after = b""
    if not after:
        raise S3Error(
            "InvalidArgument",
            "The continuation token provided is incorrect",
            fields={"ArgumentName": "continuation-token", "ArgumentValue": token},
        )
    return after


def page_size(text: str | None, name: str) -> int:
    """Return a page's size: up to 1,000 however much is asked. Errors: `InvalidArgument` unless it is a number ≥ 0."""
    if text is None or text == "":
        return PAGE_MAX
    if not (text.isascii() and text.isdigit()) or int(text[:12]) > 2**31 - 1:
        raise S3Error(
            "InvalidArgument",
            f"Provided {name} not an integer or within integer range",
            fields={"ArgumentName": name, "ArgumentValue": text},
        )
    return min(int(text), PAGE_MAX)


def encoding(kind: str | None) -> Encode:
    """Return how keys are written: percent-encoded for `url`, else as XML text."""
    if kind is None:
        return _as_text
    if kind.lower() != "url":
        raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request: use url.")
    return encode_key


def _as_text(key: bytes) -> str:
    return escape(key.decode())
