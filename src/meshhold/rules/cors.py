"""May a page of another origin do this with a bucket? The first rule that fits decides. Knows no request and no XML.

Source: Amazon S3 user guide, "Elements of a CORS configuration"; Fetch standard, section 3.2, "HTTP CORS protocol".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from meshhold.errors import InvalidError, UnknownFormatError

METHODS: Final = ("GET", "PUT", "POST", "DELETE", "HEAD")
RULES_MAX: Final = 100  # S3's own limit
ID_LENGTH_MAX: Final = 255  # S3's own limit
MAX_AGE_MAX_S: Final = 2**31 - 1
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, section 5.6.2: what a header's name may be
_ORIGIN: Final = re.compile(r"[\x21-\x7e]+\Z")


@dataclass(frozen=True, slots=True)
class CorsRule:
    """Pages of `origins` may use `methods` and send `headers`; patterns with at most one `*`.

    `exposed` are headers that their scripts may read, `max_age_s` is how long a browser may remember the answer.
    """

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    max_age_s: int | None = None
    id: str = ""


def check_rule(rule: CorsRule) -> CorsRule:
    """Return the rule if S3 takes it. Errors: `InvalidError`, in S3's words."""
    for method in rule.methods:
        if method not in METHODS:
            raise InvalidError(f"Found unsupported HTTP method in CORS config. Unsupported method is {method[:64]}")
    for kind, patterns, form in (("AllowedOrigin", rule.origins, _ORIGIN), ("AllowedHeader", rule.headers, _TOKEN)):
        for pattern in patterns:
            if pattern.count("*") > 1:
                raise InvalidError(f'{kind} "{pattern[:256]}" can not have more than one wildcard.')
            if not form.match(pattern):
                raise InvalidError(f'{kind} "{pattern[:256]}" holds a character that no such value can have.')
    for name in rule.exposed:
        if "*" in name:
            raise InvalidError(
                f'ExposeHeader "{name[:256]}" contains wildcard. We currently do not support wildcard for ExposeHeader.'
            )
        if not _TOKEN.match(name):
            raise InvalidError(f'ExposeHeader "{name[:256]}" is not the name of a header.')
    if rule.max_age_s is not None and not 0 <= rule.max_age_s <= MAX_AGE_MAX_S:
        raise InvalidError(f"MaxAgeSeconds is a number of seconds from 0 to {MAX_AGE_MAX_S}.")
    if len(rule.id) > ID_LENGTH_MAX:
        raise InvalidError(f"ID has at most {ID_LENGTH_MAX} characters.")
    return rule


def find_rule(
    rules: Sequence[CorsRule], origin: str, method: str, headers: Sequence[str] = ()
) -> tuple[CorsRule, str] | None:
    """Return the first rule that lets `origin` use `method` and send `headers`, with the origin to answer.

    That is `*` where the rule says so, else the origin itself. Names of headers are compared without case.
    """
    for rule in rules:
        fitting = next((pattern for pattern in rule.origins if _fits(pattern, origin)), None)
        if fitting is None or method not in rule.methods:
            continue
        if all(any(_fits(pattern.lower(), name.lower()) for pattern in rule.headers) for name in headers):
            return rule, "*" if fitting == "*" else origin
    return None


def _fits(pattern: str, text: str) -> bool:
    start, star, end = pattern.partition("*")
    if not star:
        return text == pattern
    return len(text) >= len(start) + len(end) and text.startswith(start) and text.endswith(end)


def pack_cors(rules: Sequence[CorsRule]) -> Any:
    """Return the stored form."""
    return [
        [list(rule.origins), list(rule.methods), list(rule.headers), list(rule.exposed), rule.max_age_s, rule.id]
        for rule in rules
    ]


def unpack_cors(packed: Any) -> tuple[CorsRule, ...]:
    """Undo `pack_cors`. Errors: `InvalidError`, `UnknownFormatError`, or what unpacking makes of hostile values."""
    rules = []
    for origins, methods, headers, exposed, max_age_s, name in packed:
        if max_age_s is not None and type(max_age_s) is not int:
            raise UnknownFormatError("a CORS rule's age is not a number")
        rule = CorsRule(_texts(origins), _texts(methods), _texts(headers), _texts(exposed), max_age_s, _text(name))
        rules.append(check_rule(rule))
    return tuple(rules)


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(map(_text, values))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UnknownFormatError("a CORS rule holds something else than texts")
    return value
