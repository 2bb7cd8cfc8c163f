"""A mesh with one shared vault whose index is on all or some of its nodes, and what can be done to those nodes.

Each daemon sees a wall clock of its own (libfaketime), set while it runs; its monotonic clock is the machine's.
"""

from __future__ import annotations

import itertools
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.cluster.consistency_doors import Door
from tests.cluster.consistency_history import History, Outcome
from tests.cluster.meshes import Mesh, MeshNode, open_mesh, wait_until
from tests.cluster.namespaces import Host, Network, open_network

from meshhold.errors import CallRefusedError, ConflictError, MeshHoldError

BUCKET: Final = "shared"
RECOVERY_S: Final = 60.0
"""From the end of all faults until every node serves: links are retried after 30 s at the latest."""
_LIBRARIES: Final = "/usr/lib/*-linux-gnu/faketime/libfaketimeMT.so.1"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where libfaketime, too, leaves files of processes that were killed
_PROGRAM: Final = """
import select, sys, time
time.sleep = lambda seconds: select.select([], [], [], seconds) and None  # libfaketime 0.9.10 fails clock_nanosleep
from meshhold.cli.main import main
sys.exit(main())
"""
_INDEX_FILES: Final = "index.db*"


def faketime_library() -> str:
    """Return the library that gives a process another wall clock, "" if it is not installed."""
    return next((str(path) for path in sorted(Path("/").glob(_LIBRARIES.lstrip("/")))), "")


