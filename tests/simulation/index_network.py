"""A network between simulated nodes that loses, delays, repeats, reorders and cuts. Knows calls, not what they ask.

A call's body travels through the wire's codec to the other node's `Dispatch` handlers and its answer back. What a real
link would do is done here in one step each: a peer that is known to be away is refused at once, an unknown absence
costs the caller its time-out, a handler is cancelled with its caller or goes on without it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio
from tests.simulation.chunk_streams import Stream, carry, pair

from meshhold.errors import CallTimeoutError, MeshHoldError, PeerUnreachableError
from meshhold.model.ids import NodeId
from meshhold.peering.dispatch import Dispatch, failure_of, refusal_of, unknown_name
from meshhold.wire.codec import decode, encode
from meshhold.wire.events import Failure

_BREAKS: Final = 0.2
"""Part of lost pieces after which a link ends; all others are sent again."""
_AGAIN_S: Final = 1.0


class Host(Protocol):
    """A node as the network sees it: one run of it, from its start to its crash."""

    node: NodeId
    dispatch: Dispatch

    def alive(self) -> AbstractContextManager[trio.CancelScope]:
        """Run the block as a part of the node: its crash cancels the block."""


@dataclass(slots=True)
class Weather:
    """How bad the network is. Chances are per message; times are seconds."""

    delay_s: float = 0.002
    """The slowest messages take so long."""
    spread: int = 1
    """1: all times up to `delay_s` are as likely; 3: half of the messages take an eighth of it or less."""
    drop: float = 0.0
    repeat: float = 0.0
    late: float = 0.0
    """Chance of a message that takes up to `late_s`: its caller has given up by then."""
    late_s: float = 30.0
    deaf: float = 0.0
    """Chance that a handler is not told that its caller gave up."""
    notice_s: float = 5.0
    """Within that time a link finds out that its peer is away."""


class Network:
    """Carries calls between hosts. `run` owns the messages on their way."""

    def __init__(self, chance: random.Random, weather: Weather) -> None:
        self.weather = weather
        self.hosts: dict[NodeId, Host] = {}
        self.defects: list[BaseException] = []
        """Errors that no handler may raise."""
        self.sent = 0
        self._chance = chance
        self._cuts: dict[tuple[NodeId, NodeId], float] = {}
        """Direction → when its end is noticed."""
        self._away: dict[NodeId, float] = {}
        self._messages: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry messages until cancelled."""
        async with trio.open_nursery() as self._messages:
            task_status.started()
            await trio.sleep_forever()

    # -- who is there ------------------------------------------------------------------------------------------------

    def arrive(self, host: Host) -> None:
        """Let a host be called."""
        self.hosts[host.node] = host
        self._away.pop(host.node, None)

    def leave(self, node: NodeId) -> None:
        """Take a host away; its peers find out later."""
        del self.hosts[node]
        self._away[node] = self._notice()

    def cut(self, sender: NodeId, receiver: NodeId) -> None:
        """Let nothing through in that direction any more."""
        self._cuts.setdefault((sender, receiver), self._notice())

    def mend(self) -> None:
        """Let everything through again."""
        self._cuts.clear()

    def _notice(self) -> float:
        return trio.current_time() + self.weather.notice_s * self._chance.random()

    def _is_known_away(self, node: NodeId, peer: NodeId) -> bool:
        now_s = trio.current_time()
        times = (self._away.get(peer), self._cuts.get((node, peer)), self._cuts.get((peer, node)))
        return any(noticed is not None and noticed <= now_s for noticed in times)

    def peers_of(self, node: NodeId) -> Links:
        """Return the network as `node` sees it."""
        return Links(self, node)

    def linked(self, node: NodeId) -> list[NodeId]:
        """Return the peers that the node believes to be there."""
        known = sorted({*self.hosts, *self._away} - {node})
        return [peer for peer in known if not self._is_known_away(node, peer)]

    # -- calls -------------------------------------------------------------------------------------------------------

    async def call(self, caller: NodeId, peer: NodeId, name: str, body: Any, timeout_s: float) -> Any:
        """Call a handler of `peer`; see `Peering.call`."""
        if self._is_known_away(caller, peer):
            await trio.lowlevel.checkpoint()
            raise PeerUnreachableError(f"there is no link to node {peer[:8]}")
        if self._messages is None:
            raise AssertionError("the network does not run")
        call = _Call(self, caller, peer, name, encode(body))
        copies = 2 if self._happens(self.weather.repeat) else 1
        for _ in range(copies):
            self._messages.start_soon(call.carry)
        with trio.move_on_after(timeout_s):
            try:
                await call.answered.wait()
            finally:
                call.give_up(deaf=self._happens(self.weather.deaf))
        if isinstance(call.answer, Failure):
            raise refusal_of(call.answer, peer, name)
        if call.answer is None:
            if self._is_known_away(caller, peer):
                raise PeerUnreachableError(f"the link to node {peer[:8]} broke")
            raise CallTimeoutError(f"node {peer[:8]} did not answer {name} within {timeout_s:g} s")
        return decode(call.answer)

    async def travel(self, sender: NodeId, receiver: NodeId) -> bool:
        """Take a message's time; return whether it arrives."""
        weather = self.weather
        self.sent += 1
        if self._happens(weather.drop):
            return False
        if self._happens(weather.late):
            await trio.sleep(self._chance.random() * weather.late_s)
        else:
            await trio.sleep(weather.delay_s * self._chance.random() ** weather.spread)
        return (sender, receiver) not in self._cuts

    # -- streams -----------------------------------------------------------------------------------------------------

    async def begin_stream(self, caller: NodeId, peer: NodeId, name: str, body: Any, timeout_s: float) -> Stream:
        """Open a stream; see `Peering.begin_stream`. A peer whose absence is unknown costs the time until it is."""
        raw = encode(body)
        if self._messages is None:
            raise AssertionError("the network does not run")
        with trio.move_on_after(timeout_s):
            await trio.lowlevel.checkpoint()
            if self._is_known_away(caller, peer):
                raise PeerUnreachableError(f"there is no link to node {peer[:8]}")
            here, there = pair(caller, peer, name)
            self._messages.start_soon(self._serve_stream, there, name, raw)
            return here
        raise CallTimeoutError(f"no stream to node {peer[:8]} within {timeout_s:g} s")

    async def _serve_stream(self, end: Stream, name: str, raw: bytes) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry, end.other, self)
            arrives = await self.pass_piece(end.peer, end.node)
            host = self.hosts.get(end.node)
            if not arrives or host is None:
                await trio.sleep(self.weather.notice_s * self._chance.random())
                end.other.break_off(PeerUnreachableError(f"the link to node {end.node[:8]} broke"))
                return
            nursery.start_soon(carry, end, self)
            with host.alive() as alive:
                await self._handle_stream(host, end, name, raw)
            if alive.cancel_called:
                await trio.sleep(self.weather.notice_s * self._chance.random())
                end.other.break_off(PeerUnreachableError(f"the link to node {end.node[:8]} broke"))
                end.break_off(PeerUnreachableError("this node is down"))

    async def _handle_stream(self, host: Host, end: Stream, name: str, raw: bytes) -> None:
        told = Failure("ClosedError", "the handler has returned")
        try:
            handler = host.dispatch.streams.get(name)
            if handler is None:
                told = unknown_name("stream", name)
            else:
                await handler(end.peer, decode(raw), end)  # type: ignore[arg-type]  # it has what handlers use
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except MeshHoldError as error:
            told = failure_of(error, end.peer, name)
        except Exception as error:  # noqa: BLE001 - a defect of a handler is a finding, not the end of the run
            self.defects.append(error)
        end.close_now(told)

    async def pass_piece(self, sender: NodeId, receiver: NodeId) -> bool:
        """Take a piece's time; return whether it arrives. If not, both ends notice now: what is lost is sent again."""
        weather = self.weather
        self.sent += 1
        await trio.sleep(weather.delay_s * self._chance.random() ** weather.spread)
        if self._happens(weather.drop * _BREAKS):
            return False
        while (noticed_s := self._cuts.get((sender, receiver))) is not None:
            if noticed_s <= trio.current_time():
                return False
            await trio.sleep(min(noticed_s - trio.current_time(), _AGAIN_S))
        return True

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._chance.random() < chance


