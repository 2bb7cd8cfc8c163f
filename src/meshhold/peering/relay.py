"""How is a peer reached that nobody can dial? Through a node that both are linked with, which sees sealed frames only.

Three names: `relay.linked/1` asks a node whether it is linked with a peer, `relay.connect/1` opens a stream that it is
to carry there, `relay.accept/1` is the other half of it. Both ends then shake hands through the relay as over TCP.

- A relay carries between its own direct links. It never dials for others, and a relayed link carries nothing.
- What it holds for others is bounded: streams in all and per node, one piece and a window each way of each.
- Whoever does not take what arrives for him, or says nothing for long, is not waited for.

Knows no handshake and no address; `Peering` decides when this way is looked for, and that a direct link is better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import trio

from meshhold.errors import (
    InvalidError,
    MeshHoldError,
    OverloadedError,
    PeerError,
    PeerUnreachableError,
    UnavailableError,
)
from meshhold.model.ids import NodeId, decode_id, short_id
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.links import Peering
from meshhold.peering.relayed import RelayedStream
from meshhold.peering.streams import PeerStream

LINKED: Final = "relay.linked/1"
CONNECT: Final = "relay.connect/1"
ACCEPT: Final = "relay.accept/1"
ASKED_AT_ONCE: Final = 8
ASKED_MAX: Final = 64
"""Nodes asked about one peer: a home has fewer, and a peer that none of them knows is most likely gone."""
RELAYS_TRIED_MAX: Final = 3
_NODE_ID_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How much this node does for others, and how patient it is. Seconds, bytes."""

    carries: bool = True
    carried_max: int = 64
    carried_per_node_max: int = 32
    """Counts at both ends: a quarter of the streams that a peer accepts."""
    accepted_max: int = 128
    bytes_per_s: float = 0.0
    """What is carried for others in all, 0 for as much as the line takes."""
    idle_s: float = 120.0
    """Twelve pings of the session within: one that is alive is never idle for so long."""
    stall_s: float = 20.0
    """How long one end may take nothing. Longer serves slow lines; meanwhile its window of the connection is taken."""
    open_s: float = 5.0
    ask_s: float = 1.5
    grace_s: float = 0.2
    """How long better answers are waited for after the first."""
    improve_s: float = 60.0
    """How often the addresses of peers behind a relay are tried again: a packet or two for each."""


class RelayState(NamedTuple):
    """What this node does for others: streams carried now, and bytes carried since the start."""

    streams: int
    bytes: int


