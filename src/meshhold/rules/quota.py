"""How much may a vault hold, and does one more write fit? Knows no index: callers pass what is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

NEARLY_FULL: Final = 0.9
"""From this share of a quota on people are warned: late enough to be rare, early enough to act."""


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that a vault may hold: plaintext bytes and objects; None for no limit."""

    bytes: int | None = None
    objects: int | None = None


NO_QUOTA: Final = Quota()


class Lack(NamedTuple):
    """What there is no room for: the limit's name, `bytes` or `objects`, and a sentence with the figures."""

    limit: str
    text: str


@dataclass(frozen=True, slots=True)
class Room:
    """A quota and what is used of it."""

    quota: Quota
    bytes: int
    objects: int

    def lacks(self, more_bytes: int, more_objects: int) -> Lack | None:
        """Return what a write of so much more would exceed; None if it fits.

        What makes a vault smaller, or leaves it as large, always fits: also in one that is over its quota.
        """
        quota = self.quota
        if quota.bytes is not None and more_bytes > 0 and self.bytes + more_bytes > quota.bytes:
            return Lack("bytes", f"{self.bytes} of {quota.bytes} bytes are used, and {more_bytes} more are asked for")
        if quota.objects is not None and more_objects > 0 and self.objects + more_objects > quota.objects:
            return Lack("objects", f"{self.objects} of {quota.objects} objects are there")
        return None

    @property
    def share(self) -> float:
        """The fuller of the two, as a share of its limit."""
        return max(_share(self.bytes, self.quota.bytes), _share(self.objects, self.quota.objects))


def _share(used: int, limit: int | None) -> float:
    return 0.0 if limit is None else used / max(limit, 1)


def pack_quota(quota: Quota) -> list[int | None]:
    """Return the quota as plain values."""
    return [quota.bytes, quota.objects]


def unpack_quota(packed: Any) -> Quota:
    """Undo `pack_quota`. Errors: `ValueError`, or whatever a value of another shape makes of unpacking."""
    most_bytes, most_objects = packed
    for limit in (most_bytes, most_objects):
        if limit is not None and (type(limit) is not int or limit < 0):
            raise ValueError(f"a limit is {limit!r}")
    return Quota(most_bytes, most_objects)
