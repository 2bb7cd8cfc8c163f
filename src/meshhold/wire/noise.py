"""Noise's XX pattern with pre-shared keys, as a pure state machine. Knows no identity, no framing and no randomness.

Rules: messages alternate, the initiator's first; each token of a message changes the transcript hash `h` and, where it
yields a secret, the chaining key `ck`; whatever follows the first secret is encrypted under a key of `ck` with `h` as
authenticated data. A machine that raised is finished: its state may be half-way and is never used again.
Source: The Noise Protocol Framework, revision 34, sections 5, 7 and 9.
"""

from __future__ import annotations

import re
from typing import Final

from meshhold.crypto.noise import (
    CHACHA_POLY,
    DH_SIZE,
    HASH_SIZE,
    KEY_SIZE,
    TAG_SIZE,
    Cipher,
    Suite,
    WrongTag,
    exchange,
    hash_of,
    hkdf,
    new_cipher,
    pack_nonce,
    public_of,
)
from meshhold.errors import InvalidError, SealBrokenError

NONCE_MAX: Final = 2**64 - 1  # reserved by Noise for rekeying; no message is ever sealed under it
MESSAGE_SIZE_MAX: Final = 65_535  # Noise section 3

_XX: Final = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
_NAME: Final = re.compile(r"Noise_XX((?:psk[0-3](?:\+psk[0-3])*)?)_25519_ChaChaPoly_BLAKE2b\Z")


def rekeyed(key: bytes, suite: Suite = CHACHA_POLY) -> bytes:
    """Return the key that follows `key`; from it `key` cannot be found. Source: Noise section 4.2, `REKEY`."""
    return suite.new_cipher(key).encrypt(suite.pack_nonce(NONCE_MAX), bytes(KEY_SIZE), b"")[:KEY_SIZE]


class _Transcript:
    """Noise's SymmetricState: transcript hash, chaining key, and the cipher that follows from them."""

    def __init__(self, protocol: str, prologue: bytes) -> None:
        name = protocol.encode("ascii")
        self.h = name.ljust(HASH_SIZE, b"\0") if len(name) <= HASH_SIZE else hash_of(name)
        self.ck = self.h
        self._cipher: Cipher | None = None
        self._nonce = 0
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self.h = hash_of(self.h, data)

    def mix_key(self, material: bytes) -> None:
        self.ck, key = hkdf(self.ck, material, 2)
        self._start_cipher(key)

    def mix_key_and_hash(self, material: bytes) -> None:
        self.ck, mixed, key = hkdf(self.ck, material, 3)
        self.mix_hash(mixed)
        self._start_cipher(key)

    def _start_cipher(self, key: bytes) -> None:
        self._cipher = new_cipher(key[:KEY_SIZE])
        self._nonce = 0

    @property
    def overhead(self) -> int:
        """Bytes that `seal` adds now."""
        return TAG_SIZE if self._cipher else 0

    def seal(self, plaintext: bytes) -> bytes:
        sealed = plaintext
        if self._cipher:
            sealed = self._cipher.encrypt(pack_nonce(self._nonce), plaintext, self.h)
            self._nonce += 1
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        plaintext = sealed
        if self._cipher:
            try:
                plaintext = self._cipher.decrypt(pack_nonce(self._nonce), sealed, self.h)
            except WrongTag as error:
                raise SealBrokenError("a handshake message does not open: other keys, or altered bytes") from error
            self._nonce += 1
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        first, second = hkdf(self.ck, b"", 2)
        return first[:KEY_SIZE], second[:KEY_SIZE]


