"""What every transport promises: one suite over TCP on loopback and the network in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import pytest
import trio
import trio.testing

from meshhold.errors import ConflictError, InvalidError, PeerUnreachableError
from meshhold.transport.contract import ByteStream, HostPort, Transport, parse_address
from meshhold.transport.memory import MemoryNetwork
from meshhold.transport.tcp import TcpTransport

MIB: Final = 1 << 20


@dataclass
class Place:
    """A transport to dial with, one to listen with, where to listen, and where nobody does."""

    dialer: Transport
    listener: Transport
    address: str
    nobody: str


@pytest.fixture(params=["tcp4", "tcp6", "memory"])
async def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "memory":
        network = MemoryNetwork(seed=7)
        return Place(network.transport("a"), network.transport("b"), "b:0", "b:1")
    host = "127.0.0.1" if request.param == "tcp4" else "::1"
    tcp = TcpTransport()
    return Place(tcp, tcp, str(HostPort(host, 0)), str(HostPort(host, 1)))


async def until_left(stream: ByteStream) -> None:
    while await stream.receive_some():
        pass
    await stream.aclose()


@asynccontextmanager
async def listening(place: Place, serve: Callable[[ByteStream], Awaitable[None]] = until_left) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        addresses: tuple[str, ...] = await nursery.start(place.listener.listen, place.address, serve)
        yield addresses[0]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    put, get = trio.open_memory_channel[ByteStream](1)
    over = trio.Event()

    async def serve(stream: ByteStream) -> None:
        put.send_nowait(stream)
        await over.wait()

    async with listening(place, serve) as address:
        near = await place.dialer.dial(address, timeout_s=2)
        far = await get.receive()
        yield near, far
        await near.aclose()
        await far.aclose()
        over.set()


async def test_bytes_arrive_whole_and_in_order(place: Place) -> None:
    data = bytes(range(256)) * 8192  # 2 MiB: more than any buffer between the two
    received = bytearray()
    async with connected(place) as (near, far):

        async def send() -> None:
            await near.send_all(memoryview(data))
            await near.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while piece := await far.receive_some(10_000):
                assert len(piece) <= 10_000
                received += piece
    assert bytes(received) == data


async def test_one_direction_ends_without_the_other(place: Place) -> None:
    async with connected(place) as (near, far):
        await near.send_eof()
        await near.send_eof()
        assert await far.receive_some() == b""
        await far.send_all(b"still here")
        assert await near.receive_some() == b"still here"


async def test_send_soon_takes_what_goes_and_no_more(place: Place) -> None:
    async with connected(place) as (near, far):
        assert near.send_soon(b"ab") == 2
        assert await far.receive_some() == b"ab"
        big, sent = bytes(1_000_000), 0
        while taken := near.send_soon(big):
            sent += taken
        assert near.send_soon(b"x") == 0
        received = 0
        while received < sent:
            received += len(await far.receive_some())
        assert received == sent


async def test_who_receives_much_lets_others_run(place: Place) -> None:
    """Bytes that are there already are taken at once, and yet no stream keeps the loop to itself."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with connected(place) as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, bytes(16 * MIB))
        nursery.start_soon(count)
        received = 0
        while received < 16 * MIB:
            before = turns
            for _ in range(64):  # of 16 KiB at the least, if not the last ones
                received += len(await far.receive_some())
                if received == 16 * MIB or turns > before:
                    break
            assert turns > before or received == 16 * MIB
        nursery.cancel_scope.cancel()


async def test_what_was_sent_before_the_close_arrives(place: Place) -> None:
    async with connected(place) as (near, far):
        await near.send_all(b"last words")
        await near.aclose()
        await near.aclose()
        assert await far.receive_some() == b"last words"
        assert await far.receive_some() == b""


