"""What is due, by rules and facts, at any time that a test likes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from meshhold.errors import UnknownFormatError
from meshhold.rules.bucket import UNSET, Aspect, BucketRules, pack_rule, with_rule
from meshhold.rules.lifecycle import (
    DAY_MS,
    Due,
    Lifecycle,
    Rule,
    end_ms,
    marker_due,
    object_due,
    object_prefixes,
    upload_due,
    upload_prefixes,
    version_due,
)

NOON = 20_000 * DAY_MS + DAY_MS // 2


def of(*rules: Rule) -> Lifecycle:
    return Lifecycle(rules)


@pytest.mark.parametrize(
    ("since_ms", "days", "ends_ms"),
    [
        (NOON, 1, 20_002 * DAY_MS),  # a day later it is noon, and the next midnight counts
        (20_000 * DAY_MS, 1, 20_001 * DAY_MS),  # at midnight already
        (20_000 * DAY_MS + 1, 1, 20_002 * DAY_MS),
        (0, 365, 365 * DAY_MS),
    ],
)
def test_days_end_at_midnight(since_ms: int, days: int, ends_ms: int) -> None:
    assert end_ms(since_ms, days) == ends_ms


def test_a_shortened_day_has_no_midnight() -> None:
    assert end_ms(NOON + 7, 3, day_ms=10_000) == NOON + 30_007


def test_an_object_ends_by_the_earliest_rule_that_speaks_of_it() -> None:
    rules = of(
        Rule("off", enabled=False, days=1),
        Rule("elsewhere", prefix=b"logs/", days=1),
        Rule("later", days=9),
        Rule("sooner", prefix=b"tmp/", days=3),
        Rule("on-a-date", date_ms=30_000 * DAY_MS),
        Rule("versions-only", noncurrent_days=1),
    )
    assert object_due(rules, b"tmp/a", 5, {}, NOON) == Due(20_004 * DAY_MS, "sooner")
    assert object_due(rules, b"photo", 5, {}, NOON) == Due(20_010 * DAY_MS, "later")
    assert object_due(of(Rule("elsewhere", prefix=b"logs/", days=1)), b"photo", 5, {}, NOON) is None


def test_a_date_ends_what_is_written_after_it_too() -> None:
    rules = of(Rule("gone", date_ms=10_000 * DAY_MS))
    assert object_due(rules, b"a", 5, {}, NOON) == Due(10_000 * DAY_MS, "gone")


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        (Rule("r", days=1, tags=(("kind", "tmp"),)), True),
        (Rule("r", days=1, tags=(("kind", "tmp"), ("who", "me"))), False),
        (Rule("r", days=1, tags=(("kind", "Tmp"),)), False),
        (Rule("r", days=1, size_above=99), True),
        (Rule("r", days=1, size_above=100), False),
        (Rule("r", days=1, size_below=101), True),
        (Rule("r", days=1, size_below=100), False),
        (Rule("r", days=1, prefix=b"a/", tags=(("kind", "tmp"),), size_above=10, size_below=200), True),
        (Rule("r", days=1, prefix=b"b/", tags=(("kind", "tmp"),)), False),
    ],
)
def test_every_condition_of_a_rule_must_hold(rule: Rule, fits: bool) -> None:
    assert (object_due(of(rule), b"a/b", 100, {"kind": "tmp", "more": "x"}, NOON) is not None) is fits


def test_earlier_versions_end_by_when_they_became_so_and_the_newest_are_kept() -> None:
    rules = of(Rule("v", noncurrent_days=2, newer_kept=3))
    due = [version_due(rules, b"k", 5, {}, NOON, newer) for newer in range(5)]
    assert due == [None, None, None, Due(20_003 * DAY_MS, "v"), Due(20_003 * DAY_MS, "v")]
    assert version_due(of(Rule("v", noncurrent_days=2)), b"k", 5, {}, NOON, 0) == Due(20_003 * DAY_MS, "v")


def test_earlier_versions_are_chosen_by_their_own_tags_and_size() -> None:
    rules = of(Rule("v", noncurrent_days=1, tags=(("a", "b"),)))
    assert version_due(rules, b"k", 5, {"a": "b"}, NOON, 0) is not None
    assert version_due(rules, b"k", 5, {}, NOON, 0) is None
    assert version_due(rules, b"k", None, {}, NOON, 0) is None, "a marker has no tags"
    assert version_due(of(Rule("v", noncurrent_days=1)), b"k", None, {}, NOON, 0) is not None


def test_a_marker_that_hides_nothing() -> None:
    assert marker_due(of(Rule("m", alone_markers=True)), b"k", NOON) == Due(NOON, "m"), "at once"
    assert marker_due(of(Rule("m", days=1)), b"k", NOON) == Due(20_002 * DAY_MS, "m"), "as old as objects may be"
    assert marker_due(of(Rule("m", alone_markers=False)), b"k", NOON) is None
    assert marker_due(of(Rule("m", days=1, tags=(("a", "b"),))), b"k", NOON) is None
    assert marker_due(of(Rule("m", noncurrent_days=1)), b"k", NOON) is None


def test_uploads_end_by_their_beginning() -> None:
    rules = of(Rule("u", prefix=b"big/", abort_days=7), Rule("o", days=1))
    assert upload_due(rules, b"big/film", NOON) == Due(20_008 * DAY_MS, "u")
    assert upload_due(rules, b"small", NOON) is None


def test_only_what_rules_speak_of_is_walked() -> None:
    rules = of(
        Rule("1", prefix=b"a/b", days=1),
        Rule("2", prefix=b"a/", noncurrent_days=1),
        Rule("3", prefix=b"c", alone_markers=True),
        Rule("4", prefix=b"d", enabled=False, days=1),
        Rule("5", prefix=b"e", abort_days=1),
        Rule("6", prefix=b"f", alone_markers=False),
    )
    assert object_prefixes(rules) == [b"a/", b"c"]
    assert upload_prefixes(rules) == [b"e"]
    assert object_prefixes(of(Rule("all", days=1), Rule("x", prefix=b"x", days=2))) == [b""]


# -- stored form ----------------------------------------------------------------------------------------------------

FULL = Rule(
    "id", False, b"p", (("a", "b"),), 1, 9, False, 3, None, None, 4, 5, 6
)  # fmt: skip


@pytest.mark.parametrize(
    "rule",
    [FULL, Rule("x", days=1), Rule("y", date_ms=0), Rule("z", alone_markers=False), Rule("w", alone_markers=True)],
)
def test_rules_come_back_as_they_were_stored(rule: Rule) -> None:
    rules = BucketRules(lifecycle=of(rule, Rule("other", days=2)))
    packed = msgpack.unpackb(msgpack.packb(pack_rule(Aspect.LIFECYCLE, rules)))
    assert with_rule(UNSET, Aspect.LIFECYCLE, packed) == rules
    assert with_rule(rules, Aspect.LIFECYCLE, None) == UNSET


@pytest.mark.parametrize(
    "packed",
    [
        5,
        [],
        [{"id": "x", "days": "soon"}],
        [{"id": "x", "days": True}],
        [{"id": 5}],
        [{}],
        [{"id": "x", "unless": "friday"}],
        [{"id": "x", "prefix": "text"}],
        [{"id": "x", "tags": [["a"]]}],
        [{"id": "x", "tags": [["a", 5]]}],
        [{"id": "x", "on": 1}],
        [None],
        [{"id": "x"}] * 1_001,
    ],
)
def test_rules_of_another_shape_are_refused(packed: Any) -> None:
    """A rule half understood could end what nobody meant."""
    with pytest.raises(UnknownFormatError):
        with_rule(UNSET, Aspect.LIFECYCLE, packed)
