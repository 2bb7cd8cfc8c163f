"""A disk that answers with errors, made by strace on the daemon's own system calls.

A failed fsync ends the process: nothing after it could be trusted. Any other error is one request's refusal. Either way
what was acknowledged is there afterwards, and no object is half there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from tests.cluster.daemons import NodeFolder, RunningDaemon
from tests.cluster.test_daemon import body_of, furnish
from tests.faults.node_load import BUCKET, MIB, client_of, content_of
from tests.rights import skip_if_denied

from meshhold.model.entry import INLINE_SIZE_MAX

EXIT_FATAL = 70
SIZES = {"small": 900, "large": 2 * MIB + 5}
CHECKPOINT_PUTS_MAX = 1000
"""Twice the largest small objects that fill the index's log once."""
CHUNK_NAMES = range(64)
"""More temporary names than a test here uses."""


@pytest.fixture
def folder(tmp_path: Path) -> NodeFolder:
    """Make a node that was never started."""
    assert shutil.which("strace"), "strace is not installed: `make test` installs it, or apt-get install strace"
    node = NodeFolder(tmp_path / "home")
    assert node.type("init", "--s3-addr", f"127.0.0.1:{node.port}").returncode == 0
    return node


def put(s3: Any, key: str) -> None:
    kind = key.split("/", maxsplit=1)[0]
    s3.put_object(Bucket=BUCKET, Key=key, Body=content_of(key, SIZES[kind]))


def assert_there(s3: Any, *keys: str) -> None:
    for key in keys:
        assert body_of(s3, key) == content_of(key, SIZES[key.split("/")[0]])


@contextmanager
def failing(daemon: RunningDaemon, call: str, code: str, paths: Sequence[Path] = ()) -> Iterator[None]:
    """Let the first `call` of each of the daemon's threads (on these paths) fail inside the block."""
    words = ["strace", "-f", "-o", "/dev/null", "-p", str(daemon.process.pid)]
    words += ["-e", f"trace={call}", "-e", f"inject={call}:error={code}:when=1"]
    words += [word for path in paths for word in ("-P", str(path))]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            assert tracer.stderr is not None
            said = line = tracer.stderr.readline()
            while line and "attached" not in line:
                line = tracer.stderr.readline()
                said += line
            if not line:
                skip_if_denied("tracing of processes", "run as root, or give the container CAP_SYS_PTRACE", said)
            yield
        finally:
            tracer.kill()  # asked to end, it waits for threads of a daemon that ends meanwhile, sometimes for ever


@pytest.mark.parametrize(("call", "kind"), [("fdatasync", "small"), ("fsync", "large")])
def test_a_failed_fsync_ends_the_process(folder: NodeFolder, call: str, kind: str) -> None:
    """The index syncs by fdatasync, chunks and folders by fsync; the client of the failed write gets no answer."""
    with folder.running() as daemon:
        _, key = furnish(folder)
        s3 = client_of(folder, key)
        for name in ("small/kept", "large/kept"):
            put(s3, name)
        with failing(daemon, call, "EIO"), pytest.raises(BotoCoreError):
            put(s3, f"{kind}/lost")
        code, _, errors = daemon.wait_end()
        assert code == EXIT_FATAL, errors
        assert "fsync" in errors
        assert "check the disk" in errors
        assert "Traceback" not in errors
    with folder.running():
        assert_there(s3, "small/kept", "large/kept")
        keys = {row["Key"] for row in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
        assert keys - {f"{kind}/lost"} == {"small/kept", "large/kept"}
        if f"{kind}/lost" in keys:  # what was never acknowledged may be there, but whole
            assert_there(s3, f"{kind}/lost")
        assert folder.type("vault", "check", "--deep").returncode == 0


@pytest.mark.parametrize(
    ("call", "code", "kind", "where"),
    [
        ("pwrite64", "EIO", "small", "index.db-wal"),
        ("pwrite64", "ENOSPC", "small", "index.db-wal"),
        ("write", "EIO", "large", "chunks/tmp"),
        ("write", "ENOSPC", "large", "chunks/tmp"),
        ("openat", "EIO", "large", "chunks/tmp"),
        ("openat", "EMFILE", "large", "chunks/tmp"),
        ("rename", "EIO", "large", ""),
    ],
)
def test_a_failed_write_is_refused(folder: NodeFolder, call: str, code: str, kind: str, where: str) -> None:
    """The client gets a 5xx error document; the next request succeeds, and so does the next start."""
    paths = [folder.home / where] if where else []
    if where == "chunks/tmp":
        paths = [folder.home / where / str(number) for number in CHUNK_NAMES]
    with folder.running() as daemon:
        _, key = furnish(folder)
        s3 = client_of(folder, key)
        put(s3, f"{kind}/kept")
        with failing(daemon, call, code, paths), pytest.raises(ClientError) as caught:
            put(s3, f"{kind}/refused")
        answer = caught.value.response
        assert answer["ResponseMetadata"]["HTTPStatusCode"] >= 500
        assert answer["Error"]["Code"] == "ServiceUnavailable"
        assert any(fix in answer["Error"]["Message"] for fix in ("check the disk", "free some space", "free space"))
        assert list((folder.home / "chunks" / "tmp").iterdir()) == []
        assert [row["Key"] for row in s3.list_objects_v2(Bucket=BUCKET)["Contents"]] == [f"{kind}/kept"]
        put(s3, f"{kind}/refused")
        assert_there(s3, f"{kind}/kept", f"{kind}/refused")
        daemon.process.kill()
    with folder.running():
        assert_there(s3, f"{kind}/kept", f"{kind}/refused")
        assert folder.type("vault", "check", "--deep").returncode == 0


def test_a_failed_read_is_refused(folder: NodeFolder) -> None:
    """An unreadable chunk is a 5xx answer, not a damaged object: when the disk answers again, so does the node."""
    with folder.running() as daemon:
        _, key = furnish(folder)
        s3 = client_of(folder, key)
        put(s3, "large/kept")
        [vault] = [path for path in (folder.home / "chunks").iterdir() if path.name != "tmp"]
        chunks = [path for path in vault.rglob("*") if path.is_file()]
        with failing(daemon, "read", "EIO", chunks), pytest.raises(ClientError) as caught:
            body_of(s3, "large/kept")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
        assert caught.value.response["Error"]["Code"] == "ServiceUnavailable"
        assert_there(s3, "large/kept")
        assert folder.type("vault", "check", "--deep").returncode == 0


@pytest.mark.slow
def test_a_failed_fsync_of_a_checkpoint_ends_the_process(folder: NodeFolder) -> None:
    """No request waits for it, and yet the node stops: the log may be overwritten only after the file is durable."""
    kept: list[str] = []
    with folder.running() as daemon:
        _, key = furnish(folder)
        s3 = client_of(folder, key)
        with failing(daemon, "fdatasync", "EIO", [folder.home / "index.db"]), suppress(BotoCoreError):
            for number in range(CHECKPOINT_PUTS_MAX):
                s3.put_object(Bucket=BUCKET, Key=f"{number}", Body=content_of(f"{number}", INLINE_SIZE_MAX))
                kept.append(f"{number}")
        code, _, errors = daemon.wait_end()
        assert code == EXIT_FATAL, errors
        assert "fsync failed" in errors
        assert "Traceback" not in errors
    with folder.running():
        for name in kept:
            assert body_of(s3, name) == content_of(name, INLINE_SIZE_MAX)
        assert folder.type("vault", "check", "--deep").returncode == 0
