"""Who is linked with whom: dialling, handshakes, one link per pair, loss and return, leaving, hostile strangers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from tests.mesh_nodes import SWARM_KEY, Node, until, virtual_time

from meshhold.errors import (
    CallTimeoutError,
    ConflictError,
    HandshakeRefusedError,
    OverloadedError,
    PeerUnreachableError,
)
from meshhold.model.ids import NodeId
from meshhold.peering.handshakes import Gate, shake_hands
from meshhold.peering.refusals import LINES_MAX, LINES_PER_PEER_MAX, REMEMBERED_MAX, Refusals
from meshhold.peering.settings import LinkClosed, LinkOpened, Settings, backoff_s
from meshhold.peering.table import LINKS_PER_PEER_MAX, LinkTable
from meshhold.transport.contract import ByteStream
from meshhold.transport.memory import MemoryNetwork
from meshhold.wire.framing import encode_frame
from meshhold.wire.handshake import Handshake

OLD_KEY = b"o" * 32
A, B = NodeId("a"), NodeId("b")


@pytest.fixture
async def network() -> MemoryNetwork:
    return MemoryNetwork(seed=2, latency_s=(0.001, 0.003))


@asynccontextmanager
async def nodes(network: MemoryNetwork, *names: str) -> AsyncIterator[list[Node]]:
    """Run nodes that know each other's addresses."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(Node(name).up(network)) for name in names]
        for node in found:
            node.knows(*(other for other in found if other is not node))
        yield found


def one_link(*found: Node) -> bool:
    return all(len(node.peering.links()) == 1 for node in found)


