"""Conditions of reads (RFC 9110) and of writes (S3)."""

import pytest

from meshhold.errors import PreconditionFailedError
from meshhold.model.entry import ObjectVersion
from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.conditions import (
    PASS,
    Verdict,
    http_date,
    iso_date,
    judge_read,
    parse_date,
    parse_etags,
    read_conditions,
    write_condition,
)
from meshhold.store.contract import ALWAYS, WriteCondition

ETAG = "0123abc-2"
MODIFIED_MS = 1445412480_750
AT, BEFORE, AFTER = (
    b"Wed, 21 Oct 2015 07:28:00 GMT", b"Wed, 21 Oct 2015 07:27:59 GMT", b"Wednesday, 21-Oct-15 07:28:01 GMT",
)  # fmt: skip
HERE, OTHER = b'"0123abc-2"', b'"other"'


@pytest.mark.parametrize(
    ("headers", "status", "condition"),
    [
        ({}, 200, ""),
        ({b"if-match": HERE}, 200, ""),
        ({b"if-match": b"0123abc-2"}, 200, ""),
        ({b"if-match": b"*"}, 200, ""),
        ({b"if-match": OTHER + b", " + HERE}, 200, ""),
        ({b"if-match": OTHER}, 412, "If-Match"),
        ({b"if-match": b"W/" + HERE}, 412, "If-Match"),
        ({b"if-none-match": HERE}, 304, "If-None-Match"),
        ({b"if-none-match": b"W/" + HERE}, 304, "If-None-Match"),
        ({b"if-none-match": b"*"}, 304, "If-None-Match"),
        ({b"if-none-match": OTHER}, 200, ""),
        ({b"if-modified-since": AT}, 304, "If-Modified-Since"),
        ({b"if-modified-since": AFTER}, 304, "If-Modified-Since"),
        ({b"if-modified-since": BEFORE}, 200, ""),
        ({b"if-modified-since": b"yesterday"}, 200, ""),
        ({b"if-unmodified-since": AT}, 200, ""),
        ({b"if-unmodified-since": BEFORE}, 412, "If-Unmodified-Since"),
        ({b"if-unmodified-since": b"99999"}, 200, ""),
        ({b"if-match": HERE, b"if-unmodified-since": BEFORE}, 200, ""),
        ({b"if-none-match": OTHER, b"if-modified-since": AT}, 200, ""),
        ({b"if-none-match": HERE, b"if-modified-since": BEFORE}, 304, "If-None-Match"),
        ({b"if-match": OTHER, b"if-none-match": HERE}, 412, "If-Match"),
    ],
)
def test_a_read_is_judged_in_the_order_of_the_rfc(headers: dict[bytes, bytes], status: int, condition: str) -> None:
    assert judge_read(read_conditions(headers), ETAG, MODIFIED_MS) == Verdict(status, condition)


def test_a_copy_source_has_headers_of_its_own() -> None:
    headers = {b"if-match": OTHER, b"x-amz-copy-source-if-match": HERE}
    assert judge_read(read_conditions(headers, copy_source=True), ETAG, MODIFIED_MS) == PASS


def test_without_conditions_there_is_nothing_to_judge() -> None:
    assert read_conditions({b"range": b"bytes=0-1"}) is None
    assert judge_read(None, ETAG, MODIFIED_MS) == PASS


def test_a_write_may_ask_that_nothing_is_there() -> None:
    for raw in (b"*", b'"*"', b" * "):
        assert write_condition({b"if-none-match": raw}) == WriteCondition(if_absent=True)


@pytest.mark.parametrize(("raw", "etag"), [(HERE, ETAG), (b"0123abc-2", ETAG), (b"*", "*")])
def test_a_write_may_ask_that_this_is_there(raw: bytes, etag: str) -> None:
    assert write_condition({b"if-match": raw}) == WriteCondition(if_match=(etag,))


@pytest.mark.parametrize("raw", [HERE, b"0123abc-2"])
def test_a_write_may_ask_that_another_is_there_or_none(raw: bytes) -> None:
    condition = write_condition({b"if-none-match": raw})
    assert condition == WriteCondition(if_none_match=ETAG)
    condition.check(None)
    condition.check(ObjectVersion(1, "other", 0, b""))
    with pytest.raises(PreconditionFailedError):
        condition.check(ObjectVersion(1, ETAG, 0, b""))


def test_a_write_without_conditions_is_always_allowed() -> None:
    assert write_condition({b"if-range": HERE}) == ALWAYS


@pytest.mark.parametrize(
    "headers",
    [
        {b"if-none-match": b""},
        {b"if-none-match": HERE + b", " + OTHER},
        {b"if-none-match": b"W/" + HERE},
        {b"if-none-match": b"*", b"if-match": HERE},
        {b"if-match": HERE + b", " + OTHER},
        {b"if-match": b"W/" + HERE},
        {b"if-unmodified-since": AT},
        {b"if-modified-since": AT},
    ],
)
def test_a_write_condition_that_s3_lacks_is_not_implemented(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(S3Error) as caught:
        write_condition(headers)
    assert (caught.value.code, caught.value.status) == ("NotImplemented", 501)
    assert caught.value.fields["Header"]


def test_dates_are_written_as_s3_writes_them_and_read_back() -> None:
    assert http_date(MODIFIED_MS) == AT.decode()
    assert iso_date(MODIFIED_MS) == "2015-10-21T07:28:00.000Z"
    assert [iso_date(0), iso_date(1_709_251_199_999)] == ["1970-01-01T00:00:00.000Z", "2024-02-29T23:59:59.000Z"]
    for text in (http_date(MODIFIED_MS), iso_date(MODIFIED_MS), "Wed Oct 21 07:28:00 2015"):
        assert parse_date(text) == MODIFIED_MS // 1000


def test_etags_are_read_with_and_without_quotes() -> None:
    assert parse_etags('"a", W/"b" ,c,,*') == [("a", False), ("b", True), ("c", False), ("*", False)]
