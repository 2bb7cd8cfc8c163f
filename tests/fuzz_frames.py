"""What might a hostile peer say next? Frames that fit a session's state, and frames that do not. Judges nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from tests.session_pair import MARK

from meshhold.wire import frames
from meshhold.wire.limits import DATA_COST_MIN, NOTE_SIZE_MAX, Limits
from meshhold.wire.session import Session

LIMITS: Final = Limits(
    calls=3, streams=2, message_size=4_096, calls_size=6_000, stream_window=32_768, connection_window=40_000
)
"""Close to the least that a session takes, so that few frames reach the bounds."""
BLOB: Final = bytes(64 * 1024)
ODD_NUMBERS: Final = (0, 1, 2, 3, 4, 5, 6, 2**32, 2**63, 2**64 - 1)
ODD_SIZES: Final = (0, 1, 255, 256, 300, 4_000, 16_385, 32_768)
GRANTS: Final = (1, 256, 1_000, 40_000, 2**32 - 1, 0)
END_OF_CHANNEL: Final = b"end"


def call_payload(size: int, rest: bytes, timeout_ms: int = 1_000) -> bytes:
    """Return what follows a CALL's header."""
    return frames._CALL_FIELDS.pack(timeout_ms, size) + rest


def make_greeting(rng: random.Random) -> bytes:
    """Return a greeting, most of them good."""
    greeting = frames.pack_greeting(rng.choice((0, 1, 2**64 - 1)), b"hostile_", LIMITS)
    if rng.random() < 0.95:
        return greeting
    raw = bytearray(greeting)
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(raw[: rng.choice((len(raw), len(raw), rng.randrange(len(raw))))])


def make_number(rng: random.Random, kind: int, session: Session) -> int:
    """Return a number for a frame of that kind: mostly one that fits to what is in progress."""
    if rng.random() < 0.1:
        return rng.choice(ODD_NUMBERS)
    calls, streams = session._calls, session._streams
    match kind:
        case frames.CALL:
            return min(calls._last_theirs + rng.choice((1, 1, 1, 1, 0, 5)), 2**64 - 1)
        case frames.MORE:
            return calls._partial.call if calls._partial else 1
        case frames.REPLY | frames.FAIL:
            return rng.choice(list(calls._ours) or [1])
        case frames.CANCEL:
            return rng.choice([*calls._theirs, calls._last_theirs])
        case frames.OPEN:
            return min(max(0, streams._last_theirs + rng.choice((2, 2, 2, 2, 0, 1))), 2**64 - 1)
        case frames.DATA | frames.END | frames.RESET | frames.CREDIT:
            return rng.choice([*streams._open, *streams._open, 0, max(0, streams._last_theirs)])
        case _:
            return rng.randrange(20)


