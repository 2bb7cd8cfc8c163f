"""All that is set on one bucket, and its stored form: a record for each aspect. Knows no record and no clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

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


def pack_rule(aspect: Aspect, rules: BucketRules) -> Any:
    """Return what one aspect says, as plain values that msgpack takes; None where it is unset."""
    if getattr(rules, aspect) == getattr(UNSET, aspect):
        return None
    match aspect:
        case Aspect.VERSIONING:
            return str(rules.versioning)
        case Aspect.CORS:
            return pack_cors(rules.cors)
        case Aspect.WEBSITE:
            return None if rules.website is None else pack_website(rules.website)
        case Aspect.LIFECYCLE:
            return None if rules.lifecycle is None else pack_lifecycle(rules.lifecycle)
        case Aspect.QUOTA:
            return None if rules.quota is None else pack_quota(rules.quota)
        case Aspect.TAGS:
            return rules.tags
        case Aspect.LOCK:
            return rules.lock.pack()
        case Aspect.ENCRYPTION:
            return rules.encryption.bucket_key
        case Aspect.POLICY:
            return None if rules.policy is None else pack_policy(rules.policy)
        case Aspect.BLOCK:
            return None if rules.block is None else rules.block.pack()
        case Aspect.OWNERSHIP:
            return str(rules.ownership)


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
            case Aspect.CORS:
                return replace(rules, cors=unpack_cors(packed))
            case Aspect.WEBSITE:
                return replace(rules, website=unpack_website(packed))
            case Aspect.LIFECYCLE:
                return replace(rules, lifecycle=unpack_lifecycle(packed))
            case Aspect.QUOTA:
                return replace(rules, quota=unpack_quota(packed))
            case Aspect.TAGS:
                return replace(rules, tags=unpack_tags(packed, BUCKET_TAGS_MAX))
            case Aspect.LOCK:
                return replace(rules, lock=unpack_bucket_lock(packed))
            case Aspect.ENCRYPTION:
                return replace(rules, encryption=unpack_encryption(packed))
            case Aspect.POLICY:
                return replace(rules, policy=unpack_policy(packed))
            case Aspect.BLOCK:
                return replace(rules, block=unpack_block(packed))
            case Aspect.OWNERSHIP:
                return replace(rules, ownership=Ownership(packed))
    except Exception as error:  # whatever a hostile value makes of unpacking
        raise UnknownFormatError(f"the bucket's {aspect} cannot be read: {type(error).__name__}") from error
