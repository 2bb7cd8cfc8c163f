"""May this request go on, given what is stored? Conditions, and the dates and ETags that they compare.

Knows no storage: callers pass the ETag and time of what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from time import gmtime, strftime
from typing import Final, NamedTuple

from meshhold.s3.errors import S3Error
from meshhold.store.contract import ALWAYS, WriteCondition

_COPY: Final = b"x-amz-copy-source-"
_DATES_CACHED: Final = 4096  # listings and hot objects repeat; about 400 KiB


class Verdict(NamedTuple):
    """What a read condition says: `status` 200 (go on), 304 or 412, and the header that decided (`""` for 200)."""

    status: int
    condition: str = ""


PASS: Final = Verdict(200)


@dataclass(frozen=True, slots=True)
class ReadConditions:
    """Conditions of a GET, HEAD or copy source; ETag lists as they came, times in seconds since 1970."""

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since_s: int | None = None
    if_unmodified_since_s: int | None = None


def read_conditions(headers: Mapping[bytes, bytes], *, copy_source: bool = False) -> ReadConditions | None:
    """Return the conditions among `headers` (lowercase names), or None without any.

    A date that cannot be read is no condition (RFC 9110, section 13.1). `copy_source` reads the
    `x-amz-copy-source-if-*` headers instead.
    """
    prefix = _COPY if copy_source else b""
    match = headers.get(prefix + b"if-match")
    none_match = headers.get(prefix + b"if-none-match")
    modified = headers.get(prefix + b"if-modified-since")
    unmodified = headers.get(prefix + b"if-unmodified-since")
    if match is None and none_match is None and modified is None and unmodified is None:
        return None
    return ReadConditions(_text(match), _text(none_match), _date(modified), _date(unmodified))


def judge_read(conditions: ReadConditions | None, etag: str, modified_ms: int) -> Verdict:
    """Return what the conditions say of an object with this ETag (without quotes) and time.

    The order is that of RFC 9110, section 13.2.2: If-Match, else If-Unmodified-Since; then If-None-Match, else
    If-Modified-Since. For a copy source, 304 means 412.
    """
    if conditions is None:
        return PASS
    modified_s = modified_ms // 1000  # as Last-Modified shows it
    if conditions.if_match is not None:
        if not etag_matches(conditions.if_match, etag):
            return Verdict(412, "If-Match")
    elif conditions.if_unmodified_since_s is not None and modified_s > conditions.if_unmodified_since_s:
        return Verdict(412, "If-Unmodified-Since")
    if conditions.if_none_match is not None:
        if etag_matches(conditions.if_none_match, etag, weak=True):
            return Verdict(304, "If-None-Match")
    elif conditions.if_modified_since_s is not None and modified_s <= conditions.if_modified_since_s:
        return Verdict(304, "If-Modified-Since")
    return PASS


def write_condition(headers: Mapping[bytes, bytes]) -> WriteCondition:
    """Return the condition of a PUT, completion or deletion; `ALWAYS` without one.

    `If-None-Match` takes an ETag too, where S3 itself asks for `*`: it means what RFC 9110 says.
    Errors: `NotImplemented` for what S3 does not take either: both at once, lists of ETags, and conditions by date.
    """
    match = _text(headers.get(b"if-match"))
    none_match = _text(headers.get(b"if-none-match"))
    for name in (b"if-modified-since", b"if-unmodified-since"):
        if name in headers:
            raise _not_implemented(name.decode(), "Conditions by date are not accepted on writes")
    if match is not None and none_match is not None:
        raise _not_implemented("If-Match,If-None-Match", "Multiple conditional request headers present in the request")
    if none_match is not None:
        etag = _single_etag("If-None-Match", none_match)
        return WriteCondition(if_absent=True) if etag == "*" else WriteCondition(if_none_match=etag)
    if match is None:
        return ALWAYS
    return WriteCondition(if_match=(_single_etag("If-Match", match),))


def _single_etag(header: str, text: str) -> str:
    etag = text.strip().strip('"')
    if not etag or "," in etag or etag.startswith("W/"):
        raise _not_implemented(header, f"We don't accept the provided value of {header} header for this API")
    return etag


def _not_implemented(header: str, why: str) -> S3Error:
    return S3Error(
        "NotImplemented",
        f"A header you provided implies functionality that is not implemented: {header}.",
        fields={"Header": header, "additionalMessage": why},
    )


def parse_etags(header: str) -> list[tuple[str, bool]]:
    """Return the ETags of a list, without quotes, each with whether it is weak. Unquoted ones are taken as S3 does."""
    found = []
    for item in header.split(","):
        text = item.strip()
        weak = text.startswith("W/")
        tag = text.removeprefix("W/").strip('"')
        if tag:
            found.append((tag, weak))
    return found


def etag_matches(header: str, etag: str, *, weak: bool = False) -> bool:
    """Tell whether the list holds `*` or `etag`; weak ETags count only under weak comparison (RFC 9110, 8.8.3.2)."""
    return any(tag in ("*", etag) and (weak or not is_weak) for tag, is_weak in parse_etags(header))


def http_date(moment_ms: int) -> str:
    """Return milliseconds since 1970 as in `Last-Modified`: `Wed, 21 Oct 2015 07:28:00 GMT`."""
    return _http_date_s(moment_ms // 1000)


def iso_date(moment_ms: int) -> str:
    """Return milliseconds since 1970 as in listings: `2015-10-21T07:28:00.000Z`. S3 shows whole seconds there."""
    return iso_date_s(moment_ms // 1000)


@lru_cache(_DATES_CACHED)
def _http_date_s(moment_s: int) -> str:
    return formatdate(moment_s, usegmt=True)


@lru_cache(_DATES_CACHED)
def iso_date_s(moment_s: int) -> str:
    """Return seconds since 1970 as `iso_date` does."""
    return strftime("%Y-%m-%dT%H:%M:%S.000Z", gmtime(moment_s))


def parse_date(text: str) -> int | None:
    """Return the seconds since 1970 of an HTTP date (RFC 9110, 5.6.7) or an ISO 8601 one; None for anything else."""
    try:
        moment = datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
        return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("latin-1")


def _date(raw: bytes | None) -> int | None:
    return None if raw is None else parse_date(raw.decode("latin-1").strip())
