"""Did my change take effect? Decides it from the ancestry that every entry carries; knows no replica and no ballot.

A change may be sent more than once: the first answer was lost, and another writer may have built on it since. A writer
that finds its op in the current entry, or among the ops before it, has taken effect exactly once and must not
write again. The ancestry is bounded, so after more than `ANCESTORS_KEPT` generations the answer is unknown.
"""

from __future__ import annotations

from enum import Enum, auto

from meshhold.model.entry import ANCESTORS_KEPT, Entry, Value
from meshhold.model.ids import OpId


class Outcome(Enum):
    """What the current entry tells about a change that was sent earlier."""

    TOOK_EFFECT = auto()
    """It is the current entry or one of its ancestors."""
    NOT_YET = auto()
    """It is not in the history so far; a write in a new round is the first."""
    UNKNOWN = auto()
    """The history since is longer than what entries carry."""


def succeed(current: Entry | None, op: OpId, value: Value | None) -> Entry:
    """Return the entry that follows `current` (None: never written) when change `op` stores `value` (None: deletes)."""
    if current is None:
        return Entry(op, value)
    ancestors = (current.op, *current.ancestors)[:ANCESTORS_KEPT]
    return Entry(op, value, current.generation + 1, ancestors)


def outcome(current: Entry | None, op: OpId, base_generation: int) -> Outcome:
    """Tell whether `op` is in `current`'s history; it was first sent on top of `base_generation` (0: never written).

    A history that is shorter than its base was removed and begun anew in between: unknown.
    """
    if current is None:
        return Outcome.NOT_YET if base_generation == 0 else Outcome.UNKNOWN
    if op == current.op or op in current.ancestors:
        return Outcome.TOOK_EFFECT
    if not 0 <= current.generation - base_generation <= ANCESTORS_KEPT:
        return Outcome.UNKNOWN
    return Outcome.NOT_YET
