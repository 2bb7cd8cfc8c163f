"""How does text that is not ASCII travel in a header? As RFC 2047's encoded words, which S3 reads and writes.

Knows no header. Source: S3 user guide, "Working with object metadata"; RFC 2047, sections 2 and 4.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import a2b_qp
from typing import Final

_CHARSETS: Final = frozenset(("utf-8", "us-ascii", "iso-8859-1"))
_WORD: Final = re.compile(r"=\?([\w-]+)\?([BbQq])\?([!->@-~]*)\?=", re.ASCII)
_BETWEEN: Final = re.compile(r"(?<=\?=)[ \t]+(?==\?[\w-]+\?[BbQq]\?[!->@-~]*\?=)", re.ASCII)
"""Blanks between two words are no text (RFC 2047, section 6.2)."""
_WORD_BYTES_MAX: Final = 21  # of text in one word: in Q, three characters each, a word stays within RFC 2047's 75
_LITERAL: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/.,:;@'()")


def decode_words(text: str) -> str:
    """Return `text` with its encoded words decoded; as it is where one cannot be read."""
    if "=?" not in text:
        return text
    try:
        return _WORD.sub(_decoded, _BETWEEN.sub("", text))
    except ValueError:
        return text


def _decoded(word: re.Match[str]) -> str:
    charset, encoding, inner = word.groups()
    if charset.lower() not in _CHARSETS:
        raise UnicodeError(charset)
    raw = b64decode(inner, validate=True) if encoding in "Bb" else a2b_qp(inner, header=True)
    return raw.decode(charset)


def encode_words(text: str) -> str:
    """Return `text` as a header value: as it is where it is printable ASCII, else as encoded words in UTF-8.

    What `decode_words` makes of the answer is `text`. Line breaks and other control characters are encoded too.
    """
    if text.isascii() and text.isprintable():
        return text
    words: list[bytes] = [b""]
    for character in text:
        raw = character.encode("utf-8", "replace")
        if len(words[-1]) + len(raw) > _WORD_BYTES_MAX:
            words.append(b"")
        words[-1] += raw
    return " ".join(_word(raw) for raw in words)


def _word(raw: bytes) -> str:
    """Return one word, quoted where most of it can be read so, else in base64."""
    if sum(octet in _LITERAL for octet in raw) * 2 < len(raw):
        return f"=?UTF-8?B?{b64encode(raw).decode()}?="
    quoted = "".join("_" if octet == 0x20 else chr(octet) if octet in _LITERAL else f"={octet:02X}" for octet in raw)
    return f"=?UTF-8?Q?{quoted}?="
