"""Whatever a client sends as a policy or an ACL: it is read or refused, and what was read can be asked anything."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshhold.errors import InvalidError
from meshhold.rules.actions import ACTIONS
from meshhold.rules.policy import Policy, Question, Verdict, pack_policy, parse_policy, unpack_policy
from meshhold.rules.policy_conditions import KEYS
from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.acl import HEADERS, acl_of_document, acl_of_headers

TEXTS = st.one_of(
    st.sampled_from(
        ["*", "", "GK" + "a" * 24, "s3:*", "s3:GetObject", "arn:aws:s3:::bucket/*", "arn:aws:s3:::bucket", "true"]
    ),
    st.sampled_from(
        ["10.0.0.0/8", "::/0", "1", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "${aws:username}", "${*}"]
    ),
    st.text(max_size=12),
)
VALUES = st.one_of(TEXTS, st.integers(), st.floats(), st.booleans(), st.none(), st.lists(TEXTS, max_size=3))
OPERATORS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "ForAnyValue:", "ForAllValues:"]),
        st.sampled_from(
            ["StringEquals", "StringNotLike", "NumericLessThan", "DateEquals", "Bool", "IpAddress", "Null", "ArnLike"]
        ),
        st.sampled_from(["", "IfExists"]),
    ),
)
NAMES = st.one_of(st.sampled_from([*sorted(KEYS), "s3:ExistingObjectTag/a", "s3:RequestObjectTag/ "]), TEXTS)
CONDITIONS = st.dictionaries(OPERATORS, st.dictionaries(NAMES, VALUES, max_size=2), max_size=2)
STATEMENTS = st.fixed_dictionaries(
    {"Effect": st.sampled_from(["Allow", "Deny"])},
    optional={
        "Principal": st.one_of(st.just({"AWS": "*"}), st.just("*"), VALUES),
        "Action": st.one_of(st.just("s3:*"), VALUES),
        "Resource": st.one_of(st.just(["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]), VALUES),
        "NotPrincipal": VALUES,
        "NotAction": VALUES,
        "NotResource": VALUES,
        "Condition": st.one_of(CONDITIONS, VALUES),
    },
)
LIKELY = st.builds(
    lambda effect, condition: {
        "Effect": effect,
        "Principal": {"AWS": "*"},
        "Action": "s3:*",
        "Condition": condition,
        "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"],
    },
    st.sampled_from(["Allow", "Deny"]),
    CONDITIONS,
)
DOCUMENTS = st.builds(
    lambda rows: json.dumps({"Version": "2012-10-17", "Statement": rows}),
    st.lists(st.one_of(LIKELY, STATEMENTS), min_size=1, max_size=3),
)


def read(document: str) -> Policy | None:
    try:
        return parse_policy(document, "bucket")
    except InvalidError:
        return None


@settings(max_examples=300)
@given(DOCUMENTS, st.sampled_from(sorted(ACTIONS)), st.text(max_size=6), st.lists(TEXTS, max_size=2))
def test_a_policy_is_refused_or_answers(document: str, action: str, key: str, values: list[str]) -> None:
    policy = read(document)
    if policy is not None:
        verdict = policy.judge(Question("anonymous", action, key, lambda _: values))
        assert isinstance(verdict, Verdict)
        assert isinstance(policy.is_public, bool)
        assert unpack_policy(pack_policy(policy)) == policy


@given(
    st.one_of(st.text(), st.recursive(VALUES, lambda inner: st.dictionaries(TEXTS, inner, max_size=3)).map(json.dumps))
)
def test_any_text_is_no_surprise(document: str) -> None:
    read(document)


@given(st.dictionaries(st.sampled_from(sorted(HEADERS)), st.binary(max_size=60), max_size=3), st.binary(max_size=200))
def test_any_acl_is_no_surprise(headers: dict[bytes, bytes], raw: bytes) -> None:
    grants: Any = None
    refused: S3Error | None = None
    try:
        acl = acl_of_headers(headers, "meshhold")
        grants = None if acl is None else acl.grants
        acl_of_document(raw, "meshhold")
    except S3Error as error:
        refused = error
    assert refused is None or refused.status < 500
    assert grants is None or len(grants) <= 100
