"""S3's documents: what is written can be read, what is read is bounded."""

import xml.etree.ElementTree as ET

import pytest

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.escape import escape_all
from meshhold.s3.syntax.xml import (
    DELETE_KEYS_MAX,
    DOCUMENT_SIZE_MAX,
    PARTS_MAX,
    XMLNS,
    DeleteTarget,
    PartClaim,
    document,
    escape,
    parse_complete,
    parse_create_bucket,
    parse_delete,
    tag,
)  # fmt: skip

NAMESPACE = f' xmlns="{XMLNS}"'


def delete(inner: str, attributes: str = NAMESPACE) -> bytes:
    return f"<Delete{attributes}>{inner}</Delete>".encode()


def complete(inner: str) -> bytes:
    return f"<CompleteMultipartUpload{NAMESPACE}>{inner}</CompleteMultipartUpload>".encode()


def test_text_is_escaped_so_that_it_is_read_back() -> None:
    text = 'a & <b> "c"\r\n\tü\U0001f600'
    assert ET.fromstring(tag("Key", text)).text == text  # noqa: S314 - our own document
    assert escape("plain/key-1.txt") == "plain/key-1.txt"
    assert escape("\x00\x1f\ufffe") == "&#x0;&#x1F;&#xFFFE;"


def test_many_texts_are_escaped_as_each_would_be() -> None:
    plain = ["", "a/b c.jpg", "ü/\U0001f600", "tab\t~\x7f", "\u0800"]
    for odd in ("", "a&b", "<", ">", '"', "line\nbreak", "\n", "\r", "\x00", "\x1f", "\ufffe", "\uffff", "\uff21"):
        texts = [*plain, odd, *plain]
        assert escape_all([text.encode() for text in texts]) == [escape(text) for text in texts]
    assert escape_all([]) == []
    assert escape_all([b"a\nb"]) == ["a\nb"]
    with pytest.raises(UnicodeDecodeError):
        escape_all([b"good", b"\xff"])


def test_a_document_has_the_namespace_of_s3() -> None:
    root = ET.fromstring(document("ListBucketResult", tag("Name", "b")))  # noqa: S314 - our own document
    assert root.tag == f"{{{XMLNS}}}ListBucketResult"


@pytest.mark.parametrize("attributes", [NAMESPACE, "", ' xmlns="http://other/"'])
def test_a_deletion_is_read_with_or_without_a_namespace(attributes: str) -> None:
    inner = (
        "<Quiet>true</Quiet>\n <Object><Key> a&amp;b&#13;/ü</Key></Object>"
        '<Object><Key>k</Key><VersionId>null</VersionId><ETag>"e"</ETag></Object>'
    )
    request = parse_delete(delete(inner, attributes))
    assert request.quiet
    assert request.keys == [DeleteTarget(" a&b\r/ü".encode()), DeleteTarget(b"k", "null", "e")]


def test_a_prefixed_namespace_is_the_same_document() -> None:
    raw = f'<s3:Delete xmlns:s3="{XMLNS}"><s3:Object><s3:Key>k</s3:Key></s3:Object></s3:Delete>'.encode()
    assert parse_delete(raw).keys == [DeleteTarget(b"k")]
    assert not parse_delete(raw).quiet


def test_a_deletion_may_name_a_thousand_keys_of_full_length() -> None:
    one = f"<Object><Key>{'&quot;' * 1024}</Key></Object>"
    assert len(parse_delete(delete(one * DELETE_KEYS_MAX)).keys) == DELETE_KEYS_MAX
    with pytest.raises(S3Error, match="MalformedXML"):
        parse_delete(delete("<Object><Key>k</Key></Object>" * (DELETE_KEYS_MAX + 1)))


def test_a_completion_is_read_in_its_own_order() -> None:
    inner = (
        "<Part><PartNumber>2</PartNumber><ETag>&quot;b&quot;</ETag><ChecksumCRC32>AAAAAA==</ChecksumCRC32></Part>"
        "<Part><ETag>a</ETag><PartNumber> 1 </PartNumber></Part>"
    )
    assert parse_complete(complete(inner)) == [PartClaim(2, "b", {"CRC32": "AAAAAA=="}), PartClaim(1, "a")]


def test_a_completion_may_name_ten_thousand_parts_and_no_more() -> None:
    parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>e</ETag></Part>" for n in range(1, PARTS_MAX + 1))
    assert len(parse_complete(complete(parts))) == PARTS_MAX
    with pytest.raises(S3Error, match="MalformedXML"):
        parse_complete(complete(parts + "<Part><PartNumber>1</PartNumber><ETag>e</ETag></Part>"))


