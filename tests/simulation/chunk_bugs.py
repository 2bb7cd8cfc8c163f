"""Bugs in the keeping of chunks, to be planted one at a time, to see that the simulation finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

from tests.simulation.chunk_disk import SimulatedChunks

from meshhold.errors import ChunkMissingError
from meshhold.model.ids import ChunkId, VaultId
from meshhold.replication.chunks.tally import Tally
from meshhold.replication.collecting.clock_watch import ClockWatch
from meshhold.replication.collecting.sources import OneReplica, Sources
from meshhold.replication.repair.leases import Leases
from meshhold.replication.repair.surplus import Surplus
from meshhold.store.renewal import Renewal


@dataclass(frozen=True, slots=True)
class Change:
    """One attribute of the product made another one: what `make` makes of it."""

    target: Any
    name: str
    make: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Bug:
    """One rule undone, by one change or several. `lives` is the kind of lives in which it is looked for."""

    tells: str
    changes: tuple[Change, ...]
    lives: str = "mixed"


def _does_nothing(_: Any) -> Any:
    async def nothing(*_arguments: Any) -> None:
        return None

    return nothing


def _believes_itself(_: Any) -> Any:
    async def confirmed(_self: Surplus, _work: Any, _holders: Any, begun: list[ChunkId]) -> list[ChunkId]:
        return begun

    return confirmed


def _gives_nothing(_: Any) -> Any:
    async def hand_over(_self: Surplus, _work: Any, _holders: Any, batch: list[ChunkId]) -> list[ChunkId]:
        return batch

    return hand_over


def _one_fewer(needed: Any) -> Any:
    return lambda self, sound, present: max(1, needed(self, sound, present) - 1)


def _reads_blindly(_: Any) -> Any:
    def get(self: SimulatedChunks, vault: VaultId, chunk: ChunkId) -> bytes:
        held = self._vaults.get(vault, {}).get(chunk)
        if held is None:
            raise ChunkMissingError("there is none")
        return held[0]

    return get


def _leases_freely(_: Any) -> Any:
    return lambda _self, _vault, _chunk, _version: True


def _begins_always(_: Any) -> Any:
    def begin(_self: Leases, _vault: VaultId, chunks: Iterable[ChunkId]) -> Sequence[ChunkId]:
        return list(chunks)

    return begin


def _own_replica(_: Any) -> Any:
    def sources(self: Sources) -> Sequence[Any]:
        registers = self._registers
        node = registers.seats.node
        return [OneReplica(node, registers.replica(node), self.epoch)]

    return sources


def _a_quorum(_: Any) -> Any:
    return lambda self: [self._registers]


def _never_waits(_: Any) -> Any:
    return lambda _self, _grace_s: 0.0


BUGS: Final = {
    "flights-ignored": Bug(
        "the chunks of a long upload are not renewed", (Change(Renewal, "renew_written", _does_nothing),), "long"
    ),
    "copies-unrenewed": Bug("a copied object's chunks keep their age", (Change(Renewal, "renew", _does_nothing),)),
    "surplus-unasked": Bug(
        "a copy goes before its holders say that they have it",
        (Change(Surplus, "_hand_over", _gives_nothing), Change(Surplus, "_confirmed", _believes_itself)),
        "views",
    ),
    "surplus-unread": Bug(
        "a copy goes when its holders have something by its name",
        (Change(Surplus, "_confirmed", _believes_itself),),
        "rot",
    ),
    "handoff-forgotten": Bug("nobody moves copies to their holders", (Change(Surplus, "run", _does_nothing),), "short"),
    "read-unverified": Bug(
        "a read does not look whether the bytes are right", (Change(SimulatedChunks, "get", _reads_blindly),), "rot"
    ),
    "no-lease": Bug(
        "who says that it has a copy may remove it a moment later",
        (Change(Leases, "grant", _leases_freely), Change(Leases, "begin", _begins_always)),
        "views",
    ),
    "ack-early": Bug("a write waits for one copy fewer", (Change(Tally, "_needed", _one_fewer),), "short"),
    "own-replica": Bug("the collector walks only its own replica", (Change(Sources, "all", _own_replica),), "blind"),
    "quorum-walk": Bug(
        "the collector walks what a quorum confirms, not what one replica alone has",
        (Change(Sources, "all", _a_quorum),),
        "orphans",
    ),
    "clock-believed": Bug("a clock that was set ages chunks", (Change(ClockWatch, "wait_s", _never_waits),), "clocks"),
}


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Have the bug of that name while the block runs; None is none. Errors: `KeyError`."""
    with ExitStack() as planting:
        for change in BUGS[name].changes if name is not None else ():
            made = change.make(getattr(change.target, change.name))
            planting.enter_context(patch.object(change.target, change.name, made))
        yield
