"""How much fits into a vault with a quota."""

from __future__ import annotations

from typing import Any

import pytest

from meshhold.errors import UnknownFormatError
from meshhold.rules.bucket import UNSET, Aspect, BucketRules, pack_rule, with_rule
from meshhold.rules.quota import Quota, Room


@pytest.mark.parametrize(
    ("more_bytes", "more_objects", "limit"),
    [
        (10, 1, None),
        (11, 1, "bytes"),
        (0, 2, "objects"),
        (-50, 0, None),
        (10, 0, None),
    ],
)
def test_what_fits(more_bytes: int, more_objects: int, limit: str | None) -> None:
    lack = Room(Quota(100, 5), 90, 4).lacks(more_bytes, more_objects)
    assert (None if lack is None else lack.limit) == limit


def test_a_vault_over_its_quota_may_shrink_and_stay() -> None:
    room = Room(Quota(100, 5), 150, 7)
    assert room.lacks(0, 0) is None
    assert room.lacks(-1, 0) is None
    lack = room.lacks(1, 0)
    assert lack is not None
    assert lack.text == "150 of 100 bytes are used, and 1 more are asked for"


def test_without_a_limit_everything_fits() -> None:
    assert Room(Quota(None, 5), 10**18, 4).lacks(10**18, 1) is None
    assert Room(Quota(5, None), 0, 10**9).lacks(5, 1) is None


def test_the_fuller_limit_is_what_people_are_warned_of() -> None:
    assert Room(Quota(100, 10), 50, 9).share == 0.9
    assert Room(Quota(None, None), 50, 9).share == 0.0


@pytest.mark.parametrize("quota", [Quota(1, None), Quota(None, 7), Quota(2**60, 10**12)])
def test_a_quota_comes_back_as_it_was_stored(quota: Quota) -> None:
    rules = BucketRules(quota=quota)
    assert with_rule(UNSET, Aspect.QUOTA, pack_rule(Aspect.QUOTA, rules)) == rules


@pytest.mark.parametrize("packed", [5, [1], [1, -1], [True, None], ["a", None], {"bytes": 5}])
def test_a_quota_of_another_shape_is_refused(packed: Any) -> None:
    with pytest.raises(UnknownFormatError):
        with_rule(UNSET, Aspect.QUOTA, packed)
