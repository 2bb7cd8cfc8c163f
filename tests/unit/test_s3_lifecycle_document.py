"""The LifecycleConfiguration document: every form of a rule, and every refusal."""

from __future__ import annotations

import pytest

from meshhold.rules.lifecycle import DAY_MS, Rule
from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.lifecycle import parse_lifecycle, render_lifecycle

DAYS = "<Expiration><Days>3</Days></Expiration>"
ON = "<Status>Enabled</Status>"


def doc(*rules: str) -> bytes:
    inner = "".join(f"<Rule>{rule}</Rule>" for rule in rules)
    return f'<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</LifecycleConfiguration>'.encode()


def parsed(rule: str) -> Rule:
    (found,) = parse_lifecycle(doc(rule)).rules
    return found


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (f"<ID>a</ID><Prefix>logs/</Prefix>{ON}{DAYS}", Rule("a", prefix=b"logs/", has_filter=False, days=3)),
        (f"<ID>a</ID><Prefix/><Status>Disabled</Status>{DAYS}", Rule("a", enabled=False, has_filter=False, days=3)),
        (f"<ID>a</ID><Filter/>{ON}{DAYS}", Rule("a", days=3)),
        (f"<ID>a</ID><Filter><Prefix>é</Prefix></Filter>{ON}{DAYS}", Rule("a", prefix="é".encode(), days=3)),
        (
            f"<ID>a</ID><Filter><Tag><Key>k</Key><Value/></Tag></Filter>{ON}{DAYS}",
            Rule("a", tags=(("k", ""),), days=3),
        ),
        (
            (
                f"<ID>a</ID><Filter><And><Prefix>p</Prefix><Tag><Key>k</Key><Value>v</Value></Tag><Tag><Key>l</Key>"
                f"<Value>w</Value></Tag><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan><ObjectSizeLessThan>9"
                f"</ObjectSizeLessThan></And></Filter>{ON}{DAYS}"
            ),
            Rule("a", prefix=b"p", tags=(("k", "v"), ("l", "w")), size_above=5, size_below=9, days=3),
        ),
        (
            f"<ID>a</ID><Filter/>{ON}<Expiration><Date>2030-01-31T00:00:00.000Z</Date></Expiration>",
            Rule("a", date_ms=21_945 * DAY_MS),
        ),
        (
            (
                f"<ID>a</ID><Filter/>{ON}<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"
                "<NoncurrentVersionExpiration><NoncurrentDays>5</NoncurrentDays><NewerNoncurrentVersions>2"
                "</NewerNoncurrentVersions></NoncurrentVersionExpiration><AbortIncompleteMultipartUpload>"
                "<DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
            ),
            Rule("a", alone_markers=True, noncurrent_days=5, newer_kept=2, abort_days=7),
        ),
    ],
)
def test_a_rule_is_read_and_shown_again(text: str, rule: Rule) -> None:
    assert parsed(text) == rule
    assert parse_lifecycle(render_lifecycle(parse_lifecycle(doc(text)))).rules == (rule,)


def test_a_rule_without_id_gets_one() -> None:
    one, other = parse_lifecycle(doc(f"<Filter/>{ON}{DAYS}", f"<ID/><Filter/>{ON}{DAYS}")).rules
    assert one.id
    assert one.id != other.id


