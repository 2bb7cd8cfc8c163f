"""Does a text fit a pattern of a policy? `*` stands for any text, `?` for one character. Knows no policy.

Matching takes time proportional to pattern times text, whatever both are: both come from clients.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern that is matched often: cut at its `*` once."""

    pattern: str
    _pieces: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pieces = (".".join(map(re.escape, piece.split("?"))) for piece in self.pattern.split("*"))
        object.__setattr__(self, "_pieces", tuple(re.compile(piece, re.DOTALL) for piece in pieces))

    @property
    def is_literal(self) -> bool:
        """Tell whether only one text fits."""
        return "*" not in self.pattern and "?" not in self.pattern

    def matches(self, text: str) -> bool:
        """Tell whether the whole text fits."""
        first, *middle = self._pieces
        if not middle:
            return first.fullmatch(text) is not None
        last = middle.pop()
        end = len(text) - (len(self.pattern) - self.pattern.rfind("*") - 1)
        found = first.match(text)
        if found is None:
            return False
        for piece in middle:  # the leftmost place leaves most room for what follows
            found = piece.search(text, found.end())
            if found is None:
                return False
        return found.end() <= end and last.fullmatch(text, end) is not None
