"""Relaying: who is reached through whom, what the relay can see and must bound, and when it is done without."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from meshhold.crypto.identity import Identity
from meshhold.errors import CallRefusedError, HandshakeRefusedError, MeshHoldError, PeerUnreachableError
from meshhold.model.ids import NodeId
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.links import Peering, open_peering
from meshhold.peering.relay import ACCEPT, CONNECT, LINKED, Relay, RelaySettings
from meshhold.peering.relayed import RelayedStream
from meshhold.peering.settings import LinkClosed, LinkEvent, Settings
from meshhold.peering.streams import PeerStream
from meshhold.transport.memory import MemoryNetwork


def _run_virtual(main: Any, **options: Any) -> Any:
    """Run a test under a clock that jumps whenever everybody waits."""
    options["clock"] = MockClock(autojump_threshold=0)
    return trio.run(main, **options)


virtual_time = pytest.mark.trio(run=_run_virtual)
KEY: Final = b"k" * 32
PATIENT: Final = 30.0
CANARY: Final = b"a photo that the relay must not see"


class Node:
    """One node with its relay."""

    def __init__(self, dispatch: Dispatch, peering: Peering, relay: Relay, events: list[LinkEvent]) -> None:
        self.id: NodeId = peering.node_id
        self.dispatch = dispatch
        self.peering = peering
        self.relay = relay
        self.events = events
        self.stop_relaying = trio.CancelScope()

    async def run_relay(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Relay until told to stop."""
        with self.stop_relaying:
            await self.relay.run(self.peering, task_status=task_status)

    def vias(self, peer: Node) -> list[NodeId | None]:
        """Return how this node is linked with a peer."""
        return [link.via for link in self.peering.links() if link.peer == peer.id and not link.is_ending]

    async def echo(self, peer: Node, body: Any, timeout_s: float = PATIENT) -> Any:
        """Say something to a peer and return what comes back."""
        return await self.peering.call(peer.id, "echo/1", body, timeout_s=timeout_s)


class Home:
    """A few nodes on one network in memory. Nodes that listen nowhere can be dialled by nobody."""

    def __init__(self, **latency: Any) -> None:
        self.network = MemoryNetwork(seed=7, **latency)

    @asynccontextmanager
    async def node(
        self,
        name: str,
        *,
        listens: bool = True,
        relays: RelaySettings | None = None,
    ) -> AsyncIterator[Node]:
        """Run one node, named by the first letter of its host's name."""
        dispatch = Dispatch()
        dispatch.on_call("echo/1", echo)
        dispatch.on_stream("count/1", count)
        relay = Relay(dispatch, relays or RelaySettings())
        events: list[LinkEvent] = []
        secrets = random.Random(name)
        async with (
            trio.open_nursery() as nursery,
            open_peering(
                Identity(name[0].encode() * 32),
                [KEY],
                self.network.transport(name),
                dispatch=dispatch,
                settings=Settings(drain_s=3.0),
                listen=[f"{name}:7777"] if listens else [],
                new_secret=lambda: secrets.randbytes(32),
                rng=random.Random(name),
                watch=events.append,
            ) as peering,
        ):
            node = Node(dispatch, peering, relay, events)
            await nursery.start(node.run_relay)
            yield node
            node.stop_relaying.cancel()

    @asynccontextmanager
    async def hidden_pair(self, **of_relay: Any) -> AsyncIterator[tuple[Node, Node, Node]]:
        """Run a relay and two nodes that nobody can dial, linked with it: the relay, the source, the target."""
        async with (
            self.node("relay", **of_relay) as relay,
            self.node("source", listens=False) as source,
            self.node("target", listens=False) as target,
        ):
            for hidden in (source, target):
                await hidden.peering.join("relay:7777")
            source.peering.learn(target.id, [])
            target.peering.learn(source.id, [])
            yield relay, source, target


async def echo(peer: NodeId, body: Any) -> Any:
    """Answer with who asked and what he said."""
    return [peer, body]


