"""The log of requests: what its lines say and hide, and that its files stay small and whole."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.door import BUCKET, open_door

from meshhold.s3.recording.access_log import QUEUE_MAX, AccessLog, LogSettings
from meshhold.s3.recording.log_lines import combined_line, json_line
from meshhold.s3.recording.served import Served

COMBINED = re.compile(
    r'(\S+) - (\S+) \[(\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000)\] "([A-Z]+) (\S+) HTTP/(1\.[01])" (\d{3}) (\d+|-) '
    r'"((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"\Z'
)


def served(**changes: Any) -> Served:
    plain = Served(
        at_s=1_700_000_000.25,
        duration_s=0.0123,
        remote="127.0.0.1",
        method="GET",
        target=b"/bucket/key",
        version="1.1",
        status=200,
        bytes_in=0,
        bytes_out=17,
        referer=b"",
        agent=b"aws-cli/2",
        request_id="00F",
        sender="GK01",
        bucket="bucket",
        operation="GetObject",
    )
    return plain._replace(**changes)


async def inline(function: Any, /, *arguments: Any) -> Any:
    """Run blocking work at once."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


# -- lines ----------------------------------------------------------------------------------------------------------


def test_combined_is_apaches() -> None:
    assert combined_line(served()) == (
        '127.0.0.1 - GK01 [14/Nov/2023:22:13:20 +0000] "GET /bucket/key HTTP/1.1" 200 17 "-" "aws-cli/2"'
    )
    assert combined_line(served(sender="", remote="", bytes_out=0)).startswith("- - - [")
    assert '" 200 - "' in combined_line(served(bytes_out=0))


def test_json_says_more() -> None:
    assert json.loads(json_line(served(target=b"/bucket/key?versionId=5"))) == {
        "time": "2023-11-14T22:13:20.250Z",
        "remote": "127.0.0.1",
        "method": "GET",
        "path": "/bucket/key",
        "query": "versionId=5",
        "status": 200,
        "bytes_in": 0,
        "bytes_out": 17,
        "duration_ms": 12.3,
        "referer": "",
        "user_agent": "aws-cli/2",
        "request_id": "00F",
        "access_key_id": "GK01",
        "bucket": "bucket",
        "operation": "GetObject",
    }


NASTY = bytes(range(256)) + b'" 200 5 "x" "y"\n127.0.0.1 - root [x] "DELETE / HTTP/1.1"\\'


@pytest.mark.parametrize("field", ["target", "referer", "agent"])
def test_nobody_writes_lines_of_their_own(field: str) -> None:
    line = combined_line(served(**{field: NASTY}))
    assert COMBINED.match(line)
    assert line.isascii()
    assert line.isprintable()
    line = json_line(served(**{field: NASTY}))
    assert line.isprintable()
    assert json.loads(line)["access_key_id"] == "GK01"


@pytest.mark.parametrize(
    "query",
    [
        b"X-Amz-Signature=5ec2e7",
        b"x-amz-signature=5ec2e7",
        b"X%2DAmz%2DSignature=5ec2e7",
        b"X-Amz-Security-Token=5ec2e7",
        b"Signature=5ec2e7",
    ],
)
@pytest.mark.parametrize("field", ["target", "referer"])
def test_what_gives_access_is_not_written(field: str, query: bytes) -> None:
    """A presigned URL in a log would be as good as the key until it expires."""
    raw = b"/bucket/key?X-Amz-Expires=600&" + query + b"&x=y"
    for line in (combined_line(served(**{field: raw})), json_line(served(**{field: raw}))):
        assert "5ec2e7" not in line
        assert "X-Amz-Expires=600" in line
        assert "=REDACTED&x=y" in line


# -- the file -------------------------------------------------------------------------------------------------------


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


async def test_lines_are_written_when_they_are_flushed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(LogSettings(path, "json"), inline)
    log.record(served())
    log.record(served(status=404))
    assert not path.exists()
    await log.flush()
    assert [json.loads(line)["status"] for line in lines(path)] == [200, 404]
    assert path.stat().st_mode & 0o007 == 0, "it names objects: not for everybody"


