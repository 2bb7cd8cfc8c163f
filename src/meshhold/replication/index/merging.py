"""Which of two entries of a register stays, and is the other one work that nobody has seen? Knows no disk and no time.

Laws: the higher ballot stays, whatever the order in which entries meet; so the entry that stays is the same everywhere.
The other one is an ancestor of what stays, or it was written without knowledge of it: then it is concurrent. Ancestry
is bounded (`model.entry.ANCESTORS_KEPT`): what lies further back counts as concurrent too, so that nothing is dropped
that might have been seen by nobody. Rows of `Space.CONFLICTS` are named after the change that they keep and hold one
entry for ever, so there the higher ballot is only the later finder, or whoever took the row away.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from meshhold.errors import UnknownFormatError
from meshhold.index.contract import Row
from meshhold.model.configuration import Configuration, Mode
from meshhold.model.entry import Entry, ObjectVersion, Space, decode_entry
from meshhold.model.ids import OpId
from meshhold.model.stamp import STAMP_SIZE

CONFLICT_GRACE_MS: Final = 30 * 24 * 3_600_000
"""How long what lost is kept after it was found: a holiday, and time to notice."""
_SEPARATOR: Final = b"\x00"  # no object key holds it


class Merged(NamedTuple):
    """What a register holds from now on, and the object that is to be kept aside, if there is one."""

    current: Row
    lost: Entry | None


def goes_alone(configuration: Configuration, space: Space) -> bool:
    """Tell whether one replica alone may take a change of this space.

    Who keeps the index is decided by rounds always, and so is everything while that changes: a replica that leaves must
    not acknowledge what nobody else has. What is kept aside needs no order with anything.
    """
    if space is Space.CONFIGURATION:
        return False
    return space is Space.CONFLICTS or (configuration.mode is Mode.AVAILABLE and not configuration.is_joint)


def is_concurrent(one: Entry, other: Entry) -> bool:
    """Tell whether neither of two entries of a register is known to be built on the other."""
    return one.op != other.op and one.op not in other.ancestors and other.op not in one.ancestors


def lost_to(winner: Entry, loser: Entry) -> Entry | None:
    """Return the loser if it is an object that the winner was not built on."""
    return loser if isinstance(loser.value, ObjectVersion) and is_concurrent(winner, loser) else None


def merge(mine: Row | None, theirs: Row) -> Merged:
    """Return what two replicas' rows of one register make together. Errors: `UnknownFormatError`."""
    if mine is None or mine.accepted == theirs.accepted:
        return Merged(mine or theirs, None)
    winner, loser = (mine, theirs) if mine.accepted > theirs.accepted else (theirs, mine)
    return Merged(winner, lost_to(decode_entry(winner.entry), decode_entry(loser.entry)))


def conflict_key(key: bytes, op: OpId) -> bytes:
    """Return the key in `Space.CONFLICTS` of what change `op` had made of the object `key`."""
    return key + _SEPARATOR + op


def split_conflict_key(name: bytes) -> tuple[bytes, OpId]:
    """Undo `conflict_key`. Errors: `UnknownFormatError`."""
    if name[-STAMP_SIZE - 1 : -STAMP_SIZE] != _SEPARATOR:
        raise UnknownFormatError(f"{name!r} names no change of an object")
    return name[: -STAMP_SIZE - 1], OpId(name[-STAMP_SIZE:])
