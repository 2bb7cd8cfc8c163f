"""How do questions about chunks and their answers look in a message? Knows no link and no store: values in, values out.

What comes from a peer is checked field by field: errors of every reader are `ProtocolError`, and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

from meshhold.errors import ProtocolError
from meshhold.model.ids import CHUNK_ID_SIZE, ChunkId, VaultId
from meshhold.placement.ring import BITS_MAX
from meshhold.replication.chunks.holder_contract import Collected, Digests, Held

PUT: Final = "chunk.put/1"
PUT_STREAM: Final = "chunk.put_stream/1"
GET: Final = "chunk.get/1"
GET_STREAM: Final = "chunk.get_stream/1"
HAS: Final = "chunk.has/1"
RENEW: Final = "chunk.renew/1"
VERIFY: Final = "chunk.verify/1"
DIGESTS: Final = "chunk.digests/1"
NAMES: Final = "chunk.names/1"
COLLECT_STREAM: Final = "chunk.collect_stream/1"

IN_CALL_MAX: Final = 192 * 1024
"""Bytes of a chunk that travels in one message; a session's messages hold 256 KiB."""
SEALED_MAX: Final = 4 << 20
"""Data chunks have 1 MiB; the table of an upload in 10,000 parts with long checksums comes near 2 MiB."""
IDS_MAX: Final = 2_000
"""Chunks that one message may name: 64 KiB."""
VERIFIED_MAX: Final = 16
"""Chunks that one message may ask to be read and hashed: 16 MiB, seconds of a slow disk."""
DIGEST_SIZE: Final = 8
DIGESTS_MAX: Final = 1 << 14
"""Digests in one answer: 128 KiB."""
NAMES_MAX: Final = 1 << 18
"""Chunks of one partition: of the usual 1,024 that is a vault of 250 million chunks."""
MARKS_MAX: Final = 64 << 20
VERSION_LENGTH_MAX: Final = 128
AGE_MS_MAX: Final = 1 << 42
"""139 years: a copy whose age is not known may claim to be as old as the epoch of clocks."""
WORKING: Final = b"\x00"
"""What a collecting node says now and then, so that a long answer is not taken for none."""
_DONE: Final = b"\x01"
_COLLECTED: Final = struct.Struct(">cQQ")
COLLECTED_SIZE: Final = _COLLECTED.size


# -- fields of a question -------------------------------------------------------------------------------------------


def vault_of(body: Any) -> VaultId:
    """Return the vault that a question is about."""
    return VaultId(_field(body, "v", str))


def chunk_of(body: Any) -> ChunkId:
    """Return the one chunk that a question is about."""
    chunk = _field(body, "c", bytes)
    if len(chunk) != CHUNK_ID_SIZE:
        raise ProtocolError(f"a chunk's id has {CHUNK_ID_SIZE} bytes, not {len(chunk)}")
    return ChunkId(chunk)


def sealed_of(body: Any) -> bytes:
    """Return the bytes of a chunk that comes in a message."""
    sealed: bytes = _field(body, "x", bytes)
    if len(sealed) > IN_CALL_MAX:
        raise ProtocolError(f"a chunk of {len(sealed)} bytes does not come in one message, which has {IN_CALL_MAX}")
    return sealed


def size_of(body: Any, size_max: int) -> int:
    """Return how many bytes a stream will bring."""
    size: int = _field(body, "n", int)
    if not 0 <= size <= size_max:
        raise ProtocolError(f"a stream announces {size} bytes; the limit is {size_max}")
    return size


def chunks_of(body: Any, most: int = IDS_MAX) -> list[ChunkId]:
    """Return the chunks that a question is about."""
    joined = _field(body, "c", bytes)
    if not 0 < len(joined) <= most * CHUNK_ID_SIZE:
        raise ProtocolError(f"a question about chunks does not name 1 to {most}")
    return split_ids(joined)


def version_of(body: Any) -> str:
    """Return the version of the asker's view."""
    version: str = _field(body, "w", str)
    if len(version) > VERSION_LENGTH_MAX:
        raise ProtocolError(f"the version of a view has over {VERSION_LENGTH_MAX} characters")
    return version


def bits_of(body: Any) -> int:
    """Return into how many partitions, 2^bits, the asker divides."""
    bits: int = _field(body, "b", int)
    if not 0 <= bits <= BITS_MAX:
        raise ProtocolError(f"there are 2^0 to 2^{BITS_MAX} partitions, not 2^{bits}")
    return bits


def partition_of(body: Any, bits: int) -> int:
    """Return the partition that a question is about, or from which on."""
    partition: int = _field(body, "p", int)
    if not 0 <= partition < 1 << bits:
        raise ProtocolError(f"there is no partition {partition} of 2^{bits}")
    return partition


def after_of(body: Any) -> bytes:
    """Return the id after which a list goes on; empty for its beginning."""
    after: bytes = _field(body, "f", bytes)
    if len(after) not in {0, CHUNK_ID_SIZE}:
        raise ProtocolError("a list of chunks goes on after no id")
    return after


