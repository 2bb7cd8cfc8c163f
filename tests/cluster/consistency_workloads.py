"""What clients do while a store is being broken, and what they check at its end. Knows no fault.

Each workload works below a prefix of its own, so all run at once. A key lives for a few seconds only: its history then
stays short enough to be judged whole, however long the run.
"""

from __future__ import annotations

import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count
from typing import Final

from tests.cluster.consistency_check import check_listings, check_races, check_registers, check_set
from tests.cluster.consistency_doors import Door
from tests.cluster.consistency_history import History, Kind, Operation, Outcome

RACERS: Final = 50
KEY_LIFE_S: Final = 6.0
REGISTER_KEYS: Final = 3  # at a time
REGISTER_CLIENTS: Final = 2  # per node
PAUSE_S: Final = 0.05  # after a failure: a refused connection costs no time, and a loop of them would tell nothing
_LISTED_AGAIN: Final = 6  # how many of its keys a lister leaves there before it deletes the oldest


def _value_at(key: str) -> str:
    """Return the value of a key that is put once."""
    return f"{key}-v"


class Workload(ABC):
    """Clients of one sort. `clients` are run until they find `stop` set; then faults heal, and `finish` looks again.

    Its keys are below its own name and `place`.
    """

    def __init__(self, doors: Sequence[Door], history: History, seed: int, place: str = "") -> None:
        self.prefix = f"{type(self).__name__.lower()}/{place}"
        self.doors = doors
        self.history = history
        self.seed = seed
        self.stop = threading.Event()
        self._born = time.monotonic()
        self._numbers = count(1)

    @abstractmethod
    def clients(self) -> list[Callable[[], None]]:
        """Return what to run, a thread for each."""

    @abstractmethod
    def finish(self) -> None:
        """Read everything once more through every node."""

    @abstractmethod
    def check(self) -> list[str]:
        """Return the violations."""

    def operations(self) -> list[Operation]:
        """Return what its clients did."""
        return [op for op in self.history.operations if op.key.startswith(self.prefix)]

    def _era(self) -> int:
        return int((time.monotonic() - self._born) / KEY_LIFE_S)

    def _rest(self, operation: Operation, rng: random.Random) -> None:
        broken = operation.outcome in {Outcome.FAILED, Outcome.UNKNOWN}
        self.stop.wait(PAUSE_S if broken else rng.uniform(0, 0.02))

    def _read_all(self, keys: Sequence[str]) -> None:
        """Read keys through every node, the nodes side by side."""
        with ThreadPoolExecutor(len(self.doors)) as pool:
            wait([pool.submit(lambda d: [d.get("final", key) for key in keys], door) for door in self.doors])


class Register(Workload):
    """Puts, conditional puts, deletes, conditional deletes and reads of few keys."""

    def clients(self) -> list[Callable[[], None]]:
        """Return some clients per node."""
        return [lambda n=n, d=d: self._run(f"reg{n}", d) for d in self.doors for n in range(REGISTER_CLIENTS)]  # type: ignore[misc]  # mypy knows no defaults of lambdas

    def _run(self, client: str, door: Door) -> None:
        rng = random.Random(f"{self.seed} {client} {door.name}")
        known: dict[str, str | None] = {}
        while not self.stop.is_set():
            key = f"{self.prefix}{self._era()}/{rng.randrange(REGISTER_KEYS)}"
            self._rest(self._step(client, door, rng, key, known), rng)

    def _step(self, client: str, door: Door, rng: random.Random, key: str, known: dict[str, str | None]) -> Operation:
        expected = known.get(key)
        value = f"{client}-{door.name}-{next(self._numbers)}"
        chance = rng.random()
        if chance < 0.4:
            operation = door.get(client, key)
            if operation.outcome is Outcome.OK:
                known[key] = operation.seen
            return operation
        if chance < 0.55 and expected is not None:
            operation = door.swap(client, key, expected, value)
        elif chance < 0.62 and expected is not None:
            return door.delete_if(client, key, expected)
        elif chance < 0.72:
            return door.delete(client, key)
        elif chance < 0.82:
            operation = door.create(client, key, value)
        else:
            operation = door.put(client, key, value)
        if operation.outcome is Outcome.OK:
            known[key] = value
        return operation

    def finish(self) -> None:
        """Read each key through every node."""
        self._read_all(sorted(self.history.by_key(self.prefix)))

    def check(self) -> list[str]:
        """Check that each key is linearizable."""
        return check_registers(self.operations())


