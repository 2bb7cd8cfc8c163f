"""Sealing of chunks, manifest nodes and entry content: round trips, and what must not open."""

from __future__ import annotations

import msgpack
import pytest

from meshhold.crypto.hashing import hash_bytes
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import InvalidError, SealBrokenError, UnknownFormatError
from meshhold.model.entry import Checksums, Ref
from meshhold.model.ids import ChunkId
from meshhold.sealing.chunker import CHUNK_SIZE, Chunker
from meshhold.sealing.content import Content, PartRow, decode_parts, encode_parts, open_content, seal_content
from meshhold.sealing.manifest import (
    REFS_IN_ENTRY_MAX,
    REFS_PER_NODE_MAX,
    SPAN_MAX,
    decode_refs,
    encode_refs,
    group_refs,
    open_node,
)
from meshhold.sealing.sealer import open_chunk, seal_chunk

KEYS = VaultKeys(b"s" * 32)
OTHER = VaultKeys(b"t" * 32)
SALT = b"0123456789abcdef"


def make_ref(number: int, span: int = CHUNK_SIZE, depth: int = 0) -> Ref:
    return Ref(depth, ChunkId(number.to_bytes(32, "big")), number.to_bytes(32, "little"), span)


# -- chunks -----------------------------------------------------------------------------------------------------------


def test_a_chunk_is_named_by_its_sealed_bytes() -> None:
    ref, sealed = seal_chunk(KEYS, b"photo")
    assert ref.chunk == hash_bytes(sealed)
    assert (ref.depth, ref.span) == (0, 5)
    assert open_chunk(ref, sealed) == b"photo"


def test_equal_bytes_are_one_chunk_within_a_vault_and_never_across() -> None:
    assert seal_chunk(KEYS, b"photo") == seal_chunk(VaultKeys(b"s" * 32, {9: b"e" * 32}), b"photo")
    assert seal_chunk(KEYS, b"photo")[0].chunk != seal_chunk(OTHER, b"photo")[0].chunk


def test_a_chunk_does_not_open_with_another_key() -> None:
    ref, sealed = seal_chunk(KEYS, b"photo")
    with pytest.raises(SealBrokenError):
        open_chunk(Ref(0, ref.chunk, bytes(32), 5), sealed)


def test_data_of_another_length_than_its_span_is_broken() -> None:
    ref, sealed = seal_chunk(KEYS, b"photo")
    with pytest.raises(SealBrokenError, match="5 bytes where 6"):
        open_chunk(Ref(0, ref.chunk, ref.key, 6), sealed)


def test_a_full_block_is_handed_on_as_it_came() -> None:
    """No copy where a piece is a block: the large-body path."""
    block = bytes(CHUNK_SIZE)
    (cut,) = Chunker().feed(block)
    assert cut is block


def test_tiny_pieces_do_not_pile_up() -> None:
    chunker = Chunker()
    for _ in range(20_000):
        chunker.feed(b"x")
    assert len(chunker._joined) + len(chunker._recent) < 400
    assert chunker.finish() == b"x" * 20_000


# -- manifest nodes ---------------------------------------------------------------------------------------------------


def test_a_node_opens_to_its_refs() -> None:
    refs = tuple(make_ref(number) for number in range(20))
    ref, sealed = seal_chunk(KEYS, encode_refs(refs), depth=1, span=20 * CHUNK_SIZE)
    assert open_node(ref, sealed) == refs


@pytest.mark.parametrize(
    ("depth", "span", "children"),
    [
        (1, 3, [make_ref(1, span=2)]),
        (1, 2, [make_ref(1, span=2, depth=1)]),
        (1, 2, [make_ref(1, span=2, depth=2)]),
    ],
)
def test_a_node_that_breaks_the_tree_is_refused(depth: int, span: int, children: list[Ref]) -> None:
    ref, sealed = seal_chunk(KEYS, encode_refs(children), depth=depth, span=span)
    with pytest.raises(UnknownFormatError, match="announces"):
        open_node(ref, sealed)


def test_data_is_not_a_node() -> None:
    ref, sealed = seal_chunk(KEYS, b"photo")
    with pytest.raises(UnknownFormatError, match="data"):
        open_node(ref, sealed)


def test_a_full_node_stays_below_a_data_chunk() -> None:
    refs = [make_ref(number, span=SPAN_MAX) for number in range(REFS_PER_NODE_MAX)]
    raw = encode_refs(refs)
    assert len(raw) < CHUNK_SIZE
    assert len(decode_refs(raw)) == REFS_PER_NODE_MAX


@pytest.mark.parametrize(
    "ref",
    [
        Ref(0, ChunkId(b"short"), bytes(32), 1),
        Ref(0, ChunkId(bytes(32)), b"short", 1),
        Ref(0, ChunkId(bytes(32)), bytes(32), -1),
        Ref(5, ChunkId(bytes(32)), bytes(32), 1),
        Ref(-1, ChunkId(bytes(32)), bytes(32), 1),
    ],
)
def test_refs_out_of_bounds_are_not_encoded(ref: Ref) -> None:
    with pytest.raises(InvalidError):
        encode_refs([ref])


