"""Cancellation at each await, and clients that vanish at any byte: nothing is half done, nothing is left behind."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing
from tests.cluster.daemons import DEADLINE_S, NodeFolder
from tests.cluster.test_daemon import body_of, furnish
from tests.faults.node_load import BUCKET, client_of, content_of
from tests.unit.store_kit import KIB, MIB, BytesBody, StoreKit, Wall, combine, open_kit

from meshhold.chunkstore.disk import DiskChunkStore
from meshhold.errors import NoSuchObjectError
from meshhold.index.commits import PENDING_MAX
from meshhold.model.entry import Upload
from meshhold.store.contract import ALWAYS, Metadata
from meshhold.store.directory import Bucket
from meshhold.store.uploads import PartClaim

KEY = b"k"
OLD = b"the old content"
STEPS_MAX = 3000


class CancelAt(trio.abc.Instrument):
    """Cancels `scope` right before step number `at` of any task."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.scope = trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the step."""
        del task
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


async def cancelled_at(step: int, operation: Callable[[], Awaitable[object]]) -> bool:
    """Run the operation and cancel it at a step; return whether it was over before."""
    instrument = CancelAt(step)
    trio.lowlevel.add_instrument(instrument)
    try:
        with instrument.scope:
            await operation()
    finally:
        trio.lowlevel.remove_instrument(instrument)
    return instrument.left > 0


async def assert_nothing_is_left(kit: StoreKit, tasks: int, tmp: Path) -> None:
    """No turn, no slot, no mark of a write in flight, no task, no temporary file is left."""
    await trio.testing.wait_all_tasks_blocked()  # a commit that has begun ends
    assert len(kit.registers._turns) == 0
    assert kit.registers._turns._waiting == 0
    assert kit.replica._saving == {}
    assert kit.writer.oldest_start_s == float("inf")
    assert kit.index.commits._room.value == PENDING_MAX
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert os.listdir(tmp) == []  # noqa: PTH208 - a folder of a test may block the loop


async def content_now(kit: StoreKit, bucket: Bucket, key: bytes) -> bytes | None:
    try:
        return await kit.get(bucket, key)
    except NoSuchObjectError:
        return None


Operation = Callable[[StoreKit, Bucket, Bucket], Awaitable[object]]


async def put_small(kit: StoreKit, bucket: Bucket, _: Bucket) -> None:
    await kit.objects.put(bucket, KEY, BytesBody(b"n" * 100), Metadata())


async def put_one_chunk(kit: StoreKit, bucket: Bucket, _: Bucket) -> None:
    await kit.objects.put(bucket, KEY, BytesBody(b"n" * 200 * KIB), Metadata())


async def put_long(kit: StoreKit, bucket: Bucket, _: Bucket) -> None:
    pieces = b"".join(bytes([number]) * MIB for number in range(5)) + b"end"
    await kit.objects.put(bucket, KEY, BytesBody(pieces), Metadata())


async def delete(kit: StoreKit, bucket: Bucket, _: Bucket) -> None:
    await kit.objects.delete(bucket, KEY)


async def copy_across(kit: StoreKit, bucket: Bucket, other: Bucket) -> None:
    source = await kit.objects.find(other, b"source")
    await kit.objects.copy(other, b"source", source, bucket, KEY, None)


async def upload(kit: StoreKit, bucket: Bucket, _: Bucket) -> None:
    upload_id = await kit.uploads.begin(bucket, KEY, Upload(1, "me"))
    part = await kit.uploads.put_part(bucket, KEY, upload_id, 1, BytesBody(b"n" * (MIB + 5)))
    await kit.uploads.complete(bucket, KEY, upload_id, [PartClaim(1, part.etag)], combine, ALWAYS)


async def read(kit: StoreKit, _: Bucket, other: Bucket) -> None:
    assert len(await kit.get(other, b"source")) == 3 * MIB


@pytest.mark.parametrize("operation", [put_small, put_one_chunk, put_long, delete, copy_across, upload, read])
async def test_cancelled_at_each_step(tmp_path: Path, operation: Operation) -> None:
    """Step 1, 2, 3 … until the operation is over: the object is the old or the new one, and all is given back."""
    wall = Wall()
    store = DiskChunkStore(tmp_path / "chunks", now=wall.now_s, reserve_bytes=0)
    async with open_kit(chunks=store, wall=wall) as kit:
        bucket, other = await kit.bucket(), await kit.bucket("other")
        await kit.put(other, b"source", b"".join(bytes([number]) * MIB for number in range(3)))
        await operation(kit, bucket, other)
        new = await content_now(kit, bucket, KEY)
        await trio.testing.wait_all_tasks_blocked()
        tasks = trio.lowlevel.current_statistics().tasks_living
        for step in range(1, STEPS_MAX):
            await kit.put(bucket, KEY, OLD)
            over = await cancelled_at(step, lambda: operation(kit, bucket, other))
            await assert_nothing_is_left(kit, tasks, tmp_path / "chunks" / "tmp")
            assert await content_now(kit, bucket, KEY) in (OLD, new), step
            if over:
                break
        else:
            pytest.fail("the operation never ended")
        assert step > 2
        await operation(kit, bucket, other)
        assert await content_now(kit, bucket, KEY) in (OLD, new)
        assert await kit.damaged() == 0


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def wait_until(holds: Callable[[], bool], claim: str) -> None:
    """Poll until the claim holds, or fail after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, claim
        time.sleep(0.01)


def vanish(port: int, request: bytes, *, read_first: int, abruptly: bool) -> None:
    """Send bytes, read some, then close: with a reset, or in order."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(request)
        while read_first > 0:
            read_first -= len(connection.recv(min(read_first, 65536)))
        if abruptly:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_clients_that_vanish(tmp_path: Path) -> None:
    """In the middle of heads, bodies and answers; afterwards the daemon holds no more files than before."""
    folder = NodeFolder(tmp_path / "home")
    assert folder.type("init", "--s3-addr", f"127.0.0.1:{folder.port}").returncode == 0
    size = 3 * MIB
    body = content_of("vanishing", size)
    with folder.running() as daemon:
        _, key = furnish(folder)
        s3 = client_of(folder, key)
        s3.put_object(Bucket=BUCKET, Key="kept", Body=body)

        def head_of(verb: str, name: str) -> bytes:
            url = s3.generate_presigned_url(f"{verb.lower()}_object", Params={"Bucket": BUCKET, "Key": name})
            parts = urlsplit(url)
            length = f"Content-Length: {size}\r\n" if verb == "PUT" else ""
            return f"{verb} {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n{length}\r\n".encode()

        put, get = head_of("PUT", "gone"), head_of("GET", "kept")
        before = open_files(daemon.process.pid)  # the client's idle connection among them
        for abruptly in (False, True):
            for sent in (0, 1, 17, len(put) - 1, len(put), len(put) + 1, len(put) + MIB, len(put) + size - 1):
                vanish(folder.port, (put + body)[:sent], read_first=0, abruptly=abruptly)
            for read_first in (0, 1, 300, MIB, 2 * MIB + 1):
                vanish(folder.port, get, read_first=read_first, abruptly=abruptly)
            vanish(folder.port, get * 3, read_first=0, abruptly=abruptly)
        wait_until(lambda: open_files(daemon.process.pid) <= before, "files of vanished clients stay open")
        wait_until(lambda: not list((folder.home / "chunks" / "tmp").iterdir()), "temporary files stay")
        assert "gone" not in [row["Key"] for row in s3.list_objects_v2(Bucket=BUCKET)["Contents"]]
        assert body_of(s3, "kept") == body
        assert folder.type("vault", "check", "--deep").returncode == 0
