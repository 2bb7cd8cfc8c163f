"""Who may do what: permissions, access keys, grants. Knows no signature and no storage."""

from __future__ import annotations

from enum import Flag
from typing import Final

from meshhold.errors import InvalidError


class Permission(Flag):
    """What a grant allows on one vault. Merging concurrent grants keeps the intersection: ties fail closed."""

    NONE = 0
    READ = 1
    WRITE = 2
    LIST = 4
    """Only an anonymous grant needs it: a key that may read may also list."""
    OWN = 8
    """Setting what holds for the whole bucket: versioning, policy, lifecycle and the like."""

    def __str__(self) -> str:
        names = [p.name.lower() for p in Permission if p in self and p.name]
        return ",".join(names) or "none"


_SPELLINGS: Final = {
    "read": Permission.READ,
    "r": Permission.READ,
    "write": Permission.WRITE,
    "w": Permission.WRITE,
    "own": Permission.OWN,
    "o": Permission.OWN,
}


def parse_permissions(text: str) -> Permission:
    """Read `read`, `write`, `own`, `read,write`, `read+write`, `r`, `w`, `o`, `rw`, `rwo` (any order and case).

    Errors: `InvalidError` naming the word that is not one of these.
    """
    short = text.strip().lower()
    words = short if short and set(short) <= set("rwo") else text.replace("+", ",").split(",")
    found = Permission.NONE
    for word in words:
        permission = _SPELLINGS.get(word.strip().lower())
        if permission is None:
            raise InvalidError(
                f"permission {word.strip()!r} is not known",
                "use read, write, own, several of them with commas, or r, w, o, rw, rwo",
            )
        found |= permission
    return found
