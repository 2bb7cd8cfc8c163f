"""PostObject: a browser's form becomes a PUT. Knows how a form is answered; who may put what is decided elsewhere.

A form without a policy that a key signed is refused: nobody writes without a key.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from meshhold.model.ids import AccessKeyId
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import XML, Request, Response, encode_header
from meshhold.s3.objects.puts import put_object
from meshhold.s3.syntax.escape import escape
from meshhold.s3.syntax.form import FormReader, find_boundary
from meshhold.s3.syntax.post_policy import PostPolicy, check_form, parse_policy
from meshhold.s3.syntax.post_signature import parse_form_claim, verify_form
from meshhold.s3.syntax.query import check_key
from meshhold.s3.syntax.sigv4 import Head
from meshhold.s3.syntax.tags import parse_tagging

_HEADERS: Final = frozenset(
    ("cache-control", "content-type", "content-disposition", "content-encoding", "content-language", "content-md5",
     "expires", "x-amz-acl", "x-amz-storage-class", "x-amz-website-redirect-location", "x-amz-tagging")
)  # fmt: skip
"""Fields that mean what the header of that name means to PutObject."""
_PREFIXES: Final = (
    "x-amz-meta-", "x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-server-side-encryption", "x-amz-object-lock-",
    "x-amz-grant-",
)  # fmt: skip
_OF_REQUEST: Final = (
    b"host", b"referer", b"user-agent", b"if-match", b"if-none-match", b"x-amz-expected-bucket-owner",
)  # fmt: skip
"""Headers of the request itself that mean the same to a PUT."""
_KNOWN: Final = frozenset(
    ("key", "bucket", "acl", "tagging", "success_action_redirect", "redirect", "success_action_status", "policy",
     "awsaccesskeyid", "signature", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")
)  # fmt: skip
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+\Z")  # RFC 9110, section 5.6.2: what a header's name may be
_FILENAME: Final = "${filename}"
_EXPANDED_MAX: Final = 64 * 1024  # characters of all fields: a long file name could stand in each of them many times


async def post_object(door: Door, request: Request) -> Response:
    """Keep a form's file as the object that its fields name; the answer says that it is durable."""
    form = FormReader(find_boundary(request.headers))
    if request.claim is not None:
        raise S3Error(
            "InvalidArgument",
            "Only one auth mechanism allowed: a form carries its signature in its fields; send no Authorization header "
            "and no X-Amz-Signature in the URL.",
        )
    door.vaults.bucket(request.bucket_name)
    first = await _read_fields(request, form)
    fields = _expand(form, request.bucket_name)
    access_key, policy = _authenticate(door, fields)
    request.access_key = access_key
    put = _as_put(request, fields, access_key)
    put.receive = _File(request, form, first, policy).receive
    await door.prepare(put)
    done = await put_object(door, put)
    return _answer(request, put, fields, done)


async def _read_fields(request: Request, form: FormReader) -> bytes:
    """Read up to the file; return the bytes of it that came along."""
    while not form.in_file:
        piece = await request.receive()
        if not piece:
            form.finish()
        first = form.feed(piece)
    return first


def _expand(form: FormReader, bucket_name: str) -> dict[str, str]:
    """Return the fields as S3 judges and applies them: with the file's name in place of its variable."""
    fields = form.fields
    holders = [name for name, value in fields.items() if _FILENAME in value and name != "policy"]
    grown = sum(fields[name].count(_FILENAME) for name in holders) * len(form.filename)
    if grown > _EXPANDED_MAX:
        raise S3Error(
            "InvalidArgument", f"With {_FILENAME} replaced, the form's fields exceed {_EXPANDED_MAX} characters."
        )
    expanded = {name: fields[name].replace(_FILENAME, form.filename) for name in holders}
    return fields | expanded | {"bucket": bucket_name}


def _authenticate(door: Door, fields: dict[str, str]) -> tuple[AccessKeyId, PostPolicy]:
    """Return who signed, and what; the form keeps to it."""
    claim = parse_form_claim(fields, door.settings.region)
    if claim is None:
        raise S3Error(
            "AccessDenied",
            "Access Denied: a form needs a policy that a key signed (the fields policy, x-amz-algorithm, "
            "x-amz-credential, x-amz-date, x-amz-signature); nobody writes without a key.",
        )
    verify_form(claim, door.secret(claim.access_key_id))
    policy = parse_policy(claim.policy)
    check_form(policy, fields, door.now_ms() / 1000)
    return AccessKeyId(claim.access_key_id), policy


