"""What a bucket's policy says: who is meant, what, under which conditions; and what cannot be judged is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest

from meshhold.errors import InvalidError
from meshhold.model.ids import ANONYMOUS
from meshhold.rules.actions import ACTIONS, OBJECT_ACTIONS, OF_VERSIONS, UNOFFERED
from meshhold.rules.bucket import UNSET, Aspect, BucketRules, pack_rule, with_rule
from meshhold.rules.policy import SIZE_MAX, Policy, Question, Verdict, parse_policy
from meshhold.rules.public_access import CLOSED, Ownership, PublicAccessBlock

KEY: Final = "GK" + "a" * 24
OTHER: Final = "GK" + "b" * 24
ALL: Final = ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]
ALLOWS, DENIES, SILENT = Verdict.ALLOWS, Verdict.DENIES, Verdict.SILENT


def statement(**parts: Any) -> dict[str, Any]:
    base = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "s3:GetObject", "Resource": ALL}
    found = {**base, **parts}
    return {name: value for name, value in found.items() if value is not None}


def policy(*statements: dict[str, Any], **parts: Any) -> Policy:
    document = {"Version": "2012-10-17", "Statement": list(statements), **parts}
    return parse_policy(json.dumps(document), "bucket")


def ask(
    found: Policy,
    action: str = "s3:GetObject",
    key: str | None = "photos/cat",
    sender: str = KEY,
    facts: Mapping[str, Sequence[str]] | None = None,
) -> Verdict:
    return found.judge(Question(sender, action, key, lambda name: (facts or {}).get(name, ())))


# -- who ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("principal", "key", "other", "anonymous"),
    [
        ("*", ALLOWS, ALLOWS, ALLOWS),
        ({"AWS": "*"}, ALLOWS, ALLOWS, ALLOWS),
        ({"AWS": KEY}, ALLOWS, SILENT, SILENT),
        ({"AWS": f"arn:aws:iam:::user/{KEY}"}, ALLOWS, SILENT, SILENT),
        ({"AWS": [f"arn:aws:iam::meshhold:user/{KEY}", OTHER]}, ALLOWS, ALLOWS, SILENT),
        ({"AWS": [KEY, "*"]}, ALLOWS, ALLOWS, ALLOWS),
        ({"AWS": "arn:aws:iam::123456789012:root"}, SILENT, SILENT, SILENT),
        ({"AWS": "123456789012"}, SILENT, SILENT, SILENT),
    ],
)
def test_who_is_meant(principal: Any, key: Verdict, other: Verdict, anonymous: Verdict) -> None:
    found = policy(statement(Principal=principal))
    assert [ask(found, sender=sender) for sender in (KEY, OTHER, ANONYMOUS)] == [key, other, anonymous]


@pytest.mark.parametrize(
    "principal",
    [
        "GKzz",
        {"AWS": "GKzz"},
        {"AWS": "anonymous"},
        {"AWS": "arn:aws:iam::123456789012:user/alice"},
        {"AWS": []},
        {"AWS": ["arn:aws:iam::meshhold:root"]},
        {"Service": "logging.s3.amazonaws.com"},
        {"Federated": "x"},
        [KEY],
        7,
        {"CanonicalUser": "meshhold"},
        {"AWS": KEY, "Service": "x"},
        {"AWS": [7]},
        None,
    ],
)
def test_principals_that_name_nobody_are_refused(principal: Any) -> None:
    with pytest.raises(InvalidError):
        policy(statement(Principal=principal))


def test_another_account_is_denied_nothing_so_a_denial_of_it_is_refused() -> None:
    with pytest.raises(InvalidError, match="Invalid principal"):
        policy(statement(Effect="Deny", Principal={"AWS": "arn:aws:iam::123456789012:root"}))


def test_all_but_one_key_are_denied() -> None:
    found = policy(statement(Effect="Deny", Principal=None, NotPrincipal={"AWS": KEY}))
    assert [ask(found, sender=sender) for sender in (KEY, OTHER, ANONYMOUS)] == [SILENT, DENIES, DENIES]
    with pytest.raises(InvalidError, match="NotPrincipal"):
        policy(statement(Principal=None, NotPrincipal={"AWS": KEY}))


def test_everybody_writes_only_with_a_key() -> None:
    found = policy(statement(Action=["s3:PutObject", "s3:GetObject"]))
    assert ask(found, "s3:PutObject") is ALLOWS
    assert ask(found, "s3:PutObject", sender=ANONYMOUS) is SILENT
    assert ask(found, sender=ANONYMOUS) is ALLOWS
    with pytest.raises(InvalidError, match="without a signature"):
        policy(statement(Principal="*", Action="*"))


def test_to_whom_a_policy_is_open_must_be_named() -> None:
    assert ask(policy(statement(Action="*")), "s3:PutBucketPolicy", None) is SILENT
    assert ask(policy(statement(Action="*", Principal={"AWS": KEY})), "s3:PutBucketPolicy", None) is ALLOWS


# -- what -----------------------------------------------------------------------------------------------------------


def test_a_denial_beats_every_permission() -> None:
    allow, deny = statement(), statement(Effect="Deny", Resource="arn:aws:s3:::bucket/photos/*")
    for found in (policy(allow, deny), policy(deny, allow)):
        assert ask(found) is DENIES
        assert ask(found, key="text") is ALLOWS


@pytest.mark.parametrize(
    ("action", "fits"),
    [
        ("s3:GetObject", {"s3:GetObject"}),
        ("S3:getobject", {"s3:GetObject"}),
        ("s3:GetObject*", {name for name in ACTIONS if name.startswith("s3:GetObject")}),
        ("s3:*ObjectTagging", {"s3:GetObjectTagging", "s3:PutObjectTagging", "s3:DeleteObjectTagging"}),
        ("s3:?etObject", {"s3:GetObject"}),
        ("s3:RestoreObject", set()),
        (["s3:ListBucket", "s3:RestoreObject"], {"s3:ListBucket"}),
        ("*", set(ACTIONS)),
    ],
)
def test_patterns_of_actions(action: Any, fits: set[str]) -> None:
    [found] = policy(statement(Action=action)).statements
    assert found.actions == fits
    [found] = policy(statement(Action=None, NotAction=action)).statements
    assert found.actions == ACTIONS.keys() - fits


@pytest.mark.parametrize(
    "action", ["s3:GetObjekt", "ec2:*", "", "GetObject", "s3:", [], 7, None, ["s3:GetObject", "x"]]
)
def test_actions_that_nobody_knows_are_refused(action: Any) -> None:
    with pytest.raises(InvalidError):
        policy(statement(Action=action))


def test_actions_are_on_objects_or_on_buckets() -> None:
    assert {"s3:GetObject", "s3:PutObjectVersionAcl", "s3:AbortMultipartUpload"} <= OBJECT_ACTIONS
    assert not OBJECT_ACTIONS & {"s3:ListBucket", "s3:GetBucketObjectLockConfiguration", "s3:DeleteBucket"}
    assert OF_VERSIONS["s3:GetObject"] == "s3:GetObjectVersion"
    assert OF_VERSIONS["s3:PutObjectTagging"] == "s3:PutObjectVersionTagging"
    assert "s3:PutObject" not in OF_VERSIONS
    assert not UNOFFERED & ACTIONS.keys()


@pytest.mark.parametrize(
    ("resource", "on_bucket", "on_photo", "on_text"),
    [
        ("arn:aws:s3:::bucket", ALLOWS, SILENT, SILENT),
        ("arn:aws:s3:::bucket/*", SILENT, ALLOWS, ALLOWS),
        ("arn:aws:s3:::bucket/photos/*", SILENT, ALLOWS, SILENT),
        ("arn:aws:s3:::bucket/photos/c?t", SILENT, ALLOWS, SILENT),
        ("arn:aws:s3:::buck*", ALLOWS, ALLOWS, ALLOWS),
        ("arn:aws:s3:::*/*", SILENT, ALLOWS, ALLOWS),
        ("*", ALLOWS, ALLOWS, ALLOWS),
        (["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/text"], ALLOWS, SILENT, ALLOWS),
    ],
)
def test_patterns_of_resources(resource: Any, on_bucket: Verdict, on_photo: Verdict, on_text: Verdict) -> None:
    found = policy(statement(Action="*", Resource=resource))
    assert ask(found, "s3:ListBucket", None) is on_bucket
    assert [ask(found, key=key) for key in ("photos/cat", "text")] == [on_photo, on_text]


def test_all_but_some_resources() -> None:
    found = policy(statement(Effect="Deny", Resource=None, NotResource="arn:aws:s3:::bucket/photos/*"))
    assert [ask(found, key=key) for key in ("photos/cat", "text")] == [SILENT, DENIES]


@pytest.mark.parametrize(
    "resource",
    ["arn:aws:s3:::other/*", "arn:aws:s3:::bucket2", "bucket/*", "arn:aws:s3:::", "arn:aws:ec2:::*", [], 7, None],
)
def test_resources_elsewhere_are_refused(resource: Any) -> None:
    with pytest.raises(InvalidError):
        policy(statement(Resource=resource))


def test_a_denial_that_could_never_deny_is_refused() -> None:
    for action, resource in (("s3:GetObject", ALL[0]), ("s3:ListBucket", ALL[1])):
        with pytest.raises(InvalidError, match="does not apply"):
            policy(statement(Effect="Deny", Action=action, Resource=resource))
        assert ask(policy(statement(Action=action, Resource=resource))) is SILENT


# -- conditions -----------------------------------------------------------------------------------------------------


def holds(condition: dict[str, Any], facts: Mapping[str, Sequence[str]]) -> bool:
    return ask(policy(statement(Condition=condition)), facts=facts) is ALLOWS


@pytest.mark.parametrize(
    ("operator", "value", "found", "fits"),
    [
        ("StringEquals", "a", "a", True),
        ("StringEquals", ["b", "a"], "a", True),
        ("StringEquals", "a", "A", False),
        ("StringEqualsIgnoreCase", "a", "A", True),
        ("StringNotEquals", ["a", "b"], "b", False),
        ("StringNotEquals", ["a", "b"], "c", True),
        ("StringLike", "a*c", "abbc", True),
        ("StringLike", "a?c", "ac", False),
        ("StringNotLike", "a*", "abc", False),
        ("StringNotLike", "a*", "b", True),
        ("StringEquals", "a*", "abc", False),
        ("stringlike", "*", "", True),
        ("ArnLike", "arn:*", "arn:x", True),
        ("Bool", True, "true", True),
        ("Bool", "false", "true", False),
        ("NumericLessThanEquals", 10, "10", True),
        ("NumericLessThan", "10", "10", False),
        ("NumericGreaterThan", 10, "11", True),
        ("NumericNotEquals", "10", "11", True),
        ("NumericEquals", 1, "x", False),
        ("DateGreaterThan", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", True),
        ("DateLessThan", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+02:00", True),
        ("DateEquals", "0", "1970-01-01", True),
        ("IpAddress", "10.0.0.0/8", "10.1.2.3", True),
        ("IpAddress", ["10.0.0.0/8", "::1"], "::1", True),
        ("IpAddress", "10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("IpAddress", "10.0.0.0/8", "11.1.2.3", False),
        ("NotIpAddress", "10.0.0.0/8", "11.1.2.3", True),
        ("NotIpAddress", "10.0.0.1", "10.0.0.1", False),
        ("ForAnyValue:StringEquals", "a", "a", True),
        ("StringEqualsIfExists", "a", "b", False),
    ],
)
def test_operators(operator: str, value: Any, found: str, fits: bool) -> None:
    assert holds({operator: {"aws:UserAgent": value}}, {"aws:useragent": (found,)}) is fits


@pytest.mark.parametrize(
    ("operator", "fits"),
    [
        ("StringEquals", False),
        ("StringNotEquals", True),
        ("StringEqualsIfExists", True),
        ("StringNotLikeIfExists", True),
        ("IpAddress", False),
        ("NotIpAddress", True),
        ("ForAllValues:StringEquals", True),
        ("ForAnyValue:StringEquals", False),
        ("ForAnyValue:StringNotEquals", False),
        ("NumericEquals", False),
    ],
)
def test_a_request_that_has_no_value(operator: str, fits: bool) -> None:
    value = "10.0.0.1" if "Ip" in operator else "1"
    assert holds({operator: {"aws:Referer": value}}, {}) is fits


@pytest.mark.parametrize(("wanted", "without"), [("true", True), (True, True), ("false", False)])
def test_presence_of_a_value(wanted: Any, without: bool) -> None:
    condition = {"Null": {"s3:x-amz-acl": wanted}}
    assert holds(condition, {}) is without
    assert holds(condition, {"s3:x-amz-acl": ("private",)}) is not without


@pytest.mark.parametrize(
    ("operator", "tags", "fits"),
    [
        ("ForAllValues:StringEquals", ("a", "b"), True),
        ("ForAllValues:StringEquals", ("a", "c"), False),
        ("ForAnyValue:StringEquals", ("a", "c"), True),
        ("ForAnyValue:StringEquals", ("c",), False),
        ("ForAllValues:StringNotEquals", ("c", "d"), True),
        ("ForAllValues:StringNotEquals", ("a", "c"), False),
    ],
)
def test_keys_with_several_values(operator: str, tags: tuple[str, ...], fits: bool) -> None:
    assert holds({operator: {"s3:RequestObjectTagKeys": ["a", "b"]}}, {"s3:requestobjecttagkeys": tags}) is fits


def test_all_conditions_hold_together_and_the_case_of_a_tag_matters() -> None:
    both = {"StringEquals": {"s3:ExistingObjectTag/Security": "public", "aws:Referer": "x"}}
    assert holds(both, {"s3:existingobjecttag/Security": ("public",), "aws:referer": ("x",)})
    assert not holds(both, {"s3:existingobjecttag/Security": ("public",)})
    assert not holds(both, {"s3:existingobjecttag/security": ("public",), "aws:referer": ("x",)})
    assert policy(statement(Condition=both)).asks_for_tags
    assert not policy(statement()).asks_for_tags


@pytest.mark.parametrize(
    "condition",
    [
        {"StringEquals": {"aws:SourceVpc": "vpc-1"}},
        {"StringEquals": {"s3:object-lock-mode": "COMPLIANCE"}},
        {"StringSame": {"aws:Referer": "x"}},
        {"NullIfExists": {"aws:Referer": "true"}},
        {"StringEquals": {"aws:Referer": []}},
        {"StringEquals": {"aws:Referer": {}}},
        {"StringEquals": {}},
        {"StringEquals": "x"},
        "x",
        {"Null": {"aws:Referer": "x"}},
        {"IpAddress": {"aws:SourceIp": "10.0.0.0/99"}},
        {"NumericEquals": {"s3:max-keys": "ten"}},
        {"BinaryEquals": {"aws:Referer": ""}},
        {"DateEquals": {"aws:CurrentTime": "soon"}},
        {"Bool": {"aws:SecureTransport": "maybe"}},
        {"StringEquals": {"s3:ExistingObjectTag/": "x"}},
        {"StringEquals": {"aws:Referer": "${aws:Nothing}"}},
        {"NumericEquals": {"s3:max-keys": "nan"}},
    ],
)
def test_conditions_that_cannot_be_judged_are_refused(condition: Any) -> None:
    with pytest.raises(InvalidError):
        policy(statement(Condition=condition))


def test_variables_stand_for_what_the_request_says() -> None:
    home = statement(Resource="arn:aws:s3:::bucket/home/${aws:username}/*")
    assert ask(policy(home), key=f"home/{KEY}/x", facts={"aws:username": (KEY,)}) is ALLOWS
    assert ask(policy(home), key=f"home/{OTHER}/x", facts={"aws:username": (KEY,)}) is SILENT
    assert ask(policy(home), key="home//x", facts={}) is SILENT
    assert ask(policy(home), key="home/any/x", facts={"aws:username": ("*",)}) is SILENT  # a value is no pattern
    literal = policy(home, Version="2008-10-17")
    assert ask(literal, key="home/${aws:username}/x", facts={"aws:username": (KEY,)}) is ALLOWS
    star = statement(Resource="arn:aws:s3:::bucket/${*}x")
    assert ask(policy(star), key="*x") is ALLOWS
    named = {"StringEquals": {"s3:prefix": "home/${aws:username}/"}}
    assert holds(named, {"s3:prefix": (f"home/{KEY}/",), "aws:username": (KEY,)})
    assert not holds(named, {"s3:prefix": ("home//",)})


# -- public or not --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "public"),
    [
        ({}, True),
        ({"Principal": {"AWS": KEY}}, False),
        ({"Effect": "Deny"}, False),
        ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, False),
        ({"Condition": {"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "0.0.0.0/1"]}}}, True),
        ({"Condition": {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, True),
        ({"Condition": {"StringEquals": {"aws:username": KEY}}}, False),
        ({"Condition": {"StringLike": {"aws:username": "GK*"}}}, True),
        ({"Condition": {"StringEqualsIfExists": {"aws:username": KEY}}}, True),
        ({"Condition": {"StringLike": {"aws:Referer": "https://example.org/*"}}}, True),
    ],
)
def test_a_policy_is_public_unless_it_says_who(parts: dict[str, Any], public: bool) -> None:
    assert policy(statement(**parts)).is_public is public


# -- documents ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "{}",
        '{"Statement": []}',
        '{"Statement": [7]}',
        '{"Statement": "x"}',
        "[" * 9000,
        '{"Statement": {}, "Statement": {}}',
        json.dumps({"Version": "2020-01-01", "Statement": statement()}),
        json.dumps({"Id": 7, "Statement": statement()}),
        json.dumps({"Statement": statement(), "Statements": []}),
        json.dumps({"Statement": statement(Effect="allow")}),
        json.dumps({"Statement": statement(Sid=7)}),
        json.dumps({"Statement": [statement(Sid="a"), statement(Sid="a")]}),
        json.dumps({"Statement": statement(Extra=1)}),
        json.dumps({"Statement": statement(NotAction="s3:*")}),
        json.dumps({"Statement": statement(), "Id": "x" * SIZE_MAX}),
    ],
)
def test_documents_that_are_none(document: str) -> None:
    with pytest.raises(InvalidError):
        parse_policy(document, "bucket")


def test_one_statement_need_not_be_a_list() -> None:
    assert ask(parse_policy(json.dumps({"Statement": statement(), "Id": "x"}), "bucket")) is ALLOWS


# -- stored form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aspect", "value"),
    [
        (Aspect.POLICY, policy(statement())),
        (Aspect.BLOCK, PublicAccessBlock(ignore_acls=True)),
        (Aspect.BLOCK, PublicAccessBlock()),
        (Aspect.OWNERSHIP, Ownership.ENFORCED),
    ],
)
def test_what_is_set_comes_back(aspect: Aspect, value: Any) -> None:
    rules = BucketRules(**{str(aspect): value})
    packed = pack_rule(aspect, rules)
    assert with_rule(UNSET, aspect, packed) == rules
    assert with_rule(rules, aspect, None) == UNSET


@pytest.mark.parametrize("packed", [7, {}, {"document": "{", "bucket": "b"}, {"document": 7, "bucket": "b"}, "x", [1]])
def test_a_policy_that_cannot_be_read_denies(packed: Any) -> None:
    """A newer program may have denied something in words that this one does not know."""
    found = with_rule(UNSET, Aspect.POLICY, packed).policy
    assert found is not None
    assert ask(found) is DENIES
    assert not found.is_public


@pytest.mark.parametrize("packed", [7, {}, [True], [1, 1, 1, 1], "x"])
def test_a_block_that_cannot_be_read_blocks(packed: Any) -> None:
    assert with_rule(UNSET, Aspect.BLOCK, packed).block == CLOSED
