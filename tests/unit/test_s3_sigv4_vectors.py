"""The published Signature Version 4 values: AWS's test suite and the worked examples of the S3 documentation."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.sigv4 import Claim, Head, canonical_request, parse_claim, signing_key, verify

SUITE = json.loads((Path(__file__).parent / "data" / "sigv4_vectors.json").read_text())
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEY_ID = "AKIAIOSFODNN7EXAMPLE"
THEN = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
EMPTY = sha256(b"").hexdigest()
HOST = (b"host", b"examplebucket.s3.amazonaws.com")
DATE = (b"x-amz-date", b"20130524T000000Z")


def suite_case(vector: dict[str, Any]) -> tuple[Head, Claim]:
    headers = [(name.encode(), text.encode()) for name, text in vector["headers"]]
    head = Head(vector["method"], vector["path"].encode(), vector["query"].encode(), headers)
    claim = Claim(
        access_key_id=SUITE["access_key_id"],
        scope_date=SUITE["timestamp"][:8],
        region=SUITE["region"],
        signed_headers=tuple(vector["signed_headers"].split(";")),
        signature=vector["signature"],
        timestamp=SUITE["timestamp"],
        payload_hash=sha256(vector["body"].encode()).hexdigest(),
        service=SUITE["service"],
    )
    return head, claim


@pytest.mark.parametrize("vector", SUITE["vectors"], ids=lambda v: v["name"])
def test_a_vector_of_the_suite_has_its_published_canonical_request_and_signature(vector: dict[str, Any]) -> None:
    head, claim = suite_case(vector)
    canonical = canonical_request(head, claim, head.by_name()[b"host"])
    assert sha256(canonical).hexdigest() == vector["canonical_sha256"]
    key = signing_key(SUITE["secret"], SUITE["timestamp"][:8], SUITE["region"], SUITE["service"])
    verify(claim, head, key)


@pytest.mark.parametrize("vector", SUITE["vectors"], ids=lambda v: v["name"])
def test_a_vector_with_another_key_is_refused(vector: dict[str, Any]) -> None:
    head, claim = suite_case(vector)
    with pytest.raises(S3Error) as caught:
        verify(claim, head, signing_key("other", SUITE["timestamp"][:8], SUITE["region"], SUITE["service"]))
    assert caught.value.code == "SignatureDoesNotMatch"


def test_the_suite_is_whole() -> None:
    assert len(SUITE["vectors"]) == 34


def example(method: str, path: bytes, query: bytes, signature: str, signed: str, *headers: tuple[bytes, bytes]) -> Head:
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20130524/us-east-1/s3/aws4_request,SignedHeaders={signed},"
        f"Signature={signature}"
    )
    return Head(method, path, query, [(b"authorization", authorization.encode()), *headers])


BARE = "host;x-amz-content-sha256;x-amz-date"
EXAMPLES = {
    "GET object": example(
        "GET",
        b"/test.txt",
        b"",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        "host;range;x-amz-content-sha256;x-amz-date",
        HOST,
        DATE,
        (b"range", b"bytes=0-9"),
        (b"x-amz-content-sha256", EMPTY.encode()),
    ),
    "PUT object": example(
        "PUT",
        b"/test$file.text",
        b"",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        HOST,
        DATE,
        (b"date", b"Fri, 24 May 2013 00:00:00 GMT"),
        (b"x-amz-storage-class", b"REDUCED_REDUNDANCY"),
        (b"x-amz-content-sha256", sha256(b"Welcome to Amazon S3.").hexdigest().encode()),
    ),
    "GET lifecycle": example(
        "GET",
        b"/",
        b"lifecycle",
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        BARE,
        HOST,
        DATE,
        (b"x-amz-content-sha256", EMPTY.encode()),
    ),
    "GET list": example(
        "GET",
        b"/",
        b"max-keys=2&prefix=J",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        BARE,
        HOST,
        DATE,
        (b"x-amz-content-sha256", EMPTY.encode()),
    ),
    "presigned GET": Head(
        "GET",
        b"/test.txt",
        b"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3"
        b"%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature="
        b"aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
        [HOST],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_worked_example_of_the_s3_documentation_verifies(name: str) -> None:
    head = EXAMPLES[name]
    claim = parse_claim(head, THEN + 60, "us-east-1")
    assert claim is not None
    assert (claim.access_key_id, claim.presigned) == (KEY_ID, name.startswith("presigned"))
    verify(claim, head, signing_key(SECRET, claim.scope_date, claim.region))


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_worked_example_with_another_method_is_refused(name: str) -> None:
    original = EXAMPLES[name]
    head = Head("DELETE", original.raw_path, original.raw_query, original.headers)
    claim = parse_claim(head, THEN + 60, "us-east-1")
    assert claim is not None
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        verify(claim, head, signing_key(SECRET, claim.scope_date, claim.region))