class Relay:
    """Both halves of relaying on one node. Registers its names at once; serves, and is a detour, while `run` runs."""

    def __init__(self, dispatch: Dispatch, settings: RelaySettings | None = None) -> None:
        self._settings = settings or RelaySettings()
        self._peering: Peering | None = None
        self._quota = _Quota(self._settings.carried_max, self._settings.carried_per_node_max)
        self._pace = _Pace(self._settings.bytes_per_s)
        self._carried: set[trio.CancelScope] = set()
        self._accepted = 0
        dispatch.on_call(LINKED, self._answer_linked)
        dispatch.on_stream(CONNECT, self._serve_connect)
        dispatch.on_stream(ACCEPT, self._serve_accept)

    @property
    def state(self) -> RelayState:
        """What this node does for others."""
        return RelayState(len(self._carried), self._pace.total)

    async def run(self, peering: Peering, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, and try now and then to do without a relay; then break off what is carried for others.

        Cancel it before `peering` ends: what is carried would hold up its end. Links through relays are the peering's,
        and stay.
        """
        self._peering = peering
        peering.set_detour(self.reach)
        task_status.started()
        try:
            while True:
                await trio.sleep(self._settings.improve_s)
                for link in peering.links():
                    if link.via is not None and not link.is_ending:
                        peering.improve(link.peer)
        finally:
            self._peering = None
            peering.set_detour(None)
            for scope in self._carried:
                scope.cancel()

    def _running(self) -> Peering:
        if self._peering is None:
            raise UnavailableError("this node is starting or leaving", "retry later")
        return self._peering

    # -- the end that looks for a way -------------------------------------------------------------------------------

    async def reach(self, target: NodeId) -> None:
        """Make a link to `target` through a relay, that with the shortest way first.

        Errors: `PeerUnreachableError` when no linked node leads there, with the last one's reason.
        """
        peering = self._running()
        last = ""
        for relay in (await self._find_relays(peering, target))[:RELAYS_TRIED_MAX]:
            try:
                await self._connect(peering, relay, target)
                return
            except MeshHoldError as error:
                last = f": relay {short_id(relay)}: {error.message}"
        raise PeerUnreachableError(f"node {short_id(target)} answers at no address, and no relay leads to it{last}")

    async def _find_relays(self, peering: Peering, target: NodeId) -> list[NodeId]:
        """Ask the nearest nodes first; return those linked with `target`, by the whole way's round trip."""
        direct = {link.peer: link.rtt_s or 0.0 for link in peering.links() if link.via is None and not link.is_ending}
        direct.pop(target, None)
        asked = sorted(direct, key=lambda node: (direct[node], node))[:ASKED_MAX]
        ways: dict[NodeId, float] = {}
        for first in range(0, len(asked), ASKED_AT_ONCE):
            with trio.move_on_after(self._settings.ask_s) as scope:
                async with trio.open_nursery() as nursery:
                    for relay in asked[first : first + ASKED_AT_ONCE]:
                        nursery.start_soon(self._ask, peering, relay, direct[relay], target, ways, scope)
            if ways:
                break
        return sorted(ways, key=lambda node: (ways[node], node))

    async def _ask(
        self,
        peering: Peering,
        relay: NodeId,
        rtt_s: float,
        target: NodeId,
        ways: dict[NodeId, float],
        scope: trio.CancelScope,
    ) -> None:
        try:
            answer = await peering.call(relay, LINKED, target, timeout_s=self._settings.ask_s)
        except MeshHoldError:
            return  # a node that cannot say so is no way
        if type(answer) is int and answer >= 0:
            ways[relay] = rtt_s + answer / 1e6
            scope.deadline = min(scope.deadline, trio.current_time() + self._settings.grace_s)

    async def _connect(self, peering: Peering, relay: NodeId, target: NodeId) -> None:
        carrier = await peering.begin_stream(relay, CONNECT, target, timeout_s=self._settings.open_s)
        stream = RelayedStream(carrier)
        if carrier.via is not None:
            await stream.aclose()
            raise PeerUnreachableError("the link to it is relayed itself")
        try:
            await peering.adopt(stream, is_dialed=True, expected=target, via=relay)
        except PeerError as error:
            raise stream.error or error from error

    # -- the end that is looked for ---------------------------------------------------------------------------------

    async def _serve_accept(self, relay: NodeId, body: Any, stream: PeerStream) -> None:
        """Take a relayed link, and try whether the other end can be dialled from here."""
        peering, source = self._running(), _node_id(body)
        if stream.via is not None:
            raise InvalidError("a relayed link carries no other")
        if self._accepted >= self._settings.accepted_max:
            raise OverloadedError(f"{self._settings.accepted_max} relayed links are open")
        relayed = RelayedStream(stream)
        self._accepted += 1
        try:
            await peering.adopt(relayed, is_dialed=False, expected=source, via=relay)
            peering.improve(source)
            await relayed.closed.wait()
        except PeerError as error:  # the relay is not told why
            peering.refusals.note(short_id(source), str(error))
        finally:
            self._accepted -= 1

    # -- the relay --------------------------------------------------------------------------------------------------

    async def _answer_linked(self, asker: NodeId, body: Any) -> int | None:
        """Return the microseconds to a node that this one would carry to, None if it would not."""
        target = _node_id(body)
        peering = self._running()
        if not self._settings.carries or not self._quota.has_place(asker, target):
            return None
        way_s = _direct_rtt_s(peering, target)
        return None if way_s is None else int(way_s * 1e6)

    async def _serve_connect(self, source: NodeId, body: Any, stream: PeerStream) -> None:
        peering, target = self._running(), _node_id(body)
        if not self._settings.carries:
            raise UnavailableError("this node is no relay")
        if stream.via is not None or source == target:
            raise InvalidError("a relayed link carries no other, and nobody is relayed to himself")
        if _direct_rtt_s(peering, target) is None:
            raise PeerUnreachableError(f"the relay has no link to node {short_id(target)}")
        with self._quota.hold(source, target):
            async with peering.open_stream(target, ACCEPT, source, timeout_s=self._settings.open_s) as onward:
                if onward.via is not None:
                    raise PeerUnreachableError(f"the relay has no link to node {short_id(target)} any more")
                await self._carry(stream, onward)

    async def _carry(self, stream: PeerStream, onward: PeerStream) -> None:
        """Pass bytes on both ways until both ends have ended, or either is lost, idle or stalled, or `run` ends."""
        with trio.CancelScope() as scope:
            self._carried.add(scope)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pipe, stream, onward, scope)
                    nursery.start_soon(self._pipe, onward, stream, scope)
            finally:
                self._carried.discard(scope)

    async def _pipe(self, source: PeerStream, sink: PeerStream, scope: trio.CancelScope) -> None:
        settings = self._settings
        try:
            while True:
                with trio.fail_after(settings.idle_s):
                    piece = await source.receive_piece()
                if not piece:
                    break
                await self._pace.wait(len(piece))
                if not await self._pass_on(piece, sink):
                    return
            await sink.send_eof()
        except (MeshHoldError, trio.TooSlowError, trio.ClosedResourceError):
            scope.cancel()  # everything that came from this end has been passed on

    async def _pass_on(self, piece: memoryview, sink: PeerStream) -> bool:
        """Send; False if the sink is lost: whoever reads from it passes on its last bytes, and then ends both."""
        with trio.fail_after(self._settings.stall_s):
            try:
                await sink.send_all(piece)
            except (MeshHoldError, trio.ClosedResourceError):
                return False
        return True


