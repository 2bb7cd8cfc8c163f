"""What a signature may and may not claim. Requests are signed by botocore, an implementation that is not ours."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax import sigv4
from meshhold.s3.syntax.sigv4 import Head, SigningKeys, anonymous_payload, parse_claim, signing_key, verify

SECRET = "secret/+with=signs"
REGION = "meshhold"
URL = "http://127.0.0.1:3900"
CREDENTIALS = Credentials("GK0123", SECRET)


def to_head(request: AWSRequest) -> Head:
    parts = urlsplit(request.url)
    headers = [
        (name.lower().encode(), text if isinstance(text, bytes) else str(text).encode())
        for name, text in request.headers.items()
    ]
    if "Host" not in request.headers:
        headers.append((b"host", parts.netloc.encode()))
    return Head(request.method, parts.path.encode(), parts.query.encode(), headers)


def signed(method: str = "GET", path: str = "/bucket/key", **headers: str) -> tuple[Head, float]:
    """Return a header-signed request and the moment of signing."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    request = AWSRequest(method, URL + path, data=b"body" if method == "PUT" else b"", headers=named)
    S3SigV4Auth(CREDENTIALS, "s3", REGION).add_auth(request)
    return to_head(request), datetime.now(UTC).timestamp()


def presigned(path: str = "/bucket/key", expires: int = 600, **headers: str) -> tuple[Head, float]:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    request = AWSRequest("GET", URL + path, headers=named)
    S3SigV4QueryAuth(CREDENTIALS, "s3", REGION, expires=expires).add_auth(request)
    return to_head(request), datetime.now(UTC).timestamp()


def check(head: Head, now_s: float, port: int | None = None) -> sigv4.Claim:
    claim = parse_claim(head, now_s, REGION)
    assert claim is not None
    verify(claim, head, signing_key(SECRET, claim.scope_date, claim.region), port)
    return claim


def refusal(head: Head, now_s: float) -> S3Error:
    with pytest.raises(S3Error) as caught:
        check(head, now_s)
    return caught.value


def replaced(head: Head, name: bytes, text: bytes | None) -> Head:
    headers = [(n, t) for n, t in head.headers if n != name]
    return Head(head.method, head.raw_path, head.raw_query, headers + ([] if text is None else [(name, text)]))


def edited(head: Head, name: bytes, old: bytes, new: bytes) -> Head:
    return replaced(head, name, dict(head.headers)[name].replace(old, new))


PATHS = [
    "/bucket/key",
    "/bucket/a%20b",
    "/bucket/a%2Bb",
    "/bucket//",
    "/bucket/../x",
    "/bucket/%252F",
    "/bucket/%C3%BC",
    "/bucket/.",
    "/bucket/k?uploads",
    "/bucket?list-type=2&prefix=a%2Fb%20c&delimiter=%2F",
    "/bucket?prefix=%2B&prefix=",
]


@pytest.mark.parametrize("path", PATHS)
def test_what_botocore_signs_by_header_verifies(path: str) -> None:
    claim = check(*signed("PUT", path, content_type="text/plain", x_amz_meta_a="two  spaces"))
    assert (claim.access_key_id, claim.region, claim.presigned) == ("GK0123", REGION, False)
    assert len(claim.payload_hash) == 64


@pytest.mark.parametrize("path", PATHS)
def test_what_botocore_presigns_verifies(path: str) -> None:
    claim = check(*presigned(path))
    assert (claim.presigned, claim.expires_s, claim.payload_hash) == (True, 600, "UNSIGNED-PAYLOAD")


def test_a_request_without_a_signature_is_anonymous() -> None:
    assert parse_claim(Head("GET", b"/b/k", b"versionId=null", [(b"host", b"h")]), 0) is None


