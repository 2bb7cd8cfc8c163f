"""All that is set on one bucket, and its stored form: a record for each aspect. Knows no record and no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from operator import attrgetter
from typing import Any, Final

from meshhold.errors import UnknownFormatError
from meshhold.rules.cors import CorsRule, pack_cors, unpack_cors
from meshhold.rules.encryption import BY_DEFAULT, Encryption, unpack_encryption
from meshhold.rules.lifecycle import Lifecycle, pack_lifecycle, unpack_lifecycle
from meshhold.rules.lock import NO_LOCK, BucketLock, unpack_bucket_lock
from meshhold.rules.policy import Policy, pack_policy, unpack_policy
from meshhold.rules.public_access import Ownership, PublicAccessBlock, unpack_block
from meshhold.rules.quota import Quota, pack_quota, unpack_quota
from meshhold.rules.tags import BUCKET_TAGS_MAX, unpack_tags
from meshhold.rules.versioning import Versioning
from meshhold.rules.website import Website, pack_website, unpack_website


class Aspect(StrEnum):
    """What can be set on a bucket, each by itself; the values are fields of `BucketRules`. Stored: never rename."""

    VERSIONING = "versioning"
    CORS = "cors"
    WEBSITE = "website"
    LIFECYCLE = "lifecycle"
    QUOTA = "quota"
    TAGS = "tags"
    LOCK = "lock"
    ENCRYPTION = "encryption"
    POLICY = "policy"
    BLOCK = "block"
    OWNERSHIP = "ownership"


@dataclass(frozen=True, slots=True)
class BucketRules:
    """What is set on a bucket; a field is its default where nothing is.

    A bucket whose versions can be locked keeps versions, whatever was set: suspended, it would lose one under lock.
    """

    versioning: Versioning = Versioning.NEVER
    cors: tuple[CorsRule, ...] = ()
    website: Website | None = None
    lifecycle: Lifecycle | None = None
    quota: Quota | None = None
    tags: dict[str, str] = field(default_factory=dict)
    lock: BucketLock = NO_LOCK
    encryption: Encryption = BY_DEFAULT
    policy: Policy | None = None
    block: PublicAccessBlock | None = None
    ownership: Ownership = Ownership.UNSET

    def __post_init__(self) -> None:
        if self.lock.enabled:
            object.__setattr__(self, "versioning", Versioning.ENABLED)


UNSET = BucketRules()


_Pack = Callable[[Any], Any]
_FORMS: Final[dict[Aspect, tuple[_Pack, _Pack]]] = {
    Aspect.VERSIONING: (str, Versioning),
    Aspect.CORS: (pack_cors, unpack_cors),
    Aspect.WEBSITE: (pack_website, unpack_website),
    Aspect.LIFECYCLE: (pack_lifecycle, unpack_lifecycle),
    Aspect.QUOTA: (pack_quota, unpack_quota),
    Aspect.TAGS: (dict, partial(unpack_tags, count_max=BUCKET_TAGS_MAX)),
    Aspect.LOCK: (BucketLock.pack, unpack_bucket_lock),
    Aspect.ENCRYPTION: (attrgetter("bucket_key"), unpack_encryption),
    Aspect.POLICY: (pack_policy, unpack_policy),
    Aspect.BLOCK: (PublicAccessBlock.pack, unpack_block),
    Aspect.OWNERSHIP: (str, Ownership),
}
"""How each aspect becomes plain values, and again what it was."""


def pack_rule(aspect: Aspect, rules: BucketRules) -> Any:
    """Return what one aspect says, as plain values that msgpack takes; None where it is unset."""
    value = getattr(rules, aspect)
    if value == getattr(UNSET, aspect):
        return None
    pack, _ = _FORMS[aspect]
    return pack(value)


def with_rule(rules: BucketRules, aspect: Aspect, packed: Any) -> BucketRules:
    """Return the rules with one aspect as `pack_rule` gave it; None unsets it.

    Errors: `UnknownFormatError` for what this program does not know, and nothing else whatever the value.
    """
    if packed is None:
        return replace(rules, **{aspect: getattr(UNSET, aspect)})
    _, unpack = _FORMS[aspect]
    try:
        return replace(rules, **{aspect: unpack(packed)})
    except Exception as error:  # whatever a hostile value makes of unpacking
        raise UnknownFormatError(f"the bucket's {aspect} cannot be read: {type(error).__name__}") from error
