"""Bytes as one word that people copy: a prefix, URL-safe base64, and a sum that notices a part that is missing."""

from __future__ import annotations

import base64
import binascii

_SUM_SIZE = 4


def encode_word(prefix: str, packed: bytes) -> str:
    """Return the bytes as one word that survives chat programs, terminals and paper."""
    return prefix + base64.urlsafe_b64encode(packed + _sum_of(packed)).decode().rstrip("=")


def decode_word(prefix: str, text: str, size_max: int) -> bytes:
    """Undo `encode_word`; white space inside does no harm. Errors: `ValueError`, which does not repeat the word."""
    word = "".join(text.split())
    if not word.startswith(prefix) or len(word) > size_max:
        raise ValueError("it begins otherwise, or is too long")
    body = word[len(prefix) :]
    raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    packed, check = raw[:-_SUM_SIZE], raw[-_SUM_SIZE:]
    if _sum_of(packed) != check:
        raise ValueError("its sum differs")
    return packed


def _sum_of(packed: bytes) -> bytes:
    return binascii.crc32(packed).to_bytes(_SUM_SIZE, "big")
