"""Patterns of policies fit what a plain search over all splits says, and long ones end in time."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from meshhold.rules.globs import Glob

ALPHABET = "ab*?./\n"


def fits(pattern: str, text: str) -> bool:
    """Tell by definition whether a pattern fits."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(fits(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and fits(pattern[1:], text[1:])


@given(st.text(ALPHABET, max_size=8), st.text("ab./\n", max_size=8))
def test_a_pattern_fits_by_definition(pattern: str, text: str) -> None:
    assert Glob(pattern).matches(text) is fits(pattern, text)


@given(st.text(max_size=20))
def test_a_text_fits_itself_and_everything_fits_a_star(text: str) -> None:
    assert Glob("*").matches(text)
    assert Glob(text).is_literal is not any(mark in text for mark in "*?")
    if Glob(text).is_literal:
        assert Glob(text).matches(text)
        assert not Glob(text).matches(text + "x")


def test_many_stars_cost_no_more_than_the_text_is_long() -> None:
    glob = Glob("*a" * 5_000 + "b")
    began_s = time.process_time()
    assert not glob.matches("a" * 1_000)
    assert time.process_time() - began_s < 0.2
