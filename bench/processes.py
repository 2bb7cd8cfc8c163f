"""Starts servers on loopback, waits for them and ends them by id. Knows no S3."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.failures import BenchError

START_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.05
_LINES_KEPT: Final = 3
_WORDS_MAX: Final = 300
_PORTS: Final = range(11_000, 21_000)  # with the 10,000 above it, below Linux's ephemeral ports
GRPC_OFFSET: Final = 10_000  # SeaweedFS expects each server's gRPC port this far above its HTTP port


class Servers:
    """The processes of one target. Each has a session of its own, by which what it spawns is found and ended."""

    def __init__(self, log: Path, stop_timeout_s: float) -> None:
        self._log = log
        self._stop_timeout_s = stop_timeout_s
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def leaders(self) -> frozenset[int]:
        """Session ids of the started processes."""
        return frozenset(process.pid for process in self._running)

    def start(self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> int:
        """Start a server in `folder`, its output appended to the log; return its pid."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self._running.append(process)
        return process.pid

    def wait_port(self, port: int, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until something listens. Errors: `BenchError` with the log's last line if a server ends before."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.check()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            if time.monotonic() > deadline:
                raise BenchError(f"nothing listens on port {port} after {timeout_s:.0f} s: {self.last_words()}")
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Errors: `BenchError` if a server has ended."""
        for process in self._running:
            if process.poll() is not None:
                program = Path(str(process.args[0])).name  # type: ignore[index]  # start() passes a sequence
                raise BenchError(f"{program} ended with exit code {process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of the log as a table can show it."""
        return last_words(self._log.read_text(errors="replace") if self._log.exists() else "")

    def stop_one(self, pid: int) -> None:
        """End the process `pid` and what it spawned, and wait for it; the others go on."""
        (process,) = (each for each in self._running if each.pid == pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self._stop_timeout_s)
        for left in session_pids(frozenset({pid})):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        process.wait()
        self._running.remove(process)

    def stop(self) -> None:
        """End every process that was started, last first; kill what is left in their sessions after the timeout."""
        for process in reversed(self._running):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + self._stop_timeout_s
        for process in reversed(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        for pid in session_pids(self.leaders):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._running:
            process.wait()
        self._running.clear()


def last_words(output: str) -> str:
    """Return the last lines of a program's output in one line: most programs end with why, some with what to do."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " ".join(lines[-_LINES_KEPT:])[-_WORDS_MAX:] or "no output"


def session_pids(leaders: frozenset[int]) -> list[int]:
    """Return the live processes whose session is one of `leaders`."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if int(fields[3]) in leaders and fields[0] != "Z":  # state, ppid, pgrp, session
            found.append(int(folder.name))
    return found


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens, and nothing `GRPC_OFFSET` above them either."""
    found: list[int] = []
    candidates = list(_PORTS)
    random.shuffle(candidates)
    for port in candidates:
        if len(found) == count:
            return found
        if _is_free(port) and _is_free(port + GRPC_OFFSET):
            found.append(port)
    raise BenchError(f"no {count} free ports from {_PORTS.start} to {_PORTS.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
