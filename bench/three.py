"""MeshHold on three nodes as a contender: one mesh, one vault, all on this machine. Knows no load."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final

from bench.failures import BenchError
from bench.presign import Endpoint
from bench.processes import START_TIMEOUT_S, free_ports, last_words
from bench.targets import BUCKET, Target
from meshhold.admin.client import call_daemon
from meshhold.config.places import control_socket

NODES: Final = 3
PROGRAM: Final = Path(sys.executable).parent / "meshhold"
_COMMAND_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.2


class Three(Target):
    """Three daemons in one mesh, one vault that all are trusted with and keep the index of; the first one is asked.

    `factor` is how many of them keep each chunk.
    """

    name = "three"
    title = "3 nodes"
    promise = "fsync on two of three nodes before the answer, sealed, signatures checked"
    stop_timeout_s = 10.0
    factor: ClassVar[int] = 3
    settings: ClassVar[str] = ""
    """More lines of the `node:` section of each node's configuration."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.vault = ""
        self.pids: dict[int, int] = {}
        """Number of a node that runs → process id."""
        self._doors: list[int] = []

    def start(self) -> Endpoint:
        """Start three nodes, let them form a mesh and share the vault; wait until each one's replica takes part."""
        if not PROGRAM.exists():
            raise BenchError(f"{PROGRAM.name} is not installed beside {Path(sys.executable).name}: run make install")
        ports = free_ports(2 * NODES)
        self._doors = ports[:NODES]
        for number in range(NODES):
            self._make_node(number, *(f"127.0.0.1:{port}" for port in ports[number::NODES]))
            self.start_node(number)
        self.wait(lambda: all(self.is_ready(number) for number in range(NODES)), "the nodes answer")
        token = self.ask(0, "invite")["token"]
        for number in range(1, NODES):
            self.ask(number, "join", token)
        self.vault = vault = self.ask(0, "vault", "create", "bench", "--replication-factor", str(self.factor))["id"]
        names = [f"n{number}" for number in range(NODES)]
        for name in names[1:]:
            self.ask(0, "vault", "add-member", vault, name)
        self.ask(0, "vault", "s3-alias", vault, BUCKET)
        self.ask(0, "vault", "set", vault, "--index-replicas", ",".join(names))
        self.wait(self._all_vote, "all three keep the index")
        key = self.ask(0, "s3-key", "add", "--label", "bench")
        self.ask(0, "s3-perm", "grant", key["access_key_id"], vault, "rw")
        return Endpoint(self._doors[0], BUCKET, "meshhold", key["access_key_id"], key["secret_access_key"])

    def home(self, number: int) -> Path:
        """Return the data directory of a node."""
        return self.folder / f"n{number}"

    def start_node(self, number: int) -> None:
        """Start a node that is there; wait until its S3 door listens."""
        command = [str(PROGRAM), "--config", str(self.home(number) / "config.yaml"), "daemon"]
        self.pids[number] = self.servers.start(command, self.folder)
        self.servers.wait_port(self._doors[number])

    def stop_node(self, number: int) -> None:
        """End a node; the others go on."""
        self.servers.stop_one(self.pids.pop(number))

    def _make_node(self, number: int, s3: str, mesh: str) -> None:
        home = self.home(number)
        done = subprocess.run(
            [str(PROGRAM), "init", "--data-dir", str(home), "--s3-addr", s3, "--listen-addr", mesh],
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"meshhold init failed: {last_words(done.stderr)}")
        config = home / "config.yaml"
        config.write_text(config.read_text().replace("node:\n", f"node:\n  name: n{number}\n{self.settings}", 1))

    def ask(self, number: int, *words: str, timeout_s: float = _COMMAND_TIMEOUT_S) -> Any:
        """Run a command against a node; return what it prints as JSON. Errors: `BenchError` with what it said."""
        command = [str(PROGRAM), "--config", str(self.home(number) / "config.yaml"), *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode:
            raise BenchError(f"meshhold {' '.join(words[:2])} failed: {last_words(done.stderr or done.stdout)}")
        return json.loads(done.stdout)

    def is_ready(self, number: int) -> bool:
        """Tell whether a node answers commands."""
        try:
            self.ask(number, "status")
        except BenchError:
            return False
        return True

    def _all_vote(self) -> bool:
        view = call_daemon(control_socket(self.home(0)), "vault.replicas", {"vault": self.vault})
        states = [replica["state"] for replica in view["replicas"]]
        return states == ["votes"] * NODES and not view["changing"]

    def wait(self, is_so: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until something is so. Errors: `BenchError` when it is not in time, or a node has ended."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            self.servers.check()
            if time.monotonic() > deadline:
                raise BenchError(f"not within {timeout_s:.0f} s: {what}")
            time.sleep(_POLL_S)

    def version(self) -> str:
        """Return what `meshhold --version` says."""
        done = subprocess.run([str(PROGRAM), "--version"], capture_output=True, text=True, timeout=30, check=False)
        return (done.stdout.strip().splitlines() or ["unknown"])[0]


class TwoCopies(Three):
    """The same with two copies of each chunk."""

    name = "meshhold2"
    title = "MeshHold, 2 copies"
    promise = "both copies of each chunk fsynced, entry on 2 of 3 nodes, sealed"
    factor = 2


class TwoCopiesUncached(TwoCopies):
    """The same without a read cache: chunks of others are fetched for every read, as for the first."""

    name = "meshhold2-uncached"
    title = "MeshHold, 2 copies, no cache"
    settings = "  cache_size: 0\n"


class ThreeCopies(Three):
    """The same with three copies of each chunk: one on each node."""

    name = "meshhold3"
    title = "MeshHold, 3 copies"
    promise = "all 3 copies of each chunk fsynced, entry on 2 of 3 nodes, sealed"
    factor = 3
