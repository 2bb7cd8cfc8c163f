"""Who of a vault's index replicas answers, and does it take part? Asks each once; changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import trio

from meshhold.errors import CallTimeoutError, FatalError, MeshHoldError, PeerUnreachableError
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Space
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.model.stamp import ZERO
from meshhold.register.rounds import Answer
from meshhold.replication.index.contract import Absent, Outdated, Register, Replicas
from meshhold.replication.tasks import open_tasks
from meshhold.store.nodes import Nodes

_LOG: Final = logging.getLogger("meshhold.index")
ANSWER_S: Final = 2.5
"""A machine that needs longer for a question is no help to writes."""
_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One node that keeps an index. `state`: `votes`; `refilling`, it answers and `reason` says why not; `silent`."""

    node_id: str
    name: str
    zone: str
    reliable: bool
    state: str
    reason: str = ""


class RollCall:
    """Asks replicas. `replicas` reaches any node's, this one's too. Resources: borrows its collaborators."""

    def __init__(self, nodes: Nodes, replicas: Replicas) -> None:
        self._nodes = nodes
        self._replicas = replicas

    async def views(self, vault: VaultId, configuration: Configuration) -> dict[NodeId, ReplicaView]:
        """Return how each replica of a configuration is, within `ANSWER_S`."""
        views: dict[NodeId, ReplicaView] = {}

        async def look(node: NodeId) -> None:
            facts = self._nodes.facts(node)
            state, reason = await self._state_of(vault, configuration.epoch, node)
            views[node] = ReplicaView(
                node_id=node,
                name=self._nodes.name_of(node),
                zone=facts.zone if facts else "",
                reliable=facts.reliable if facts else True,
                state=state,
                reason=reason,
            )

        async with open_tasks() as nursery:
            for node in configuration.nodes:
                nursery.start_soon(look, node)
        return views

    async def _state_of(self, vault: VaultId, epoch: int, node: NodeId) -> tuple[str, str]:
        with trio.move_on_after(ANSWER_S):
            try:
                answer = await self._replicas(node).read(epoch, Register(vault, Space.CONFIGURATION, b""), ZERO)
            except FatalError:
                raise
            except (PeerUnreachableError, CallTimeoutError):
                return "silent", ""
            except MeshHoldError as error:
                return "silent", error.message
            if isinstance(answer, Answer):
                return "votes", ""
            if isinstance(answer, Absent):
                return "refilling", answer.reason
            if isinstance(answer, Outdated):
                return "refilling", "it knows of other replicas than this node does"
            return "refilling", "it has not heard yet who keeps the index"
        return "silent", ""

    async def silent(self, vault: VaultId, nodes: Collection[NodeId], patience_s: float) -> set[NodeId]:
        """Return those of `nodes` that cannot be asked of this vault; a new member may be a little late to know it."""
        silent = set(nodes)

        async def ask(node: NodeId) -> None:
            until_s = trio.current_time() + patience_s
            while not await self._answers(vault, node):
                if trio.current_time() >= until_s:
                    return
                await trio.sleep(_PAUSE_S)
            silent.discard(node)

        async with open_tasks() as nursery:
            for node in nodes:
                nursery.start_soon(ask, node)
        return silent

    async def _answers(self, vault: VaultId, node: NodeId) -> bool:
        with trio.move_on_after(ANSWER_S):
            try:
                await self._replicas(node).counts(vault)
            except FatalError:
                raise
            except MeshHoldError as error:
                _LOG.debug("%s cannot be asked of vault %s: %s", short_id(node), short_id(vault), error)
            else:
                return True
        return False
