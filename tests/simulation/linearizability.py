"""Is there an order of these operations that a single copy of each key could have answered? Knows no node and no clock.

Every key is one register that holds a value or nothing. An operation took effect, if it did, at one moment between its
call and its answer; one whose answer nobody knows took effect at any moment after its call, or never. The search puts
one operation after the other that no waiting answer forbids, and remembers where it has been.

Source: Wing & Gong, "Testing and Verifying Concurrent Objects" (1993); the memory is from Lowe, "Testing for
linearizability" (2017). What is added here: an operation of unknown outcome is a means, not a duty, so of two ways to
the same state the one that spent a subset of the other's means is at least as good, and the other is cut off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

STEPS_MAX: Final = 1_000_000
"""States of the search for one key: a history that needs more is reported as undecided, never as good."""


class Kind(StrEnum):
    """What was asked of a key."""

    READ = "read"
    PUT = "put"
    CREATE = "create"
    """Put unless there is a value."""
    MATCH = "match"
    """Put if the value is the expected one."""
    DELETE = "delete"
    DELETE_MATCH = "delete-match"
    """Delete if the value is the expected one. Where there is none, it may be done as well as refused."""


_BLIND: Final = frozenset({Kind.PUT, Kind.DELETE})


class Outcome(StrEnum):
    """What came back."""

    DONE = "done"
    REFUSED = "refused"
    """The condition did not hold; nothing was changed."""
    UNKNOWN = "unknown"
    """It may have taken effect at any time after the call, or may still do so, or never."""
    FAILED = "failed"
    """It did not and will not take effect."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one key. Times are of any unit that orders them; `process` is for people."""

    key: str
    kind: Kind
    invoked: float
    returned: float
    """Ignored unless the outcome is DONE or REFUSED."""
    outcome: Outcome
    value: str | None = None
    """What was read (None: nothing there), or is to be written."""
    expected: str | None = None
    """The value that a MATCH or DELETE_MATCH asks for."""
    process: str = ""

    @property
    def is_known(self) -> bool:
        """Whether the answer says what happened."""
        return self.outcome in {Outcome.DONE, Outcome.REFUSED}

    def __str__(self) -> str:
        until = f"{self.returned:12.6f}" if self.is_known else " " * 12
        what = {
            Kind.READ: f"-> {self.value}",
            Kind.MATCH: f"{self.value} if {self.expected}",
            Kind.DELETE: "",
            Kind.DELETE_MATCH: f"if {self.expected}",
        }.get(self.kind, f"{self.value}")
        return f"{self.invoked:12.6f} {until} {self.process:<10} {self.kind:<12} {self.outcome:<8} {what}".rstrip()


@dataclass(frozen=True, slots=True)
class Violation:
    """A key whose history no single copy explains."""

    key: str
    history: tuple[Operation, ...]
    """All operations on the key, by the time of their call."""
    explained: tuple[Operation, ...]
    """The longest beginning that some order explains."""
    decided: bool = True
    """False: the search was given up."""

    def __str__(self) -> str:
        known = set(map(id, self.explained))
        head = f"key {self.key!r}: " + ("no order explains this" if self.decided else "the search was given up")
        lines = [f"{'  ' if id(each) in known else '! '}{each}" for each in self.history]
        return "\n".join([head, f"{'':2}{'called':>12} {'answered':>12} {'by':<10} (! = not explained)", *lines])


def check(history: Iterable[Operation]) -> list[Violation]:
    """Return a violation per key whose operations are not linearizable; an empty list if all are."""
    keys: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        keys[operation.key].append(operation)
    found = (check_key(keys[key]) for key in sorted(keys))
    return [violation for violation in found if violation is not None]


def check_key(history: Sequence[Operation], steps_max: int = STEPS_MAX) -> Violation | None:
    """Return the violation of one key's history, or None if an order explains it."""
    ordered = tuple(sorted(history, key=lambda each: (each.invoked, each.returned)))
    search = _Search(ordered, steps_max)
    if search.finds_order():
        return None
    key = ordered[0].key
    return Violation(key, ordered, tuple(search.known[at] for at in _bits(search.best)), search.steps <= steps_max)


