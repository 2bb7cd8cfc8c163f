"""The control socket answers every line with one answer, and nothing a client does reaches the daemon."""

from __future__ import annotations

import json
import logging
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from meshhold.admin import server
from meshhold.admin.lines import REQUEST_BYTES_MAX
from meshhold.admin.server import Dispatch, Progress, run_admin
from meshhold.errors import AlreadyRunningError, FatalError, NoSuchVaultError, SyncFailedError


async def echo(call: str, args: dict[str, Any], progress: Progress) -> Any:
    """Stand in for the node's calls."""
    match call:
        case "refuse":
            raise NoSuchVaultError("no vault is called 'x'", "see the list")
        case "break":
            raise ZeroDivisionError("a defect with a /secret/path")
        case "fatal":
            raise SyncFailedError("fsync failed")
        case "steps":
            for step in range(3):
                await progress({"objects": step})
        case "flood":
            while True:
                await progress({"filler": "x" * 10_000})
        case "huge":
            return "x" * (17 * 1024 * 1024)
    return {"call": call, **args}


@asynccontextmanager
async def admin_at(path: Path, dispatch: Dispatch = echo) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(run_admin, path, dispatch)
        yield
        nursery.cancel_scope.cancel()


async def ask(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    """Send lines, close the sending half, return what was answered."""
    stream = await trio.open_unix_socket(str(path))
    received = b""
    async with stream:
        await stream.send_all(b"".join(lines))
        await stream.send_eof()
        async for part in stream:
            received += part
    return [json.loads(line) for line in received.splitlines()]


def names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def request(call: str, **args: Any) -> bytes:
    return json.dumps({"v": 1, "call": call, "args": args}).encode() + b"\n"


async def test_answers_each_line(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with admin_at(path):
        answers = await ask(path, request("a", x=1), request("refuse"), request("b"))
    assert answers == [
        {"ok": True, "result": {"call": "a", "x": 1}},
        {
            "ok": False,
            "error": {"kind": "NoSuchVaultError", "message": "no vault is called 'x'", "fix": "see the list"},
        },
        {"ok": True, "result": {"call": "b"}},
    ]


async def test_progress_comes_before_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with admin_at(path):
        answers = await ask(path, request("steps"))
    assert answers[:3] == [{"progress": {"objects": step}} for step in range(3)]
    assert answers[3]["ok"] is True


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"hello\n", "not JSON"),
        (b"\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 50_000 + b"\n", "not JSON"),
        (b"[1]\n", "not a JSON object"),
        (b'{"call": "a"}\n', "control protocol None is not known"),
        (b'{"v": 2, "call": "a"}\n', "control protocol 2 is not known"),
        (b'{"v": 1}\n', 'needs "call"'),
        (b'{"v": 1, "call": 5}\n', 'needs "call"'),
        (b'{"v": 1, "call": "a", "args": [1]}\n', 'needs "call"'),
        (b'{"v": 1, "call": "a", "more": 1}\n', "has no field 'more'"),
    ],
)
async def test_bad_line_is_refused_and_the_next_one_served(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "control.sock"
    async with admin_at(path):
        refused, served = await ask(path, line, request("a"))
    assert refused["ok"] is False
    assert message in refused["error"]["message"]
    assert served["ok"] is True


async def test_overlong_line_ends_its_connection_only(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with admin_at(path):
        stream = await trio.open_unix_socket(str(path))
        async with stream:
            await stream.send_all(b"x" * (REQUEST_BYTES_MAX + 1))
            answer = json.loads(await stream.receive_some())
            assert f"longer than {REQUEST_BYTES_MAX} bytes" in answer["error"]["message"]
        assert (await ask(path, request("a")))[0]["ok"] is True


async def test_defect_is_logged_and_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client learns that something broke; the traceback stays in the daemon's log."""
    path = tmp_path / "control.sock"
    with caplog.at_level(logging.ERROR):
        async with admin_at(path):
            broken, served = await ask(path, request("break"), request("a"))
    assert broken["error"]["kind"] == "MeshHoldError"
    assert "secret" not in json.dumps(broken)
    assert served["ok"] is True
    assert "ZeroDivisionError" in caplog.text


async def test_fatal_error_is_told_and_stops_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    answers: list[dict[str, Any]] = []
    with pytest.RaisesGroup(SyncFailedError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(run_admin, path, echo)
            stream = await trio.open_unix_socket(str(path))
            await stream.send_all(request("fatal"))
            answers.append(json.loads(await stream.receive_some()))
            await trio.sleep_forever()
    assert answers[0]["error"]["kind"] == "SyncFailedError"
    assert not path.exists()


async def test_grouped_fatal_error_stops_the_daemon_too(tmp_path: Path) -> None:
    """A service with its own nursery raises groups; a failed fsync inside one must not pass for a mere defect."""

    async def dispatch(_call: str, _args: dict[str, Any], _progress: Progress) -> Any:
        raise ExceptionGroup("from a nursery", [SyncFailedError("fsync failed")])

    with pytest.RaisesGroup(FatalError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(run_admin, tmp_path / "control.sock", dispatch)
            stream = await trio.open_unix_socket(str(tmp_path / "control.sock"))
            await stream.send_all(request("any"))
            await trio.sleep_forever()


async def test_too_large_answer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with admin_at(path):
        [answer] = await ask(path, request("huge"))
    assert answer["error"]["kind"] == "TooLargeError"


async def test_client_that_left_ends_its_call(tmp_path: Path) -> None:
    """A long call stops at its next progress; the daemon goes on."""
    path = tmp_path / "control.sock"
    ended = trio.Event()

    async def dispatch(call: str, args: dict[str, Any], progress: Progress) -> Any:
        try:
            return await echo(call, args, progress)
        finally:
            ended.set()

    async with admin_at(path, dispatch):
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(request("flood"))
        await stream.receive_some()
        await stream.aclose()
        with trio.fail_after(10):
            await ended.wait()
        assert (await ask(path, request("a")))[0]["ok"] is True


async def test_silent_and_deaf_clients_are_dropped(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - pytest-trio finds the clock among the arguments only
) -> None:
    path = tmp_path / "control.sock"
    async with admin_at(path):
        silent = await trio.open_unix_socket(str(path))
        deaf = await trio.open_unix_socket(str(path))
        await deaf.send_all(request("flood"))
        assert await silent.receive_some() == b""  # closed from the other side
        assert trio.current_time() >= server.REQUEST_S_MAX
        while await deaf.receive_some():
            pass
        await silent.aclose()
        await deaf.aclose()


async def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    path = tmp_path / "control.sock"
    async with admin_at(path):
        held = [await trio.open_unix_socket(str(path)) for _ in range(2)]
        for stream in held:
            await stream.send_all(request("a"))
            await stream.receive_some()
        third = await trio.open_unix_socket(str(path))
        assert json.loads(await third.receive_some())["error"]["kind"] == "OverloadedError"
        await held[0].aclose()
        for stream in (third, held[1]):
            await stream.aclose()


async def test_socket_is_private_and_goes_with_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with admin_at(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert names_in(tmp_path) == ["control.sock"]
    assert not path.exists()


async def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """A daemon that was killed leaves its socket; the next one takes the name."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with admin_at(path):
        assert (await ask(path, request("a")))[0]["ok"] is True


async def test_living_daemon_and_foreign_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with admin_at(path):
        with pytest.raises(AlreadyRunningError, match="another daemon answers"):
            await run_admin(path, echo)
        assert (await ask(path, request("a")))[0]["ok"] is True
    path.write_text("precious")
    with pytest.raises(AlreadyRunningError, match="is not a socket"):
        await run_admin(path, echo)
    assert path.read_text() == "precious"