async def test_a_closed_stream_says_so(place: Place) -> None:
    async with connected(place) as (near, _far):
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            near.send_soon(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await near.receive_some()


async def test_closing_wakes_who_waits(place: Place) -> None:
    async with connected(place) as (near, _far), trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await near.receive_some()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await near.aclose()


async def test_sending_to_who_has_left_breaks(place: Place) -> None:
    async with connected(place) as (near, far):
        await far.aclose()

        async def send_on() -> None:
            while True:
                await near.send_all(bytes(100_000))

        with trio.fail_after(2), pytest.raises(trio.BrokenResourceError):
            await send_on()


async def test_two_receivers_are_one_too_many(place: Place) -> None:
    async with connected(place) as (near, far), trio.open_nursery() as nursery:
        got: list[bytes] = []

        async def wait() -> None:
            got.append(await near.receive_some())

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        if not isinstance(place.dialer, TcpTransport):  # the kernel lets two wait; the contract's users never do
            with pytest.raises(trio.BusyResourceError):
                await near.receive_some()
        await far.send_all(b"one")
    assert got == [b"one"]


async def test_a_cancelled_receive_loses_nothing(place: Place) -> None:
    async with connected(place) as (near, far):
        with trio.CancelScope() as scope:
            scope.cancel()
            await near.receive_some()
        assert scope.cancelled_caught
        await far.send_all(b"kept")
        assert await near.receive_some() == b"kept"


async def test_nobody_listens(place: Place) -> None:
    with pytest.raises(PeerUnreachableError, match="cannot be reached"):
        await place.dialer.dial(place.nobody, timeout_s=2)


async def test_an_address_is_taken_once(place: Place) -> None:
    async with listening(place) as address, trio.open_nursery() as nursery:
        with pytest.raises(ConflictError, match="cannot listen"):
            await nursery.start(place.listener.listen, address, until_left)


async def test_listening_ends_with_its_task(place: Place) -> None:
    async with listening(place) as address:
        pass
    with pytest.raises(PeerUnreachableError):
        await place.dialer.dial(address, timeout_s=2)


async def test_each_side_sees_an_address_of_the_other(place: Place) -> None:
    async with connected(place) as (near, far):
        assert parse_address(near.peer_address).port > 0
        assert parse_address(far.peer_address).port > 0


async def test_an_address_to_dial_names_host_and_port(place: Place) -> None:
    for address in ("", "host", "host:", "host:x", ":7777", "host:0", "host:70000", "::1:7777", "[::1]", "[host]:1"):
        with pytest.raises(InvalidError):
            await place.dialer.dial(address, timeout_s=2)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1:7777", ("10.0.0.1", 7777)),
        ("[::1]:7777", ("::1", 7777)),
        (":0", ("", 0)),
        ("a.b:65535", ("a.b", 65535)),
    ],
)
def test_an_address_round_trips(address: str, expected: tuple[str, int]) -> None:
    parsed = parse_address(address)
    assert parsed == expected
    assert str(parsed) == address


async def test_all_of_this_machines_addresses_share_one_port() -> None:
    tcp = TcpTransport()
    async with trio.open_nursery() as nursery:
        addresses: tuple[str, ...] = await nursery.start(tcp.listen, ":0", until_left)
        ports = {parse_address(address).port for address in addresses}
        assert len(ports) == 1
        stream = await tcp.dial(f"127.0.0.1:{ports.pop()}", timeout_s=2)
        await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_host_name_that_is_none_is_unreachable() -> None:
    with pytest.raises(PeerUnreachableError):
        await TcpTransport().dial("no.such.host.invalid:7777", timeout_s=2)


class TestMemoryNetwork:
    """The faults that only the network in memory can make."""

    @pytest.fixture
    async def network(self) -> MemoryNetwork:
        return MemoryNetwork(seed=1, latency_s=(0.010, 0.020))

    @asynccontextmanager
    async def pair(self, network: MemoryNetwork) -> AsyncIterator[tuple[ByteStream, ByteStream]]:
        async with connected(Place(network.transport("a"), network.transport("b"), "b:1", "b:2")) as both:
            yield both

    async def test_bytes_take_their_time(self, network: MemoryNetwork, autojump_clock: object) -> None:
        del autojump_clock
        async with self.pair(network) as (near, far):
            begun = trio.current_time()
            await near.send_all(b"x")
            assert await far.receive_some() == b"x"
            assert 0.010 <= trio.current_time() - begun <= 0.020

    async def test_a_partition_holds_bytes_up_until_it_heals(
        self, network: MemoryNetwork, autojump_clock: object
    ) -> None:
        del autojump_clock
        async with self.pair(network) as (near, far):
            network.partition("a", "b")
            await near.send_all(b"x")
            with trio.move_on_after(60) as waited:
                await far.receive_some()
            assert waited.cancelled_caught
            with pytest.raises(PeerUnreachableError, match="does not answer within 5 s"):
                await network.transport("a").dial("b:1", timeout_s=5)
            network.heal()
            assert await far.receive_some() == b"x"

    async def test_a_drop_is_one_way(self, network: MemoryNetwork, autojump_clock: object) -> None:
        del autojump_clock
        async with self.pair(network) as (near, far):
            network.drop("a", "b")
            await near.send_all(b"lost for now")
            await far.send_all(b"arrives")
            assert await near.receive_some() == b"arrives"
            with trio.move_on_after(60) as waited:
                await far.receive_some()
            assert waited.cancelled_caught

    async def test_a_cut_breaks_both_ends(self, network: MemoryNetwork, autojump_clock: object) -> None:
        del autojump_clock
        async with self.pair(network) as (near, far):
            await near.send_all(b"x")
            assert network.cut("a", "b") == 1
            for stream in (near, far):
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()

    async def test_the_same_seed_gives_the_same_delays(self) -> None:
        delays = [[MemoryNetwork(seed=3, latency_s=(0, 1)).delay_s() for _ in range(3)] for _ in range(2)]
        assert delays[0] == delays[1]

    async def test_closed_connections_are_forgotten(self, network: MemoryNetwork, autojump_clock: object) -> None:
        del autojump_clock
        async with self.pair(network):
            assert network._pipes
        assert not network._pipes
