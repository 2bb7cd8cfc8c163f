"""What does a request answer to the conditions of a policy? Knows no policy and no grant.

Source: "Condition keys for Amazon S3" and "AWS global condition context keys". The names are those of
`rules.policy_conditions`, in lower case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from meshhold.model.ids import ANONYMOUS
from meshhold.rules.policy_conditions import EXISTING_TAG, REQUEST_TAG, Facts
from meshhold.s3.exchange import Request
from meshhold.s3.syntax.query import parse_copy_source
from meshhold.s3.syntax.sigv4 import ALGORITHM
from meshhold.s3.syntax.tags import tags_of

_HEADERS: Final = {
    "aws:useragent": b"user-agent",
    "aws:referer": b"referer",
    "s3:if-match": b"if-match",
    "s3:if-none-match": b"if-none-match",
}
_QUERY: Final = {
    "s3:prefix": "prefix",
    "s3:delimiter": "delimiter",
    "s3:max-keys": "max-keys",
    "s3:versionid": "versionId",
}


def facts_of(
    request: Request,
    now_ms: int,
    *,
    prefix: bytes | None = None,
    existing_tags: Mapping[str, str] | None = None,
    new_tags: Mapping[str, str] | None = None,
) -> Facts:
    """Return what answers conditions about a request.

    `prefix` stands for the query's where what is asked is another listing; `new_tags` for those of `x-amz-tagging`
    where the body says them.
    """

    def facts(key: str) -> Sequence[str]:
        if key.startswith(EXISTING_TAG):
            return _one((existing_tags or {}).get(key[len(EXISTING_TAG) :]))
        if key.startswith(REQUEST_TAG):
            return _one(tags().get(key[len(REQUEST_TAG) :]))
        if key == "s3:requestobjecttagkeys":
            return tuple(tags())
        if key == "s3:prefix" and prefix is not None:
            return (prefix.decode(),)
        if key in _QUERY:
            return _one(request.query.get(_QUERY[key]))
        if key == "s3:x-amz-copy-source":
            return _one(_copy_source(request))
        if key in _HEADERS or key.startswith("s3:x-amz-"):
            return _one(request.header(_HEADERS.get(key) or key[3:].encode()))
        return _one(_SENDER[key](request, now_ms))

    def tags() -> Mapping[str, str]:
        if new_tags is not None:
            return new_tags
        return tags_of(request)

    return facts


def _copy_source(request: Request) -> str | None:
    """Return `bucket/key` of what is copied, decoded: however it is written, a condition sees the same."""
    raw = request.headers.get(b"x-amz-copy-source")
    if raw is None:
        return None
    name, key = parse_copy_source(raw)[:2]
    return f"{name}/{key.decode()}"


def _one(value: str | None) -> Sequence[str]:
    return () if value is None else (value,)


def _address(request: Request, _: int) -> str | None:
    """Return the address of who connected: a proxy's where there is one, since anybody can write a header."""
    try:
        return str(ip_address(request.peer))
    except ValueError:
        return None


def _is_secure(request: Request, _: int) -> str:
    """Tell whether the client spoke TLS: to this door, or to a proxy on this machine that says so."""
    address = _address(request, 0)
    is_local = address is not None and ip_address(address).is_loopback
    proto = (request.header(b"x-forwarded-proto") or "").rpartition(",")[2].strip().lower()
    return "true" if is_local and proto == "https" else "false"


def _key_id(request: Request, _: int) -> str | None:
    return None if request.access_key == ANONYMOUS else request.access_key


def _kind(request: Request, _: int) -> str:
    return "Anonymous" if request.access_key == ANONYMOUS else "User"


def _arn(request: Request, _: int) -> str | None:
    return None if request.access_key == ANONYMOUS else f"arn:aws:iam::meshhold:user/{request.access_key}"


def _authentication(request: Request, _: int) -> str | None:
    if request.claim is None:
        return None if request.access_key == ANONYMOUS else "POST"
    return "REST-QUERY-STRING" if request.claim.presigned else "REST-HEADER"


def _algorithm(request: Request, _: int) -> str | None:
    return None if request.access_key == ANONYMOUS else ALGORITHM


def _age(request: Request, now_ms: int) -> str | None:
    """Return how many milliseconds ago a presigned URL was signed."""
    if request.claim is None or not request.claim.presigned:
        return None
    signed = datetime.strptime(request.claim.timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return str(now_ms - int(signed.timestamp() * 1000))


def _now(_: Request, now_ms: int) -> str:
    return datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _epoch(_: Request, now_ms: int) -> str:
    return str(now_ms // 1000)


_SENDER: Final[dict[str, Callable[[Request, int], str | None]]] = {
    "aws:sourceip": _address,
    "aws:securetransport": _is_secure,
    "aws:username": _key_id,
    "aws:userid": _key_id,
    "aws:principaltype": _kind,
    "aws:principalarn": _arn,
    "aws:currenttime": _now,
    "aws:epochtime": _epoch,
    "s3:authtype": _authentication,
    "s3:signatureversion": _algorithm,
    "s3:signatureage": _age,
}
