"""Asks several replicas one question side by side. Decides whom to ask first and when to stop waiting; knows no ballot.

As many replicas are asked at first as make a quorum, the fastest before the others; when one of them refuses, fails or
takes long, the rest is asked too. Questions that were sent go on when the asker has its quorum: an entry reaches the
last replica without anybody waiting for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Generic, NoReturn, TypeVar

import trio

from meshhold.errors import FatalError, MeshHoldError, OverloadedError, PeerUnreachableError
from meshhold.model.configuration import Configuration
from meshhold.model.ids import NodeId, VaultId
from meshhold.register.acceptor import Skewed, Stale
from meshhold.replication.index.contract import Absent, Outdated, Refusal, Replica, Replicas, Unaware
from meshhold.replication.tasks import Background

HEDGE_S: Final = 0.1
"""Far above a round trip in a home, far below what a person notices."""
POLL_S: Final = 2.0
"""After so long a replica counts as gone for this question."""
SHUNNED_S: Final = 5.0
"""So long a replica that failed is asked last."""
_NEWEST_PART: Final = 0.125
"""How much one answer's time counts in a replica's pace; the more, the sooner a change of paths shows."""
RUNNING_MAX: Final = 4_096
"""Questions on their way to others; with entries of 16 KiB they hold 64 MiB at most."""
_REFUSALS: Final = (Stale, Skewed, Outdated, Unaware, Absent)
_T = TypeVar("_T")


class Poll(Generic[_T]):
    """What has come back so far of one question: answers, refusals and failures by node."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.answers: dict[NodeId, _T] = {}
        self.refusals: dict[NodeId, Refusal] = {}
        self.failures: dict[NodeId, MeshHoldError] = {}
        self.asked: set[NodeId] = set()
        self._news: trio.Event | None = None

    def take(self, node: NodeId, answer: _T | Refusal) -> None:
        """Note what a replica said."""
        if isinstance(answer, _REFUSALS):
            self.refusals[node] = answer
        else:
            self.answers[node] = answer
        self._tell()

    def fail(self, node: NodeId, error: MeshHoldError) -> None:
        """Note that a replica did not answer."""
        self.failures[node] = error
        self._tell()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()

    @property
    def has_quorum(self) -> bool:
        """Whether those who answered are a quorum."""
        return self.configuration.has_quorum(self.answers)

    @property
    def outdated(self) -> Configuration | None:
        """The configuration that a replica told of because the asker's is history."""
        if not self.refusals:
            return None
        newer = [each.configuration for each in self.refusals.values() if isinstance(each, Outdated)]
        return max(newer, key=lambda each: each.epoch, default=None)

    @property
    def is_over(self) -> bool:
        """Whether waiting for those asked is of no more use."""
        heard = len(self.answers) + len(self.refusals) + len(self.failures)
        return self.has_quorum or self.outdated is not None or heard >= len(self.asked)

    async def wait(self, until_s: float, *, patient: bool) -> None:
        """Wait until it is over or the time has come; unless `patient`, until the first refusal or failure too."""
        if self._is_waited_out(patient=patient):  # as most are that this node's replica completes
            return
        with trio.move_on_at(until_s):
            while not self._is_waited_out(patient=patient):
                self._news = trio.Event()
                await self._news.wait()

    def _is_waited_out(self, *, patient: bool) -> bool:
        return self.is_over or (not patient and bool(self.refusals or self.failures))


