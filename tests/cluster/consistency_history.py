"""What clients asked of a store and what they heard, in one history. Knows no daemon and no rule of consistency.

Times are nanoseconds of the monotonic clock of the process that asks: no fault here touches that clock.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What a client can ask."""

    PUT = "put"
    CREATE = "create"
    """A put with `If-None-Match: *`."""
    SWAP = "swap"
    """A put with `If-Match`."""
    DELETE = "delete"
    DELETE_IF = "delete-if"
    """A delete with `If-Match`."""
    GET = "get"
    LIST = "list"


class Outcome(StrEnum):
    """What is known of an operation once its client goes on."""

    OK = "ok"
    REFUSED = "refused"
    """Its condition did not hold: nothing was done."""
    FAILED = "failed"
    """It was never sent, or its answer says that nothing was done for a reason that tells nothing of the key."""
    UNKNOWN = "unknown"
    """No answer, or one that leaves it open: it may take effect at any later time, or never."""


@dataclass(slots=True)
class Operation:
    """One request. `value` is what it writes, `expected` what its condition names, `seen` what a GET found.

    `listed` is what a LIST of the prefix `key` showed: values by key.
    """

    client: str
    door: str
    kind: Kind
    key: str
    value: str | None = None
    expected: str | None = None
    began: int = 0
    ended: int | None = None
    outcome: Outcome = Outcome.UNKNOWN
    seen: str | None = None
    listed: dict[str, str] = field(default_factory=dict)
    said: str = ""


class History:
    """Operations in the order in which they began. Thread-safe."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._lock = threading.Lock()

    def begin(self, operation: Operation) -> None:
        """Note that a request is about to be sent."""
        with self._lock:
            operation.began = time.monotonic_ns()
            self.operations.append(operation)

    def count(self) -> Counter[tuple[str, str]]:
        """Return how many operations there were of each kind and outcome."""
        return Counter((str(operation.kind), str(operation.outcome)) for operation in self.operations)

    def by_key(self, prefix: str) -> dict[str, list[Operation]]:
        """Return the operations on each key below a prefix, lists left out."""
        keys: dict[str, list[Operation]] = {}
        for operation in self.operations:
            if operation.kind is not Kind.LIST and operation.key.startswith(prefix):
                keys.setdefault(operation.key, []).append(operation)
        return keys


def finish(operation: Operation, outcome: Outcome, said: str = "") -> Operation:
    """Note what became of a request."""
    operation.ended = time.monotonic_ns()
    operation.outcome = outcome
    operation.said = said
    return operation


def table_of(counts: Mapping[tuple[str, str], int]) -> str:
    """Return counts of operations as a table."""
    kinds = sorted({kind for kind, _ in counts})
    lines = [f"{'':<10}" + "".join(f"{outcome:>9}" for outcome in Outcome)]
    lines += [f"{kind:<10}" + "".join(f"{counts.get((kind, o), 0):>9}" for o in Outcome) for kind in kinds]
    return "\n".join(lines)


def told(operations: Iterable[Operation], origin: int) -> str:
    """Return operations for people, one a line, times in seconds since `origin`."""
    lines = []
    for op in sorted(operations, key=lambda op: op.began):
        ended = "   never" if op.ended is None else f"{(op.ended - origin) / 1e9:8.3f}"
        what = " ".join(
            f"{name}={text}"
            for name, text in (("writes", op.value), ("expects", op.expected), ("saw", op.seen))
            if text
        )
        lines.append(
            f"{(op.began - origin) / 1e9:8.3f} {ended}  {op.client:<12} {op.door:<4} {op.kind:<9} {op.outcome:<8} "
            f"{op.key}  {what} {op.said}".rstrip()
        )
    return "\n".join(lines)


def save_history(operations: Iterable[Operation], path: Path) -> None:
    """Write operations as JSON lines."""
    with path.open("w") as file:
        for operation in operations:
            file.write(json.dumps(asdict(operation)) + "\n")


def load_history(path: Path) -> list[Operation]:
    """Undo `save_history`."""
    operations = []
    for line in path.read_text().splitlines():
        raw = json.loads(line)
        operations.append(Operation(**{**raw, "kind": Kind(raw["kind"]), "outcome": Outcome(raw["outcome"])}))
    return operations