class NoiseXX:
    """One side of one handshake; `psks` are used in the order of the `psk` words in `protocol`'s name.

    `ephemeral_secret` is 32 fresh random bytes for each handshake, `static_secret` this side's X25519 key.
    Errors of every method: `InvalidError` for a call or message that is out of turn or of a wrong size, or a public key
    of low order; `SealBrokenError` for bytes that do not open.
    """

    def __init__(
        self,
        protocol: str,
        *,
        initiator: bool,
        prologue: bytes,
        psks: list[bytes],
        static_secret: bytes,
        ephemeral_secret: bytes,
    ) -> None:
        self._messages = _tokens_of(protocol, psks)
        if any(len(secret) != KEY_SIZE for secret in (static_secret, ephemeral_secret, *psks)):
            raise InvalidError(f"secrets and pre-shared keys have {KEY_SIZE} bytes")
        self._initiator = initiator
        self._transcript = _Transcript(protocol, prologue)
        self._psks = list(psks)
        self._mixes_ephemerals = bool(psks)
        self._secrets = {"s": static_secret, "e": ephemeral_secret}
        self._publics = {"s": public_of(static_secret), "e": public_of(ephemeral_secret)}
        self._theirs: dict[str, bytes] = {}
        self._turn = 0

    @property
    def finished(self) -> bool:
        """All messages are written and read: `split` may be called."""
        return self._turn == len(self._messages)

    @property
    def writes_next(self) -> bool:
        """The next message is this side's."""
        return not self.finished and (self._turn % 2 == 0) == self._initiator

    @property
    def hash(self) -> bytes:
        """The 64-byte transcript hash so far: equal on both sides between messages, and unique once finished."""
        return self._transcript.h

    @property
    def static_public(self) -> bytes:
        """This side's static public key."""
        return self._publics["s"]

    @property
    def ephemeral_public(self) -> bytes:
        """This side's ephemeral public key."""
        return self._publics["e"]

    @property
    def remote_static(self) -> bytes:
        """The peer's static public key, once a message has carried it."""
        return self._theirs["s"]

    def write(self, payload: bytes) -> bytes:
        """Return the next message, with `payload` inside."""
        if not self.writes_next:
            raise InvalidError("a handshake message is written out of turn")
        transcript = self._transcript
        parts = []
        for token in self._messages[self._turn]:
            if token == "e":  # noqa: S105  -- a Noise token's name
                parts.append(self._publics["e"])
                transcript.mix_hash(self._publics["e"])
                self._mix_ephemeral(self._publics["e"])
            elif token == "s":  # noqa: S105  -- a Noise token's name
                parts.append(transcript.seal(self._publics["s"]))
            else:
                self._mix_secret(token)
        parts.append(transcript.seal(payload))
        message = b"".join(parts)
        if len(message) > MESSAGE_SIZE_MAX:
            raise InvalidError(f"a handshake message of {len(message)} bytes is over {MESSAGE_SIZE_MAX}")
        self._turn += 1
        return message

    def read(self, message: bytes) -> bytes:
        """Take the peer's next message; return the payload inside."""
        if self.finished or self.writes_next:
            raise InvalidError("a handshake message comes out of turn")
        if len(message) > MESSAGE_SIZE_MAX:
            raise InvalidError(f"a handshake message of {len(message)} bytes is over {MESSAGE_SIZE_MAX}")
        transcript = self._transcript
        at = 0
        for token in self._messages[self._turn]:
            if token in ("e", "s"):
                size = DH_SIZE + (transcript.overhead if token == "s" else 0)  # noqa: S105  -- a Noise token's name
                field, at = message[at : at + size], at + size
                if len(field) != size:
                    raise InvalidError(f"a handshake message of {len(message)} bytes is cut short")
                if token == "e":  # noqa: S105  -- a Noise token's name
                    self._theirs["e"] = field
                    transcript.mix_hash(field)
                    self._mix_ephemeral(field)
                else:
                    self._theirs["s"] = transcript.open(field)
            else:
                self._mix_secret(token)
        if len(message) - at < transcript.overhead:
            raise InvalidError(f"a handshake message of {len(message)} bytes is cut short")
        payload = transcript.open(message[at:])
        self._turn += 1
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """Return the 32-byte keys of the transport: this side sends under the first, receives under the second."""
        if not self.finished:
            raise InvalidError("a handshake that is not finished has no transport keys")
        first, second = self._transcript.split()
        return (first, second) if self._initiator else (second, first)

    def _mix_ephemeral(self, public: bytes) -> None:
        if self._mixes_ephemerals:  # Noise section 9.2: no two handshakes of one psk share a key
            self._transcript.mix_key(public)

    def _mix_secret(self, token: str) -> None:
        if token == "psk":  # noqa: S105  -- a Noise token's name
            self._transcript.mix_key_and_hash(self._psks.pop(0))
            return
        initiators, responders = token[0], token[1]
        ours, theirs = (initiators, responders) if self._initiator else (responders, initiators)
        self._transcript.mix_key(exchange(self._secrets[ours], self._theirs[theirs]))


def _tokens_of(protocol: str, psks: list[bytes]) -> list[tuple[str, ...]]:
    match = _NAME.match(protocol)
    if not match:
        raise InvalidError(f"{protocol!r} is not a handshake that is known", "use XX on 25519, ChaChaPoly, BLAKE2b")
    places = [int(word[3:]) for word in match[1].split("+") if word]
    if len(places) != len(psks) or places != sorted(set(places)):
        raise InvalidError(f"{protocol!r} takes {len(places)} ascending pre-shared keys, not {len(psks)}")
    messages = [list(tokens) for tokens in _XX]
    for place in reversed(places):  # psk0 opens the first message; pskN closes the N-th
        if place == 0:
            messages[0].insert(0, "psk")
        else:
            messages[place - 1].append("psk")
    return [tuple(tokens) for tokens in messages]
