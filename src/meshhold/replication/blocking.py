"""How blocking work leaves the event loop: one callable, injected, so that a simulation can run it inline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class RunBlocking(Protocol):
    """Run `function(*arguments)` where it may block, and return its result.

    A cancelled caller still waits for the call to end: half-done disk work is never left to itself.
    """

    def __call__(self, function: Callable[..., _T], *arguments: object) -> Awaitable[_T]:
        """Run it; errors are the function's."""
