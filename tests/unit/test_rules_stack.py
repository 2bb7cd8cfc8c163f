"""Stacks of versions as values: ids that sort by age, what is on a stack, what each change makes of its top."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from meshhold.errors import InvalidError, UnknownFormatError
from meshhold.model.entry import PLAIN, DeleteMarker, Entry, Extras, Lock, ObjectVersion, decode_entry, encode_entry
from meshhold.model.ids import OpId
from meshhold.model.stamp import Stamp
from meshhold.rules.stack import (
    amended,
    filed,
    gone_of,
    id_of,
    is_earlier,
    is_versioned,
    is_void,
    marked,
    next_id,
    object_of,
    parse_id,
    plain,
    promoted,
    pushed,
    row_key,
    rows_end,
    rows_of,
    shown_id,
    split_row_key,
    top_of,
    void,
)

NODE = b"nodenode"
OLD = ObjectVersion(3, "etag", 1_700_000_000_000, b"sealed with a salt")
ID = Stamp(1_700_000_000_001 << 16, NODE).pack()
NEWER = Stamp(1_700_000_000_002 << 16, NODE).pack()
TOP = replace(OLD, extras=Extras(version=ID, is_null=False, revision=4))


def test_a_version_from_before_versions_has_a_stable_id_of_its_own() -> None:
    assert id_of(OLD) == id_of(replace(OLD, extras=replace(PLAIN, revision=3, tags={"a": "b"})))
    assert id_of(OLD) != id_of(replace(OLD, content=b"sealed with another salt"))
    assert Stamp(OLD.modified_ms << 16, bytes(8)).pack() <= id_of(OLD) < ID
    assert shown_id(OLD) == "null"
    assert shown_id(TOP) == ID.hex()


def test_ids_are_read_back_and_nothing_else_is() -> None:
    assert parse_id(ID.hex()) == ID
    assert parse_id("null") is None
    for text in ("", "0", "NULL", ID.hex()[:-1], ID.hex() + "0", ID.hex().upper(), "g" * 32):
        with pytest.raises(InvalidError):
            parse_id(text)


def test_a_new_id_is_above_the_top_whatever_the_clock_says() -> None:
    stamp = Stamp(1_700_000_000_009 << 16, b"another.")
    assert next_id(stamp, None, 0) == next_id(stamp, TOP, 0) == stamp.pack()
    behind = Stamp(1_600_000_000_000 << 16, b"another.")
    ids = [next_id(behind, TOP, chance) for chance in (0, 1, 2**24 - 1)]
    assert ID < ids[0] < ids[1] < ids[2]
    assert len(set(ids)) == 3


def test_rows_of_a_key_lie_together_newest_first() -> None:
    rng = random.Random(7)
    keys = [b"a", b"a!", b"a\x01", b"ab", b"a/b", "ä".encode()]
    ids = [rng.randbytes(16) for _ in range(5)]
    names = sorted(row_key(key, each) for key in keys for each in ids)
    assert [split_row_key(name) for name in names] == [
        (key, each) for key in sorted(keys) for each in sorted(ids, reverse=True)
    ]
    for key in keys:
        assert [name for name in names if rows_of(key) <= name <= rows_end(key)] == sorted(
            row_key(key, each) for each in ids
        )
    with pytest.raises(UnknownFormatError):
        split_row_key(b"no separator before sixteen bytes")


def test_what_a_register_shows() -> None:
    marker = DeleteMarker(5, Extras(version=ID, is_null=False, revision=1))
    nothing = void((ID,), 7)
    assert [top_of(value) for value in (None, OLD, TOP, marker, nothing)] == [None, OLD, TOP, marker, None]
    assert [object_of(value) for value in (None, OLD, TOP, marker, nothing)] == [None, OLD, TOP, None, None]
    assert [is_versioned(value) for value in (None, OLD, TOP, marker, nothing)] == [False, False, True, True, True]
    assert [is_void(value) for value in (None, OLD, TOP, marker, nothing)] == [False, False, False, False, True]
    assert gone_of(nothing) == (ID,)
    assert gone_of(None) == gone_of(OLD) == ()


def test_each_change_makes_another_top() -> None:
    row = filed(replace(TOP, extras=replace(TOP.extras, gone=(NEWER,))))
    assert row.extras.gone == ()
    above = pushed(OLD, NEWER, TOP, is_null=False)
    assert (above.extras.version, above.extras.revision, above.extras.is_null) == (NEWER, 5, False)
    assert pushed(OLD, NEWER, None, is_null=True).extras.revision == 1
    assert pushed(OLD, NEWER, void((ID,), 9), is_null=False).extras.revision == 10
    back = promoted(row, above, (NEWER,))
    assert back.extras.revision == 6 > max(row.extras.revision, above.extras.revision)
    assert back.extras.gone == (NEWER,)
    assert id_of(back) == ID
    touched = marked(above, (ID,))
    assert touched.extras.revision == 6
    assert touched.extras.gone == (ID,)


def test_amending_changes_what_is_said_and_not_the_place() -> None:
    lock = Lock("GOVERNANCE", 5)
    wish = replace(TOP, extras=Extras(tags={"a": "b"}, lock=lock, gone=(NEWER,), is_null=True))
    new = amended(TOP, wish)
    assert new.extras == Extras(version=ID, is_null=False, revision=5, tags={"a": "b"}, lock=lock)


def test_a_row_is_an_earlier_version_if_it_is_older_and_not_gone() -> None:
    above = pushed(OLD, NEWER, TOP, is_null=False)
    assert isinstance(above, ObjectVersion)
    assert is_earlier(ID, TOP, above)
    assert not is_earlier(ID, None, above)
    assert not is_earlier(ID, TOP, marked(above, (ID,)))
    assert not is_earlier(NEWER, above, TOP)
    assert not is_earlier(ID, TOP, TOP)


def test_where_versions_were_never_kept_an_object_costs_nothing_more() -> None:
    assert plain(OLD) is OLD
    restored = plain(replace(TOP, extras=replace(TOP.extras, tags={"a": "b"})))
    assert restored.extras == Extras(tags={"a": "b"})
    assert len(encode_entry(Entry(OpId(bytes(16)), OLD))) + 2 < len(encode_entry(Entry(OpId(bytes(16)), TOP)))


def test_tops_are_read_back_as_they_were_stored() -> None:
    for value in (TOP, marked(TOP, (ID, NEWER)), void((ID,), 3), DeleteMarker(5, Extras(version=ID, is_null=True))):
        assert decode_entry(encode_entry(Entry(OpId(bytes(16)), value))).value == value