def test_of_a_part_that_is_named_twice_in_a_row_the_last_mention_counts() -> None:
    rows = [(1, "old"), (1, "new"), (2, "two"), (1, "late")]
    found = parse_complete(
        complete("".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>" for n, e in rows))
    )
    assert [(claim.number, claim.etag) for claim in found] == [(1, "new"), (2, "two"), (1, "late")]


@pytest.mark.parametrize("number", ["0", "10001", "999999999"])
def test_a_part_number_out_of_range_is_an_invalid_argument(number: str) -> None:
    with pytest.raises(S3Error, match="InvalidArgument"):
        parse_complete(complete(f"<Part><PartNumber>{number}</PartNumber><ETag>e</ETag></Part>"))


@pytest.mark.parametrize(
    "inner",
    [
        "",
        "<Part/>",
        "<Part><PartNumber>1</PartNumber></Part>",
        "<Part><ETag>e</ETag></Part>",
        "<Part><PartNumber>-1</PartNumber><ETag>e</ETag></Part>",
        "<Part><PartNumber>one</PartNumber><ETag>e</ETag></Part>",
        "<Part><PartNumber>1</PartNumber><PartNumber>1</PartNumber><ETag>e</ETag></Part>",
        "<Part><PartNumber><b>1</b></PartNumber><ETag>e</ETag></Part>",
        "<Part><PartNumber>1</PartNumber><ETag>e</ETag><Other/></Part>",
        "<Other/>",
    ],
)
def test_a_completion_of_another_form_is_malformed(inner: str) -> None:
    with pytest.raises(S3Error, match="MalformedXML"):
        parse_complete(complete(inner))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not xml",
        b"<Delete>",
        delete(""),
        delete("<Object/>"),
        delete("<Object><Key/></Object>"),
        delete("<Quiet>perhaps</Quiet><Object><Key>k</Key></Object>"),
        delete("<Object><Key>k</Key><Key>k</Key></Object>"),
        delete("<Other/>"),
        delete("<Object><Key>k</Key></Object>").replace(b"Delete", b"Remove"),
        delete("<Object><Key>k&x;</Key></Object>"),
        delete("<Object><Key>k&#0;</Key></Object>"),
        delete("<Object><Key>k</Key></Object>") + b"<more/>",
        delete("<a>" * 50 + "</a>" * 50),
        pytest.param(delete("<a/>" * 100_001), id="too many elements"),
        b"<x:Delete><x:Object/></x:Delete>",
        "<Delete/>".encode("utf-16"),
        b"<Delete><Object><Key>\xff</Key></Object></Delete>",
        b"<!DOCTYPE Delete><Delete><Object><Key>k</Key></Object></Delete>",
        b'<!DOCTYPE D [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><Delete><Object><Key>&b;</Key></Object></Delete>',
        b'<!DOCTYPE D SYSTEM "file:///etc/passwd"><Delete><Object><Key>k</Key></Object></Delete>',
    ],
)  # fmt: skip
def test_what_is_no_deletion_is_malformed_and_expands_nothing(raw: bytes) -> None:
    with pytest.raises(S3Error) as caught:
        parse_delete(raw)
    assert (caught.value.code, caught.value.status) == ("MalformedXML", 400)


def test_a_document_has_a_largest_size() -> None:
    with pytest.raises(S3Error, match="MaxMessageLengthExceeded"):
        parse_delete(b" " * (DOCUMENT_SIZE_MAX + 1))


def test_conditions_of_a_deletion_are_read_as_they_are() -> None:
    inner = "<Object><Key>k</Key><Size>1</Size><LastModifiedTime>2015-10-21T07:28:00Z</LastModifiedTime></Object>"
    assert parse_delete(delete(inner)).keys == [DeleteTarget(b"k", modified="2015-10-21T07:28:00Z", size="1")]


def test_a_bucket_may_name_its_place() -> None:
    def body(inner: str) -> bytes:
        return f"<CreateBucketConfiguration>{inner}</CreateBucketConfiguration>".encode()

    assert parse_create_bucket(b" \n") is None
    assert parse_create_bucket(body("")) is None
    assert parse_create_bucket(body("<LocationConstraint>meshhold</LocationConstraint>")) == "meshhold"
    for inner, code in (("<Tags/>", "NotImplemented"), ("<Other/>", "MalformedXML")):
        with pytest.raises(S3Error, match=code):
            parse_create_bucket(body(inner))
