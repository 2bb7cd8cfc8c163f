"""A sample of the simulation of whole objects: clean, the same again, and no judge that lets everything pass."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import get_context
from os import cpu_count
from typing import Any, Final

import pytest
import trio
from tests.simulation.chunk_bugs import BUGS, planted
from tests.simulation.chunk_disk import UNSYNCED_S, ChunkIlls, SimulatedChunks
from tests.simulation.chunk_plan import FAULTS, LIVES, draw
from tests.simulation.chunk_sim import main, play_with
from tests.simulation.chunk_streams import WINDOW_BYTES
from tests.simulation.chunk_world import ChunkReport, play
from tests.simulation.index_network import Network, Weather
from trio.testing import MockClock

from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import CallRefusedError, InvalidError, PeerUnreachableError, StorageFailedError, StorageFullError
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.peering.dispatch import Dispatch

SAMPLE: Final = range(1, 21)
VAULT: Final = VaultId("v")
SEALED: Final = b"some sealed bytes"
CHUNK: Final = ChunkId(hash_bytes(SEALED))


def _play_short(seed: int) -> ChunkReport:
    return play(seed, draw(seed, "short"))


def test_twenty_short_lives_show_no_violation() -> None:
    with ProcessPoolExecutor(min(4, cpu_count() or 1), get_context("spawn")) as pool:
        reports = list(pool.map(_play_short, SAMPLE, chunksize=2))
    found = {report.seed: report.violations for report in reports if report.violations}
    assert not found
    assert sum(report.acknowledged for report in reports) > 5 * len(SAMPLE)
    assert sum(report.removed for report in reports) > 20 * len(SAMPLE), "hardly anything was removed"
    assert sum(report.repaired_s > 0 for report in reports) > 6, "hardly anything was to be repaired"


def test_the_same_seed_is_the_same_life() -> None:
    one, other = _play_short(3), _play_short(3)
    assert one.lines == other.lines
    assert one.digest == other.digest
    assert one.digest != _play_short(4).digest


def test_a_planted_bug_is_found() -> None:
    assert any(play_with("ack-early", seed).violations for seed in range(1, 6))


def test_planted_bugs_are_gone_afterwards() -> None:
    for name, bug in BUGS.items():
        before = [getattr(change.target, change.name) for change in bug.changes]
        with planted(name):
            planted_now = [getattr(change.target, change.name) for change in bug.changes]
            assert all(now is not then for now, then in zip(planted_now, before, strict=True))
        assert [getattr(change.target, change.name) for change in bug.changes] == before


def test_plans_have_every_fault_and_every_kind_of_life_now_and_then() -> None:
    plans = [draw(seed) for seed in range(300)]
    assert {kind for plan in plans for kind in plan.weights} == FAULTS.keys()
    assert {plan.factor for plan in plans} == {1, 2, 3}
    assert {plan.untrusted for plan in plans} == {0, 1, 2}
    assert {bug.lives for bug in BUGS.values()} <= {"mixed", *LIVES}


def test_the_program_tells_how_to_see_a_violation_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "1", "--seeds", "1", "--bug", "ack-early"]) == 1
    shown = capsys.readouterr().out
    assert "was acknowledged with chunk" in shown
    assert "python -m tests.simulation.chunk_sim --seed" in shown


# -- the disk --------------------------------------------------------------------------------------------------------


class _Dice:
    """Chance that always says the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        """Return the value."""
        return self.value


def _disk(dice: float, clock: list[float]) -> SimulatedChunks:
    return SimulatedChunks(_Dice(dice), lambda: clock[0], lambda: clock[0])  # type: ignore[arg-type]  # all it uses


def test_a_crash_may_undo_a_renewal_and_a_removal_and_no_put() -> None:
    clock = [1000.0]
    disk = _disk(0.0, clock)
    disk.put(VAULT, CHUNK, SEALED)
    clock[0] = 2000.0
    disk.renew(VAULT, CHUNK)
    disk.crash()
    stat = disk.stat(VAULT, CHUNK)
    assert stat is not None
    assert stat.touched_s == 1000.0
    assert disk.remove_if_unused_since(VAULT, CHUNK, 3000.0)
    disk.crash()
    assert disk.has(VAULT, CHUNK)
    disk.remove_if_unused_since(VAULT, CHUNK, 3000.0)
    clock[0] += UNSYNCED_S + 1
    disk.crash()
    assert not disk.has(VAULT, CHUNK)


