"""Policies of forms mean what S3 says they mean; what cannot be read or does not hold is refused in its words."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.post_policy import PostPolicy, check_form, parse_policy

SOON = "2030-01-01T00:00:00Z"
NOW_S = 1_800_000_000.0


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def policy(*conditions: Any, **more: Any) -> PostPolicy:
    return parse_policy(encoded(json.dumps({"expiration": SOON, "conditions": list(conditions), **more})))


FIELDS = {"bucket": "b", "key": "user/a.jpg", "content-type": "image/jpeg", "policy": "…", "x-amz-signature": "…"}
HOLDS = ({"bucket": "b"}, ["starts-with", "$key", "user/"], ["eq", "$Content-Type", "image/jpeg"])


def test_a_form_that_keeps_to_its_policy_passes() -> None:
    check_form(policy(*HOLDS), FIELDS, NOW_S)
    check_form(policy(*HOLDS), FIELDS | {"x-ignore-me": "1", "x-amz-checksum-crc32": "x"}, NOW_S)


def test_names_have_no_case_and_values_have() -> None:
    check_form(policy({"BuCkEt": "b"}, ["StArTs-WiTh", "$KEY", "user/"], {"content-TYPE": "image/jpeg"}), FIELDS, NOW_S)
    with pytest.raises(S3Error, match="Policy Condition failed"):
        check_form(policy({"bucket": "B"}, *HOLDS[1:]), FIELDS, NOW_S)


@pytest.mark.parametrize(
    ("conditions", "fields", "told"),
    [
        (HOLDS[1:], FIELDS, "Extra input fields: bucket"),
        (HOLDS, FIELDS | {"acl": "private"}, "Extra input fields: acl"),
        (HOLDS, FIELDS | {"key": "other"}, 'Policy Condition failed: ["starts-with", "$key", "user/"]'),
        ((*HOLDS, ["starts-with", "$acl", ""]), FIELDS, 'Policy Condition failed: ["starts-with", "$acl", ""]'),
        ((*HOLDS, {"x-amz-meta-a": ""}), FIELDS | {"x-amz-meta-a": "v"}, "Policy Condition failed"),
    ],
)
def test_a_form_that_does_not_is_told_why(conditions: Any, fields: dict[str, str], told: str) -> None:
    with pytest.raises(S3Error) as caught:
        check_form(policy(*conditions), fields, NOW_S)
    assert (caught.value.code, caught.value.message) != ("", "")
    assert caught.value.code == "AccessDenied"
    assert caught.value.message.startswith(f"Invalid according to Policy: {told}")


def test_of_several_content_types_each_must_fit() -> None:
    held = policy(*HOLDS[:2], ["starts-with", "$Content-Type", "image/"])
    check_form(held, FIELDS | {"content-type": "image/png,image/gif"}, NOW_S)
    with pytest.raises(S3Error, match="Policy Condition failed"):
        check_form(held, FIELDS | {"content-type": "image/png, text/html"}, NOW_S)


def test_a_policy_ends() -> None:
    held = policy(*HOLDS)
    check_form(held, FIELDS, held.expires_s - 0.001)
    with pytest.raises(S3Error, match="Policy expired"):
        check_form(held, FIELDS, held.expires_s)


def test_of_several_ranges_all_hold() -> None:
    held = policy(["content-length-range", 1, 100], ["Content-Length-Range", 5, 2000])
    assert (held.size_min, held.size_max) == (5, 100)


@pytest.mark.parametrize(
    ("text", "value"),
    [(r'"\$a"', "$a"), (r'"\\$a"', r"\$a"), (r'"a\vb"', "a\vb"), (r'"\u00e9\n"', "é\n")],
)
def test_escapes(text: str, value: str) -> None:
    document = f'{{"expiration": "{SOON}", "conditions": [{{"key": {text}}}]}}'
    assert parse_policy(encoded(document)).conditions[0].value == value


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("{", "Invalid JSON."),
        ("[]", "Invalid JSON."),
        ("[" * 9000, "Invalid JSON."),
        ("9" * 5000, "Invalid JSON."),
        ('{"conditions": []}', "Policy missing expiration."),
        (f'{{"expiration": "{SOON}"}}', "Policy missing conditions."),
        (f'{{"EXPIRATION": "{SOON}", "conditions": []}}', "Unexpected: 'EXPIRATION'."),
        (f'{{"expiration": "{SOON}", "conditions": {{}}}}', "must be a List"),
        ('{"expiration": "2030-01-01 00:00:00+00:00", "conditions": []}', "Invalid 'expiration' value"),
        ('{"expiration": "2030-13-01T00:00:00Z", "conditions": []}', "Invalid 'expiration' value"),
        ('{"expiration": 5, "conditions": []}', "Invalid 'expiration' value"),
    ],
)
def test_what_is_no_policy(document: str, told: str) -> None:
    with pytest.raises(S3Error) as caught:
        parse_policy(encoded(document))
    assert (caught.value.code, caught.value.status) == ("InvalidPolicyDocument", 400)
    assert told in caught.value.message


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"a": "1", "b": "2"},
        {"a": 1},
        [],
        "eq",
        ["eq"],
        ["eq", "key", "x"],
        ["eq", "$key"],
        ["eq", "$key", 5],
        ["ends-with", "$key", "x"],
        ["content-length-range", 0],
        ["content-length-range", -1, 0],
        ["content-length-range", "0", "5"],
        ["content-length-range", True, 5],
        ["content-length-range", 0, 2**64],
    ],
)
def test_what_is_no_condition(condition: Any) -> None:
    with pytest.raises(S3Error) as caught:
        policy(condition)
    assert caught.value.code == "InvalidPolicyDocument"


@pytest.mark.parametrize("text", ["", "*", "a", "eyJ9", "é"])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(S3Error, match="InvalidPolicyDocument"):
        parse_policy(text)


def test_base64_may_be_wrapped() -> None:
    whole = encoded(json.dumps({"expiration": SOON, "conditions": []}))
    assert parse_policy(f"{whole[:20]}\r\n{whole[20:]}\n") == policy()
