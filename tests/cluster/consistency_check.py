"""What must hold of a history: registers are linearizable, a race has one winner, lists and sets miss nothing.

Each rule takes the operations of its own workload and returns a text per violation, with the history of the key. Knows
no network and no daemon.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from tests.cluster.consistency_history import Kind, Operation, Outcome, told
from tests.simulation import linearizability

NS: Final = 1e9
_FOREVER: Final = 2**63
_KINDS: Final = {
    Kind.PUT: linearizability.Kind.PUT,
    Kind.CREATE: linearizability.Kind.CREATE,
    Kind.SWAP: linearizability.Kind.MATCH,
    Kind.DELETE: linearizability.Kind.DELETE,
    Kind.DELETE_IF: linearizability.Kind.DELETE_MATCH,
    Kind.GET: linearizability.Kind.READ,
}
_OUTCOMES: Final = {
    Outcome.OK: linearizability.Outcome.DONE,
    Outcome.REFUSED: linearizability.Outcome.REFUSED,
    Outcome.FAILED: linearizability.Outcome.FAILED,
    Outcome.UNKNOWN: linearizability.Outcome.UNKNOWN,
}


def check_registers(operations: Sequence[Operation]) -> list[str]:
    """Check that the operations on each key can be put in an order that one copy of it could have answered."""
    origin = min((op.began for op in operations), default=0)
    found = linearizability.check(_as_judged(op, origin) for op in operations if op.kind is not Kind.LIST)
    return [str(violation) for violation in found]


def _as_judged(op: Operation, origin: int) -> linearizability.Operation:
    returned = float("inf") if op.ended is None else (op.ended - origin) / NS
    value = op.seen if op.kind is Kind.GET else op.value
    return linearizability.Operation(
        op.key,
        _KINDS[op.kind],
        (op.began - origin) / NS,
        returned,
        _OUTCOMES[op.outcome],
        value,
        op.expected,
        f"{op.client}@{op.door}",
    )


def check_races(operations: Sequence[Operation]) -> list[str]:
    """Check each key that clients raced to create: one winner at most, its value is there at once and stays.

    It asks less than `check_registers` does, and finds what it asks for in any number of racers.
    """
    return [
        f"race for {key!r}: {wrong}\n{told(on_key, on_key[0].began)}"
        for key, on_key in _keyed(operations).items()
        for wrong in _wrong_of_race(on_key)
    ]


def _wrong_of_race(on_key: Sequence[Operation]) -> list[str]:
    creates = [op for op in on_key if op.kind is Kind.CREATE]
    reads = [op for op in on_key if op.kind is Kind.GET and op.outcome is Outcome.OK]
    winners = [op for op in creates if op.outcome is Outcome.OK]
    if len(winners) > 1:
        return [f"{len(winners)} winners: {', '.join(str(op.value) for op in winners)}"]
    seen = {op.seen for op in reads if op.seen is not None}
    wrong = []
    if len(seen) > 1:
        wrong.append(f"readers saw {len(seen)} values: {', '.join(sorted(seen))}")
    possible = {op.value for op in winners} or {op.value for op in creates if op.outcome is Outcome.UNKNOWN}
    wrong += [f"readers saw {value}, which cannot have won" for value in sorted(seen - possible)]
    there = min([_ended(op) for op in winners] + [_ended(op) for op in reads if op.seen is not None], default=_FOREVER)
    there = min([there] + [_ended(op) for op in creates if op.outcome is Outcome.REFUSED])
    wrong += [f"{op.client} at {op.door} saw nothing later" for op in reads if op.seen is None and op.began > there]
    return wrong


def check_listings(operations: Sequence[Operation]) -> list[str]:
    """Check lists of keys that are each put once and deleted once at most.

    A key is in every list that begins after its put was answered, or after a list that showed it had ended; until its
    deletion begins. It is in no list that ends before its put begins, and in none that begins after its deletion was
    answered, or, once it was there, after a list without it had ended.
    """
    lists = sorted((op for op in operations if op.kind is Kind.LIST and op.outcome is Outcome.OK), key=_ended)
    wrong = []
    for key, on_key in _keyed(op for op in operations if op.kind is not Kind.LIST).items():
        relevant = [op for op in lists if key.startswith(op.key)]
        reason, at = _wrong_of_lists(key, on_key, relevant)
        if reason:
            wrong.append(f"list and {key!r}: {reason}\n{told([*on_key, *at], on_key[0].began)}")
    known = {op.key for op in operations if op.kind is Kind.PUT}
    wrong += [f"a list at {op.door} shows {sorted(set(op.listed) - known)}" for op in lists if set(op.listed) - known]
    return wrong


def _wrong_of_lists(key: str, on_key: Sequence[Operation], lists: Sequence[Operation]) -> tuple[str, list[Operation]]:
    put = next(op for op in on_key if op.kind is Kind.PUT)
    deletion = next((op for op in on_key if op.kind is Kind.DELETE and op.outcome is not Outcome.FAILED), None)
    delete_began = _FOREVER if deletion is None else deletion.began
    there = min([_ended(op) for op in lists if key in op.listed], default=_FOREVER)
    there = min(there, _ended(put) if put.outcome is Outcome.OK else _FOREVER)
    gone = min([_ended(op) for op in lists if key not in op.listed and op.began > there], default=_FOREVER)
    gone = min(gone, _ended(deletion) if deletion is not None and deletion.outcome is Outcome.OK else _FOREVER)
    for op in lists:
        if key in op.listed:
            if op.listed[key] != put.value:
                return f"a list at {op.door} shows {op.listed[key]}, put was {put.value}", [op]
            if _ended(op) < put.began or put.outcome is Outcome.FAILED:
                return f"a list at {op.door} shows it, and it was not put", [op]
            if op.began > gone:
                return f"a list at {op.door} shows it again after it was gone", [op]
        elif op.began > there and _ended(op) < delete_began:
            return f"a list at {op.door} misses it", [op]
    return "", []


def check_set(operations: Sequence[Operation], finals: Sequence[Operation]) -> list[str]:
    """Check that each final list has every acknowledged key and none that was never put."""
    puts = {op.key: op for op in operations if op.kind is Kind.PUT}
    wrong = []
    for final in finals:
        if final.outcome is not Outcome.OK:
            wrong.append(f"the final list at {final.door} failed: {final.said}")
            continue
        for key, op in puts.items():
            if op.outcome is Outcome.OK and final.listed.get(key) != op.value:
                shown = final.listed.get(key, "nothing")
                wrong.append(f"acknowledged and lost: {final.door} has {shown} of\n{told([op], op.began)}")
        wrong += [f"{final.door} has {key}, never put" for key in final.listed if key not in puts]
    return wrong


def _keyed(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    keys: defaultdict[str, list[Operation]] = defaultdict(list)
    for op in operations:
        keys[op.key].append(op)
    return keys


def _ended(op: Operation) -> int:
    return _FOREVER if op.ended is None else op.ended
