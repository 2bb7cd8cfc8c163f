"""Where a website sends a request: rules in order, prefixes replaced, nothing that could break a header."""

from __future__ import annotations

import pytest

from meshhold.errors import InvalidError, UnknownFormatError
from meshhold.rules.bucket import UNSET, Aspect, BucketRules, pack_rule, with_rule
from meshhold.rules.website import Redirect, RoutingRule, Website, check_website, location

SITE = Website(
    "index.html",
    "404.html",
    None,
    (
        RoutingRule(Redirect(key_prefix="documents/"), "docs/"),
        RoutingRule(Redirect(host="status.example.com", protocol="https", key="down", status=302), "", 503),
        RoutingRule(Redirect(key="search.html"), "find/", 404),
    ),
)


def test_rules_without_an_error_go_before_the_request() -> None:
    assert SITE.find_redirect(b"docs/a.html") == (SITE.rules[0].redirect, b"documents/a.html")
    assert SITE.find_redirect(b"find/a") is None
    assert SITE.find_redirect(b"") is None


def test_rules_with_an_error_wait_for_it() -> None:
    assert SITE.find_redirect(b"find/a", 404) == (SITE.rules[2].redirect, b"search.html")
    assert SITE.find_redirect(b"other", 404) is None
    assert SITE.find_redirect(b"other", 503) == (SITE.rules[1].redirect, b"down")


def test_a_site_can_be_elsewhere_as_a_whole() -> None:
    site = check_website(Website(everywhere=Redirect(host="www.example.com", protocol="https")))
    found = site.find_redirect(b"a/b")
    assert found is not None
    assert location(*found, "example.com", b"q=1") == "https://www.example.com/a/b?q=1"


@pytest.mark.parametrize(
    ("redirect", "key", "there"),
    [
        (Redirect(), b"a b/\xc3\xa9", "/a%20b/%C3%A9"),
        (Redirect(host="b.example.com"), b"x", "//b.example.com/x"),
        (Redirect(protocol="https"), b"x", "https://a.example.com/x"),
        (Redirect(host="h/base/"), b"x", "//h/base/x"),
        (Redirect(), b"/evil.example.com", "/%2Fevil.example.com"),
        (Redirect(), b"a?b#c\r\n", "/a%3Fb%23c%0D%0A"),
    ],
)
def test_location(redirect: Redirect, key: bytes, there: str) -> None:
    assert location(redirect, key, "a.example.com") == there


def test_documents() -> None:
    assert SITE.document_of(b"") == b"index.html"
    assert SITE.document_of(b"a/") == b"a/index.html"
    assert SITE.document_of(b"a") == b"a"
    assert Website().document_of(b"a/") == b"a/"


@pytest.mark.parametrize(
    ("site", "told"),
    [
        (Website(), "IndexDocument Suffix must be provided"),
        (Website("a/b"), "IndexDocument Suffix is not well formed"),
        (Website("i" * 1025), "IndexDocument Suffix is not well formed"),
        (Website("i", "e" * 1025), "ErrorDocument Key is not well formed"),
        (Website("i", everywhere=Redirect(host="h")), "cannot be provided in conjunction"),
        (Website(everywhere=Redirect(protocol="http")), "needs a HostName"),
        (Website("i", rules=(RoutingRule(Redirect(host="h")),) * 51), "must not exceed 50"),
        (Website("i", rules=(RoutingRule(Redirect(host="h"), "", 399),)), "error code (399)"),
        (Website("i", rules=(RoutingRule(Redirect(host="h", status=300)),)), "redirect code (300)"),
        (Website("i", rules=(RoutingRule(Redirect(host="h", status=304)),)), "redirect code (304)"),
        (Website("i", rules=(RoutingRule(Redirect(key="a", key_prefix="b")),)), "not both"),
        (Website("i", rules=(RoutingRule(Redirect(protocol="ftp")),)), "Invalid protocol"),
        (Website("i", rules=(RoutingRule(Redirect(host="a\r\nb")),)), "HostName is not well formed"),
    ],
)
def test_what_s3_does_not_take_is_refused(site: Website, told: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_website(site)
    assert told in caught.value.message


def test_a_stored_website_comes_back() -> None:
    for site in (SITE, Website(everywhere=Redirect(host="h"))):
        rules = BucketRules(website=site)
        assert with_rule(UNSET, Aspect.WEBSITE, pack_rule(Aspect.WEBSITE, rules)) == rules
    assert pack_rule(Aspect.WEBSITE, UNSET) is None


@pytest.mark.parametrize(
    "packed",
    [
        5,
        ["i", "", None],
        ["a/b", "", None, []],
        [b"i", "", None, []],
        ["i", "", None, [[["h\r\n", "", None, None, 301], "", 0]]],
        ["i", "", None, [[["h", "", 5, None, 301], "", 0]]],
        ["i", "", None, [[["h", "", None, None, True], "", 0]]],
    ],
)
def test_hostile_records_are_refused_by_name(packed: object) -> None:
    with pytest.raises(UnknownFormatError):
        with_rule(UNSET, Aspect.WEBSITE, packed)
