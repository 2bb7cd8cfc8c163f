"""A network inside the process, for tests and simulations: named hosts, latency, cuts, partitions, one-way drops.

Time is Trio's, so a virtual clock drives it; chance comes from a seed, so a run repeats. Bytes arrive whole and in
order, as TCP's do: what a fault holds up arrives when it heals, unless the connection is cut before.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from itertools import count
from typing import Final

import trio

from meshhold.errors import ConflictError, InvalidError, PeerUnreachableError
from meshhold.transport.contract import RECEIVE_SIZE, HostPort, Serve, parse_address

PIPE_SIZE: Final = 256 * 1024
"""Bytes on their way in one direction of one connection: about what a kernel buffers."""
_FIRST_FREE_PORT: Final = 40_000


class MemoryNetwork:
    """Hosts by name and the faults between them. `latency_s`: least and most seconds from one host to another."""

    def __init__(self, *, seed: int = 0, latency_s: tuple[float, float] = (0.0, 0.0)) -> None:
        self.latency_s = latency_s
        self._rng = random.Random(seed)  # noqa: S311 - chance that must repeat, not a secret
        self._listeners: dict[HostPort, trio.MemorySendChannel[MemoryStream]] = {}
        self._pipes: dict[_Pipe, None] = {}  # in the order of connecting, so that a run repeats
        self._blocked: set[tuple[str, str]] = set()
        self._ports = count(_FIRST_FREE_PORT)
        self._changed = trio.Event()

    def transport(self, host: str) -> MemoryTransport:
        """Return that host's transport."""
        return MemoryTransport(self, host)

    def drop(self, sender: str, receiver: str) -> None:
        """Let nothing pass from one host to the other; the opposite way stays as it is."""
        self._blocked.add((sender, receiver))

    def partition(self, *sides: Iterable[str]) -> None:
        """Let nothing pass between hosts of different sides."""
        groups = [tuple(side) for side in sides]
        for one in groups:
            for other in groups:
                if one is not other:
                    self._blocked.update((a, b) for a in one for b in other)

    def heal(self) -> None:
        """Undo every drop and partition: what was held up arrives now."""
        self._blocked.clear()
        self._changed.set()
        self._changed = trio.Event()
        for pipe in self._pipes:
            pipe.wake()

    def cut(self, one: str, other: str) -> int:
        """Break every connection between two hosts, as a reset does; return how many."""
        found = [pipe for pipe in self._pipes if set(pipe.ends) == {one, other}]
        for pipe in found:
            pipe.break_()
        return len(found) // 2

    def passes(self, sender: str, receiver: str) -> bool:
        """Tell whether bytes pass from one host to the other."""
        return (sender, receiver) not in self._blocked

    def delay_s(self) -> float:
        """Return the seconds that one piece takes on its way."""
        least, most = self.latency_s
        return least if least == most else self._rng.uniform(least, most)

    async def wait_route(self, one: str, other: str) -> None:
        """Wait until bytes pass both ways."""
        while not (self.passes(one, other) and self.passes(other, one)):
            await self._changed.wait()

    def _connect(self, caller: HostPort, called: HostPort) -> tuple[MemoryStream, MemoryStream]:
        there = _Pipe(self, (caller.host, called.host))
        back = _Pipe(self, (called.host, caller.host))
        self._pipes |= {there: None, back: None}
        return MemoryStream(back, there, str(called)), MemoryStream(there, back, str(caller))

    def _forget(self, pipe: _Pipe) -> None:
        self._pipes.pop(pipe, None)


class _Pipe:
    """One direction of a connection: pieces with the time at which they arrive."""

    def __init__(self, network: MemoryNetwork, ends: tuple[str, str]) -> None:
        self.ends = ends
        self.broken = False
        self.ended = False  # the sender's promise that nothing more comes; the pieces before it still arrive
        self.unread = False  # the receiver has closed: sending is an error
        self._network = network
        self._pieces: deque[tuple[float, memoryview]] = deque()
        self._size = 0
        self._arrival_s = 0.0
        self._changed = trio.Event()

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._changed.set()
        self._changed = trio.Event()

    def break_(self) -> None:
        """Lose the connection and what is on its way."""
        self.broken = True
        self._pieces.clear()
        self.wake()

    def leave(self) -> None:
        """Close the receiver's end: the sender learns it as soon as the network lets it."""
        self.unread = True
        self._settle()

    def end(self) -> None:
        """Promise that nothing more is sent."""
        self.ended = True
        self._settle()

    def _settle(self) -> None:
        if self.ended and self.unread:
            self._network._forget(self)  # noqa: SLF001 - one module, one data structure
        self.wake()

    def put(self, data: bytes | bytearray | memoryview) -> int:
        """Take what fits; return its size."""
        if self.broken or (self.unread and self._network.passes(*self.ends)):
            raise trio.BrokenResourceError("the connection is lost")
        size = min(len(data), PIPE_SIZE - self._size)
        if size:
            arrival_s = trio.current_time() + self._network.delay_s()
            self._arrival_s = max(self._arrival_s, arrival_s)  # never before what was sent earlier
            self._pieces.append((self._arrival_s, memoryview(bytes(data[:size]))))
            self._size += size
            self.wake()
        return size

    async def wait_room(self) -> None:
        """Wait until something fits."""
        while self._size >= PIPE_SIZE and not self.broken:
            if self.unread and self._network.passes(*self.ends):
                return
            await self._changed.wait()

    async def get(self, size: int) -> bytes:
        """Wait for pieces that have arrived; `b""` at the end."""
        while True:
            if self.broken or self.unread:
                raise trio.BrokenResourceError("the connection is lost")
            passes = self._network.passes(*self.ends)
            if passes and self._pieces and self._pieces[0][0] <= trio.current_time():
                return self._take(size)
            if passes and self.ended and not self._pieces:
                return b""
            changed = self._changed
            due_s = self._pieces[0][0] if passes and self._pieces else float("inf")
            with trio.move_on_at(due_s):
                await changed.wait()

    def _take(self, size: int) -> bytes:
        taken = []
        now_s = trio.current_time()
        while size and self._pieces and self._pieces[0][0] <= now_s:
            arrival_s, piece = self._pieces.popleft()
            taken.append(piece[:size])
            if len(piece) > size:
                self._pieces.appendleft((arrival_s, piece[size:]))
            size -= len(taken[-1])
        joined = b"".join(taken)
        self._size -= len(joined)
        self.wake()
        return joined


