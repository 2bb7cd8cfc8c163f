"""What do answers tell a browser about pages of other origins? Preflights, and the headers of all other answers.

Nothing here lets a request in or keeps one out: signatures and grants do. Source: Amazon S3 API reference, "OPTIONS
object"; Fetch standard, section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from meshhold.rules.cors import METHODS, CorsRule, find_rule
from meshhold.s3.door import Door
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers, Response
from meshhold.s3.http.application import check_framing
from meshhold.s3.http.head import RequestHead
from meshhold.s3.syntax.query import decode_key

_VARY: Final = (b"vary", b"Origin, Access-Control-Request-Headers, Access-Control-Request-Method")
"""A cache must not hand one origin's answer to another: said by every answer of a bucket that has rules."""
_METHOD: Final = b"access-control-request-method"
_HEADERS: Final = b"access-control-request-headers"
_ASKED_MAX: Final = 64  # names of headers in one question: pages send a handful; each is compared with each pattern


def preflight(door: Door, head: RequestHead) -> Response:
    """Answer a browser's question before the request itself; it carries no signature.

    Errors: S3's `BadRequest` for a question without origin or method, `AccessForbidden` where no rule fits.
    """
    check_framing(head)
    bucket_name, key = decode_key(head.raw_path)
    return answer_preflight(door, head.by_name(), bucket_name, key)


def answer_preflight(door: Door, headers: Mapping[bytes, bytes], bucket_name: str, key: bytes) -> Response:
    """Answer a question about `key` (`b""`: the bucket itself). Errors: as `preflight`; `NoSuchBucketError`."""
    origin = _text(headers, b"origin")
    if not origin:
        raise S3Error("BadRequest", "Insufficient information. Origin request header needed.")
    method = _text(headers, _METHOD)
    if method not in METHODS:
        shown = method[:64] or "null"
        raise S3Error("BadRequest", f"Invalid Access-Control-Request-Method: {shown}")
    asked = [name for part in _text(headers, _HEADERS).split(",") if (name := part.strip())]
    if len(asked) > _ASKED_MAX:
        raise S3Error("BadRequest", f"Access-Control-Request-Headers names more than {_ASKED_MAX} headers.")
    rules = door.vaults.bucket(bucket_name).rules.cors
    fields = {"Method": method, "ResourceType": "OBJECT" if key else "BUCKET"}
    if not rules:
        raise S3Error("AccessForbidden", "CORSResponse: CORS is not enabled for this bucket.", fields=fields)
    found = find_rule(rules, origin, method, asked)
    if found is None:
        raise S3Error(
            "AccessForbidden",
            "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request "
            "method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the "
            "resource's CORS spec.",
            fields=fields,
        )
    told = _allowance(*found)
    if asked:
        told.append((b"access-control-allow-headers", ", ".join(asked).lower().encode()))
    return Response(200, [*told, _VARY])


def answer_headers(rules: Sequence[CorsRule], method: str, headers: Mapping[bytes, bytes]) -> Headers:
    """Return what any other answer tells: nothing but `Vary` where no rule fits. A browser then hides the answer."""
    origin = _text(headers, b"origin")
    found = find_rule(rules, origin, _text(headers, _METHOD) or method) if origin else None
    return [_VARY] if found is None else [*_allowance(*found), _VARY]


def headers_of_refusal(door: Door, head: RequestHead) -> Headers:
    """Return what a refusal tells, even of a request that was not understood: a page may read why."""
    if head.method == "OPTIONS":
        return []
    with suppress(S3Error):
        bucket = door.vaults.known_alias(decode_key(head.raw_path)[0])
        if bucket is not None and bucket.rules.cors:
            return answer_headers(bucket.rules.cors, head.method, head.by_name())
    return []


def _allowance(rule: CorsRule, origin: str) -> Headers:
    told = [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-methods", ", ".join(rule.methods).encode()),
    ]
    if rule.exposed:
        told.append((b"access-control-expose-headers", ", ".join(rule.exposed).encode()))
    if rule.max_age_s is not None:
        told.append((b"access-control-max-age", b"%d" % rule.max_age_s))
    if origin != "*":
        told.append((b"access-control-allow-credentials", b"true"))
    return told


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1").strip()
