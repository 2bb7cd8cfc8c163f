"""How a long object's refs are kept in a tree of chunks, and which of them a byte range needs. Knows no storage.

Rules: refs are in the order of the bytes they stand for; a chunk of depth d > 0 holds refs of smaller depth whose spans
add up to its own. An entry holds up to 16 refs, a chunk up to 8,192: depth 1 reaches 128 GiB, depth 2 any object.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

import msgpack

from meshhold.errors import InvalidError, UnknownFormatError
from meshhold.model.entry import Ref
from meshhold.model.ids import CHUNK_ID_SIZE, ChunkId
from meshhold.sealing.sealer import open_chunk

REFS_IN_ENTRY_MAX: Final = 16
"""An entry stays near 1 KiB whatever the object's size."""
REFS_PER_NODE_MAX: Final = 8192
"""65 bytes and a span each: a full node stays below one data chunk's size."""
DEPTH_MAX: Final = 4
"""8,192 to the third chunks at depth 3 is more than any object; one spare level bounds every walk."""
SPAN_MAX: Final = 1 << 53
"""No object comes near; sums of 8,192 spans stay exact wherever they travel."""
REFS_VERSION: Final = 1
_KEY_SIZE: Final = 32


def encode_refs(refs: Sequence[Ref]) -> bytes:
    """Return msgpack `[version, depths, chunk ids, keys, spans]`, the first three of them joined bytes.

    Errors: `InvalidError` for more than `REFS_PER_NODE_MAX` refs, or a ref out of bounds.
    """
    if len(refs) > REFS_PER_NODE_MAX:
        raise InvalidError(f"{len(refs)} refs do not fit in one node", f"group them by {REFS_PER_NODE_MAX}")
    for ref in refs:
        widths = len(ref.chunk) == CHUNK_ID_SIZE and len(ref.key) == _KEY_SIZE
        if not (widths and 0 <= ref.depth <= DEPTH_MAX and 0 <= ref.span <= SPAN_MAX):
            raise InvalidError(f"a ref of depth {ref.depth} and span {ref.span} is out of bounds")
    depths = bytes(ref.depth for ref in refs)
    chunks, keys = b"".join(ref.chunk for ref in refs), b"".join(ref.key for ref in refs)
    packed: bytes = msgpack.packb([REFS_VERSION, depths, chunks, keys, [ref.span for ref in refs]])
    return packed


def decode_refs(raw: bytes) -> tuple[Ref, ...]:
    """Undo `encode_refs`. Errors: `UnknownFormatError` for anything that it did not make, and nothing else."""
    try:
        fields = msgpack.unpackb(raw)
    except Exception as error:  # msgpack's words for hostile bytes are many
        raise UnknownFormatError(f"refs cannot be read: {type(error).__name__}") from error
    if not isinstance(fields, list) or not fields:
        raise UnknownFormatError("refs cannot be read: no version")
    if fields[0] != REFS_VERSION:
        raise UnknownFormatError(f"refs of version {fields[0]!r} are not known", "use a newer meshhold")
    _check_fields(fields)
    _, depths, chunks, keys, spans = fields
    return tuple(
        Ref(depth, ChunkId(chunks[at : at + 32]), keys[at : at + 32], span)
        for depth, at, span in zip(depths, range(0, len(chunks), 32), spans, strict=True)
    )


def group_refs(refs: Sequence[Ref]) -> list[tuple[Ref, ...]]:
    """Cut a list into the fewest nodes of at most `REFS_PER_NODE_MAX` refs; their lengths differ by at most one."""
    count = -(-len(refs) // REFS_PER_NODE_MAX)
    cuts = [len(refs) * node // count for node in range(count + 1)] if count else [0]
    return [tuple(refs[begin:end]) for begin, end in pairwise(cuts)]


def select(refs: Sequence[Ref], start: int, stop: int) -> list[tuple[Ref, int, int]]:
    """Return the refs that hold bytes `start` up to `stop` (exclusive) of what the list stands for, in order.

    Each comes with the first byte inside it and the end (exclusive) inside it; none is empty. What lies outside of the
    list is left out.
    """
    start = max(start, 0)
    ends = list(accumulate(ref.span for ref in refs))
    found: list[tuple[Ref, int, int]] = []
    for at in range(bisect_right(ends, start), len(refs)):
        ref = refs[at]
        before = ends[at] - ref.span
        if before >= stop:
            break
        first, end = max(start - before, 0), min(stop - before, ref.span)
        if first < end:
            found.append((ref, first, end))
    return found


def open_node(ref: Ref, sealed: bytes) -> tuple[Ref, ...]:
    """Return the refs inside a chunk of depth > 0.

    Errors: as `open_chunk`; `UnknownFormatError` if they do not add up to the ref's span or do not descend.
    """
    if ref.depth == 0:
        raise UnknownFormatError(f"chunk {ref.chunk.hex()} is data, not a manifest node")
    refs = decode_refs(open_chunk(ref, sealed))
    if sum(child.span for child in refs) != ref.span or any(child.depth >= ref.depth for child in refs):
        raise UnknownFormatError(f"manifest node {ref.chunk.hex()} does not hold what its ref announces")
    return refs


def _check_fields(fields: list[Any]) -> None:
    """Refuse all but `[version, n bytes up to DEPTH_MAX, 32 n bytes, 32 n bytes, n spans]`, n being in bounds."""
    if len(fields) != 5:
        raise UnknownFormatError(f"refs have 5 fields, not {len(fields)}")
    _, depths, chunks, keys, spans = fields
    if not (isinstance(depths, bytes) and isinstance(chunks, bytes) and isinstance(keys, bytes)):
        raise UnknownFormatError("depths, chunk ids and keys of refs are bytes")
    count = len(depths)
    if count > REFS_PER_NODE_MAX:
        raise UnknownFormatError(f"{count} refs exceed the {REFS_PER_NODE_MAX} of one node")
    if len(chunks) != count * CHUNK_ID_SIZE or len(keys) != count * _KEY_SIZE:
        raise UnknownFormatError("chunk ids and keys of refs have 32 bytes each")
    if max(depths, default=0) > DEPTH_MAX:
        raise UnknownFormatError(f"a ref's depth exceeds {DEPTH_MAX}")
    if not isinstance(spans, list) or len(spans) != count:
        raise UnknownFormatError("refs have one span each")
    if any(type(span) is not int or not 0 <= span <= SPAN_MAX for span in spans):
        raise UnknownFormatError(f"a ref's span is not a number from 0 to {SPAN_MAX}")
