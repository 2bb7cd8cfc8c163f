"""Does a form keep to the policy that came with it? Reads and judges POST policies; knows no signature and no body.

Source: Amazon S3 API reference, "POST Policy" (and "Browser-Based Uploads Using POST", form fields).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from meshhold.s3.errors import S3Error

_EXPIRATION: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d{1,9})?Z\Z", re.ASCII)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_OPERATORS: Final = ("eq", "starts-with")
_SIZE_MAX: Final = 2**63
_UNCOVERED: Final = frozenset(("file", "policy", "x-amz-signature", "signature", "awsaccesskeyid"))
"""Fields that no condition needs to name: those that prove the policy itself."""
_UNCOVERED_PREFIXES: Final = ("x-ignore-", "x-amz-checksum-", "x-amz-sdk-checksum-")
"""And those that can only make an upload fail: nobody gets more from a policy by announcing a checksum."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a field must be. `operator` is `eq` or `starts-with`; `field` is in lower case, `shown` as written."""

    operator: str
    field: str
    value: str
    shown: str

    def holds(self, found: str | None) -> bool:
        """Tell whether the field's value fits; None is a field that the form has not."""
        if found is None:
            return False
        if self.operator == "eq":
            return found == self.value
        if self.field == "content-type":  # a list: each of its types must fit
            return all(one.strip().startswith(self.value) for one in found.split(","))
        return found.startswith(self.value)

    def __str__(self) -> str:
        return json.dumps([self.operator, f"${self.shown}", self.value])


@dataclass(frozen=True, slots=True)
class PostPolicy:
    """Until when (seconds since 1970), and for which forms, a signature counts. Sizes of the file in bytes."""

    expires_s: float
    conditions: tuple[Condition, ...]
    size_min: int = 0
    size_max: int = _SIZE_MAX


def parse_policy(text: str) -> PostPolicy:
    """Read a policy as forms carry it: JSON in base64. Errors: `InvalidPolicyDocument`, naming what is wrong."""
    try:
        raw = base64.b64decode("".join(text.split()), validate=True).decode()
        # S3 lets a policy write `\$` and `\v`, which JSON has not
        document = json.loads(_ESCAPE.sub(_plain_escape, raw))
    except (binascii.Error, ValueError, RecursionError):
        _invalid("Invalid JSON.")
    if not isinstance(document, dict):
        _invalid("Invalid JSON.")
    for name in document:
        if name not in ("expiration", "conditions"):
            _invalid(f"Unexpected: '{name[:64]}'.")
    for name in ("expiration", "conditions"):
        if name not in document:
            _invalid(f"Policy missing {name}.")
    if not isinstance(document["conditions"], list):
        _invalid("Invalid 'conditions' value: must be a List.")
    return _with_conditions(_expiry(document["expiration"]), document["conditions"])


def _plain_escape(found: re.Match[str]) -> str:
    return {"$": "$", "v": "\\u000b"}.get(found[1], found[0])


def _expiry(value: Any) -> float:
    found = _EXPIRATION.match(value) if isinstance(value, str) else None
    try:
        if found is None:
            raise ValueError
        return datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp()
    except ValueError:  # another form, or a thirteenth month
        _invalid(f"Invalid 'expiration' value: '{str(value)[:64]}'.")


def _with_conditions(expires_s: float, items: list[Any]) -> PostPolicy:
    conditions = []
    size_min, size_max = 0, _SIZE_MAX
    for item in items:
        if isinstance(item, list) and item and str(item[0]).lower() == "content-length-range":
            least, most = _size_range(item)
            size_min, size_max = max(size_min, least), min(size_max, most)
        else:
            conditions.append(_condition(item))
    return PostPolicy(expires_s, tuple(conditions), size_min, size_max)


def _size_range(item: list[Any]) -> tuple[int, int]:
    if len(item) != 3:
        _invalid("Invalid content-length-range: wrong number of arguments.")
    _, least, most = item
    if type(least) is not int or type(most) is not int or not 0 <= least <= _SIZE_MAX or not 0 <= most <= _SIZE_MAX:
        _invalid("Invalid content-length-range: both arguments are numbers of bytes.")
    return least, most


def _condition(item: Any) -> Condition:
    if isinstance(item, dict):
        if len(item) != 1:
            _invalid("Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.")
        ((field, value),) = item.items()
        if not isinstance(value, str):
            _invalid("Invalid Simple-Condition: value must be a string.")
        return Condition("eq", field.lower(), value, field)
    if not isinstance(item, list) or not item:
        _invalid("Invalid Condition: it is an object with one property, or a list.")
    operator = str(item[0]).lower()
    if operator not in _OPERATORS:
        _invalid(f"Invalid Condition: unknown operation '{operator[:64]}'.")
    if len(item) != 3 or not isinstance(item[1], str) or not isinstance(item[2], str) or not item[1].startswith("$"):
        _invalid(f"Invalid {operator}: it takes $field and a string.")
    field = item[1][1:]
    return Condition(operator, field.lower(), item[2], field)


def check_form(policy: PostPolicy, fields: Mapping[str, str], now_s: float) -> None:
    """Return if the policy lets this form pass. `fields` (lowercase names) are expanded and include `bucket`.

    Errors: `AccessDenied`, naming the condition that failed or the field that no condition names.
    """
    if now_s >= policy.expires_s:
        _denied("Policy expired.")
    for condition in policy.conditions:
        if not condition.holds(fields.get(condition.field)):
            _denied(f"Policy Condition failed: {condition}")
    covered = {condition.field for condition in policy.conditions}
    extra = [
        name
        for name in fields
        if name not in covered and name not in _UNCOVERED and not name.startswith(_UNCOVERED_PREFIXES)
    ]
    if extra:
        _denied(f"Extra input fields: {', '.join(name[:64] for name in extra)}")


def _invalid(why: str) -> NoReturn:
    raise S3Error("InvalidPolicyDocument", f"Invalid Policy: {why}")


def _denied(why: str) -> NoReturn:
    raise S3Error("AccessDenied", f"Invalid according to Policy: {why}")
