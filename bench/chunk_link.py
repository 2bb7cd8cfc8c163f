"""`python -m bench.chunk_link`: what a chunk costs on its way over a link, in processor time of both sides.

Two processes on loopback, with everything that lies between a writer and another node's chunk store, and no disk: the
store is a dictionary. Counted is what the scheduler gave each process, so other work on the machine moves it little; of
several rounds the cheapest counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from bench.cases import KIB, MIB
from bench.report import layout
from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.crypto.hashing import hash_bytes
from meshhold.crypto.identity import Identity
from meshhold.model.ids import ChunkId, VaultId
from meshhold.node.memory import keep_large_blocks
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.links import open_peering
from meshhold.replication.chunks.chunk_service import ChunkService
from meshhold.replication.chunks.remote_chunks import RemoteChunks
from meshhold.transport.tcp import TcpTransport

ROUNDS: Final = 5
_OVERHEAD: Final = 17
_RUNS: Final = tuple((size, lanes, 64 * MIB // (size + 64 * KIB) // 2) for size in (64 * KIB, MIB) for lanes in (1, 8))
_HERE, _THERE = Identity(b"h" * 32), Identity(b"t" * 32)
_SWARM_KEY: Final = b"k" * 32
_VAULT: Final = VaultId("a" * 32)


async def _run_inline(function: Callable[..., Any], /, *arguments: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return function(*arguments)


def _spent_us(pid: int) -> float:
    """Return the processor time of a process, all its threads."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e3


async def _serve() -> None:
    dispatch = Dispatch()
    nobody: Any = None  # it is asked for chunks only
    yes = lambda _vault, _peer: True  # noqa: E731 - both are members
    service = ChunkService(MemoryChunkStore(), _run_inline, yes, yes, nobody, nobody, nobody)
    service.register(dispatch)
    async with open_peering(_THERE, [_SWARM_KEY], TcpTransport(), dispatch=dispatch, listen=["127.0.0.1:0"]) as peering:
        print(peering.addresses[0], flush=True)
        await trio.sleep_forever()


async def _measure(address: str, other: int) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [("chunk", "at once", "asker us", "keeper us", "both us")]
    async with open_peering(_HERE, [_SWARM_KEY], TcpTransport(), dispatch=Dispatch()) as peering:
        await peering.join(address)
        remote = RemoteChunks(peering, _THERE.node_id)
        for size, lanes, count in _RUNS:
            for verb in ("put", "get"):
                rounds = [await _round(remote, verb, size, lanes, count, other) for _ in range(ROUNDS)]
                mine, theirs = min(rounds, key=sum)
                costs = (f"{each:,.0f}" for each in (mine, theirs, mine + theirs))
                lines.append((f"{verb} {size // KIB} KiB", str(lanes), *costs))
    return lines


async def _round(remote: RemoteChunks, verb: str, size: int, lanes: int, count: int, other: int) -> tuple[float, float]:
    """Return microseconds a chunk: of this process and of the other one."""
    sealed = os.urandom(size + _OVERHEAD)
    chunk = ChunkId(hash_bytes(sealed))
    await remote.put(_VAULT, chunk, sealed)

    async def lane() -> None:
        for _ in range(count // lanes):
            if verb == "put":
                await remote.put(_VAULT, chunk, sealed)
            else:
                await remote.get(_VAULT, chunk, len(sealed))

    before = _spent_us(os.getpid()), _spent_us(other)
    async with trio.open_nursery() as nursery:
        for _ in range(lanes):
            nursery.start_soon(lane)
    done = count // lanes * lanes
    return (_spent_us(os.getpid()) - before[0]) / done, (_spent_us(other) - before[1]) / done


def main() -> None:
    """Measure and print a table."""
    command = [sys.executable, "-m", "bench.chunk_link", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            address = (other.stdout.readline() if other.stdout else "").strip()
            print(layout(trio.run(_measure, address, other.pid)))
        finally:
            other.kill()


if __name__ == "__main__":
    keep_large_blocks()  # as a node does: without it half a millisecond of each MiB are page faults
    if sys.argv[1:] == ["serve"]:
        trio.run(_serve)
    else:
        main()
