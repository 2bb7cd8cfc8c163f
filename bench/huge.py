"""How much memory does one object of many GiB cost, up and down? A fresh node, a client that holds one block."""

from __future__ import annotations

import hashlib
import http.client
import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.cases import KIB, MIB
from bench.client import open_client
from bench.failures import BenchError
from bench.memory import Memory, MemorySampler
from bench.meshhold_target import MeshHold
from bench.report import layout, mib

_BLOCK: Final = MIB
_STRIDE: Final = 64 * KIB  # a counter in each makes every block new to a store that deduplicates
_TIMEOUT_S: Final = 300.0
_KEY: Final = "huge"


@dataclass(frozen=True, slots=True)
class HugeRow:
    """One transfer: its size and time, and the daemon's peaks since its start, in bytes."""

    direction: str
    size: int
    seconds: float
    peak_rss: int
    peak_hwm: int
    failure: str


def run_huge(folder: Path, size: int) -> list[HugeRow]:
    """Upload and download `size` bytes and compare their hashes. A failure is a row."""
    node = MeshHold(folder / "huge")
    rows: list[HugeRow] = []
    try:
        endpoint = node.start()
        with MemorySampler(lambda: node.servers.leaders) as sampler, open_client(endpoint) as client:
            rows.append(_row("idle", 0, 0.0, sampler.read()))
            print(f"  one object of {mib(size)} up", file=sys.stderr, flush=True)
            began = time.monotonic()
            sent = _upload(endpoint.port, client.signer.target("PUT", _KEY), size)
            rows.append(_row("up", size, time.monotonic() - began, sampler.read()))
            print(f"  one object of {mib(size)} down", file=sys.stderr, flush=True)
            began = time.monotonic()
            received = _download(endpoint.port, client.signer.target("GET", _KEY))
            rows.append(_row("down", size, time.monotonic() - began, sampler.read()))
            if received != sent:
                raise BenchError("the download differs from what was sent")
    except (BenchError, OSError, http.client.HTTPException) as error:
        rows.append(HugeRow("failed", size, 0.0, 0, 0, str(error) or repr(error)))
    finally:
        node.stop()
    return rows


def _row(direction: str, size: int, seconds: float, memory: Memory) -> HugeRow:
    return HugeRow(direction, size, seconds, memory.peak_rss, memory.peak_hwm, "")


def _blocks(size: int, hasher: hashlib._Hash) -> Iterator[memoryview]:
    """Yield `size` bytes in blocks that all differ, hashing them; each block is valid until the next is asked for."""
    block = bytearray(os.urandom(_BLOCK))
    view = memoryview(block)
    for number in range(-(-size // _BLOCK)):
        for at in range(0, _BLOCK, _STRIDE):
            struct.pack_into("<Q", block, at, number)
        part = view[: min(_BLOCK, size - number * _BLOCK)]
        hasher.update(part)
        yield part


def _upload(port: int, target: str, size: int) -> bytes:
    """Send the object; return its digest. Errors: `BenchError` unless it is stored."""
    hasher = hashlib.sha256()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.putrequest("PUT", target)
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        for block in _blocks(size, hasher):
            connection.send(block)
        answer = connection.getresponse()
        said = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"PUT answered {answer.status}: {said[:200]!r}")
    return hasher.digest()


def _download(port: int, target: str) -> bytes:
    """Read the object; return its digest. Errors: `BenchError` unless the answer is 200."""
    hasher = hashlib.sha256()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        if answer.status != 200:
            raise BenchError(f"GET answered {answer.status}: {answer.read(200)!r}")
        block = memoryview(bytearray(_BLOCK))
        while count := answer.readinto(block):
            hasher.update(block[:count])
    finally:
        connection.close()
    return hasher.digest()


def huge_table(rows: Sequence[HugeRow]) -> str:
    """Return the rows as text."""
    lines: list[tuple[str, ...]] = [("direction", "size", "MB/s", "peak RSS", "peak VmHWM")]
    for row in rows:
        if row.failure:
            lines.append((row.direction, row.failure))
            continue
        speed = f"{row.size / row.seconds / 1e6:,.1f}" if row.seconds else ""
        lines.append((row.direction, mib(row.size), speed, mib(row.peak_rss), mib(row.peak_hwm)))
    return "MeshHold: one object up and down, compared by SHA-256 (peaks since the daemon's start)\n" + layout(lines)


def huge_json(rows: Sequence[HugeRow]) -> list[dict[str, Any]]:
    """Return the rows for a results file."""
    return [asdict(row) for row in rows]
