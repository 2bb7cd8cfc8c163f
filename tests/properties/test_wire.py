"""Laws of the wire for any input: round trips, agreement with msgpack, and refusals that are always `PeerError`."""

from __future__ import annotations

import math
from typing import Any

import msgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.fuzz_wire import run_fuzz

from meshhold.crypto.identity import Identity
from meshhold.errors import HandshakeRefusedError, PeerError, ProtocolError
from meshhold.model.ids import NodeId
from meshhold.wire.channel import Channel
from meshhold.wire.codec import Limits, decode, encode
from meshhold.wire.framing import FrameReader, encode_frame
from meshhold.wire.handshake import MESSAGE_SIZES, Handshake

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text() | st.binary(), inner, max_size=20),
    max_leaves=30,
)
HEADS = st.sampled_from([bytes([first]) for first in (*range(0x80, 0xE0), 0x00, 0xFF)])
HOSTILE = st.binary(max_size=60) | st.lists(HEADS | st.binary(max_size=3), max_size=30).map(b"".join)
WIDE = Limits(size_max=2**20, depth_max=400, items_max=2**32, containers_max=2**20)


@settings(max_examples=40)
@given(VALUES)
def test_any_value_comes_back(value: Any) -> None:
    try:
        raw = encode(value)
    except ProtocolError as refusal:
        assert "exceeds the limit of 16 levels" in refusal.message  # noqa: PT017  -- only depth may refuse these
        return
    assert decode(raw) == value


@given(HOSTILE)
@example(b"\xc1")
@example(b"\xdd\xff\xff\xff\xff")
def test_hostile_bytes_are_taken_exactly_where_msgpack_takes_them(raw: bytes) -> None:
    """The check of shapes refuses no more and no less than msgpack does, but for extensions."""
    try:
        expected = msgpack.unpackb(raw, ext_hook=refuse_extension, timestamp=0)
    except Exception:  # noqa: BLE001  -- msgpack raises a dozen kinds
        expected = Ellipsis
    try:
        found = decode(raw, WIDE)
    except ProtocolError as refusal:
        assert expected is Ellipsis or "is not allowed" in refusal.message  # noqa: PT017  -- both outcomes are compared
        return
    assert found == expected or has_nan(found)


def refuse_extension(number: int, _data: bytes) -> None:
    raise ValueError(number)


def has_nan(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_nan, value.values()))
    if isinstance(value, list):
        return any(map(has_nan, value))
    return isinstance(value, float) and math.isnan(value)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.lists(st.integers(1, 400), min_size=1))
def test_frames_survive_any_cut(contents: list[bytes], sizes: list[int]) -> None:
    stream = b"".join(map(encode_frame, contents))
    reader = FrameReader()
    found: list[bytes] = []
    turn = 0
    while stream:
        size = sizes[turn % len(sizes)]
        found += map(bytes, reader.feed(stream[:size]))
        stream = stream[size:]
        turn += 1
    assert found == contents
    assert not reader.mid_frame


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=200)), max_size=40))
def test_any_conversation_arrives_in_order_whenever_keys_change(turns: list[tuple[bool, bytes]]) -> None:
    """An empty text stands for a change of keys."""
    to, fro = b"t" * 32, b"f" * 32
    sides = [Channel(NodeId("b"), b"", to, fro), Channel(NodeId("a"), b"", fro, to)]
    for first, text in turns:
        writer, reader = sides if first else sides[::-1]
        assert reader.open(writer.seal(text) if text else writer.seal_rekey(0.0)) == text
    for writer, reader in (sides, sides[::-1]):
        reader.open(writer.seal_end())
        assert reader.ended


def make_handshake(*, initiator: bool) -> Handshake:
    return Handshake(
        initiator=initiator,
        swarm_key=b"k" * 32,
        identity=Identity((b"A" if initiator else b"B") * 32),
        static_secret=(b"a" if initiator else b"b") * 32,
        ephemeral_secret=(b"x" if initiator else b"y") * 32,
    )


@settings(max_examples=60)
@given(st.integers(0, 2), st.data())
def test_a_stranger_in_a_handshake_gets_nothing_but_a_refusal(turn: int, data: st.DataObject) -> None:
    sides = [make_handshake(initiator=True), make_handshake(initiator=False)]
    for number in range(turn):
        sides[1 - number % 2].receive(sides[number % 2].next_message() or b"")
    exact = st.binary(min_size=MESSAGE_SIZES[turn], max_size=MESSAGE_SIZES[turn])
    hostile = data.draw(st.binary(max_size=300) | exact)
    victim = sides[1 - turn % 2]
    sides[turn % 2].next_message()
    try:
        victim.receive(hostile)
    except HandshakeRefusedError as refusal:
        assert refusal.culprit == "remote"  # noqa: PT017  -- the refusal is the claim
    else:
        raise AssertionError("a stranger's message was taken")
    assert not victim.done


def test_a_sample_of_the_long_fuzz_refuses_with_peer_errors_only() -> None:
    """`python -m tests.fuzz_wire 1000000` runs the same inputs and many more."""
    lines: list[str] = []
    outcomes = run_fuzz(1_500, seed=1, report=lines.append)
    assert sum(outcomes.values()) == 1_500
    assert lines == []
    names = {outcome.split()[0] for outcome in outcomes if "refused" in outcome}
    assert names == {"fuzz_codec", "fuzz_framing", "fuzz_channel", "fuzz_handshake", "fuzz_session"}
    assert issubclass(ProtocolError, PeerError)
