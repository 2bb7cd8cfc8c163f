"""Which tags objects and buckets may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhold.errors import InvalidTagError
from meshhold.rules.tags import BUCKET_TAGS_MAX, OBJECT_TAGS_MAX, check_tags, unpack_tags


def test_tags_are_sorted_so_that_equal_sets_are_equal() -> None:
    assert list(check_tags([("b", "1"), ("a", "2")], OBJECT_TAGS_MAX)) == ["a", "b"]


@pytest.mark.parametrize("name", ["a" * 128, "é" * 128, "with space", "_.:/=+-@", "१२", "𐐀" * 64])
def test_keys_of_letters_digits_spaces_and_some_marks_are_taken(name: str) -> None:
    assert check_tags([(name, "")], OBJECT_TAGS_MAX) == {name: ""}


@pytest.mark.parametrize("name", ["", "a" * 129, "𐐀" * 65, "a;b", "a\nb", "a*", "aws:", "AWS:x", "a\0"])
def test_other_keys_are_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidTagError, match="tag key"):
        check_tags([(name, "value")], OBJECT_TAGS_MAX)


@pytest.mark.parametrize("value", ["v" * 257, "tab\t", "<", "💾"])
def test_values_out_of_bounds_are_refused(value: str) -> None:
    with pytest.raises(InvalidTagError, match="value of the tag 'a'"):
        check_tags([("a", value)], OBJECT_TAGS_MAX)


def test_a_key_is_given_once() -> None:
    with pytest.raises(InvalidTagError, match="twice"):
        check_tags([("a", "1"), ("a", "2")], OBJECT_TAGS_MAX)


@pytest.mark.parametrize("most", [OBJECT_TAGS_MAX, BUCKET_TAGS_MAX])
def test_no_more_than_the_limit(most: int) -> None:
    pairs = [(f"k{at}", "") for at in range(most)]
    assert len(check_tags(pairs, most)) == most
    with pytest.raises(InvalidTagError, match=f"at most {most}"):
        check_tags([*pairs, ("one-more", "")], most)


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=12))
def test_whatever_is_taken_is_read_back_from_the_store(tags: dict[str, str]) -> None:
    try:
        taken = check_tags(tags.items(), OBJECT_TAGS_MAX)
    except InvalidTagError:
        return
    assert unpack_tags(taken, OBJECT_TAGS_MAX) == taken == tags
