"""How locks, tags and encryption settings are read and written, and what is refused by name."""

from __future__ import annotations

import pytest

from meshhold.model.entry import Lock
from meshhold.rules.encryption import Encryption
from meshhold.rules.lock import BucketLock
from meshhold.rules.tags import BUCKET_TAGS_MAX
from meshhold.s3.buckets.encryption import parse_encryption
from meshhold.s3.buckets.locks import parse_lock, render_lock
from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.locks import (
    exact_date,
    lock_headers,
    parse_legal_hold,
    parse_moment,
    parse_retention,
    render_legal_hold,
    render_retention,
)
from meshhold.s3.syntax.tags import parse_tagging, render_tagging

UNTIL_MS = 1_893_456_000_250  # 2030-01-01, a quarter of a second past midnight


def configuration(inner: str, enabled: str = "Enabled") -> bytes:
    status = f"<ObjectLockEnabled>{enabled}</ObjectLockEnabled>" if enabled else ""
    return f"<ObjectLockConfiguration>{status}{inner}</ObjectLockConfiguration>".encode()


def default(inner: str) -> bytes:
    return configuration(f"<Rule><DefaultRetention>{inner}</DefaultRetention></Rule>")


@pytest.mark.parametrize(
    "lock",
    [BucketLock(True), BucketLock(True, "GOVERNANCE", days=30), BucketLock(True, "COMPLIANCE", years=7)],
)
def test_a_bucket_lock_is_read_as_it_was_written(lock: BucketLock) -> None:
    assert parse_lock(render_lock(lock)) == lock


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (default("<Mode>GOVERNANCE</Mode><Days>1</Days><Years>1</Years>"), "MalformedXML"),
        (default("<Mode>GOVERNANCE</Mode>"), "MalformedXML"),
        (default("<Mode>governance</Mode><Days>1</Days>"), "MalformedXML"),
        (default("<Days>1</Days>"), "MalformedXML"),
        (default("<Mode>GOVERNANCE</Mode><Days>one</Days>"), "MalformedXML"),
        (default("<Mode>GOVERNANCE</Mode><Days>--1</Days>"), "MalformedXML"),
        (default("<Mode>GOVERNANCE</Mode><Days>0</Days>"), "InvalidRetentionPeriod"),
        (default("<Mode>GOVERNANCE</Mode><Years>-1</Years>"), "InvalidRetentionPeriod"),
        (default("<Mode>GOVERNANCE</Mode><Days>36501</Days>"), "InvalidRetentionPeriod"),
        (default("<Mode>GOVERNANCE</Mode><Days>" + "9" * 5000 + "</Days>"), "InvalidRetentionPeriod"),
        (configuration("", enabled="Disabled"), "MalformedXML"),
        (configuration("", enabled=""), "MalformedXML"),
        (configuration("<Rule/>"), "MalformedXML"),
        (configuration("<Other/>"), "MalformedXML"),
    ],
)
def test_other_bucket_locks_are_refused(raw: bytes, code: str) -> None:
    with pytest.raises(S3Error) as refused:
        parse_lock(raw)
    assert refused.value.code == code


@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
def test_a_retention_is_read_as_it_was_written(mode: str) -> None:
    assert parse_retention(render_retention(Lock(mode, UNTIL_MS))) == Lock(mode, UNTIL_MS)
    assert parse_retention(b"<Retention/>") == Lock()


@pytest.mark.parametrize(
    "inner",
    [
        "<Mode>GOVERNANCE</Mode>",
        "<RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate>",
        "<Mode>abc</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate>",
        "<Mode>GOVERNANCE</Mode><RetainUntilDate>tomorrow</RetainUntilDate>",
        "<Mode>GOVERNANCE</Mode><RetainUntilDate>9999-12-31T23:59:59.9999Z</RetainUntilDate>",
        "<Mode>GOVERNANCE</Mode><RetainUntilDate>0001-01-01T00:00:00+23:59</RetainUntilDate>",
    ],
)
def test_other_retentions_are_refused(inner: str) -> None:
    with pytest.raises(S3Error, match="MalformedXML"):
        parse_retention(f"<Retention>{inner}</Retention>".encode())


@pytest.mark.parametrize("hold", [True, False])
def test_a_legal_hold_is_read_as_it_was_written(hold: bool) -> None:
    assert parse_legal_hold(render_legal_hold(Lock(legal_hold=hold))) is hold


@pytest.mark.parametrize("inner", ["", "<Status>on</Status>", "<Status><ON/></Status>"])
def test_other_legal_holds_are_refused(inner: str) -> None:
    with pytest.raises(S3Error, match="MalformedXML"):
        parse_legal_hold(f"<LegalHold>{inner}</LegalHold>".encode())


