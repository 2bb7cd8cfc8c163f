"""Writes many index rows into a node that is stopped: `fill.py DATA_DIR VAULT_ID COUNT`.

A listing reads only what the index derives from an entry, so the entries have empty content: they list, and do not
open. Rows go through the index's own `save`, as those of real uploads do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import trio

from bench.cases import page_key
from bench.failures import BenchError
from meshhold.index.contract import Index, Listed, Row
from meshhold.index.sqlite import open_index
from meshhold.model.entry import Entry, ObjectVersion, Space, encode_entry
from meshhold.model.ids import OpId, VaultId
from meshhold.model.stamp import Clock

_TOGETHER: Final = 500  # rows that share a commit
_SQLITE_MAGIC: Final = b"SQLite format 3\x00"
_MODIFIED_MS: Final = 1_750_000_000_000
_ETAG: Final = "d41d8cd98f00b204e9800998ecf8427e"


def index_file(data_dir: Path) -> Path:
    """Return the node's index: the only SQLite file under its data directory. Errors: `BenchError`."""
    found = [path for path in data_dir.rglob("*") if path.is_file() and _magic(path) == _SQLITE_MAGIC]
    if len(found) != 1:
        raise BenchError(f"{data_dir} has {len(found)} SQLite files instead of 1: {[path.name for path in found]}")
    return found[0]


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_SQLITE_MAGIC))


async def fill(data_dir: Path, vault: VaultId, count: int) -> None:
    """Save `count` rows, `_TOGETHER` at a time."""
    clock = Clock(bytes(8))
    async with open_index(index_file(data_dir)) as index:
        for first in range(0, count, _TOGETHER):
            async with trio.open_nursery() as nursery:
                for number in range(first, min(count, first + _TOGETHER)):
                    nursery.start_soon(_save, index, vault, number, clock)


async def _save(index: Index, vault: VaultId, number: int, clock: Clock) -> None:
    key = page_key(number).encode()
    entry = Entry(OpId(os.urandom(16)), ObjectVersion(4096, _ETAG, _MODIFIED_MS, b""))
    row = Row(clock.tick(_MODIFIED_MS), encode_entry(entry))
    await index.save(vault, Space.OBJECTS, key, row, Listed(key, 4096, _ETAG, _MODIFIED_MS, ""))


if __name__ == "__main__":
    trio.run(fill, Path(sys.argv[1]), VaultId(sys.argv[2]), int(sys.argv[3]))