class Race(Workload):
    """Rounds in which 50 clients, spread over the nodes, create the same key at the same moment."""

    def clients(self) -> list[Callable[[], None]]:
        """Return one client, which is fifty."""
        return [self._run]

    def _run(self) -> None:
        rng = random.Random(f"{self.seed} race")
        with ThreadPoolExecutor(RACERS) as pool:
            for number in count():
                self._hold_race(pool, f"{self.prefix}{number}")
                if self.stop.wait(rng.uniform(0.2, 1.5)):
                    return

    def _hold_race(self, pool: ThreadPoolExecutor, key: str) -> None:
        start = threading.Barrier(RACERS)

        def race(number: int) -> None:
            door = self.doors[number % len(self.doors)]
            start.wait()
            door.create(f"racer{number}", key, f"{key}-{number}")

        wait([pool.submit(race, number) for number in range(RACERS)])
        wait([pool.submit(door.get, "racewatch", key) for door in self.doors])

    def finish(self) -> None:
        """Read each key through every node."""
        self._read_all(sorted(self.history.by_key(self.prefix)))

    def check(self) -> list[str]:
        """Check that each key had one winner at most, whose value stayed."""
        return check_races(self.operations()) + check_registers(self.operations())


class Listing(Workload):
    """Clients that put through one node and list through another, and delete through a third."""

    def clients(self) -> list[Callable[[], None]]:
        """Return one client per node."""
        return [lambda n=n: self._run(f"list{n}") for n in range(len(self.doors))]  # type: ignore[misc]  # mypy knows no defaults of lambdas

    def _run(self, client: str) -> None:
        rng = random.Random(f"{self.seed} {client}")
        mine: list[str] = []
        while not self.stop.is_set():
            key = f"{self.prefix}{self._era()}/{client}-{next(self._numbers)}"
            operation = rng.choice(self.doors).put(client, key, _value_at(key))
            if operation.outcome is Outcome.OK:
                mine.append(key)
            self._rest(operation, rng)
            self._list(client, key.rpartition("/")[0] + "/", rng)
            if len(mine) > _LISTED_AGAIN:
                key = mine.pop(0)
                self._rest(rng.choice(self.doors).delete(client, key), rng)
                self._list(client, key.rpartition("/")[0] + "/", rng)

    def _list(self, client: str, prefix: str, rng: random.Random) -> None:
        self._rest(rng.choice(self.doors).list(client, prefix, _value_at, rng.choice((7, 1000, 1000))), rng)

    def finish(self) -> None:
        """List everything through every node."""
        for door in self.doors:
            door.list("final", self.prefix, _value_at)

    def check(self) -> list[str]:
        """Check that no list misses a key that is there or shows one that is not."""
        return check_listings(self.operations())


class Set(Workload):
    """Clients that add keys of their own."""

    finals: Sequence[Operation] = ()

    def clients(self) -> list[Callable[[], None]]:
        """Return one client per node."""
        return [lambda d=d: self._run(f"set-{d.name}", d) for d in self.doors]  # type: ignore[misc]  # mypy knows no defaults of lambdas

    def _run(self, client: str, door: Door) -> None:
        rng = random.Random(f"{self.seed} {client}")
        for number in count():
            if self.stop.is_set():
                return
            key = f"{self.prefix}{client}-{number}"
            self._rest(door.put(client, key, _value_at(key)), rng)

    def finish(self) -> None:
        """List the whole set through every node."""
        self.finals = [door.list("final", self.prefix, _value_at) for door in self.doors]

    def check(self) -> list[str]:
        """Check that no acknowledged key is lost."""
        operations = self.operations()
        puts = [op for op in operations if op.kind is Kind.PUT]
        return check_set(puts, self.finals) + check_listings([*puts, *self.finals])


WORKLOADS: Final = (Register, Race, Listing, Set)
