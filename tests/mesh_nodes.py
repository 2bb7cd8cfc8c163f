"""Nodes on the network in memory, each with its links: what tests of peering and of what stands on it begin with."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from inspect import iscoroutinefunction
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock

from meshhold.crypto.identity import Identity
from meshhold.model.ids import NodeId
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.links import Peering, open_peering
from meshhold.peering.settings import LinkEvent, Settings
from meshhold.peering.streams import PeerStream
from meshhold.transport.contract import Transport
from meshhold.transport.memory import MemoryNetwork

T = TypeVar("T")
SWARM_KEY = b"k" * 32
PORT = 7777


class Secrets:
    """32 bytes at a time, the same for the same seed."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self._count = 0

    def __call__(self) -> bytes:
        self._count += 1
        return blake2b(self._seed + self._count.to_bytes(4, "big"), digest_size=32).digest()


class Node:
    """One node by name: its links, what it was told of them, and handlers that tests talk to."""

    def __init__(self, name: str, *, run: int = 1) -> None:
        self.name = name
        self.identity = Identity(blake2b(name.encode(), digest_size=32).digest())
        self.node_id: NodeId = self.identity.node_id
        self.address = f"{name}:{PORT}"
        self.secrets = Secrets(f"{name}/{run}")
        self.rng = random.Random(f"{name}/{run}")
        self.events: list[LinkEvent] = []
        self.notes: list[Any] = []
        self.served: list[Any] = []
        self.cancelled = 0
        self.gate = trio.Event()  # `wait/1` answers once it is set
        self.dispatch = Dispatch()
        self.dispatch.on_call("echo/1", self._echo)
        self.dispatch.on_call("wait/1", self._wait)
        self.dispatch.on_note("note/1", lambda _peer, body: self.notes.append(body))
        self.dispatch.on_stream("back/1", self._send_back)
        self._peering: Peering | None = None

    @property
    def peering(self) -> Peering:
        assert self._peering is not None
        return self._peering

    async def _echo(self, _peer: NodeId, body: Any) -> Any:
        self.served.append(body)
        return body

    async def _wait(self, _peer: NodeId, body: Any) -> Any:
        self.served.append(body)
        try:
            await self.gate.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        return body

    async def _send_back(self, _peer: NodeId, _body: Any, stream: PeerStream) -> None:
        while data := await stream.receive_some():
            await stream.send_all(data)
        await stream.send_eof()

    @asynccontextmanager
    async def up(
        self,
        transport: Transport | MemoryNetwork,
        *,
        keys: tuple[bytes, ...] = (SWARM_KEY,),
        settings: Settings | None = None,
        listens: bool = True,
    ) -> AsyncIterator[Node]:
        """Run the node's links while the block lasts."""
        if isinstance(transport, MemoryNetwork):
            transport = transport.transport(self.name)
        opened = open_peering(
            self.identity,
            keys,
            transport,
            dispatch=self.dispatch,
            settings=settings,
            listen=[self.address] if listens else (),
            new_secret=self.secrets,
            rng=self.rng,
            watch=self.events.append,
        )
        async with opened as self._peering:
            yield self

    def knows(self, *others: Node) -> None:
        """Learn where others listen."""
        for other in others:
            self.peering.learn(other.node_id, [other.address])

    async def echo(self, other: Node, body: Any = b"hello", timeout_s: float = 5.0) -> Any:
        """Call another node's echo."""
        return await self.peering.call(other.node_id, "echo/1", body, timeout_s=timeout_s)


def _run_virtual(main: Any, **options: Any) -> Any:
    options["clock"] = MockClock(autojump_threshold=0)
    return trio.run(main, **options)


def virtual_time(tests: type[T]) -> type[T]:
    """Run each test of a class under a clock of its own that jumps whenever everybody waits."""
    for name, test in list(vars(tests).items()):
        if name.startswith("test_") and iscoroutinefunction(test):
            setattr(tests, name, pytest.mark.trio(run=_run_virtual)(test))
    return tests


async def until(condition: Any, timeout_s: float = 60.0) -> None:
    """Wait, in the test's own time, until `condition()` holds."""
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - conditions are on plain values, and the clock is virtual
            await trio.sleep(0.01)
