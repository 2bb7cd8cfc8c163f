"""How is each frame of a session laid out? Packs and takes apart; knows no state.

A frame begins with its kind (1 byte) and a number (8 bytes, big endian like all others): the call's, the stream's, a
ping's token, or 0. What follows depends on the kind:

    GREETING  version u16, dial u64, instance 8 bytes, calls u32, streams u32, message_size u32, stream_window u32,
              connection_window u32; what a later version adds behind is skipped
    PING, PONG, CANCEL, END   nothing
    NOTE      name (length u8, ASCII), body
    CALL      timeout in ms u32, size u32 of name and body together, name, body or its first part
    REPLY     size u32 of the body, body or its first part
    MORE      the next part of the CALL or REPLY that has begun
    FAIL, RESET   kind, message and fix: UTF-8, divided by NUL
    OPEN      name, body
    DATA      bytes
    CREDIT    bytes granted u32; number 0 grants them to the whole connection
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from meshhold.errors import ProtocolError
from meshhold.wire.events import Failure
from meshhold.wire.limits import FAILURE_SIZE_MAX, NAME_LENGTH_MAX, Limits

VERSION: Final = 1

GREETING: Final = 1
PING: Final = 2
PONG: Final = 3
NOTE: Final = 4
CALL: Final = 5
REPLY: Final = 6
MORE: Final = 7
FAIL: Final = 8
CANCEL: Final = 9
OPEN: Final = 10
DATA: Final = 11
END: Final = 12
RESET: Final = 13
CREDIT: Final = 14

KIND_NAMES: Final = (
    "?",
    "GREETING",
    "PING",
    "PONG",
    "NOTE",
    "CALL",
    "REPLY",
    "MORE",
    "FAIL",
    "CANCEL",
    "OPEN",
    "DATA",
    "END",
    "RESET",
    "CREDIT",
)

HEADER: Final = Struct(">BQ")
HEADER_SIZE: Final = HEADER.size
CALL_HEAD: Final = Struct(">BQII")  # kind, number, timeout, size
SIZED_HEAD: Final = Struct(">BQI")  # kind, number, size or grant
U32_MAX: Final = 0xFFFF_FFFF
_CALL_FIELDS: Final = Struct(">II")
_U32: Final = Struct(">I")
_GREETING: Final = Struct(">HQ8sIIIII")
INSTANCE_SIZE: Final = 8

_CALLS_MIN: Final = 1
_MESSAGE_MIN: Final = 4 * 1024
WINDOW_MIN: Final = 32 * 1024


class Greeting(NamedTuple):
    """The first frame each way: which dial of the dialler this is, which run of the program, what it accepts."""

    dial: int
    instance: bytes
    calls: int
    streams: int
    message_size: int
    stream_window: int
    connection_window: int


def pack_greeting(dial: int, instance: bytes, limits: Limits) -> bytes:
    """Return the greeting's frame. `dial` is 0 on the side that was dialled."""
    return HEADER.pack(GREETING, 0) + _GREETING.pack(
        VERSION,
        dial,
        instance,
        limits.calls,
        limits.streams,
        limits.message_size,
        limits.stream_window,
        limits.connection_window,
    )


def parse_greeting(payload: memoryview) -> Greeting:
    """Undo `pack_greeting`. Errors: `ProtocolError` for another version, or bounds that nothing fits into."""
    if len(payload) < 2:
        raise ProtocolError("a GREETING is cut short")
    version = int.from_bytes(payload[:2], "big")
    if version != VERSION:
        raise ProtocolError(
            f"the peer speaks session version {version}, this node {VERSION}", "run the same release on both"
        )
    if len(payload) < _GREETING.size:
        raise ProtocolError("a GREETING is cut short")
    _, *fields = _GREETING.unpack_from(payload)
    greeting = Greeting(*fields)
    windows = min(greeting.stream_window, greeting.connection_window)
    counts = min(greeting.calls, greeting.streams)
    if counts < _CALLS_MIN or greeting.message_size < _MESSAGE_MIN or windows < WINDOW_MIN:
        raise ProtocolError("a GREETING allows less than any session needs")
    return greeting


@lru_cache(maxsize=256)
def pack_name(name: str) -> bytes:
    """Return a name with its length before it. Errors: `ValueError` for one that no frame can carry."""
    raw = name.encode("ascii")
    if not 1 <= len(raw) <= NAME_LENGTH_MAX:
        raise ValueError(f"a name has 1 to {NAME_LENGTH_MAX} characters: {name!r}")
    return bytes((len(raw),)) + raw


def parse_name(payload: memoryview, kind: int) -> tuple[str, memoryview]:
    """Return the name at the front, and what follows. Errors: `ProtocolError`."""
    length = payload[0] if payload else 0
    if not 1 <= length <= NAME_LENGTH_MAX or len(payload) <= length:
        # `<=` counts the length's own byte
        raise ProtocolError(f"a {KIND_NAMES[kind]} carries no name, or one too long")
    name = _decode_name(bytes(payload[1 : length + 1]))
    if name is None:
        raise ProtocolError(f"the name in a {KIND_NAMES[kind]} is not printable ASCII")
    return name, payload[length + 1 :]


@lru_cache(maxsize=256)  # the names of a program are few; a hostile one only makes this a little slower
def _decode_name(raw: bytes) -> str | None:
    name = raw.decode("ascii", "replace")
    return name if name.isascii() and name.isprintable() else None


def parse_call(payload: memoryview) -> tuple[int, int, memoryview]:
    """Return a CALL's timeout in ms, whole size, and first part. Errors: `ProtocolError`."""
    if len(payload) < _CALL_FIELDS.size:
        raise ProtocolError("a CALL is cut short")
    timeout_ms, size = _CALL_FIELDS.unpack_from(payload)
    return timeout_ms, size, payload[_CALL_FIELDS.size :]


def parse_sized(payload: memoryview, kind: int) -> tuple[int, memoryview]:
    """Return the number of a REPLY or CREDIT, and what follows. Errors: `ProtocolError`."""
    if len(payload) < _U32.size:
        raise ProtocolError(f"a {KIND_NAMES[kind]} is cut short")
    return _U32.unpack_from(payload)[0], payload[_U32.size :]


def pack_failure(kind: int, number: int, failure: Failure) -> bytes:
    """Return a FAIL or RESET; a text beyond the bound is cut."""
    room = FAILURE_SIZE_MAX - 2
    raw = []
    for text in failure:
        cut = text.replace("\0", " ").encode("utf-8", "replace")[:room].decode("utf-8", "ignore").encode()
        room -= len(cut)
        raw.append(cut)
    return HEADER.pack(kind, number) + b"\0".join(raw)


def parse_failure(payload: memoryview, kind: int) -> Failure:
    """Undo `pack_failure`. Errors: `ProtocolError`."""
    if len(payload) > FAILURE_SIZE_MAX:
        raise ProtocolError(f"a {KIND_NAMES[kind]} has {len(payload)} bytes, {FAILURE_SIZE_MAX} are allowed")
    try:
        parts = bytes(payload).decode("utf-8").split("\0")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a {KIND_NAMES[kind]} is not UTF-8") from error
    if len(parts) != 3 or not parts[0]:
        raise ProtocolError(f"a {KIND_NAMES[kind]} has {len(parts)} parts, or no kind")
    return Failure(*parts)
