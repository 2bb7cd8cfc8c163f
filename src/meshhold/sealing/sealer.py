"""How is one chunk sealed, named and opened? Knows no storage; the same plaintext of a vault gives the same chunk."""

from __future__ import annotations

from meshhold.crypto.bulk import open_once, seal_once
from meshhold.crypto.hashing import hash_bytes
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import SealBrokenError
from meshhold.model.entry import Ref
from meshhold.model.ids import ChunkId


def seal_chunk(keys: VaultKeys, plaintext: bytes, depth: int = 0, span: int | None = None) -> tuple[Ref, bytes]:
    """Return where the plaintext will be, and the sealed bytes to store there.

    `span` is the number of the object's bytes that the chunk stands for: its own length unless it holds refs.
    Deterministic: the key is a keyed hash of the plaintext, the id the hash of the sealed bytes, so any holder can
    verify a chunk, and a vault stores equal chunks once.
    """
    key = keys.content_key(plaintext)
    sealed = seal_once(key, plaintext)
    return Ref(depth, ChunkId(hash_bytes(sealed)), key, len(plaintext) if span is None else span), sealed


def open_chunk(ref: Ref, sealed: bytes) -> bytes:
    """Return the plaintext of a chunk that the ref names; the store has verified `sealed` against the id.

    Errors: `SealBrokenError` for a wrong key, altered bytes, or data of another length than the ref's span;
    `UnknownFormatError` for an unknown suite.
    """
    plaintext = open_once(ref.key, sealed)
    if ref.depth == 0 and len(plaintext) != ref.span:
        raise SealBrokenError(f"chunk {ref.chunk.hex()} holds {len(plaintext)} bytes where {ref.span} are expected")
    return plaintext
