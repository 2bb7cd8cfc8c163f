"""Which versions does a key have, and what becomes of them? Knows no register, no clock and no bucket.

The register of a key holds the top of its stack: the version, or the delete marker, that is current. Earlier ones rest
in rows of their own, newer ones first. All that readers go by follows from the top:

- a row is an earlier version if it is older than the top, not in the top's `gone`, and no deletion;
- without a top there is no version, whatever rows say;
- of several versions that S3 would call `null`, only the newest is shown.

So every change of the stack is one change of the top, by comparison with exactly what was read: `revision` makes no two
tops of a key equal. What rows say is put right behind that change; see `store.stacks`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import InvalidError, UnknownFormatError
from meshhold.model.entry import PLAIN, DeleteMarker, Extras, ObjectVersion, Value
from meshhold.model.stamp import COUNTER_BITS, STAMP_SIZE, Stamp, unpack_stamp

Stacked = ObjectVersion | DeleteMarker
"""What lies on a stack of versions."""

NULL: Final = "null"
_SEPARATOR: Final = b"\x00"  # no object key holds it
_LAST: Final = b"\xff" * STAMP_SIZE
_UNHEX: Final = frozenset("0123456789abcdef")


def top_of(value: Value | None) -> Stacked | None:
    """Return the top that a key's register holds; None without one, or for a void."""
    if isinstance(value, ObjectVersion):
        return value
    return value if isinstance(value, DeleteMarker) and value.extras.version else None


def object_of(value: Value | None) -> ObjectVersion | None:
    """Return the object that a key's register shows; None without one, and under a delete marker."""
    return value if isinstance(value, ObjectVersion) else None


def gone_of(value: Value | None) -> tuple[bytes, ...]:
    """Return the ids of versions that are deleted although their rows may not say so yet."""
    return value.extras.gone if isinstance(value, ObjectVersion | DeleteMarker) else ()


def is_versioned(value: Value | None) -> bool:
    """Tell whether a key's register is part of a stack of versions: a plain write would lose some.

    So would it lose a locked version, where this node has not heard yet that its bucket keeps versions by now.
    """
    return isinstance(value, ObjectVersion | DeleteMarker) and (
        bool(value.extras.version) or value.extras.lock is not None or is_void(value)
    )


def is_void(value: Value | None) -> bool:
    """Tell whether the register says: no version is left, but rows have still to be put right."""
    return isinstance(value, DeleteMarker) and not value.extras.version


def void(gone: tuple[bytes, ...], revision: int) -> DeleteMarker:
    """Return what stands in the register between the deletion of the last version and the end of its row."""
    return DeleteMarker(0, Extras(version=b"", is_null=False, revision=revision, gone=gone))


# -- ids ------------------------------------------------------------------------------------------------------------


def id_of(version: Stacked) -> bytes:
    """Return the id of a version: 16 bytes that sort by age.

    One that came before its bucket was ever versioned has none of its own: it is made of its time and of its sealed
    content, whose salt is found nowhere else.
    """
    if version.extras.version or isinstance(version, DeleteMarker):
        return version.extras.version
    digest = hash_bytes(version.content)
    return Stamp(version.modified_ms << COUNTER_BITS | int.from_bytes(digest[:2], "big"), digest[2:10]).pack()


def shown_id(version: Stacked) -> str:
    """Return the id as S3 shows it: `null`, or 32 hex digits."""
    return NULL if version.extras.is_null else version.extras.version.hex()


def parse_id(text: str) -> bytes | None:
    """Undo `shown_id`; None for `null`. Errors: `InvalidError` for what is no id of ours."""
    if text == NULL:
        return None
    if len(text) != 2 * STAMP_SIZE or not _UNHEX.issuperset(text):
        raise InvalidError("Invalid version id specified")
    return bytes.fromhex(text)


def next_id(stamp: Stamp, top: Stacked | None, chance: int) -> bytes:
    """Return the id of what goes on `top`: `stamp`, unless another clock was ahead; then just above the top's id.

    `chance` (0 ≤ x < 2^24) then keeps it from being an id that was given before and is deleted by now.
    """
    if top is None or stamp.pack() > id_of(top):
        return stamp.pack()
    return Stamp(unpack_stamp(id_of(top)).time + 1 + chance, stamp.node).pack()


def row_key(key: bytes, identifier: bytes) -> bytes:
    """Return the key of an earlier version's row: newer versions of an object come first."""
    return key + _SEPARATOR + bytes(255 - octet for octet in identifier)


def split_row_key(name: bytes) -> tuple[bytes, bytes]:
    """Undo `row_key`: the object's key and the version's id. Errors: `UnknownFormatError`."""
    if name[-STAMP_SIZE - 1 : -STAMP_SIZE] != _SEPARATOR:
        raise UnknownFormatError(f"{name!r} names no version of an object")
    return name[: -STAMP_SIZE - 1], bytes(255 - octet for octet in name[-STAMP_SIZE:])


def rows_of(key: bytes) -> bytes:
    """Return the prefix that the rows of a key's earlier versions have, and those of no other."""
    return key + _SEPARATOR


def rows_end(key: bytes) -> bytes:
    """Return a name that no row of the key's versions comes after."""
    return key + _SEPARATOR + _LAST


# -- what is done to a stack ------------------------------------------------------------------------------------------


def pushed(
    new: Stacked, identifier: bytes, below: Value | None, *, is_null: bool, gone: tuple[bytes, ...] = ()
) -> Stacked:
    """Return `new` as it lies on the stack whose register held `below`."""
    revision = below.extras.revision + 1 if isinstance(below, ObjectVersion | DeleteMarker) else 1
    return _with(new, version=identifier, is_null=is_null, revision=revision, gone=gone)


def plain(new: Stacked) -> Stacked:
    """Return a version as it lies where versions were never kept: alone, and without an id."""
    if new.extras is PLAIN:
        return new
    return _with(new, version=b"", is_null=True, revision=0, gone=())


def filed(top: Stacked) -> Stacked:
    """Return a top as its row holds it when another version goes on it."""
    return _with(top, version=id_of(top), gone=())


def promoted(row: Stacked, above: Stacked, gone: tuple[bytes, ...]) -> Stacked:
    """Return an earlier version as the top that it becomes when `above`, the top so far, is deleted with `gone`."""
    return _with(row, revision=max(row.extras.revision, above.extras.revision) + 1, gone=gone)


def marked(top: Stacked, gone: tuple[bytes, ...]) -> Stacked:
    """Return a top as it says that these earlier versions are deleted; with none, it is only known to have changed."""
    return _with(top, revision=top.extras.revision + 1, gone=gone)


def amended(old: ObjectVersion, new: ObjectVersion) -> ObjectVersion:
    """Return a version with tags, lock and all else of `new`, and in the place on the stack that `old` has."""
    place = old.extras
    extras = replace(
        new.extras, version=place.version, is_null=place.is_null, revision=place.revision + 1, gone=place.gone
    )
    return replace(new, extras=extras)


def is_earlier(identifier: bytes, row: Value | None, top: Stacked) -> bool:
    """Tell whether a row is an earlier version of the stack with this top."""
    return top_of(row) is not None and identifier < id_of(top) and identifier not in top.extras.gone


def _with(stacked: Stacked, /, **changes: object) -> Stacked:
    extras = replace(stacked.extras, **changes)  # type: ignore[arg-type] # the callers' keywords are its fields
    return replace(stacked, extras=extras)