def test_more_refs_than_a_node_holds_are_refused_both_ways() -> None:
    count = REFS_PER_NODE_MAX + 1
    with pytest.raises(InvalidError):
        encode_refs([make_ref(1)] * count)
    with pytest.raises(UnknownFormatError, match="exceed"):
        decode_refs(msgpack.packb([1, bytes(count), bytes(32 * count), bytes(32 * count), [1] * count]))


K = bytes(32)


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        [2, b"\0", K, K, [1]],
        ["1", b"\0", K, K, [1]],
        [1],
        [1, b"\0", K, K, [1], 0],
        [1, "\0", K, K, [1]],
        [1, b"\0", K[:-1], K, [1]],
        [1, b"\0", K, K + K, [1]],
        [1, b"\0", None, K, [1]],
        [1, b"\5", K, K, [1]],
        [1, b"\0", K, K, [-1]],
        [1, b"\0", K, K, [SPAN_MAX + 1]],
        [1, b"\0", K, K, [True]],
        [1, b"\0", K, K, ["1"]],
        [1, b"\0", K, K, []],
        [1, b"\0", K, K, 1],
    ],
)
def test_hostile_refs_are_refused_by_name(fields: object) -> None:
    with pytest.raises(UnknownFormatError):
        decode_refs(msgpack.packb(fields))


def test_grouping_is_balanced() -> None:
    refs = [make_ref(number) for number in range(2 * REFS_PER_NODE_MAX + 1)]
    groups = group_refs(refs)
    assert [len(group) for group in groups] == [5461, 5462, 5462]
    assert [ref for group in groups for ref in group] == refs
    assert group_refs([]) == []


# -- entry content ----------------------------------------------------------------------------------------------------

REF = make_ref(7)


@pytest.mark.parametrize(
    "content",
    [
        Content(b""),
        Content(b"small object"),
        Content(b"from parts", part_table=REF),
        Content(None, (REF,) * REFS_IN_ENTRY_MAX),
        Content(None, (REF,), REF),
    ],
)
def test_content_round_trip(content: Content) -> None:
    assert open_content(KEYS, b"key", seal_content(KEYS, b"key", SALT, content)) == content


def test_content_is_bound_to_its_register_and_vault() -> None:
    raw = seal_content(KEYS, b"mine", SALT, Content(b"x"))
    for keys, key in ((KEYS, b"yours"), (OTHER, b"mine")):
        with pytest.raises(SealBrokenError):
            open_content(keys, key, raw)


def test_an_entry_takes_no_more_refs_than_it_holds() -> None:
    with pytest.raises(InvalidError, match="16 refs"):
        seal_content(KEYS, b"key", SALT, Content(None, (REF,) * (REFS_IN_ENTRY_MAX + 1)))


@pytest.mark.parametrize(
    "fields",
    [
        [2, b"", b"", b""],
        [1, b""],
        [1, "text", b"", b""],
        [1, None, None, b""],
        [1, None, b"\xc1", b""],
        [1, None, b"", encode_refs([REF, REF])],
        [1, None, encode_refs([REF] * 17), b""],
        {},
        7,
    ],
)
def test_unknown_content_is_refused_by_name(fields: object) -> None:
    raw = KEYS.seal_small("entry content", b"key", SALT, msgpack.packb(fields))
    with pytest.raises(UnknownFormatError):
        open_content(KEYS, b"key", raw)


# -- part tables ------------------------------------------------------------------------------------------------------


def test_a_full_part_table_round_trips() -> None:
    sums = Checksums("COMPOSITE", {"SHA256": "a" * 44})
    rows = [PartRow(number, 5 << 20, f"{number:032x}", sums) for number in range(1, 10_001)]
    assert decode_parts(encode_parts(rows)) == rows


@pytest.mark.parametrize(
    "fields",
    [
        [2],
        [],
        None,
        [1, []],
        [1, 7],
        [1, [0, 1, "e", "k", {}]],
        [1, [10_001, 1, "e", "k", {}]],
        [1, [1, -1, "e", "k", {}]],
        [1, [1, 1, b"e", "k", {}]],
        [1, [1, 1, "e", "k", {"a": 1}]],
        [1, *[[1, 1, "e", "k", {}]] * 10_001],
    ],
)
def test_hostile_part_tables_are_refused_by_name(fields: object) -> None:
    with pytest.raises(UnknownFormatError):
        decode_parts(msgpack.packb(fields))


def test_too_many_parts_are_not_encoded() -> None:
    with pytest.raises(InvalidError, match="10000 parts"):
        encode_parts([PartRow(1, 1, "e")] * 10_001)
