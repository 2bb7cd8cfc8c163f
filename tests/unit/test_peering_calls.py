"""What nodes ask of each other over a link: calls, notes, streams, and how errors and cancellations travel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from tests.mesh_nodes import Node, until, virtual_time

from meshhold.errors import (
    CallRefusedError,
    CallTimeoutError,
    IncompleteBodyError,
    NoSuchObjectError,
    PeerUnreachableError,
    ProtocolError,
    SyncFailedError,
    TooLargeError,
)
from meshhold.model.ids import NodeId
from meshhold.peering import link as link_module
from meshhold.peering.settings import Settings
from meshhold.peering.streams import Patience, PeerStream
from meshhold.transport.memory import MemoryNetwork
from meshhold.wire import codec
from meshhold.wire.limits import Limits


@pytest.fixture
async def network() -> MemoryNetwork:
    return MemoryNetwork(seed=1, latency_s=(0.001, 0.003))


@pytest.fixture
async def pair(network: MemoryNetwork) -> AsyncIterator[tuple[Node, Node]]:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(Node("a").up(network))
        b = await stack.enter_async_context(Node("b").up(network))
        a.knows(b)
        yield a, b


@virtual_time
class TestCalls:
    async def test_a_call_dials_and_is_answered(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        body = {"list": [1, None, b"raw"], "text": "é"}
        assert await a.echo(b, body) == body
        assert a.peering.is_linked(b.node_id)
        (state,) = a.peering.links()
        assert (state.peer, state.is_dialed, state.address) == (b.node_id, True, b.address)
        assert state.bytes_in > 0
        assert state.bytes_out > 0

    async def test_both_sides_call_over_one_link(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        await a.echo(b)
        assert await b.echo(a, "back") == "back"
        assert (len(a.peering.links()), len(b.peering.links())) == (1, 1)

    async def test_many_at_once_each_get_their_own_answer(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        answers: dict[int, Any] = {}

        async def ask(number: int) -> None:
            answers[number] = await a.echo(b, number)

        async with trio.open_nursery() as nursery:
            for number in range(600):  # more than are in progress at once: the others wait for a place
                nursery.start_soon(ask, number)
        assert answers == {number: number for number in range(600)}

    async def test_large_bodies_travel(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        body = bytes(200_000)
        assert await a.echo(b, body) == body

    async def test_a_body_beyond_the_bound_is_refused_here(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        await a.echo(b)
        with pytest.raises((TooLargeError, ProtocolError)):
            await a.echo(b, bytes(300_000))
        assert await a.echo(b) == b"hello"

    async def test_an_answer_beyond_the_bound_is_a_refusal(self, pair: tuple[Node, Node]) -> None:
        a, b = pair

        async def flood(_peer: NodeId, _body: Any) -> Any:
            return bytes(300_000)

        b.dispatch.on_call("flood/1", flood)
        with pytest.raises(CallRefusedError):
            await a.peering.call(b.node_id, "flood/1", None, timeout_s=1)
        assert await a.echo(b) == b"hello"

    async def test_an_unknown_name_is_refused_by_name(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        with pytest.raises(CallRefusedError, match="knows no call 'nope/7'") as caught:
            await a.peering.call(b.node_id, "nope/7", None, timeout_s=1)
        assert caught.value.kind == "UnknownCallError"

    async def test_an_error_travels_with_kind_message_and_fix(self, pair: tuple[Node, Node]) -> None:
        a, b = pair

        async def refuse(_peer: NodeId, _body: Any) -> Any:
            raise NoSuchObjectError("no such thing", "look elsewhere")

        b.dispatch.on_call("refuse/1", refuse)
        with pytest.raises(CallRefusedError, match="no such thing") as caught:
            await a.peering.call(b.node_id, "refuse/1", None, timeout_s=1)
        assert (caught.value.kind, caught.value.fix) == ("NoSuchObjectError", "look elsewhere")

    async def test_a_defect_tells_nothing_and_is_logged(
        self, pair: tuple[Node, Node], caplog: pytest.LogCaptureFixture
    ) -> None:
        a, b = pair

        async def fail(_peer: NodeId, _body: Any) -> Any:
            raise ValueError("secret detail")

        b.dispatch.on_call("fail/1", fail)
        with pytest.raises(CallRefusedError) as caught:
            await a.peering.call(b.node_id, "fail/1", None, timeout_s=1)
        assert "secret detail" not in str(caught.value)
        assert "secret detail" in caplog.text
        assert await a.echo(b) == b"hello"

    async def test_a_call_ends_in_time_on_both_sides(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        begun = trio.current_time()
        with pytest.raises(CallTimeoutError):
            await a.peering.call(b.node_id, "wait/1", None, timeout_s=2)
        assert trio.current_time() - begun == pytest.approx(2, abs=0.05)
        await until(lambda: b.cancelled == 1, 1)
        assert await a.echo(b) == b"hello"

    async def test_giving_up_cancels_the_handler_over_there(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        with trio.move_on_after(1):
            await a.peering.call(b.node_id, "wait/1", None, timeout_s=1000)
        await until(lambda: b.cancelled == 1, 0.1)

    async def test_a_call_that_waits_holds_up_no_other(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        await a.echo(b)
        async with trio.open_nursery() as nursery:
            for number in range(40):  # they arrive together: more than tasks are kept for
                nursery.start_soon(partial(a.peering.call, b.node_id, "wait/1", number, timeout_s=60))
            with trio.fail_after(1):
                assert await a.echo(b, "meanwhile") == "meanwhile"
            b.gate.set()
        assert b.cancelled == 0

    async def test_a_call_that_was_answered_leaves_its_deadline_to_no_other(self, pair: tuple[Node, Node]) -> None:
        a, b = pair

        async def sleep(_peer: NodeId, seconds: Any) -> Any:
            await trio.sleep(seconds)
            return seconds

        b.dispatch.on_call("sleep/1", sleep)
        assert await a.peering.call(b.node_id, "sleep/1", 1, timeout_s=2) == 1
        assert await a.peering.call(b.node_id, "sleep/1", 5, timeout_s=9) == 5
        for _ in range(3):
            with trio.move_on_after(1):
                await a.peering.call(b.node_id, "sleep/1", 50, timeout_s=90)
            assert await a.peering.call(b.node_id, "sleep/1", 5, timeout_s=9) == 5

    async def test_a_handler_may_catch_its_cancellation_and_answer(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        seen: list[str] = []

        async def stubborn(_peer: NodeId, _body: Any) -> Any:
            with trio.move_on_after(1) as brief:  # opened before the first pause
                await trio.sleep_forever()
            seen.append(f"waited {brief.cancelled_caught}")
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                seen.append("cancelled")

        b.dispatch.on_call("stubborn/1", stubborn)
        with pytest.raises(CallTimeoutError):
            await a.peering.call(b.node_id, "stubborn/1", None, timeout_s=3)
        await until(lambda: seen == ["waited True", "cancelled"], 1)
        for _ in range(2):  # one by the task that was cancelled
            assert await a.echo(b) == b"hello"

    async def test_a_handler_may_begin_with_a_send_over_the_link_that_called_it(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        await a.echo(b)
        stream = await b.peering.begin_stream(a.node_id, "back/1", None, timeout_s=1)

        async def send(_peer: NodeId, size: Any) -> Any:
            await stream.send_all(bytes(size))
            return size

        b.dispatch.on_call("send/1", send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_all, 10**7)
            for size in (1, 100_000, 3_000_000):  # the last: more than its window
                assert await a.peering.call(b.node_id, "send/1", size, timeout_s=5) == size
            await stream.send_eof()
        assert await a.echo(b) == b"hello"

    async def test_places_of_given_up_calls_come_back(self, network: MemoryNetwork) -> None:
        few = Settings(limits=Limits(calls=2))
        async with Node("a").up(network) as a, Node("b").up(network, settings=few) as b:
            a.knows(b)
            for _ in range(5):
                with trio.move_on_after(0.5):
                    await a.peering.call(b.node_id, "wait/1", None, timeout_s=1000)
            assert await a.echo(b) == b"hello"

    async def test_a_node_that_nobody_knows_is_unreachable(self, pair: tuple[Node, Node]) -> None:
        a, _b = pair
        with pytest.raises(PeerUnreachableError, match="no address of it is known"):
            await a.echo(Node("stranger"))
        with pytest.raises(PeerUnreachableError, match="no link to itself"):
            await a.echo(a)

    @pytest.mark.parametrize("is_grouped", [False, True])
    async def test_a_fatal_error_of_a_handler_goes_through(self, network: MemoryNetwork, is_grouped: bool) -> None:
        async def fail(_peer: NodeId, _body: Any) -> Any:
            error = SyncFailedError("fsync failed")
            raise ExceptionGroup("of a nursery", [error]) if is_grouped else error

        async def ask(a: Node, b: Node) -> None:
            with pytest.raises(PeerUnreachableError):
                await a.peering.call(b.node_id, "fail/1", None, timeout_s=5)

        async with Node("a").up(network) as a:
            with pytest.RaisesGroup(SyncFailedError, flatten_subgroups=True):
                async with Node("b").up(network) as b:
                    b.dispatch.on_call("fail/1", fail)
                    a.knows(b)
                    await ask(a, b)
                    await trio.sleep_forever()

    async def test_a_name_has_one_handler(self, pair: tuple[Node, Node]) -> None:
        a, _b = pair
        with pytest.raises(ValueError, match="has a handler already"):
            a.dispatch.on_call("echo/1", a._echo)


@virtual_time
class TestNotes:
    async def test_a_note_arrives_and_one_before_the_link_waits_for_it(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        assert not a.peering.send(b.node_id, "note/1", 1)
        await until(lambda: b.notes == [1], 1)
        assert a.peering.send(b.node_id, "note/1", 2)
        await until(lambda: b.notes == [1, 2], 1)

    async def test_to_a_node_that_nobody_knows_it_is_dropped(self, pair: tuple[Node, Node]) -> None:
        a, _b = pair
        assert not a.peering.send(Node("stranger").node_id, "note/1", 1)

    async def test_a_handler_that_fails_ends_nothing(
        self, pair: tuple[Node, Node], caplog: pytest.LogCaptureFixture
    ) -> None:
        a, b = pair

        def fail(_peer: NodeId, _body: Any) -> None:
            raise ValueError("broken handler")

        b.dispatch.on_note("fail/1", fail)
        await a.echo(b)
        a.peering.send(b.node_id, "fail/1", None)
        a.peering.send(b.node_id, "unknown/1", None)
        assert await a.echo(b) == b"hello"
        assert "broken handler" in caplog.text


@virtual_time
class TestStreams:
    async def test_bytes_go_there_and_back_in_order(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        data = bytes(range(256)) * 12_000  # 3 MB: three windows
        got = b""
        async with a.peering.open_stream(b.node_id, "back/1", None, timeout_s=1) as stream:

            async def send() -> None:
                await stream.send_all(data)
                await stream.send_eof()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                got = await stream.receive_all(len(data))
        assert got == data

    async def test_exact_and_bounded_reads(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        async with a.peering.open_stream(b.node_id, "back/1", None, timeout_s=1) as stream:
            await stream.send_all(b"0123456789")
            assert await stream.receive_exactly(4) == b"0123"
            assert await stream.receive_some(3) == b"456"
            assert bytes(await stream.receive_piece()) == b"789"
            await stream.send_all(b"end")
            await stream.send_eof()
            with pytest.raises(IncompleteBodyError):
                await stream.receive_exactly(4)
        async with a.peering.open_stream(b.node_id, "back/1", None, timeout_s=1) as stream:
            await stream.send_all(bytes(100))
            await stream.send_eof()
            with pytest.raises(TooLargeError):
                await stream.receive_all(99)

    async def test_a_receiver_that_waits_holds_the_sender_up(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        taken = 0

        async def hold(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
            nonlocal taken
            await b.gate.wait()
            taken = len(await stream.receive_all(1 << 30))
            await stream.send_eof()

        b.dispatch.on_stream("hold/1", hold)
        async with a.peering.open_stream(b.node_id, "hold/1", None, timeout_s=1) as stream:
            with trio.move_on_after(5) as patience:
                await stream.send_all(bytes(Limits().stream_window))
            assert not patience.cancelled_caught
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(1000))
                await trio.sleep(5)
                assert await a.echo(b) == b"hello"  # the link itself is not held up
                b.gate.set()
            await stream.send_eof()
            assert await stream.receive_all(0) == b""
        assert taken == Limits().stream_window + 1000

    async def test_all_of_a_stream_comes_through_many_windows_and_wakes_its_reader_once(
        self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = pair
        wakes = 0
        wake = PeerStream._wake_receiver

        def count(stream: PeerStream) -> None:
            nonlocal wakes
            wakes += stream.peer == b.node_id
            wake(stream)

        async def flood(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
            await stream.send_all(b"begun")
            await b.gate.wait()
            await stream.send_all(bytes(5 * Limits().stream_window), is_last=True)

        b.dispatch.on_stream("flood/1", flood)
        async with a.peering.open_stream(b.node_id, "flood/1", None, timeout_s=1) as stream:
            assert await stream.receive_some(2) == b"be"
            monkeypatch.setattr(PeerStream, "_wake_receiver", count)
            b.gate.set()
            whole = await stream.receive_all(6 * Limits().stream_window)
        assert whole == b"gun" + bytes(5 * Limits().stream_window)
        assert wakes <= 3  # at its end, at its closing, and when the handler has left

    async def test_a_piece_that_is_the_last_ends_its_direction(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        async with a.peering.open_stream(b.node_id, "back/1", None, timeout_s=1) as stream:
            await stream.send_all(b"all", is_last=True)
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"more")
            assert await stream.receive_all(3) == b"all"
        async with a.peering.open_stream(b.node_id, "back/1", None, timeout_s=1) as stream:
            await stream.send_all(b"", is_last=True)
            assert await stream.receive_all(0) == b""

    @pytest.mark.parametrize(("pause_s", "total_s", "why"), [(2, 100, None), (9, 100, "stood still"), (2, 15, "long")])
    async def test_patience_ends_for_who_waits_for_bytes(
        self, pair: tuple[Node, Node], pause_s: float, total_s: float, why: str | None
    ) -> None:
        a, b = pair

        async def drip(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
            for _ in range(10):
                await trio.sleep(pause_s)
                await stream.send_all(b"x")
            await stream.send_eof()

        b.dispatch.on_stream("drip/1", drip)
        async with a.peering.open_stream(b.node_id, "drip/1", None, timeout_s=1) as stream:
            if why is None:
                assert await stream.receive_all(10, Patience(4, total_s)) == b"x" * 10
                return
            with pytest.raises(CallTimeoutError, match=why):
                await stream.receive_all(10, Patience(4, total_s))

    async def test_a_stream_is_opened_by_the_message_that_brings_its_first_bytes(
        self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = pair
        sizes: list[int] = []

        async def count(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
            await stream.send_all(str(len(await stream.receive_all(100))).encode(), is_last=True)

        b.dispatch.on_stream("count/1", count)
        await a.echo(b)
        link = a.peering._table.best(b.node_id)
        assert link is not None
        send_soon = link._stream.send_soon

        def send(data: bytes | bytearray | memoryview) -> int:
            sizes.append(len(data))
            return send_soon(data)

        monkeypatch.setattr(link._stream, "send_soon", send)
        async with a.peering.open_stream(b.node_id, "count/1", None, timeout_s=1) as stream:
            await stream.send_all(b"x" * 50, is_last=True)
            assert await stream.receive_all(2) == b"50"
        assert len(sizes) == 1

    async def test_who_says_much_at_once_lets_others_come_between(
        self, pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link_module, "FRAMES_PER_TURN", 50)
        a, b = pair
        handled = 0
        begun = trio.Event()
        seen: list[int] = []

        def note(_peer: NodeId, _body: Any) -> None:
            nonlocal handled
            handled += 1
            begun.set()

        async def look() -> None:
            await begun.wait()
            while handled < 500:
                seen.append(handled)
                await trio.lowlevel.checkpoint()

        b.dispatch.on_note("n/1", note)
        await a.echo(b)
        link = a.peering._table.best(b.node_id)
        assert link is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            link._outbox.is_corked = True  # all of them at once
            for _ in range(500):
                link.send_note("n/1", codec.encode(None))
            link._outbox.is_corked = False
            link.flush()
        assert len(seen) >= 4  # ten turns, and the order of tasks in each is chance
        assert all(after - before <= 2 * 50 for before, after in pairwise([0, *seen, 500]))

    async def test_a_stream_of_which_nothing_is_used_is_opened_all_the_same(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        opened = trio.Event()

        async def note(_peer: NodeId, _body: Any, _stream: PeerStream) -> None:
            opened.set()

        b.dispatch.on_stream("note/1", note)
        async with a.peering.open_stream(b.node_id, "note/1", None, timeout_s=1):
            with trio.fail_after(1):
                await opened.wait()

    async def test_patience_of_many_ends_each_in_its_time(self, pair: tuple[Node, Node]) -> None:
        """One clock looks after all who wait on a link, also those that began later and wait shorter."""
        a, b = pair
        ends: dict[float, float] = {}

        async def silence(_peer: NodeId, _body: Any, _stream: PeerStream) -> None:
            await trio.sleep_forever()

        async def wait(still_s: float) -> None:
            async with a.peering.open_stream(b.node_id, "silence/1", None, timeout_s=1) as stream:
                begun_s = trio.current_time()
                with pytest.raises(CallTimeoutError, match="stood still"):
                    await stream.receive_all(10, Patience(still_s, 1000))
                ends[still_s] = trio.current_time() - begun_s

        b.dispatch.on_stream("silence/1", silence)
        async with trio.open_nursery() as nursery:
            for still_s in (40.0, 8.0, 1.0, 20.0):
                nursery.start_soon(wait, still_s)
                await trio.sleep(0.5)
        assert all(still_s <= took_s <= still_s * 1.26 for still_s, took_s in ends.items())
        assert len(ends) == 4

    @pytest.mark.parametrize(("pause_s", "why"), [(2, None), (9, "stood still")])
    async def test_patience_ends_for_who_waits_for_room(
        self, pair: tuple[Node, Node], pause_s: float, why: str | None
    ) -> None:
        a, b = pair
        window = Limits().stream_window

        async def sip(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
            for _ in range(8):
                await trio.sleep(pause_s)
                await stream.receive_exactly(window // 2)
            await stream.send_eof()

        b.dispatch.on_stream("sip/1", sip)
        async with a.peering.open_stream(b.node_id, "sip/1", None, timeout_s=1) as stream:
            if why is None:
                await stream.send_all(bytes(4 * window), Patience(4, 100))
                assert await stream.receive_all(0) == b""
                return
            with pytest.raises(CallTimeoutError, match=why):
                await stream.send_all(bytes(4 * window), Patience(4, 100))
            with pytest.raises(trio.ClosedResourceError):  # what arrived of it is not known
                await stream.send_all(b"x")

    async def test_the_handlers_refusal_reaches_who_reads_and_who_sends(self, pair: tuple[Node, Node]) -> None:
        a, b = pair

        async def refuse(_peer: NodeId, _body: Any, _stream: PeerStream) -> None:
            raise NoSuchObjectError("no such chunk")

        b.dispatch.on_stream("refuse/1", refuse)
        async with a.peering.open_stream(b.node_id, "refuse/1", None, timeout_s=1) as stream:
            with pytest.raises(CallRefusedError, match="no such chunk") as caught:
                await stream.receive_some()
            assert caught.value.kind == "NoSuchObjectError"
            with pytest.raises(CallRefusedError):
                await stream.send_all(b"x")
        async with a.peering.open_stream(b.node_id, "nope/1", None, timeout_s=1) as stream:
            with pytest.raises(CallRefusedError, match="knows no stream"):
                await stream.send_all(bytes(4_000_000))

    async def test_what_is_left_open_is_broken_off_over_there(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        outcomes: list[type[Exception]] = []

        async def read(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
            try:
                await stream.receive_all(1 << 30)
            except CallRefusedError as error:
                outcomes.append(type(error))

        b.dispatch.on_stream("read/1", read)
        async with a.peering.open_stream(b.node_id, "read/1", None, timeout_s=1) as stream:
            await stream.send_all(b"half")
        await until(lambda: outcomes == [CallRefusedError], 1)

    async def test_a_cancelled_send_breaks_the_stream_off_and_no_other(self, pair: tuple[Node, Node]) -> None:
        a, b = pair

        async def hold(_peer: NodeId, _body: Any, _stream: PeerStream) -> None:
            await trio.sleep_forever()

        b.dispatch.on_stream("hold/1", hold)
        async with a.peering.open_stream(b.node_id, "hold/1", None, timeout_s=1) as stream:
            with trio.move_on_after(1):
                await stream.send_all(bytes(3_000_000))
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"x")
        assert await a.echo(b) == b"hello"

    async def test_places_come_back(self, network: MemoryNetwork) -> None:
        few = Settings(limits=Limits(streams=2))
        async with Node("a").up(network) as a, Node("b").up(network, settings=few) as b:
            a.knows(b)

            async def use() -> None:
                async with a.peering.open_stream(b.node_id, "back/1", None, timeout_s=10) as stream:
                    await stream.send_all(b"x")
                    await stream.send_eof()
                    assert await stream.receive_all(1) == b"x"

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(use)

    async def test_the_last_end_of_ours_makes_a_place_though_nothing_answers_it(self, network: MemoryNetwork) -> None:
        few = Settings(limits=Limits(streams=1))
        async with Node("a").up(network) as a, Node("b").up(network, settings=few) as b:
            a.knows(b)

            async def end_at_once(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
                await stream.send_eof()
                await stream.receive_all(1)

            b.dispatch.on_stream("end/1", end_at_once)
            async with a.peering.open_stream(b.node_id, "end/1", None, timeout_s=1) as first:
                assert await first.receive_all(0) == b""
                second_is_open = trio.Event()

                async def open_second() -> None:
                    async with a.peering.open_stream(b.node_id, "end/1", None, timeout_s=5):
                        second_is_open.set()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(open_second)
                    await trio.testing.wait_all_tasks_blocked()
                    await first.send_eof()
                    with trio.fail_after(1):
                        await second_is_open.wait()

    async def test_send_soon_takes_one_piece_at_a_time(self, pair: tuple[Node, Node]) -> None:
        a, b = pair
        async with a.peering.open_stream(b.node_id, "back/1", None, timeout_s=1) as stream:
            assert stream.send_soon(b"one") == 3
            await stream.send_all(b"two")
            await stream.send_eof()
            assert await stream.receive_all(6) == b"onetwo"

    async def test_a_lost_link_wakes_everybody(self, pair: tuple[Node, Node], network: MemoryNetwork) -> None:
        a, b = pair
        woken: list[str] = []

        async def read() -> None:
            async with a.peering.open_stream(b.node_id, "back/1", None, timeout_s=1) as stream:
                with pytest.raises(PeerUnreachableError):
                    await stream.receive_some()
                woken.append("reader")

        async def ask() -> None:
            with pytest.raises(PeerUnreachableError, match="lost during wait/1"):
                await a.peering.call(b.node_id, "wait/1", None, timeout_s=100)
            woken.append("caller")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(ask)
            await until(lambda: len(b.served) == 1, 1)
            network.cut("a", "b")
        assert sorted(woken) == ["caller", "reader"]
        await until(lambda: b.cancelled == 1, 1)


@virtual_time
class TestPriorities:
    async def test_control_overtakes_bulk(self, network: MemoryNetwork) -> None:
        """A note sent while megabytes wait arrives long before they do."""
        async with Node("a").up(network) as a, Node("b").up(network) as b:
            a.knows(b)
            seen: list[int] = []
            received = 0

            async def sink(_peer: NodeId, _body: Any, stream: PeerStream) -> None:
                nonlocal received
                while data := await stream.receive_some():
                    received += len(data)
                await stream.send_eof()

            b.dispatch.on_stream("sink/1", sink)
            b.dispatch.on_note("when/1", lambda _peer, _body: seen.append(received))
            async with (
                a.peering.open_stream(b.node_id, "sink/1", None, timeout_s=1) as stream,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(stream.send_all, bytes(900_000))
                await trio.testing.wait_all_tasks_blocked()
                a.peering.send(b.node_id, "when/1", None)
            await until(lambda: bool(seen), 5)
            assert seen[0] < 600_000
