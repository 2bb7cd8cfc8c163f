"""Announced digests are compared with what came, and parts' CRCs are joined to that of the whole."""

import base64
import hashlib
import zlib
from itertools import pairwise

import pytest

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.checksums import (
    HEADERS,
    SIZES,
    Announced,
    BodyDigests,
    announced,
    body_digests,
    composite,
    full_object,
    new_checksum,
)  # fmt: skip

CHECK = b"123456789"
VALUES = {
    "CRC32": base64.b64encode((0xCBF43926).to_bytes(4, "big")).decode(),
    "CRC32C": base64.b64encode((0xE3069283).to_bytes(4, "big")).decode(),
    "CRC64NVME": base64.b64encode((0xAE8B14860A799888).to_bytes(8, "big")).decode(),
    "SHA1": base64.b64encode(hashlib.sha1(CHECK, usedforsecurity=False).digest()).decode(),
    "SHA256": base64.b64encode(hashlib.sha256(CHECK).digest()).decode(),
}
WRONG = base64.b64encode(b"0000").decode()
MD5 = base64.b64encode(hashlib.md5(CHECK, usedforsecurity=False).digest())


def value_of(algorithm: str, data: bytes) -> str:
    checksum = new_checksum(algorithm)
    checksum.update(data)
    return checksum.value()


@pytest.mark.parametrize("algorithm", SIZES)
def test_a_checksum_has_its_published_check_value_in_one_block_or_many(algorithm: str) -> None:
    assert value_of(algorithm, CHECK) == VALUES[algorithm]
    checksum = new_checksum(algorithm)
    for at in range(len(CHECK)):
        checksum.update(memoryview(CHECK)[at : at + 1])
    assert checksum.value() == VALUES[algorithm]


@pytest.mark.parametrize("algorithm", SIZES)
def test_an_announced_value_is_read_and_a_right_body_passes(algorithm: str) -> None:
    headers = {
        HEADERS[algorithm].encode(): VALUES[algorithm].encode(),
        b"x-amz-sdk-checksum-algorithm": algorithm.lower().encode(),
    }
    said = announced(headers)
    assert said == Announced(algorithm, VALUES[algorithm])
    digests = body_digests(said, "UNSIGNED-PAYLOAD")
    digests.update(CHECK)
    found = digests.finish()
    assert found.checksums == {algorithm: VALUES[algorithm]}
    assert found.md5_hex == hashlib.md5(CHECK, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("algorithm", SIZES)
def test_a_wrong_body_is_a_bad_digest(algorithm: str) -> None:
    digests = BodyDigests(checksums={algorithm: VALUES[algorithm]})
    digests.update(b"other")
    with pytest.raises(S3Error) as caught:
        digests.finish()
    assert (caught.value.code, caught.value.status) == ("BadDigest", 400)
    assert caught.value.fields["ExpectedDigest"] == VALUES[algorithm]


def test_a_value_may_come_as_a_trailer() -> None:
    said = announced({b"x-amz-trailer": b"X-Amz-Checksum-CRC32", b"x-amz-sdk-checksum-algorithm": b"CRC32"})
    assert said == Announced("CRC32", None, None, ("x-amz-checksum-crc32",))
    for value, code in ((VALUES["CRC32"], None), (WRONG, "BadDigest"), ("AAA=", "InvalidRequest")):
        digests = body_digests(said, "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
        digests.update(CHECK)
        if code is None:
            assert digests.finish({"x-amz-checksum-crc32": value}).checksums == {"CRC32": value}
        else:
            with pytest.raises(S3Error, match=code):
                digests.finish({"x-amz-checksum-crc32": value})


def test_a_trailer_of_another_algorithm_is_refused() -> None:
    digests = BodyDigests(checksums={"CRC32": None})
    with pytest.raises(S3Error, match="InvalidRequest"):
        digests.finish({"x-amz-checksum-sha1": VALUES["SHA1"]})


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({b"x-amz-checksum-crc32": b"AAAAAA==", b"x-amz-checksum-crc32c": b"AAAAAA=="}, "InvalidRequest"),
        ({b"x-amz-checksum-crc32": b"AAAAAA==", b"x-amz-trailer": b"x-amz-checksum-crc32"}, "InvalidRequest"),
        ({b"x-amz-trailer": b"x-amz-checksum-crc32, x-amz-checksum-sha1"}, "InvalidRequest"),
        ({b"x-amz-trailer": b"x-amz-meta-a"}, "InvalidRequest"),
        ({b"x-amz-checksum-sha512": b"AAAA"}, "InvalidRequest"),
        ({b"x-amz-checksum-crc32": b"AAAA"}, "BadDigest"),
        ({b"x-amz-checksum-crc32": b"AAAAAB=="}, "BadDigest"),
        ({b"x-amz-checksum-crc32": b"\xff"}, "BadDigest"),
        ({b"x-amz-checksum-crc32": b"AAAAAA==", b"x-amz-sdk-checksum-algorithm": b"SHA1"}, "InvalidRequest"),
        ({b"x-amz-checksum-crc32": b"AAAAAA==", b"x-amz-sdk-checksum-algorithm": b"MD4"}, "InvalidRequest"),
        ({b"x-amz-sdk-checksum-algorithm": b"CRC32"}, "InvalidRequest"),
        ({b"content-md5": b"AAAA"}, "InvalidDigest"),
        ({b"content-md5": b"\xff"}, "InvalidDigest"),
        ({b"content-md5": b""}, "InvalidDigest"),
    ],
)
def test_a_contradictory_or_malformed_announcement_is_refused(headers: dict[bytes, bytes], code: str) -> None:
    with pytest.raises(S3Error) as caught:
        announced(headers)
    assert caught.value.code == code