def _as_put(request: Request, fields: dict[str, str], access_key: AccessKeyId) -> Request:
    """Return the PutObject that the form stands for."""
    if "key" not in fields:
        raise S3Error(
            "InvalidArgument",
            "Bucket POST must contain a field named 'key'.  If it is specified, please check the order of the fields.",
            fields={"ArgumentName": "key", "ArgumentValue": ""},
        )
    key = fields["key"].encode()
    if not key:
        raise S3Error("InvalidArgument", "User key must have a length greater than 0.")
    check_key(key)
    headers = [(name, value) for name in _OF_REQUEST if (value := request.headers.get(name)) is not None]
    headers.append((b"transfer-encoding", b"chunked"))  # like it, a form's file ends without having told its length
    headers += [(name.encode(), _field_value(name, value)) for name, value in _header_fields(fields).items()]
    put = Request(Head("POST", request.head.raw_path, b"", headers), request.bucket_name, key, request.receive)
    put.access_key = access_key
    put.peer = request.peer
    return put


def _header_fields(fields: dict[str, str]) -> dict[str, str]:
    found = {}
    for name, value in fields.items():
        if name in _HEADERS or name.startswith(_PREFIXES):
            if not _NAME.match(name):
                raise S3Error("InvalidArgument", f"The form's field {name[:64]!r} is not the name of a header.")
            found[name] = value
        elif name.startswith("x-amz-") and name not in _KNOWN:
            raise S3Error("NotImplemented", f"The form's field {name[:64]} asks for something that is not offered.")
    if "acl" in fields:
        found["x-amz-acl"] = fields["acl"]
    if fields.get("tagging"):
        found["x-amz-tagging"] = urlencode(parse_tagging(fields["tagging"].encode()))
    return found


def _field_value(name: str, value: str) -> bytes:
    text = value.strip()
    if any(ord(character) < 0x20 and character != "\t" for character in text):
        raise S3Error("InvalidArgument", f"The form's field {name[:64]} holds a control character; remove it.")
    return encode_header(text)


class _File:
    """The form's file, within the sizes that its policy allows."""

    def __init__(self, request: Request, form: FormReader, first: bytes, policy: PostPolicy) -> None:
        self._request = request
        self._form = form
        self._ready = first
        self._policy = policy
        self._size = 0

    async def receive(self) -> bytes:
        """Return the next piece, `b""` at the end. Errors: `EntityTooLarge`, `EntityTooSmall`, a malformed form."""
        piece, self._ready = self._ready, b""
        while not piece and not self._form.ended:
            raw = await self._request.receive()
            if not raw:
                self._form.finish()
            piece = self._form.feed(raw)
        self._size += len(piece)
        if self._size > self._policy.size_max:
            raise S3Error(
                "EntityTooLarge",
                "Your proposed upload exceeds the maximum allowed size that the form's policy names.",
                fields={"ProposedSize": str(self._size), "MaxSizeAllowed": str(self._policy.size_max)},
            )
        if not piece and self._size < self._policy.size_min:
            raise S3Error(
                "EntityTooSmall",
                "Your proposed upload is smaller than the minimum allowed size that the form's policy names.",
                fields={"ProposedSize": str(self._size), "MinSizeAllowed": str(self._policy.size_min)},
            )
        return piece


def _answer(request: Request, put: Request, fields: dict[str, str], done: Response) -> Response:
    """Answer in the way that the form asks for: another page, or a status."""
    etag = dict(done.headers).get(b"etag", b"").decode()
    host = (request.header(b"host") or "").strip()
    location = f"http://{host}/{request.bucket_name}/{quote(put.key)}"
    target = _redirect(fields.get("success_action_redirect", fields.get("redirect", "")))
    if target is not None:
        told = {"bucket": request.bucket_name.encode(), "key": put.key, "etag": etag.encode()}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in told.items())
        joined = f"{target}{'&' if urlsplit(target).query else '?'}{query}"
        return Response(303, [*done.headers, (b"location", encode_header(joined))])
    headers = [*done.headers, (b"location", encode_header(location))]
    status = fields.get("success_action_status", "")
    if status == "201":
        inner = (
            f"<Location>{escape(location)}</Location><Bucket>{escape(request.bucket_name)}</Bucket>"
            f"<Key>{escape(put.key.decode())}</Key><ETag>{escape(etag)}</ETag>"
        )
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<PostResponse>{inner}</PostResponse>'.encode()
        return Response(201, [*headers, XML], body)
    return Response(200 if status == "200" else 204, headers)


def _redirect(text: str) -> str | None:
    """Return where the browser is sent; None where the form names no place that can be read, as S3 takes it."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    readable = all("\x20" < character < "\x7f" for character in text)
    return text if readable and parts.scheme in ("http", "https") and parts.netloc and not parts.fragment else None
