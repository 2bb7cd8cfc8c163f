"""How does a key that only a client holds hide content, and how is it recognised? Knows no storage and no request.

A key stream of AES-256 in counter mode, under a key that the client's key and a fresh salt give: as long as the
content, and open at any offset. It hides, and does not authenticate: what it makes is sealed and named by its hash like
any other content. Each stream has a salt of its own, so no two contents ever share one.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from meshhold.crypto.hashing import keyed_hash

KEY_SIZE: Final = 32
_BLOCK: Final = 16
_DATA: Final = b"MeshHold 2026-11 customer content "
_ETAG: Final = b"MeshHold 2026-11 customer etag "
_PROOF: Final = b"MeshHold 2026-11 customer proof "


class Keystream:
    """Hides and shows one content: both are the same. `client_key` has 32 bytes, `salt` is used for this alone."""

    __slots__ = ("_key",)

    def __init__(self, client_key: bytes, salt: bytes) -> None:
        self._key = algorithms.AES(keyed_hash(client_key, _DATA + salt))

    def apply(self, offset: int, block: bytes) -> bytes:
        """Return the bytes of the content from `offset` on, hidden if they were shown, shown if they were hidden."""
        cipher = Cipher(self._key, modes.CTR((offset // _BLOCK).to_bytes(_BLOCK, "big"))).encryptor()
        cipher.update(bytes(offset % _BLOCK))
        return cipher.update(block)


def hidden_etag(client_key: bytes, salt: bytes, md5: str) -> str:
    """Return the ETag of content whose MD5 (hex) must not be told: the same for the same content, key and salt."""
    return keyed_hash(client_key, _ETAG + salt + md5.encode())[:16].hex()


def proof_of(client_key: bytes, salt: bytes) -> bytes:
    """Return 32 bytes that only this key gives with this salt, and from which neither key nor key stream follows."""
    return keyed_hash(client_key, _PROOF + salt)