class MemoryStream:
    """One end of a connection of the network."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe, peer_address: str) -> None:
        self.peer_address = peer_address
        self._in = incoming
        self._out = outgoing
        self._closed = False
        self._sending = False
        self._receiving = False

    def send_soon(self, data: bytes | bytearray | memoryview) -> int:
        """Take what fits into the pipe."""
        if self._closed or self._out.ended:
            raise trio.ClosedResourceError("this stream is closed")
        if self._sending:
            raise trio.BusyResourceError("another task sends on this stream")
        return self._out.put(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything."""
        rest = memoryview(data)
        await trio.lowlevel.checkpoint()
        rest = rest[self.send_soon(rest) :]
        self._sending = True
        try:
            while rest:
                await self._out.wait_room()
                if self._closed:
                    raise trio.ClosedResourceError("this stream is closed")
                rest = rest[self._out.put(rest) :]
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes."""
        if self._receiving:
            raise trio.BusyResourceError("another task receives on this stream")
        await trio.lowlevel.checkpoint()
        self._receiving = True
        try:
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed")
            return await self._in.get(max_bytes or RECEIVE_SIZE)
        except trio.BrokenResourceError:
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed") from None
            raise
        finally:
            self._receiving = False

    async def send_eof(self) -> None:
        """End this direction."""
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        await trio.lowlevel.checkpoint()
        self._out.end()

    async def aclose(self) -> None:
        """Close both directions: what was sent still arrives, what arrives is lost."""
        if not self._closed:
            self._closed = True
            self._out.end()
            self._in.leave()
        await trio.lowlevel.checkpoint()


class MemoryTransport:
    """One host's view of the network."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self._network = network
        self._host = host

    async def dial(self, address: str, *, timeout_s: float) -> MemoryStream:
        """Connect after one way there and back; across a partition, wait for its end or the deadline."""
        called = parse_address(address)
        if not called.host or called.port == 0:
            raise InvalidError(f"{address!r} names no host or no port to dial", "write host:port")
        network = self._network
        with trio.move_on_after(timeout_s):
            await trio.sleep(network.delay_s() + network.delay_s())
            await network.wait_route(self._host, called.host)
            queue = network._listeners.get(called)  # noqa: SLF001 - one module, one data structure
            if queue is None:
                raise PeerUnreachableError(f"{address} cannot be reached: nobody listens there")
            mine, theirs = network._connect(HostPort(self._host, next(network._ports)), called)  # noqa: SLF001
            try:
                queue.send_nowait(theirs)
            except (trio.BrokenResourceError, trio.WouldBlock):
                raise PeerUnreachableError(f"{address} cannot be reached: nobody listens there") from None
            return mine
        raise PeerUnreachableError(f"{address} does not answer within {timeout_s:g} s")

    async def listen(
        self, address: str, serve: Serve, *, task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept until cancelled."""
        host, port = parse_address(address)
        name = HostPort(self._host, port or next(self._network._ports))  # noqa: SLF001 - one module
        if host not in ("", self._host) or name in self._network._listeners:  # noqa: SLF001 - one module
            raise ConflictError(f"cannot listen at {address}: it is taken, or another host's")
        put, get = trio.open_memory_channel[MemoryStream](_BACKLOG)
        self._network._listeners[name] = put  # noqa: SLF001 - one module
        try:
            async with trio.open_nursery() as nursery, get:
                task_status.started((str(name),))
                async for stream in get:
                    nursery.start_soon(serve, stream)
        finally:
            del self._network._listeners[name]  # noqa: SLF001 - one module


_BACKLOG: Final = 128
