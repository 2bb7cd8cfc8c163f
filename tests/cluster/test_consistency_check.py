"""The rules are judged first: histories made by hand, good ones and one for each way to be bad."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cluster.consistency_check import check_listings, check_races, check_registers, check_set
from tests.cluster.consistency_doors import content_of, etag_of, value_of
from tests.cluster.consistency_history import History, Kind, Operation, Outcome, finish, load_history, save_history

OK, REFUSED, FAILED, UNKNOWN = Outcome.OK, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN


def op(
    kind: Kind,
    began: int,
    ended: int,
    value: str | None = None,
    outcome: Outcome = OK,
    *,
    key: str = "k",
    expected: str | None = None,
) -> Operation:
    """Return an operation; what a GET saw is its `value` here."""
    written, seen = (None, value) if kind is Kind.GET else (value, None)
    return Operation("c", "n1", kind, key, written, expected, began, ended, outcome, seen)


def put(began: int, ended: int, value: str = "a", outcome: Outcome = OK, *, key: str = "k") -> Operation:
    return op(Kind.PUT, began, ended, value, outcome, key=key)


def create(began: int, ended: int, value: str, outcome: Outcome = OK) -> Operation:
    return op(Kind.CREATE, began, ended, value, outcome)


def get(began: int, ended: int, value: str | None) -> Operation:
    return op(Kind.GET, began, ended, value)


def delete(began: int, ended: int, outcome: Outcome = OK) -> Operation:
    return op(Kind.DELETE, began, ended, None, outcome)


def shown(began: int, ended: int, **listed: str) -> Operation:
    return Operation("c", "n2", Kind.LIST, "", None, None, began, ended, OK, None, listed)


@pytest.mark.parametrize(
    "history",
    [
        [put(0, 1), get(2, 3, "a"), delete(4, 5), get(6, 7, None)],
        [put(0, 1), op(Kind.SWAP, 2, 3, "b", expected="a"), get(4, 5, "b")],
        [put(0, 1), op(Kind.SWAP, 2, 3, "b", REFUSED, expected="x"), get(4, 5, "a")],
        [put(0, 1, "a", UNKNOWN), get(2, 3, None), get(8, 9, "a")],
        [put(0, 1), op(Kind.DELETE_IF, 2, 3, None, UNKNOWN, expected="a"), get(4, 5, None)],
    ],
)
def test_registers_that_one_copy_explains(history: list[Operation]) -> None:
    assert check_registers(history) == []


@pytest.mark.parametrize(
    "history",
    [
        [put(0, 1), get(2, 3, None)],
        [put(0, 1), put(2, 3, "b"), get(4, 5, "a")],
        [put(0, 1), op(Kind.SWAP, 2, 3, "b", REFUSED, expected="a"), get(4, 5, "a")],
        [put(0, 1), op(Kind.SWAP, 2, 3, "b", expected="a"), op(Kind.SWAP, 4, 5, "c", expected="a")],
        [put(0, 1), op(Kind.DELETE_IF, 2, 3, expected="a"), get(4, 5, "a")],
        [put(0, 1, "a", FAILED), get(2, 3, "a")],
        [get(0, 1, "damaged:0")],
    ],
)
def test_registers_that_no_copy_explains(history: list[Operation]) -> None:
    assert len(check_registers(history)) == 1


@pytest.mark.parametrize(
    "history",
    [
        [create(0, 9, "a"), create(0, 9, "b", REFUSED), create(0, 9, "c", FAILED), get(10, 11, "a")],
        [create(0, 9, "a", UNKNOWN), create(0, 9, "b", REFUSED), get(10, 11, "a")],
        [create(0, 9, "a", UNKNOWN), get(10, 11, None), get(12, 13, "a")],
        [create(0, 9, "a", FAILED), get(10, 11, None)],
    ],
)
def test_fair_races(history: list[Operation]) -> None:
    assert check_races(history) == []


@pytest.mark.parametrize(
    ("history", "what"),
    [
        ([create(0, 9, "a"), create(0, 9, "b")], "2 winners: a, b"),
        ([create(0, 9, "a"), create(0, 9, "b", UNKNOWN), get(10, 11, "b")], "cannot have won"),
        ([create(0, 9, "a", UNKNOWN), create(0, 9, "b", UNKNOWN), get(9, 10, "a"), get(9, 10, "b")], "2 values"),
        ([create(0, 9, "a", FAILED), get(10, 11, "a")], "cannot have won"),
        ([create(0, 9, "a"), get(10, 11, None)], "saw nothing"),
        ([create(0, 9, "a", UNKNOWN), create(0, 9, "b", REFUSED), get(10, 11, None)], "saw nothing"),
        ([create(0, 9, "a", UNKNOWN), get(1, 2, "a"), get(3, 4, None)], "saw nothing"),
    ],
)
def test_races_that_were_not_fair(history: list[Operation], what: str) -> None:
    (violation,) = check_races(history)
    assert what in violation


@pytest.mark.parametrize(
    "history",
    [
        [put(0, 1), shown(2, 3, k="a"), delete(4, 5), shown(6, 7)],
        [put(0, 9), shown(1, 2), shown(3, 4, k="a")],
        [put(0, 1), delete(2, 9), shown(3, 4), shown(5, 6)],
        [put(0, 1), delete(2, 9, UNKNOWN), shown(3, 4, k="a"), shown(10, 11)],
        [put(0, 1), delete(2, 3, FAILED), shown(4, 5, k="a")],
        [put(0, 1, "a", UNKNOWN), shown(2, 3), shown(4, 5, k="a"), shown(6, 7, k="a")],
        [put(0, 1, "a", UNKNOWN), shown(2, 9), shown(3, 4, k="a")],
    ],
)
def test_lists_that_miss_nothing(history: list[Operation]) -> None:
    assert check_listings(history) == []


@pytest.mark.parametrize(
    ("history", "what"),
    [
        ([put(0, 1), shown(2, 3)], "misses it"),
        ([put(0, 9), shown(1, 2, k="a"), shown(3, 4)], "misses it"),
        ([put(0, 1, "a", UNKNOWN), shown(2, 3, k="a"), shown(4, 5)], "misses it"),
        ([put(0, 1), delete(8, 9), shown(2, 7)], "misses it"),
        ([put(0, 1), delete(2, 3), shown(4, 5, k="a")], "again after it was gone"),
        ([put(0, 1), delete(2, 3, UNKNOWN), shown(4, 5), shown(6, 7, k="a")], "again after it was gone"),
        ([put(4, 5), shown(2, 3, k="a")], "was not put"),
        ([put(0, 1, "a", FAILED), shown(2, 3, k="a")], "was not put"),
        ([put(0, 1), shown(2, 3, k="b")], "shows b"),
        ([put(0, 1), shown(2, 3, k="a", other="x")], "other"),
    ],
)
def test_lists_that_are_wrong(history: list[Operation], what: str) -> None:
    (violation,) = check_listings(history)
    assert what in violation


def test_a_set_keeps_what_was_acknowledged() -> None:
    """What was not acknowledged may be there or not, and may come later."""
    puts = [put(0, 1), put(0, 1, "b", UNKNOWN, key="l")]
    assert check_set(puts, [shown(2, 3, k="a"), shown(2, 3, k="a")]) == []
    assert check_set(puts, [shown(2, 3, k="a", l="b")]) == []
    assert len(check_set(puts, [shown(2, 3, l="b")])) == 1
    assert len(check_set(puts, [shown(2, 3, k="b")])) == 1
    assert len(check_set(puts, [shown(2, 3, k="a", other="c")])) == 1
    assert check_set(puts, [shown(2, 3, k="a"), shown(2, 3, k="a", l="b")]) == []
    assert len(check_set(puts, [finish(shown(2, 3), FAILED, "503")])) == 1


def test_contents_tell_their_value_or_their_damage() -> None:
    contents = [content_of(f"value-{number}") for number in range(40)]
    assert [value_of(content) for content in contents] == [f"value-{number}" for number in range(40)]
    assert len({len(content) for content in contents}) > 2
    assert value_of(contents[0][:-1] + b"?").startswith("damaged:")
    assert value_of(contents[0][:-1]).startswith("damaged:")
    assert etag_of("a") != etag_of("b")


def test_histories_are_stored_whole(tmp_path: Path) -> None:
    history = History()
    for operation in (put(0, 1), get(0, 1, None), shown(2, 3, k="a")):
        history.begin(operation)
        finish(operation, OK, "said")
    save_history(history.operations, tmp_path / "history")
    assert load_history(tmp_path / "history") == history.operations
    assert history.count() == {("put", "ok"): 1, ("get", "ok"): 1, ("list", "ok"): 1}
