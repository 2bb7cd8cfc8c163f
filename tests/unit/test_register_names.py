"""What a register is called in messages to people."""

from __future__ import annotations

import pytest

from meshhold.model.entry import Space, describe_key

UPLOAD = bytes(range(16))


@pytest.mark.parametrize(
    ("space", "key", "called"),
    [
        (Space.OBJECTS, b"a/b\xff", r"'a/b\\xff'"),
        (Space.UPLOADS, b"a/b\x00" + UPLOAD, "an upload of 'a/b'"),
        (Space.PARTS, UPLOAD + b"\x01\x02", "part 258 of upload 000102030405060708090a0b0c0d0e0f"),
        (Space.CONFLICTS, b"k\x00" + UPLOAD, "a version that lost of 'k'"),
        (Space.CONFIGURATION, b"", "the index replicas"),
    ],
)
def test_people_are_told_no_bytes(space: Space, key: bytes, called: str) -> None:
    assert describe_key(space, key) == called