async def test_files_are_few_and_small(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(LogSettings(path, size_max=250, files_max=3), inline)
    for number in range(20):
        log.record(served(request_id=str(number), target=b"/%d" % number))
        await log.flush()
    files = ("log.2", "log.1", "log")
    assert all((tmp_path / name).stat().st_size <= 250 for name in files)
    assert not (tmp_path / "log.3").exists()
    kept = [line.split()[6] for each in files for line in lines(tmp_path / each)]
    assert kept == [f"/{number}" for number in range(20 - len(kept), 20)], "the newest, in order"


async def test_one_file_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(LogSettings(path, size_max=150, files_max=1), inline)
    for number in range(3):
        log.record(served(target=b"/%d" % number))
        await log.flush()
    assert [line.split()[6] for line in lines(path)] == ["/2"]


async def test_others_may_rotate_by_renaming_or_truncating(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AccessLog(LogSettings(path), inline)
    log.record(served(target=b"/1"))
    await log.flush()
    os.rename(path, tmp_path / "old")  # noqa: PTH104 - as another program does
    log.record(served(target=b"/2"))
    await log.flush()
    assert [len(lines(each)) for each in (path, tmp_path / "old")] == [1, 1]
    os.truncate(path, 0)
    log.record(served(target=b"/3"))
    await log.flush()
    assert [line.split()[6] for line in lines(path)] == ["/3"], "no hole where the old lines were"


async def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path) -> None:
    log = AccessLog(LogSettings(tmp_path / "log"), inline)
    for _ in range(QUEUE_MAX + 5):
        log.record(served())
    assert log.dropped == 5
    await log.flush()
    assert len(lines(tmp_path / "log")) == QUEUE_MAX


async def test_a_disk_that_fails_costs_lines_and_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog(LogSettings(tmp_path / "missing" / "log"), inline)
    with pytest.raises(OSError, match="No such file"):
        log.check()
    for _ in range(3):
        log.record(served())
        await log.flush()
    assert log.dropped == 3
    assert len(caplog.records) == 1, "one complaint a minute"
    (tmp_path / "missing").mkdir()
    log.record(served())
    await log.flush()
    assert len(lines(tmp_path / "missing" / "log")) == 1


async def test_long_texts_are_cut(tmp_path: Path) -> None:
    log = AccessLog(LogSettings(tmp_path / "log"), inline)
    log.record(served(target=b"/" + b"k" * 60_000, agent=b"a" * 60_000, referer=b"r" * 60_000))
    await log.flush()
    assert (tmp_path / "log").stat().st_size < 6_000


async def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    log = AccessLog(LogSettings(tmp_path / "log"), inline, wait_s=1e6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        await trio.testing.wait_all_tasks_blocked()
        log.record(served())
        nursery.cancel_scope.cancel()
    assert len(lines(tmp_path / "log")) == 1


# -- through the door -----------------------------------------------------------------------------------------------


async def test_the_door_records_what_it_served(tmp_path: Path) -> None:
    found: list[Served] = []
    async with open_door(tmp_path) as door:
        door.app.recorders = (found.append, door.node.counters.record)
        await door.call("PUT", f"/{BUCKET}/a%20b", b"12345", {"User-Agent": "me", "Referer": "http://x/"})
        await door.call("GET", f"/{BUCKET}/a%20b")
        await door.call("GET", f"/{BUCKET}/none")
        await door.exchange(b"GET /nowhere/x HTTP/1.1\r\nHost: x\r\n\r\n")
        await door.settle()
        key = door.signer.key_id
        counted = door.node.counters.view()
    told = [(one.operation, one.status, one.sender, one.bucket, one.bytes_in) for one in found]
    assert told[:3] == [
        ("PutObject", 200, key, BUCKET, 5),
        ("GetObject", 200, key, BUCKET, 0),
        ("GetObject", 404, key, BUCKET, 0),
    ]
    assert told[3][1:4] == (404, "anonymous", "nowhere")
    put, get, *_ = found
    assert (put.target, put.agent, put.referer, put.remote) == (b"/bucket/a%20b", b"me", b"http://x/", "127.0.0.1")
    assert get.bytes_out == 5
    assert 0 <= put.duration_s < 10
    series = {one.name: one for one in counted["keys"]}  # type: ignore[attr-defined] # a list, as its docstring says
    assert series[key].requests == {"GetObject": {"2xx": 1, "4xx": 1}, "PutObject": {"2xx": 1}}
    assert series[key].bytes_in == 5
    names = [one.name for one in counted["buckets"]]  # type: ignore[attr-defined] # same
    assert names == [BUCKET], "a bucket that does not exist is no series"
