"""Bodies to chunks and back, on one node and on several: hops, prefetch, manifests kept opened, long writes."""

# ruff: noqa: ARG001 - pytest-trio finds the clock among the arguments only
from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from tests.unit.copies_lab import Lab, running
from tests.unit.store_kit import KIB, MIB, BytesBody, StoreKit, Wall, open_kit, run_inline
from trio.testing import MockClock

from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ContentElsewhereError, UnavailableError
from meshhold.model.entry import Ref
from meshhold.model.ids import NodeId
from meshhold.replication.chunks import reader as reader_module
from meshhold.replication.chunks.byte_budget import ByteBudget
from meshhold.replication.chunks.reader import AHEAD_OF_LINKS, ChunkReader
from meshhold.replication.chunks.writer import CHUNKS_IN_FLIGHT, LONG_WRITE_S, ChunkWriter
from meshhold.sealing.content import Content
from meshhold.sealing.manifest import REFS_IN_ENTRY_MAX
from meshhold.store.contract import Metadata
from meshhold.store.renewal import Renewal

KEYS = VaultKeys(b"k" * 32)


class Hops:
    """Counts how often work leaves the event loop."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.count += 1
        return await run_inline(function, *arguments)


class Watched(ByteBudget):
    """Remembers the most bytes that were taken at once."""

    most = 0

    async def take(self, amount: int) -> None:
        await super().take(amount)
        self.most = max(self.most, self.size - self.free)


async def read(reader: ChunkReader, content: Content, start: int, stop: int) -> bytes:
    pieces: list[bytes] = []

    async def sink(piece: bytes) -> None:
        pieces.append(piece)

    await reader.copy(KEYS, content, start, stop, sink)
    return b"".join(pieces)


def noise(size: int) -> bytes:
    """Return bytes of which no two mebibytes are the same."""
    return b"".join(at.to_bytes(4, "big") * 64 for at in range(size // 256 + 1))[:size]


@pytest.mark.parametrize("others", [None, 0])
async def test_a_node_alone_hops_once_for_a_small_write_and_once_for_a_read(others: int | None) -> None:
    hops = Hops()
    lab = Lab(others or 0, blocking=hops)
    copies = None if others is None else lab.copies
    writer, reader = ChunkWriter(lab.chunks, hops, copies=copies), ChunkReader(lab.chunks, hops, copies=copies)
    for size, reads in ((64 * KIB, 0), (200 * KIB, 1)):
        before = hops.count
        written = await writer.write(KEYS, BytesBody(noise(size)))
        assert hops.count - before == 1
        assert await read(reader, written.content, 0, size) == noise(size)
        assert hops.count - before == 1 + reads


@pytest.mark.parametrize("me_reliable", [True, False])
async def test_what_was_written_is_on_three_nodes_and_read_from_any(
    autojump_clock: MockClock, *, me_reliable: bool
) -> None:
    lab = Lab(4, me_reliable=me_reliable)
    writer = ChunkWriter(lab.chunks, run_inline, copies=lab.copies)
    reader = ChunkReader(lab.chunks, run_inline, copies=lab.copies)
    body = noise(3 * MIB + 5)
    async with running(lab):
        written = await writer.write(KEYS, BytesBody(body))
        for ref in written.content.refs:
            mine = lab.chunks.has(KEYS.vault_id, ref.chunk)
            assert mine + sum(ref.chunk in shelf.kept for shelf in lab.shelves.values()) == 3
        for gone in lab.shelves:
            lab.down = {gone}
            assert await read(reader, written.content, 0, len(body)) == body
        assert await read(reader, written.content, MIB - 3, MIB + 3) == body[MIB - 3 : MIB + 3]
        lab.down = set(lab.shelves)
        lab.chunks.drop_vault(KEYS.vault_id)
        with pytest.raises(ContentElsewhereError):
            await read(reader, written.content, 0, len(body))


async def test_a_short_body_and_its_manifest_go_to_others_too(autojump_clock: MockClock) -> None:
    lab = Lab(3, me_reliable=False)
    writer = ChunkWriter(lab.chunks, run_inline, copies=lab.copies)
    reader = ChunkReader(lab.chunks, run_inline, copies=lab.copies)
    async with running(lab):
        written = await writer.write(KEYS, BytesBody(noise(20 * KIB)))
        refs = [*written.content.refs] * (REFS_IN_ENTRY_MAX + 1)
        content = await writer.pack(KEYS, refs)
        assert content.refs[0].depth == 1
        assert len(lab.shelves[NodeId("n1")].kept) == 2
        assert await read(reader, content, 0, 17 * 20 * KIB) == noise(20 * KIB) * 17
        assert len(list(lab.chunks.scan(KEYS.vault_id))) == 0


@pytest.mark.parametrize(("size", "calls", "hops"), [(KIB, 0, 0), (64 * KIB, 1, 0), (200 * KIB, 1, 1), (2 * MIB, 1, 4)])
async def test_what_is_to_be_done_before_a_write_waits_is_done_once(
    size: int, calls: int, hops: int, autojump_clock: MockClock
) -> None:
    """… and not at all where it waits for nobody; small bodies for others are hashed and sealed on the loop."""
    hashing, done = Hops(), 0

    def count() -> None:
        nonlocal done
        done += 1

    lab = Lab(3)
    async with running(lab):
        writer = ChunkWriter(lab.chunks, hashing, copies=lab.copies)
        written = await writer.write(KEYS, BytesBody(noise(size)), before_waiting=count)
    assert (written.size, done, hashing.count) == (size, calls, hops)


@pytest.mark.parametrize(("size", "dear", "inline"), [(4, True, True), (5, True, False), (16, False, True)])
async def test_a_small_body_stays_in_its_entry_where_that_is_not_the_dearer_place(
    size: int, dear: bool, inline: bool
) -> None:
    lab = Lab(0)
    writer = ChunkWriter(lab.chunks, run_inline, copies=lab.copies, is_index_dear=lambda _: dear)
    written = await writer.write(KEYS, BytesBody(noise(size * KIB)))
    assert (written.content.inline is not None) == inline


async def test_chunks_of_others_are_asked_for_ahead(autojump_clock: MockClock) -> None:
    """Over a line with a long round trip several travel at once; no more than the bound."""
    lab = Lab(3, me_reliable=False)
    for shelf in lab.shelves.values():
        shelf.delay_s = 0.1
    writer = ChunkWriter(lab.chunks, run_inline, copies=lab.copies)
    reader = ChunkReader(lab.chunks, run_inline, copies=lab.copies)
    async with running(lab):
        written = await writer.write(KEYS, BytesBody(noise(12 * MIB)))
        budget = lab.copies._fetching.budget = Watched(64 * MIB)
        began_s = trio.current_time()
        await read(reader, written.content, 0, 12 * MIB)
        assert trio.current_time() - began_s < 0.5
        assert AHEAD_OF_LINKS * MIB <= budget.most <= (AHEAD_OF_LINKS + 1) * 1.01 * MIB


async def test_chunks_go_out_ahead_and_all_writes_together_keep_the_bound(autojump_clock: MockClock) -> None:
    """Slow disks of others hold up one large write less; several share what is taken ahead, and give it back."""
    lab = Lab(3, me_reliable=False)
    for shelf in lab.shelves.values():
        shelf.delay_s = 0.1
    writer = ChunkWriter(lab.chunks, run_inline, copies=lab.copies)
    writer._ahead = trio.Semaphore(2)
    async with running(lab):
        budget = lab.copies._keeping.budget = Watched(64 * MIB)
        began_s = trio.current_time()
        await writer.write(KEYS, BytesBody(noise((CHUNKS_IN_FLIGHT + 2) * 2 * MIB)))
        assert trio.current_time() - began_s < 0.25
        with trio.move_on_after(0.05):
            await writer.write(KEYS, BytesBody(noise(6 * MIB)))
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(writer.write, KEYS, BytesBody(noise(5 * MIB)))
        most = 2 + 2 * CHUNKS_IN_FLIGHT
        assert (most - 1) * MIB <= budget.most <= most * 1.01 * MIB


async def test_a_manifest_that_is_read_again_is_not_fetched_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(1, 1, me_reliable=False)
    [shelf] = lab.shelves.values()
    writer = ChunkWriter(lab.chunks, run_inline, copies=lab.copies)
    reader = ChunkReader(lab.chunks, run_inline, copies=lab.copies)

    async def make(first: int) -> Ref:
        refs = [await writer.store_block(KEYS, bytes([first, at]) * 100) for at in range(REFS_IN_ENTRY_MAX + 1)]
        [node] = (await writer.pack(KEYS, refs)).refs
        return node

    async with running(lab):
        nodes = [await make(first) for first in range(3)]
        shelf.asked.clear()
        for _ in range(5):
            await reader.node(KEYS, nodes[0])
        assert len(shelf.asked) == 1
        monkeypatch.setattr(reader_module, "NODES_MAX_BYTES", 2 * 17 * 256)
        for node in nodes:
            await reader.node(KEYS, node)
            await reader.node(KEYS, node)
        assert len(shelf.asked) == 3
        assert len(reader._nodes) == 2
        await reader.node(KEYS, nodes[0])  # the oldest had to go
        assert len(shelf.asked) == 4
        assert reader._nodes_refs == sum(len(refs) for refs in reader._nodes.values()) == 34


# -- long writes ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as opened:
        yield opened


def slow_body(wall: Wall, hours: float, then: Callable[[], None] = lambda: None) -> BytesBody:
    async def before(piece: int) -> None:
        if piece == 6:
            wall.pass_s(hours * 3600)
            then()

    return BytesBody(noise(2 * MIB), before=before)


@pytest.mark.parametrize(("hours", "renewed"), [(5.9, False), (6.1, True)])
@pytest.mark.parametrize("what", ["object", "part"])
async def test_a_long_write_renews_its_chunks_before_its_entry(
    kit: StoreKit, what: str, hours: float, *, renewed: bool
) -> None:
    bucket = await kit.bucket()
    body = slow_body(kit.wall, hours)
    if what == "object":
        await kit.objects.put(bucket, b"k", body, Metadata())
    else:
        upload_id, _ = await kit.upload(bucket, b"k")
        await kit.uploads.put_part(bucket, b"k", upload_id, 1, body)
    touched = sorted(stat.touched_s for stat in kit.chunks.scan(bucket.id))
    assert (touched[0] == kit.wall.now_s()) == renewed
    assert LONG_WRITE_S == 6 * 3600


async def test_a_long_write_whose_chunk_is_gone_is_refused(kit: StoreKit) -> None:
    bucket = await kit.bucket()
    body = slow_body(kit.wall, 25, lambda: kit.chunks.drop_vault(bucket.id))
    with pytest.raises(UnavailableError, match="upload it again, in parts"):
        await kit.objects.put(bucket, b"k", body, Metadata())
    assert kit.object_count(bucket.id) == 0


async def test_a_clock_that_is_set_back_hides_no_time(autojump_clock: MockClock) -> None:
    wall = Wall()
    lab = Lab(0)
    writer = ChunkWriter(lab.chunks, run_inline, now_s=wall.now_s)
    with writer.in_flight() as flight:
        wall.pass_s(-86_400)
        assert not flight.is_long
        await trio.sleep(LONG_WRITE_S + 1)
        assert flight.is_long
    assert writer.oldest_start_s == float("inf")


async def test_renewal_asks_the_other_nodes(autojump_clock: MockClock) -> None:
    lab = Lab(2)
    writer = ChunkWriter(lab.chunks, run_inline, copies=lab.copies)
    reader = ChunkReader(lab.chunks, run_inline, copies=lab.copies)
    async with running(lab):
        written = await writer.write(KEYS, BytesBody(noise(2 * MIB)))
        await Renewal(lab.chunks, reader, run_inline, copies=lab.copies).renew(KEYS, written.content)
    wanted = {ref.chunk for ref in written.content.refs}
    assert all(set(shelf.renewed) == wanted for shelf in lab.shelves.values())
