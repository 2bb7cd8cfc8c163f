"""Nodes come to hold the same records: news at once, along chains, and by comparing what was lost."""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import pytest
import trio
from tests.unit.store_kit import run_inline
from trio.testing import MockClock, wait_all_tasks_blocked

from meshhold.crypto.identity import Identity
from meshhold.errors import PeerUnreachableError
from meshhold.index.sqlite import open_index
from meshhold.model.ids import NodeId
from meshhold.model.stamp import Clock
from meshhold.peering.dispatch import Dispatch
from meshhold.registry.record import Kind, Record, encode_record, sign_by_node
from meshhold.replication.records import record_sync
from meshhold.replication.records.record_keeper import RecordKeeper
from meshhold.replication.records.record_sync import COMPARE_EVERY_S, RecordSync

WALL_MS = 1_700_000_000_000


class Node:
    """One node's registry; a peer is another `Node`, reached by calling its handlers."""

    def __init__(self, number: int, index: Any) -> None:
        self.identity = Identity(bytes([number + 1]) * 32)
        self.id = self.identity.node_id
        self.clock = Clock(self.identity.stamp_node)
        self.keeper = RecordKeeper(index, self.clock, lambda: WALL_MS)
        self.sync = RecordSync(self.keeper, chance=random.Random(number))
        self.dispatch = Dispatch()
        self.sync.register(self.dispatch)
        self.peers: dict[NodeId, Node] = {}
        self.calls: list[str] = []
        self.deaf = False

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        """Ask a peer."""
        assert timeout_s > 0
        if peer not in self.peers or self.peers[peer].deaf:
            raise PeerUnreachableError("it does not answer")
        self.peers[peer].calls.append(name)
        return await self.peers[peer].dispatch.calls[name](self.id, body)

    def linked(self) -> Sequence[NodeId]:
        """Return the peers."""
        return list(self.peers)

    def record(self, key: str, *, deleted: bool = False, note: str = "") -> Record:
        """Return a record of this node about any key."""
        public = {"note": note}
        stamp = self.clock.tick(WALL_MS)
        return sign_by_node(Record(Kind.BAN, key, stamp, deleted=deleted, public=public, private=b""), self.identity)

    @property
    def names(self) -> set[tuple[str, str, bytes]]:
        """What it holds."""
        return set(self.keeper.held)


def link(one: Node, other: Node) -> None:
    one.peers[other.id] = other
    other.peers[one.id] = one


@pytest.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        yield [
            Node(number, await stack.enter_async_context(open_index(None, run_blocking=run_inline)))
            for number in range(4)
        ]


def some_id(number: int) -> str:
    """Return an id that a node could have."""
    return base64.b32encode(number.to_bytes(32, "big")).decode().rstrip("=").lower()


async def run_syncs(nodes: Sequence[Node], nursery: trio.Nursery) -> None:
    for node in nodes:
        nursery.start_soon(node.sync.run, node)
    await wait_all_tasks_blocked()


async def test_news_crosses_a_chain_and_does_not_come_back(nodes: list[Node]) -> None:
    """Each node hands on what was news to it, to everybody but the one it came from; then all is quiet."""
    for one, other in pairwise(nodes):
        link(one, other)
    async with trio.open_nursery() as nursery:
        await run_syncs(nodes, nursery)
        await nodes[0].keeper.write(nodes[0].record(some_id(1)))
        await wait_all_tasks_blocked()
        assert all(node.names == nodes[0].names for node in nodes)
        assert [node.calls for node in nodes] == [[], *[["registry.give/1"]] * 3]
        nursery.cancel_scope.cancel()


async def test_news_in_a_full_mesh_is_given_once_by_each_to_each(nodes: list[Node]) -> None:
    """Nobody gives a record on that it knew already: what is told is bounded by the links."""
    for one in nodes:
        for other in nodes:
            if one is not other:
                link(one, other)
    async with trio.open_nursery() as nursery:
        await run_syncs(nodes, nursery)
        await nodes[0].keeper.write(nodes[0].record(some_id(1)))
        await wait_all_tasks_blocked()
        assert all(node.names == nodes[0].names for node in nodes)
        assert sum(len(node.calls) for node in nodes) <= len(nodes) * (len(nodes) - 1)
        nursery.cancel_scope.cancel()


class Slow:
    """Peers through a node's own way to them, each call held up until `go` is set; what was given is counted."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.go = trio.Event()
        self.under_way = 0
        self.given: list[int] = []

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        """Ask a peer, later."""
        self.under_way += 1
        await self.go.wait()
        self.given.append(len(body["records"]))
        return await self._node.call(peer, name, body, timeout_s=timeout_s)

    def linked(self) -> Sequence[NodeId]:
        """Return the peers."""
        return self._node.linked()


async def test_news_for_a_slow_peer_wait_and_go_together(nodes: list[Node]) -> None:
    """However many records are written meanwhile, one call to it is under way, and the next one takes them all."""
    one, other = nodes[:2]
    link(one, other)
    slow = Slow(one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.sync.run, slow)
        for number in range(12):
            await one.keeper.write(one.record(some_id(number)))
            await wait_all_tasks_blocked()
        await one.keeper.write(one.record(some_id(11), note="newer"))
        await wait_all_tasks_blocked()
        assert slow.under_way == 1
        slow.go.set()
        await wait_all_tasks_blocked()
        assert slow.given == [1, 11]
        assert other.names == one.names
        nursery.cancel_scope.cancel()


async def test_news_for_a_slow_peer_are_bounded(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not wait is found by the next comparison."""
    monkeypatch.setattr(record_sync, "_QUEUED_MAX", 5)
    one, other = nodes[:2]
    link(one, other)
    slow = Slow(one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.sync.run, slow)
        for number in range(12):
            await one.keeper.write(one.record(some_id(number)))
            await wait_all_tasks_blocked()
        slow.go.set()
        await wait_all_tasks_blocked()
        assert slow.given == [1, 5]
        assert await one.sync.compare(one, other.id)
        assert other.names == one.names
        nursery.cancel_scope.cancel()


