"""Which cipher seals data, under keys that are used once. Knows neither where keys come from nor what is sealed.

Sealed form: one byte that names the suite, then what the suite makes. Suite 1 is AES-256-GCM with an all-zero nonce and
the suite byte (then the caller's `aad`) as authenticated data: safe because a key seals exactly one plaintext, which
every caller must guarantee, by deriving the key from the plaintext or from a fresh salt.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from meshhold.errors import SealBrokenError, UnknownFormatError

SUITE_AES_256_GCM: Final = 1
SEAL_OVERHEAD: Final = 17  # suite byte and 16-byte tag
_SUITE: Final = bytes([SUITE_AES_256_GCM])
_NONCE: Final = bytes(12)


def seal_once(key: bytes, plaintext: bytes, aad: bytes = b"") -> bytes:
    """Return `plaintext` sealed under a 32-byte key that seals nothing else, ever; `aad` must be shown to open it."""
    return _SUITE + AESGCM(key).encrypt(_NONCE, plaintext, _SUITE + aad)


def open_once(key: bytes, sealed: bytes, aad: bytes = b"") -> bytes:
    """Undo `seal_once`.

    Errors: `UnknownFormatError` for a suite that this program does not know; `SealBrokenError` for a wrong key or
    `aad`, or altered bytes.
    """
    if not sealed or sealed[0] != SUITE_AES_256_GCM:
        named = f"suite {sealed[0]}" if sealed else "no suite"
        raise UnknownFormatError(f"sealed bytes name {named}, which is not known", "use a newer meshhold")
    try:
        return AESGCM(key).decrypt(_NONCE, memoryview(sealed)[1:], _SUITE + aad)
    except InvalidTag as error:
        raise SealBrokenError("sealed bytes do not open: wrong key, or altered bytes") from error
