"""Values: what is taken, and how hostile bytes are refused before they cost anything."""

from __future__ import annotations

import datetime as dt
import tracemalloc
from typing import Any

import msgpack
import pytest

from meshhold.errors import ProtocolError
from meshhold.wire.codec import DEFAULT_LIMITS, Limits, decode, encode

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    127,
    128,
    -1,
    -32,
    -33,
    -(2**63),
    2**64 - 1,
    1.5,
    "",
    "a" * 31,
    "a" * 32,
    "ü" * 300,
    "long" * 10_000,
    b"",
    b"b" * 255,
    b"b" * 256,
    b"b" * 65_000,
    [],
    list(range(15)),
    list(range(16)),
    list(range(4096)),
    {},
    {str(n): n for n in range(15)},
    {str(n): [n] for n in range(500)},
    {b"raw": {"nested": [1, [2, {"three": None}]]}},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_every_form_of_msgpack_that_is_allowed_comes_back(value: Any) -> None:
    assert decode(encode(value)) == value
    assert decode(memoryview(msgpack.packb(value))) == value


@pytest.mark.parametrize(
    "value",
    [
        {1: "a key that is no text"},
        {"set": {1}},
        [object()],
        dict.fromkeys(map(str, range(4097))),
        [0] * 4097,
        {"text": "x" * 70_000},
        {"int": 2**64},
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_message_without_lists_inside_is_checked_as_any_other(value: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        encode(value)
    assert caught.value.culprit == "local"


@pytest.mark.parametrize("limits", [Limits(depth_max=0), Limits(containers_max=0)])
def test_where_nothing_may_hold_a_value_a_flat_message_is_refused(limits: Limits) -> None:
    with pytest.raises(ProtocolError):
        encode({"a": 1}, limits)


def nested(depth: int, inside: bytes = b"\xc0") -> bytes:
    return b"\x91" * depth + inside


BOMBS = {
    "lists in lists": nested(17),
    "lists a thousand deep": nested(1000),
    "maps in maps": b"\x81\xa1k" * 17 + b"\xc0",
    "a list of 4 billion": b"\xdd\xff\xff\xff\xff",
    "a map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "a list of 4,097": b"\xdc\x10\x01" + bytes(4097),
    "a map of 4,097": msgpack.packb({str(n): 0 for n in range(4097)}),
    "long lists in long lists, each cut short": b"\xdc\x10\x00" * 16,
    "long lists a thousand deep": b"\xdc\x10\x00" * 1000,
    "text of 4 GiB": b"\xdb\xff\xff\xff\xff",
    "bytes of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "many empty maps": b"\xdc\x10\x00" + (b"\xdc\x00\x0f" + b"\x80" * 15) * 4096,
    "many empty lists": (b"\xdc\x00\x03" + (b"\xdc\x10\x00" + b"\x90" * 4096) * 3)[:65_000],
    "over the size": msgpack.packb(bytes(65_519)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_cost_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as caught:
            decode(BOMBS[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.culprit == "remote"
    assert peak < 64 * 1024


def test_the_deepest_and_the_longest_that_is_allowed_passes() -> None:
    assert decode(nested(16)) is not None
    assert len(decode(b"\xdc\x10\x00" + bytes(4096))) == 4096


MALFORMED = {
    "nothing": b"",
    "a byte that means nothing": b"\xc1",
    "something behind": b"\xc0\xc0",
    "a cut number": b"\xcf\x00",
    "a cut text": b"\xa5abc",
    "a cut head of a text": b"\xd9",
    "a cut head of a long text": b"\xda\x01",
    "a cut head of a list": b"\xdc\x00",
    "a cut head of a map": b"\xdf\x00\x00\x00",
    "a cut blob": b"\xc4\x04abc",
    "a cut head of a blob": b"\xc4",
    "something behind a blob": b"\xc4\x02abc",
    "a cut list": b"\x93\x01\x02",
    "a key without a value": b"\x81\xa1k",
    "bad UTF-8": b"\xa2\xff\xfe",
    "a number as key": b"\x81\x01\x02",
    "a list as key": b"\x81\x90\x02",
    "a timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "an extension": b"\xd4\x05\x00",
    "an empty extension": b"\xc7\x00\x05",
    "a long extension": b"\xc9\x00\x00\x00\x01\x05\x00",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bytes_are_a_protocol_error_of_the_peer(name: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(MALFORMED[name])
    assert caught.value.culprit == "remote"


def test_an_extension_is_refused_by_its_number() -> None:
    with pytest.raises(ProtocolError, match="0xd4 is not allowed"):
        decode(MALFORMED["an extension"])


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1: 2},
        {None: 1},
        2**64,
        dt.datetime(2025, 1, 1, tzinfo=dt.UTC),
        "\ud800",
        bytes(65_520),
        [0] * 4097,
        [[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]],
        msgpack.Timestamp(1),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_could_not_be_taken_is_not_sent(value: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        encode(value)
    assert caught.value.culprit == "local"


def test_limits_are_the_callers() -> None:
    tight = Limits(size_max=10, depth_max=1, items_max=3, containers_max=2)
    assert decode(encode(["abc", 1, 2], tight), tight) == ["abc", 1, 2]
    for raw in (encode("a" * 10), encode([[1]]), encode([1] * 16), encode([1] * 20)):
        with pytest.raises(ProtocolError):
            decode(raw, tight)
    wide = Limits(size_max=2**20, items_max=2**20)
    assert len(decode(b"\xdd\x00\x01\x00\x00" + bytes(2**16), wide)) == 2**16
    assert DEFAULT_LIMITS.size_max == 65_519


def test_short_lists_too_count_against_the_limit_of_elements() -> None:
    with pytest.raises(ProtocolError, match="4 elements is over the limit of 3"):
        decode(encode([1, 2, 3, 4]), Limits(items_max=3))
    with pytest.raises(ProtocolError, match="4 elements is over the limit of 3"):
        decode(encode(dict.fromkeys("abcd")), Limits(items_max=3))