async def test_what_a_peer_has_just_given_is_not_given_back_in_an_older_form(nodes: list[Node]) -> None:
    one, other = nodes[:2]
    link(one, other)
    slow = Slow(one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.sync.run, slow)
        await one.keeper.write(one.record(some_id(1)))
        await wait_all_tasks_blocked()
        await one.keeper.write(one.record(some_id(2)))
        await wait_all_tasks_blocked()
        other.clock.observe(one.clock.tick(WALL_MS))
        newer = other.record(some_id(2), note="newer")
        await other.keeper.write(newer)
        await other.call(one.id, "registry.give/1", {"records": [encode_record(newer)]}, timeout_s=1)
        await wait_all_tasks_blocked()
        slow.go.set()
        await wait_all_tasks_blocked()
        assert slow.given == [1]
        assert other.names == one.names
        nursery.cancel_scope.cancel()


async def test_what_was_written_on_both_sides_of_a_broken_link(nodes: list[Node]) -> None:
    """One comparison brings both up to date; of two records with one name the later one wins on both."""
    one, other = nodes[:2]
    await one.keeper.write(*(one.record(some_id(n)) for n in range(40)))
    await other.keeper.write(*(other.record(some_id(n)) for n in range(30, 70)))
    await other.keeper.write(other.record(some_id(5), deleted=True))
    link(one, other)
    assert await one.sync.compare(one, other.id)
    assert one.names == other.names
    assert len(one.names) == 70
    assert {other.keeper.registry.get(Kind.BAN, some_id(5)), one.keeper.registry.get(Kind.BAN, some_id(5))} == {None}
    other.calls.clear()
    assert await one.sync.compare(one, other.id)
    assert other.calls == ["registry.compare/1"], "two that are alike exchange digests and nothing else"


async def test_more_records_than_one_message_names(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lacks them gets them all in one comparison, and gives what the other side lacks at its end."""
    monkeypatch.setattr(record_sync, "NAMES_MAX", 40)
    one, other = nodes[:2]
    count = 3 * 40 - 10
    await one.keeper.write(*(one.record(some_id(n)) for n in range(count)))
    await other.keeper.write(other.record(some_id(count)))
    link(one, other)
    assert await other.sync.compare(other, one.id)
    assert len(other.names) == count + 1
    assert one.names == other.names


async def test_what_a_lost_message_held_comes_by_the_next_comparison(
    nodes: list[Node],
    autojump_clock: MockClock,  # noqa: ARG001 - pytest-trio runs the test on it
) -> None:
    one, other = nodes[:2]
    link(one, other)
    other.deaf = True
    async with trio.open_nursery() as nursery:
        await run_syncs([one, other], nursery)
        await one.keeper.write(one.record(some_id(1)))
        await trio.sleep(1)
        assert not other.names
        other.deaf = False
        await trio.sleep(COMPARE_EVERY_S)
        assert other.names == one.names
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"held": [], "buckets": []},
        {"held": [["ban"]], "buckets": [], "whole": True},
        {"held": [[1, 2, 3]], "buckets": [[]], "whole": True},
        {"held": [["ban", "x", b"h" * 8]], "buckets": [0], "whole": 1},
        {"held": [["ban", some_id(1), b"h" * 8]] * 3, "buckets": list(range(64)), "whole": True},
    ],
)
async def test_answers_that_cannot_be_read_change_nothing(nodes: list[Node], answer: Any) -> None:
    """A peer's nonsense ends one comparison: nothing is raised, and this node's records stay as they are."""
    one, other = nodes[:2]
    await one.keeper.write(one.record(some_id(1)))
    before = one.names
    link(one, other)

    async def nonsense(_: NodeId, __: Any) -> Any:
        return answer

    for name in list(other.dispatch.calls):
        other.dispatch.calls[name] = nonsense
    await one.sync.compare(one, other.id)
    assert one.names == before


async def test_leaving_a_mesh_forgets_what_is_not_this_nodes(nodes: list[Node]) -> None:
    """What was forgotten is news again when another node gives it."""
    one, other = nodes[:2]
    await one.keeper.write(one.record(some_id(1)), one.record(some_id(2)))
    link(one, other)
    await other.sync.compare(other, one.id)
    await one.keeper.forget(lambda record: record.key == some_id(1))
    assert {name for _, name, _ in one.names} == {some_id(2)}
    assert one.keeper.registry.known(Kind.BAN, some_id(1)) is None
    await one.sync.compare(one, other.id)
    assert one.names == other.names
