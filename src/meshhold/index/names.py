"""What is a row to replicas that compare, and what do many make together? Knows no connection: it hashes and packs."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import IntegrityError
from meshhold.index.contract import BUCKETS, DIGEST_SIZE
from meshhold.model.entry import Space
from meshhold.model.stamp import STAMP_SIZE

_DIGESTS: Final = struct.Struct(f">{BUCKETS}Q")
_CHANGED: Final = struct.Struct(">HBQ")
_HEAD: Final = struct.Struct(">HBQBH")  # then the key and its ballot
_SPACES: Final = tuple(bytes((space,)) for space in Space)
NO_DIGESTS: Final = bytes(BUCKETS * DIGEST_SIZE)
"""The digests of a vault without rows."""
SAVE_NAME: Final = "INSERT OR REPLACE INTO name(vault, bucket, space, key, accepted) VALUES(?, ?, ?, ?, ?)"


class Named(NamedTuple):
    """How the row of one register changed."""

    bucket: int
    space: int
    key: bytes
    accepted: bytes | None
    """The ballot of the row, packed, or None if the row went."""
    flip: int
    """What to XOR into the bucket's digest."""


def digested(space: int, key: bytes, accepted: bytes) -> bytes:
    """Return the bytes that stand for one row in digests; `accepted` is packed. See `Index.bucket_digests`.

    Errors: `OverflowError` for a key of 64 KiB or more.
    """
    return b"".join((_SPACES[space], len(key).to_bytes(2, "big"), key, accepted))


def digest_of(row: bytes) -> int:
    """Return what a row, as `digested` gives it, adds to the digest of its bucket."""
    return int.from_bytes(hash_bytes(row)[:DIGEST_SIZE], "big")


def pack_digests(digests: array[int]) -> bytes:
    """Return the digests as replicas exchange them."""
    return _DIGESTS.pack(*digests)


def unpack_digests(packed: bytes) -> array[int]:
    """Undo `pack_digests`. Errors: `IntegrityError`."""
    try:
        return array("Q", _DIGESTS.unpack(packed))
    except struct.error as error:
        raise _damaged() from error


def pack_named(bucket: int, row: bytes, flip: int, *, gone: bool) -> bytes:
    """Return one changed row, to be joined: bucket (2), went (1), flip (8), then `row` as `digested` gives it."""
    return _CHANGED.pack(bucket, gone, flip) + row


def unpack_named(joined: bytes) -> Iterator[Named]:
    """Undo `pack_named` of several rows. Errors: `IntegrityError`."""
    at = 0
    while at < len(joined):
        try:
            bucket, gone, flip, space, size = _HEAD.unpack_from(joined, at)
        except struct.error as error:
            raise _damaged() from error
        begin = at + _HEAD.size
        at = begin + size + STAMP_SIZE
        yield Named(bucket, space, joined[begin : begin + size], None if gone else joined[begin + size : at], flip)


def _damaged() -> IntegrityError:
    return IntegrityError("the index's sums are damaged", "restore the data directory from a backup")
