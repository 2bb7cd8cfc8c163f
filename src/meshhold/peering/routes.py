"""How is a peer approached: its addresses in turn, and beside them another way when that takes long. Knows no link."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import trio

from meshhold.errors import MeshHoldError

NOTES_HELD_MAX: Final = 16
"""Notes to one node that wait for its link; the oldest goes first."""


@dataclass(slots=True)
class Attempt:
    """One approach to a peer, for all who wait for it."""

    done: trio.Event = field(default_factory=trio.Event)
    error: MeshHoldError | None = None


@dataclass(slots=True)
class Route:
    """What this node does to reach a peer."""

    addresses: tuple[str, ...] = ()
    attempt: Attempt | None = None
    keeping: trio.CancelScope | None = None
    notes: deque[tuple[str, bytes]] = field(default_factory=lambda: deque(maxlen=NOTES_HELD_MAX))
    changed: trio.Event = field(default_factory=trio.Event)

    def wake(self) -> None:
        """Let whoever waits look again."""
        self.changed.set()
        self.changed = trio.Event()


class Ways(NamedTuple):
    """What may be done to reach one peer. `dial` and `detour` return once there is a link."""

    dial: Callable[[str], Awaitable[object]]
    detour: Callable[[], Awaitable[None]] | None
    is_linked: Callable[[], bool]
    is_direct: Callable[[], bool]


async def approach(addresses: tuple[str, ...], ways: Ways, head_start_s: float) -> list[MeshHoldError]:
    """Dial the addresses until one answers; after `head_start_s`, or when all have failed, take the detour as well.

    Dialling goes on beside a detour that was quicker: the direct link is the better one. Return what went wrong.
    """
    errors: list[MeshHoldError] = []
    dialed = trio.Event()
    async with trio.open_nursery() as nursery:
        if ways.detour is not None:
            nursery.start_soon(_take_detour, ways.detour, ways.is_linked, dialed, head_start_s, errors)
        for address in addresses:
            if ways.is_direct():
                break
            try:
                await ways.dial(address)
                break
            except MeshHoldError as error:
                errors.append(error)
        dialed.set()
    return errors


async def _take_detour(
    detour: Callable[[], Awaitable[None]],
    is_linked: Callable[[], bool],
    dialed: trio.Event,
    head_start_s: float,
    errors: list[MeshHoldError],
) -> None:
    while True:
        with trio.move_on_after(head_start_s):
            await dialed.wait()
        if not is_linked():
            try:
                await detour()
            except MeshHoldError as error:
                errors.append(error)
                return
        if dialed.is_set():  # until then the detour's link, too, may be lost again
            return
