"""Which page may do what: the first rule that fits decides, and stored rules are checked as new ones are."""

from __future__ import annotations

import pytest

from meshhold.errors import InvalidError, UnknownFormatError
from meshhold.rules.bucket import UNSET, Aspect, BucketRules, pack_rule, with_rule
from meshhold.rules.cors import CorsRule, check_rule, find_rule, pack_cors

ANY_READ = CorsRule(("*",), ("GET", "HEAD"))
APP = CorsRule(("https://app.example.com",), ("PUT",), ("x-amz-*", "Content-Type"), ("ETag",), 600, "app")


@pytest.mark.parametrize(
    ("pattern", "origin", "fits"),
    [
        ("*", "https://a", True),
        ("https://a", "https://a", True),
        ("https://a", "https://A", False),
        ("*.get", "foo.get", True),
        ("*.get", "foo.get.put", False),
        ("start*end", "startend", True),
        ("start*end", "start12end", True),
        ("start*end", "0startend", False),
        ("aba*aba", "aba", False),
        ("https://*", "http://x", False),
    ],
)
def test_an_origin_fits_a_pattern_with_one_star(pattern: str, origin: str, *, fits: bool) -> None:
    found = find_rule([CorsRule((pattern,), ("GET",))], origin, "GET")
    assert (found is not None) == fits


def test_the_first_fitting_rule_decides_and_says_which_origin() -> None:
    rules = [APP, ANY_READ, CorsRule(("https://app.example.com",), ("GET",), max_age_s=5)]
    assert find_rule(rules, "https://app.example.com", "GET") == (ANY_READ, "*")
    assert find_rule(rules, "https://app.example.com", "PUT") == (APP, "https://app.example.com")
    assert find_rule(rules, "https://other", "PUT") is None


def test_every_header_that_is_asked_for_must_be_allowed() -> None:
    allowed = ["X-Amz-Meta-A", "content-type"]
    assert find_rule([APP], "https://app.example.com", "PUT", allowed) is not None
    assert find_rule([APP], "https://app.example.com", "PUT", [*allowed, "x-other"]) is None
    assert find_rule([ANY_READ], "https://a", "GET", ["range"]) is None


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (CorsRule(("*",), ("PATCH",)), "Unsupported method is PATCH"),
        (CorsRule(("*",), ("get",)), "Unsupported method is get"),
        (CorsRule(("http://*.*.com",), ("GET",)), "can not have more than one wildcard"),
        (CorsRule(("http://a b",), ("GET",)), "holds a character"),
        (CorsRule(("*",), ("GET",), ("**",)), "can not have more than one wildcard"),
        (CorsRule(("*",), ("GET",), ("a:b",)), "holds a character"),
        (CorsRule(("*",), ("GET",), (), ("*",)), "wildcard for ExposeHeader"),
        (CorsRule(("*",), ("GET",), (), ("a\r\nb",)), "not the name of a header"),
        (CorsRule(("*",), ("GET",), max_age_s=-1), "MaxAgeSeconds"),
        (CorsRule(("*",), ("GET",), max_age_s=2**31), "MaxAgeSeconds"),
        (CorsRule(("*",), ("GET",), id="i" * 256), "ID has at most"),
    ],
)
def test_what_s3_does_not_take_is_refused(rule: CorsRule, told: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_rule(rule)
    assert told in caught.value.message


def test_stored_rules_come_back() -> None:
    rules = BucketRules(cors=(APP, ANY_READ))
    assert with_rule(UNSET, Aspect.CORS, pack_rule(Aspect.CORS, rules)) == rules
    assert pack_rule(Aspect.CORS, UNSET) is None


@pytest.mark.parametrize(
    "packed",
    [
        7,
        "x",
        [[]],
        [[["*"], ["GET"], [], [], "1", ""]],
        [[["*"], ["GET"], [], [], True, ""]],
        [[["*"], ["GET"], [], [b"x"], None, ""]],
        [[["*"], ["GET"], [], ["a\nb"], None, ""]],
        [["*", "GET", [], [], None, ""]],
    ],
)
def test_hostile_records_are_refused_by_name(packed: object) -> None:
    with pytest.raises(UnknownFormatError):
        with_rule(UNSET, Aspect.CORS, packed)


def test_packed_rules_are_plain_values() -> None:
    assert pack_cors([APP]) == [
        [["https://app.example.com"], ["PUT"], ["x-amz-*", "Content-Type"], ["ETag"], 600, "app"]
    ]
