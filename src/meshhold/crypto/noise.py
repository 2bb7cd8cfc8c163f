"""Which primitives Noise runs on: X25519, ChaCha20-Poly1305 (IETF) and HKDF over BLAKE2b. Knows no handshake.

X25519 is libsodium's (PyNaCl), the ciphers are OpenSSL's (`cryptography`): each is the faster one at its task. Between
processors with instructions for AES, frames are sealed by AES-256-GCM instead.
Source: The Noise Protocol Framework, revision 34, sections 4 and 12.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from nacl.bindings import crypto_aead_aes256gcm_encrypt, crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError, UnavailableError

from meshhold.errors import InvalidError

KEY_SIZE: Final = 32
DH_SIZE: Final = 32
TAG_SIZE: Final = 16
HASH_SIZE: Final = 64

WrongTag: Final = InvalidTag
"""What a `Cipher` raises for bytes that its key, nonce and authenticated data did not make."""

pack_nonce: Final = struct.Struct("<4xQ").pack
"""The 12-byte nonce of a 64-bit counter: four zero bytes, then the counter in little endian."""


class Cipher(Protocol):
    """One key, set up once; both calls take a 12-byte nonce and release the GIL for large data."""

    def encrypt(self, nonce: bytes, data: bytes | memoryview, associated_data: bytes | None) -> bytes:
        """Return the ciphertext and its 16-byte tag."""

    def encrypt_into(
        self, nonce: bytes, data: bytes | memoryview, associated_data: bytes | None, buf: memoryview
    ) -> int:
        """Write what `encrypt` returns to `buf`, which has its size and is no part of `data`; return the size."""

    def decrypt(self, nonce: bytes, data: bytes | memoryview, associated_data: bytes | None) -> bytes:
        """Undo `encrypt`. Errors: `WrongTag`."""


def new_cipher(key: bytes) -> Cipher:
    """Return ChaCha20-Poly1305 (RFC 8439) under a 32-byte key."""
    return ChaCha20Poly1305(key)


class Suite(NamedTuple):
    """A cipher for frames and the form of its nonces: 12 bytes made of a 64-bit counter."""

    new_cipher: Callable[[bytes], Cipher]
    pack_nonce: Callable[[int], bytes]


CHACHA_POLY: Final = Suite(new_cipher, pack_nonce)
AES_GCM: Final = Suite(AESGCM, struct.Struct(">4xQ").pack)
"""AES-256-GCM; its counter is big endian. Source: Noise section 12.4."""


def has_aes_instructions() -> bool:
    """Tell whether this processor multiplies and ciphers for AES-GCM by instructions of its own.

    Without them the cipher is slower than ChaCha20-Poly1305, and its time may tell something of the key. libsodium
    knows: it offers AES-256-GCM with such instructions only.
    """
    try:
        crypto_aead_aes256gcm_encrypt(b"", None, bytes(12), bytes(KEY_SIZE))
    except UnavailableError:
        return False
    return True


def public_of(secret: bytes) -> bytes:
    """Return the X25519 public key of a 32-byte secret."""
    return crypto_scalarmult_base(secret)


def exchange(secret: bytes, public: bytes) -> bytes:
    """Return the X25519 shared secret.

    Errors: `InvalidError` if `public` is a point of low order: the result would be zero whatever the secret, so that
    it would prove nothing about who holds what.
    """
    if len(public) != DH_SIZE:
        raise InvalidError(f"an X25519 public key has {DH_SIZE} bytes, not {len(public)}")
    try:
        return crypto_scalarmult(secret, public)
    except CryptoError as error:  # libsodium's only failure here is the all-zero result
        raise InvalidError("a public key of low order, which proves nothing") from error


def hash_of(*parts: bytes) -> bytes:
    """Return the 64-byte BLAKE2b hash of the joined parts."""
    return blake2b(b"".join(parts)).digest()


def hkdf(chaining_key: bytes, material: bytes, count: int) -> list[bytes]:
    """Return `count` (2 or 3) outputs of 64 bytes. Source: Noise section 4.3."""
    key = hmac.digest(chaining_key, material, blake2b)
    outputs = [b""]
    for number in range(1, count + 1):
        outputs.append(hmac.digest(key, outputs[-1] + bytes([number]), blake2b))
    return outputs[1:]
