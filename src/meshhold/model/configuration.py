"""Which nodes keep a vault's index, epoch by epoch, and which of them make a quorum? Knows no register and no network.

A change of the replicas leads from a stable configuration over a joint one, whose quorums are majorities of both sets,
to the next stable one. Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), section 4.3.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

from meshhold.errors import UnknownFormatError
from meshhold.model.ids import NodeId

REPLICAS_MAX: Final = 7
"""More replicas than that slow every write down and bear no fault that a home has."""
_FIELDS: Final = 4


class Mode(StrEnum):
    """What a vault prefers when its replicas cannot reach each other."""

    LINEARIZABLE = "linearizable"
    """A majority decides: the others wait."""
    AVAILABLE = "available"
    """Each side goes on alone; what was written on both is merged on contact."""


class Seat(NamedTuple):
    """A node that keeps the index, and the epoch since which it does so without a break."""

    node: NodeId
    since: int


@dataclass(frozen=True, slots=True)
class Configuration:
    """The replicas of one vault's index. `before` is empty unless the configuration is joint: then the old set.

    `nodes` are all that take part in rounds, each once: the present set, then what is left of the old one.
    """

    epoch: int
    seats: tuple[Seat, ...]
    before: tuple[Seat, ...] = ()
    mode: Mode = Mode.LINEARIZABLE
    nodes: tuple[NodeId, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Every round asks for the nodes several times: they are found once."""
        object.__setattr__(self, "nodes", tuple(dict.fromkeys(seat.node for seat in (*self.seats, *self.before))))

    @property
    def is_joint(self) -> bool:
        """Whether a change of the replicas is under way."""
        return bool(self.before)

    @property
    def members(self) -> tuple[NodeId, ...]:
        """The present set; while the configuration is joint, the one to come."""
        return tuple(seat.node for seat in self.seats)

    def seat_of(self, node: NodeId) -> Seat | None:
        """Return the node's seat, in the present set or in the old one."""
        return next((seat for seat in (*self.seats, *self.before) if seat.node == node), None)

    def has_quorum(self, nodes: Collection[NodeId]) -> bool:
        """Tell whether `nodes` hold a majority of the seats, and of the old ones too while there are any."""
        return _is_majority(self.seats, nodes) and not (self.before and not _is_majority(self.before, nodes))

    def begin_change(self, nodes: Sequence[NodeId], mode: Mode) -> Configuration:
        """Return the joint configuration that leads from this stable one to `nodes`."""
        epoch = self.epoch + 1
        kept = {seat.node: seat for seat in self.seats}
        return Configuration(epoch, tuple(kept.get(node, Seat(node, epoch)) for node in nodes), self.seats, mode)

    def end_change(self) -> Configuration:
        """Return the stable configuration that follows this joint one."""
        return replace(self, epoch=self.epoch + 1, before=())

    def pack(self) -> list[Any]:
        """Return the form that travels and is stored."""
        return [self.epoch, [list(seat) for seat in self.seats], [list(seat) for seat in self.before], str(self.mode)]


def found_configuration(nodes: Sequence[NodeId]) -> Configuration:
    """Return the configuration that a new vault begins with."""
    return Configuration(1, tuple(Seat(node, 1) for node in nodes))


def unpack_configuration(raw: Any) -> Configuration:
    """Undo `Configuration.pack`. Errors: `UnknownFormatError` for anything that it did not make."""
    if not isinstance(raw, list) or len(raw) != _FIELDS:
        raise UnknownFormatError("a configuration of index replicas has another form", "use a newer meshhold")
    epoch, seats, before, mode = raw
    if type(epoch) is not int or epoch < 1 or mode not in set(Mode):
        raise UnknownFormatError("a configuration of index replicas has no epoch, or an unknown mode")
    configuration = Configuration(epoch, _seats(seats), _seats(before), Mode(mode))
    if not configuration.seats:
        raise UnknownFormatError("a configuration of index replicas names nobody")
    return configuration


def _seats(raw: Any) -> tuple[Seat, ...]:
    if not isinstance(raw, list) or len(raw) > REPLICAS_MAX:
        raise UnknownFormatError(f"a configuration does not list up to {REPLICAS_MAX} index replicas")
    for pair in raw:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int):
            raise UnknownFormatError("a configuration holds a seat that is no pair of node and epoch")
    seats = tuple(Seat(NodeId(node), since) for node, since in raw)
    if len({seat.node for seat in seats}) != len(seats):
        raise UnknownFormatError("a configuration gives one node two seats")
    return seats


def _is_majority(seats: Sequence[Seat], nodes: Collection[NodeId]) -> bool:
    held = 0  # a loop: a generator would cost twice as much, several times a request
    for node, _ in seats:
        held += node in nodes
    return held > len(seats) // 2
