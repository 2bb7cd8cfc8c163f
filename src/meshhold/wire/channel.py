"""Sealing frames between two nodes that have shaken hands. Knows no socket and no clock: callers pass `now_s`.

Rules, the same for each direction:
- A frame is 1 to 65,519 bytes sealed by ChaCha20-Poly1305, or by AES-256-GCM if the handshake settled on that, under a
  counter that both sides keep and nobody sends, so a frame that is altered, repeated, dropped or moved does not open;
  then the channel is broken for good.
- A frame of nothing but its tag is a mark; its authenticated data tells which: `rekey` or `end`.
- Both sides rekey before every frame that follows 65,536 under one key, and after each `rekey` mark. Whoever later
  takes a key from memory cannot open earlier frames. Counters run on.
- `end` is the last frame. A stream that closes without it has been cut.
It ignores what the frames contain. Source: Noise, revision 34, sections 4.2, 5.1 and 11.3.
"""

from __future__ import annotations

from typing import Final, Literal

from meshhold.crypto.noise import CHACHA_POLY, TAG_SIZE, Suite, WrongTag
from meshhold.errors import ChannelBrokenError, ProtocolError
from meshhold.model.ids import NodeId
from meshhold.wire.framing import FRAME_SIZE_MAX
from meshhold.wire.noise import NONCE_MAX, rekeyed

PLAINTEXT_SIZE_MAX: Final = FRAME_SIZE_MAX - TAG_SIZE
REKEY_FRAMES: Final = 2**16
"""4 GiB of full frames: a new key costs 5 us, so once in 1.5 s at full speed. They are 2^28 blocks of AES, so AES-GCM
falls short of an ideal cipher by a chance of 2^-73 (Bellare and Tackmann's bound for one key: blocks^2 / 2^129)."""
REKEY_AFTER_S: Final = 3600.0  # RFC 4253 section 9 gives the same hour; shorter only moves what a stolen key opens

_REKEY: Final = b"rekey"
_END: Final = b"end"


class _Direction:
    """The key and the counter of one direction."""

    def __init__(self, key: bytes, suite: Suite) -> None:
        self._key = key
        self._suite = suite
        self._pack_nonce = suite.pack_nonce
        self._next = 0
        self._rekey_at = REKEY_FRAMES
        self.cipher = suite.new_cipher(key)

    def take_nonce(self) -> bytes:
        """Return the next frame's nonce; `cipher` is the one for it only after this call."""
        if self._next == self._rekey_at:
            self.rekey()
        nonce = self._pack_nonce(self._next)
        self._next += 1
        return nonce

    def rekey(self) -> None:
        if self._next >= NONCE_MAX:
            raise ChannelBrokenError("every counter of this channel is used up", "connect anew", culprit="local")
        self._key = rekeyed(self._key, self._suite)
        self.cipher = self._suite.new_cipher(self._key)
        self._rekey_at = min(self._next + REKEY_FRAMES, NONCE_MAX)


class Channel:
    """A finished handshake's two directions. `peer` is the node that proved its identity.

    `handshake_hash` names the connection: 64 bytes, equal on both sides, never the same twice.
    """

    def __init__(
        self, peer: NodeId, handshake_hash: bytes, send_key: bytes, receive_key: bytes, suite: Suite = CHACHA_POLY
    ) -> None:
        self.peer = peer
        self.handshake_hash = handshake_hash
        self.ended = False
        """The peer's authenticated end has come: nothing was cut off."""
        self._out = _Direction(send_key, suite)
        self._in = _Direction(receive_key, suite)
        self._out_ended = False
        self._in_broken = False
        self._rekeyed_s: float | None = None

    def seal(self, plaintext: bytes | memoryview) -> bytes:
        """Return the next frame's content.

        Errors: `ProtocolError` (local) unless `plaintext` has 1 to 65,519 bytes; `ChannelBrokenError` (local) after
        `seal_end`, or when every counter is used up.
        """
        self._check_seal(len(plaintext))
        nonce = self._out.take_nonce()
        return self._out.cipher.encrypt(nonce, plaintext, None)

    def seal_into(self, plaintext: bytes | memoryview, room: memoryview) -> int:
        """Write the next frame's content to the front of `room`; return its size, 16 more than `plaintext` has.

        `room` is no part of `plaintext`. Errors: as `seal`; `ProtocolError` (local) if `room` is too small.
        """
        size = len(plaintext) + TAG_SIZE
        self._check_seal(len(plaintext))
        if len(room) < size:
            raise ProtocolError(f"{size} bytes are not sealed into {len(room)}", culprit="local")
        nonce = self._out.take_nonce()
        return self._out.cipher.encrypt_into(nonce, plaintext, None, room[:size])

    def open(self, ciphertext: bytes | memoryview) -> bytes:
        """Return the content of the peer's next frame; `b""` for a mark, which needs no answer (look at `ended`).

        Errors: `ChannelBrokenError` for anything that is not exactly the peer's next frame, and ever after.
        """
        if self._in_broken or self.ended:
            raise _broken() if self._in_broken else _after_end("remote")
        if len(ciphertext) <= TAG_SIZE:
            return self._open_mark(ciphertext)
        nonce = self._in.take_nonce()
        try:
            return self._in.cipher.decrypt(nonce, ciphertext, None)
        except WrongTag:
            self._in_broken = True
            raise _broken() from None

    def seal_end(self) -> bytes:
        """Return the last frame's content: it tells the peer that nothing was cut off."""
        sealed = self._seal_mark(_END)
        self._out_ended = True
        return sealed

    def rekey_due(self, now_s: float) -> bool:
        """Tell whether this side's sending key is an hour old; the first call starts the hour.

        Rekeying by count needs no call: `seal` and `open` do it.
        """
        if self._rekeyed_s is None:
            self._rekeyed_s = now_s
        return now_s - self._rekeyed_s >= REKEY_AFTER_S

    def seal_rekey(self, now_s: float) -> bytes:
        """Return a frame's content after which both sides go on with a new key for this direction."""
        sealed = self._seal_mark(_REKEY)
        self._out.rekey()
        self._rekeyed_s = now_s
        return sealed

    def _check_seal(self, size: int) -> None:
        if not 0 < size <= PLAINTEXT_SIZE_MAX:
            raise ProtocolError(f"a frame seals 1 to {PLAINTEXT_SIZE_MAX} bytes, not {size}", culprit="local")
        if self._out_ended:
            raise _after_end("local")

    def _seal_mark(self, mark: bytes) -> bytes:
        if self._out_ended:
            raise _after_end("local")
        nonce = self._out.take_nonce()
        return self._out.cipher.encrypt(nonce, b"", mark)

    def _open_mark(self, ciphertext: bytes | memoryview) -> bytes:
        nonce = self._in.take_nonce()
        for mark in (_REKEY, _END):
            try:
                self._in.cipher.decrypt(nonce, ciphertext, mark)
            except WrongTag:
                continue
            if mark is _END:
                self.ended = True
            else:
                self._in.rekey()
            return b""
        self._in_broken = True
        raise _broken()


def _broken() -> ChannelBrokenError:
    return ChannelBrokenError("a frame does not open: altered, repeated, missing or moved on its way", "connect anew")


def _after_end(culprit: Literal["local", "remote"]) -> ChannelBrokenError:
    return ChannelBrokenError("a frame comes after the end of the channel", "connect anew", culprit=culprit)
