"""Forms, their policies, what is set on buckets: any bytes are read or refused by name, and what is read comes back."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz_s3 import run_fuzz

from meshhold.errors import InvalidError, UnknownFormatError
from meshhold.rules.bucket import UNSET, Aspect, BucketRules, pack_rule, with_rule
from meshhold.rules.cors import METHODS, CorsRule, find_rule
from meshhold.rules.website import Redirect, location
from meshhold.s3.buckets.cors import parse_cors
from meshhold.s3.buckets.website import parse_website
from meshhold.s3.errors import S3Error
from meshhold.s3.syntax.form import FormReader
from meshhold.s3.syntax.post_policy import check_form, parse_policy

NAMES = st.text("abcKEY-_$", min_size=1, max_size=8)
PIECES = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [b"--b", b"\r\n--b\r\n", b"\r\n--b--", b"\r\n\r\n", b"Content-Disposition: form-data; name=a",
            b"; name=file",
             b'; filename="x', b'"', b"\r\n"]
        ),
    ),
    max_size=12,
)  # fmt: skip
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["eq", "$key"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
MARKUP = st.lists(
    st.sampled_from(
        ["<CORSConfiguration>", "</CORSConfiguration>", "<CORSRule>", "</CORSRule>", "<AllowedOrigin>*</AllowedOrigin>",
         "<AllowedMethod>GET</AllowedMethod>", "<ID>", "</ID>", "<MaxAgeSeconds>7</MaxAgeSeconds>", "x", "&amp;",
         "\xff",
         "<WebsiteConfiguration>", "</WebsiteConfiguration>", "<IndexDocument>", "</IndexDocument>",
         "<Suffix>i</Suffix>",
         "<RoutingRules>", "</RoutingRules>", "<RoutingRule>", "</RoutingRule>", "<Redirect>", "</Redirect>",
         "<HostName>h</HostName>", "<HttpRedirectCode>", "</HttpRedirectCode>", "302"]
    ),
    max_size=14,
).map(lambda pieces: "".join(pieces).encode("latin-1"))  # fmt: skip


@given(PIECES)
def test_any_bytes_are_a_form_or_are_refused(pieces: list[bytes]) -> None:
    form = FormReader(b"b")
    with suppress(S3Error):
        for piece in pieces:
            form.feed(piece)
        form.finish()


@given(
    st.dictionaries(NAMES.map(str.lower), st.text(max_size=20), max_size=4), st.binary(max_size=80), st.integers(1, 40)
)
def test_a_form_comes_back_wherever_it_is_cut(fields: dict[str, str], file: bytes, step: int) -> None:
    raw = "".join(
        f'--bX0\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items()
    ).encode()
    raw += b'--bX0\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + file + b"\r\n--bX0--\r\n"
    form = FormReader(b"bX0")
    found = b"".join(form.feed(raw[at : at + step]) for at in range(0, len(raw), step))
    form.finish()
    assert (found, form.fields) == (file, fields)


@settings(max_examples=60)
@given(JSON, st.lists(JSON, max_size=3), st.booleans())
def test_any_json_is_a_policy_or_is_refused(whole: Any, conditions: list[Any], is_whole: bool) -> None:
    document = whole if is_whole else {"expiration": "2030-01-01T00:00:00Z", "conditions": conditions}
    with suppress(S3Error):
        policy = parse_policy(base64.b64encode(json.dumps(document).encode()).decode())
        check_form(policy, {"key": "k", "bucket": "b"}, 0.0)


@given(st.text(max_size=30))
def test_any_text_is_a_policy_or_is_refused(text: str) -> None:
    for given_text in (text, base64.b64encode(text.encode("utf-8", "replace")).decode()):
        with suppress(S3Error):
            parse_policy(given_text)


@given(MARKUP)
def test_any_document_is_read_or_refused_and_what_is_read_can_be_stored(raw: bytes) -> None:
    with suppress(S3Error):
        rules = BucketRules(cors=parse_cors(raw))
        assert with_rule(UNSET, Aspect.CORS, pack_rule(Aspect.CORS, rules)) == rules
    with suppress(S3Error):
        rules = BucketRules(website=parse_website(raw))
        assert with_rule(UNSET, Aspect.WEBSITE, pack_rule(Aspect.WEBSITE, rules)) == rules


@given(JSON, st.sampled_from([Aspect.CORS, Aspect.WEBSITE]))
def test_any_record_is_read_or_refused(packed: Any, aspect: Aspect) -> None:
    with suppress(UnknownFormatError):
        with_rule(UNSET, aspect, packed)


@given(
    st.text(max_size=12), st.sampled_from(METHODS), st.text("a*", max_size=6), st.lists(st.text(max_size=5), max_size=2)
)
def test_a_pattern_is_a_prefix_and_a_suffix(origin: str, method: str, pattern: str, headers: list[str]) -> None:
    found = find_rule([CorsRule((pattern,), (method,), ("*",))], origin, method, headers)
    start, star, end = pattern.partition("*")
    fits = (
        origin.startswith(start) and origin.endswith(end) and len(origin) >= len(start + end)
        if star
        else origin == pattern
    )
    assert (found is not None) == fits


@given(st.binary(max_size=40), st.sampled_from(["", "https"]), st.sampled_from(["", "other.example.com"]))
def test_a_redirect_is_one_line_of_ascii_and_leads_where_it_says(key: bytes, protocol: str, host: str) -> None:
    with suppress(InvalidError):
        target = location(Redirect(host=host, protocol=protocol), key, "asked.example.com")
        assert target.isascii()
        assert target.isprintable()
        if host or protocol:
            assert target.removeprefix("https:").startswith(f"//{host or 'asked.example.com'}/")
        else:
            assert target.startswith("/")
            assert not target.startswith("//")


async def test_a_sample_of_hostile_requests(tmp_path: Path) -> None:
    """`make sim` sends a million."""
    told: list[str] = []
    outcomes = await run_fuzz(350, 1, told.append, tmp_path)
    assert sum(outcomes.values()) == 350
    assert not any("500" in outcome for outcome in outcomes)
