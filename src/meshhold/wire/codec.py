"""Which bytes are a value? msgpack within hard bounds. Knows no message and no frame.

Values are None, bool, int (-2^63 to 2^64-1), float, str, bytes, lists of values, and maps from str or bytes to values.
Extension types are refused. Bytes are checked before anything is built from them: a few bytes that announce millions of
elements, or nest a thousand deep, cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgpack

from meshhold.errors import ProtocolError
from meshhold.wire.channel import PLAINTEXT_SIZE_MAX

Value = None | bool | int | float | str | bytes | list[Any] | tuple[Any, ...] | dict[str, Any] | dict[bytes, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a value may cost whoever takes it in. Text and blobs are bounded by the whole.

    An empty list takes one byte on the wire and 56 in memory, so `containers_max` bounds memory to 0.5 MiB beyond what
    the size itself does.
    """

    size_max: int = PLAINTEXT_SIZE_MAX
    """Bytes: what one sealed frame holds."""
    depth_max: int = 16
    """Lists and maps inside each other; a record in a list in a message is 3."""
    items_max: int = 4_096
    """Elements of one list, or pairs of one map."""
    containers_max: int = 8_192
    """Lists and maps in all."""


DEFAULT_LIMITS: Final = Limits()

_PLAIN: Final = frozenset((type(None), bool, int, float, str, bytes))
"""Values that hold no other: `packb` refuses of them what is out of range, and there is no shape to check."""

_KEYS: Final = frozenset((str, bytes))

_Culprit = Literal["local", "remote"]


def encode(value: Value, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return `value` as msgpack, which `decode` with the same limits takes.

    Errors: `ProtocolError` (local) for what is not a value, or exceeds a limit.
    """
    try:
        raw: bytes = msgpack.packb(value)
        _check_size(raw, limits, "local")
        if type(value) in _PLAIN or _is_flat(value, limits):
            return raw
        _check_shape(raw, limits, "local")
        msgpack.unpackb(raw)  # refuses keys that are neither text nor bytes
    except ProtocolError:
        raise
    except Exception as error:  # msgpack raises TypeError, ValueError or OverflowError as the case may be
        raise ProtocolError(f"a value cannot be encoded: {error}", culprit="local") from error
    return raw


def decode(raw: bytes | memoryview, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Return the value that `raw` is; of a key that comes twice in a map, the last.

    Errors: `ProtocolError` (remote), and nothing else whatever the bytes.
    """
    _check_size(raw, limits, "remote")
    raw = bytes(raw)  # a view's bytes cost more to look at, one by one, than to copy
    if raw[:1] == b"\xc4" and len(raw) > 1 and len(raw) - 2 == raw[1]:
        return raw[2:]  # a short blob and nothing else
    _check_shape(raw, limits, "remote")
    try:
        return msgpack.unpackb(raw)
    except Exception as error:  # msgpack raises a dozen kinds for hostile bytes
        raise ProtocolError(f"bytes are not msgpack as agreed: {type(error).__name__}") from error


def _is_flat(value: Value, limits: Limits) -> bool:
    """Tell whether a value is one list or map of plain values, as most messages are: it has no shape to check."""
    if not (limits.depth_max > 0 and limits.containers_max > 0):
        return False
    if type(value) is dict:
        return len(value) <= limits.items_max and _KEYS.issuperset(map(type, value)) and _are_plain(value.values())
    return isinstance(value, list | tuple) and len(value) <= limits.items_max and _are_plain(value)


def _are_plain(values: Iterable[Any]) -> bool:
    return _PLAIN.issuperset(map(type, values))


def _check_size(raw: bytes | memoryview, limits: Limits, culprit: _Culprit) -> None:
    if len(raw) > limits.size_max:
        raise ProtocolError(f"a value of {len(raw)} bytes is over the limit of {limits.size_max}", culprit=culprit)


# -- the shape of a value, without building it ----------------------------------------------------------------------

_STEP: Final = [0] * 256
"""First byte → bytes of the whole value where that byte alone tells, the head alone for a short list or map; else 0."""
_DUE: Final = [0] * 256
"""First byte of a short list or map → how many values follow it."""
for _first in (*range(0x80), 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)):  # small ints, nil, booleans
    _STEP[_first] = 1
for _first in range(0xA0, 0xC0):  # short text
    _STEP[_first] = 1 + (_first & 0x1F)
for _first, _size in {0xCC: 1, 0xD0: 1, 0xCD: 2, 0xD1: 2, 0xCA: 4, 0xCE: 4, 0xD2: 4, 0xCB: 8, 0xCF: 8, 0xD3: 8}.items():
    _STEP[_first] = 1 + _size
for _first in range(0x10):
    _STEP[0x80 + _first], _DUE[0x80 + _first] = 1, 2 * _first
    _STEP[0x90 + _first], _DUE[0x90 + _first] = 1, _first
_LENGTH_WIDTH: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # long text and blobs
_COUNT_WIDTH: Final = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}  # long lists and maps


def _check_shape(raw: bytes, limits: Limits, culprit: _Culprit) -> None:
    try:
        end = _walk(raw, limits, culprit)
    except IndexError:
        end = len(raw) + 1
    if end != len(raw):
        raise ProtocolError("a value is cut short or something follows it", culprit=culprit)


def _walk(raw: bytes, limits: Limits, culprit: _Culprit) -> int:
    """Return where the value ends; one turn for each value inside, so each turn counts."""
    step_of, due_of = _STEP, _DUE
    at, due, containers = 0, 1, 0
    outer: list[int] = []  # values that are still due in each container around
    while True:
        while due:
            due -= 1
            first = raw[at]
            step = step_of[first]
            if step and not 0x80 <= first < 0xA0:
                at += step
                continue
            if first == 0xC4:  # a short blob: ids and hashes, the most frequent of all
                at += 2 + raw[at + 1]
                continue
            if first in _LENGTH_WIDTH:
                at += 1 + _LENGTH_WIDTH[first] + _number(raw, at + 1, _LENGTH_WIDTH[first])
                continue
            if step:
                at, items, inside = at + 1, first & 0x0F, due_of[first]
            else:
                at, items, inside = _open_long(raw, at, culprit)
            if items > limits.items_max:
                limit = f"the limit of {limits.items_max}"
                raise ProtocolError(f"a list or map of {items} elements is over {limit}", culprit=culprit)
            containers += 1
            if len(outer) >= limits.depth_max or containers > limits.containers_max:
                limit = f"{limits.depth_max} levels, {limits.containers_max} lists and maps"
                raise ProtocolError(f"a value exceeds the limit of {limit}", culprit=culprit)
            outer.append(due)
            due = inside
        if not outer:
            return at
        due = outer.pop()


def _open_long(raw: bytes, at: int, culprit: _Culprit) -> tuple[int, int, int]:
    """Return where the first element of the long list or map at `at` begins, its elements or pairs, and its values."""
    first = raw[at]
    if first not in _COUNT_WIDTH:
        raise ProtocolError(f"msgpack type 0x{first:02x} is not allowed", culprit=culprit)
    width = _COUNT_WIDTH[first]
    items = _number(raw, at + 1, width)
    return at + 1 + width, items, items if first in (0xDC, 0xDD) else 2 * items


def _number(raw: bytes, at: int, width: int) -> int:
    if width == 1:
        return raw[at]
    return int.from_bytes(raw[at : at + width], "big")
