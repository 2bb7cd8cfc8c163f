"""Does the condition of a policy's statement hold for a request? Knows no statement; callers say what the request says.

Source: IAM user guide, "IAM JSON policy elements: Condition operators", and the condition keys of "Actions, resources,
and condition keys for Amazon S3". A key or operator that cannot be judged here is refused when the policy is set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any, Final

from meshhold.errors import InvalidError
from meshhold.rules.globs import Glob

Facts = Callable[[str], Sequence[str]]
"""Returns the values of a condition key (as in `KEYS`, or a tag's) in the request, none where it has none."""

_Test = Callable[[str, Facts], bool]

KEYS: Final = frozenset(
    (
        "s3:prefix", "s3:delimiter", "s3:max-keys", "s3:versionid", "s3:authtype", "s3:signatureversion",
        "s3:signatureage", "s3:x-amz-content-sha256", "s3:if-match", "s3:if-none-match", "s3:requestobjecttagkeys",
        "s3:x-amz-acl", "s3:x-amz-copy-source", "s3:x-amz-metadata-directive", "s3:x-amz-storage-class",
        "s3:x-amz-website-redirect-location", "s3:x-amz-server-side-encryption",
        "s3:x-amz-server-side-encryption-aws-kms-key-id", "s3:x-amz-server-side-encryption-customer-algorithm",
        "s3:x-amz-grant-read", "s3:x-amz-grant-write", "s3:x-amz-grant-read-acp", "s3:x-amz-grant-write-acp",
        "s3:x-amz-grant-full-control", "aws:sourceip", "aws:securetransport", "aws:useragent", "aws:referer",
        "aws:username", "aws:userid", "aws:principaltype", "aws:principalarn", "aws:currenttime", "aws:epochtime",
    )
)  # fmt: skip
"""The condition keys that a request answers, in lower case: their case means nothing."""

EXISTING_TAG: Final = "s3:existingobjecttag/"
REQUEST_TAG: Final = "s3:requestobjecttag/"
"""Followed by the tag's key, whose case matters."""

_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")
_LITERALS: Final = {"*": "*", "?": "?", "$": "$"}
_OPERATOR: Final = re.compile(r"(?:(?P<each>foranyvalue|forallvalues):)?(?P<name>[a-z]+?)(?P<optional>ifexists)?\Z")
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,18})?\Z")
_DATE_FORMS: Final = ("%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z", "%Y-%m-%dT%H:%M%z", "%Y-%m-%d")


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key. `each` is `foranyvalue`, `forallvalues` or `""`."""

    operator: str
    key: str
    values: tuple[str, ...]
    each: str
    is_optional: bool
    is_negated: bool
    tests: tuple[_Test, ...]

    def holds(self, facts: Facts) -> bool:
        """Tell whether the request meets it."""
        found = facts(self.key)
        if self.operator == "null":
            return any((value == "true") is (not found) for value in self.values)
        if not found:
            return self.is_optional or self.each == "forallvalues" or (self.is_negated and not self.each)
        fits = (any(test(value, facts) for test in self.tests) is not self.is_negated for value in found)
        must_all = self.each == "forallvalues" or (self.is_negated and not self.each)
        return all(fits) if must_all else any(fits)

    @property
    def pins_sender(self) -> bool:
        """Tell whether it lets only senders pass that it names, so that what it guards is not for everybody."""
        if self.is_optional or self.is_negated or self.each == "forallvalues":
            return False
        if self.key == "aws:sourceip":
            return self.operator == "ipaddress" and all(map(_is_narrow, self.values))
        named = self.key in ("aws:username", "aws:userid", "aws:principalarn")
        return named and self.operator != "null" and not any(mark in value for value in self.values for mark in "*?$")


def _is_narrow(network: str) -> bool:
    """Tell whether a network is not most of the Internet. Source: S3's own measure of "public"."""
    found = ip_network(network, strict=False)
    return found.prefixlen >= (8 if found.version == 4 else 32)


def parse_conditions(raw: Any, *, has_variables: bool) -> tuple[Condition, ...]:
    """Read a statement's `Condition`. `has_variables`: the policy's version knows `${…}`.

    Errors: `InvalidError` names the operator, key or value that cannot be judged.
    """
    if not isinstance(raw, dict):
        raise InvalidError("Condition is an object: operator → key → values")
    found = []
    for operator, pairs in raw.items():
        if not isinstance(pairs, dict) or not pairs:
            raise InvalidError(f"the condition {operator!r} is an object: key → values")
        found += [_parse(operator, key, values, has_variables=has_variables) for key, values in pairs.items()]
    return tuple(found)


def _parse(operator: str, key: str, raw: Any, *, has_variables: bool) -> Condition:
    shape = _OPERATOR.match(operator.lower())
    name = shape["name"] if shape else ""
    positive = _POSITIVES.get(name, name)
    if shape is None or positive not in _TESTS or (name == "null" and operator.lower() != "null"):
        raise InvalidError(f"the condition operator {operator!r} is none that is judged here")
    values = tuple(map(_text, raw if isinstance(raw, list) else [raw]))
    if not values:
        raise InvalidError(f"the condition {operator} on {key} has no value")
    make = _TESTS[positive]
    if has_variables and positive in _WITH_VARIABLES:
        tests = tuple(_with_variables(value, make) for value in values)
    else:
        tests = tuple(make(value) for value in values)
    return Condition(
        operator=positive,
        key=condition_key(key),
        values=tuple(value.lower() for value in values) if name == "null" else values,
        each=shape["each"] or "",
        is_optional=shape["optional"] is not None,
        is_negated=name in _POSITIVES,
        tests=tests,
    )


