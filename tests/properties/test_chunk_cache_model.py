"""Whatever is put, read, damaged, dropped and taken by others: the cache is what a list in order of use says."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshhold.chunkstore import cache as cache_module
from meshhold.chunkstore.cache import ChunkCache
from meshhold.crypto.hashing import hash_bytes
from meshhold.model.ids import ChunkId, VaultId

BLOCK = 4096
SIZE_MAX = 6
ENTRIES_MAX = 4
VAULTS = [VaultId(letter * 32) for letter in "ab"]
RAWS = [bytes([seed]) * (blocks * BLOCK - 1) for seed, blocks in enumerate((1, 1, 1, 2, 2, 3, 6, 7), 1)]
IDS = [ChunkId(hash_bytes(raw)) for raw in RAWS]
numbers = st.integers(0, len(RAWS) - 1)


class Disk:
    """`os`, with as many blocks free as the model says."""

    def __init__(self) -> None:
        self.free = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def statvfs(self, _path: str) -> Any:
        return SimpleNamespace(f_frsize=BLOCK, f_bavail=self.free)


class CacheMachine(RuleBasedStateMachine):
    """`model` has (chunk's number, vault) in the order of use; `others` is what the disk has but for the cache."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.disk = Disk()
        self.patch.setattr(cache_module, "os", self.disk)
        self.others = 100
        self.model: list[tuple[int, VaultId]] = []
        self.open()

    def open(self) -> None:
        self.cache = ChunkCache(
            self.folder / "cache", SIZE_MAX * BLOCK, reserve_bytes=2 * BLOCK, entries_max=ENTRIES_MAX
        )

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.folder)

    @property
    def used(self) -> int:
        return sum(self.blocks(number) for number, _ in self.model)

    @staticmethod
    def blocks(number: int) -> int:
        return len(RAWS[number]) // BLOCK + 1

    def settle(self) -> None:
        self.disk.free = max(self.others - self.used, 0)

    @property
    def allowed(self) -> int:
        return min(SIZE_MAX, self.used + self.disk.free - 2 - SIZE_MAX)

    def trim(self, used_max: int, entries_max: int) -> None:
        while self.used > max(used_max, 0) or len(self.model) > entries_max:
            self.model.pop(0)

    @initialize(others=st.integers(0, 40))
    def begin(self, others: int) -> None:
        self.others = others
        self.settle()

    @rule(number=numbers, vault=st.sampled_from(VAULTS))
    def put(self, number: int, vault: VaultId) -> None:
        is_there = any(number == each for each, _ in self.model)
        blocks, allowed = self.blocks(number), self.allowed
        fits = is_there or (blocks <= SIZE_MAX and blocks <= allowed)
        assert self.cache.put(vault, IDS[number], RAWS[number]) == fits
        if not is_there and blocks <= SIZE_MAX:
            self.trim(allowed - blocks, ENTRIES_MAX - 1)
            if fits:
                self.model.append((number, vault))
        self.settle()

    @rule(number=numbers)
    def get(self, number: int) -> None:
        found = [each for each in self.model if each[0] == number]
        assert self.cache.get(IDS[number]) == (RAWS[number] if found else None)
        self.model = [each for each in self.model if each not in found] + found

    @rule(number=numbers, at=st.integers(0, BLOCK - 2))
    def rot(self, number: int, at: int) -> None:
        kept = self.cache._kept.get(IDS[number])
        if kept is not None:
            path = Path(self.cache._path(kept.number))
            raw = bytearray(path.read_bytes())
            raw[at] ^= 1
            path.write_bytes(raw)
            self.model = [each for each in self.model if each[0] != number]
        assert self.cache.get(IDS[number]) is None
        self.settle()

    @rule(vault=st.sampled_from(VAULTS))
    def drop(self, vault: VaultId) -> None:
        self.cache.drop_vault(vault)
        self.model = [each for each in self.model if each[1] != vault]
        self.settle()

    @rule(vaults=st.sets(st.sampled_from(VAULTS)), others=st.integers(0, 40))
    def tend(self, vaults: set[VaultId], others: int) -> None:
        self.others = others
        self.settle()
        self.model = [each for each in self.model if each[1] in vaults]
        self.trim(self.allowed, ENTRIES_MAX)
        self.cache.tend(vaults)
        self.settle()

    @rule(blocks=st.integers(1, 4))
    def give_back(self, blocks: int) -> None:
        self.patch.setattr(cache_module, "GIVEN_BACK_AT_ONCE", blocks * BLOCK)
        had_leftovers = bool(self.cache._leftovers)
        assert self.cache.give_back() == bool(self.model or had_leftovers)
        if not had_leftovers:
            self.trim(self.used - blocks, ENTRIES_MAX)
        self.settle()

    @rule()
    def restart(self) -> None:
        self.open()
        self.model = []
        self.settle()

    @invariant()
    def is_the_model(self) -> None:
        assert [IDS.index(chunk) for chunk in self.cache._kept] == [number for number, _ in self.model]
        assert self.cache.used == self.used * BLOCK <= SIZE_MAX * BLOCK
        folder = Path(self.cache._folder)
        assert len(list(folder.iterdir()) if folder.exists() else []) == len(self.model)


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
