"""What does another replica of a vault hold that this one lacks? Compares digests and names; knows no link.

Buckets whose digests are equal hold the same rows. In one that differs mostly the rows of the last minutes do, so names
go over the wire only for ballots above a bound, with one digest of all that is older: older names follow only where
that differs too. A bound that is wrong costs bytes, never a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from meshhold.crypto.hashing import hash_bytes
from meshhold.index.contract import DIGEST_SIZE, Index, Name
from meshhold.index.names import digest_of, digested
from meshhold.model.entry import Space
from meshhold.model.ids import VaultId
from meshhold.model.stamp import STAMP_SIZE, ZERO, Stamp

NAMES_MAX: Final = 1_000
"""Names in one message: three values each, below what a message's list may hold."""
NAMES_SIZE_MAX: Final = 96 * 1024
"""Bytes of names in one message; with the longest keys fewer than a hundred fit."""
_NAME_SIZE: Final = STAMP_SIZE + 8
_PAGE: Final = 2_000


class BucketNames(NamedTuple):
    """One bucket's names above the bound. `older` is the digest of the other rows; `whole`: no more names follow."""

    bucket: int
    older: int
    names: list[Name]
    whole: bool


def root_of(digests: bytes) -> bytes:
    """Return 32 bytes that are equal for equal digests of all buckets."""
    return hash_bytes(digests)


def differing(mine: bytes, theirs: bytes) -> list[int]:
    """Return the buckets whose digests differ."""
    size = DIGEST_SIZE
    return [at // size for at in range(0, len(mine), size) if mine[at : at + size] != theirs[at : at + size]]


def size_of(name: Name) -> int:
    """Return about how many bytes a name takes in a message."""
    return len(name.key) + _NAME_SIZE


def cut(names: Sequence[Name]) -> list[Name]:
    """Return as many of the first names as fit into one message, at least one if there is one."""
    size = 0
    for at, name in enumerate(names[:NAMES_MAX]):
        size += size_of(name)
        if size > NAMES_SIZE_MAX and at:
            return list(names[:at])
    return list(names[:NAMES_MAX])


def batches(names: Sequence[Name]) -> Iterator[list[Name]]:
    """Cut names into messages."""
    at = 0
    while at < len(names):
        batch = cut(names[at : at + NAMES_MAX])
        yield batch
        at += len(batch)


def read_bucket(
    index: Index, vault: VaultId, bucket: int, digests: bytes, above: Stamp, after: tuple[Space, bytes] | None = None
) -> BucketNames:
    """Return all names of a bucket above the bound that come after `after`; `digests` are those of this moment."""
    newer: list[Name] = []
    position: tuple[Space, bytes] | None = None
    while True:
        page = index.bucket_names(vault, bucket, _PAGE, position)
        newer += [name for name in page if name.accepted > above]
        if len(page) < _PAGE:
            break
        position = page[-1].space, page[-1].key
    older = 0
    if above > ZERO:
        older = int.from_bytes(digests[bucket * DIGEST_SIZE : (bucket + 1) * DIGEST_SIZE], "big") ^ _sum(newer)
    if after is not None:
        newer = [name for name in newer if (name.space, name.key) > after]
    return BucketNames(bucket, older, newer, whole=True)


def read_page(
    index: Index, vault: VaultId, buckets: Sequence[int], above: Stamp, after: tuple[Space, bytes] | None
) -> Iterator[BucketNames]:
    """Yield one bucket after the other, as many as fit into one message; `after` is a position in the first of them.

    At least one is yielded, perhaps not `whole`: then the next message begins with it, after its last name.
    """
    digests = index.bucket_digests(vault)
    room = count = 0
    for at, bucket in enumerate(buckets):
        found = read_bucket(index, vault, bucket, digests, above, None if at else after)
        fitting = cut(found.names)
        if len(fitting) < len(found.names) and not at:
            yield found._replace(names=fitting, whole=False)
            return
        room += sum(map(size_of, found.names))
        count += len(found.names)
        if at and (room > NAMES_SIZE_MAX or count > NAMES_MAX):
            return
        yield found


def lacking(mine: BucketNames, theirs: BucketNames, index: Index, vault: VaultId) -> tuple[list[Name], bool]:
    """Return the names that the other replica holds under higher ballots, and whether older rows differ besides.

    Both must be whole. A row that is old here and new there is told apart from one that differs among the old.
    """
    known = {(name.space, name.key): name.accepted for name in mine.names}
    wanted = [name for name in theirs.names if known.get((name.space, name.key), ZERO) < name.accepted]
    if mine.older == theirs.older:
        return wanted, False
    overtaken = [name for name in wanted if (name.space, name.key) not in known]
    own = (Name(name.space, name.key, row.accepted) for name in overtaken if (row := index.load(vault, *name[:2])))
    return wanted, mine.older ^ _sum(own) != theirs.older


def _sum(names: Iterable[Name]) -> int:
    total = 0
    for name in names:
        total ^= digest_of(digested(name.space, name.key, name.accepted.pack()))
    return total
