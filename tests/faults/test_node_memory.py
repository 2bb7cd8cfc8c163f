"""Memory is bounded, whatever an object's size and however slow a client or the disk: measured, not assumed."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.cluster.daemons import DEADLINE_S, NodeFolder
from tests.cluster.test_daemon import furnish
from tests.door import BUCKET as DOOR_BUCKET
from tests.door import UNSIGNED, open_door, render
from tests.faults.node_load import BUCKET, MIB, client_of, content_of

from meshhold.chunkstore.disk import DiskChunkStore

RESIDENT_MAX = 250 * MIB
KERNEL_BUFFERS = 12 * MIB
"""What the kernel takes for a loopback connection whose other end does not read: both buffers, grown by themselves."""
PIPELINE = 8 * MIB
"""What one request holds by itself: a few chunks."""


def peak_resident(pid: int) -> int:
    """Return the most memory that the process ever had resident, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))
    assert found
    return int(found[1]) * 1024


class Pattern:
    """`size` bytes of which no two MiB are equal; their SHA-256 once they were read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.digest = hashlib.sha256()
        self._block = content_of("pattern", MIB - 8)

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.size // MIB):
            piece = number.to_bytes(8, "big") + self._block
            self.digest.update(piece)
            yield piece


def target_of(s3: Any, verb: str, key: str) -> str:
    url: str = s3.generate_presigned_url(f"{verb}_object", Params={"Bucket": BUCKET, "Key": key})
    return "/" + url.split("/", 3)[3]


def stalled(port: int, request: str) -> socket.socket:
    """Return a connection that has sent this and will neither send nor take anything more."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    connection.sendall(request.encode())
    return connection


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("at_once", [1, 4])
def test_a_gibibyte_up_and_down(tmp_path: Path, at_once: int) -> None:
    """In one piece or by several clients at once, with others that have stalled half way: below 250 MiB."""
    folder = NodeFolder(tmp_path / "home")
    assert folder.type("init", "--s3-addr", f"127.0.0.1:{folder.port}").returncode == 0
    with folder.running() as daemon, ExitStack() as stalling:
        _, key = furnish(folder)
        s3 = client_of(folder, key)
        s3.put_object(Bucket=BUCKET, Key="kept", Body=content_of("kept", 30 * MIB))
        for number in range(4):
            get, put = target_of(s3, "get", "kept"), target_of(s3, "put", f"stalled/{number}")
            host = f"Host: 127.0.0.1:{folder.port}\r\n"
            half = "x" * (3 * MIB // 2)
            stalling.enter_context(stalled(folder.port, f"GET {get} HTTP/1.1\r\n{host}\r\n"))
            stalling.enter_context(
                stalled(folder.port, f"PUT {put} HTTP/1.1\r\n{host}Content-Length: {30 * MIB}\r\n\r\n{half}")
            )
        failures: list[BaseException] = []

        def carry(name: str) -> None:
            try:
                up_and_down(s3, folder.port, name, (1 << 30) // at_once)
            except BaseException as error:  # noqa: BLE001 - the thread's boundary: the test raises it
                failures.append(error)

        threads = [threading.Thread(target=carry, args=(f"large/{number}",)) for number in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        peak = peak_resident(daemon.process.pid)
        print(f"peak resident memory: {peak / MIB:.0f} MiB")  # noqa: T201 - shown by `make faults`
        assert peak < RESIDENT_MAX


def up_and_down(s3: Any, port: int, name: str, size: int) -> None:
    content = Pattern(size)
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("PUT", target_of(s3, "put", name), body=iter(content), headers={"Content-Length": str(size)})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    connection.request("GET", target_of(s3, "get", name))
    answer = connection.getresponse()
    received = hashlib.sha256()
    while piece := answer.read(MIB):
        received.update(piece)
    assert received.digest() == content.digest.digest()
    connection.close()


async def test_a_reader_that_stops_has_little_read_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks leave the disk only as fast as the client takes them; after the deadline it is dropped."""
    chunks = 0
    real = DiskChunkStore.get

    def counted(self: DiskChunkStore, *name: Any) -> bytes:
        nonlocal chunks
        chunks += 1
        return real(self, *name)

    async with open_door(tmp_path, stall_s=0.1) as door:
        size = 64 * MIB
        assert (await door.call("PUT", f"/{DOOR_BUCKET}/large", bytes(size), payload=UNSIGNED)).status == 200
        monkeypatch.setattr(DiskChunkStore, "get", counted)
        async with door.connect() as wire:
            await wire.send(door.signed("GET", f"/{DOOR_BUCKET}/large"))
            with trio.fail_after(DEADLINE_S):
                assert await wire.stream.receive_some(1)
            await door.settle()
            assert chunks * MIB <= KERNEL_BUFFERS + PIPELINE


async def test_a_slow_disk_holds_the_sender_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no chunk can be written, no more is taken from the client than a request may hold."""
    go_on = threading.Event()
    real = DiskChunkStore.put

    def waiting(self: DiskChunkStore, *chunk: Any) -> bool:
        go_on.wait(DEADLINE_S)
        return real(self, *chunk)

    size = 64 * MIB
    sent = 0
    async with open_door(tmp_path) as door:
        monkeypatch.setattr(DiskChunkStore, "put", waiting)
        async with door.connect() as wire:
            signed = door.sign("PUT", f"/{DOOR_BUCKET}/large", headers={"Content-Length": str(size)}, payload=UNSIGNED)
            await wire.send(render("PUT", f"/{DOOR_BUCKET}/large", signed))
            piece = bytes(MIB // 4)
            stuck = trio.CancelScope()
            while sent < size and not stuck.cancelled_caught:
                with trio.move_on_after(0.15) as stuck:  # the door takes a piece in far less
                    sent += await wire.stream.socket.send(piece[: size - sent])
            taken = sent
            go_on.set()
            while sent < size:
                sent += await wire.stream.socket.send(piece[: size - sent])
            assert (await wire.answer()).status == 200
        assert taken <= KERNEL_BUFFERS + PIPELINE
