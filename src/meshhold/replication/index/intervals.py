"""Which keys does a page speak for, and what is the digest of their names? Knows no replica and no round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from meshhold.crypto.hashing import hash_bytes
from meshhold.index.contract import Index
from meshhold.index.queries import end_of_prefix
from meshhold.model.entry import Space
from meshhold.model.ids import VaultId
from meshhold.replication.index.contract import Ballot, Interval

_ABOVE: Final = b"\xff" * 20
"""`x + _ABOVE` is above every register that begins with `x`: object keys are UTF-8, which has no such byte, and what
follows them in a register's name has 16 bytes of chance and two that count up to 10,000."""
_PAGE: Final = 2_000
_KEY_COST: Final = 32
"""What travels with a key besides: a ballot, or size and times."""


def just_below(key: bytes) -> bytes:
    """Return a byte string with no key between it and `key`, so that "greater than it" means "at least `key`"."""
    if not key:
        return b""
    return key[:-1] if key[-1] == 0 else key[:-1] + bytes([key[-1] - 1]) + _ABOVE


def interval_of(space: Space, after: bytes, prefix: bytes, last: bytes | None) -> Interval:
    """Return what a page speaks for that begins after `after` and ends with the key `last` (None: with the prefix)."""
    if last is None:
        end = end_of_prefix(prefix)
        last = None if end is None else just_below(end)
    start = after if after >= prefix else just_below(prefix)
    return Interval(space, start, last)


def read_ballots(index: Index, vault: VaultId, interval: Interval) -> list[Ballot]:
    """Return all names of an interval; each `_PAGE` of them are of one moment."""
    names: list[Ballot] = []
    after = interval.after
    while True:
        page = index.ballots(vault, interval.space, after, interval.upto, _PAGE)
        names += page
        if len(page) < _PAGE:
            return names
        after = page[-1][0]


def fitting_keys(keys: Sequence[bytes], size_max: int) -> int:
    """Return how many of these keys, from the first on and at least one, have at most `size_max` bytes together."""
    if sum(map(len, keys)) + _KEY_COST * len(keys) <= size_max:
        return len(keys)
    size = 0
    for at, key in enumerate(keys):
        size += len(key) + _KEY_COST
        if size > size_max and at:
            return at
    return len(keys)


class _Lengths(dict[int, bytes]):
    """Lengths below 64 KiB as two bytes, each written once: a long list asks for few of them, often."""

    def __missing__(self, length: int) -> bytes:
        self[length] = packed = length.to_bytes(2, "big")
        return packed


_LENGTHS: Final = _Lengths()


def digest_of(names: Iterable[Ballot]) -> bytes:
    """Return 32 bytes that are equal for equal names of a space, in the same order."""
    return hash_bytes(b"".join([_LENGTHS[len(key)] + key + accepted for key, accepted in names]))
