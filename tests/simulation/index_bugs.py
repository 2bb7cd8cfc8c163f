"""Bugs to be planted, one at a time, to see that the simulation finds them. Each undoes one rule of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

from tests.simulation.index_plan import RACES

from meshhold.model.configuration import Configuration
from meshhold.model.stamp import ZERO
from meshhold.register.acceptor import TAKE, TAKEN, Acceptor
from meshhold.register.lineage import Outcome
from meshhold.replication.healing.index_sync import IndexSync
from meshhold.replication.healing.pulling import Pulled
from meshhold.replication.healing.tombstones import Tombstones
from meshhold.replication.index import registers
from meshhold.replication.index.contract import Outdated
from meshhold.replication.index.reading import RangeReading
from meshhold.replication.index.registers import Registers
from meshhold.replication.index.seats import Seats


@dataclass(frozen=True, slots=True)
class Bug:
    """One rule undone: `target`'s attribute `name` becomes what `make` makes of it.

    `races` is the part of seeds that are races for one key: all, where only these can show it.
    """

    tells: str
    target: Any
    name: str
    make: Callable[[Any], Any]
    races: float = RACES


def _settles_nothing(_: Any) -> Any:
    async def settle(*_arguments: Any) -> None:
        return None

    return settle


def _forgets_promises(init: Any) -> Any:
    def forgetful(self: Acceptor, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        self._floor = ZERO

    return forgetful


def _takes_stale(_: Any) -> Any:
    def accept(self: Acceptor, _name: Any, ballot: Any, accepted: Any, _now_ms: int) -> Any:
        self.extend(self.horizon_for(ballot) or ZERO)
        return TAKEN if ballot == accepted else TAKE

    return accept


def _answers_old_epochs(stance: Any) -> Any:
    def lenient(self: Seats, vault: Any, epoch: int) -> Any:
        refusal = stance(self, vault, epoch)
        return None if isinstance(refusal, Outdated) else refusal

    return lenient


def _settles_no_list(_: Any) -> Any:
    async def settle(_self: Any) -> bool:
        return True

    return settle


def _removes_alone(_: Any) -> Any:
    async def remove(self: Tombstones, vault: Any, configuration: Configuration, names: Any) -> int:
        return await self._copying.forget(vault, configuration.epoch, names)

    return remove


def _proves_all(_: Any) -> Any:
    async def proven(_self: Any, _pull: Any, names: Any) -> list[bool]:
        return [True] * len(names)

    return proven


def _counts_new_set_only(has_quorum: Any) -> Any:
    return lambda self, nodes: has_quorum(replace(self, before=()), nodes)


def _copies_nothing(pull: Any) -> Any:
    async def unread(self: IndexSync, vault: Any, source: Any, *, strict: bool = False) -> Pulled:
        return Pulled(complete=True) if strict else await pull(self, vault, source)

    return unread


BUGS: Final = {
    "no-write-back": Bug("a read leaves what it saw on a minority", Registers, "_settle", _settles_nothing),
    "no-horizon": Bug("a restart forgets promises", Acceptor, "__init__", _forgets_promises, 1.0),
    "stale-accept": Bug("an entry is taken in spite of a promise", Acceptor, "accept", _takes_stale),
    "no-lineage": Bug(
        "a retry does not look for itself", registers, "outcome", lambda _: lambda *_arguments: Outcome.NOT_YET
    ),
    "wiped-votes": Bug("a wiped replica votes at once", Seats, "_is_live", lambda _: lambda *_arguments: True),
    "old-epoch": Bug("a replica answers in an epoch that is over", Seats, "stance", _answers_old_epochs),
    "tombstone-early": Bug("a replica forgets a deletion alone", Tombstones, "_remove", _removes_alone),
    "sync-trusts-one": Bug("a copy from one replica counts as chosen", IndexSync, "_proven", _proves_all, 1.0),
    "joint-half": Bug("a change counts the new set only", Configuration, "has_quorum", _counts_new_set_only),
    "newcomer-unread": Bug("a newcomer votes without what was there", IndexSync, "pull", _copies_nothing),
    "list-unsettled": Bug("a listing shows one replica's rows", RangeReading, "settle", _settles_no_list),
}


@contextmanager
def plant(bug: Bug | None) -> Iterator[None]:
    """Have the bug while the block runs."""
    if bug is None:
        yield
        return
    with patch.object(bug.target, bug.name, bug.make(getattr(bug.target, bug.name))):
        yield


def planted(name: str | None) -> AbstractContextManager[None]:
    """Have the bug of that name while the block runs; None is none. Errors: `KeyError`."""
    return plant(None if name is None else BUGS[name])