class _Call:
    """One call on its way; `carry` may run twice."""

    def __init__(self, network: Network, caller: NodeId, peer: NodeId, name: str, body: bytes) -> None:
        self._network = network
        self._caller = caller
        self._peer = peer
        self._name = name
        self._body = body
        self._given_up = False
        self._deaf = False
        self._handlers: list[trio.CancelScope] = []
        self.answered = trio.Event()
        self.answer: bytes | Failure | None = None

    def give_up(self, *, deaf: bool) -> None:
        """Want no answer any more; the handlers hear of it unless `deaf`."""
        self._given_up = True
        if not deaf and not self.answered.is_set():
            for handler in self._handlers:
                handler.cancel()

    async def carry(self) -> None:
        """Go there, be served, come back."""
        if not await self._network.travel(self._caller, self._peer):
            return
        host = self._network.hosts.get(self._peer)
        if host is None:
            return
        answer = await self._serve(host)
        if answer is None or not await self._network.travel(self._peer, self._caller) or self._given_up:
            return
        if not self.answered.is_set():
            self.answer = answer
            self.answered.set()

    async def _serve(self, host: Host) -> bytes | Failure | None:
        handler = host.dispatch.calls.get(self._name)
        if handler is None:
            return unknown_name("call", self._name)
        with host.alive() as alive, trio.CancelScope() as wanted:
            self._handlers.append(wanted)
            try:
                answer: bytes | Failure = encode(await handler(self._caller, decode(self._body)))
            except MeshHoldError as error:
                answer = failure_of(error, self._caller, self._name)
            except Exception as error:  # noqa: BLE001 - a defect of a handler is a finding, not the end of the run
                self._network.defects.append(error)
                return None
            return None if alive.cancel_called else answer
        return None


class Links:
    """What one node has of the network: the `Peers` that product code asks for."""

    def __init__(self, network: Network, node: NodeId) -> None:
        self._network = network
        self.node = node

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        """Ask a peer and return its answer. Errors: `CallRefusedError`, `CallTimeoutError`, `PeerUnreachableError`."""
        return await self._network.call(self.node, peer, name, body, timeout_s)

    @asynccontextmanager
    async def open_stream(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> AsyncIterator[Stream]:
        """Open a stream to a peer; what has not ended when the block ends is broken off."""
        stream = await self.begin_stream(peer, name, body, timeout_s=timeout_s)
        try:
            yield stream
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    async def begin_stream(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Stream:
        """Open a stream as `open_stream` does, for the caller to close."""
        return await self._network.begin_stream(self.node, peer, name, body, timeout_s)

    def linked(self) -> Sequence[NodeId]:
        """Return the peers that have a link now."""
        return self._network.linked(self.node)
