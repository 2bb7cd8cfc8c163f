"""May a locked version be removed, may its lock be changed, and which lock does a new one get? Knows no clock.

The rules, those of S3 Object Lock: until its date a version under COMPLIANCE is neither removed nor unlocked by
anybody, one under GOVERNANCE only by who may bypass it; either date may be put off by everybody. A legal hold keeps a
version for as long as it is on, whatever its retention says. Nothing here is about hiding a version: a delete marker
may always be put on top of locked ones.

`now_ms` (since 1970) is the time that locks go by: callers that remove take it from a clock that is watched.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from meshhold.errors import InvalidError, LockedError
from meshhold.model.entry import Lock

GOVERNANCE: Final = "GOVERNANCE"
COMPLIANCE: Final = "COMPLIANCE"
MODES: Final = frozenset((GOVERNANCE, COMPLIANCE))
DAYS_MAX: Final = 36_500  # these two are S3's limits of a default retention
YEARS_MAX: Final = 100
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class BucketLock:
    """Whether a bucket's versions can be locked, and how new ones are without asking.

    Once enabled, it stays so. `mode` is `""` without a default retention; with one, `days` or `years` is positive.
    """

    enabled: bool = False
    mode: str = ""
    days: int = 0
    years: int = 0

    def pack(self) -> list[Any]:
        """Return the stored form."""
        return [self.enabled, self.mode, self.days, self.years]


NO_LOCK: Final = BucketLock()


def unpack_bucket_lock(packed: Any) -> BucketLock:
    """Undo `BucketLock.pack`. Errors: `InvalidError`, or whatever a hostile value makes of unpacking."""
    enabled, mode, days, years = packed
    is_period = type(days) is int and type(years) is int and (days == 0) != (years == 0)
    has_default = mode in MODES and is_period and 0 <= days <= DAYS_MAX and 0 <= years <= YEARS_MAX
    if enabled is not True or not (has_default or (mode, days, years) == ("", 0, 0)):
        raise InvalidError("the stored object lock configuration is none")
    return BucketLock(enabled, mode, days, years)


def default_lock(bucket: BucketLock, now_ms: int) -> Lock | None:
    """Return the lock of a version that is made now and asks for none; None where the bucket gives none."""
    if not bucket.mode:
        return None
    if bucket.days:
        return Lock(bucket.mode, now_ms + bucket.days * _DAY_MS)
    begun = datetime.fromtimestamp(now_ms / 1000, UTC)
    year = begun.year + bucket.years
    try:
        ended = begun.replace(year=year)
    except ValueError:  # 29 February, in a year that has none
        ended = (begun - timedelta(days=1)).replace(year=year) + timedelta(days=1)
    return Lock(bucket.mode, now_ms + (ended - begun) // timedelta(milliseconds=1))


def is_retained(lock: Lock | None, now_ms: int) -> bool:
    """Tell whether a retention still runs; legal holds do not count."""
    return lock is not None and bool(lock.mode) and lock.until_ms > now_ms


def is_locked(lock: Lock | None, now_ms: int) -> bool:
    """Tell whether anything keeps the version from being removed without a bypass."""
    return lock is not None and (lock.legal_hold or is_retained(lock, now_ms))


def check_removal(lock: Lock | None, now_ms: int, may_bypass: bool) -> None:
    """Let a version with this lock be removed for good, or raise. `may_bypass`: governance does not hold its remover.

    Errors: `LockedError`.
    """
    if lock is None:
        return
    if lock.legal_hold:
        raise LockedError("the version is under a legal hold", "end it with PutObjectLegalHold, Status OFF")
    if is_retained(lock, now_ms) and not (lock.mode == GOVERNANCE and may_bypass):
        raise _retained(lock, "is not removed before that")


def check_change(old: Lock | None, new: Lock | None, now_ms: int, may_bypass: bool) -> None:
    """Let a version's retention become that of `new`, or raise. Legal holds do not count: they may come and go.

    Errors: `LockedError` where less would be kept than was promised.
    """
    if old is None or not is_retained(old, now_ms):
        return
    keeps = new is not None and new.mode == old.mode and new.until_ms >= old.until_ms
    if not keeps and not (old.mode == GOVERNANCE and may_bypass):
        raise _retained(old, "keeps its mode and at least that date")


def _retained(lock: Lock, what: str) -> LockedError:
    until = datetime.fromtimestamp(lock.until_ms / 1000, UTC).isoformat(timespec="seconds")
    if lock.mode == GOVERNANCE:
        fix = "x-amz-bypass-governance-retention: true, from a key that may own the bucket, goes around it"
    else:
        fix = "nobody can go around compliance; wait"
    return LockedError(f"the version is under {lock.mode} until {until} and {what}", fix)
