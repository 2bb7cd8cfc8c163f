"""What locks promise: when a version may go, and how its lock may change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhold.errors import LockedError, UnknownFormatError
from meshhold.model.entry import Lock
from meshhold.rules.bucket import UNSET, Aspect, BucketRules, pack_rule, with_rule
from meshhold.rules.encryption import Encryption
from meshhold.rules.lock import (
    NO_LOCK,
    BucketLock,
    check_change,
    check_removal,
    default_lock,
    is_locked,
)
from meshhold.rules.versioning import Versioning

NOW = 1_800_000_000_000
LATER = NOW + 1
GOVERNANCE, COMPLIANCE = Lock("GOVERNANCE", LATER), Lock("COMPLIANCE", LATER)
HELD = Lock(legal_hold=True)
DAY_MS = 86_400_000

locks = st.builds(
    Lock, st.sampled_from(["GOVERNANCE", "COMPLIANCE"]), st.integers(NOW - 3, NOW + 3), st.booleans()
) | st.builds(Lock, legal_hold=st.booleans())
some_lock = st.none() | locks


@pytest.mark.parametrize("lock", [None, Lock(), Lock("COMPLIANCE", NOW), Lock("GOVERNANCE", NOW - 1)])
def test_what_nothing_keeps_any_more_goes(lock: Lock | None) -> None:
    check_removal(lock, NOW, may_bypass=False)
    assert not is_locked(lock, NOW)


@pytest.mark.parametrize("lock", [GOVERNANCE, COMPLIANCE, HELD, Lock("GOVERNANCE", NOW - 1, legal_hold=True)])
def test_what_is_kept_stays(lock: Lock) -> None:
    assert is_locked(lock, NOW)
    with pytest.raises(LockedError):
        check_removal(lock, NOW, may_bypass=False)


def test_a_bypass_goes_around_governance_and_nothing_else() -> None:
    check_removal(GOVERNANCE, NOW, may_bypass=True)
    for lock in (COMPLIANCE, HELD, Lock("GOVERNANCE", LATER, legal_hold=True)):
        with pytest.raises(LockedError):
            check_removal(lock, NOW, may_bypass=True)


@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
def test_a_date_is_put_off_by_anybody(mode: str) -> None:
    check_change(Lock(mode, LATER), Lock(mode, LATER), NOW, may_bypass=False)
    check_change(Lock(mode, LATER), Lock(mode, LATER + 1), NOW, may_bypass=False)


@pytest.mark.parametrize("new", [None, Lock(), Lock("GOVERNANCE", NOW), Lock("COMPLIANCE", LATER + 9)])
def test_governance_is_shortened_or_changed_with_a_bypass_only(new: Lock | None) -> None:
    with pytest.raises(LockedError, match="bypass-governance"):
        check_change(GOVERNANCE, new, NOW, may_bypass=False)
    check_change(GOVERNANCE, new, NOW, may_bypass=True)


@pytest.mark.parametrize("new", [None, Lock(), Lock("COMPLIANCE", NOW), Lock("GOVERNANCE", LATER + 9)])
def test_compliance_is_shortened_by_nobody(new: Lock | None) -> None:
    with pytest.raises(LockedError, match="nobody"):
        check_change(COMPLIANCE, new, NOW, may_bypass=True)


@given(some_lock, some_lock, st.booleans())
def test_a_change_never_lets_go_what_could_not_be_removed(old: Lock | None, new: Lock | None, may_bypass: bool) -> None:
    """Whoever may not remove a version cannot get there by changing its retention first."""
    try:
        check_change(old, new, NOW, may_bypass)
    except LockedError:
        return
    kept = Lock(new.mode if new else "", new.until_ms if new else 0, old is not None and old.legal_hold)
    for moment in range(NOW, NOW + 4):
        try:
            check_removal(old, moment, may_bypass)
        except LockedError:
            with pytest.raises(LockedError):
                check_removal(kept, moment, may_bypass)


def ms(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, 12, tzinfo=UTC).timestamp() * 1000) + 7


def test_a_default_retention_counts_from_the_making() -> None:
    assert default_lock(BucketLock(True), NOW) is None
    assert default_lock(BucketLock(True, "GOVERNANCE", days=3), NOW) == Lock("GOVERNANCE", NOW + 3 * DAY_MS)
    years = BucketLock(True, "COMPLIANCE", years=1)
    assert default_lock(years, ms(2027, 5, 1)) == Lock("COMPLIANCE", ms(2028, 5, 1))
    assert default_lock(years, ms(2028, 2, 29)) == Lock("COMPLIANCE", ms(2029, 3, 1))


# -- stored ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aspect", "rules"),
    [
        (Aspect.LOCK, BucketRules(lock=BucketLock(True))),
        (Aspect.LOCK, BucketRules(lock=BucketLock(True, "GOVERNANCE", days=36_500))),
        (Aspect.LOCK, BucketRules(lock=BucketLock(True, "COMPLIANCE", years=100))),
        (Aspect.TAGS, BucketRules(tags={"a": "b"})),
        (Aspect.ENCRYPTION, BucketRules(encryption=Encryption(bucket_key=True))),
    ],
)
def test_rules_come_back_as_they_were(aspect: Aspect, rules: BucketRules) -> None:
    assert with_rule(UNSET, aspect, pack_rule(aspect, rules)) == rules
    assert pack_rule(aspect, UNSET) is None


@pytest.mark.parametrize(
    "packed",
    [
        1, "", [], [True], [False, "", 0, 0], [True, "", 1, 0], [True, "GOVERNANCE", 0, 0], [True, "GOVERNANCE", 1, 1],
        [True, "GOVERNANCE", -1, 0], [True, "GOVERNANCE", 1.5, 0], [True, "GOVERNANCE", 36_501, 0],
        [True, "COMPLIANCE", 0, 101], [True, "governance", 1, 0], [True, [], 1, 0], [1, "GOVERNANCE", 1, 0],
    ],
)  # fmt: skip
def test_hostile_lock_rules_are_refused(packed: Any) -> None:
    with pytest.raises(UnknownFormatError):
        with_rule(UNSET, Aspect.LOCK, packed)


@pytest.mark.parametrize("aspect", [Aspect.TAGS, Aspect.ENCRYPTION])
@pytest.mark.parametrize("packed", [1, "x", [1], {1: 2}, {"": ""}, {"a": 1}])
def test_hostile_tags_and_encryption_are_refused(aspect: Aspect, packed: Any) -> None:
    with pytest.raises(UnknownFormatError):
        with_rule(UNSET, aspect, packed)


def test_a_bucket_that_can_lock_keeps_versions_whatever_was_set() -> None:
    """Two nodes may suspend versioning and enable locks at once: then locks count."""
    lock = BucketLock(True)
    for rules in (
        with_rule(BucketRules(lock=lock), Aspect.VERSIONING, "Suspended"),
        with_rule(BucketRules(versioning=Versioning.SUSPENDED), Aspect.LOCK, lock.pack()),
        with_rule(BucketRules(lock=lock), Aspect.VERSIONING, None),
    ):
        assert rules.versioning is Versioning.ENABLED
    assert not NO_LOCK.enabled
