"""aws-chunked in its four forms: AWS's worked examples, and each way in which a body can be wrong."""

import hmac
from collections.abc import Sequence
from hashlib import sha256

import pytest

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.chunked import ChunkedDecoder, Form, form_of
from meshhold.s3.syntax.sigv4 import Head, parse_claim, signing_key, verify

KEY = signing_key("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524", "us-east-1")
STAMP, SCOPE = "20130524T000000Z", "20130524/us-east-1/s3/aws4_request"
THEN = 1369353600
CRC = "x-amz-checksum-crc32c"
SIGNED_SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"


def decoder(form: Form, length: int | None, *, seed: str = SIGNED_SEED, trailers: Sequence[str] = ()) -> ChunkedDecoder:
    return ChunkedDecoder(
        form, length, seed_signature=seed, signing_key=KEY, timestamp=STAMP, scope=SCOPE, trailer_names=trailers
    )


def decode(of: ChunkedDecoder, body: bytes, step: int = 1 << 20) -> tuple[bytes, dict[str, str]]:
    pieces = [piece for at in range(0, len(body), step) for piece in of.feed(body[at : at + step])]
    return b"".join(pieces), of.finish()


def refusal(of: ChunkedDecoder, body: bytes) -> S3Error:
    with pytest.raises(S3Error) as caught:
        decode(of, body)
    return caught.value


def signed_body(pieces: list[bytes], trailers: dict[str, str] | None = None, seed: str = SIGNED_SEED) -> bytes:
    """Frame and sign as the documentation says, written apart from the decoder."""
    body, previous = b"", seed
    for piece in [*pieces, b""]:
        lines = ["AWS4-HMAC-SHA256-PAYLOAD", STAMP, SCOPE, previous, sha256(b"").hexdigest(), sha256(piece).hexdigest()]
        previous = hmac.new(KEY, "\n".join(lines).encode(), "sha256").hexdigest()
        body += f"{len(piece):x};chunk-signature={previous}\r\n".encode() + piece + (b"\r\n" if piece else b"")
    if trailers is not None:
        text = "".join(f"{name}:{value}\n" for name, value in trailers.items())
        lines = ["AWS4-HMAC-SHA256-TRAILER", STAMP, SCOPE, previous, sha256(text.encode()).hexdigest()]
        signature = hmac.new(KEY, "\n".join(lines).encode(), "sha256").hexdigest()
        body += text.replace("\n", "\r\n").encode() + f"x-amz-trailer-signature:{signature}\r\n".encode()
    return body + b"\r\n"


SIGNATURES = {
    Form.SIGNED: (
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ),
    Form.SIGNED_TRAILER: (
        "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
    ),
}


def example(form: Form) -> bytes:
    first, second, last = SIGNATURES[form]
    body = f"10000;chunk-signature={first}\r\n{'a' * 65536}\r\n400;chunk-signature={second}\r\n{'a' * 1024}\r\n"
    body += f"0;chunk-signature={last}\r\n"
    if form is Form.SIGNED_TRAILER:
        body += "x-amz-checksum-crc32c:sOO8/Q==\r\n"
        body += "x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n"
    return body.encode() + b"\r\n"


@pytest.mark.parametrize("step", [1, 7, 1000, 65536, 1 << 20])
def test_the_documented_chunked_upload_decodes_in_pieces_of_any_size(step: int) -> None:
    body = example(Form.SIGNED)
    assert len(body) == 66824
    assert decode(decoder(Form.SIGNED, 66560), body, step) == (b"a" * 66560, {})


@pytest.mark.parametrize("step", [1, 7, 1000, 65536, 1 << 20])
def test_the_documented_upload_with_a_trailer_decodes_and_its_trailer_is_verified(step: int) -> None:
    of = decoder(Form.SIGNED_TRAILER, 66560, seed=TRAILER_SEED, trailers=[CRC])
    assert decode(of, example(Form.SIGNED_TRAILER), step) == (b"a" * 66560, {CRC: "sOO8/Q=="})