async def count(peer: NodeId, body: Any, stream: PeerStream) -> None:
    """Answer with the number of bytes that came."""
    del peer, body
    size = 0
    while piece := await stream.receive_piece():
        size += len(piece)
    await stream.send_all(str(size).encode())
    await stream.send_eof()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that must come by itself, in virtual time."""
    with trio.fail_after(PATIENT):
        while not holds():  # noqa: ASYNC110 - nothing tells of every change; time is virtual
            await trio.sleep(0.05)


async def refusal(run: Awaitable[object]) -> MeshHoldError:
    """Return the error that something must end with."""
    with pytest.raises(MeshHoldError) as caught:
        await run
    return caught.value


@virtual_time
async def test_two_hidden_nodes_talk_through_a_third() -> None:
    """Calls, streams and notes pass both ways, over one link that both sides show as relayed."""
    async with Home(latency_s=(0.01, 0.02)).hidden_pair() as (relay, source, target):
        assert await source.echo(target, "hello") == [source.id, "hello"]
        assert await target.echo(source, "hello back") == [target.id, "hello back"]
        async with source.peering.open_stream(target.id, "count/1", None, timeout_s=PATIENT) as stream:
            await stream.send_all(bytes(3_000_000))
            await stream.send_eof()
            assert await stream.receive_all(100) == b"3000000"
        assert source.vias(target) == target.vias(source) == [relay.id]
        assert relay.relay.state.streams == 1
        assert relay.relay.state.bytes > 3_000_000
        [link] = [link for link in source.peering.links() if link.peer == target.id]
        assert link.address == f"relay:{relay.id[:8]}"
        assert link.rtt_s is not None
        assert 0.04 <= link.rtt_s <= 0.1  # four ways, each with its latency


@virtual_time
async def test_the_relay_sees_no_word_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes the relay's hands, after its own channels are opened, is sealed by the two ends."""
    seen: list[bytes] = []
    take = PeerStream.receive_piece

    async def receive_piece(stream: PeerStream) -> memoryview:
        piece = await take(stream)
        seen.append(bytes(piece))
        return piece

    async with Home().hidden_pair() as (_relay, source, target):
        monkeypatch.setattr(PeerStream, "receive_piece", receive_piece)
        await source.echo(target, CANARY * 3_000)
        monkeypatch.undo()
    carried = b"".join(seen)
    assert len(carried) > 2 * 3_000 * len(CANARY)
    assert CANARY not in carried
    assert b"echo/1" not in carried


@virtual_time
async def test_a_node_that_can_dial_back_needs_no_relay_for_long() -> None:
    """The target, which nobody can dial, dials the source as soon as it is asked for: both drop the relay."""
    home = Home()
    async with (
        home.node("relay") as relay,
        home.node("source") as source,
        home.node("target", listens=False) as target,
    ):
        await source.peering.join("relay:7777")
        await target.peering.join("relay:7777")
        source.peering.learn(target.id, ["target:7777"])
        target.peering.learn(source.id, ["source:7777"])
        assert await source.echo(target, 1) == [source.id, 1]
        await until(lambda: source.vias(target) == target.vias(source) == [None])
        await until(lambda: relay.relay.state.streams == 0)
        assert await source.echo(target, 2) == [source.id, 2]


@virtual_time
async def test_a_direct_way_that_opens_later_is_found() -> None:
    """Addresses are tried again while a link is relayed, without any call that fails meanwhile."""
    home = Home()
    home.network.partition(["source"], ["target"])
    async with (
        home.node("relay"),
        home.node("source") as source,
        home.node("target") as target,
    ):
        await source.peering.join("relay:7777")
        await target.peering.join("relay:7777")
        source.peering.learn(target.id, ["target:7777"])
        assert await source.echo(target, 1) == [source.id, 1]
        assert source.vias(target) != [None]
        home.network.heal()
        with trio.fail_after(300):
            while source.vias(target) != [None]:
                assert await source.echo(target, 2) == [source.id, 2]
                await trio.sleep(5)


@virtual_time
async def test_a_slow_address_does_not_hold_up_the_relay() -> None:
    """An address that swallows everything costs the head start only, not the whole time to dial."""
    home = Home()
    home.network.partition(["source"], ["target"])
    async with home.node("relay"), home.node("source") as source, home.node("target") as target:
        await source.peering.join("relay:7777")
        await target.peering.join("relay:7777")
        source.peering.learn(target.id, ["target:7777", "target:7778", "target:7779"])
        begun_s = trio.current_time()
        await source.echo(target, 1)
        assert trio.current_time() - begun_s < 2


