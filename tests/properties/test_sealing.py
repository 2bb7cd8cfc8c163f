"""Laws of the chunker, of manifests and of decoding hostile bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshhold.crypto.bulk import open_once
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import IntegrityError
from meshhold.model.entry import Ref
from meshhold.model.ids import ChunkId
from meshhold.sealing.chunker import CHUNK_SIZE, Chunker
from meshhold.sealing.content import Content, decode_parts, open_content, seal_content
from meshhold.sealing.manifest import REFS_PER_NODE_MAX, decode_refs, encode_refs, group_refs, select

KEYS = VaultKeys(b"s" * 32)
SALT = b"0123456789abcdef"
SOURCE = random.Random(7).randbytes(4 * CHUNK_SIZE + 100)

repeatable = settings(derandomize=True, deadline=None)  # the same examples each time; a busy machine is no failure

refs_strategy = st.lists(
    st.builds(
        Ref,
        st.integers(0, 4),
        st.binary(min_size=32, max_size=32).map(ChunkId),
        st.binary(min_size=32, max_size=32),
        st.integers(0, 50),
    ),
    max_size=40,
)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    cuts=st.lists(st.integers(0, len(SOURCE)), max_size=30),
    near=st.lists(st.tuples(st.integers(0, 4), st.integers(-2, 2)), max_size=6),
)
def test_what_the_chunker_returns_is_what_was_fed(cuts: list[int], near: list[tuple[int, int]]) -> None:
    """Whatever the pieces, blocks are full, and joined with the rest they are the stream."""
    edges = {min(max(block * CHUNK_SIZE + off, 0), len(SOURCE)) for block, off in near}
    marks = [0, *sorted({*cuts, *edges}), len(SOURCE)]
    chunker = Chunker()
    blocks: list[bytes] = []
    for begin, end in pairwise(marks):
        blocks += chunker.feed(SOURCE[begin:end])
    rest = chunker.finish()
    assert all(len(block) == CHUNK_SIZE for block in blocks)
    assert len(rest) < CHUNK_SIZE
    assert b"".join(blocks) + rest == SOURCE
    assert chunker.finish() == b""


@repeatable
@given(refs_strategy)
def test_refs_round_trip(refs: list[Ref]) -> None:
    assert decode_refs(encode_refs(refs)) == tuple(refs)


@repeatable
@given(refs_strategy, st.integers(-5, 2100), st.integers(-5, 2100))
def test_select_gives_exactly_the_bytes_asked_for(refs: list[Ref], start: int, stop: int) -> None:
    """Oracle: the list written out byte by byte."""
    every = [(number, at) for number, ref in enumerate(refs) for at in range(ref.span)]
    wanted = every[max(start, 0) : max(stop, 0)]
    chosen = select(refs, start, stop)
    found: list[tuple[bytes, int]] = [(ref.chunk, at) for ref, first, end in chosen for at in range(first, end)]
    assert found == [(refs[number].chunk, at) for number, at in wanted]
    assert all(first < end for _, first, end in chosen)


@repeatable
@given(st.integers(0, 5 * REFS_PER_NODE_MAX))
def test_groups_are_few_balanced_and_in_order(count: int) -> None:
    ref = Ref(0, ChunkId(bytes(32)), bytes(32), 1)
    sizes = [len(group) for group in group_refs([ref] * count)]
    assert sum(sizes) == count
    assert len(sizes) == -(-count // REFS_PER_NODE_MAX)
    assert max(sizes, default=0) <= REFS_PER_NODE_MAX
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@pytest.mark.parametrize("decode", [decode_refs, decode_parts, lambda raw: open_content(KEYS, b"", raw)])
@repeatable
@given(raw=st.binary(max_size=200))
def test_hostile_bytes_raise_nothing_but_integrity_errors(decode: Callable[[bytes], object], raw: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode(raw)


@repeatable
@given(refs=refs_strategy, at=st.integers(0, 1 << 16), byte=st.integers(0, 255))
def test_altered_refs_decode_to_valid_refs_or_are_refused(refs: list[Ref], at: int, byte: int) -> None:
    raw = bytearray(encode_refs(refs))
    raw[at % len(raw)] = byte
    try:
        found = decode_refs(bytes(raw))
    except IntegrityError:
        return
    assert encode_refs(found) == bytes(raw) or decode_refs(encode_refs(found)) == found


@repeatable
@given(inline=st.binary(max_size=500), key=st.binary(max_size=40), at=st.integers(0, 1 << 12), bit=st.integers(0, 7))
def test_altered_content_never_opens(inline: bytes, key: bytes, at: int, bit: int) -> None:
    raw = bytearray(seal_content(KEYS, key, SALT, Content(inline)))
    raw[at % len(raw)] ^= 1 << bit
    with pytest.raises(IntegrityError):
        open_content(KEYS, key, bytes(raw))


@repeatable
@given(raw=st.binary(max_size=100), key=st.binary(min_size=32, max_size=32))
def test_bytes_that_nobody_sealed_do_not_open(raw: bytes, key: bytes) -> None:
    with pytest.raises(IntegrityError):
        open_once(key, raw)
