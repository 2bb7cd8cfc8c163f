"""Wrong signatures and claims: each gets S3's own code, changes nothing, and leaves the connection in order."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.door import EMPTY_SHA256, UNSIGNED, DoorUnderTest, open_door, render

Build = Callable[[DoorUnderTest], bytes]
GET = ("GET", "/bucket/kept")
PUT = ("PUT", "/bucket/new", b"body")


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path) as opened:
        yield opened


def at(**delta: float) -> datetime:
    return datetime.now(UTC) + timedelta(**delta)


def changed(**headers: str | None) -> Build:
    """Sign a PUT with two headers, then change headers: None takes one away."""

    def build(door: DoorUnderTest) -> bytes:
        full = door.sign(*PUT, {"Content-Type": "text/plain", "x-amz-meta-one": "1"})
        for name, value in headers.items():
            full.pop(name.replace("_", "-"), None)
            if value is not None:
                full[name.replace("_", "-")] = value
        return render("PUT", "/bucket/new", full, b"body")

    return build


def authorization(old: str, new: str) -> Build:
    """Sign a GET, then replace a piece of `Authorization`."""

    def build(door: DoorUnderTest) -> bytes:
        full = door.sign(*GET)
        assert old in full["Authorization"]
        return render(*GET, full | {"Authorization": full["Authorization"].replace(old, new)})

    return build


def header(value: str) -> Build:
    return lambda door: render(*GET, door.sign(*GET) | {"Authorization": value})


def claiming(**claims: str) -> Build:
    return lambda door: door.signed(*GET, **claims)  # type: ignore[arg-type] # each case names a field


def presigned(expires: str = "600", names: str = "", method: str = "GET", **claims: object) -> Build:
    def build(door: DoorUnderTest) -> bytes:
        signer = replace(door.signer, **claims)  # type: ignore[arg-type] # each case names a field
        target = signer.presign("GET", "/bucket/kept", expires, names=names)
        return render(method, target, {"Host": signer.host, "Content-Length": "0"})

    return build


def edited(old: str, new: str) -> Build:
    """Presign a GET, then replace a piece of its URL."""

    def build(door: DoorUnderTest) -> bytes:
        target = door.signer.presign("GET", "/bucket/kept")
        assert old in target
        return render("GET", target.replace(old, new), {"Host": door.signer.host})

    return build


def signed_names(names: str) -> Build:
    """Sign a GET over these headers alone."""

    def build(door: DoorUnderTest) -> bytes:
        headers = {"Host": door.signer.host, "x-amz-date": door.signer.stamp, "x-amz-content-sha256": EMPTY_SHA256}
        signature = door.signer.signature(*GET, headers, names.split(";"), EMPTY_SHA256)
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={door.signer.key_id}/{door.signer.scope}, SignedHeaders={names}, "
            f"Signature={signature}"
        )
        return render(*GET, headers)

    return build


def both_ways(door: DoorUnderTest) -> bytes:
    target = door.signer.presign("GET", "/bucket/kept")
    return render("GET", target, door.sign("GET", target))


def no_date(door: DoorUnderTest) -> bytes:
    headers = {name: value for name, value in door.sign(*GET).items() if name != "x-amz-date"}
    return render(*GET, headers)


def session_token(door: DoorUnderTest) -> bytes:
    return door.signed(*GET, b"", {"x-amz-security-token": "FwoGZXIvYXdzEXAMPLE"})


def version_2_query(door: DoorUnderTest) -> bytes:
    target = f"/bucket/kept?AWSAccessKeyId={door.signer.key_id}&Expires=4000000000&Signature=aGVsbG8%3D"
    return render("GET", target, {"Host": door.signer.host})


OTHER = hashlib.sha256(b"another body").hexdigest()
CASES: dict[str, tuple[int, str, Build]] = {
    "wrong secret": (403, "SignatureDoesNotMatch", claiming(secret="x" * 40)),
    "unknown key": (403, "InvalidAccessKeyId", claiming(key_id="GK000000000000000000000000")),
    "anonymous as a key": (403, "InvalidAccessKeyId", claiming(key_id="anonymous", secret="")),
    "sixteen minutes slow": (403, "RequestTimeTooSkewed", lambda door: door.signed(*GET, at=at(minutes=-16))),
    "sixteen minutes fast": (403, "RequestTimeTooSkewed", lambda door: door.signed(*GET, at=at(minutes=16))),
    "wrong region": (400, "AuthorizationHeaderMalformed", claiming(region="us-west-2")),
    "wrong service": (400, "AuthorizationHeaderMalformed", claiming(service="sqs")),
    "wrong terminal": (400, "AuthorizationHeaderMalformed", authorization("aws4_request", "aws5_request")),
    "credential of another day": (
        400, "AuthorizationHeaderMalformed", lambda door: authorization(door.signer.stamp[:8], "20150830")(door),
    ),
    "no credential": (400, "AuthorizationHeaderMalformed", authorization("Credential=", "Creditable=")),
    "credential cut short": (400, "AuthorizationHeaderMalformed", authorization("/s3/aws4_request", "")),
    "no signature": (400, "AuthorizationHeaderMalformed", authorization(", Signature=", ", ")),
    "empty signature": (
        403, "SignatureDoesNotMatch",
        lambda door: header(door.sign(*GET)["Authorization"].rpartition("=")[0] + "=")(door),
    ),
    "signature of no hex": (403, "SignatureDoesNotMatch", authorization("Signature=", "Signature=zz")),
    "nothing but the algorithm": (400, "AuthorizationHeaderMalformed", header("AWS4-HMAC-SHA256 ")),
    "words": (400, "AuthorizationHeaderMalformed", header("AWS4-HMAC-SHA256 please, let me in")),
    "a component twice": (
        400, "AuthorizationHeaderMalformed", authorization("SignedHeaders=", "Signature=1, Signature="),
    ),
    "basic": (400, "InvalidArgument", header("Basic dXNlcjpwYXNz")),
    "bearer": (400, "InvalidArgument", header("Bearer token")),
    "version 2 header": (400, "InvalidRequest", header("AWS AKIDEXAMPLE:frJIUN8DYpKDtOLCwo//yllqDzg=")),
    "version 2 query": (400, "InvalidRequest", version_2_query),
    "header and query": (400, "InvalidArgument", both_ways),
    "no date": (403, "AccessDenied", no_date),
    "date of no form": (403, "AccessDenied", lambda door: render(*GET, door.sign(*GET) | {"x-amz-date": "tomorrow"})),
    "session token": (400, "InvalidToken", session_token),
    "host not signed": (403, "AccessDenied", signed_names("x-amz-content-sha256;x-amz-date")),
    "date not signed": (403, "AccessDenied", signed_names("host;x-amz-content-sha256")),
    "a signed header that is not there": (
        403, "SignatureDoesNotMatch", authorization("SignedHeaders=host;", "SignedHeaders=absent;host;"),
    ),
    "header removed after signing": (403, "SignatureDoesNotMatch", changed(x_amz_meta_one=None)),
    "content type removed after signing": (403, "SignatureDoesNotMatch", changed(Content_Type=None)),
    "header changed after signing": (403, "SignatureDoesNotMatch", changed(x_amz_meta_one="2")),
    "x-amz header added after signing": (403, "AccessDenied", changed(x_amz_meta_two="2")),
    "acl added after signing": (403, "AccessDenied", changed(x_amz_acl="private")),
    "host changed after signing": (403, "SignatureDoesNotMatch", changed(Host="elsewhere.example:80")),
    "path changed after signing": (
        403, "SignatureDoesNotMatch", lambda door: render("GET", "/bucket/kep", door.sign(*GET)),
    ),
    "query added after signing": (
        403, "SignatureDoesNotMatch", lambda door: render("GET", "/bucket/kept?versionId=null", door.sign(*GET)),
    ),
    "method changed after signing": (
        403, "SignatureDoesNotMatch", lambda door: render("DELETE", "/bucket/kept", door.sign(*GET)),
    ),
    "payload hash of another body": (
        400, "XAmzContentSHA256Mismatch", lambda door: door.signed(*PUT, payload=OTHER),
    ),
    "no payload hash": (400, "InvalidRequest", changed(x_amz_content_sha256=None)),
    "payload hash of no form": (400, "InvalidArgument", lambda door: door.signed(*PUT, payload="deadbeef")),
    "unknown streaming form": (
        400, "InvalidArgument", lambda door: door.signed(*PUT, payload="STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"),
    ),
    "presigned, expired": (403, "AccessDenied", presigned("60", at=at(minutes=-2))),
    "presigned, from the future": (403, "AccessDenied", presigned(at=at(minutes=120))),
    "presigned for over a week": (400, "AuthorizationQueryParametersError", presigned("604801")),
    "presigned for ever": (400, "AuthorizationQueryParametersError", presigned("9" * 30)),
    "presigned for less than nothing": (400, "AuthorizationQueryParametersError", presigned("-1")),
    "presigned until soon": (400, "AuthorizationQueryParametersError", presigned("soon")),
    "presigned without host": (403, "AccessDenied", presigned(names="range")),
    "presigned for another region": (400, "AuthorizationQueryParametersError", presigned(region="eu-west-1")),
    "presigned for another service": (400, "AuthorizationQueryParametersError", presigned(service="sts")),
    "presigned with another key": (403, "SignatureDoesNotMatch", presigned(secret="x" * 40)),
    "presigned by nobody": (403, "InvalidAccessKeyId", presigned(key_id="GK111111111111111111111111")),
    "presigned for reading, used to delete": (403, "SignatureDoesNotMatch", presigned(method="DELETE")),
    "presigned for reading, used to write": (403, "SignatureDoesNotMatch", presigned(method="PUT")),
    "presigned, another key of the bucket": (403, "SignatureDoesNotMatch", edited("/kept", "/kept2")),
    "presigned, longer life": (403, "SignatureDoesNotMatch", edited("Expires=600", "Expires=6000")),
    "presigned, one more parameter": (
        403, "SignatureDoesNotMatch", edited("?X-Amz-Algorithm", "?response-content-type=text%2Fhtml&X-Amz-Algorithm"),
    ),
    "presigned, another algorithm": (400, "AuthorizationQueryParametersError", edited("HMAC-SHA256", "HMAC-MD5")),
    "presigned, no date": (400, "AuthorizationQueryParametersError", edited("&X-Amz-Date=", "&X-Date=")),
    "presigned, no signature": (400, "AuthorizationQueryParametersError", edited("&X-Amz-Signature=", "&Sig=")),
    "presigned, two signatures": (
        400, "AuthorizationQueryParametersError", edited("&X-Amz-Signature=", "&X-Amz-Signature=1&X-Amz-Signature="),
    ),
    "presigned, header added": (
        403, "AccessDenied",
        lambda door: render(
            "GET", door.signer.presign("GET", "/bucket/kept"), {"Host": door.signer.host, "x-amz-meta-a": "b"}
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("status", "code", "build"), CASES.values(), ids=CASES)
async def test_refused(door: DoorUnderTest, status: int, code: str, build: Build) -> None:
    await door.check_refused(build(door), status, code)


@pytest.mark.parametrize("raw", ["", "   "])
async def test_an_empty_authorization_is_none_at_all(door: DoorUnderTest, raw: str) -> None:
    await door.check_refused(render(*GET, {"Host": door.signer.host, "Authorization": raw}), 403, "AccessDenied")


async def test_a_refused_signature_shows_what_would_have_been_signed(door: DoorUnderTest) -> None:
    answer = await door.check_refused(claiming(secret="x" * 40)(door), 403, "SignatureDoesNotMatch")
    assert answer.tag("AWSAccessKeyId") == door.signer.key_id
    assert answer.tag("CanonicalRequest").startswith("GET\n/bucket/kept\n\nhost:127.0.0.1:")
    assert answer.tag("StringToSign").startswith("AWS4-HMAC-SHA256\n")


@pytest.mark.parametrize("minutes", [-14, 14])
async def test_fourteen_minutes_of_skew_pass(door: DoorUnderTest, minutes: int) -> None:
    assert (await door.call(*GET, at=at(minutes=minutes))).status == 200


async def test_a_signature_over_the_host_without_its_port_passes(door: DoorUnderTest) -> None:
    signed = door.sign(*GET, host="127.0.0.1")
    assert (await door.exchange(render(*GET, signed | {"Host": door.signer.host}))).status == 200


async def test_unsigned_payload_passes(door: DoorUnderTest) -> None:
    assert (await door.call(*PUT, payload=UNSIGNED)).status == 200


@pytest.mark.parametrize(
    ("hoisted", "status", "code"),
    [
        ("x-amz-acl=public-read-write", 400, "AccessControlListNotSupported"),
        ("x-amz-server-side-encryption=aws%3Akms", 501, "NotImplemented"),
    ],
)
async def test_an_option_in_a_presigned_url_counts_as_its_header(
    door: DoorUnderTest, hoisted: str, status: int, code: str
) -> None:
    target = door.signer.presign("PUT", f"/bucket/new?{hoisted}")
    raw = render("PUT", target, {"Host": door.signer.host, "Content-Length": "4"}, b"body")
    await door.check_refused(raw, status, code)


async def test_metadata_in_a_presigned_url_is_kept(door: DoorUnderTest) -> None:
    target = door.signer.presign("PUT", "/bucket/new?x-amz-meta-colour=blue")
    raw = render("PUT", target, {"Host": door.signer.host, "Content-Length": "4"}, b"body")
    assert (await door.exchange(raw)).status == 200
    assert (await door.call("GET", "/bucket/new")).headers["x-amz-meta-colour"] == "blue"