@virtual_time
async def test_the_nearest_relay_is_taken_and_replaced_when_it_goes() -> None:
    """Of two relays that with the shorter way; once it stops, the next call goes through the other."""
    home = Home(latency_s=(0.001, 0.001))
    async with (
        home.node("far") as far,
        home.node("near") as near,
        home.node("source", listens=False) as source,
        home.node("target", listens=False) as target,
    ):
        for hidden in (source, target):
            await hidden.peering.join("near:7777")
        home.network.latency_s = (0.2, 0.2)
        for hidden in (source, target):
            await hidden.peering.join("far:7777")
        home.network.latency_s = (0.001, 0.001)
        await until(lambda: None not in [link.rtt_s for link in source.peering.links() + target.peering.links()])
        source.peering.learn(target.id, [])
        await source.echo(target, 1)
        assert source.vias(target) == [near.id]
        near.stop_relaying.cancel()
        await until(lambda: not source.vias(target))
        await source.echo(target, 2)
        assert source.vias(target) == [far.id]


@virtual_time
async def test_a_relayed_link_carries_no_other() -> None:
    """Two hops are refused: the third node is told that there is no way."""
    home = Home()
    async with (
        home.hidden_pair() as (_relay, source, target),
        home.node("outer", listens=False) as outer,
        home.node("inner") as inner,
    ):
        await source.echo(target, 1)
        await source.peering.join("inner:7777")  # source is now linked with both, with target by a relay
        await outer.peering.join("inner:7777")
        outer.peering.learn(target.id, [])
        assert isinstance(await refusal(outer.echo(target, 1)), PeerUnreachableError)
        for name in (CONNECT, ACCEPT):
            async with source.peering.open_stream(target.id, name, inner.id, timeout_s=PATIENT) as stream:
                assert "carries no other" in str(await refusal(stream.receive_some()))


@virtual_time
async def test_a_node_that_is_nowhere_is_reported_so() -> None:
    """The error names the node and both ways that were tried, and comes when the asked have answered."""
    async with Home().hidden_pair() as (_relay, source, _target):
        gone = Identity(b"g" * 32).node_id
        source.peering.learn(gone, ["nowhere:1"])
        error = await refusal(source.peering.call(gone, "echo/1", None, timeout_s=PATIENT))
        assert gone[:8] in str(error)
        assert "no relay leads to it" in str(error)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [(RelaySettings(carries=False), "no relay"), (RelaySettings(carried_per_node_max=0), "as much as it may")],
)
@virtual_time
async def test_a_relay_that_does_not_want_to_says_so(settings: RelaySettings, reason: str) -> None:
    """It is not chosen; who insists is refused by name."""
    async with Home().hidden_pair(relays=settings) as (relay, source, target):
        assert await source.peering.call(relay.id, LINKED, target.id, timeout_s=PATIENT) is None
        assert isinstance(await refusal(source.echo(target, 1)), PeerUnreachableError)
        async with source.peering.open_stream(relay.id, CONNECT, target.id, timeout_s=PATIENT) as stream:
            assert reason in str(await refusal(stream.receive_some()))


@pytest.mark.parametrize("body", [None, 7, "", "nonsense!", "aa", b"x" * 32])
@virtual_time
async def test_nonsense_is_refused(body: Any) -> None:
    """A body that names no node is an error for the asker only."""
    async with Home().hidden_pair() as (relay, source, target):
        assert isinstance(await refusal(source.peering.call(relay.id, LINKED, body, timeout_s=5)), CallRefusedError)
        for name in (CONNECT, ACCEPT):
            async with source.peering.open_stream(relay.id, name, body, timeout_s=5) as stream:
                assert isinstance(await refusal(stream.receive_some()), CallRefusedError)
        assert await source.echo(target, 1) == [source.id, 1]


