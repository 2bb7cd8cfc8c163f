"""Real daemons in processes of their own, on ports of their own. Readiness is heard, never guessed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config as ClientConfig

DEADLINE_S: Final = 30.0
_PROGRAM: Final = [sys.executable, "-m", "meshhold.cli"]


def free_port() -> int:
    """Return a TCP port of loopback that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NodeFolder:
    """One node's home, and the commands that are run on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return what a command of this node sees."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MESHHOLD", "AWS", "NOTIFY"))}
        return kept | {"MESHHOLD_HOME": str(self.home)} | dict(more or {})

    def type(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one command line to its end."""
        return subprocess.run(
            [*_PROGRAM, *words],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def ask(self, *words: str) -> Any:
        """Run one command line with `--json`; it must succeed."""
        done = self.type(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def s3(self, key: Mapping[str, str]) -> Any:
        """Return an S3 client that uses an access key as `s3-key add --json` gave it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="meshhold",
            aws_access_key_id=key["access_key_id"],
            aws_secret_access_key=key["secret_access_key"],
            config=ClientConfig(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )

    @contextmanager
    def running(self, *words: str) -> Iterator[RunningDaemon]:
        """Run `daemon`, or the command given, from its readiness until the block ends."""
        path = self.home.parent / f"{self.home.name}.notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(path))
            manager.settimeout(DEADLINE_S)
            with subprocess.Popen(
                [*_PROGRAM, *(words or ("daemon",))],
                env=self.environment({"NOTIFY_SOCKET": str(path)}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as process:
                daemon = RunningDaemon(process, manager)
                try:
                    daemon.wait_for("READY=1")
                    yield daemon
                finally:
                    if process.poll() is None:
                        process.kill()


class RunningDaemon:
    """A daemon's process, and what it tells its service manager."""

    def __init__(self, process: subprocess.Popen[str], manager: socket.socket) -> None:
        self.process = process
        self._manager = manager

    def wait_for(self, state: str) -> None:
        """Wait until the daemon reports `state`."""
        try:
            heard = self._manager.recv(256).decode()
        except TimeoutError:
            self.process.kill()
            raise AssertionError(f"no {state}: {self.process.communicate()[1]}") from None
        assert heard == state

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait_end(self) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr once the process has ended."""
        out, err = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out, err
