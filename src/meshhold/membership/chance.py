"""What does membership ask of a source of randomness? `random.Random` fits; a seeded one repeats every decision."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Chance(Protocol):
    """Draws. None of them guards a secret, so a fast generator will do."""

    def random(self) -> float:
        """Return a number from 0 up to 1."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number from `a` to `b`."""

    def randrange(self, start: int) -> int:
        """Return a whole number from 0 up to `start`."""

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """Return `k` different elements."""

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Bring `x` into another order."""
