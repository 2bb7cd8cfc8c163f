"""What a bucket refuses to let be public, and who owns its objects. Knows no grant and no policy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class PublicAccessBlock:
    """S3's four switches.

    `block_acls`: an ACL that would be public is refused. `ignore_acls`: what a grant gives to everybody does not count.
    `block_policy`: a policy that would be public is refused. `restrict`: what a public policy gives to everybody counts
    only for keys with a grant.
    """

    block_acls: bool = False
    ignore_acls: bool = False
    block_policy: bool = False
    restrict: bool = False

    def pack(self) -> list[bool]:
        """Return the stored form."""
        return [self.block_acls, self.ignore_acls, self.block_policy, self.restrict]


OPEN = PublicAccessBlock()
"""What holds where nothing was set."""

CLOSED = PublicAccessBlock(block_acls=True, ignore_acls=True, block_policy=True, restrict=True)


def unpack_block(packed: Any) -> PublicAccessBlock:
    """Undo `PublicAccessBlock.pack`. What cannot be read blocks everything: it was set to keep others out."""
    if isinstance(packed, list) and len(packed) == 4 and all(isinstance(each, bool) for each in packed):
        return PublicAccessBlock(*packed)
    return CLOSED


class Ownership(StrEnum):
    """S3's object ownership. Stored: never rename.

    All keys here belong to one account, so every object belongs to the bucket's owner whatever is set; `ENFORCED`
    besides refuses every ACL that says anything.
    """

    UNSET = ""
    ENFORCED = "BucketOwnerEnforced"
    PREFERRED = "BucketOwnerPreferred"
    WRITER = "ObjectWriter"