def test_anonymous_bodies_are_unsigned_and_may_not_stream_signatures() -> None:
    assert anonymous_payload(Head("PUT", b"/b/k", b"", [])) == "UNSIGNED-PAYLOAD"
    head = Head("PUT", b"/b/k", b"", [(b"x-amz-content-sha256", b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD")])
    with pytest.raises(S3Error, match="Anonymous requests"):
        anonymous_payload(head)


@pytest.mark.parametrize(
    ("name", "old", "new", "code"),
    [
        (b"authorization", b"Signature=", b"Signature=0", "SignatureDoesNotMatch"),
        (b"authorization", b"Signature=", b"Signature=\xc3\xbc", "AuthorizationHeaderMalformed"),
        (b"authorization", b"AWS4-HMAC-SHA256 ", b"AWS ", "InvalidRequest"),
        (b"authorization", b"AWS4-HMAC-SHA256 ", b"AWS4-ECDSA-P256-SHA256 ", "InvalidRequest"),
        (b"authorization", b"AWS4-HMAC-SHA256 ", b"Basic ", "InvalidArgument"),
        (b"authorization", b"AWS4-HMAC-SHA256 ", b"AWS4-HMAC-SHA256", "InvalidRequest"),
        (b"authorization", b"Credential=GK0123/", b"Credential=", "AuthorizationHeaderMalformed"),
        (b"authorization", b"Credential=", b"Credentials=", "AuthorizationHeaderMalformed"),
        (b"authorization", b"Signature=", b"Signature", "AuthorizationHeaderMalformed"),
        (b"authorization", b", Signature=", b", Signature=0, Signature=", "AuthorizationHeaderMalformed"),
        (b"authorization", b"/s3/", b"/ec2/", "AuthorizationHeaderMalformed"),
        (b"authorization", b"aws4_request", b"aws5_request", "AuthorizationHeaderMalformed"),
        (b"authorization", b"/meshhold/", b"/us-east-1/", "AuthorizationHeaderMalformed"),
        (b"authorization", b"/20", b"/2x", "AuthorizationHeaderMalformed"),
        (b"authorization", b"/20", b"/19", "AuthorizationHeaderMalformed"),
        (b"authorization", b"host;", b"", "AccessDenied"),
        (b"authorization", b"host;", b"host;" + b"x;" * 200, "AuthorizationHeaderMalformed"),
        (b"x-amz-date", b"T", b" ", "AccessDenied"),
        (b"x-amz-date", b"20", b"99", "RequestTimeTooSkewed"),
        (b"x-amz-content-sha256", b"e3", b"zz", "InvalidArgument"),
        (b"host", b"127", b"126", "SignatureDoesNotMatch"),
    ],
)
def test_a_changed_header_is_refused_with_its_own_code(name: bytes, old: bytes, new: bytes, code: str) -> None:
    head, now_s = signed()
    check(head, now_s)
    assert refusal(edited(head, name, old, new), now_s).code == code


def test_a_wrong_region_is_answered_with_the_right_one() -> None:
    head, now_s = signed()
    error = refusal(edited(head, b"authorization", b"/meshhold/", b"/us-east-1/"), now_s)
    assert error.status == 400
    assert error.fields == {"Region": "meshhold"}
    assert "the region 'us-east-1' is wrong; expecting 'meshhold'" in error.message


def test_a_header_removed_after_signing_is_noticed() -> None:
    head, now_s = signed("PUT", x_amz_meta_a="1", content_type="text/plain")
    for name in (b"x-amz-meta-a", b"content-type"):
        assert refusal(replaced(head, name, None), now_s).code == "SignatureDoesNotMatch"


def test_a_signed_header_that_was_empty_may_not_vanish_either() -> None:
    head, now_s = signed("PUT", x_amz_meta_a="")
    check(head, now_s)
    assert refusal(replaced(head, b"x-amz-meta-a", None), now_s).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("make", [signed, presigned])
def test_an_amazon_header_added_after_signing_is_named(make: Any) -> None:
    head, now_s = make()
    error = refusal(replaced(head, b"x-amz-copy-source", b"/other/secret"), now_s)
    assert (error.code, error.fields) == ("AccessDenied", {"HeadersNotSigned": "x-amz-copy-source"})
    assert error.message == "There were headers present in the request which were not signed"


def test_a_header_that_no_signature_covers_may_be_added() -> None:
    head, now_s = signed()
    check(replaced(head, b"x-forwarded-for", b"10.0.0.1"), now_s)


def test_a_missing_payload_hash_is_asked_for() -> None:
    head, now_s = signed()
    error = refusal(replaced(head, b"x-amz-content-sha256", None), now_s)
    assert (error.code, error.message) == (
        "InvalidRequest",
        "Missing required header for this request: x-amz-content-sha256",
    )


@pytest.mark.parametrize(("skew_s", "code"), [(899, None), (-899, None), (902, "x"), (-902, "x")])
def test_a_clock_may_be_wrong_by_a_quarter_of_an_hour(skew_s: int, code: str | None) -> None:
    head, now_s = signed()
    if code is None:
        check(head, now_s + skew_s)
    else:
        assert refusal(head, now_s + skew_s).code == "RequestTimeTooSkewed"


def test_the_date_header_serves_where_there_is_no_amazon_one() -> None:
    timestamp, stamp = "20130524T000000Z", b"Fri, 24 May 2013 00:00:00 GMT"
    now_s = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
    names = ("date", "host", "x-amz-content-sha256")
    claim = sigv4.Claim("GK0123", "20130524", REGION, names, "", timestamp, "UNSIGNED-PAYLOAD")
    headers = [(b"host", b"h"), (b"date", stamp), (b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD")]
    head = Head("GET", b"/b/k", b"", headers)
    key = signing_key(SECRET, "20130524", REGION)
    signature = sigv4._signature(claim, sigv4.canonical_request(head, claim, b"h"), key).decode()
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={claim.access_key_id}/{claim.scope}, SignedHeaders={';'.join(names)}, "
        f"Signature={signature}"
    )
    assert check(replaced(head, b"authorization", authorization.encode()), now_s).timestamp == timestamp


# -- the host -------------------------------------------------------------------------------------------------------


def test_a_signature_over_the_host_without_its_port_is_accepted_for_the_same_host() -> None:
    head, now_s = presigned(Host="127.0.0.1")
    check(replaced(head, b"host", b"127.0.0.1:3900"), now_s)
    assert refusal(replaced(head, b"host", b"127.0.0.2:3900"), now_s).code == "SignatureDoesNotMatch"


def test_a_port_that_a_proxy_dropped_is_put_back() -> None:
    head, now_s = presigned()
    bare = replaced(head, b"host", b"127.0.0.1")
    check(bare, now_s, 3900)
    assert refusal(bare, now_s).code == "SignatureDoesNotMatch"


# -- presigned ------------------------------------------------------------------------------------------------------


def requeried(head: Head, old: bytes, new: bytes) -> Head:
    assert old in head.raw_query
    return Head(head.method, head.raw_path, head.raw_query.replace(old, new), head.headers)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"X-Amz-Algorithm=AWS4-HMAC-SHA256", b"X-Amz-Algorithm=AWS4", "AuthorizationQueryParametersError"),
        (b"X-Amz-Date=", b"X-Amz-Dat=", "AuthorizationQueryParametersError"),
        (b"X-Amz-Date=20", b"X-Amz-Date=2", "AuthorizationQueryParametersError"),
        (b"X-Amz-Date=20", b"X-Amz-Date=19", "AuthorizationQueryParametersError"),
        (b"X-Amz-Expires=600", b"X-Amz-Expires=", "AuthorizationQueryParametersError"),
        (b"X-Amz-Expires=600", b"X-Amz-Expires=ten", "AuthorizationQueryParametersError"),
        (b"X-Amz-Expires=600", b"X-Amz-Expires=-1", "AuthorizationQueryParametersError"),
        (b"X-Amz-Expires=600", b"X-Amz-Expires=604801", "AuthorizationQueryParametersError"),
        (b"X-Amz-Expires=600", b"X-Amz-Expires=600&X-Amz-Expires=600", "AuthorizationQueryParametersError"),
        (b"X-Amz-Expires=600", b"X-Amz-Expires=601", "SignatureDoesNotMatch"),
        (b"GK0123%2F", b"", "AuthorizationQueryParametersError"),
        (b"%2Fmeshhold%2F", b"%2Fus-east-1%2F", "AuthorizationQueryParametersError"),
        (b"SignedHeaders=host", b"SignedHeaders=range", "AccessDenied"),
        (b"X-Amz-Expires=600", b"X-Amz-Expires=600&X-Amz-Security-Token=t", "InvalidToken"),
        (b"X-Amz-Expires=600", b"X-Amz-Expires=600&extra=1", "SignatureDoesNotMatch"),
        (b"X-Amz-Expires=600", b"X-Amz-Expires=%6", "InvalidURI"),
    ],
)
def test_a_changed_presigned_url_is_refused_with_its_own_code(old: bytes, new: bytes, code: str) -> None:
    head, now_s = presigned()
    check(head, now_s)
    assert refusal(requeried(head, old, new), now_s).code == code


def test_a_presigned_url_expires() -> None:
    head, now_s = presigned(expires=60)
    check(head, now_s + 58)
    error = refusal(head, now_s + 62)
    assert (error.code, error.message) == ("AccessDenied", "Request has expired")
    assert error.fields["X-Amz-Expires"] == "60"


def test_a_presigned_url_from_the_future_is_not_yet_valid() -> None:
    head, now_s = presigned()
    check(head, now_s - 800)
    assert refusal(head, now_s - 1000).message == "Request is not yet valid"


def test_a_week_is_the_longest_expiry() -> None:
    check(*presigned(expires=604800))


def test_two_mechanisms_at_once_are_refused() -> None:
    head, now_s = presigned()
    both = replaced(head, b"authorization", dict(signed()[0].headers)[b"authorization"])
    assert refusal(both, now_s).code == "InvalidArgument"


def test_signature_version_2_in_a_query_is_refused_by_name() -> None:
    head = Head("GET", b"/b/k", b"AWSAccessKeyId=GK&Expires=1&Signature=x", [(b"host", b"h")])
    error = refusal(head, 0)
    assert error.code == "InvalidRequest"
    assert "Please use AWS4-HMAC-SHA256" in error.message


def test_a_mismatch_shows_what_was_signed_here_and_no_secret() -> None:
    head, now_s = signed()
    error = refusal(edited(head, b"authorization", b"Signature=", b"Signature=0"), now_s)
    assert error.fields["CanonicalRequest"].startswith("GET\n/bucket/key\n")
    assert error.fields["StringToSign"].startswith("AWS4-HMAC-SHA256\n")
    assert SECRET not in repr(error.fields)


# -- signing keys ---------------------------------------------------------------------------------------------------


def test_a_signing_key_is_that_of_its_secret_and_kept_within_the_bound() -> None:
    keys = SigningKeys(limit=2)
    for secret in ("one", "two", "three", "two"):
        assert keys.get("GK", secret, "20130524", REGION) == signing_key(secret, "20130524", REGION)
    assert len(keys) == 2
