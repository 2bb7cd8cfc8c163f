"""All that is set on one bucket, and its stored form: a record for each aspect. Knows no record and no clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from meshhold.errors import UnknownFormatError
from meshhold.rules.versioning import Versioning


class Aspect(StrEnum):
    """What can be set on a bucket, each by itself; the values are fields of `BucketRules`. Stored: never rename."""

    VERSIONING = "versioning"


@dataclass(frozen=True, slots=True)
class BucketRules:
    """What is set on a bucket; a field is its default where nothing is."""

    versioning: Versioning = Versioning.NEVER


UNSET = BucketRules()


def pack_rule(aspect: Aspect, rules: BucketRules) -> Any:
    """Return what one aspect says, as plain values that msgpack takes; None where it is unset."""
    if getattr(rules, aspect) == getattr(UNSET, aspect):
        return None
    match aspect:
        case Aspect.VERSIONING:
            return str(rules.versioning)


def with_rule(rules: BucketRules, aspect: Aspect, packed: Any) -> BucketRules:
    """Return the rules with one aspect as `pack_rule` gave it; None unsets it.

    Errors: `UnknownFormatError` for what this program does not know, and nothing else whatever the value.
    """
    if packed is None:
        return replace(rules, **{aspect: getattr(UNSET, aspect)})
    try:
        match aspect:
            case Aspect.VERSIONING:
                return replace(rules, versioning=Versioning(packed))
    except Exception as error:  # whatever a hostile value makes of unpacking
        raise UnknownFormatError(f"the bucket's {aspect} cannot be read: {type(error).__name__}") from error
