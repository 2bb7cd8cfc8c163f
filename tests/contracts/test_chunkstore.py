"""What every chunk store promises: one suite over the disk and the memory adapter."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshhold.chunkstore.contract import ChunkStore
from meshhold.chunkstore.disk import DiskChunkStore
from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import ChunkCorruptError, ChunkMissingError, StorageFullError
from meshhold.model.ids import ChunkId, VaultId

VAULT = VaultId("a" * 32)
OTHER = VaultId("b" * 32)
CAPACITY = 100_000


class Watch:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.1

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    """A store, its clock, and a way to damage a copy that no product code has."""

    store: ChunkStore
    watch: Watch
    damage: Callable[[VaultId, ChunkId, bytes], None]
    settle: Callable[[], None]
    """Let the last change of every slice be long ago."""


@pytest.fixture(params=["disk", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    watch = Watch()
    if request.param == "memory":
        memory = MemoryChunkStore(capacity_bytes=CAPACITY, now=watch)

        def damage(vault: VaultId, chunk: ChunkId, raw: bytes) -> None:
            memory._vaults[vault][chunk] = (raw, memory._vaults[vault][chunk][1])

        return Bench(memory, watch, damage, lambda: None)

    def damage_file(vault: VaultId, chunk: ChunkId, raw: bytes) -> None:
        (tmp_path / "chunks" / vault / chunk.hex()[:2] / chunk.hex()[2:]).write_bytes(raw)

    ages_s = itertools.count(10)  # two changes within one tick of the clock still leave two times

    def age_folders() -> None:
        for folder in (tmp_path / "chunks" / VAULT).iterdir():
            changed_ns = folder.stat().st_mtime_ns - next(ages_s) * 1_000_000_000
            os.utime(folder, ns=(changed_ns, changed_ns))

    disk = DiskChunkStore(tmp_path / "chunks", reserve_bytes=0, capacity_bytes=CAPACITY, now=watch)
    return Bench(disk, watch, damage_file, age_folders)


def make_chunk(seed: int, size: int = 100) -> tuple[ChunkId, bytes]:
    raw = seed.to_bytes(4, "big") * (size // 4)
    return ChunkId(hash_bytes(raw)), raw


CHUNK, RAW = make_chunk(1)


def test_what_is_put_is_got_in_its_vault_only(bench: Bench) -> None:
    assert bench.store.put(VAULT, CHUNK, RAW)
    assert bench.store.get(VAULT, CHUNK) == RAW
    assert bench.store.has(VAULT, CHUNK)
    assert not bench.store.has(OTHER, CHUNK)
    with pytest.raises(ChunkMissingError):
        bench.store.get(OTHER, CHUNK)


def test_what_memory_holds_is_got_without_waiting_and_nothing_else(bench: Bench) -> None:
    sealed = b"s" * 5000
    chunk = ChunkId(hash_bytes(sealed))
    assert bench.store.get_cached(VAULT, chunk, 5000) is None
    bench.store.put(VAULT, chunk, sealed)
    assert bench.store.get_cached(VAULT, chunk, 5000) == sealed  # it was written just now
    assert bench.store.get_cached(VAULT, chunk, 4999) is None
    assert bench.store.get_cached(OTHER, chunk, 5000) is None
    bench.damage(VAULT, chunk, b"x" * 5000)
    assert bench.store.get_cached(VAULT, chunk, 5000) is None
    with pytest.raises(ChunkCorruptError):
        bench.store.get(VAULT, chunk)


def test_an_empty_chunk_is_a_chunk(bench: Bench) -> None:
    chunk = ChunkId(hash_bytes(b""))
    assert bench.store.put(VAULT, chunk, b"")
    assert bench.store.get(VAULT, chunk) == b""


def test_a_second_put_renews_and_says_so(bench: Bench) -> None:
    assert bench.store.put(VAULT, CHUNK, RAW)
    bench.watch.now += 50.5
    assert not bench.store.put(VAULT, CHUNK, RAW)
    (stat,) = bench.store.scan(VAULT)
    assert stat == (CHUNK, len(RAW), bench.watch.now)


@pytest.mark.parametrize("bad", [b"", RAW[:-1], RAW + b"x", bytes(len(RAW)), b"y" + RAW[1:]])
def test_a_put_over_a_damaged_copy_replaces_it(bench: Bench, bad: bytes) -> None:
    bench.store.put(VAULT, CHUNK, RAW)
    bench.damage(VAULT, CHUNK, bad)
    assert bench.store.put(VAULT, CHUNK, RAW)
    assert bench.store.get(VAULT, CHUNK) == RAW
    assert bench.store.quarantined(VAULT) == []


@pytest.mark.parametrize("bad", [b"", RAW[:-1], RAW + b"x", bytes(len(RAW)), b"y" + RAW[1:]])
def test_a_damaged_copy_is_refused_once_and_then_missing(bench: Bench, bad: bytes) -> None:
    bench.store.put(VAULT, CHUNK, RAW)
    bench.damage(VAULT, CHUNK, bad)
    with pytest.raises(ChunkCorruptError, match="quarantine"):
        bench.store.get(VAULT, CHUNK)
    assert bench.store.quarantined(VAULT) == [CHUNK.hex()]
    assert not bench.store.has(VAULT, CHUNK)
    assert list(bench.store.scan(VAULT)) == []
    with pytest.raises(ChunkMissingError):
        bench.store.get(VAULT, CHUNK)
    assert bench.store.put(VAULT, CHUNK, RAW)
    assert bench.store.get(VAULT, CHUNK) == RAW


def test_a_missing_chunk_is_named(bench: Bench) -> None:
    with pytest.raises(ChunkMissingError, match=CHUNK.hex()):
        bench.store.get(VAULT, CHUNK)


def test_removal_spares_what_was_put_or_renewed_at_the_cutoff(bench: Bench) -> None:
    bench.store.put(VAULT, CHUNK, RAW)
    put_at = bench.watch.now
    assert not bench.store.remove_if_unused_since(VAULT, CHUNK, put_at)
    bench.watch.now += 10
    bench.store.put(VAULT, CHUNK, RAW)
    assert not bench.store.remove_if_unused_since(VAULT, CHUNK, put_at + 5)
    assert bench.store.get(VAULT, CHUNK) == RAW
    assert bench.store.remove_if_unused_since(VAULT, CHUNK, put_at + 11)
    assert not bench.store.has(VAULT, CHUNK)
    assert bench.store.remove_if_unused_since(VAULT, CHUNK, put_at), "what is not there is gone"


def test_renewal_spares_a_chunk_and_tells_a_missing_one(bench: Bench) -> None:
    assert not bench.store.renew(VAULT, CHUNK)
    assert not bench.store.has(VAULT, CHUNK)
    bench.store.put(VAULT, CHUNK, RAW)
    bench.watch.now += 3.3
    assert bench.store.renew(VAULT, CHUNK)
    assert not bench.store.remove_if_unused_since(VAULT, CHUNK, bench.watch.now)
    assert [stat.touched_s for stat in bench.store.scan(VAULT)] == [bench.watch.now]
    assert bench.store.remove_if_unused_since(VAULT, CHUNK, bench.watch.now + 0.001)


def test_a_copy_of_a_copy_keeps_its_age(bench: Bench) -> None:
    old_s = bench.watch.now - 5000.7
    assert bench.store.put(VAULT, CHUNK, RAW, old_s)
    assert bench.store.stat(VAULT, CHUNK) == (CHUNK, len(RAW), old_s)
    assert bench.store.remove_if_unused_since(VAULT, CHUNK, old_s + 0.001)


@pytest.mark.parametrize("given_s", [-100.25, 100.25])
def test_of_a_copy_that_is_there_and_an_age_that_is_given_the_younger_stays(bench: Bench, given_s: float) -> None:
    bench.store.put(VAULT, CHUNK, RAW)
    put_at = bench.watch.now
    bench.watch.now += 1000
    assert not bench.store.put(VAULT, CHUNK, RAW, put_at + given_s)
    assert bench.store.stat(VAULT, CHUNK) == (CHUNK, len(RAW), max(put_at, put_at + given_s))


@pytest.mark.parametrize("given_s", [-100.25, 100.25])
def test_a_damaged_copy_that_is_replaced_grows_no_older(bench: Bench, given_s: float) -> None:
    """Something renewed it because it is about to refer to it."""
    bench.store.put(VAULT, CHUNK, RAW)
    bench.damage(VAULT, CHUNK, b"bad")
    assert bench.store.renew(VAULT, CHUNK)
    renewed_at = bench.watch.now
    assert bench.store.put(VAULT, CHUNK, RAW, renewed_at + given_s)
    assert bench.store.stat(VAULT, CHUNK) == (CHUNK, len(RAW), max(renewed_at, renewed_at + given_s))


def test_a_put_without_an_age_is_now_whatever_was_there(bench: Bench) -> None:
    """A copy from a time when the clock was ahead would never be collected."""
    bench.store.put(VAULT, CHUNK, RAW)
    bench.watch.now -= 1000
    bench.store.put(VAULT, CHUNK, RAW)
    assert bench.store.stat(VAULT, CHUNK) == (CHUNK, len(RAW), bench.watch.now)


def test_stat_tells_nothing_of_what_is_not_there(bench: Bench) -> None:
    assert bench.store.stat(VAULT, CHUNK) is None
    bench.store.put(VAULT, CHUNK, RAW)
    assert bench.store.stat(OTHER, CHUNK) is None


def test_verify_knows_a_good_copy_from_a_bad_one_and_from_none(bench: Bench) -> None:
    assert not bench.store.verify(VAULT, CHUNK)
    bench.store.put(VAULT, CHUNK, RAW)
    assert bench.store.verify(VAULT, CHUNK)
    bench.damage(VAULT, CHUNK, b"y" + RAW[1:])
    assert not bench.store.verify(VAULT, CHUNK)
    assert bench.store.quarantined(VAULT) == [CHUNK.hex()]
    assert not bench.store.has(VAULT, CHUNK)


def test_a_slice_lists_its_ids_in_order_and_no_others(bench: Bench) -> None:
    chunks = dict(make_chunk(seed) for seed in range(60))
    for chunk, raw in chunks.items():
        bench.store.put(VAULT, chunk, raw)
    first = CHUNK[0]
    assert bench.store.list_slice(VAULT, first) == sorted(chunk for chunk in chunks if chunk[0] == first)
    assert [chunk for at in range(256) for chunk in bench.store.list_slice(VAULT, at)] == sorted(chunks)
    assert bench.store.list_slice(OTHER, first) == []


def test_the_mark_of_a_slice_stays_while_its_names_do(bench: Bench) -> None:
    bench.store.put(VAULT, CHUNK, RAW)
    bench.settle()
    mark = bench.store.slice_mark(VAULT, CHUNK[0])
    assert mark is not None
    bench.store.renew(VAULT, CHUNK)
    bench.store.put(VAULT, CHUNK, RAW)
    bench.store.get(VAULT, CHUNK)
    assert bench.store.slice_mark(VAULT, CHUNK[0]) == mark


def test_the_mark_of_a_slice_changes_with_its_names(bench: Bench) -> None:
    seen = {bench.store.slice_mark(VAULT, CHUNK[0])}

    def assert_changed() -> None:
        assert bench.store.slice_mark(VAULT, CHUNK[0]) not in seen - {None}
        bench.settle()
        mark = bench.store.slice_mark(VAULT, CHUNK[0])
        assert mark is not None
        assert mark not in seen
        seen.add(mark)

    bench.store.put(VAULT, CHUNK, RAW)
    assert_changed()
    bench.damage(VAULT, CHUNK, b"bad")
    bench.store.verify(VAULT, CHUNK)
    assert_changed()
    bench.store.put(VAULT, CHUNK, RAW)
    assert_changed()
    bench.store.remove_if_unused_since(VAULT, CHUNK, bench.watch.now + 1)
    assert_changed()
    bench.store.put(VAULT, CHUNK, RAW)
    assert_changed()
    bench.store.drop_vault(VAULT)
    bench.store.put(VAULT, CHUNK, RAW)
    assert_changed()


def test_scan_is_in_the_order_of_ids(bench: Bench) -> None:
    chunks = dict(make_chunk(seed) for seed in range(300))
    for chunk, raw in chunks.items():
        bench.store.put(VAULT, chunk, raw)
    stats = list(bench.store.scan(VAULT))
    assert [stat.chunk for stat in stats] == sorted(chunks)
    assert {stat.size for stat in stats} == {100}
    assert list(bench.store.scan(OTHER)) == []


def test_dropping_a_vault_spares_the_others(bench: Bench) -> None:
    for vault in (VAULT, OTHER):
        bench.store.put(vault, CHUNK, RAW)
        bench.store.put(vault, *make_chunk(2))
    bench.damage(VAULT, CHUNK, b"bad")
    with pytest.raises(ChunkCorruptError):
        bench.store.get(VAULT, CHUNK)
    bench.store.drop_vault(VAULT)
    assert list(bench.store.scan(VAULT)) == []
    assert bench.store.quarantined(VAULT) == []
    assert len(list(bench.store.scan(OTHER))) == 2
    bench.store.drop_vault(VAULT)
    assert bench.store.put(VAULT, CHUNK, RAW), "a dropped vault can be written again"


def test_capacity_bounds_new_chunks_and_nothing_else(bench: Bench) -> None:
    kept = [make_chunk(seed, 40_000) for seed in range(2)]
    for chunk, raw in kept:
        bench.store.put(VAULT, chunk, raw)
    assert bench.store.usage() == (CAPACITY, CAPACITY - 80_000)
    extra, raw = make_chunk(3, 40_000)
    with pytest.raises(StorageFullError, match="capacity"):
        bench.store.put(VAULT, extra, raw)
    assert not bench.store.has(VAULT, extra)
    assert not bench.store.put(VAULT, *kept[0]), "a chunk that is there needs no room"
    bench.watch.now += 1
    assert bench.store.remove_if_unused_since(VAULT, kept[0][0], bench.watch.now)
    assert bench.store.put(VAULT, extra, raw)
    bench.store.drop_vault(VAULT)
    assert bench.store.usage().free == CAPACITY


def test_usage_follows_damage_and_quarantine(bench: Bench) -> None:
    chunk, raw = make_chunk(1, 40_000)
    for _ in range(5):
        bench.store.put(VAULT, chunk, raw)
        bench.damage(VAULT, chunk, bytes(40_000))
        with pytest.raises(ChunkCorruptError):
            bench.store.get(VAULT, chunk)
        bench.store.put(VAULT, chunk, raw)
        bench.damage(VAULT, chunk, bytes(40_000))
    bench.store.put(VAULT, chunk, raw)
    assert bench.store.usage().free == CAPACITY - 40_000


def test_puts_gets_and_removals_of_one_chunk_may_race(bench: Bench) -> None:
    """A get finds the whole chunk or none; after the last put it is there; the accounts are right."""
    problems: list[str] = []

    def race(number: int) -> None:
        for turn in range(25):
            bench.store.put(VAULT, CHUNK, RAW)
            if number % 2:
                bench.store.remove_if_unused_since(VAULT, CHUNK, bench.watch.now + 1)
            try:
                if bench.store.get(VAULT, CHUNK) != RAW:
                    problems.append(f"thread {number} turn {turn} read something else")
            except ChunkMissingError:
                continue
            except ChunkCorruptError:
                problems.append(f"thread {number} turn {turn} saw half a chunk")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench.store.put(VAULT, CHUNK, RAW)
    assert problems == []
    assert bench.store.get(VAULT, CHUNK) == RAW
    assert bench.store.usage().free == CAPACITY - len(RAW)