def make_payload(rng: random.Random, kind: int, session: Session) -> bytes:
    """Return a payload that fits the kind, at its limits or a little beyond."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(30))
    size = rng.choice(ODD_SIZES)
    match kind:
        case frames.CALL:
            size = min(size, rng.choice((300, 4_096, 5_000)))
            body = (b"\1a" + BLOB[:size])[: rng.choice((size, size, rng.randrange(size + 1)))]
            return call_payload(rng.choice((size, size, size, len(body), 2**32 - 1)), body)
        case frames.REPLY:
            size = min(size, 4_096)
            part = rng.choice((size, size, rng.randrange(size + 1)))
            return rng.choice((size, size, size, 4_097)).to_bytes(4, "big") + BLOB[:part]
        case frames.MORE:
            partial = session._calls._partial
            rest = partial.size - partial.taken if partial else size
            return BLOB[: rng.choice((rest, rest, 1, rest // 2, rest + 1))]
        case frames.NOTE | frames.OPEN:
            return b"\1a" + BLOB[: rng.choice((0, 0, 10, NOTE_SIZE_MAX, NOTE_SIZE_MAX + 1))]
        case frames.FAIL | frames.RESET:
            return rng.choice((b"a\0b\0c", b"a\0b\0c", b"a\0\0", b"\0b\0c", b"a\0\xff\0c", BLOB[:2_049]))
        case frames.DATA:
            return BLOB[:size]
        case frames.CREDIT:
            return rng.choice(GRANTS).to_bytes(4, "big")
        case frames.GREETING:
            return make_greeting(rng)[frames.HEADER_SIZE :]
        case _:
            return b""


KINDS: Final = [*range(frames.PING, frames.CREDIT + 1), frames.CALL, frames.REPLY, frames.OPEN, frames.DATA]


def make_odd(rng: random.Random, session: Session, said: Sequence[bytes]) -> bytes:
    """Return one frame's content that may be wrong: noise, one of those that were `said`, spoiled, out of place."""
    pick = rng.random()
    if pick < 0.05:
        return END_OF_CHANNEL
    if pick < 0.1:
        return MARK + rng.randbytes(rng.randrange(30))
    if pick < 0.25 and said:
        return rng.choice(said)
    if pick < 0.5:
        frame = make_good(rng, session)[len(MARK) :]
        at = rng.randrange(min(len(frame), 24))
        return MARK + frame[:at] + bytes((frame[at] ^ 1 << rng.randrange(8),)) + frame[at + 1 :]
    kind = rng.choice(KINDS) if pick < 0.95 else rng.choice((0, frames.GREETING, 15, 255))
    number = make_number(rng, kind, session)
    return MARK + frames.HEADER.pack(kind, number) + make_payload(rng, kind, session)


def make_good(rng: random.Random, session: Session) -> bytes:
    """Return one frame's content that the rules allow now."""
    calls, streams = session._calls, session._streams
    choices: list[tuple[int, int, bytes]] = [
        (frames.PING, rng.randrange(20), b""),
        (frames.PONG, rng.randrange(20), b""),
        (frames.NOTE, 0, b"\1anote"),
        (frames.CREDIT, 0, (1_000).to_bytes(4, "big")),
    ]
    partial = calls._partial
    if partial is not None:
        rest = partial.size - partial.taken
        choices += 3 * [(frames.MORE, partial.call, BLOB[: rng.choice((rest, 1, (rest + 1) // 2))])]
        if partial.is_call:
            choices.append((frames.CANCEL, partial.call, b""))
    else:
        answered = [call for call, state in calls._ours.items() if state]  # some part of it has been sent
        if len(calls._theirs) + calls._answers < LIMITS.calls and calls._last_theirs < 2**64 - 1:
            choices += 3 * [(frames.CALL, calls._last_theirs + 1, make_message(rng, is_call=True))]
        choices += [(frames.REPLY, call, make_message(rng, is_call=False)) for call in answered]
        choices += [(frames.FAIL, call, b"a\0b\0c") for call in answered[:1]]
        choices += [(frames.CANCEL, call, b"") for call in calls._theirs]
    if streams._theirs < LIMITS.streams and streams._last_theirs < 2**64 - 2:
        choices += 2 * [(frames.OPEN, streams._last_theirs + 2, b"\1abody")]
    for stream in streams._open.values():
        room = min(stream.window, streams._window, rng.choice(ODD_SIZES))
        if stream.opening or stream.in_done:
            continue
        if room >= DATA_COST_MIN:
            choices += 2 * [(frames.DATA, stream.number, BLOB[: rng.choice((1, room, room))])]
        choices.append((frames.CREDIT, stream.number, (40_000).to_bytes(4, "big")))
        choices += [(frames.END, stream.number, b""), (frames.RESET, stream.number, b"a\0b\0c")]
    kind, number, payload = rng.choice(choices)
    return MARK + frames.HEADER.pack(kind, number) + payload


def make_message(rng: random.Random, *, is_call: bool) -> bytes:
    """Return what begins a message: whole, or its first part."""
    size = rng.choice((2, 2, 300, 4_096))
    part = rng.choice((size, size, max(2, size // 2)))  # a call's name is in the first part
    if is_call:
        return call_payload(size, (b"\1a" + BLOB[: size - 2])[:part])
    return size.to_bytes(4, "big") + BLOB[:part]