def test_headers_about_checksums_that_are_no_values_are_left_alone() -> None:
    assert announced({b"x-amz-checksum-mode": b"ENABLED", b"x-amz-checksum-algorithm": b"CRC32"}) == Announced()


def test_content_md5_is_compared_even_where_no_etag_is_wanted() -> None:
    said = announced({b"content-md5": MD5})
    right, wrong = (body_digests(said, "UNSIGNED-PAYLOAD", md5=False) for _ in range(2))
    right.update(CHECK)
    right.finish()
    wrong.update(b"other")
    with pytest.raises(S3Error, match="BadDigest: The Content-MD5 you specified did not match what we received"):
        wrong.finish()


def test_the_payload_hash_is_compared_and_shared_with_a_sha256_checksum() -> None:
    for payload in (hashlib.sha256(CHECK).hexdigest(), hashlib.sha256(CHECK).hexdigest().upper()):
        digests = body_digests(Announced("SHA256", VALUES["SHA256"]), payload, md5=False)
        digests.update(CHECK)
        found = digests.finish()
        assert (found.md5_hex, found.checksums) == ("", {"SHA256": VALUES["SHA256"]})
    digests.update(b"more")
    with pytest.raises(S3Error) as caught:
        digests.finish()
    assert caught.value.code == "XAmzContentSHA256Mismatch"
    assert caught.value.fields["ClientComputedContentSHA256"] == hashlib.sha256(CHECK).hexdigest()


def test_an_uploads_algorithm_is_computed_beside_what_the_part_announces() -> None:
    digests = body_digests(Announced("CRC32", VALUES["CRC32"]), "UNSIGNED-PAYLOAD", algorithm="CRC64NVME")
    digests.update(CHECK)
    assert digests.finish().checksums == {name: VALUES[name] for name in ("CRC32", "CRC64NVME")}


@pytest.mark.parametrize("algorithm", SIZES)
def test_a_composite_checksum_is_that_of_the_parts_checksums(algorithm: str) -> None:
    parts = [value_of(algorithm, data) for data in (b"one", b"two")]
    joined = b"".join(base64.b64decode(part) for part in parts)
    assert composite(algorithm, parts) == f"{value_of(algorithm, joined)}-2"


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME"])
def test_the_crc_of_the_whole_follows_from_those_of_its_parts(algorithm: str) -> None:
    data = bytes(range(256)) * 100
    cuts = [0, 1, 1, 5000, 10000, 15000, len(data)]
    parts = [data[a:b] for a, b in pairwise(cuts)]
    joined = full_object(algorithm, [(value_of(algorithm, part), len(part)) for part in parts])
    assert joined == value_of(algorithm, data)


def test_joining_holds_for_parts_too_large_to_hash_here() -> None:
    """CRC32 of 2^33 zero bytes, by doubling: crc(A + A) from crc(A)."""
    value, size = value_of("CRC32", bytes(1 << 20)), 1 << 20
    assert zlib.crc32(bytes(1 << 21)) == int.from_bytes(
        base64.b64decode(full_object("CRC32", [(value, size), (value, size)])), "big"
    )
    doubled = value
    while size < 1 << 33:
        doubled, size = full_object("CRC32", [(doubled, size), (doubled, size)]), size * 2
    assert doubled == full_object("CRC32", [(value, 1 << 20)] * (1 << 13))


@pytest.mark.parametrize("algorithm", ["SHA1", "SHA256"])
def test_hashes_cannot_be_joined(algorithm: str) -> None:
    with pytest.raises(S3Error, match="FULL_OBJECT"):
        full_object(algorithm, [(VALUES[algorithm], 9)])


def test_a_part_without_the_checksum_is_an_invalid_part() -> None:
    with pytest.raises(S3Error, match="InvalidPart"):
        composite("CRC32", [""])
    with pytest.raises(S3Error, match="InvalidPart"):
        full_object("CRC32", [("AAA", 1)])
