"""MeshHold as a contender: started and set up through its own command line, as a user would."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.failures import BenchError
from bench.presign import Endpoint
from bench.processes import START_TIMEOUT_S, free_ports, last_words
from bench.targets import BUCKET, Target

_PROGRAM: Final = Path(sys.executable).parent / "meshhold"
_COMMAND_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.2


class MeshHold(Target):
    """One daemon with no mesh, one vault, one key."""

    name = "meshhold"
    title = "MeshHold"
    promise = "fsync before the answer, sealed (authenticated encryption), signatures checked"
    stop_timeout_s = 30.0  # the index of a stopped node is opened again

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data_dir = folder / "node"
        self.vault_id = ""
        self.daemon_pid = 0
        self._port = 0

    def start(self) -> Endpoint:
        """Create the node, start its daemon, and make vault, alias, key and grant."""
        if not _PROGRAM.exists():
            raise BenchError(f"{_PROGRAM.name} is not installed beside {Path(sys.executable).name}: run make install")
        (self._port,) = free_ports(1)
        self.run("init", "--data-dir", str(self.data_dir), "--s3-addr", f"127.0.0.1:{self._port}")
        self.launch()
        self.vault_id = self.run_json("vault", "create", "bench")["id"]
        self.run("vault", "s3-alias", self.vault_id, BUCKET)
        key = self.run_json("s3-key", "add", "--label", "bench")
        self.run("s3-perm", "grant", key["access_key_id"], self.vault_id, "rw")
        return Endpoint(self._port, BUCKET, "meshhold", key["access_key_id"], key["secret_access_key"])

    def launch(self) -> None:
        """Start the daemon of a node that exists; wait until S3 and the control socket answer."""
        command = [str(_PROGRAM), "--config", str(self._config), "daemon"]
        self.daemon_pid = self.servers.start(command, self.folder)
        self.servers.wait_port(self._port)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.run("status")
            except BenchError:
                self.servers.check()
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
            else:
                return

    def run(self, *words: str) -> str:
        """Run one command against this node; return its output. Errors: `BenchError` with what it said."""
        command = [str(_PROGRAM), "--config", str(self._config), *words]
        if words[0] == "init":
            command = [str(_PROGRAM), *words]  # it writes the configuration
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"meshhold {words[0]} did not end after {_COMMAND_TIMEOUT_S:.0f} s") from error
        if done.returncode:
            said = last_words(done.stderr or done.stdout)
            raise BenchError(f"meshhold {' '.join(words[:2])} failed ({done.returncode}): {said}")
        return done.stdout

    def run_json(self, *words: str) -> dict[str, Any]:
        """Run one command with `--json`; return the object that it prints."""
        output = self.run(*words, "--json")
        try:
            answer: dict[str, Any] = json.loads(output)
        except ValueError as error:
            raise BenchError(f"meshhold {' '.join(words[:2])} --json printed no JSON: {output[:100]!r}") from error
        return answer

    def version(self) -> str:
        """Return what `meshhold --version` says."""
        done = subprocess.run([str(_PROGRAM), "--version"], capture_output=True, text=True, timeout=30, check=False)
        return (done.stdout.strip().splitlines() or ["unknown"])[0]

    @property
    def _config(self) -> Path:
        return self.data_dir / "config.yaml"
