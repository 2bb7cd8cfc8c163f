"""One request for a page of a bucket: index, redirects, error document. The object itself is the S3 door's to read.

Every read is one of somebody without a signature: grants and policies decide, as they do for S3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from meshhold.errors import DeniedError, MeshHoldError, NoSuchObjectError
from meshhold.rules.website import Redirect, Website, is_folder, location
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error, to_s3
from meshhold.s3.exchange import Headers, Request, Response, encode_header
from meshhold.s3.objects.gets import get_object, head_object
from meshhold.s3.syntax.sigv4 import Head
from meshhold.store.directory import Bucket

REDIRECT: Final = b"x-amz-website-redirect-location"
_PASSED: Final = frozenset(
    (b"range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"host",
     b"user-agent", b"referer", b"x-forwarded-proto")
)  # fmt: skip
"""What of a browser's request counts for the object: no signature, no wish that only S3 knows."""
_OF_ERRORS: Final = frozenset((b"content-type", b"content-encoding", b"content-language", b"content-length"))
"""What of an error document's headers goes along: an error is never cached under the document's own name."""
_PROTOCOL_ERRORS: Final = frozenset((412, 416))  # answers to what the browser itself asked: no page helps


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: `key` decoded, the query as it came, `peer` the address that connected."""

    method: str
    key: bytes
    query: bytes
    headers: Headers
    peer: str

    def header(self, name: bytes) -> str:
        """Return a header's value, `""` without it."""
        return next((value.decode("latin-1").strip() for each, value in self.headers if each == name), "")


async def answer_page(door: Door, bucket: Bucket, asked: Asked) -> Response:
    """Answer a GET or HEAD. Errors: what reading the object raises, where the website has no answer of its own."""
    site = bucket.rules.website or Website()
    found = site.find_redirect(asked.key)
    if found is not None:
        return _redirect(asked, *found)
    try:
        response = await _read(door, bucket, asked, site.document_of(asked.key))
    except (S3Error, MeshHoldError) as error:
        return await _answer_error(door, bucket, asked, site, error if isinstance(error, S3Error) else to_s3(error))
    target = dict(response.headers).get(REDIRECT)
    return response if target is None else Response(301, [(b"location", target)])


async def _read(door: Door, bucket: Bucket, asked: Asked, key: bytes, *, whole: bool = False) -> Response:
    """Return the answer of the S3 door for an object; `whole` drops conditions and ranges.

    Errors: `AccessDenied` for what not everybody may read, `NoSuchKey` for what is not there.
    """
    if not key:
        raise S3Error("NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration")
    headers = [] if whole else [pair for pair in asked.headers if pair[0] in _PASSED]
    path = b"/" + quote(bucket.alias).encode() + b"/" + quote(key).encode()
    request = Request(Head(asked.method, path, b"", headers), bucket.alias, key, _no_body)
    request.peer = asked.peer
    await door.prepare(request)
    try:
        door.allow(request, "s3:GetObject")
    except DeniedError:
        raise S3Error(
            "AccessDenied",
            "Access Denied: not everybody may read this. Its owner can let them, with `meshhold s3-perm grant "
            "anonymous`.",
        ) from None
    try:
        return await (head_object if asked.method == "HEAD" else get_object)(door, request)
    except (S3Error, NoSuchObjectError, DeniedError) as error:
        code = error.code if isinstance(error, S3Error) else ""
        if code not in ("", "AccessDenied", "NoSuchKey"):
            raise
        # who may read any key here learns nothing from being told that this one is none, but visitors do
        raise S3Error("NoSuchKey", "There is no such page.") from None


async def _no_body() -> bytes:
    return b""


async def _answer_error(door: Door, bucket: Bucket, asked: Asked, site: Website, error: S3Error) -> Response:
    if error.status == 404 and site.index and not is_folder(asked.key):
        folder = asked.key + b"/"
        if await _exists(door, bucket, asked, site.document_of(folder)):
            return _redirect(asked, Redirect(status=302), folder)
    found = site.find_redirect(asked.key, error.status)
    if found is not None:
        return _redirect(asked, *found)
    if site.error and 400 <= error.status < 500 and error.status not in _PROTOCOL_ERRORS:
        try:
            page = await _read(door, bucket, asked, site.error.encode(), whole=True)
        except (S3Error, MeshHoldError):
            raise error from None  # the page that is missing is not the one that was asked for
        page.status = error.status
        page.headers = [pair for pair in page.headers if pair[0] in _OF_ERRORS]
        return page
    raise error


async def _exists(door: Door, bucket: Bucket, asked: Asked, key: bytes) -> bool:
    try:
        await _read(door, bucket, asked, key, whole=True)
    except (S3Error, MeshHoldError):
        return False
    return True


def _redirect(asked: Asked, redirect: Redirect, key: bytes) -> Response:
    target = location(redirect, key, asked.header(b"host"), asked.query)
    return Response(redirect.status, [(b"location", encode_header(target))])
