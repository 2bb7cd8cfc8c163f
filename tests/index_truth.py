"""What an index must say about its rows, worked out anew from the rows themselves."""

from __future__ import annotations

from collections import defaultdict

from blake3 import blake3
from tests.simulation.index_disk import MemoryIndex

from meshhold.index.contract import BUCKETS, Counts, Name, bucket_of
from meshhold.index.sqlite import SqliteIndex
from meshhold.model.entry import Space
from meshhold.model.ids import VaultId
from meshhold.model.stamp import unpack_stamp


def names_in(index: SqliteIndex | MemoryIndex, vault: VaultId) -> list[Name]:
    """Return every row of the vault as replicas compare it, by (space, key), read from the registers alone."""
    if isinstance(index, MemoryIndex):
        return list(index.disk.vaults[vault].names())
    rows = index._reader.execute(
        "SELECT space, key, accepted FROM register WHERE vault = ? ORDER BY space, key", (index._numbers.get(vault),)
    )
    return [Name(Space(space), key, unpack_stamp(accepted)) for space, key, accepted in rows]


def digests_of(names: list[Name]) -> bytes:
    """Return the digests of these rows, straight from their definition."""
    digests = [0] * BUCKETS
    for space, key, accepted in names:
        bucket = int.from_bytes(blake3(bytes([space]) + key).digest()[:2], "big") % 1024
        row = bytes([space]) + len(key).to_bytes(2, "big") + key + accepted.pack()
        digests[bucket] ^= int.from_bytes(blake3(row).digest()[:8], "big")
    return b"".join(digest.to_bytes(8, "big") for digest in digests)


def check_sums(index: SqliteIndex | MemoryIndex, vault: VaultId) -> None:
    """Check that counts, digests and the names of every bucket agree with the rows."""
    if isinstance(index, MemoryIndex):
        listed = index.list_keys(vault, b"", b"", 10_000)
        assert index.counts(vault) == Counts(len(listed), sum(each.size for each in listed))
        assert index.bucket_digests(vault) == digests_of(names_in(index, vault))
        return
    number = index._numbers.get(vault)
    live = "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM register WHERE vault = ? AND state = 1"
    assert index.counts(vault) == Counts(*index._reader.execute(live, (number,)).fetchone())
    names = names_in(index, vault)
    assert index.bucket_digests(vault) == digests_of(names)
    buckets: defaultdict[int, list[Name]] = defaultdict(list)
    for name in names:
        buckets[bucket_of(name.space, name.key)].append(name)
    written = {bucket for (bucket,) in index._reader.execute("SELECT bucket FROM name WHERE vault = ?", (number,))}
    for bucket in written | buckets.keys():
        assert index.bucket_names(vault, bucket, 10_000) == buckets[bucket]
