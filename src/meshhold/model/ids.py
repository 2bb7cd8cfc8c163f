"""How things are named: nodes, vaults, chunks, access keys. Knows no key material."""

from __future__ import annotations

import base64
import re
from typing import Final, NewType

from meshhold.errors import InvalidError

NodeId = NewType("NodeId", str)
"""Lowercase base32 (52 characters) of a node's 32-byte Ed25519 public key."""

VaultId = NewType("VaultId", str)
"""Lowercase base32 (32 characters) of the first 20 bytes of the BLAKE3 hash of the vault's signing public key."""

ChunkId = NewType("ChunkId", bytes)
"""The 32-byte BLAKE3 hash of a chunk's sealed bytes."""

OpId = NewType("OpId", bytes)
"""16 bytes that name one attempt-independent change of one register."""

AccessKeyId = NewType("AccessKeyId", str)
"""`GK` and 24 hex digits, or `anonymous` for requests without a signature."""

ANONYMOUS: Final = AccessKeyId("anonymous")
CHUNK_ID_SIZE: Final = 32
VAULT_ID_SIZE: Final = 20
SHORT_LENGTH: Final = 8  # 40 bits: unique among the vaults or nodes of any home

_BUCKET_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]\Z")
_IPV4: Final = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}\Z")


def encode_id(raw: bytes) -> str:
    """Return lowercase base32 without padding."""
    return base64.b32encode(raw).decode("ascii").rstrip("=").lower()


def decode_id(text: str) -> bytes:
    """Undo `encode_id`. Errors: `InvalidError` for anything that it did not make."""
    padded = text.upper() + "=" * (-len(text) % 8)
    try:
        return base64.b32decode(padded)
    except ValueError as error:
        raise InvalidError(f"{text!r} is not a base32 identifier") from error


def short_id(identifier: str) -> str:
    """Return the form shown to people."""
    return identifier[:SHORT_LENGTH]


def check_bucket_name(name: str) -> str:
    """Return `name` if S3 allows it as a bucket's name.

    Errors: `InvalidError` with the rule that is broken.
    Source: AWS S3 user guide, "General purpose bucket naming rules".
    """
    if not 3 <= len(name) <= 63:
        raise InvalidError(f"bucket name {name!r} has {len(name)} characters", "use 3 to 63")
    if not _BUCKET_NAME.match(name):
        raise InvalidError(
            f"bucket name {name!r} has a character that S3 does not allow",
            "use a-z, 0-9, '-' and '.', beginning and ending with a letter or digit",
        )
    if ".." in name or ".-" in name or "-." in name:
        raise InvalidError(
            f"bucket name {name!r} has an empty label or one that touches '-'", "separate labels by one '.'"
        )
    if _IPV4.match(name):
        raise InvalidError(f"bucket name {name!r} looks like an IP address", "use a name")
    return name