@pytest.mark.parametrize("form", [Form.SIGNED, Form.SIGNED_TRAILER])
def test_the_seed_signatures_of_the_examples_verify_as_requests(form: Form) -> None:
    trailer = [(b"x-amz-trailer", CRC.encode())] if form is Form.SIGNED_TRAILER else []
    length = [] if trailer else [(b"content-length", b"66824")]
    headers = [
        (b"content-encoding", b"aws-chunked"),
        *length,
        (b"host", b"s3.amazonaws.com"),
        (b"x-amz-content-sha256", form.value.encode()),
        (b"x-amz-date", STAMP.encode()),
        (b"x-amz-decoded-content-length", b"66560"),
        (b"x-amz-storage-class", b"REDUCED_REDUNDANCY"),
        *trailer,
    ]
    names = b";".join(name for name, _ in headers).decode()
    seed = TRAILER_SEED if trailer else SIGNED_SEED
    authorization = f"AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/{SCOPE},SignedHeaders={names},Signature={seed}"
    head = Head("PUT", b"/examplebucket/chunkObject.txt", b"", [*headers, (b"authorization", authorization.encode())])
    claim = parse_claim(head, THEN, "us-east-1")
    assert claim is not None
    assert form_of(claim.payload_hash, head.by_name()) is form
    verify(claim, head, KEY)


def test_our_own_framing_of_the_example_is_the_documented_one() -> None:
    assert signed_body([b"a" * 65536, b"a" * 1024]) == example(Form.SIGNED)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"0\r\nx-amz-checksum-crc32c:AAAAAA==\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\nX-Amz-Checksum-CRC32C: AAAAAA==\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32c:AAAAAA==\n\r\n\r\n", b"hello"),
    ],
    ids=["empty", "case and space", "as minio-go ends a trailer"],
)
def test_an_unsigned_body_with_a_trailer_decodes(body: bytes, expected: bytes) -> None:
    for step in (1, 3, 100):
        of = decoder(Form.UNSIGNED_TRAILER, len(expected), trailers=[CRC])
        assert decode(of, body, step) == (expected, {CRC: "AAAAAA=="})


def test_a_signed_trailer_ended_as_minio_go_does_is_taken() -> None:
    body = signed_body([b"hello"], {CRC: "AAAAAA=="}).replace(b"AAAAAA==\r\n", b"AAAAAA==\n\r\n")
    assert decode(decoder(Form.SIGNED_TRAILER, 5, trailers=[CRC]), body, 1) == (b"hello", {CRC: "AAAAAA=="})


def test_plain_framing_decodes_without_signatures_and_with_small_chunks() -> None:
    body = b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    assert decode(decoder(Form.PLAIN, 5), body, 1) == (b"hello", {})
    assert decode(decoder(Form.PLAIN, None), body) == (b"hello", {})


def test_the_form_is_that_of_the_literal_or_of_the_content_encoding() -> None:
    length = {b"x-amz-decoded-content-length": b"4"}
    assert form_of("UNSIGNED-PAYLOAD", {}) is None
    assert form_of("UNSIGNED-PAYLOAD", {b"content-encoding": b"gzip", **length}) is None
    assert form_of("0" * 64, {b"content-encoding": b"gzip, AWS-chunked", **length}) is Form.PLAIN
    assert form_of("STREAMING-UNSIGNED-PAYLOAD-TRAILER", {}) is Form.UNSIGNED_TRAILER


def test_a_content_encoding_alone_frames_nothing() -> None:
    assert form_of("0" * 64, {b"content-encoding": b"aws-chunked"}) is None


def test_payload_that_fills_a_block_is_handed_on_without_a_copy() -> None:
    of = decoder(Form.UNSIGNED_TRAILER, 10000, trailers=[CRC])
    assert of.feed(b"2710\r\n") == []
    block = b"x" * 6000
    assert of.feed(block)[0] is block


@pytest.mark.parametrize("index", range(3))
def test_a_chunk_with_a_wrong_signature_is_refused(index: int) -> None:
    wrong = SIGNATURES[Form.SIGNED][index]
    body = example(Form.SIGNED).replace(wrong.encode(), wrong[::-1].encode())
    error = refusal(decoder(Form.SIGNED, 66560), body)
    assert error.code == "SignatureDoesNotMatch"
    assert f"chunk {index + 1}" in error.message