def condition_key(key: str) -> str:
    """Return a condition key as `Facts` takes it. Errors: `InvalidError` for one that no request answers here."""
    for tags in (EXISTING_TAG, REQUEST_TAG):
        if key.lower().startswith(tags) and len(key) > len(tags):
            return tags + key[len(tags) :]
    if key.lower() not in KEYS:
        raise InvalidError(f"the condition key {key!r} is none that is judged here")
    return key.lower()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise InvalidError("the values of a condition are texts, numbers, true or false")


# -- variables ------------------------------------------------------------------------------------------------------


def check_variables(text: str) -> bool:
    """Tell whether a text holds variables. Errors: `InvalidError` for one that no request answers here."""
    for found in _VARIABLE.finditer(text):
        if found[1] not in _LITERALS:
            condition_key(found[1])
    return _VARIABLE.search(text) is not None


def fill_variables(text: str, facts: Facts) -> str | None:
    """Return a pattern with its variables' values in place; None if one has none, or one that is a pattern itself."""
    pieces = []
    end = 0
    for found in _VARIABLE.finditer(text):
        values = [] if found[1] in _LITERALS else facts(condition_key(found[1]))
        value = _LITERALS.get(found[1]) if found[1] in _LITERALS else (values[0] if len(values) == 1 else None)
        if value is None or (found[1] not in _LITERALS and ("*" in value or "?" in value)):
            return None
        pieces += [text[end : found.start()], value]
        end = found.end()
    return "".join([*pieces, text[end:]])


def _with_variables(value: str, make: Callable[[str], _Test]) -> _Test:
    if not check_variables(value):
        return make(value)

    def test(found: str, facts: Facts) -> bool:
        filled = fill_variables(value, facts)
        return filled is not None and make(filled)(found, facts)

    return test


# -- operators ------------------------------------------------------------------------------------------------------


def _equals(value: str) -> _Test:
    return lambda found, _: found == value


def _equals_any_case(value: str) -> _Test:
    return lambda found, _: found.lower() == value.lower()


def _like(value: str) -> _Test:
    glob = Glob(value)
    return lambda found, _: glob.matches(found)


def _compares(read: Callable[[str], float | None], is_met: Callable[[float, float], bool], what: str) -> Any:
    def make(value: str) -> _Test:
        limit = read(value)
        if limit is None:
            raise InvalidError(f"{value!r} in a condition is no {what}")

        def test(found: str, _: Facts) -> bool:
            number = read(found)
            return number is not None and is_met(number, limit)

        return test

    return make


def _number(text: str) -> float | None:
    return float(text) if _DECIMAL.match(text) else None


def _date(text: str) -> float | None:
    """Return seconds since 1970 of an ISO 8601 date or a number of seconds; None for anything else."""
    for form in _DATE_FORMS:
        try:
            found = datetime.strptime(text, form)  # noqa: DTZ007 - a form without a zone means UTC
        except ValueError:
            continue
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return _number(text)


def _bool(value: str) -> _Test:
    if value.lower() not in ("true", "false"):
        raise InvalidError(f"{value!r} in a condition is neither true nor false")
    return _equals_any_case(value)


def _in_network(value: str) -> _Test:
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise InvalidError(f"{value!r} in a condition is no IP address or network") from None

    def test(found: str, _: Facts) -> bool:
        try:
            address = ip_address(found)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address) in network

    return test


_ORDERS: Final[dict[str, Callable[[float, float], bool]]] = {
    "equals": lambda one, other: one == other,
    "lessthan": lambda one, other: one < other,
    "lessthanequals": lambda one, other: one <= other,
    "greaterthan": lambda one, other: one > other,
    "greaterthanequals": lambda one, other: one >= other,
}
_TESTS: Final[dict[str, Callable[[str], _Test]]] = {
    "stringequals": _equals,
    "stringequalsignorecase": _equals_any_case,
    "stringlike": _like,
    "arnequals": _like,
    "arnlike": _like,
    "bool": _bool,
    "null": _bool,
    "ipaddress": _in_network,
    **{f"numeric{name}": _compares(_number, order, "number") for name, order in _ORDERS.items()},
    **{f"date{name}": _compares(_date, order, "date") for name, order in _ORDERS.items()},
}
_POSITIVES: Final = {
    "stringnotequals": "stringequals",
    "stringnotequalsignorecase": "stringequalsignorecase",
    "stringnotlike": "stringlike",
    "arnnotequals": "arnequals",
    "arnnotlike": "arnlike",
    "notipaddress": "ipaddress",
    "numericnotequals": "numericequals",
    "datenotequals": "dateequals",
}
"""What each negated operator denies."""

_WITH_VARIABLES: Final = frozenset(
    {"stringequals", "stringequalsignorecase", "stringlike", "arnequals", "arnlike"},
)
