"""What a node is asked of many chunks in one message, and how the answers look. Decides nothing, knows no link.

chunk.names_of_many/1    call    {"v": vault, "b": bits, "p": partitions}  →  [numbers of chunks, ids, ages]
chunk.get_many_stream/1  stream  {"v": vault, "c": ids}; END  →  each chunk's length and bytes; END

What comes from a peer is checked field by field: errors of every reader are `ProtocolError`, and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from meshhold.errors import ProtocolError
from meshhold.model.ids import CHUNK_ID_SIZE
from meshhold.replication.chunks import chunk_wire as wire
from meshhold.replication.chunks.holder_contract import Held

NAMES_OF_MANY: Final = "chunk.names_of_many/1"
GET_MANY_STREAM: Final = "chunk.get_many_stream/1"

BATCH_SIZE: Final = 1 << 20
"""Bytes of chunks in one answer; a chunk that is larger comes alone."""
BATCH_MAX: Final = 32
"""Chunks in one answer: a disk that makes 500 files durable in a second is busy with them for a moment only."""
PARTITIONS_MAX: Final = 64
"""Partitions that one question names."""
_COUNT: Final = struct.Struct(">I")
_ABSENT: Final = 2**32 - 1
"""The length of a chunk of which the node has no good copy."""
ANSWER_MAX: Final = wire.SEALED_MAX + BATCH_MAX * _COUNT.size


# -- names ----------------------------------------------------------------------------------------------------------


def pack_partitions(partitions: Sequence[int]) -> bytes:
    """Return the form of some partitions."""
    return struct.pack(f">{len(partitions)}I", *partitions)


def partitions_of(body: Any, bits: int) -> list[int]:
    """Return the partitions, of 2^`bits`, that a question is about; `body` has been found to be a table."""
    raw = body.get("p")
    if not isinstance(raw, bytes) or not 0 < len(raw) <= PARTITIONS_MAX * _COUNT.size or len(raw) % _COUNT.size:
        raise ProtocolError(f"a question does not name 1 to {PARTITIONS_MAX} partitions")
    partitions = _counts(raw)
    if partitions[-1] >= 1 << bits or any(one >= next_one for one, next_one in pairwise(partitions)):
        raise ProtocolError(f"a question does not name partitions of 2^{bits}, in order")
    return partitions


def pack_names(found: Sequence[Sequence[Held]], now_s: float) -> list[Any]:
    """Return the form of what there is in some partitions."""
    all_held = [held for names in found for held in names]
    ages = (wire.age_ms(held.touched_s, now_s) for held in all_held)
    return [
        struct.pack(f">{len(found)}I", *map(len, found)),
        b"".join([held.chunk for held in all_held]),
        struct.pack(f">{len(all_held)}Q", *ages),
    ]


def read_names(raw: Any, bits: int, partitions: Sequence[int], now_s: float) -> list[list[Held]]:
    """Undo `pack_names`, of the first of these partitions."""
    match raw:
        case [bytes(packed), bytes(joined), bytes(ages)] if len(packed) % _COUNT.size == 0:
            counts = _counts(packed)
        case _:
            raise ProtocolError("a node did not answer with names of chunks of some partitions")
    if len(counts) > len(partitions) or sum(counts) > wire.IDS_MAX:
        raise ProtocolError(f"a node tells of more than it was asked for, or of over {wire.IDS_MAX} chunks")
    if len(joined) != sum(counts) * CHUNK_ID_SIZE or len(ages) != sum(counts) * 8:
        raise ProtocolError("a node did not tell one id and one age for each chunk that it counts")
    found, at = [], 0
    for partition, count in zip(partitions, counts, strict=False):
        ids = joined[at * CHUNK_ID_SIZE : (at + count) * CHUNK_ID_SIZE]
        # A list of a partition has the form of a page that is the last one.
        names, _ = wire.read_names([ids, ages[at * 8 : (at + count) * 8], True], bits, partition, b"", now_s)
        found.append(names)
        at += count
    return found


def _counts(raw: bytes) -> list[int]:
    return [count for (count,) in _COUNT.iter_unpack(raw)]


# -- bytes ----------------------------------------------------------------------------------------------------------


def pack_pieces(pieces: Sequence[bytes | None]) -> bytes:
    """Return the form of some chunks."""
    return b"".join(_parts(pieces))


def _parts(pieces: Sequence[bytes | None]) -> Iterator[bytes]:
    for piece in pieces:
        if piece is None:
            yield _COUNT.pack(_ABSENT)
        else:
            yield _COUNT.pack(len(piece))
            yield piece


def read_pieces(raw: bytes, most: int) -> list[bytes | None]:
    """Undo `pack_pieces`, of 1 to `most` chunks."""
    pieces: list[bytes | None] = []
    at = 0
    while at + _COUNT.size <= len(raw) and len(pieces) < most:
        (size,) = _COUNT.unpack_from(raw, at)
        at += _COUNT.size
        if size == _ABSENT:
            pieces.append(None)
            continue
        pieces.append(raw[at : at + size])
        at += size
    if not pieces or at != len(raw):
        raise ProtocolError(f"a node did not answer with 1 to {most} whole chunks")
    return pieces
