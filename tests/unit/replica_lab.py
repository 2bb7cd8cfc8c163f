"""Several replicas of one index in memory, joined by calls that go through the wire's codec. Links can be cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import trio
import trio.testing

from meshhold.errors import CallRefusedError, MeshHoldError, PeerUnreachableError, PreconditionFailedError
from meshhold.index.sqlite import SqliteIndex, open_index
from meshhold.model.configuration import Configuration, found_configuration
from meshhold.model.entry import Entry, ObjectVersion, Space, Value
from meshhold.model.ids import NodeId, VaultId
from meshhold.model.stamp import Clock
from meshhold.peering.dispatch import Dispatch
from meshhold.replication.index.registers import Change, Changed, Registers, Write
from meshhold.replication.index.remote_replica import RemoteReplica
from meshhold.replication.index.replica import LocalReplica
from meshhold.replication.index.replica_service import ReplicaService
from meshhold.replication.index.seats import Seats
from meshhold.wire import codec

VAULT = VaultId("a" * 32)


def version(text: str) -> ObjectVersion:
    """Return a small object."""
    return ObjectVersion(len(text), text, 1, text.encode())


class Member:
    """One node: its replica, its registers, and what it answers to others."""

    def __init__(self, lab: Lab, name: str, index: SqliteIndex) -> None:
        self.id = NodeId(name)
        self.index = index
        self.lab = lab
        self.skew_ms = 0
        self.start()

    def start(self) -> None:
        """Begin with what the index holds, as after a restart."""
        stamp_node = self.id.encode().ljust(8, b".")[:8]
        self.clock = Clock(stamp_node)
        self.seats = Seats(self.id, self.index)
        self.replica = LocalReplica(self.index, self.seats, self.clock, self.now_ms, node=stamp_node)
        self.registers = Registers(
            self.replica, self.seats, partial(RemoteReplica, self), self.clock, self.now_ms, chance=lambda: 0.5
        )
        self.dispatch = Dispatch()
        ReplicaService(self.replica, lambda _vault, _node: True).register(self.dispatch)

    def now_ms(self) -> int:
        """Milliseconds since 1970 by this node's clock."""
        return 1_700_000_000_000 + int(trio.current_time() * 1000) + self.skew_ms

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        """Ask another member, or wait for nothing if the link is cut."""
        return await self.lab.carry(self.id, peer, name, body, timeout_s)

    async def put(self, key: str, text: str) -> Changed:
        """Put an object."""
        return await self.registers.change(VAULT, Space.OBJECTS, key.encode(), lambda _: Write(version(text)))

    async def delete(self, key: str) -> Changed:
        """Delete an object."""
        return await self.registers.change(VAULT, Space.OBJECTS, key.encode(), lambda _: Write(None))

    async def get(self, key: str) -> str | None:
        """Return the object's text, or None."""
        return text_of(await self.registers.read(VAULT, Space.OBJECTS, key.encode()))

    async def keys(self, prefix: str = "", limit: int = 1000) -> list[str]:
        """Return a confirmed page of keys."""
        reading = self.registers.open_reading(VAULT)
        while True:
            rows = await reading.rows(b"", prefix.encode(), limit)
            if await reading.settle():
                return [row.key.decode() for row in rows]


class Lab:
    """The members by name, the links between them and what travelled."""

    def __init__(self) -> None:
        self.members: dict[NodeId, Member] = {}
        self.cut: set[tuple[str, str]] = set()
        self.calls: Counter[str] = Counter()

    def __getitem__(self, name: str) -> Member:
        return self.members[NodeId(name)]

    def isolate(self, name: str) -> None:
        """Cut a member off in both directions."""
        self.cut |= {pair for other in self.members for pair in ((name, other), (other, name))}

    def heal(self) -> None:
        """Mend all links."""
        self.cut.clear()

    async def carry(self, source: NodeId, target: NodeId, name: str, body: Any, timeout_s: float) -> Any:
        """Bring a question to its member and the answer back."""
        self.calls[name] += 1
        if (source, target) in self.cut:
            await trio.sleep(timeout_s)
            raise PeerUnreachableError(f"{target} is cut off from {source}")
        member = self.members[target]
        try:
            answer = await member.dispatch.calls[name](source, codec.decode(codec.encode(body)))
        except MeshHoldError as error:
            raise CallRefusedError(error.message, error.fix, kind=type(error).__name__) from error
        if (target, source) in self.cut:
            await trio.sleep(timeout_s)
            raise PeerUnreachableError(f"the answer of {target} does not reach {source}")
        return codec.decode(codec.encode(answer))

    async def adopt(self, configuration: Configuration) -> None:
        """Let every member go by a configuration, as if it had been chosen."""
        for member in self.members.values():
            await member.seats.adopt(VAULT, configuration)
            seat = configuration.seat_of(member.id)
            if seat is not None:
                await member.seats.enrol(VAULT, seat.since)


@asynccontextmanager
async def open_lab(names: Sequence[str], seats: int = 3) -> AsyncIterator[Lab]:
    """Open members with these names, the first `seats` of which keep the index."""
    lab = Lab()
    async with AsyncExitStack() as stack:
        for name in names:
            lab.members[NodeId(name)] = Member(lab, name, await stack.enter_async_context(open_index(None)))
        await lab.adopt(found_configuration([NodeId(name) for name in names[:seats]]))
        nursery = await stack.enter_async_context(trio.open_nursery())
        for member in lab.members.values():
            nursery.start_soon(member.registers.run)
        await trio.testing.wait_all_tasks_blocked()
        yield lab
        nursery.cancel_scope.cancel()


def text_of(entry: Entry | None) -> str | None:
    """Return the text of an object's entry."""
    value: Value | None = None if entry is None else entry.value
    return value.etag if isinstance(value, ObjectVersion) else None


def once(text: str) -> Any:
    """Return a decision that creates what is not there, and otherwise refuses."""

    def decide(current: Value | None) -> Change:
        if current is not None:
            raise PreconditionFailedError("it exists", "If-None-Match")
        return Write(version(text))

    return decide
