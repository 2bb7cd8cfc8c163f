"""Copies that are lacking come back by themselves, from whoever has them, and people can see how far that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from tests.unit.repair_lab import EPOCH_S, VAULT, Lab, LabNode, Link, chunk_of
from trio.testing import MockClock

from meshhold.errors import StorageFailedError
from meshhold.model.ids import ChunkId, VaultId
from meshhold.replication.chunks import local_chunks
from meshhold.replication.chunks.bulk import BATCH_MAX, BATCH_SIZE
from meshhold.replication.repair import pulling
from meshhold.replication.repair.leases import LEASE_S
from meshhold.replication.repair.pulling import KEEPING_MAX
from meshhold.replication.repair.repair import EVERY_S, PAUSE_S, RETRY_S, SOON_S
from meshhold.replication.repair.repair_progress import RATE_WINDOW_S, SHORT_MAX, Progress, Rate
from meshhold.replication.repair.transfers import FAILURES_MAX, IN_FLIGHT_MAX
from meshhold.sealing.chunker import CHUNK_SIZE


def spoil(node: LabNode, chunk: ChunkId) -> None:
    """Let a node's copy rot."""
    held = node.store._vaults[VAULT][chunk]
    node.store._vaults[VAULT][chunk] = (b"?" * len(held[0]), held[1])


def stocked(names: str = "abc", count: int = 60, **settings: Any) -> tuple[Lab, list[ChunkId]]:
    """Return nodes that have all chunks where they should be."""
    lab = Lab(names, **settings)
    view = lab[names[0]].holders.seen
    chunks = [lab.put(str(n), *view.holders(chunk_of(str(n))[0])) for n in range(count)]
    assert lab.is_settled()
    return lab, chunks


async def test_a_wiped_node_is_refilled_by_all_others_and_copies_keep_their_age() -> None:
    lab, chunks = stocked()
    had = lab["a"].chunks()
    lab["a"].store.drop_vault(VAULT)
    assert await lab["a"].repair.pass_over(VAULT)
    assert lab["a"].chunks() == had
    assert lab.is_settled()
    assert {node for node, _ in lab.batches} == {"b", "c"}
    assert {stat.touched_s for stat in lab["a"].store.scan(VAULT)} == {EPOCH_S - 1_000}
    shown = lab["a"].repair.progress()[VAULT].show(trio.current_time())
    assert (shown["chunks_done"], shown["chunks_left"], shown["complete"]) == (len(had), 0, True)
    assert len(chunks) == 60


async def test_a_wiped_node_is_not_asked_for_the_names_of_nothing() -> None:
    """While it fetches it has better things to do than to tell each fellow, for each partition, that it has none."""
    lab, _ = stocked()
    lab["a"].store.drop_vault(VAULT)
    for node in "bc":
        await lab[node].repair.pass_over(VAULT)
        assert lab[node].repair.progress()[VAULT].show(trio.current_time())["complete"] is False
    assert not lab.listed
    await lab["a"].repair.pass_over(VAULT)
    assert {node for node, _ in lab.listed} == {"b", "c"}
    assert lab.is_settled()


async def test_small_chunks_are_soon_asked_for_by_many_and_large_ones_one_by_one() -> None:
    lab, _ = stocked(factor=3, count=600)
    lab["a"].store.drop_vault(VAULT)
    await lab["a"].repair.pass_over(VAULT)
    assert lab.batches[0][1] == 1
    assert max(count for _, count in lab.batches) == BATCH_MAX
    assert lab.moved < 150
    assert len(lab["a"].chunks()) == 600
    for number in range(40):
        lab.put("x" * CHUNK_SIZE + str(number), "b", "c")
    await lab["a"].repair.pass_over(VAULT)
    assert len(lab["a"].chunks()) == 640
    assert lab.batches[-1][1] == 1


