"""Whatever bytes come, only S3's own errors come out."""

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.checksums import announced
from meshhold.s3.syntax.chunked import ChunkedDecoder, Form
from meshhold.s3.syntax.conditions import judge_read, parse_date, read_conditions, write_condition
from meshhold.s3.syntax.query import Query, canonical_query, decode_key
from meshhold.s3.syntax.ranges import parse_copy_range, parse_range
from meshhold.s3.syntax.sigv4 import Head, parse_claim, verify
from meshhold.s3.syntax.xml import parse_complete, parse_create_bucket, parse_delete

NOW = 1369353600.0
WORDS = st.sampled_from(
    [b"AWS4-HMAC-SHA256", b" ", b"Credential=", b"GK/20130524/r/s3/aws4_request", b",", b"SignedHeaders=", b"host",
     b";", b"x-amz-date", b"Signature=", b"0" * 64, b"\xff", b"=", b"20130524T000000Z", b"UNSIGNED-PAYLOAD"]
)  # fmt: skip
TEXT = st.one_of(st.lists(WORDS, max_size=12).map(b"".join), st.binary(max_size=60))
NAMES = st.sampled_from(
    [b"authorization", b"host", b"date", b"x-amz-date", b"x-amz-content-sha256", b"x-amz-meta-a", b"if-match",
     b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"content-md5", b"x-amz-trailer",
     b"x-amz-checksum-crc32", b"x-amz-sdk-checksum-algorithm", b"x-amz-checksum-\xff"]
)  # fmt: skip
PARAMETERS = st.sampled_from(
    [b"X-Amz-Algorithm=AWS4-HMAC-SHA256", b"X-Amz-Credential=GK/20130524/r/s3/aws4_request", b"X-Amz-Signature=0",
     b"X-Amz-Date=20130524T000000Z", b"X-Amz-SignedHeaders=host", b"X-Amz-Expires=9", b"a", b"%", b"%FF=%zz", b"=&="]
)  # fmt: skip
QUERIES = st.one_of(st.lists(PARAMETERS, max_size=10).map(b"&".join), st.binary(max_size=60))
FRAMING = st.lists(
    st.sampled_from([b"0", b"5", b"\r\n", b"\n", b";chunk-signature=", b"hello", b":", b"a:b", b"ffffffff", b"\xff"]),
    max_size=20,
).map(b"".join)
MARKUP = st.lists(
    st.sampled_from(
        [b"<Delete>", b"</Delete>", b"<Object>", b"</Object>", b"<Key>", b"</Key>", b"k", b"&amp;", b"&#0;", b"\xff",
         b"<!DOCTYPE a>", b"<Part/>", b"<?xml version='1.0' encoding='x'?>", b"<CompleteMultipartUpload>", b"]]>"]
    ),
    max_size=12,
).map(b"".join)  # fmt: skip


@settings(max_examples=40, deadline=None)  # a request is many draws; forty stay under a quarter of a second
@given(st.text(max_size=5), st.binary(max_size=30), QUERIES, st.lists(st.tuples(NAMES, TEXT), max_size=5))
def test_a_request_is_refused_by_name_or_not_at_all(
    method: str, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    head = Head(method, path, query, headers)
    with suppress(S3Error):
        claim = parse_claim(head, NOW, "r")
        if claim is not None:
            verify(claim, head, b"k" * 32, 3900)


@given(st.binary(max_size=60))
def test_paths_and_queries(raw: bytes) -> None:
    for read in (decode_key, Query, canonical_query, lambda raw: decode_key(b"/b/" + raw)):
        with suppress(S3Error):
            read(raw)


@given(st.dictionaries(NAMES, TEXT, max_size=6))
def test_headers_about_content_and_conditions(headers: dict[bytes, bytes]) -> None:
    with suppress(S3Error):
        announced(headers)
    with suppress(S3Error):
        write_condition(headers)
    assert judge_read(read_conditions(headers), "e", 0).status in {200, 304, 412}


@given(st.text(max_size=40), st.integers(0, 50))
def test_ranges_and_dates(text: str, size: int) -> None:
    parse_date(text)
    for header in (text, f"bytes={text}"):
        with suppress(S3Error):
            parse_copy_range(header, size)
        with suppress(S3Error):
            found = parse_range(header, size)
            assert found is None or 0 <= found[0] <= found[1] < size


@given(st.sampled_from(Form), st.lists(FRAMING, max_size=4), st.one_of(st.none(), st.integers(0, 20)))
def test_framing(form: Form, pieces: list[bytes], length: int | None) -> None:
    of = ChunkedDecoder(form, length, signing_key=b"k" * 32, trailer_names=["a"])
    with suppress(S3Error):
        for piece in pieces:
            of.feed(piece)
        of.finish()


@given(st.one_of(MARKUP, st.binary(max_size=60)))
def test_documents(raw: bytes) -> None:
    for read in (parse_delete, parse_complete, parse_create_bucket):
        with suppress(S3Error):
            read(raw)
