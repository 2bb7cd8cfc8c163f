"""Which tags may an object or a bucket have? Knows no XML, no header and no storage.

Source: Amazon S3 User Guide, "Categorizing your storage using tags" and the pattern of `Tag` in the API reference.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any, Final

from meshhold.errors import InvalidTagError

OBJECT_TAGS_MAX: Final = 10  # these four are S3's limits; lengths count UTF-16 code units, as S3 stores them
BUCKET_TAGS_MAX: Final = 50
NAME_LENGTH_MAX: Final = 128
VALUE_LENGTH_MAX: Final = 256
_MARKS: Final = frozenset("_.:/=+-@")
_LETTERS_SPACES_DIGITS: Final = frozenset("LZN")  # the first letters of their Unicode categories
_RESERVED: Final = "aws:"


def check_tags(pairs: Iterable[tuple[str, str]], count_max: int) -> dict[str, str]:
    """Return the tags by name, sorted: equal sets of tags are equal values, and answers do not depend on the asker.

    Errors: `InvalidTagError` names the tag and what is wrong with it.
    """
    found: dict[str, str] = {}
    for name, value in pairs:
        if not name or _length(name) > NAME_LENGTH_MAX or not _is_spelled(name):
            raise InvalidTagError(
                f"the tag key {name[:NAME_LENGTH_MAX]!r} is invalid",
                f"use 1 to {NAME_LENGTH_MAX} letters, digits, spaces and _ . : / = + - @",
            )
        if name.lower().startswith(_RESERVED):
            raise InvalidTagError(f"the tag key {name!r} begins with aws:", "such tags are not set by requests")
        if _length(value) > VALUE_LENGTH_MAX or not _is_spelled(value):
            raise InvalidTagError(
                f"the value of the tag {name!r} is invalid",
                f"use up to {VALUE_LENGTH_MAX} letters, digits, spaces and _ . : / = + - @",
            )
        if name in found:
            raise InvalidTagError(f"the tag key {name!r} is given twice", "give each key once")
        found[name] = value
    if len(found) > count_max:
        raise InvalidTagError(f"{len(found)} tags are given", f"use at most {count_max}")
    return dict(sorted(found.items()))


def unpack_tags(packed: Any, count_max: int) -> dict[str, str]:
    """Return stored tags, checked as new ones are. Errors: `InvalidTagError`, or what a hostile value makes of it."""
    return check_tags(packed.items(), count_max)


def _length(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


def _is_spelled(text: str) -> bool:
    if text.isascii() and text.isalnum():
        return True
    return all(
        character in _MARKS or unicodedata.category(character)[0] in _LETTERS_SPACES_DIGITS for character in text
    )