def touched_of(body: Any, now_s: float) -> float | None:
    """Return since when, by this node's clock, a copy is as old as the sender's; None for a new one."""
    age_ms = body.get("a")  # the body has been found to be a table by now
    if age_ms is None:
        return None
    if type(age_ms) is not int or not 0 <= age_ms <= AGE_MS_MAX:
        raise ProtocolError(f"the age of a chunk is not 0 to {AGE_MS_MAX} ms")
    return _touched_s(age_ms, now_s)


def age_ms(touched_s: float, now_s: float) -> int:
    """Return the form of an age: whole milliseconds, never of the future. What is cut off makes a copy younger."""
    return min(max(int((now_s - touched_s) * 1000), 0), AGE_MS_MAX)


def _touched_s(old_ms: int, now_s: float) -> float:
    return max(now_s - old_ms / 1000, 0.0)


# -- answers --------------------------------------------------------------------------------------------------------


def batches(chunks: Sequence[ChunkId], most: int) -> Iterator[Sequence[ChunkId]]:
    """Cut a list of chunks into those of one message each."""
    return (chunks[at : at + most] for at in range(0, len(chunks), most))


def read_flags(raw: Any, count: int) -> list[bool]:
    """Return one yes or no for each of `count` chunks."""
    if not isinstance(raw, bytes) or len(raw) != count:
        raise ProtocolError(f"a node did not answer with one byte for each of {count} chunks")
    return [flag == 1 for flag in raw]


def pack_digests(found: Digests, first: int) -> list[Any]:
    """Return the form of the digests from partition `first` on, as many as one message holds."""
    return [found.view_version, found.is_full, b"".join(found.digests[first : first + DIGESTS_MAX])]


def read_digests(raw: Any, count: int) -> Digests:
    """Undo `pack_digests`, for `count` of them."""
    match raw:
        case [str(version), bool(is_full), bytes(joined)] if len(version) <= VERSION_LENGTH_MAX:
            if len(joined) == count * DIGEST_SIZE:
                digests = [joined[at : at + DIGEST_SIZE] for at in range(0, len(joined), DIGEST_SIZE)]
                return Digests(version, is_full, digests)
    raise ProtocolError(f"a node did not answer with {count} digests of chunks")


def pack_names(found: Sequence[Held], now_s: float, *, is_last: bool) -> list[Any]:
    """Return the form of a page of names."""
    ages = (age_ms(held.touched_s, now_s) for held in found)
    return [b"".join([held.chunk for held in found]), struct.pack(f">{len(found)}Q", *ages), is_last]


def read_names(raw: Any, bits: int, partition: int, after: bytes, now_s: float) -> tuple[list[Held], bool]:
    """Undo `pack_names`: a page that goes on after `after`, and whether it is the last."""
    match raw:
        case [bytes(joined), bytes(ages), bool(is_last)] if len(joined) <= IDS_MAX * CHUNK_ID_SIZE:
            if len(joined) // CHUNK_ID_SIZE * 8 != len(ages):
                raise ProtocolError("a node did not tell one age for each chunk")
        case _:
            raise ProtocolError(f"a node did not answer with up to {IDS_MAX} names of chunks")
    chunks = split_ids(joined)
    if any(before >= chunk for before, chunk in zip([after, *chunks], chunks, strict=False)):
        raise ProtocolError("a node's names of chunks are not in order")
    if any(partition_in(chunk, bits) != partition for chunk in chunks):
        raise ProtocolError("a node told of chunks of another partition than it was asked for")
    if not chunks and not is_last:
        raise ProtocolError("a node told of no chunks, and that more follow")
    old_ms = struct.unpack(f">{len(chunks)}Q", ages)
    held = [Held(chunk, _touched_s(min(old, AGE_MS_MAX), now_s)) for chunk, old in zip(chunks, old_ms, strict=True)]
    return held, is_last


def pack_collected(collected: Collected) -> bytes:
    """Return the form of what was removed."""
    return _COLLECTED.pack(_DONE, collected.removed, collected.size)


def read_collected(raw: bytes) -> Collected:
    """Undo `pack_collected`."""
    if len(raw) != COLLECTED_SIZE or raw[:1] != _DONE:
        raise ProtocolError("a node did not say what it collected")
    _, removed, size = _COLLECTED.unpack(raw)
    return Collected(removed, size)


def partition_in(chunk: bytes, bits: int) -> int:
    """Return the partition, of 2^`bits`, that a chunk is in; see `Ring.partition_of`."""
    return int.from_bytes(chunk[:4], "big") >> (32 - bits)


def split_ids(joined: bytes) -> list[ChunkId]:
    """Return the ids that were joined."""
    if len(joined) % CHUNK_ID_SIZE:
        raise ProtocolError(f"names of chunks have {CHUNK_ID_SIZE} bytes each")
    return [ChunkId(joined[at : at + CHUNK_ID_SIZE]) for at in range(0, len(joined), CHUNK_ID_SIZE)]


def _field(body: Any, name: str, kind: type[Any]) -> Any:
    value = body.get(name) if isinstance(body, dict) else None
    if type(value) is not kind:
        raise ProtocolError(f"the field {name!r} of a message about chunks is no {kind.__name__}")
    return value
