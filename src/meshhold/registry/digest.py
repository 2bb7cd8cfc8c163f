"""What differs between two registries, told in few bytes? Pure arithmetic over records; knows no peer and no disk.

Records fall into buckets by a hash of their kind and key. A bucket's digest is the XOR of its records' hashes, so it
does not depend on order, and equal digests mean equal contents (a forged collision would only hide the forger's own
record).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from meshhold.crypto.hashing import hash_bytes
from meshhold.registry.record import Kind, Record, encode_record

BUCKETS: Final = 64  # 512 bytes of digests; a home's few hundred records put some four into each
DIGEST_SIZE: Final = 8


class Held(NamedTuple):
    """One record as a comparison names it: kind, key, and the first 8 bytes of its hash."""

    kind: str
    key: str
    hash: bytes


def bucket_of(kind: str, key: str) -> int:
    """Return the bucket of a record, the same on every node."""
    return hash_bytes(f"{kind}/{key}".encode())[0] % BUCKETS


def held(record: Record) -> Held:
    """Return how a comparison names the record."""
    return Held(record.kind, record.key, hash_bytes(encode_record(record))[:DIGEST_SIZE])


def digests(names: Iterable[Held]) -> bytes:
    """Return the digests of all buckets, `BUCKETS * DIGEST_SIZE` bytes."""
    totals = [0] * BUCKETS
    for name in names:
        totals[bucket_of(name.kind, name.key)] ^= int.from_bytes(name.hash, "big")
    return b"".join(total.to_bytes(DIGEST_SIZE, "big") for total in totals)


def differing(mine: bytes, theirs: bytes) -> set[int]:
    """Return the buckets whose digests differ; all of them if the other side's form is another one."""
    if len(mine) != len(theirs):
        return set(range(BUCKETS))
    return {
        at // DIGEST_SIZE
        for at in range(0, len(mine), DIGEST_SIZE)
        if mine[at : at + DIGEST_SIZE] != theirs[at : at + DIGEST_SIZE]
    }


def missing(mine: Iterable[Held], theirs: Iterable[Held]) -> list[tuple[Kind, str]]:
    """Return what of `theirs` is not held here in the same form, by kind and key; unknown kinds are left out."""
    known = set(mine)
    kinds = set(Kind)
    return [(Kind(name.kind), name.key) for name in theirs if name not in known and name.kind in kinds]
