"""Who may do what: permissions, access keys, grants. Knows no signature and no storage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag
from typing import Any, Final

from meshhold.errors import InvalidError, UnknownFormatError

PREFIXES_MAX: Final = 32  # of 1,024 bytes each, within a record's 64 KiB
PREFIX_SIZE_MAX: Final = 1024  # as long as a key
TIME_MS_MAX: Final = 2**53


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


@dataclass(frozen=True, slots=True)
class Limits:
    """What narrows a grant, or with empty `prefixes` a key.

    `prefixes` are those of the keys that it covers, none for all; `expires_ms` (since 1970) is when the key ends, 0 for
    never; `read_only` says that the key never does more than read.
    """

    prefixes: tuple[bytes, ...] = ()
    expires_ms: int = 0
    read_only: bool = False

    def covers(self, key: bytes) -> bool:
        """Tell whether a key, or all keys that begin with it, are within the prefixes."""
        return not self.prefixes or key.startswith(self.prefixes)

    def has_expired(self, now_ms: int) -> bool:
        """Tell whether the key's time is over."""
        return 0 < self.expires_ms <= now_ms


UNLIMITED: Final = Limits()


def pack_limits(limits: Limits, **more: Any) -> dict[str, Any]:
    """Return limits and what stands beside them as plain values."""
    narrow = {
        "prefixes": list(limits.prefixes),
        "expires_ms": limits.expires_ms,
        "read_only": limits.read_only,
    }
    return narrow | more


def unpack_limits(packed: Any, **more: type) -> tuple[Limits, dict[str, Any]]:
    """Undo `pack_limits`. Errors: `UnknownFormatError` also for a limit that this program does not know."""
    kinds = {"prefixes": list, "expires_ms": int, "read_only": bool} | more
    if not isinstance(packed, dict) or packed.keys() != kinds.keys():
        raise UnknownFormatError("its limits are not those that this program knows", "use a newer meshhold")
    prefixes = packed["prefixes"]
    if any(type(packed[name]) is not kind for name, kind in kinds.items()) or len(prefixes) > PREFIXES_MAX:
        raise UnknownFormatError("its limits are of the wrong type")
    if not all(type(each) is bytes and 0 < len(each) <= PREFIX_SIZE_MAX for each in prefixes):
        raise UnknownFormatError("its prefixes are of the wrong type")
    if not 0 <= packed["expires_ms"] <= TIME_MS_MAX:
        raise UnknownFormatError("its end is out of range")
    limits = Limits(tuple(prefixes), packed["expires_ms"], packed["read_only"])
    return limits, {name: packed[name] for name in more}


def stricter(one: Limits, other: Limits) -> Limits:
    """Return what holds of a key that two grants tell of: the earlier end, and reading only if either says so."""
    ends = [each.expires_ms for each in (one, other) if each.expires_ms]
    return Limits((), min(ends, default=0), one.read_only or other.read_only)
