"""How is any string written inside an XML element? Knows no document."""

from __future__ import annotations

import re
from typing import Final

_SPECIAL: Final = re.compile('[&<>"\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]')
_NAMED: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"}


def escape(text: str) -> str:
    """Return `text` as character data.

    Control characters become references (`&#x1;`), as S3 writes them: XML 1.0 has no other way to name them, and a
    client that cannot read them asks for `encoding-type=url`. A carriage return would otherwise be read as a newline.
    """
    if _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(_reference, text)


def _reference(found: re.Match[str]) -> str:
    character = found.group()
    return _NAMED.get(character) or f"&#x{ord(character):X};"
