"""How are locks written, in XML and in headers? Knows no version; what holds is `rules.lock`'s."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from meshhold.model.entry import Lock
from meshhold.rules.lock import MODES, BucketLock, default_lock
from meshhold.s3.errors import S3Error
from meshhold.s3.exchange import Headers, Request
from meshhold.s3.syntax.xml import document, malformed, parse, tag, text_fields

MODE: Final = b"x-amz-object-lock-mode"
UNTIL: Final = b"x-amz-object-lock-retain-until-date"
HOLD: Final = b"x-amz-object-lock-legal-hold"
UNLOCKED: Final = Lock()
_LAST_MS: Final = 253_402_300_799_000  # the last second of the year 9999: later ones cannot be written


def parse_retention(raw: bytes) -> Lock:
    """Read a `<Retention>`; an empty one is none. Errors: `MalformedXML`."""
    found = text_fields(parse(raw, "Retention"), {"Mode", "RetainUntilDate"})
    if not found:
        return UNLOCKED
    if found.get("Mode") not in MODES:
        malformed("<Mode> is GOVERNANCE or COMPLIANCE")
    until_ms = parse_moment(found.get("RetainUntilDate", ""))
    if until_ms is None:
        malformed("<RetainUntilDate> is a date in ISO 8601")
    return Lock(found["Mode"], until_ms)


def render_retention(lock: Lock) -> bytes:
    """Return the `<Retention>` document of a lock that has one."""
    return document("Retention", tag("Mode", lock.mode) + tag("RetainUntilDate", exact_date(lock.until_ms)))


def render_legal_hold(lock: Lock) -> bytes:
    """Return the `<LegalHold>` document."""
    return document("LegalHold", tag("Status", _on_off(lock)))


def parse_legal_hold(raw: bytes) -> bool:
    """Read a `<LegalHold>`. Errors: `MalformedXML`."""
    status = text_fields(parse(raw, "LegalHold"), {"Status"}).get("Status")
    if status not in ("ON", "OFF"):
        malformed("<Status> is ON or OFF")
    return status == "ON"


def parse_moment(text: str) -> int | None:
    """Return the milliseconds since 1970 of a date in ISO 8601, rounded up; None for anything else.

    Without a zone it is UTC.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        exact = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    moment_ms = int(exact.replace(microsecond=0).timestamp()) * 1000 + -(-exact.microsecond // 1000)
    return moment_ms if moment_ms <= _LAST_MS else None


def exact_date(moment_ms: int) -> str:
    """Return milliseconds since 1970 as `2015-10-21T07:28:00.250Z`."""
    seconds, thousandths = divmod(moment_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()}.{thousandths:03}Z"


def lock_of(request: Request, bucket: BucketLock, now_ms: int) -> Lock | None:
    """Return the lock of the version that a write makes: what its headers ask for, else the bucket's default.

    Errors: `InvalidArgument`; `InvalidRequest` if versions of this bucket cannot be locked.
    """
    mode, until, hold = request.header(MODE), request.header(UNTIL), request.header(HOLD)
    if hold not in (None, "ON", "OFF"):
        raise S3Error("InvalidArgument", "Legal Hold must be either of 'ON' or 'OFF'")
    if not bucket.enabled:
        if mode is not None or until is not None or hold == "ON":  # OFF says nothing, and some clients always send it
            check_lockable(bucket)
        return None
    lock = default_lock(bucket, now_ms)
    if mode is not None or until is not None:
        lock = _asked(mode, until, now_ms)
    if hold is not None:
        lock = replace(lock or UNLOCKED, legal_hold=hold == "ON")
    return lock


def check_lockable(bucket: BucketLock) -> None:
    """Errors: `InvalidRequest` where object lock was never enabled."""
    if not bucket.enabled:
        raise S3Error(
            "InvalidRequest",
            "Bucket is missing Object Lock Configuration: enable versioning, then PutObjectLockConfiguration.",
        )


def _asked(mode: str | None, until: str | None, now_ms: int) -> Lock:
    if mode is None or until is None:
        raise S3Error(
            "InvalidArgument", "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied"
        )
    if mode not in MODES:
        raise S3Error("InvalidArgument", "Unknown wormMode directive: use GOVERNANCE or COMPLIANCE.")
    until_ms = parse_moment(until)
    if until_ms is None:
        raise S3Error("InvalidArgument", "x-amz-object-lock-retain-until-date must be provided in ISO 8601 format")
    check_future(until_ms, now_ms)
    return Lock(mode, until_ms)


def check_future(until_ms: int, now_ms: int) -> None:
    """Errors: `InvalidArgument` for a date that has passed."""
    if until_ms <= now_ms:
        raise S3Error("InvalidArgument", "The retain until date must be in the future!")


def lock_headers(lock: Lock) -> Headers:
    """Return how GET and HEAD show a version's lock."""
    headers: Headers = [(HOLD, _on_off(lock).encode())]
    if lock.mode:
        headers += [(MODE, lock.mode.encode()), (UNTIL, exact_date(lock.until_ms).encode())]
    return headers


def _on_off(lock: Lock) -> str:
    return "ON" if lock.legal_hold else "OFF"
