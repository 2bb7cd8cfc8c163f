"""Round trips of keys, text, chunks and checksums, for any bytes."""

import base64
import xml.etree.ElementTree as ET
from urllib.parse import quote, unquote_plus

from hypothesis import given
from hypothesis import strategies as st

from meshhold.s3.syntax.checksums import full_object, new_checksum
from meshhold.s3.syntax.chunked import ChunkedDecoder, Form
from meshhold.s3.syntax.query import KEY_SIZE_MAX, canonical_path, canonical_query, decode_key, encode_key, parse_query
from meshhold.s3.syntax.ranges import parse_range
from meshhold.s3.syntax.xml import parse_delete, tag

KEYS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)
XML_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1)


@given(KEYS)
def test_a_key_survives_the_path(key: str) -> None:
    raw = key.encode()
    assert len(raw) <= KEY_SIZE_MAX
    for safe in ("", "/", "/+$&"):
        assert decode_key(b"/b/" + quote(key, safe=safe).encode()) == ("b", raw)


@given(KEYS)
def test_a_key_survives_encoding_type_url(key: str) -> None:
    assert unquote_plus(encode_key(key.encode())) == key


@given(XML_TEXT)
def test_text_survives_an_element(text: str) -> None:
    assert ET.fromstring(tag("Key", text)).text == text  # noqa: S314 - our own document


@given(XML_TEXT)
def test_a_key_survives_a_deletion(text: str) -> None:
    raw = f"<Delete><Object>{tag('Key', text)}</Object></Delete>".encode()
    assert parse_delete(raw).keys[0].key == text.encode()


@given(st.lists(st.tuples(KEYS.filter(bool), KEYS), max_size=8))
def test_canonical_forms_are_stable_and_mean_the_same(pairs: list[tuple[str, str]]) -> None:
    raw = "&".join(f"{quote(name, safe='')}={quote(text, safe='/!*')}" for name, text in pairs).encode()
    canonical = canonical_query(raw)
    assert canonical_query(canonical) == canonical
    assert sorted(parse_query(canonical)) == sorted(parse_query(raw)) == sorted(pairs)


@given(KEYS)
def test_a_canonical_path_is_stable(key: str) -> None:
    canonical = canonical_path(b"/b/" + quote(key, safe="/!*'").encode())
    assert canonical == b"/b/" + quote(key, safe="/").encode()
    assert canonical_path(canonical) == canonical


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.integers(1, 40))
def test_framed_bytes_come_out_however_they_are_cut(chunks: list[bytes], step: int) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    of = ChunkedDecoder(Form.PLAIN, sum(map(len, chunks)))
    pieces = [piece for at in range(0, len(body), step) for piece in of.feed(body[at : at + step])]
    assert b"".join(pieces) == b"".join(chunks)
    assert of.finish() == {}


@given(st.lists(st.binary(max_size=300), max_size=6), st.sampled_from(["CRC32", "CRC32C", "CRC64NVME"]))
def test_the_crc_of_the_whole_follows_from_any_parts(parts: list[bytes], algorithm: str) -> None:
    def value(data: bytes) -> str:
        checksum = new_checksum(algorithm)
        checksum.update(data)
        return checksum.value()

    assert full_object(algorithm, [(value(part), len(part)) for part in parts]) == value(b"".join(parts))
    assert base64.b64decode(value(b"")) == bytes(8 if algorithm == "CRC64NVME" else 4)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 15))
def test_a_range_is_the_slice_that_python_takes(first: int, last: int, size: int) -> None:
    data = bytes(range(size))
    if first <= last and first < size:
        found = parse_range(f"bytes={first}-{last}", size)
        assert found is not None
        assert data[found[0] : found[1] + 1] == data[first : last + 1]
