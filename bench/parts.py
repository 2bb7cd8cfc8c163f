"""Does completing an upload take a time in proportion to its parts? Uploads of 1,000, 3,000 and 10,000 parts of 5 MiB.

`python -m bench.parts`. The node runs inside this process. All parts of an upload refer to the chunks of one part that
was really uploaded: a completion moves no bytes, so these parts are to it as any others, without 50 GB of them.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from bench.client import signer_now
from bench.failures import BenchError
from bench.presign import Endpoint
from bench.report import layout
from bench.workspace import open_workspace
from meshhold.config import Config, NodeConfig, S3Config
from meshhold.model.grant import Permission
from meshhold.node.assembly import Node, open_node
from meshhold.replication.chunks.writer import Written
from meshhold.s3.app import S3App
from meshhold.s3.http.server import open_listeners, run_s3
from meshhold.sealing.content import open_content
from meshhold.store.contract import Digested

_BUCKET: Final = "bench"
_PART: Final = 5 * 2**20
_TOGETHER: Final = 64
_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Timed:
    """One upload: seconds of the clock and of this process's processors, and the longest pause of its event loop."""

    parts: int
    complete_s: float
    cpu_s: float
    pause_ms: float
    read_last_ms: float


async def run(folder: Path, sizes: Sequence[int]) -> list[Timed]:
    """Complete one upload of each size."""
    config = Config(folder / "config.yaml", None, (), NodeConfig(folder), S3Config(listen_addr="127.0.0.1:0"))
    async with open_node(config) as node, trio.open_nursery() as nursery:
        await node.vaults.create(_BUCKET, alias=_BUCKET)
        key = await node.access.add_key(_BUCKET)
        await node.access.grant(key.access_key_id, _BUCKET, Permission.READ | Permission.WRITE)
        listeners = await open_listeners("127.0.0.1", 0)
        port = listeners[0].socket.getsockname()[1]
        endpoint = Endpoint(port, _BUCKET, "meshhold", key.access_key_id, key.secret_access_key)
        await nursery.start(run_s3, S3App(node.door, _BUCKET, on_fatal=_give_up), listeners, trio.Event())
        found = [await _timed(node, endpoint, count) for count in sizes]
        nursery.cancel_scope.cancel()
    return found


async def _timed(node: Node, endpoint: Endpoint, count: int) -> Timed:
    key = f"parts-{count}"
    began = (await _call(endpoint, "POST", key, {"uploads": ""}, b"")).decode()
    upload_id = began.partition("<UploadId>")[2].partition("<")[0]
    etag = await _fill(node, endpoint, key, upload_id, count)
    rows = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n in range(1, count + 1))
    document = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
    pauses: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, pauses)
        cpu, wall = time.process_time(), time.perf_counter()
        answer = await _call(endpoint, "POST", key, {"uploadId": upload_id}, document)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        nursery.cancel_scope.cancel()
    if b"<ChecksumCRC64NVME>" not in answer:
        raise BenchError(f"the completion answered {answer[:300]!r}")
    began_s = time.perf_counter()
    last = await _call(endpoint, "GET", key, {"partNumber": str(count)}, None)
    if len(last) != _PART:
        raise BenchError(f"the last part has {len(last)} bytes")
    return Timed(count, wall, cpu, max(pauses) * 1000, (time.perf_counter() - began_s) * 1000)


async def _fill(node: Node, endpoint: Endpoint, key: str, upload_id: str, count: int) -> str:
    """Upload part 1, and make all others of its chunks; return the ETag that all have."""
    await _call(endpoint, "PUT", key, {"partNumber": "1", "uploadId": upload_id}, os.urandom(_PART))
    uploads, bucket = node.uploads, node.vaults.bucket(_BUCKET)
    (first,) = await uploads.parts(bucket, upload_id, 0, 1)
    name = bytes.fromhex(upload_id) + (1).to_bytes(2, "big")
    written = Written(open_content(bucket.keys, name, first.part.content), first.part.size)
    digested = Digested(first.part.etag, first.part.checksums)

    async def make(number: int) -> None:
        await uploads._commit_part(  # noqa: SLF001 - what `put_part` does once the bytes are there
            bucket, key.encode(), upload_id, number, written, digested, b""
        )

    for first_number in range(2, count + 1, _TOGETHER):
        async with trio.open_nursery() as nursery:
            for number in range(first_number, min(count + 1, first_number + _TOGETHER)):
                nursery.start_soon(make, number)
    return first.part.etag


async def _watch(pauses: list[float]) -> None:
    """Note how long the event loop let others wait."""
    while True:
        began = trio.current_time()
        await trio.lowlevel.checkpoint()
        pauses.append(trio.current_time() - began)
        await trio.sleep(0.001)


async def _call(endpoint: Endpoint, method: str, key: str, query: dict[str, str], body: bytes | None) -> bytes:
    return await trio.to_thread.run_sync(_send, endpoint, method, signer_now(endpoint).target(method, key, query), body)


def _send(endpoint: Endpoint, method: str, target: str, body: bytes | None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=_TIMEOUT_S)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status not in (200, 206):
        raise BenchError(f"{method} answered {answer.status}: {content[:300]!r}")
    return content


def _give_up(error: BaseException) -> None:
    raise BenchError("the daemon would have ended") from error


def main(words: Sequence[str]) -> int:
    """Run what the words ask for."""
    parser = argparse.ArgumentParser(prog="python -m bench.parts", description="Completions of many parts.")
    parser.add_argument("--parts", default="1000,3000,10000", help="comma-separated numbers of parts, up to 10,000")
    parser.add_argument("--work", type=Path, help="folder for the node's data (a new one under ~/.cache)")
    found = parser.parse_args(words)
    lines: list[tuple[str, ...]] = [
        ("parts", "complete s", "CPU s", "ms a part", "longest pause ms", "read last part ms")
    ]
    with open_workspace(found.work) as folder:
        for row in trio.run(run, folder, [int(text) for text in found.parts.split(",")]):
            each = f"{row.complete_s * 1000 / row.parts:.2f}"
            cells = (
                f"{row.complete_s:.2f}",
                f"{row.cpu_s:.2f}",
                each,
                f"{row.pause_ms:.0f}",
                f"{row.read_last_ms:.0f}",
            )
            lines.append((f"{row.parts:,}", *cells))
    print(layout(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
