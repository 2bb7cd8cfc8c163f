"""The judge is judged: hand-made histories, good and bad, and an oracle that tries every order."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations, permutations

import pytest
from tests.simulation.linearizability import Kind, Operation, Outcome, apply, check, check_key

DONE, REFUSED, UNKNOWN, FAILED = Outcome.DONE, Outcome.REFUSED, Outcome.UNKNOWN, Outcome.FAILED


def op(
    kind: Kind,
    invoked: float,
    returned: float,
    value: str | None = None,
    *,
    outcome: Outcome = DONE,
    expected: str | None = None,
) -> Operation:
    return Operation("k", kind, invoked, returned, outcome, value, expected)


def put(invoked: float, returned: float, value: str, outcome: Outcome = DONE) -> Operation:
    return op(Kind.PUT, invoked, returned, value, outcome=outcome)


def read(invoked: float, returned: float, value: str | None) -> Operation:
    return op(Kind.READ, invoked, returned, value)


def create(invoked: float, returned: float, value: str, outcome: Outcome = DONE) -> Operation:
    return op(Kind.CREATE, invoked, returned, value, outcome=outcome)


def match(invoked: float, returned: float, value: str, expected: str, outcome: Outcome = DONE) -> Operation:
    return op(Kind.MATCH, invoked, returned, value, outcome=outcome, expected=expected)


def delete(invoked: float, returned: float, outcome: Outcome = DONE) -> Operation:
    return op(Kind.DELETE, invoked, returned, outcome=outcome)


GOOD = {
    "nothing happened": [],
    "reads of nothing": [read(0, 1, None), read(0, 2, None)],
    "a read sees the write before it": [put(0, 1, "a"), read(2, 3, "a")],
    "a read beside a write sees either": [put(0, 9, "a"), read(1, 2, None), read(3, 4, "a")],
    "two writes at once, either order": [put(0, 9, "a"), put(0, 9, "b"), read(10, 11, "a")],
    "the answer of a write came late": [put(0, 9, "a"), read(1, 2, "a"), put(3, 4, "b"), read(5, 6, "b")],
    "an unknown write shows hours later": [
        put(0, 1, "a"), put(2, 3, "b", UNKNOWN), read(4, 5, "a"), read(99, 100, "b"),
    ],
    "an unknown write never shows": [put(0, 1, "a"), put(2, 3, "b", UNKNOWN), read(4, 5, "a"), read(99, 100, "a")],
    "an unknown delete explains absence": [put(0, 1, "a"), delete(2, 3, UNKNOWN), read(4, 5, None)],
    "an unknown write makes a create refused": [put(0, 1, "a", UNKNOWN), create(2, 3, "b", REFUSED)],
    "one of two creates wins": [create(0, 9, "a"), create(0, 9, "b", REFUSED), read(10, 11, "a")],
    "create, delete, create": [create(0, 1, "a"), delete(2, 3), create(4, 5, "b"), read(6, 7, "b")],
    "a chain of matches": [put(0, 1, "a"), match(2, 3, "b", "a"), match(4, 5, "c", "b"), read(6, 7, "c")],
    "a match refused by a newer value": [put(0, 1, "a"), put(2, 3, "b"), match(4, 5, "c", "a", REFUSED)],
    "a conditional delete": [
        put(0, 1, "a"), op(Kind.DELETE_MATCH, 2, 3, expected="a"), read(4, 5, None),
        op(Kind.DELETE_MATCH, 6, 7, expected="a", outcome=REFUSED),
    ],
    "a failed write is not there": [put(0, 1, "a"), put(2, 3, "b", FAILED), read(4, 5, "a")],
    "an unknown match used as a means of another": [
        put(0, 1, "a"), match(2, 3, "b", "a", UNKNOWN), match(4, 5, "c", "b", UNKNOWN), read(6, 7, "c"),
    ],
}  # fmt: skip

BAD = {
    "a value that nobody wrote": [read(0, 1, "x")],
    "a lost write": [put(0, 1, "a"), read(2, 3, None)],
    "a stale read": [put(0, 1, "a"), put(2, 3, "b"), read(4, 5, "a")],
    "time runs backwards for readers": [put(0, 1, "a"), put(2, 99, "b"), read(3, 4, "b"), read(5, 6, "a")],
    "backwards with an unknown write": [
        put(0, 1, "a"), put(2, 3, "b", UNKNOWN), read(3, 4, "b"), read(5, 6, "a"),
    ],
    "two creates win": [create(0, 9, "a"), create(0, 9, "b")],
    "two matches of one value win": [put(0, 1, "a"), match(2, 9, "b", "a"), match(2, 9, "c", "a")],
    "what was deleted returns": [put(0, 1, "a"), delete(2, 3), read(4, 5, None), read(6, 7, "a")],
    "a delete that did nothing": [put(0, 1, "a"), delete(2, 3), read(4, 5, "a")],
    "a create refused by nothing": [delete(0, 1), create(2, 3, "a", REFUSED)],
    "a match that was refused wrongly": [put(0, 1, "a"), match(2, 3, "b", "a", REFUSED)],
    "a refused write shows": [put(0, 1, "a"), match(2, 3, "b", "x", REFUSED), read(4, 5, "b")],
    "a failed write shows": [put(0, 1, "a"), put(2, 3, "b", FAILED), read(4, 5, "b")],
    "a read of the future": [read(0, 1, "a"), put(2, 3, "a")],
    "an unknown write takes effect twice": [
        put(0, 1, "a"), put(2, 3, "b", UNKNOWN), read(4, 5, "b"), put(6, 7, "c"), read(8, 9, "b"),
    ],
    "two readers disagree about the order": [
        put(0, 9, "a"), put(0, 9, "b"), read(10, 11, "a"), read(10, 11, "b"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_one_copy_explains_passes(name: str) -> None:
    assert check(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_no_copy_explains_is_found(name: str) -> None:
    [violation] = check(BAD[name])
    assert violation.decided
    assert set(violation.explained) < set(violation.history)


def test_keys_are_judged_apart_and_shown_with_what_is_not_explained() -> None:
    elsewhere = [replace(each, key="other") for each in BAD["a stale read"]]
    [violation] = check(GOOD["a chain of matches"] + elsewhere)
    assert violation.key == "other"
    shown = str(violation)
    assert "key 'other': no order explains this" in shown
    assert any(line.startswith("! ") and "read" in line for line in shown.splitlines())


def test_a_search_that_is_given_up_is_no_pass() -> None:
    violation = check_key([put(0, 1, "a"), put(2, 3, "b"), read(4, 5, "b")], steps_max=1)
    assert violation is not None
    assert not violation.decided
    assert "given up" in str(violation)


def explained_by_some_order(history: list[Operation]) -> bool:
    """Try every subset of the unknown operations and every order: slow and plain."""
    known = [each for each in history if each.is_known]
    unknown = [each for each in history if each.outcome is UNKNOWN]
    return any(
        _is_order(order)
        for count in range(len(unknown) + 1)
        for happened in combinations(unknown, count)
        for order in permutations([*known, *happened])
    )


def _is_order(order: tuple[Operation, ...]) -> bool:
    state: str | None = None
    for at, operation in enumerate(order):
        if any(later.is_known and later.returned < operation.invoked for later in order[at + 1 :]):
            return False
        fits, state = apply(operation, state)
        if not fits:
            return False
    return True


def random_history(rng: random.Random) -> list[Operation]:
    history = []
    for number in range(rng.randint(1, 6)):
        kind = rng.choice(list(Kind))
        invoked = rng.randrange(8)
        outcome = DONE if kind is Kind.READ else rng.choice([DONE, DONE, UNKNOWN, REFUSED])
        if outcome is REFUSED and kind in {Kind.PUT, Kind.DELETE}:
            outcome = DONE
        value = rng.choice([None, "0", "1", "2"]) if kind is Kind.READ else str(number % 3)
        expected = rng.choice(["0", "1", "2"])
        history.append(op(kind, invoked, invoked + rng.randrange(6), value, outcome=outcome, expected=expected))
    return history


def test_it_agrees_with_trying_every_order() -> None:
    rng = random.Random(4)
    verdicts = {True: 0, False: 0}
    for _ in range(400):
        history = random_history(rng)
        good = explained_by_some_order(history)
        assert (not check(history)) == good, "\n".join(map(str, history))
        verdicts[good] += 1
    assert min(verdicts.values()) > 50


def test_many_unknown_writes_do_not_make_the_search_explode() -> None:
    rng = random.Random(5)
    history: list[Operation] = []
    for number in range(60):
        history.append(put(number * 10, number * 10 + 5, f"u{number}", UNKNOWN if rng.random() < 0.5 else DONE))
        if history[-1].is_known:
            history.append(read(number * 10 + 6, number * 10 + 7, f"u{number}"))
    assert check_key(history, steps_max=20_000) is None
    history.append(read(1_000, 1_001, "nobody's"))
    violation = check_key(history, steps_max=20_000)
    assert violation is not None
    assert violation.decided