async def test_what_did_not_fit_into_an_answer_is_asked_for_again() -> None:
    """Whoever takes chunks to be small gets as many as make a batch, and the rest by further questions."""
    lab, _ = stocked("ab", 200)
    await lab["a"].repair.pass_over(VAULT)
    lab["a"].store.drop_vault(VAULT)
    await lab["a"].repair.pass_over(VAULT)
    large = [lab.put("x" * (BATCH_SIZE // 3) + str(number), "b") for number in range(30)]
    assert await lab["a"].repair.pass_over(VAULT)
    assert lab["a"].chunks() >= set(large)


async def test_partitions_of_many_chunks_are_listed_as_answers_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer tells of more than it has room for; a partition that has more comes by itself, page by page."""
    monkeypatch.setattr(local_chunks, "IDS_MAX", 20)
    lab, _ = stocked("ab", 150)
    lab["a"].store.drop_vault(VAULT)
    assert await lab["a"].repair.pass_over(VAULT)
    assert lab.is_settled()
    assert len(lab["a"].chunks()) == 150


async def test_bytes_that_are_not_the_chunks_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fellow's word is not taken for it: another one is asked."""
    lab, _ = stocked(factor=3)
    had = lab["a"].chunks()
    lab["a"].store.drop_vault(VAULT)
    get_many = Link.get_many

    async def lie(link: Link, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bytes | None]:
        pieces = await get_many(link, vault, chunks)
        return pieces if link._target.id == "c" else [b"other bytes"] * len(pieces)

    monkeypatch.setattr(Link, "get_many", lie)
    assert await lab["a"].repair.pass_over(VAULT)
    assert lab["a"].chunks() == had
    assert all(lab["a"].store.verify(VAULT, chunk) for chunk in had)
    monkeypatch.setattr(Link, "get_many", get_many)
    lab["a"].store.drop_vault(VAULT)
    spoilt = min(had)
    for node in "bc":
        spoil(lab[node], spoilt)
    assert not await lab["a"].repair.pass_over(VAULT)
    assert lab["a"].chunks() == had - {spoilt}


async def test_equal_nodes_move_nothing() -> None:
    lab, _ = stocked()
    assert await lab.pass_all()
    assert lab.moved == 0


async def test_different_sources_are_asked_at_once_within_bounds(
    autojump_clock: MockClock,  # noqa: ARG001 - time passes at once
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slow links are waited for side by side: a refill takes as long as its chunks by places, not one by one."""
    monkeypatch.setattr(pulling, "BATCH_MAX", 1)
    lab, _ = stocked(count=120, factor=3)
    lab["a"].store.drop_vault(VAULT)
    lab.delays = (1.0,)
    began_s = trio.current_time()
    await lab["a"].repair.pass_over(VAULT)
    per_chunk_s = 4  # there, reading, back, writing
    assert len(lab["a"].chunks()) == 120
    assert 120 * per_chunk_s / IN_FLIGHT_MAX <= trio.current_time() - began_s < 2.5 * 120 * per_chunk_s / IN_FLIGHT_MAX
    asked = [lab.batches.count((name, 1)) for name in lab.nodes]
    assert asked[0] == 0
    assert min(asked[1:]) > 40


async def test_few_batches_are_written_at_once(
    autojump_clock: MockClock,  # noqa: ARG001 - time passes at once
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Peers' questions find a thread free however much is under way here."""
    monkeypatch.setattr(pulling, "BATCH_MAX", 2)
    lab, _ = stocked(count=120, factor=3)
    node = lab["a"]
    node.store.drop_vault(VAULT)
    at_once: list[int] = [0]
    running = 0
    run_blocking = node.repair._transfers.run_blocking

    async def counted(function: Any, /, *arguments: Any) -> Any:
        nonlocal running
        is_keeping = function == node.repair._refill._pulling._keep
        running += is_keeping
        at_once.append(running)
        try:
            await trio.sleep(1)
            return await run_blocking(function, *arguments)
        finally:
            running -= is_keeping

    node.repair._transfers.run_blocking = counted
    assert await node.repair.pass_over(VAULT)
    assert max(at_once) == KEEPING_MAX


async def test_what_one_has_not_after_all_is_asked_of_another() -> None:
    """A bad copy costs a question; what nobody has is shown, and stops nothing else."""
    lab = Lab("abc", factor=3)
    chunks = [lab.put(str(n), "b", "c") for n in range(20)]
    for chunk in chunks[:10]:
        spoil(lab["b"], chunk)
    spoil(lab["c"], chunks[0])
    assert not await lab["a"].repair.pass_over(VAULT)
    assert lab["a"].chunks() == set(chunks[1:])
    progress = lab["a"].repair.progress()[VAULT]
    assert progress.short == {chunks[0]}
    lab.put("0", "c")
    await lab["a"].repair.pass_over(VAULT)
    assert lab["a"].chunks() == set(chunks)
    await lab["a"].repair.pass_over(VAULT)
    assert chunks[0] in progress.short, "a fellow lacks it still"
    await lab["b"].repair.pass_over(VAULT)
    assert await lab["a"].repair.pass_over(VAULT)


async def test_a_dead_peer_is_asked_a_bounded_number_of_times(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    lab, _ = stocked("ab", 40)
    lab["a"].store.drop_vault(VAULT)
    lab.loss = 1.0
    assert not await lab["a"].repair.pass_over(VAULT)
    assert "does not tell" in lab["a"].repair.progress()[VAULT].waiting
    lab.loss = 0.0
    get_many = Link.get_many

    async def breaks(link: Link, vault: VaultId, chunks: Sequence[ChunkId]) -> list[bytes | None]:
        lab.loss = 1.0
        return await get_many(link, vault, chunks)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Link, "get_many", breaks)
        assert not await lab["a"].repair.pass_over(VAULT)
    assert FAILURES_MAX <= lab.moved <= FAILURES_MAX + IN_FLIGHT_MAX
    assert lab["a"].repair.progress()[VAULT].short_count == 40


async def test_a_full_node_says_so_and_is_stood_in_for(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    """The next in order takes what a full holder lacks, and gives it back once there is room."""
    lab = Lab("abcd", capacity_bytes=10_000)
    chunks = [lab.put(f"{n:03}" * 20, *lab["a"].holders.seen.holders(chunk_of(f"{n:03}" * 20)[0])) for n in range(40)]
    had = lab["a"].chunks()
    lab["a"].store.drop_vault(VAULT)
    filler, sealed = chunk_of("x" * 9_990)
    lab["a"].store.put("f" * 32, filler, sealed)  # type: ignore[arg-type]  # another vault's
    await trio.sleep(LEASE_S)
    assert not await lab["a"].repair.pass_over(VAULT)
    assert "no room" in lab["a"].repair.progress()[VAULT].waiting
    assert (await lab["a"].inventory.digests(VAULT, 3)).is_full
    await lab.pass_all()
    assert all(len(lab.whereabouts(chunk)) == 2 for chunk in chunks)
    await lab.pass_all()
    assert all(len(lab.whereabouts(chunk)) == 2 for chunk in chunks), "what was spilled stays, and is spilled once"
    lab["a"].store.drop_vault("f" * 32)  # type: ignore[arg-type]  # another vault's
    for _ in range(2):
        await trio.sleep(LEASE_S)
        await lab.pass_all()
    assert lab["a"].chunks() == had
    assert lab.is_settled()
    assert not lab.faults


async def test_a_leaving_node_ends_empty(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    lab, chunks = stocked("abcd", 40)
    lab.all_see(lab.view("bcd"))
    await trio.sleep(LEASE_S)
    assert lab["a"].chunks()
    for _ in range(3):
        await lab.pass_all()
        await trio.sleep(LEASE_S)
    assert not lab["a"].chunks()
    assert lab.is_settled()
    assert all(len(lab.whereabouts(chunk)) == 2 for chunk in chunks)
    assert not lab.faults


async def test_copies_from_the_future_are_as_young_as_now() -> None:
    """An age is a peer's word."""
    lab = Lab("ab")
    chunk = lab.put("x", "b", touched_s=EPOCH_S + 1e9)
    await lab["a"].repair.pass_over(VAULT)
    stat = lab["a"].store.stat(VAULT, chunk)
    assert stat is not None
    assert stat.touched_s <= lab.now_s()


async def test_a_node_alone_looks_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab("a", factor=3)
    lab.put("x", "a")
    for name in ("scan", "list_slice", "slice_mark", "usage"):
        monkeypatch.delattr(f"meshhold.chunkstore.memory.MemoryChunkStore.{name}")
    assert await lab["a"].repair.pass_over(VAULT)


async def test_who_is_no_member_repairs_nothing() -> None:
    lab, _ = stocked()
    await lab["a"].repair.pass_over(VAULT)
    lab["a"].holders.seen = None  # type: ignore[assignment]  # as for a node that is no member any more
    assert await lab["a"].repair.pass_over(VAULT)
    assert lab["a"].repair.progress() == {}


async def test_passes_begin_when_something_happens(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    """At the start, soon after a trigger, a minute later while something is left, else after ten minutes."""
    lab, _ = stocked()
    passes: list[float] = []
    outcomes = [True, False, True, True, True]
    repair = lab["a"].repair

    async def pass_over(_vault: object) -> bool:
        passes.append(trio.current_time() - began_s)
        await trio.lowlevel.checkpoint()
        return outcomes[len(passes) - 1]

    repair.pass_over = pass_over  # type: ignore[method-assign,assignment]  # only when it is called is looked at
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(repair.run)
        await trio.sleep(10)
        assert passes == [pytest.approx(SOON_S)]
        repair.greet(lab["b"].id)
        repair.greet(lab["b"].id)
        await trio.sleep(1)
        assert passes[1:] == [pytest.approx(10 + SOON_S)]
        await trio.sleep(1.1 * RETRY_S)
        assert passes[2] == pytest.approx(10 + RETRY_S, rel=0.15)
        await trio.sleep(0.85 * EVERY_S)
        assert len(passes) == 3
        await trio.sleep(0.3 * EVERY_S)
        assert len(passes) == 4
        nursery.cancel_scope.cancel()


async def test_triggers_that_never_end_leave_a_pause(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    """Each write of a node whose fellow is away is a trigger."""
    lab, _ = stocked(count=5)
    ended = 0
    repair = lab["a"].repair
    ask = repair._ask_digests

    async def counted(*arguments: Any) -> None:
        nonlocal ended
        ended += 1
        await ask(*arguments)

    repair._ask_digests = counted  # type: ignore[method-assign,assignment]  # counts the passes
    async with trio.open_nursery() as nursery:
        nursery.start_soon(repair.run)
        for _ in range(200):
            await trio.sleep(0.1)
            repair.soon(VAULT)
        nursery.cancel_scope.cancel()
    assert 5 <= ended <= 20 / PAUSE_S + 2


async def test_a_disk_that_fails_is_shown_and_tried_again(autojump_clock: MockClock) -> None:  # noqa: ARG001 - time passes at once
    lab, chunks = stocked(count=10)
    lab["a"].store.drop_vault(VAULT)
    store = lab["a"].store

    def fails(*_arguments: object) -> bool:
        raise StorageFailedError("the disk does not answer", "look at its cable")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "put", fails)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lab["a"].repair.run)
            await trio.sleep(5)
            assert "cable" in lab["a"].repair.progress()[VAULT].waiting
            patched.undo()
            await trio.sleep(2 * RETRY_S)
            nursery.cancel_scope.cancel()
    assert lab.is_settled()
    assert chunks


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    rate = Rate()
    assert rate.per_s(0.0) == 0.0
    for second in range(100):
        rate.add(500, second + 0.2)
        rate.add(500, second + 0.7)
    assert rate.per_s(99.9) == pytest.approx(1_000, rel=0.05)
    assert rate.per_s(110.0) < 1_000
    assert rate.per_s(100.0 + RATE_WINDOW_S) == 0.0
    rate.add(1_000, 500.0)
    assert rate.per_s(501.0) == 1_000


def test_progress_tells_what_is_left_and_how_long_it_takes() -> None:
    progress = Progress()
    progress.begin()
    assert progress.eta_s(0.0) == 0.0
    progress.chunks_left = 100
    assert progress.eta_s(0.0) is None
    for second in range(10):
        progress.moved(1_000, float(second))
    shown = progress.show(10.0)
    assert (shown["bytes_left"], shown["bytes_per_s"], shown["eta_s"]) == (100_000, 1_000, 100.0)
    for number in range(SHORT_MAX + 5):
        progress.lacks(chunk_of(str(number))[0])
        progress.lacks(chunk_of(str(min(number, SHORT_MAX - 1)))[0])
    assert (progress.short_count, len(progress.short)) == (SHORT_MAX + 5, SHORT_MAX)
    progress.wait_for("first")
    progress.wait_for("second")
    assert progress.show(10.0)["waiting"] == "first"
