"""Whom is one chunk sent to next, and when is it safe? Decides; sends nothing and knows no time.

As many nodes as there are to be copies are asked at first, in the chunk's order; for each that fails or takes too long
the next one as well. A node that failed counts as one that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from meshhold.errors import CallRefusedError, MeshHoldError, StorageFullError, TooFewNodesError
from meshhold.model.ids import NodeId
from meshhold.placement.quorum import plan_acknowledgement


class Tally:
    """Where one chunk is durable, and who could not keep it.

    `members`: the ring's, dead ones too. `live`: those of them to ask, in that order. `doubtful`: live ones that failed
    a moment ago; they count as there only where a write is impossible without them. `reserve`: who is asked if none of
    `live` can, with `alone_allowed`, which makes one copy anywhere enough where a write would be refused.
    """

    def __init__(
        self,
        factor: int,
        members: Collection[NodeId],
        live: Sequence[NodeId],
        *,
        doubtful: Collection[NodeId] = (),
        reserve: Sequence[NodeId] = (),
        alone_allowed: bool = False,
    ) -> None:
        self._factor = factor
        self._members = frozenset(members)
        self._live = live
        self._doubtful = frozenset(doubtful)
        self._reserve = reserve
        self._alone_allowed = alone_allowed
        self.wanted = min(factor, len(self._members))
        self.asked: list[NodeId] = []
        self.durable: set[NodeId] = set()
        self.failures: dict[NodeId, MeshHoldError] = {}
        self._late = 0
        self._needed_at_first = None if self._doubtful else self._needed_of(live)

    def take(self, node: NodeId) -> None:
        """Note that the chunk is durable on a node."""
        self.durable.add(node)

    def fail(self, node: NodeId, error: MeshHoldError) -> None:
        """Note that a node does not keep the chunk."""
        self.failures[node] = error

    def stand_in(self) -> None:
        """Note that somebody who was asked takes too long: one more is to be asked."""
        self._late += 1

    def next_to_ask(self) -> NodeId | None:
        """Return whom to ask now, None if enough are asked or nobody is left; the answer counts as asked."""
        if len(self.asked) >= self.wanted + len(self.failures) + self._late:
            return None
        left = [node for node in self._live if node not in self.asked]
        if not left and self._alone_allowed and self.failures.keys() >= set(self._live):
            left = [node for node in self._reserve if node not in self.asked]
        if not left:
            return None
        self.asked.append(left[0])
        return left[0]

    @property
    def may_be_safe(self) -> bool:
        """Whether it is worth a look at `is_safe`: while nobody fails, not before so many have the chunk."""
        needed = self._needed_at_first
        return needed is None or bool(self.failures) or len(self.durable) >= needed

    @property
    def is_safe(self) -> bool:
        """Whether the client may hear that the chunk is kept.

        Errors: `TooFewNodesError` if that cannot become true; the caller names the nodes.
        """
        if self._needed_at_first is not None and not self.failures:  # as nearly always; the rest comes to the same
            return len(self.durable & self._members) >= self._needed_at_first
        present = [node for node in self._live if node not in self.failures]
        sound = [node for node in present if node not in self._doubtful or node in self.durable]
        try:
            needed = self._needed(sound, present)
        except TooFewNodesError:
            left = {*self._live, *self._reserve} - self.failures.keys()
            if not (self._alone_allowed and left):
                raise
            return bool(self.durable)
        return len(self.durable & self._members) >= needed

    def _needed_of(self, live: Collection[NodeId]) -> int | None:
        try:
            return self._needed(live, live)
        except TooFewNodesError:
            return None

    def _needed(self, sound: Collection[NodeId], present: Collection[NodeId]) -> int:
        try:
            return plan_acknowledgement(self._factor, self._members, sound).copies
        except TooFewNodesError:
            return plan_acknowledgement(self._factor, self._members, present).copies

    def explain(self, error: TooFewNodesError, name_of: Callable[[NodeId], str]) -> MeshHoldError:
        """Return the error with the names of those that are missing, and why."""
        away = sorted(name_of(node) for node in self._members - set(self._live))
        why = [f"not reachable: {', '.join(away)}"] if away else []
        why += [f"{name_of(node)}: {failure.message}" for node, failure in self.failures.items()]
        message = "; ".join([error.message, *why])
        if self.failures and not away and all(is_full(failure) for failure in self.failures.values()):
            return StorageFullError(message, "make room on these machines, or add one")
        return TooFewNodesError(message, error.fix)


def is_full(error: MeshHoldError) -> bool:
    """Tell whether a node has no room, be it this one or one that answered so."""
    if isinstance(error, CallRefusedError):
        return error.kind == StorageFullError.__name__
    return isinstance(error, StorageFullError)