class Panel:
    """The replicas of all vaults, as one node reaches them. `local` is its own, `replicas` gives the others'."""

    def __init__(self, node: NodeId, local: Replica, replicas: Replicas) -> None:
        self.node = node
        self.local = local
        self.replicas = replicas
        self._background = Background()
        self._running = 0
        self._shunned_until: dict[NodeId, float] = {}
        self._pace_s: dict[NodeId, float] = {}

    async def run(self) -> NoReturn:
        """Carry questions to others, until cancelled."""
        await self._background.run()

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> bool:
        """Start a task beside the questions; tell whether it runs, which it does not while `run` does not."""
        if not self._background.is_open or self._running >= RUNNING_MAX:
            return False
        self._background.start_soon(task)
        return True

    def replica(self, node: NodeId) -> Replica:
        """Return the replica of a node."""
        return self.local if node == self.node else self.replicas(node)

    def by_readiness(self, nodes: Iterable[NodeId]) -> list[NodeId]:
        """Return the nodes: this one first, then the fastest, those that failed lately last."""
        now = trio.current_time()
        return sorted(
            nodes,
            key=lambda node: (
                self._shunned_until.get(node, 0.0) > now,
                node != self.node,
                self._pace_s.get(node, 0.0),
            ),
        )

    def has_failed(self, node: NodeId) -> bool:
        """Tell whether the node's replica failed lately."""
        return self._shunned_until.get(node, 0.0) > trio.current_time()

    async def ask(
        self,
        poll: Poll[_T],
        vault: VaultId,
        question: Callable[[Replica], Awaitable[_T | Refusal]],
        *,
        everybody: bool = False,
    ) -> None:
        """Put a question to replicas that were not asked yet, until the poll is over.

        `everybody` asks all at once: what they are told matters to each.
        """
        others = [node for node in self.by_readiness(poll.configuration.nodes) if node not in poll.asked]
        first = others if everybody else _enough(poll, others)
        for node in first:
            self._send(poll, node, vault, question)
        if self.node in first:  # asked here and now, while the others' questions travel
            await self._put(poll, self.node, vault, question)
        until_s = trio.current_time() + POLL_S
        if len(first) < len(others):
            await poll.wait(trio.current_time() + HEDGE_S, patient=False)
            if poll.has_quorum or poll.outdated is not None or _lost_a_race(poll):
                return
            for node in others[len(first) :]:
                self._send(poll, node, vault, question)
        await poll.wait(until_s, patient=True)
        for node in poll.asked - poll.answers.keys() - poll.refusals.keys():
            if not poll.has_quorum:
                self._shun(node)

    async def ask_here(
        self, poll: Poll[_T], vault: VaultId, question: Callable[[Replica], Awaitable[_T | Refusal]]
    ) -> None:
        """Put a question to this node's own replica."""
        poll.asked.add(self.node)
        await self._put(poll, self.node, vault, question)

    async def ask_one(
        self, poll: Poll[_T], node: NodeId, vault: VaultId, question: Callable[[Replica], Awaitable[_T | Refusal]]
    ) -> None:
        """Put a question to one replica, and wait until it has answered or failed."""
        poll.asked.add(node)
        await self._put(poll, node, vault, question)

    def tell(self, poll: Poll[_T], vault: VaultId, question: Callable[[Replica], Awaitable[_T | Refusal]]) -> None:
        """Put a question to all other replicas that were not asked yet, without waiting for any of them."""
        for node in poll.configuration.nodes:
            if node not in poll.asked:
                self._send(poll, node, vault, question)

    def _send(
        self, poll: Poll[_T], node: NodeId, vault: VaultId, question: Callable[[Replica], Awaitable[_T | Refusal]]
    ) -> None:
        poll.asked.add(node)
        if node == self.node:
            return
        if not self._background.is_open:
            poll.fail(node, PeerUnreachableError("this node is in no mesh", "see `meshhold status`"))
        elif self._running >= RUNNING_MAX:
            poll.fail(node, OverloadedError(f"{self._running} questions to other nodes wait", "retry more slowly"))
        else:
            self._background.start_soon(self._put_counted, poll, node, vault, question)

    async def _put_counted(self, poll: Poll[Any], node: NodeId, vault: VaultId, question: Any) -> None:
        self._running += 1
        try:
            await self._put(poll, node, vault, question)
        finally:
            self._running -= 1

    async def _put(
        self, poll: Poll[_T], node: NodeId, vault: VaultId, question: Callable[[Replica], Awaitable[_T | Refusal]]
    ) -> None:
        replica = self.replica(node)
        began_s = trio.current_time()
        try:
            answer = await question(replica)
            if isinstance(answer, Unaware):
                await replica.adopt(vault, poll.configuration)
                answer = await question(replica)
        except FatalError:
            raise
        except MeshHoldError as error:
            self._shun(node)
            poll.fail(node, error)
        else:
            self._shunned_until.pop(node, None)
            took_s = trio.current_time() - began_s
            self._pace_s[node] = self._pace_s.get(node, took_s) * (1 - _NEWEST_PART) + took_s * _NEWEST_PART
            poll.take(node, answer)

    def _shun(self, node: NodeId) -> None:
        if node != self.node:
            self._shunned_until[node] = trio.current_time() + SHUNNED_S


def _enough(poll: Poll[Any], others: list[NodeId]) -> list[NodeId]:
    """Return the first of `others` that make a quorum together with those that answered already."""
    chosen: list[NodeId] = []
    have = set(poll.answers)
    for node in others:
        if poll.configuration.has_quorum(have):
            break
        chosen.append(node)
        have.add(node)
    return chosen


def _lost_a_race(poll: Poll[Any]) -> bool:
    """Tell whether a higher ballot is known: a new round serves better than more answers to this one."""
    return any(isinstance(each, Stale) for each in poll.refusals.values())
