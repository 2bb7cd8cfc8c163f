"""Throw hostile bytes at everything that reads from a stranger or a peer: `python -m tests.fuzz_wire N SEED TARGET`.

N inputs, a million unless told; one target (codec, framing, channel, handshake, session), or all of them in turn.
Input number n of a seed is always the same; a failure prints both. The one law: bytes are taken or refused by a
`PeerError`; nothing else comes out, and what was altered is never taken.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from tests.fuzz_program import Pace, arguments, say, show
from tests.fuzz_session import fuzz_session

from meshhold.crypto.identity import Identity
from meshhold.errors import PeerError
from meshhold.model.ids import NodeId
from meshhold.wire.channel import Channel
from meshhold.wire.codec import decode, encode
from meshhold.wire.framing import FrameReader, encode_frame
from meshhold.wire.handshake import Handshake

REPORT_EVERY: Final = 100_000
ANN, BEN = Identity(b"A" * 32), Identity(b"B" * 32)
HEADS: Final = bytes([*range(0x80, 0xE0), 0x00, 0x7F, 0xFF])
"""First bytes of everything in msgpack that has a length or a fault in it, so that random bytes reach deep."""


def make_value(rng: random.Random, depth: int = 0) -> Any:
    """Return some value, now and then at a limit."""
    pick = rng.randrange(11 if depth < 4 else 8)
    match pick:
        case 0 | 1:
            return rng.choice([0, 1, 127, 128, 255, 256, 2**16, 2**32, 2**64 - 1, -1, -33, -(2**63)])
        case 2:
            return rng.choice([None, True, False, 0.0, 1e300])
        case 3 | 4:
            return "x" * rng.choice([0, 1, 31, 32, 255, 256])
        case 5 | 6 | 7:
            return rng.randbytes(rng.choice([0, 1, 16, 32, 255, 256]))
        case 8 | 9:
            return [make_value(rng, depth + 1) for _ in range(rng.choice([0, 1, 3, 15, 16]))]
        case _:
            return {f"k{number}": make_value(rng, depth + 1) for number in range(rng.choice([0, 1, 3, 16]))}


def spoil(rng: random.Random, good: bytes) -> bytes:
    """Return `good` with one to four bytes changed, cut off, doubled or put in."""
    raw = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw) + 1)
        match rng.randrange(6):
            case 0:
                del raw[at:]
            case 1:
                raw[at:at] = rng.randbytes(rng.randint(1, 8))
            case 2:
                raw[at:at] = raw[at : at + rng.randint(1, 32)]
            case 3 if raw:
                raw[at % len(raw)] = rng.choice(HEADS)
            case _ if raw:
                raw[at % len(raw)] ^= 1 << rng.randrange(8)
            case _:
                raw.append(rng.randrange(256))
    return bytes(raw)


def make_bytes(rng: random.Random) -> bytes:
    """Return bytes as a stranger might send them: noise, heads of msgpack, a value, or a value that was spoiled."""
    match rng.randrange(4):
        case 0:
            return rng.randbytes(rng.randrange(40))
        case 1:
            return bytes(rng.choices(HEADS, k=rng.randrange(40)))
        case 2:
            return encode(make_value(rng))
        case _:
            return spoil(rng, encode([1, 1, make_value(rng)]))


def fuzz_codec(rng: random.Random) -> None:
    """Whatever is taken can be encoded again, to the same value."""
    value = decode(make_bytes(rng))
    again = decode(encode(value))
    assert repr(again) == repr(value), "a value changes on its way"


def fuzz_framing(rng: random.Random) -> None:
    """Frames hold what was announced, and the reader never keeps more than one of them."""
    stream = b"".join(encode_frame(rng.randbytes(rng.randint(1, 50))) for _ in range(4))
    stream = rng.choice([spoil(rng, stream), rng.randbytes(rng.randrange(80))])
    reader = FrameReader(size_max=rng.choice([40, 1000, 65_535]), first_sizes_max=(48, 181))
    given = 0
    while stream:
        size = rng.randint(1, 60)
        piece, stream = stream[:size], stream[size:]
        given += len(piece)
        for frame in reader.feed(piece):
            assert 0 < len(frame) <= 65_535
            given -= 2 + len(frame)
        assert len(reader._body) <= given, "a reader holds more than it was given"


def make_channels() -> tuple[Channel, Channel]:
    """Return the two ends of a channel."""
    to, fro = b"t" * 32, b"f" * 32
    return Channel(NodeId("b"), b"", to, fro), Channel(NodeId("a"), b"", fro, to)


def fuzz_channel(rng: random.Random) -> None:
    """Only the very next frame opens; anything else breaks the channel, and an end is never made up."""
    here, there = make_channels()
    texts = [rng.randbytes(rng.randint(1, 60)) for _ in range(4)]
    frames = [here.seal(text) for text in texts[:2]]
    frames += [here.seal_rekey(0.0), *(here.seal(text) for text in texts[2:]), here.seal_end()]
    expected = [*texts[:2], b"", *texts[2:], b""]
    victim = rng.randrange(len(frames))
    match rng.randrange(4):
        case 0:
            frames[victim] = spoil(rng, frames[victim])
        case 1:
            del frames[victim]
        case 2:
            frames.insert(victim, rng.choice(frames))
        case _:
            rng.shuffle(frames)
    taken: list[bytes] = []
    try:
        taken.extend(map(there.open, frames))
    finally:
        assert taken == expected[: len(taken)], "an altered frame was taken"
        assert not there.ended or len(taken) == len(expected), "an end was made up"


def make_handshake(*, initiator: bool) -> Handshake:
    """Return one side, the same each time."""
    return Handshake(
        initiator=initiator,
        swarm_key=b"k" * 32,
        identity=ANN if initiator else BEN,
        static_secret=(b"a" if initiator else b"b") * 32,
        ephemeral_secret=(b"x" if initiator else b"y") * 32,
    )


def fuzz_handshake(rng: random.Random) -> None:
    """No handshake in which a message was altered ends in a channel on the side that took it."""
    sides = [make_handshake(initiator=True), make_handshake(initiator=False)]
    victim = rng.randrange(3)
    for turn in range(victim):
        sides[1 - turn % 2].receive(sides[turn % 2].next_message() or b"")
    good = sides[victim % 2].next_message() or b""
    bad = rng.choice([spoil(rng, good), rng.randbytes(len(good)), rng.randbytes(rng.randrange(300))])
    reader = sides[1 - victim % 2]
    try:
        reader.receive(bad)
    finally:
        assert bad == good or not reader.done, "an altered handshake came to its end"


TARGETS: Final[list[tuple[Callable[[random.Random], None], int]]] = [
    (fuzz_codec, 55),
    (fuzz_framing, 15),
    (fuzz_channel, 8),
    (fuzz_handshake, 2),
    (fuzz_session, 20),
]
"""What to fuzz → how many inputs of a hundred; a handshake costs fifty times what a value does."""


def run_fuzz(inputs: int, seed: int, report: Callable[[str], None], only: str = "") -> Counter[str]:
    """Run that many inputs; return how often each target took or refused one. Raises at the first broken law."""
    targets = [target for target, share in TARGETS for _ in range(share) if target.__name__.endswith(only)]
    outcomes: Counter[str] = Counter()
    pace = Pace(report, REPORT_EVERY)
    for number in range(inputs):
        rng = random.Random(f"{seed}:{number}")
        target = rng.choice(targets)
        try:
            target(rng)
            outcomes[f"{target.__name__} taken"] += 1
        except PeerError as refusal:
            outcomes[f"{target.__name__} refused ({type(refusal).__name__})"] += 1
        except BaseException:
            report(f"seed {seed}, input {number}: {target.__name__}")
            raise
        pace.passed(number + 1)
    return outcomes


def main() -> None:
    """Read count, seed and target from the command line; print a table."""
    inputs, seed, only = arguments()
    say(f"fuzzing the wire: {inputs} inputs, seed {seed}")
    show(run_fuzz(inputs, seed, say, only))


if __name__ == "__main__":
    main()
