"""The sample exchange in docs/protocol.md is what this program says, byte for byte.

`python -m tests.unit.test_wire_sample` prints it anew.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

from meshhold.crypto.identity import Identity
from meshhold.crypto.noise import public_of
from meshhold.model.ids import decode_id
from meshhold.wire.codec import encode
from meshhold.wire.framing import encode_frame
from meshhold.wire.handshake import Handshake, swarm_id

PROTOCOL_DOC: Final = Path(__file__).parents[2] / "docs" / "protocol.md"
BEGIN, END = "<!-- sample -->\n```\n", "```\n<!-- end of sample -->"
SWARM_KEY: Final = bytes(range(32))
INITIATOR, RESPONDER = Identity(b"\x11" * 32), Identity(b"\x22" * 32)
STATICS, EPHEMERALS = (b"\x33" * 32, b"\x44" * 32), (b"\x55" * 32, b"\x66" * 32)
NONCES: Final = (b"\x77" * 16, b"\x88" * 16)


def make_sample() -> str:
    """Return a whole exchange: what goes in, and every byte on the wire."""
    initiator, responder = (
        Handshake(
            initiator=number == 0,
            swarm_key=SWARM_KEY,
            identity=identity,
            static_secret=STATICS[number],
            ephemeral_secret=EPHEMERALS[number],
            nonce=NONCES[number],
            versions=(1, 1),
        )
        for number, identity in enumerate((INITIATOR, RESPONDER))
    )
    lines = [
        show("swarm key", SWARM_KEY),
        show("swarm id", swarm_id(SWARM_KEY)),
        show("initiator: identity seed", INITIATOR.seed),
        show("initiator: node id, raw", decode_id(INITIATOR.node_id)),
        show("initiator: static secret", STATICS[0]),
        show("initiator: static public", public_of(STATICS[0])),
        show("initiator: ephemeral secret", EPHEMERALS[0]),
        show("initiator: nonce", NONCES[0]),
        show("responder: identity seed", RESPONDER.seed),
        show("responder: node id, raw", decode_id(RESPONDER.node_id)),
        show("responder: static secret", STATICS[1]),
        show("responder: static public", public_of(STATICS[1])),
        show("responder: ephemeral secret", EPHEMERALS[1]),
        show("responder: nonce", NONCES[1]),
    ]
    writer, reader = initiator, responder
    for number in (1, 2, 3):
        message = writer.next_message() or b""
        reader.receive(message)
        lines.append(show(f"frame: message {number}", encode_frame(message)))
        writer, reader = reader, writer
    here, there = initiator.channel(), responder.channel()
    lines.append(show("handshake hash", here.handshake_hash))
    value = encode([1, 1, {"seq": 300, "of": [None, True, b"\x01\x02", "é"]}])
    lines.append(show("a value: [1, 1, {seq: 300, of: [nil, true, 0x0102, é]}]", value))
    for name, sealed, opened in (
        ("frame 0 of the initiator: the value", here.seal(value), value),
        ("frame 1 of the initiator: rekey", here.seal_rekey(0.0), b""),
        ("frame 2 of the initiator: `after`, under the new key", here.seal(b"after"), b"after"),
        ("frame 3 of the initiator: end", here.seal_end(), b""),
    ):
        assert there.open(sealed) == opened
        lines.append(show(name, encode_frame(sealed)))
    assert there.ended
    lines.append(show("frame 0 of the responder: end", encode_frame(there.seal_end())))
    return "".join(lines)


def show(name: str, raw: bytes) -> str:
    return f"{name}\n" + "".join(f"    {line}\n" for line in textwrap.wrap(raw.hex(), 96))


def test_the_written_sample_is_what_this_program_says() -> None:
    text = PROTOCOL_DOC.read_text()
    begin = text.index(BEGIN) + len(BEGIN)
    assert text[begin : text.index(END, begin)] == make_sample()


if __name__ == "__main__":
    print(make_sample(), end="")  # noqa: T201  -- the sample is this program's output