@pytest.mark.parametrize(
    ("text", "moment_ms"),
    [
        ("2030-01-01T00:00:00Z", 1_893_456_000_000),
        ("2030-01-01T00:00:00", 1_893_456_000_000),
        ("2030-01-01T02:00:00+02:00", 1_893_456_000_000),
        ("2030-01-01T00:00:00.000001Z", 1_893_456_000_001),
        ("2030-01-01T00:00:00.250Z", UNTIL_MS),
        ("2030-01-01", 1_893_456_000_000),
        ("1.1.2030", None),
        ("", None),
    ],
)
def test_a_date_is_never_rounded_down(text: str, moment_ms: int | None) -> None:
    assert parse_moment(text) == moment_ms


def test_a_lock_is_shown_in_headers() -> None:
    assert exact_date(UNTIL_MS) == "2030-01-01T00:00:00.250Z"
    assert dict(lock_headers(Lock("COMPLIANCE", UNTIL_MS, legal_hold=True))) == {
        b"x-amz-object-lock-legal-hold": b"ON",
        b"x-amz-object-lock-mode": b"COMPLIANCE",
        b"x-amz-object-lock-retain-until-date": b"2030-01-01T00:00:00.250Z",
    }
    assert lock_headers(Lock()) == [(b"x-amz-object-lock-legal-hold", b"OFF")]


# -- tags -----------------------------------------------------------------------------------------------------------


def test_tags_are_read_as_they_were_written() -> None:
    tags = {"a": "1", "über @home": "+/="}
    assert parse_tagging(render_tagging(tags)) == tags
    assert parse_tagging(b"<Tagging><TagSet/></Tagging>") == {}


@pytest.mark.parametrize(
    "inner",
    [
        "",
        "<TagSet/><TagSet/>",
        "<Tags/>",
        "<TagSet><Key>a</Key></TagSet>",
        "<TagSet><Tag><Key>a</Key></Tag></TagSet>",
        "<TagSet><Tag><Value>a</Value></Tag></TagSet>",
        "<TagSet><Tag><Key>a</Key><Key>b</Key><Value/></Tag></TagSet>",
    ],
)
def test_other_taggings_are_malformed(inner: str) -> None:
    with pytest.raises(S3Error, match="MalformedXML"):
        parse_tagging(f"<Tagging>{inner}</Tagging>".encode(), BUCKET_TAGS_MAX)


# -- encryption -----------------------------------------------------------------------------------------------------


def encryption(inner: str) -> bytes:
    root = "ServerSideEncryptionConfiguration"
    return f"<{root}><Rule>{inner}</Rule></{root}>".encode()


def by_default(inner: str) -> str:
    return f"<ApplyServerSideEncryptionByDefault>{inner}</ApplyServerSideEncryptionByDefault>"


AES256 = by_default("<SSEAlgorithm>AES256</SSEAlgorithm>")


def test_aes256_is_taken() -> None:
    assert parse_encryption(encryption(AES256)) == Encryption()
    assert parse_encryption(encryption(AES256 + "<BucketKeyEnabled>true</BucketKeyEnabled>")).bucket_key
    blocked = "<BlockedEncryptionTypes><EncryptionType>NONE</EncryptionType></BlockedEncryptionTypes>"
    assert parse_encryption(encryption(AES256 + blocked)) == Encryption()


@pytest.mark.parametrize(
    ("inner", "code"),
    [
        (by_default("<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>k</KMSMasterKeyID>"), "NotImplemented"),
        (by_default("<SSEAlgorithm>aws:kms:dsse</SSEAlgorithm>"), "NotImplemented"),
        (by_default("<SSEAlgorithm>AES256</SSEAlgorithm><KMSMasterKeyID>k</KMSMasterKeyID>"), "InvalidArgument"),
        (by_default("<SSEAlgorithm>ROT13</SSEAlgorithm>"), "MalformedXML"),
        (by_default(""), "MalformedXML"),
        ("", "MalformedXML"),
        (AES256 + "<Other/>", "MalformedXML"),
        (AES256 + "<BlockedEncryptionTypes><EncryptionType>SSE-C</EncryptionType></BlockedEncryptionTypes>",
         "NotImplemented"),
        (AES256 + "<BlockedEncryptionTypes><Other/></BlockedEncryptionTypes>", "MalformedXML"),
    ],
)  # fmt: skip
def test_other_settings_are_refused_by_name(inner: str, code: str) -> None:
    with pytest.raises(S3Error) as refused:
        parse_encryption(encryption(inner))
    assert refused.value.code == code