def test_an_ill_disk_refuses_and_keeps_what_it_has() -> None:
    disk = _disk(0.0, [1.0])
    disk.put(VAULT, CHUNK, SEALED)
    disk.ills = ChunkIlls(full=True)
    other = ChunkId(hash_bytes(b"other"))
    with pytest.raises(StorageFullError):
        disk.put(VAULT, other, b"other")
    assert not disk.put(VAULT, CHUNK, SEALED)
    assert disk.usage().free == 0
    disk.ills = ChunkIlls(write_fails=0.5, read_fails=0.5)
    for attempt in (disk.get, disk.renew):
        with pytest.raises(StorageFailedError):
            attempt(VAULT, CHUNK)
    assert not disk.verify(VAULT, CHUNK)


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_copy_is_there_and_not_good(seed: int) -> None:
    disk = SimulatedChunks(random.Random(seed), lambda: 1.0, lambda: 1.0)
    disk.put(VAULT, CHUNK, SEALED)
    disk.damage(VAULT, CHUNK)
    assert disk.has(VAULT, CHUNK)
    assert not disk.is_good(VAULT, CHUNK)
    assert not disk.verify(VAULT, CHUNK)
    assert disk.quarantined(VAULT) == [CHUNK.hex()]


# -- streams ---------------------------------------------------------------------------------------------------------


async def _deaf(_peer: NodeId, _body: Any, _stream: Any) -> None:
    await trio.sleep_forever()


class _Host:
    """A node that serves streams until it dies."""

    def __init__(self, name: str) -> None:
        self.node = NodeId(name)
        self.dispatch = Dispatch()
        self.parts: list[trio.CancelScope] = []

    @contextmanager
    def alive(self) -> Iterator[trio.CancelScope]:
        """Run the block until the node dies."""
        with trio.CancelScope() as part:
            self.parts.append(part)
            yield part

    def die(self) -> None:
        """End all that runs."""
        for part in self.parts:
            part.cancel()


@asynccontextmanager
async def _open_network(*hosts: _Host) -> AsyncIterator[Network]:
    network = Network(random.Random(1), Weather(delay_s=0.1, notice_s=2.0))
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        for host in hosts:
            network.arrive(host)
        yield network
        nursery.cancel_scope.cancel()


async def test_a_stream_brings_bytes_in_order_and_an_answer(autojump_clock: MockClock) -> None:
    del autojump_clock
    here, there = _Host("here"), _Host("there")

    async def upper(_: NodeId, body: Any, stream: Any) -> None:
        await stream.send_all((body + await stream.receive_all(100)).upper())
        await stream.send_eof()

    there.dispatch.on_stream("upper/1", upper)
    async with _open_network(here, there) as network:
        links = network.peers_of(here.node)
        async with links.open_stream(there.node, "upper/1", b"a", timeout_s=1) as stream:
            for piece in (b"b", b"c", b"d"):
                await stream.send_all(piece)
            await stream.send_eof()
            assert await stream.receive_exactly(2) == b"AB"
            assert await stream.receive_all(100) == b"CD"


async def test_what_the_handler_raises_comes_as_a_refusal(autojump_clock: MockClock) -> None:
    del autojump_clock
    here, there = _Host("here"), _Host("there")

    async def refuse(_: NodeId, _body: Any, _stream: Any) -> None:
        raise InvalidError("not like this")

    there.dispatch.on_stream("refuse/1", refuse)
    async with _open_network(here, there) as network:
        links = network.peers_of(here.node)
        for name, kind in (("refuse/1", "InvalidError"), ("unknown/1", "UnknownCallError")):
            async with links.open_stream(there.node, name, None, timeout_s=1) as stream:
                with pytest.raises(CallRefusedError) as caught:
                    await stream.receive_all(10)
            assert caught.value.kind == kind


async def test_nobody_sends_more_than_a_window_ahead(autojump_clock: MockClock) -> None:
    del autojump_clock
    here, there = _Host("here"), _Host("there")
    there.dispatch.on_stream("deaf/1", _deaf)
    async with _open_network(here, there) as network:
        links = network.peers_of(here.node)
        async with links.open_stream(there.node, "deaf/1", None, timeout_s=1) as stream:
            await stream.send_all(bytes(WINDOW_BYTES))
            with trio.move_on_after(60) as patience:
                await stream.send_all(b"x")
            assert patience.cancelled_caught


@pytest.mark.parametrize("dies", [True, False])
async def test_a_stream_breaks_when_the_other_side_dies_or_is_cut_off(autojump_clock: MockClock, *, dies: bool) -> None:
    del autojump_clock
    here, there = _Host("here"), _Host("there")
    there.dispatch.on_stream("deaf/1", _deaf)
    async with _open_network(here, there) as network:
        links = network.peers_of(here.node)
        async with links.open_stream(there.node, "deaf/1", None, timeout_s=1) as stream:
            await trio.sleep(1)
            if dies:
                there.die()
                network.leave(there.node)
            else:
                network.cut(here.node, there.node)
                await stream.send_all(b"lost")
            with trio.fail_after(5), pytest.raises(PeerUnreachableError):
                await stream.receive_some()
