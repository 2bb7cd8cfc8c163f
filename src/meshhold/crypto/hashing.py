"""Which hash names and derives everything: BLAKE3, 32 bytes. Knows no purpose: contexts are arguments.

One thread hashes about 5 GiB/s here and the library releases the GIL for large inputs, so its own thread pool, which
would fight the other workers for the same cores, is never used.
"""

from __future__ import annotations

from blake3 import blake3


def hash_bytes(data: bytes) -> bytes:
    """Return the 32-byte BLAKE3 hash of `data`."""
    return blake3(data).digest()


def keyed_hash(key: bytes, data: bytes) -> bytes:
    """Return the 32-byte BLAKE3 keyed hash (a MAC and PRF); `key` has 32 bytes."""
    return blake3(data, key=key).digest()


def derive_key(secret: bytes, context: str) -> bytes:
    """Return a 32-byte key for one purpose.

    `context` is a constant that names the purpose and is used nowhere else; keys of different contexts tell nothing
    about each other or the secret. Source: BLAKE3 paper, section 2.3, `derive_key` mode.
    """
    return blake3(secret, derive_key_context=context).digest()
