"""How the rows of an index become blocks, most of which stay the same while few rows change. Knows no storage.

A block ends after a row whose name hashes to a certain value, so that a change moves no boundary but those beside it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import InvalidError, UnknownFormatError
from meshhold.model.entry import Entry, Space, decode_entry, encode_entry
from meshhold.sealing.chunker import CHUNK_SIZE

BLOCKS_VERSION: Final = 1
ROWS_AVERAGE: Final = 256
"""Rows of a block: a changed one costs some 64 KiB to keep, and a million rows are 4,000 refs."""
ROWS_MAX: Final = 4096
BYTES_MAX: Final = CHUNK_SIZE - 64
_ROW_OVERHEAD: Final = 16
_KEPT: Final = (Space.OBJECTS, Space.UPLOADS, Space.PARTS, Space.VERSIONS)


class IndexRow(NamedTuple):
    """One live row."""

    space: Space
    key: bytes
    entry: Entry


class BlockCutter:
    """Gathers rows in their order, and cuts."""

    def __init__(self) -> None:
        self._rows: list[list[Any]] = []
        self._size = 0

    def feed(self, row: IndexRow) -> list[bytes]:
        """Take a row; return the blocks that are full now, up to two. Errors: `InvalidError` for a giant row."""
        raw = encode_entry(row.entry)
        size = len(row.key) + len(raw) + _ROW_OVERHEAD
        if size > BYTES_MAX:
            raise InvalidError(f"an index row of {len(raw)} bytes does not fit into a block of a snapshot")
        full = [self._cut()] if self._size + size > BYTES_MAX else []
        self._rows.append([int(row.space), row.key, raw])
        self._size += size
        if len(self._rows) >= ROWS_MAX or _ends_block(row):
            full.append(self._cut())
        return full

    def finish(self) -> list[bytes]:
        """Return the last block, if rows are left."""
        return [self._cut()] if self._rows else []

    def _cut(self) -> bytes:
        packed: bytes = msgpack.packb([BLOCKS_VERSION, self._rows])
        self._rows, self._size = [], 0
        return packed


def _ends_block(row: IndexRow) -> bool:
    return int.from_bytes(hash_bytes(bytes((row.space,)) + row.key)[:4], "big") % ROWS_AVERAGE == 0


def empty_block() -> bytes:
    """Return the block that stands for an index without rows."""
    return BlockCutter()._cut()  # noqa: SLF001 - one with nothing in it


def decode_block(raw: bytes) -> list[IndexRow]:
    """Return a block's rows. Errors: `UnknownFormatError` for anything that a cutter did not make."""
    try:
        version, rows = msgpack.unpackb(raw)
    except Exception as error:  # msgpack's words for hostile bytes are many
        raise UnknownFormatError(f"a block of a snapshot cannot be read: {type(error).__name__}") from error
    if version != BLOCKS_VERSION:
        raise UnknownFormatError(f"a snapshot of version {version!r} is not known", "use a newer meshhold")
    if not isinstance(rows, list) or len(rows) > ROWS_MAX:
        raise UnknownFormatError("a block of a snapshot holds no list of rows")
    return [_row(each) for each in rows]


def _row(fields: Any) -> IndexRow:
    match fields:
        case [int(space), bytes(key), bytes(entry)] if space in _KEPT:
            return IndexRow(Space(space), key, decode_entry(entry))
    raise UnknownFormatError("a row of a snapshot is not [space, key, entry]")
