"""Paths and queries are decoded exactly once, and keys stay the bytes that they are."""

import pytest

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.query import (
    PAIRS_MAX,
    Query,
    canonical_path,
    canonical_query,
    decode_key,
    encode_key,
    parse_query,
)


@pytest.mark.parametrize(
    ("raw", "bucket", "key"),
    [
        (b"/", "", b""),
        (b"/b", "b", b""),
        (b"/b/", "b", b""),
        (b"/b/k", "b", b"k"),
        (b"/b//", "b", b"/"),
        (b"/b//k//", "b", b"/k//"),
        (b"/b/..", "b", b".."),
        (b"/b/../../x", "b", b"../../x"),
        (b"/b/.", "b", b"."),
        (b"/b/a%2Fb", "b", b"a/b"),
        (b"/b/%252F", "b", b"%2F"),
        (b"/b/a+b", "b", b"a+b"),
        (b"/b/a%20b", "b", b"a b"),
        (b"/b/%c3%BC", "b", "ü".encode()),
        (b"/b/" + b"k" * 1024, "b", b"k" * 1024),
        (b"/b%2Fk", "b/k", b""),
    ],
)
def test_a_path_is_split_then_decoded_once_and_not_normalised(raw: bytes, bucket: str, key: bytes) -> None:
    assert decode_key(raw) == (bucket, key)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"/b/%", "InvalidURI"),
        (b"/b/%4", "InvalidURI"),
        (b"/b/%zz", "InvalidURI"),
        (b"/b/%+1", "InvalidURI"),
        (b"/b/a%00b", "InvalidURI"),
        (b"/b/%ff", "InvalidURI"),
        (b"/b/%ed%a0%80", "InvalidURI"),
        (b"/%ff/k", "InvalidURI"),
        (b"", "InvalidURI"),
        (b"http://h/b/k", "InvalidURI"),
        (b"/b/" + b"k" * 1025, "KeyTooLongError"),
        (b"/b/" + "ü".encode() * 513, "KeyTooLongError"),
    ],
)
def test_what_is_no_key_is_refused(raw: bytes, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        decode_key(raw)
    assert caught.value.code == code


def test_a_query_keeps_order_duplicates_and_empty_values() -> None:
    query = Query(b"uploads&prefix=a%2Fb+c%2Bd&prefix=&x=1=2&&%C3%BC=")
    assert query.pairs == [("uploads", ""), ("prefix", "a/b c+d"), ("prefix", ""), ("x", "1=2"), ("ü", "")]
    assert query.get("prefix") == "a/b c+d"
    assert query.all("prefix") == ["a/b c+d", ""]
    assert (query.get("uploads"), query.get("none")) == ("", None)
    assert query.has("uploads")
    assert not query.has("none")
    assert query.names() == {"uploads", "prefix", "x", "ü"}


def test_headers_that_a_signer_moved_into_the_query_are_found() -> None:
    query = Query(b"X-Amz-Signature=0&X-Amz-Expires=1&X-Amz-Meta-A=v&x-amz-acl=private&prefix=p")
    assert query.hoisted() == {"x-amz-meta-a": "v", "x-amz-acl": "private"}


def test_the_checksum_of_nothing_in_a_url_promises_nothing() -> None:
    signed = b"x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32&x-amz-meta-a=v"
    assert Query(signed).hoisted() == {"x-amz-meta-a": "v"}
    assert Query(b"x-amz-checksum-crc32=AAAAAQ%3D%3D").hoisted() == {"x-amz-checksum-crc32": "AAAAAQ=="}


@pytest.mark.parametrize("raw", [b"a=%", b"%4=1", b"a=%gg", b"a=%ff", b"&".join([b"a"] * (PAIRS_MAX + 1))])
def test_a_bad_query_is_an_invalid_uri(raw: bytes) -> None:
    with pytest.raises(S3Error, match="InvalidURI"):
        parse_query(raw)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (b"test_file(3).png", "test_file%283%29.png"),
        (b"a/b c+d*-._~", "a/b%20c%2Bd*-._%7E"),
        ("ü\x01\r".encode(), "%C3%BC%01%0D"),
    ],
)
def test_a_key_is_shown_under_encoding_type_url_as_s3_does(key: bytes, shown: str) -> None:
    assert encode_key(key) == shown


def test_the_canonical_forms_encode_once_whatever_came() -> None:
    assert canonical_path(b"/b/a%2fb/%7e/$//..") == b"/b/a/b/~/%24//.."
    assert canonical_query(b"b=2&a=%7e&a=&A=1+2&sig=x&a-=", b"sig") == b"A=1%202&a=&a=~&a-=&b=2"
    assert canonical_query(b"") == b""