def test_conditions_side_by_side_hold_together() -> None:
    """S3 asks for <And> around them; without it nothing else could be meant."""
    tag = "<Tag><Key>k</Key><Value>v</Value></Tag>"
    found = parsed(f"<ID>a</ID><Filter><Prefix>p/q</Prefix>{tag}<And><Prefix>p</Prefix></And></Filter>{ON}{DAYS}")
    assert found == Rule("a", prefix=b"p/q", tags=(("k", "v"),), days=3)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("", "MalformedXML"),
        (f"<Filter/>{DAYS}", "MalformedXML"),
        (f"<Filter/><Status>enabled</Status>{DAYS}", "MalformedXML"),
        (f"{ON}{DAYS}", "MalformedXML"),
        (f"<Prefix/><Filter/>{ON}{DAYS}", "MalformedXML"),
        (f"<Filter/>{ON}", "InvalidRequest"),
        (f"<Filter/>{ON}{DAYS}{DAYS}", "MalformedXML"),
        (f"<Filter/>{ON}{DAYS}<Colour>red</Colour>", "MalformedXML"),
        (f"<ID>{'a' * 256}</ID><Filter/>{ON}{DAYS}", "InvalidArgument"),
        (f"<Filter/>{ON}<Expiration/>", "MalformedXML"),
        (f"<Filter/>{ON}<Expiration><Days>1</Days><Date>2030-01-01</Date></Expiration>", "MalformedXML"),
        (f"<Filter/>{ON}<Expiration><Days>0</Days></Expiration>", "InvalidArgument"),
        (f"<Filter/>{ON}<Expiration><Days>-4</Days></Expiration>", "InvalidArgument"),
        (f"<Filter/>{ON}<Expiration><Days>2147483648</Days></Expiration>", "InvalidArgument"),
        (f"<Filter/>{ON}<Expiration><Days>1.5</Days></Expiration>", "MalformedXML"),
        (f"<Filter/>{ON}<Expiration><Days>{'9' * 5000}</Days></Expiration>", "MalformedXML"),
        (f"<Filter/>{ON}<Expiration><Days>٣</Days></Expiration>", "MalformedXML"),
        (f"<Filter/>{ON}<Expiration><Date>2030-01-01T12:00:00Z</Date></Expiration>", "InvalidArgument"),
        (f"<Filter/>{ON}<Expiration><Date>2030-01-01T00:00:00+01:00</Date></Expiration>", "InvalidArgument"),
        (f"<Filter/>{ON}<Expiration><Date>2030-02-30</Date></Expiration>", "MalformedXML"),
        (f"<Filter/>{ON}<Expiration><Date>20300101</Date></Expiration>", "MalformedXML"),
        (f"<Filter/>{ON}<Expiration><Date>soon</Date></Expiration>", "MalformedXML"),
        (
            f"<Filter/>{ON}<Expiration><ExpiredObjectDeleteMarker>yes</ExpiredObjectDeleteMarker></Expiration>",
            "MalformedXML",
        ),
        (f"<Filter/>{ON}<NoncurrentVersionExpiration/>", "MalformedXML"),
        (
            f"<Filter/>{ON}<NoncurrentVersionExpiration><NoncurrentDays>0</NoncurrentDays></NoncurrentVersionExpiration>",
            "InvalidArgument",
        ),
        (
            (
                f"<Filter/>{ON}<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays><NewerNoncurrentVersions>101"
                "</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
            ),
            "InvalidArgument",
        ),
        (f"<Filter/>{ON}<AbortIncompleteMultipartUpload/>", "MalformedXML"),
        (
            (
                f"<Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter>{ON}<AbortIncompleteMultipartUpload>"
                "<DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>"
            ),
            "InvalidRequest",
        ),
        (
            (
                f"<Filter><ObjectSizeLessThan>9</ObjectSizeLessThan></Filter>{ON}<Expiration><ExpiredObjectDeleteMarker>true"
                "</ExpiredObjectDeleteMarker></Expiration>"
            ),
            "InvalidRequest",
        ),
        (f"<Filter><Tag><Key>k</Key></Tag></Filter>{ON}{DAYS}", "MalformedXML"),
        (f"<Filter><Tag><Key>{'k' * 129}</Key><Value/></Tag></Filter>{ON}{DAYS}", "InvalidTag"),
        (
            f"<Filter><And>{'<Tag><Key>k</Key><Value>v</Value></Tag>' * 2}</And></Filter>{ON}{DAYS}",
            "InvalidRequest",
        ),
        (
            (
                "<Filter><And><ObjectSizeGreaterThan>9</ObjectSizeGreaterThan><ObjectSizeLessThan>10</ObjectSizeLessThan>"
                f"</And></Filter>{ON}{DAYS}"
            ),
            "InvalidRequest",
        ),
        (f"<Filter><Prefix>a</Prefix><And><Prefix>b</Prefix></And></Filter>{ON}{DAYS}", "MalformedXML"),
        (f"<Prefix>{'p' * 1025}</Prefix>{ON}{DAYS}", "InvalidRequest"),
        (
            f"<Filter/>{ON}<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>",
            "InvalidStorageClass",
        ),
        (
            (
                f"<Filter/>{ON}{DAYS}<NoncurrentVersionTransition><NoncurrentDays>1</NoncurrentDays>"
                "</NoncurrentVersionTransition>"
            ),
            "InvalidStorageClass",
        ),
    ],
)
def test_what_is_refused(rule: str, code: str) -> None:
    with pytest.raises(S3Error) as refused:
        parse_lifecycle(doc(rule))
    assert refused.value.code == code


def test_ids_are_unique_and_rules_are_counted() -> None:
    same = f"<ID>a</ID><Filter/>{ON}{DAYS}"
    for raw, code in (
        (doc(same, same), "InvalidArgument"),
        (doc(), "MalformedXML"),
        (doc(*[f"<Filter/>{ON}{DAYS}"] * 1_001), "MalformedXML"),
        (b"<LifecycleConfiguration><Rules/></LifecycleConfiguration>", "MalformedXML"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><LifecycleConfiguration/>', "MalformedXML"),
    ):
        with pytest.raises(S3Error) as refused:
            parse_lifecycle(raw)
        assert refused.value.code == code
