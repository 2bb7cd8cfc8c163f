"""What stands for a stretch of keys: its bounds, what fits into a message, and the digest of its names."""

from __future__ import annotations

import pytest

from meshhold.crypto.hashing import hash_bytes
from meshhold.model.entry import Space
from meshhold.replication.index.intervals import digest_of, fitting_keys, interval_of, just_below

BALLOT = b"0123456789abcdef"


def test_a_digest_is_of_lengths_keys_and_ballots() -> None:
    long = b"k" * 4_097
    joined = b"\x00\x01a" + BALLOT + b"\x00\x00" + BALLOT + b"\x10\x01" + long + BALLOT
    for _ in range(2):
        assert digest_of([(b"a", BALLOT), (b"", BALLOT), (long, BALLOT)]) == hash_bytes(joined)
    assert digest_of([]) == hash_bytes(b"")


def test_a_key_of_64_kib_has_no_digest() -> None:
    with pytest.raises(OverflowError):
        digest_of([(bytes(2**16), BALLOT)])


@pytest.mark.parametrize(
    ("size_max", "fitting"),
    [(0, 1), (66, 1), (67, 2), (99, 2), (100, 3), (1_000, 3)],
)
def test_as_many_keys_fit_as_have_room_but_one_at_least(size_max: int, fitting: int) -> None:
    keys = [b"", b"abc", b"a"]
    assert fitting_keys([], size_max) == 0
    assert fitting_keys(keys, size_max) == fitting


def test_an_interval_begins_with_the_prefix_and_ends_with_it_or_with_a_key() -> None:
    assert interval_of(Space.OBJECTS, b"a/1", b"a/", b"a/7") == (Space.OBJECTS, b"a/1", b"a/7")
    whole = interval_of(Space.OBJECTS, b"", b"a/", None)
    assert (whole.space, whole.after, whole.upto) == (Space.OBJECTS, just_below(b"a/"), just_below(b"a0"))
    assert whole.after < b"a/"
    assert whole.upto is not None
    assert b"a/\xf4\x8f\xbf\xbf" <= whole.upto < b"a0"
    assert interval_of(Space.OBJECTS, b"", b"", None) == (Space.OBJECTS, b"", None)
