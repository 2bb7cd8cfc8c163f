"""How many durable copies of a chunk make a write safe to acknowledge? Counts nodes; knows none of their links."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from meshhold.errors import TooFewNodesError
from meshhold.model.ids import NodeId


class Acknowledgement(NamedTuple):
    """What a write waits for, and what is to be written down about it."""

    copies: int
    """Distinct live reliable nodes on which each chunk is durable before the client hears of success."""
    is_short: bool
    """Whether that is less than the factor: the object is listed as under-replicated until repair has finished it."""


def plan_acknowledgement(factor: int, members: Collection[NodeId], live: Collection[NodeId]) -> Acknowledgement:
    """Return what a write needs, in a mesh of these reliable members of which these are live.

    As many copies as the factor, if so many are live; else a majority of them. A mesh that has fewer members than the
    factor, dead ones counted, cannot have more copies than members: they are what is then wanted.
    Errors: `TooFewNodesError` if fewer are live than that; nothing may be acknowledged.
    """
    wanted = min(factor, len(set(members)))
    present = len(set(members) & set(live))
    needed = wanted if present >= wanted else wanted // 2 + 1
    if present < needed or not wanted:
        raise TooFewNodesError(
            f"{present} of {len(set(members))} reliable nodes are reachable, and {max(needed, 1)} must keep each chunk",
            "start the machines that are missing, or remove those that will not return; see `meshhold node list`",
        )
    return Acknowledgement(needed, needed < factor)