@virtual_time
async def test_the_relay_cannot_put_another_node_in_the_place() -> None:
    """Who answers through a relay must prove that it is the one who was asked for."""
    home = Home()
    async with home.hidden_pair() as (relay, source, target), home.node("other", listens=False) as other:
        await other.peering.join("relay:7777")
        # what a relay does that carries to another node than the one that it was asked for
        stream = await source.peering.begin_stream(relay.id, CONNECT, other.id, timeout_s=5)
        with pytest.raises(HandshakeRefusedError, match="in the place of another"):
            await source.peering.adopt(RelayedStream(stream), is_dialed=True, expected=target.id, via=relay.id)
        assert source.vias(target) == []


@virtual_time
async def test_who_takes_nothing_is_not_waited_for() -> None:
    """A relayed stream whose far end reads nothing fills a window or two, and is broken off after a while."""

    async def never(peer: NodeId, body: Any, stream: PeerStream) -> None:
        del peer, body, stream
        await trio.sleep_forever()

    async with Home().hidden_pair() as (relay, source, target):
        target.dispatch.streams[ACCEPT] = never
        begun_s = trio.current_time()
        sent = 0
        async with source.peering.open_stream(relay.id, CONNECT, target.id, timeout_s=PATIENT) as stream:
            with pytest.raises(MeshHoldError):  # noqa: PT012 - whichever piece it is
                while True:
                    await stream.send_all(bytes(64 * 1024))
                    sent += 64 * 1024
        assert sent <= 3 * 1024 * 1024
        assert trio.current_time() - begun_s < 2 * RelaySettings().stall_s
        await until(lambda: relay.relay.state.streams == 0)
        assert await source.echo(relay, 1) == [source.id, 1]


@virtual_time
async def test_silence_ends_what_is_carried() -> None:
    """A relayed stream without a living session in it is given up."""

    async def never(peer: NodeId, body: Any, stream: PeerStream) -> None:
        del peer, body, stream
        await trio.sleep_forever()

    async with Home().hidden_pair() as (relay, source, target):
        target.dispatch.streams[ACCEPT] = never
        async with source.peering.open_stream(relay.id, CONNECT, target.id, timeout_s=PATIENT) as stream:
            await until(lambda: relay.relay.state.streams == 1)
            begun_s = trio.current_time()
            assert isinstance(await refusal(stream.receive_some()), CallRefusedError)
            assert 0.9 * RelaySettings().idle_s < trio.current_time() - begun_s < 1.1 * RelaySettings().idle_s


@virtual_time
async def test_a_pace_bounds_what_is_carried() -> None:
    """One megabyte at 100 kB a second takes about ten seconds."""
    async with Home().hidden_pair(relays=RelaySettings(bytes_per_s=100_000)) as (_relay, source, target):
        begun_s = trio.current_time()
        async with source.peering.open_stream(target.id, "count/1", None, timeout_s=PATIENT) as stream:
            await stream.send_all(bytes(1_000_000))
            await stream.send_eof()
            assert await stream.receive_all(100) == b"1000000"
        assert 9 <= trio.current_time() - begun_s <= 13


@virtual_time
async def test_the_end_of_a_relay_or_of_an_end_leaves_nothing() -> None:
    """Leaving takes no longer because something is relayed, and the places are free again."""
    home = Home()
    async with home.node("relay") as relay:
        async with home.node("source", listens=False) as source:
            async with home.node("target", listens=False) as target:
                for hidden in (source, target):
                    await hidden.peering.join("relay:7777")
                source.peering.learn(target.id, [])
                await source.echo(target, 1)
                left_s = trio.current_time()
            assert trio.current_time() - left_s < 1  # the target has left, in good order
            assert [event for event in source.events if isinstance(event, LinkClosed)] == [LinkClosed(target.id, "")]
            await until(lambda: relay.relay.state.streams == 0)
        assert relay.relay._quota.has_place(source.id, target.id)
        assert not relay.relay._quota._by_node


@virtual_time
async def test_a_lost_line_is_noticed_at_both_ends() -> None:
    """When the relay's line to the target is cut, the source's relayed link ends, and comes back with the line."""
    home = Home()
    async with home.hidden_pair() as (_relay, source, target):
        await source.echo(target, 1)
        home.network.cut("relay", "target")
        await until(lambda: not source.vias(target))
        await target.peering.join("relay:7777")
        assert await source.echo(target, 2) == [source.id, 2]