def apply(operation: Operation, state: str | None) -> tuple[bool, str | None]:
    """Return whether `operation` can have come to its outcome on `state`, and the state that follows.

    One of unknown outcome is applied as done: that it never happened is the caller's to try.
    """
    refused = operation.outcome is Outcome.REFUSED
    match operation.kind:
        case Kind.READ:
            return state == operation.value, state
        case Kind.PUT:
            return not refused, operation.value
        case Kind.DELETE:
            return not refused, None
        case Kind.CREATE:
            holds, after = state is None, operation.value
        case Kind.MATCH:
            holds, after = state is not None and state == operation.expected, operation.value
        case Kind.DELETE_MATCH:
            if state is None:  # the door answers as if it had deleted it, the store says that there is nothing
                return True, None
            holds, after = state == operation.expected, None
    return (not holds, state) if refused else (holds, after)


class _Place(NamedTuple):
    """Where the search is: what is done and spent (bits), the state, and whether a means was spent right before."""

    done: int
    spent: int
    state: str | None
    fresh: bool


class _Search:
    """Depth first; remembered of each place are the sets of means (unknown operations) that ways to it have spent.

    A means is spent only for what depends on the state: before a blind write it would be wasted. What changes nothing
    is put as soon as it fits, and of equal means any one will do.
    """

    def __init__(self, ordered: Sequence[Operation], steps_max: int) -> None:
        self.known = [each for each in ordered if each.is_known]
        self._means = [each for each in ordered if each.outcome is Outcome.UNKNOWN and each.kind is not Kind.READ]
        self._steps_max = steps_max
        self._been: defaultdict[tuple[int, str | None, bool], list[int]] = defaultdict(list)
        self.steps = 0
        self.best = 0

    def finds_order(self) -> bool:
        """Tell whether all known operations can be put in an order."""
        goal = (1 << len(self.known)) - 1
        stack = [_Place(0, 0, None, fresh=False)]
        while stack and self.steps <= self._steps_max:
            place = stack.pop()
            if place.done == goal:
                return True
            if self._has_been(place):
                continue
            self.steps += 1
            if place.done.bit_count() > self.best.bit_count():
                self.best = place.done
            stack += self._next(place)
        return False

    def _has_been(self, place: _Place) -> bool:
        """Tell whether a way that left at least as much has come here before; else remember this one."""
        ways = self._been[place.done, place.state, place.fresh]
        if any(way & ~place.spent == 0 for way in ways):
            return True
        ways[:] = [way for way in ways if place.spent & ~way]
        ways.append(place.spent)
        return False

    def _next(self, place: _Place) -> list[_Place]:
        """Return the places one step on, the most promising last."""
        done, spent, state, fresh = place
        waiting = [at for at in range(len(self.known)) if not done >> at & 1]
        limit = min(self.known[at].returned for at in waiting)
        known: list[_Place] = []
        for at in reversed(waiting):
            operation = self.known[at]
            if operation.invoked > limit or (fresh and operation.kind in _BLIND):
                continue
            fits, after = apply(operation, state)
            if fits and (operation.kind is Kind.READ or operation.outcome is Outcome.REFUSED):
                return [_Place(done | 1 << at, spent, state, fresh=False)]
            if fits:
                known.append(_Place(done | 1 << at, spent, after, fresh=False))
        means: dict[tuple[str | None, Kind, str | None], _Place] = {}
        for at, operation in enumerate(self._means):
            if spent >> at & 1 or operation.invoked > limit or (fresh and operation.kind in _BLIND):
                continue
            fits, after = apply(operation, state)
            if fits and after != state:
                equal = (after, operation.kind, operation.expected)
                means.setdefault(equal, _Place(done, spent | 1 << at, after, fresh=True))
        return [*means.values(), *known]


def _bits(mask: int) -> list[int]:
    return [at for at in range(mask.bit_length()) if mask >> at & 1]