class _Quota:
    """Bounds what is carried, in all and for each node at either end."""

    def __init__(self, total_max: int, per_node_max: int) -> None:
        self._total_max = total_max
        self._per_node_max = per_node_max
        self._total = 0
        self._by_node: Counter[NodeId] = Counter()

    def has_place(self, *nodes: NodeId) -> bool:
        """Tell whether one more stream between these nodes is carried."""
        return self._total < self._total_max and all(self._by_node[node] < self._per_node_max for node in nodes)

    @contextmanager
    def hold(self, *nodes: NodeId) -> Iterator[None]:
        """Hold a place for a stream. Errors: `OverloadedError`."""
        if not self.has_place(*nodes):
            raise OverloadedError("the relay carries as much as it may", "retry later, or use another relay")
        self._total += 1
        self._by_node.update(nodes)
        try:
            yield
        finally:
            self._total -= 1
            self._by_node.subtract(nodes)
            for node in nodes:
                if not self._by_node[node]:
                    del self._by_node[node]


class _Pace:
    """Spreads bytes over time: each piece waits until those before it have had theirs."""

    def __init__(self, bytes_per_s: float) -> None:
        self.total = 0
        self._bytes_per_s = bytes_per_s
        self._free_s = 0.0

    async def wait(self, size: int) -> None:
        """Wait for the turn of `size` bytes."""
        self.total += size
        if self._bytes_per_s:
            begin_s = max(self._free_s, trio.current_time())
            self._free_s = begin_s + size / self._bytes_per_s
            await trio.sleep_until(begin_s)


def _direct_rtt_s(peering: Peering, node: NodeId) -> float | None:
    """Return the round trip to a node that this one is linked with directly, 0 while it is not known; else None."""
    found = [link for link in peering.links() if link.peer == node and link.via is None and not link.is_ending]
    return min((link.rtt_s or 0.0 for link in found), default=None)


def _node_id(body: Any) -> NodeId:
    if not isinstance(body, str) or len(decode_id(body)) != _NODE_ID_SIZE:
        raise InvalidError("a relay is asked for a node by its id")
    return NodeId(body)