class ClockedNode(MeshNode):
    """A node whose daemon's wall clock is the machine's plus `skew_s`."""

    def __init__(self, home: Path, name: str, host: Host | None = None, skew_s: float = 0.0) -> None:
        super().__init__(home, name, host)
        self.program = [sys.executable, "-c", _PROGRAM]
        self.clock = home.parent / f"{name}.clock"
        self.paused = False
        self.set_clock(skew_s)

    def set_clock(self, skew_s: float) -> None:
        """Let the daemon's wall clock differ from the machine's, from now on."""
        self.skew_s = skew_s
        fresh = self.clock.with_suffix(".fresh")
        fresh.write_text(f"{skew_s:+.3f}\n")
        fresh.replace(self.clock)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return what a command of this node sees: the clock, too, if the library is there."""
        clock = {
            "LD_PRELOAD": faketime_library(),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        return super().environment((clock if faketime_library() else {}) | dict(more or {}))

    def kill(self) -> None:
        """End the daemon as a power cut would, a paused one too; remove what libfaketime leaves of it."""
        number = None if self.process is None else self.process.pid
        super().kill()
        self.paused = False
        for path in _MEMORY.glob(f"*faketime_*_{number}"):
            path.unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop the daemon in its tracks; its connections stay open."""
        self.send(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """Let a paused daemon go on."""
        self.send(signal.SIGCONT)
        self.paused = False

    def send(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wipe(self) -> None:
        """Remove the index of a node that does not run: its identity and its swarm's key stay."""
        assert self.process is None
        found = list(self.home.glob(_INDEX_FILES))
        assert found, f"{self.home} has no index"
        for path in found:
            path.unlink()


class Cluster:
    """Nodes of one mesh, trusted with one vault. `nodes[:replicas]` keep its index at first."""

    def __init__(self, mesh: Mesh, network: Network | None, nodes: Sequence[ClockedNode], replicas: int) -> None:
        self.mesh = mesh
        self.network = network
        self.nodes = list(nodes)
        self.replicas = replicas
        self.key: dict[str, str] = {}
        self.history = History()
        self.doors: list[Door] = []
        self.wiped: list[ClockedNode] = []
        self.removed: list[ClockedNode] = []
        self.base_s = 0.0

    def furnish(self) -> None:
        """Make the vault, its bucket and a key, let every node hold it, and wait until each serves it."""
        first = self.nodes[0]
        first.call("vault.create", name="shared")
        for node in self.nodes[1:]:
            first.call("vault.member_add", vault="shared", node=node.name)
        first.call("vault.alias", vault="shared", alias=BUCKET)
        self.key = first.call("key.add", label="clients")
        first.call("grant.set", access_key_id=self.key["access_key_id"], vault="shared", permissions="rw")
        wait_until(self._all_know, RECOVERY_S, "all nodes know the vault and the key")
        if len(self.nodes) > 1:
            self.set_replicas(self.nodes[: self.replicas], first)
        wait_until(lambda: self.all_vote(self.replicas), RECOVERY_S, "all replicas vote")
        self.open_doors()
        self.wait_serving()

    def open_doors(self) -> None:
        """Begin a history, with a client for each node."""
        self.history = History()
        self.doors = [Door(node, self.key, BUCKET, self.history) for node in self.nodes]

    def set_replicas(self, keepers: Sequence[ClockedNode], through: ClockedNode) -> None:
        """Let these nodes keep the index from now on. Errors: `MeshHoldError`."""
        through.call("vault.set", vault="shared", index_replicas=[node.name for node in keepers])

    def waits(self, node: ClockedNode) -> bool:
        """Tell whether a node's replica has noticed that it forgot what it promised, and lets the window pass."""
        for other in self.up():
            with suppress(MeshHoldError):
                replicas = other.call("vault.replicas", vault="shared")["replicas"]
                return any(view["name"] == node.name and "waiting" in view["reason"] for view in replicas)
        return False

    def all_vote(self, count: int) -> bool:
        """Tell whether `count` nodes keep the index, all of them take part, and no change is under way."""
        for node in self.up():
            with suppress(MeshHoldError):
                view = node.call("vault.replicas", vault="shared")
                states = [replica["state"] for replica in view["replicas"]]
                return states == ["votes"] * count and not view["changing"]
        return False

    def _all_know(self) -> bool:
        path = f"/{BUCKET}?list-type=2"
        wanted = {200, 503}  # 503: it knows the bucket, and not yet where its index is
        return all(node.s3_get(self.key, path)[0] in wanted for node in self.nodes)

    def wait_serving(self, patience_s: float = RECOVERY_S) -> float:
        """Wait until a put and a get work through every node; return after how many seconds."""
        numbers = itertools.count()
        began = time.monotonic()
        for door in self.doors:

            def serves(door: Door = door) -> bool:
                key = f"probe/{door.name}"
                value = f"probe-{door.name}-{next(numbers)}"
                written = door.put("probe", key, value)
                return written.outcome is Outcome.OK and door.get("probe", key).seen == value

            wait_until(serves, patience_s, f"{door.name} serves")
        return time.monotonic() - began

    def skew(self, node: ClockedNode, skew_s: float) -> None:
        """Set a node's clock wrong by so much, beside what all clocks of the cluster are off."""
        node.set_clock(self.base_s + skew_s)

    def add_member(self, node: ClockedNode, first: ClockedNode | None = None) -> bool:
        """Make a node a trusted member, or let it stay; tell whether it is one.

        `first` removed it: the others may not have heard of that yet, and would say that it is a member already.
        """
        for through in sorted(self.up(), key=lambda each: each is not first):
            try:
                through.call("vault.member_add", vault="shared", node=node.name)
            except CallRefusedError as error:
                if error.kind == ConflictError.__name__:
                    return True
            except MeshHoldError:
                continue
            else:
                return True
        return False

    def cut_power(self) -> None:
        """End all daemons at the same moment."""
        for node in self.up():
            node.send(signal.SIGKILL)
        for node in self.nodes:
            node.kill()

    def up(self) -> list[ClockedNode]:
        """Return the nodes whose daemons run and are not paused."""
        return [node for node in self.nodes if node.process is not None and not node.paused]

    def heal(self) -> None:
        """End every fault but wiped disks and changed replicas; each clock is right again."""
        if self.network is not None:
            self.network.heal()
        for node in self.nodes:
            if node.paused:
                node.resume()
            self.skew(node, 0.0)
        down = [node for node in self.nodes if node.process is None]
        for node in down:
            node.begin()
        for node in down:
            node.wait_ready()
        for node in list(self.removed):
            if self.add_member(node):
                self.removed.remove(node)

    def traffic(self) -> dict[str, int]:
        """Return how many bytes each machine has received and sent so far."""
        return {node.name: _bytes_of(node.host) for node in self.nodes if node.host is not None}


def _bytes_of(host: Host) -> int:
    folder = "/sys/class/net/mesh0/statistics"
    shown = host.run("cat", f"{folder}/rx_bytes", f"{folder}/tx_bytes").stdout
    return sum(map(int, shown.split()))


def _remove_stale() -> None:
    """Remove what libfaketime left of processes that are no more: another one may get their number."""
    for path in _MEMORY.glob("*faketime_*"):
        if not Path("/proc", path.name.rpartition("_")[2]).exists():
            path.unlink(missing_ok=True)


@contextmanager
def open_folder(*, on_disk: bool = False) -> Iterator[Path]:
    """Give a folder for a while: in memory if there is such a place, since a killed process loses nothing there."""
    parent = None if on_disk or not _MEMORY.is_dir() else _MEMORY
    with tempfile.TemporaryDirectory(prefix="jepsen-", dir=parent) as folder:
        yield Path(folder)


@contextmanager
def open_cluster(
    folder: Path, count: int, replicas: int, *, namespaces: bool = True, base_s: float = 0.0
) -> Iterator[Cluster]:
    """Give a cluster that serves, each node on a machine of its own, or all on loopback; clocks are off by `base_s`."""
    if namespaces:
        with open_network() as network, _open(folder, network, count, replicas, base_s) as cluster:
            yield cluster
    else:
        with _open(folder, None, count, replicas, base_s) as cluster:
            yield cluster


@contextmanager
def _open(folder: Path, network: Network | None, count: int, replicas: int, base_s: float) -> Iterator[Cluster]:
    _remove_stale()

    def make_node(home: Path, name: str, host: Host | None) -> ClockedNode:
        return ClockedNode(home, name, host, base_s)

    with open_mesh(folder, network, make_node) as mesh:
        nodes = mesh.form(*(f"n{number}" for number in range(1, count + 1)))
        clocked = [node for node in nodes if isinstance(node, ClockedNode)]
        cluster = Cluster(mesh, network, clocked, replicas)
        cluster.base_s = base_s
        cluster.furnish()
        yield cluster