def test_changed_bytes_of_a_chunk_are_refused() -> None:
    body = example(Form.SIGNED).replace(b"aaaa\r\n", b"aaab\r\n", 1)
    assert refusal(decoder(Form.SIGNED, 66560), body).code == "SignatureDoesNotMatch"


def test_a_body_under_another_seed_is_refused() -> None:
    of = decoder(Form.SIGNED, 66560, seed="0" * 64)
    assert refusal(of, example(Form.SIGNED)).code == "SignatureDoesNotMatch"


def test_a_changed_trailer_is_refused() -> None:
    body = example(Form.SIGNED_TRAILER).replace(b"sOO8/Q==", b"sOO8/A==")
    of = decoder(Form.SIGNED_TRAILER, 66560, seed=TRAILER_SEED, trailers=[CRC])
    assert refusal(of, body).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    "tail",
    [
        b"\r\n",
        b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n",
        b"x-amz-checksum-crc32cAAAAAA==\r\n\r\n",
        b":AAAAAA==\r\n\r\n",
        b"x-amz-checksum-crc32c:AAAAAA==\r\nx-amz-checksum-crc32c:AAAAAA==\r\n\r\n",
        b"x-amz-checksum-crc32c:AAAAAA==\r\nx-amz-trailer-signature:00\r\n\r\n",
        b"x-amz-checksum-crc32c:\xff\r\n\r\n",
    ],
)
def test_a_missing_or_unexpected_trailer_is_malformed(tail: bytes) -> None:
    of = decoder(Form.UNSIGNED_TRAILER, 5, trailers=[CRC])
    assert refusal(of, b"5\r\nhello\r\n0\r\n" + tail).code == "MalformedTrailerError"


def test_a_signed_trailer_needs_its_signature() -> None:
    body = signed_body([b"hello"], {CRC: "AAAAAA=="})
    cut = body[: body.index(b"x-amz-trailer-signature")] + b"\r\n"
    assert refusal(decoder(Form.SIGNED_TRAILER, 5, trailers=[CRC]), cut).code == "MalformedTrailerError"


def test_a_form_without_trailers_takes_none() -> None:
    body = signed_body([b"hello"])[:-2] + b"x-amz-checksum-crc32c:AAAAAA==\r\n\r\n"
    assert refusal(decoder(Form.SIGNED, 5), body).code == "MalformedTrailerError"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5\r\nhel",
        b"5\r\nhello\r\n",
        b"5\r\nhello\r\n0\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"3\r\nhello\r\n0\r\n\r\n",
        b"6\r\nhello!\r\n0\r\n\r\n",
        b"4\r\nhell\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"5;ext=1\r\nhello\r\n0\r\n\r\n",
        b"0" * 300,
        b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_broken_framing_or_a_wrong_length_is_an_incomplete_body(body: bytes) -> None:
    assert refusal(decoder(Form.UNSIGNED_TRAILER, 5), body).code == "IncompleteBody"


def test_a_signed_chunk_without_a_signature_is_an_incomplete_body() -> None:
    assert refusal(decoder(Form.SIGNED, 5), b"5\r\nhello\r\n0\r\n\r\n").code == "IncompleteBody"


def test_bytes_after_the_end_are_refused() -> None:
    error = refusal(decoder(Form.UNSIGNED_TRAILER, 5), b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1")
    assert error.code == "InvalidRequest"


def test_only_the_last_chunk_may_be_small() -> None:
    body = signed_body([b"a" * 8192, b"hello", b"b" * 8192])
    error = refusal(decoder(Form.SIGNED, 16389), body)
    assert (error.code, error.fields) == ("InvalidChunkSizeError", {"Chunk": "3", "BadChunkSize": "5"})


def test_a_chunk_beyond_five_gib_is_refused_before_its_bytes() -> None:
    error = refusal(decoder(Form.UNSIGNED_TRAILER, None), b"140000001\r\n")
    assert error.code == "InvalidChunkSizeError"


def test_a_trailer_line_without_end_is_bounded() -> None:
    of = decoder(Form.UNSIGNED_TRAILER, 0, trailers=[CRC])
    of.feed(b"0\r\n")
    for _ in range(1023):
        of.feed(b"x")
    with pytest.raises(S3Error, match="IncompleteBody"):
        of.feed(b"xx")