@virtual_time
class TestOnePerPair:
    @pytest.mark.parametrize("seed", range(12))
    async def test_dialling_each_other_at_once_leaves_one_link_and_loses_no_call(self, seed: int) -> None:
        network = MemoryNetwork(seed=seed, latency_s=(0.001, 0.050))
        async with nodes(network, "a", "b") as (a, b):
            answers: list[object] = []

            async def ask(one: Node, other: Node, number: int) -> None:
                await trio.sleep(network.delay_s())
                answers.append(await one.echo(other, number))

            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(ask, a, b, number)
                    nursery.start_soon(ask, b, a, number)
            await until(lambda: one_link(a, b), 30)
            assert len(answers) == 60
            assert sorted(a.served) == sorted(b.served) == list(range(30))  # each served once
            assert [type(event) for event in a.events + b.events] == [LinkOpened, LinkOpened]
            assert await a.echo(b) == b"hello"

    async def test_a_second_dial_of_one_side_replaces_the_first(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b") as (a, b):
            await a.peering.join(b.address)
            async with a.peering.open_stream(b.node_id, "back/1", None, timeout_s=1) as stream:
                await a.peering.join(b.address)
                await trio.sleep(1)
                await stream.send_all(b"on the old link")
                await stream.send_eof()
                assert await stream.receive_all(100) == b"on the old link"
            await until(lambda: one_link(a, b), 30)
            assert await b.echo(a) == b"hello"

    async def test_a_link_that_only_one_side_knows_to_be_lost_is_found_out(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b") as (a, b):
            await b.peering.join(a.address)
            network.drop("b", "a")
            network.drop("a", "b")
            (link,) = a.peering._table
            link.break_off(PeerUnreachableError("as if a had noticed"))
            await until(lambda: not a.peering.links())
            network._blocked.clear()  # the new dial passes; nothing wakes the old connection
            assert await a.echo(b) == b"hello"
            await until(lambda: one_link(a, b), 30)
            assert await b.echo(a) == b"hello"

    async def test_a_node_started_anew_has_none_of_its_old_links(self, network: MemoryNetwork) -> None:
        async with Node("b").up(network) as b:
            async with AsyncExitStack() as first_run:
                a = await first_run.enter_async_context(Node("a").up(network))
                a.knows(b)
                await a.echo(b)
                network.partition("a", "b")
                a.peering._nursery.cancel_scope.cancel()
            network._blocked.clear()
            async with Node("a", run=2).up(network) as again:
                again.knows(b)
                assert await again.echo(b) == b"hello"
                assert len(b.peering.links()) == 1
                assert await b.echo(again) == b"hello"

    async def test_links_to_one_peer_are_bounded(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b") as (a, b):
            refused: list[str] = []

            async def join() -> None:
                try:
                    await a.peering.join(b.address)
                except (HandshakeRefusedError, PeerUnreachableError) as error:
                    refused.append(str(error))

            async with trio.open_nursery() as nursery:
                for _ in range(3 * LINKS_PER_PEER_MAX):
                    nursery.start_soon(join)
            assert refused
            await until(lambda: one_link(a, b), 60)


@virtual_time
class TestReaching:
    async def test_events_tell_of_the_first_link_and_the_last(self, network: MemoryNetwork) -> None:
        async with Node("a").up(network) as a:
            async with Node("b").up(network) as b:
                a.knows(b)
                await a.echo(b)
            await until(lambda: len(a.events) == 2)
            opened, closed = a.events
            assert isinstance(opened, LinkOpened)
            assert opened.link.peer == b.node_id
            assert closed == LinkClosed(b.node_id, "")

    async def test_the_round_trip_is_known_from_the_start(self) -> None:
        network = MemoryNetwork(latency_s=(0.02, 0.02))
        async with nodes(network, "a", "b") as (a, b):
            await a.echo(b)
            await trio.sleep(0.1)
            assert a.peering.rtt_s(b.node_id) == pytest.approx(0.04, abs=0.005)
            assert b.peering.rtt_s(a.node_id) == pytest.approx(0.04, abs=0.005)

    async def test_addresses_are_tried_in_turn(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b") as (a, b):
            a.peering.learn(b.node_id, ["nowhere:1", b.address])
            assert await a.echo(b) == b"hello"

    async def test_another_node_in_the_place_is_refused(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b", "c") as (a, b, c):
            a.peering.learn(b.node_id, [c.address])
            with pytest.raises(PeerUnreachableError, match="in the place of another"):
                await a.echo(b)

    async def test_who_waits_for_one_dial_shares_its_failure(self, network: MemoryNetwork) -> None:
        async with Node("a").up(network) as a:
            b = Node("b")
            a.knows(b)
            failures: list[str] = []

            async def ask() -> None:
                with pytest.raises(PeerUnreachableError, match="nobody listens") as caught:
                    await a.echo(b)
                failures.append(str(caught.value))

            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(ask)
            assert len(failures) == 10

    async def test_a_kept_peer_is_dialled_until_it_is_there_and_again_when_it_comes_back(
        self, network: MemoryNetwork
    ) -> None:
        async with Node("a").up(network) as a:
            b = Node("b")
            a.knows(b)
            a.peering.keep(b.node_id)
            a.peering.keep(b.node_id)
            await trio.sleep(20)
            async with b.up(network):
                await until(lambda: a.peering.is_linked(b.node_id), 61)
                network.cut("a", "b")
                await until(lambda: not a.peering.is_linked(b.node_id), 1)
                await until(lambda: a.peering.is_linked(b.node_id), 2)
            await until(lambda: not a.peering.is_linked(b.node_id), 1)
            async with Node("b", run=2).up(network):
                await until(lambda: a.peering.is_linked(b.node_id), 2)
                a.peering.forget(b.node_id)
                network.cut("a", "b")
                await trio.sleep(100)
                assert not a.peering.is_linked(b.node_id)

    async def test_a_bootstrap_address_is_kept_whoever_is_there(self, network: MemoryNetwork) -> None:
        async with Node("a").up(network) as a, trio.open_nursery() as nursery:
            nursery.start_soon(a.peering.run_bootstrap, "b:7777")
            await trio.sleep(5)
            async with Node("b").up(network) as b:
                await until(lambda: a.peering.is_linked(b.node_id), 61)
                network.cut("a", "b")
                await until(lambda: len(a.events) == 3, 5)
            nursery.cancel_scope.cancel()

    async def test_a_bootstrap_address_that_is_its_own_is_given_up(self, network: MemoryNetwork) -> None:
        async with Node("a").up(network) as a:
            with trio.fail_after(5):
                await a.peering.run_bootstrap(a.address)
            assert not a.peering.links()

    async def test_a_silent_peer_is_gone_after_half_a_minute(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b") as (a, b):
            await a.echo(b)
            network.partition("a", "b")
            begun = trio.current_time()
            with pytest.raises(CallTimeoutError):
                await a.echo(b, timeout_s=3)
            await until(lambda: not a.peering.links(), 40)
            assert 20 <= trio.current_time() - begun <= 31
            network.heal()
            assert await a.echo(b) == b"hello"

    async def test_a_short_partition_breaks_nothing(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b") as (a, b):
            await a.echo(b)
            network.partition("a", "b")
            answers: list[object] = []
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    answers.append(await a.echo(b, timeout_s=20))

                nursery.start_soon(ask)
                await trio.sleep(10)
                network.heal()
            assert answers == [b"hello"]
            assert one_link(a, b)

    def test_back_off_doubles_up_to_its_bound_and_is_spread_by_chance(self) -> None:
        settings = Settings(backoff_s_min=1, backoff_s_max=10)
        assert [backoff_s(failures, settings, 0.0) for failures in range(6)] == [1, 2, 4, 8, 10, 10]
        assert backoff_s(2, settings, 1.0) == 2
        assert backoff_s(10_000, settings, 0.5) == 7.5


@virtual_time
class TestLeaving:
    async def test_what_is_in_progress_ends_first(self, network: MemoryNetwork) -> None:
        answers: list[object] = []

        async def ask(a: Node, b: Node) -> None:
            answers.append(await a.peering.call(b.node_id, "wait/1", "kept", timeout_s=9))

        async with Node("a").up(network) as a, trio.open_nursery() as nursery, Node("b").up(network) as b:
            a.knows(b)
            nursery.start_soon(ask, a, b)
            await until(lambda: len(b.served) == 1)

            async def open_gate() -> None:
                await trio.sleep(3)
                b.gate.set()

            nursery.start_soon(open_gate)
        assert answers == ["kept"]
        assert a.events[-1] == LinkClosed(b.node_id, "")

    async def test_what_lasts_too_long_is_cut(self, network: MemoryNetwork) -> None:
        async with Node("a").up(network) as a, trio.open_nursery() as nursery:
            begun = trio.current_time()
            async with Node("b").up(network) as b:
                a.knows(b)

                async def ask() -> None:
                    with pytest.raises(PeerUnreachableError):
                        await a.peering.call(b.node_id, "wait/1", None, timeout_s=100)

                nursery.start_soon(ask)
                await until(lambda: len(b.served) == 1)
            assert trio.current_time() - begun == pytest.approx(10, abs=0.5)

    async def test_a_node_that_leaves_takes_nobody(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b") as (a, b):
            b.peering._leaving = True
            with pytest.raises(PeerUnreachableError):
                await a.echo(b)
            with pytest.raises(PeerUnreachableError, match="this node is leaving"):
                await b.echo(a)


@virtual_time
class TestStrangers:
    async def test_another_swarm_key_does_not_get_in(
        self, network: MemoryNetwork, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Node("a").up(network) as a, Node("x").up(network, keys=(OLD_KEY,)) as x:
            with pytest.raises(HandshakeRefusedError, match="wrong swarm key"):
                await x.peering.join(a.address)
            for _ in range(5):
                with pytest.raises(HandshakeRefusedError):
                    await x.peering.join(a.address)
            assert not a.peering.links()
            assert a.peering.refusals.total == 6
            said = [record for record in caplog.records if "no swarm key" in record.getMessage()]
            assert len(said) == 1

    async def test_an_older_swarm_key_is_taken_while_it_is_accepted(self, network: MemoryNetwork) -> None:
        async with Node("a").up(network, keys=(SWARM_KEY, OLD_KEY)) as a, Node("b").up(network, keys=(OLD_KEY,)) as b:
            assert await b.peering.join(a.address) == a.node_id
            b.peering._table.of(a.node_id)[0].break_off(PeerUnreachableError("test"))
            await until(lambda: not a.peering.links())
            a.peering.set_swarm_keys([SWARM_KEY])
            with pytest.raises(HandshakeRefusedError):
                await b.peering.join(a.address)

    async def test_a_banned_node_loses_its_link_and_gets_no_new_one(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b") as (a, b):
            await b.echo(a)
            a.peering.ban(frozenset({b.node_id}))
            await until(lambda: not a.peering.links(), 1)
            with pytest.raises(PeerUnreachableError):
                await b.echo(a)
            with pytest.raises(PeerUnreachableError, match="banned"):
                await a.echo(b)
            a.peering.ban(frozenset())
            assert await b.echo(a) == b"hello"

    async def test_stalled_handshakes_hold_no_place_for_long_and_keep_nobody_else_out(
        self, network: MemoryNetwork
    ) -> None:
        async with nodes(network, "a", "b") as (a, b):
            stalled = [await network.transport("evil").dial(a.address, timeout_s=1) for _ in range(100)]
            await trio.sleep(1)
            refused = a.peering.refusals.total
            assert refused == 100 - Settings().handshakes_per_address_max
            assert await b.echo(a) == b"hello"
            await trio.sleep(5)
            assert a.peering.refusals.total == 100
            for stream in stalled:
                assert await stream.receive_some() == b""

    @pytest.mark.parametrize(
        "noise",
        [b"", b"\0\0", b"\xff\xff" + bytes(70_000), b"GET / HTTP/1.1\r\n\r\n", bytes(1000), encode_frame(bytes(48))],
        ids=["nothing", "empty frame", "huge frame", "http", "zeros", "low-order point"],
    )
    async def test_noise_is_refused_and_harms_nobody(self, network: MemoryNetwork, noise: bytes) -> None:
        async with nodes(network, "a", "b") as (a, b):
            await b.echo(a)
            evil = await network.transport("evil").dial(a.address, timeout_s=1)
            await evil.send_all(noise)
            await evil.send_eof()
            await until(lambda: a.peering.refusals.total == 1, 6)
            assert await b.echo(a) == b"hello"
            assert one_link(a, b)

    async def test_a_link_whose_bytes_are_altered_ends_and_is_replaced(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b", "c") as (a, b, c):
            await a.echo(b)
            await c.echo(b)
            (link,) = a.peering._table
            link._stream.send_soon(encode_frame(bytes(40)))  # a frame that no channel sealed
            await until(lambda: not a.peering.links(), 1)
            assert b.peering.refusals.total == 1
            assert len(b.peering.links()) == 1  # the link to c is untouched
            assert await a.echo(b) == b"hello"

    async def test_a_peer_that_never_greets_is_dropped(self, network: MemoryNetwork) -> None:
        mute = Node("mute")
        async with nodes(network, "a", "b") as (a, b):
            stream = await network.transport("mute").dial(a.address, timeout_s=1)
            handshake = Handshake(
                initiator=True,
                swarm_key=SWARM_KEY,
                identity=mute.identity,
                static_secret=mute.secrets(),
                ephemeral_secret=mute.secrets(),
            )
            await shake_hands(stream, handshake, 5)
            await until(lambda: a.peering.refusals.total == 1, 6)
            assert not a.peering.links()
            assert not a.events
            assert await b.echo(a) == b"hello"

    async def test_an_address_that_is_taken_stops_the_start(self, network: MemoryNetwork) -> None:
        async with Node("a").up(network):
            with pytest.RaisesGroup(ConflictError, flatten_subgroups=True):
                async with Node("a").up(network):
                    pass


@virtual_time
class TestAdoption:
    async def test_a_link_runs_over_a_stream_that_somebody_else_made(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b") as (a, b):
            network.partition("a", "b")
            put, get = trio.open_memory_channel[ByteStream](1)

            async def hand_over(stream: ByteStream) -> None:
                put.send_nowait(stream)
                await trio.sleep_forever()

            async with trio.open_nursery() as nursery:
                await nursery.start(network.transport("mid").listen, "mid:1", hand_over)
                outer = await network.transport("a").dial("mid:1", timeout_s=1)
                inner = await get.receive()

                async def take() -> None:
                    await b.peering.adopt(inner, is_dialed=False)

                nursery.start_soon(take)
                assert await a.peering.adopt(outer, is_dialed=True, expected=b.node_id) == b.node_id
                assert await a.echo(b) == b"hello"
                nursery.cancel_scope.cancel()

    async def test_another_node_behind_it_is_refused(self, network: MemoryNetwork) -> None:
        async with nodes(network, "a", "b", "c") as (a, b, c):
            stream = await network.transport("a").dial(c.address, timeout_s=1)
            with pytest.raises(HandshakeRefusedError, match="in the place of another"):
                await a.peering.adopt(stream, is_dialed=True, expected=b.node_id)


class TestGate:
    def test_places_are_bounded_per_address_and_in_all_and_come_back(self) -> None:
        gate = Gate(total_max=3, per_address_max=2)
        with gate.admit("a"), gate.admit("a"):
            with pytest.raises(OverloadedError, match="with this address"), gate.admit("a"):
                pass
            with gate.admit("b"), pytest.raises(OverloadedError, match="3 handshakes"), gate.admit("c"):
                pass
        with gate.admit("a"), gate.admit("b"), gate.admit("c"):
            pass


class TestRefusals:
    def test_each_is_said_once_and_counted_until_it_is_said_again(self, caplog: pytest.LogCaptureFixture) -> None:
        now_s = 0.0
        refusals = Refusals(lambda: now_s)
        with caplog.at_level(logging.WARNING):
            for _ in range(10):
                refusals.note("a", "wrong key")
            refusals.note("a", "too slow")
            now_s = 301.0
            refusals.note("a", "wrong key")
        assert [record.getMessage() for record in caplog.records] == [
            "a: wrong key",
            "a: too slow",
            "a: wrong key (9 more of these since)",
        ]
        assert refusals.total == 12

    def test_its_memory_is_bounded(self) -> None:
        now_s = 0.0
        refusals = Refusals(lambda: now_s)
        for number in range(REMEMBERED_MAX + 10):
            now_s += 10.0  # 30 lines in a window
            refusals.note(str(number), "x")
        assert len(refusals._said) == REMEMBERED_MAX

    def test_reasons_with_other_numbers_are_the_same_reason(self, caplog: pytest.LogCaptureFixture) -> None:
        refusals = Refusals(lambda: 0.0)
        for number in range(50):
            refusals.note("a", f"a frame announces {number} bytes")
        assert [record.getMessage() for record in caplog.records] == ["a: a frame announces 0 bytes"]

    def test_one_peer_fills_no_log(self, caplog: pytest.LogCaptureFixture) -> None:
        now_s = 0.0
        refusals = Refusals(lambda: now_s)
        for number in range(1_000):
            refusals.note("a", "x" * number)
        assert len(caplog.records) == LINES_PER_PEER_MAX + 1
        assert "only counted" in caplog.messages[-1]
        refusals.note("b", "x")
        assert caplog.messages[-1] == "b: x"
        now_s = 301.0
        refusals.note("a", "new")
        assert caplog.messages[-1] == "a: new"

    def test_a_thousand_hosts_fill_no_log(self, caplog: pytest.LogCaptureFixture) -> None:
        refusals = Refusals(lambda: 0.0)
        for number in range(1_000):
            refusals.note(f"host {number}", "x")
        assert len(caplog.records) == LINES_MAX + 1


class TestTable:
    @dataclass(eq=False)
    class Known:
        """What a table asks of a link."""

        peer: NodeId
        is_dialed: bool
        dial: int
        instance: bytes = b"1"
        via: NodeId | None = None
        is_usable: bool = True

    def test_both_sides_choose_the_same_link(self) -> None:
        for smaller_dial, larger_dial in ((1, 1), (1, 9), (9, 1)):
            at_a: LinkTable[TestTable.Known] = LinkTable(A)
            at_b: LinkTable[TestTable.Known] = LinkTable(B)
            by_a = (
                self.Known(B, True, smaller_dial),
                self.Known(A, False, smaller_dial),
            )
            by_b = (
                self.Known(B, False, larger_dial),
                self.Known(A, True, larger_dial),
            )
            for one, other in (by_a, by_b):
                at_a.add(one)
                at_b.add(other)
            assert at_a.best(B) is by_a[0]
            assert at_b.best(A) is by_a[1]
            assert at_a.losers(B) == [by_b[0]]

    def test_of_two_dials_the_later_is_used_in_whatever_order_they_come(self) -> None:
        for order in (1, -1):
            table: LinkTable[TestTable.Known] = LinkTable(A)
            links = [self.Known(B, True, dial) for dial in (1, 2)]
            for link in links[::order]:
                table.add(link)
            assert table.best(B) is links[1]

    def test_links_of_an_earlier_run_are_told_from_rivals(self) -> None:
        table: LinkTable[TestTable.Known] = LinkTable(A)
        old = self.Known(B, True, 1)
        new = self.Known(B, False, 1, instance=b"2")
        rival = self.Known(B, True, 2, instance=b"2")
        assert table.add(old) == (True, [], [])
        assert table.add(new) == (False, [old], [])
        assert table.remove(old) is False
        assert table.add(rival) == (False, [], [new])
        assert table.remove(new) is False
        assert table.remove(rival) is True
        assert table.remove(rival) is False
        assert table.best(B) is None
        assert list(table) == []
