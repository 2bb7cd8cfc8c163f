"""Forms of browsers: what is kept, what is answered, and that nobody writes without a signed policy."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.door import Answer, DoorUnderTest, open_door, render

from meshhold.model.grant import Permission

SOON = "2099-01-01T00:00:00Z"
BOUNDARY = "x0x"
FILE = b"the file\r\n--x0 of a form"
ANY: list[Any] = [["starts-with", "$key", ""], ["content-length-range", 0, 2**20]]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[DoorUnderTest]:
    async with open_door(tmp_path, put_size_max=2 * 2**20) as opened:
        yield opened


def body_of(fields: dict[str, str], file: bytes | None = FILE, filename: str = "f.txt") -> bytes:
    parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items()]
    raw = "".join(parts).encode()
    if file is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
        raw += head.encode() + file + b"\r\n"
    return raw + f"--{BOUNDARY}--\r\n".encode()


def policy_of(conditions: list[Any], expiration: str = SOON) -> str:
    document = {"expiration": expiration, "conditions": [{"bucket": "bucket"}, *conditions]}
    return base64.b64encode(json.dumps(document).encode()).decode()


def signed(door: DoorUnderTest, fields: dict[str, str], conditions: list[Any], **claims: str) -> dict[str, str]:
    """Return the fields with a policy of these conditions, signed by Signature Version 4."""
    signer = door.signer
    proof = {
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"{signer.key_id}/{signer.scope}",
        "x-amz-date": signer.stamp,
    } | {name.replace("_", "-"): value for name, value in claims.items()}
    policy = policy_of([*conditions, *({name: value} for name, value in proof.items())])
    signature = hmac.new(signer.key, policy.encode(), hashlib.sha256).hexdigest()
    return {**fields, **proof, "policy": policy, "x-amz-signature": signature}


def signed_old(door: DoorUnderTest, fields: dict[str, str], conditions: list[Any]) -> dict[str, str]:
    policy = policy_of(conditions)
    signature = hmac.new(door.signer.secret.encode(), policy.encode(), hashlib.sha1).digest()
    proof = {"AWSAccessKeyId": door.signer.key_id, "signature": base64.b64encode(signature).decode()}
    return {**fields, **proof, "policy": policy}


async def post(door: DoorUnderTest, body: bytes, target: str = "/bucket", **headers: str) -> Answer:
    sent = {
        "Host": door.signer.host,
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Content-Length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return await door.exchange(render("POST", target, sent, body))


async def refused(door: DoorUnderTest, body: bytes, status: int, code: str, told: str = "") -> Answer:
    answer = await post(door, body)
    assert (answer.status, answer.code) == (status, code), answer.body
    assert told in answer.tag("Message")
    assert await door.stored() == ["kept"]
    return answer


async def test_a_form_becomes_an_object(door: DoorUnderTest) -> None:
    fields = {
        "key": "photos/${filename}",
        "Content-Type": "image/jpeg",
        "Cache-Control": "max-age=5",
        "x-amz-meta-by": "Änne",
        "x-ignore-this": "1",
    }
    conditions = [
        ["starts-with", "$key", "photos/f.t"],
        {"Content-Type": "image/jpeg"},
        ["starts-with", "$Cache-Control", ""],
        {"x-amz-meta-by": "Änne"},
    ]
    for sign in (signed, signed_old):
        answer = await post(door, body_of(sign(door, fields, conditions)))
        assert (answer.status, answer.body) == (204, b""), answer.body
        assert answer.headers["location"] == f"http://{door.signer.host}/bucket/photos/f.txt"
        got = await door.call("GET", "/bucket/photos/f.txt")
        assert (got.status, got.body, got.headers["etag"]) == (200, FILE, answer.headers["etag"])
        assert (got.headers["content-type"], got.headers["cache-control"]) == ("image/jpeg", "max-age=5")
        assert "x-amz-meta-by" in got.headers
        assert (await door.call("DELETE", "/bucket/photos/f.txt")).status == 204


async def test_a_file_of_many_pieces(door: DoorUnderTest) -> None:
    file = b"\r\n--x0 " * 200_000
    answer = await post(door, body_of(signed(door, {"key": "big"}, [{"key": "big"}]), file))
    assert answer.status == 204, answer.body
    assert (await door.call("GET", "/bucket/big")).body == file


async def test_what_success_looks_like_is_the_forms_choice(door: DoorUnderTest) -> None:
    any_answer = [*ANY, ["starts-with", "$success_action_status", ""]]
    for status, expected in (("200", 200), ("201", 201), ("404", 204)):
        answer = await post(door, body_of(signed(door, {"key": "a b", "success_action_status": status}, any_answer)))
        assert answer.status == expected
        if status == "201":
            assert (answer.tag("Bucket"), answer.tag("Key")) == ("bucket", "a b")
            assert answer.tag("Location") == answer.headers["location"]
            assert answer.tag("ETag") == f"&quot;{answer.headers['etag'].strip(chr(34))}&quot;"


@pytest.mark.parametrize(
    ("target", "there"),
    [
        ("https://app.example.com/done", "https://app.example.com/done?bucket=bucket&key=a%2Fb&etag=%22"),
        ("http://app.example.com/?x=1", "http://app.example.com/?x=1&bucket=bucket&key=a%2Fb&etag=%22"),
        ("javascript:alert(1)", ""),
        ("//app.example.com/", ""),
        ("http://[", ""),
    ],
)
async def test_a_form_may_lead_to_another_page(door: DoorUnderTest, target: str, there: str) -> None:
    for name in ("success_action_redirect", "redirect"):
        fields = signed(door, {"key": "a/b", name: target}, [*ANY, {name: target}])
        answer = await post(door, body_of(fields))
        assert answer.status == (303 if there else 204)
        assert answer.headers["location"].startswith(there or "http://127.0.0.1")


async def test_tags_and_checksums(door: DoorUnderTest) -> None:
    tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>b c</Value></Tag></TagSet></Tagging>"
    fields = signed(door, {"key": "k", "tagging": tagging}, [*ANY, ["starts-with", "$tagging", ""]])
    digest = base64.b64encode(hashlib.sha256(FILE).digest()).decode()
    answer = await post(door, body_of(fields | {"x-amz-checksum-sha256": digest}))
    assert answer.status == 204, answer.body
    assert answer.headers["x-amz-checksum-sha256"] == digest
    shown = await door.call("GET", "/bucket/k?tagging")
    assert (shown.tag("Key"), shown.tag("Value")) == ("a", "b c")
    assert (await door.call("DELETE", "/bucket/k")).status == 204
    wrong = base64.b64encode(hashlib.sha256(b"").digest()).decode()
    await refused(door, body_of(fields | {"x-amz-checksum-sha256": wrong}), 400, "BadDigest")
    await refused(door, body_of(fields | {"x-amz-checksum-sha256": "x"}), 400, "BadDigest")


async def test_without_a_signature_nobody_writes(door: DoorUnderTest) -> None:
    await door.grant("anonymous", Permission.READ, allow_list=True)
    await refused(door, body_of({"key": "k"}), 403, "AccessDenied", "nobody writes without a key")
    await refused(door, body_of({"key": "k", "policy": policy_of(ANY)}), 400, "InvalidArgument", "X-Amz-Algorithm")


async def test_a_key_that_may_not_write_cannot_by_a_form(door: DoorUnderTest) -> None:
    await door.grant(door.signer.key_id, Permission.READ)
    await refused(door, body_of(signed(door, {"key": "k"}, ANY)), 403, "AccessDenied")


async def test_wrong_signatures(door: DoorUnderTest) -> None:
    good = signed(door, {"key": "k"}, ANY)
    old = signed_old(door, {"key": "k"}, ANY)
    await refused(door, body_of(good | {"x-amz-signature": "0" * 64}), 403, "SignatureDoesNotMatch")
    await refused(door, body_of(good | {"x-amz-signature": "é"}), 403, "SignatureDoesNotMatch")
    await refused(door, body_of(good | {"policy": policy_of([*ANY, {"a": "b"}])}), 403, "SignatureDoesNotMatch")
    await refused(door, body_of(old | {"signature": old["signature"][::-1]}), 403, "SignatureDoesNotMatch")
    await refused(door, body_of(old | {"AWSAccessKeyId": "GKnobody"}), 403, "InvalidAccessKeyId")
    await refused(door, body_of(good | old), 400, "InvalidArgument", "Only one auth mechanism")
    for name in ("policy", "signature"):
        rest = {field: value for field, value in old.items() if field != name}
        await refused(door, body_of(rest), 400, "InvalidArgument", "check the order")


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("x_amz_algorithm", "AWS4-ECDSA-P256-SHA256"),
        ("x_amz_credential", "nonsense"),
        ("x_amz_credential", "GK1/20200101/elsewhere/s3/aws4_request"),
        ("x_amz_date", "yesterday"),
        ("x_amz_date", "20200101T000000Z"),
    ],
)
async def test_malformed_claims(door: DoorUnderTest, claim: str, value: str) -> None:
    fields = signed(door, {"key": "k"}, ANY, **{claim: value})
    await refused(door, body_of(fields), 400, "InvalidArgument")


async def test_a_session_token_is_refused_by_name(door: DoorUnderTest) -> None:
    fields = signed(door, {"key": "k", "x-amz-security-token": "t"}, [*ANY, {"x-amz-security-token": "t"}])
    await refused(door, body_of(fields), 400, "InvalidToken")


async def test_a_form_keeps_to_its_policy(door: DoorUnderTest) -> None:
    await refused(door, body_of(signed(door, {"key": "k"}, [{"key": "x"}])), 403, "AccessDenied", "Condition failed")
    extra = signed(door, {"key": "k", "Expires": "0"}, ANY)
    await refused(door, body_of(extra), 403, "AccessDenied", "Extra input fields: expires")
    answer = await post(door, body_of(signed(door, {"key": "k", "bucket": "bucket"}, ANY)), "/bucket-of-others")
    assert answer.code == "NoSuchBucket"
    await door.node.vaults.create("other", alias="bucket-of-others")
    answer = await post(door, body_of(signed(door, {"key": "k", "bucket": "bucket"}, ANY)), "/bucket-of-others")
    assert (answer.code, '["eq", "$bucket"' in answer.tag("Message").replace("&quot;", '"')) == ("AccessDenied", True)


async def test_sizes_are_those_of_the_policy_and_of_the_door(door: DoorUnderTest) -> None:
    for least, most, code in ((0, len(FILE) - 1, "EntityTooLarge"), (len(FILE) + 1, 2**30, "EntityTooSmall")):
        sized = [["starts-with", "$key", ""], ["content-length-range", least, most]]
        answer = await refused(door, body_of(signed(door, {"key": "k"}, sized)), 400, code)
        assert answer.tag("ProposedSize") == str(len(FILE))
    free = [["starts-with", "$key", ""]]
    large = body_of(signed(door, {"key": "k"}, free), b"x" * (2 * 2**20 + 1))
    await refused(door, large, 400, "EntityTooLarge", "node.s3.max_put_bytes")


async def test_keys(door: DoorUnderTest) -> None:
    await refused(door, body_of(signed(door, {}, [])), 400, "InvalidArgument", "must contain a field named")
    await refused(door, body_of(signed(door, {"key": ""}, ANY)), 400, "InvalidArgument", "greater than 0")
    await refused(door, body_of(signed(door, {"key": "k" * 1025}, ANY)), 400, "KeyTooLongError")
    await refused(door, body_of(signed(door, {"key": "a\0"}, ANY)), 400, "InvalidURI")
    many = signed(door, {"key": "${filename}" * 700}, ANY)
    await refused(door, body_of(many, filename="n" * 200), 400, "InvalidArgument", "exceed")


@pytest.mark.parametrize(
    ("name", "value", "status", "code"),
    [
        ("x-amz-meta-a", "line\r\nbreak", 400, "InvalidArgument"),
        ("x-amz-meta-a", "form\x0cfeed", 400, "InvalidArgument"),
        ("x-amz-meta-a b", "x", 400, "InvalidArgument"),
        ("x-amz-meta-é", "x", 400, "InvalidArgument"),
        ("x-amz-copy-source", "/bucket/kept", 501, "NotImplemented"),
        ("x-amz-storage-class", "GLACIER", 400, "InvalidStorageClass"),
        ("x-amz-website-redirect-location", "ftp://x", 400, "InvalidRedirectLocation"),
        ("tagging", "<Tagging", 400, "MalformedXML"),
    ],
)
async def test_fields_that_mean_nothing_here(
    door: DoorUnderTest, name: str, value: str, status: int, code: str
) -> None:
    await refused(door, body_of(signed(door, {"key": "k", name: value}, [*ANY, {name: value}])), status, code)


async def test_requests_that_are_no_form(door: DoorUnderTest) -> None:
    good = body_of(signed(door, {"key": "k"}, ANY))
    plain = await post(door, good, Content_Type="text/plain")
    assert (plain.status, plain.code) == (412, "PreconditionFailed")
    cut = good[:-8]
    await refused(door, cut, 400, "MalformedPOSTRequest")
    await refused(door, body_of(signed(door, {"key": "k"}, ANY), None), 400, "InvalidArgument", "exactly one file")
    twice = await door.call("POST", "/bucket", good, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
    assert (twice.status, twice.code) == (400, "InvalidArgument")
    assert await door.stored() == ["kept"]


async def test_conditions_hold_for_forms_too(door: DoorUnderTest) -> None:
    fields = body_of(signed(door, {"key": "kept"}, ANY))
    answer = await post(door, fields, If_None_Match="*")
    assert (answer.status, answer.code) == (412, "PreconditionFailed")
