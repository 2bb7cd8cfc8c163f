"""What an entry's sealed content holds: the bytes themselves or refs, and the part table. Knows no register rule.

Content is bound to its register's key: bytes moved from one entry to another do not open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import InvalidError, UnknownFormatError
from meshhold.model.entry import Checksums, Ref
from meshhold.sealing.manifest import REFS_IN_ENTRY_MAX, decode_refs, encode_refs

CONTENT_VERSION: Final = 1
PARTS_VERSION: Final = 1
PARTS_MAX: Final = 10_000  # S3's limit on an upload's parts
_PURPOSE: Final = "entry content"


@dataclass(frozen=True, slots=True)
class Content:
    """Either `inline` bytes, or (None) up to `REFS_IN_ENTRY_MAX` refs; `part_table` where parts made the object."""

    inline: bytes | None
    refs: tuple[Ref, ...] = ()
    part_table: Ref | None = None


@dataclass(frozen=True, slots=True)
class PartRow:
    """One part of a completed upload: its number, size in bytes, ETag without quotes, and checksums.

    `salt` is the part's own where a client's own key hides it, else empty.
    """

    number: int
    size: int
    etag: str
    checksums: Checksums = field(default_factory=Checksums)
    salt: bytes = b""


def seal_content(keys: VaultKeys, key: bytes, salt: bytes, content: Content) -> bytes:
    """Return the content sealed to the register `key` of this vault; `salt` is fresh for each call.

    Errors: `InvalidError` for more refs than an entry holds.
    """
    if len(content.refs) > REFS_IN_ENTRY_MAX:
        raise InvalidError(f"an entry holds {REFS_IN_ENTRY_MAX} refs, not {len(content.refs)}", "seal manifest nodes")
    refs = encode_refs(content.refs) if content.refs else b""
    table = encode_refs((content.part_table,)) if content.part_table else b""
    plaintext: bytes = msgpack.packb([CONTENT_VERSION, content.inline, refs, table])
    return keys.seal_small(_PURPOSE, key, salt, plaintext)


def open_content(keys: VaultKeys, key: bytes, raw: bytes) -> Content:
    """Undo `seal_content`.

    Errors: `SealBrokenError` if it was sealed to another key or vault, or altered; `UnknownFormatError` for a version
    or shape that is not known.
    """
    fields = _unpack(keys.open_small(_PURPOSE, key, raw), CONTENT_VERSION, "entry content")
    if len(fields) != 4:
        raise UnknownFormatError(f"entry content has 4 fields, not {len(fields)}")
    _, inline, refs, table = fields
    if not (inline is None or isinstance(inline, bytes)) or not isinstance(refs, bytes) or not isinstance(table, bytes):
        raise UnknownFormatError("entry content holds fields that are not bytes")
    found = decode_refs(refs) if refs else ()
    tables = decode_refs(table) if table else ()
    if len(found) > REFS_IN_ENTRY_MAX or len(tables) > 1:
        raise UnknownFormatError(f"entry content holds {len(found)} refs and {len(tables)} part tables")
    return Content(inline, found, tables[0] if tables else None)


def encode_parts(rows: Sequence[PartRow]) -> bytes:
    """Return msgpack `[version, [number, size, etag, checksum kind, checksum values]…]` for up to 10,000 parts.

    A row ends in the part's salt if it has one.
    """
    if len(rows) > PARTS_MAX:
        raise InvalidError(f"an object has up to {PARTS_MAX} parts, not {len(rows)}")
    packed: bytes = msgpack.packb([PARTS_VERSION, *map(_packed_row, rows)])
    return packed


def _packed_row(row: PartRow) -> list[Any]:
    packed = [row.number, row.size, row.etag, row.checksums.kind, row.checksums.values]
    return [*packed, row.salt] if row.salt else packed


def decode_parts(raw: bytes) -> list[PartRow]:
    """Undo `encode_parts`. Errors: `UnknownFormatError` for anything that it did not make, and nothing else."""
    _, *rows = _unpack(raw, PARTS_VERSION, "a part table")
    if len(rows) > PARTS_MAX:
        raise UnknownFormatError(f"a part table holds {len(rows)} rows; the limit is {PARTS_MAX}")
    return [_part_row(row) for row in rows]


def _part_row(row: Any) -> PartRow:
    match row:
        case [int(number), int(size), str(etag), str(kind), dict(values), *rest] if 1 <= number <= PARTS_MAX:
            salt = rest[0] if rest else b""
            texts = all(isinstance(name, str) and isinstance(value, str) for name, value in values.items())
            if texts and size >= 0 and len(rest) <= 1 and isinstance(salt, bytes):
                return PartRow(number, size, etag, Checksums(kind, values), salt)
    raise UnknownFormatError("a row of a part table is not [number, size, etag, checksum kind, checksums]")


def _unpack(raw: bytes, version: int, what: str) -> list[Any]:
    try:
        fields = msgpack.unpackb(raw)
    except Exception as error:  # msgpack's words for hostile bytes are many
        raise UnknownFormatError(f"{what} cannot be read: {type(error).__name__}") from error
    if not isinstance(fields, list) or not fields:
        raise UnknownFormatError(f"{what} cannot be read: no version")
    if fields[0] != version:
        raise UnknownFormatError(f"{what} of version {fields[0]!r} is not known", "use a newer meshhold")
    return fields
