"""How is any string written inside an XML element? Knows no document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_SPECIAL: Final = re.compile('[&<>"\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]')
_NAMED: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"}
_PLAIN: Final = bytes(octet for octet in range(256) if not _SPECIAL.match(chr(octet)) and octet != 0xEF)
"""Bytes of UTF-8 that need no second look: U+FFFE and U+FFFF begin with the one that is left out."""
_BETWEEN: Final = b"\n"


def escape(text: str) -> str:
    """Return `text` as character data.

    Control characters become references (`&#x1;`), as S3 writes them: XML 1.0 has no other way to name them, and a
    client that cannot read them asks for `encoding-type=url`. A carriage return would otherwise be read as a newline.
    """
    if _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(_reference, text)


def escape_all(texts: Sequence[bytes]) -> list[str]:
    """Return each of many texts, given in UTF-8, as `escape` does: looked at together, since hardly one needs it."""
    joined = _BETWEEN.join(texts)
    if not joined.translate(None, _PLAIN):
        escaped = joined.decode().split(_BETWEEN.decode())
        if len(escaped) == len(texts):  # else one of them holds what is between them
            return escaped
    return [escape(text.decode()) for text in texts]


def _reference(found: re.Match[str]) -> str:
    character = found.group()
    return _NAMED.get(character) or f"&#x{ord(character):X};"
