"""Bad neighbours of a real daemon: strangers without the swarm key, and members that break every rule they can.

They use blocking sockets and the project's own wire decisions, and overstep them where a test wants it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from meshhold.crypto.hashing import hash_bytes
from meshhold.crypto.identity import Identity
from meshhold.crypto.noise import DH_SIZE
from meshhold.errors import HandshakeRefusedError, InvalidError
from meshhold.wire import codec
from meshhold.wire.channel import Channel
from meshhold.wire.frames import (
    CALL,
    CALL_HEAD,
    FAIL,
    HEADER,
    HEADER_SIZE,
    NOTE,
    REPLY,
    pack_greeting,
    pack_name,
    parse_failure,
)
from meshhold.wire.framing import FrameReader, encode_frame
from meshhold.wire.handshake import Handshake
from meshhold.wire.limits import Limits

PATIENCE_S: Final = 15.0  # more than the daemon gives anybody who does not come to the point
_REPLY_HEAD: Final = HEADER_SIZE + 4


class WeakKey(bytes):
    """A secret whose public key is given out as a point of low order."""


class Wire:
    """A connection to a daemon; frames and raw bytes go over it. `host` is where it seems to come from."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S, source_address=(host, 0))
        self.said = b""
        self._reader = FrameReader()
        self._frames: list[bytes] = []

    def send(self, raw: bytes) -> None:
        """Send bytes as they are, as far as the daemon takes them."""
        self.said += raw
        try:
            self.socket.sendall(raw)
        except (BrokenPipeError, ConnectionResetError):
            return

    def next_frame(self) -> bytes | None:
        """Return the content of the daemon's next frame; None once it has hung up."""
        while not self._frames:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._frames += map(bytes, self._reader.feed(data))
        return self._frames.pop(0)

    def heard_until_cut(self) -> int:
        """Wait until the daemon hangs up; return how many frames came before. Errors: `TimeoutError`."""
        count = 0
        while self.next_frame() is not None:
            count += 1
        return count

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def new_identity(name: str) -> Identity:
    """Return an identity that the name alone decides."""
    return Identity(hash_bytes(name.encode()))


def begin_handshake(swarm_key: bytes, identity: Identity, *, initiator: bool = True) -> Handshake:
    """Return a handshake with fresh secrets."""
    return Handshake(
        initiator=initiator,
        swarm_key=swarm_key,
        identity=identity,
        static_secret=os.urandom(32),
        ephemeral_secret=os.urandom(32),
    )


def give_out(handshake: Handshake, which: str, public: bytes) -> None:
    """Let a handshake tell a false public key: `which` is `e` or `s`."""
    assert len(public) == DH_SIZE
    handshake._noise._publics[which] = public


def write_blindly(handshake: Handshake) -> bytes:
    """Return this side's next message even if its own arithmetic fails: then bytes of the right size."""
    try:
        return handshake.next_message() or b""
    except (HandshakeRefusedError, InvalidError):
        return os.urandom(180)


class Intruder:
    """A member that has shaken hands and greeted. It knows the swarm key, and obeys nothing."""

    def __init__(self, port: int, swarm_key: bytes, identity: Identity, host: str = "127.0.0.1") -> None:
        self.identity = identity
        self.wire = Wire(port, host)
        handshake = begin_handshake(swarm_key, identity)
        self.wire.send(encode_frame(handshake.next_message() or b""))
        answer = self.wire.next_frame()
        assert answer is not None, "the daemon refused the handshake"
        handshake.receive(answer)
        self.wire.send(encode_frame(handshake.next_message() or b""))
        self.channel: Channel = handshake.channel()
        self._calls = 0

    def greet(self, version: bytes = b"\x00\x01") -> None:
        """Say the greeting and hear the daemon's."""
        greeting = pack_greeting(1, os.urandom(8), Limits())
        self.say(greeting[:HEADER_SIZE] + version + greeting[HEADER_SIZE + 2 :])

    def sealed(self, plain: bytes) -> bytes:
        """Return a frame that the daemon will open."""
        return encode_frame(self.channel.seal(plain))

    def say(self, plain: bytes) -> None:
        """Send one session frame, whatever it is."""
        self.wire.send(self.sealed(plain))

    def note(self, name: str, body: Any) -> None:
        """Send a note; `body` is raw if it is bytes."""
        raw = body if isinstance(body, bytes) else codec.encode(body)
        self.say(HEADER.pack(NOTE, 0) + pack_name(name) + raw)

    def ask(self, name: str, body: Any) -> tuple[str, Any]:
        """Call; return `ok` and the answer, the kind of the failure and its message, or `cut`."""
        raw = body if isinstance(body, bytes) else codec.encode(body, codec.Limits(size_max=256 * 1024))
        self._calls += 1
        whole = pack_name(name) + raw
        parts = [whole[at : at + 32_000] for at in range(0, len(whole), 32_000)]
        self.say(CALL_HEAD.pack(CALL, self._calls, 10_000, len(whole)) + parts[0])
        for part in parts[1:]:
            self.say(HEADER.pack(7, self._calls) + part)
        while (frame := self.wire.next_frame()) is not None:
            plain = self.channel.open(frame)
            kind, number = HEADER.unpack_from(plain) if len(plain) >= HEADER_SIZE else (0, 0)
            if kind == REPLY and number == self._calls:
                return "ok", codec.decode(self._rest_of(plain))
            if kind == FAIL and number == self._calls:
                failure = parse_failure(memoryview(plain)[HEADER_SIZE:], FAIL)
                return failure.kind, failure.message
        return "cut", None

    def _rest_of(self, plain: bytes) -> bytes:
        size, raw = int.from_bytes(plain[HEADER_SIZE:_REPLY_HEAD], "big"), plain[_REPLY_HEAD:]
        while len(raw) < size:
            frame = self.wire.next_frame()
            assert frame is not None
            raw += self.channel.open(frame)[HEADER_SIZE:]
        return raw

    def is_cut(self) -> bool:
        """Wait until the daemon hangs up. Errors: `TimeoutError` if it does not."""
        self.wire.heard_until_cut()
        return True


@contextmanager
def member(port: int, swarm_key: bytes, name: str, host: str = "127.0.0.1") -> Iterator[Intruder]:
    """Give a member that has greeted; it hangs up at the end."""
    intruder = Intruder(port, swarm_key, new_identity(name), host)
    try:
        intruder.greet()
        yield intruder
    finally:
        intruder.wire.close()


def resident_bytes(process_id: int, field: str = "VmRSS") -> int:
    """Return how much memory a process holds, or with `VmHWM` has ever held."""
    with open(f"/proc/{process_id}/status", encoding="ascii") as lines:  # noqa: PTH123 - no path of anybody's choosing
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
