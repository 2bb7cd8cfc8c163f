"""A mesh with one vault whose objects have chunks on several nodes, and what can be done to nodes and their disks.

What is on which disk is read from the files themselves, so that looking at it sets no repair going.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml
from tests.cluster.chunks_clients import Client
from tests.cluster.meshes import Mesh, MeshNode, open_mesh, wait_until
from tests.cluster.namespaces import Host, Network, open_network
from tests.faults.node_journal import Journal

from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import MeshHoldError

VAULT: Final = "shared"
BUCKET: Final = "shared"
RECOVERY_S: Final = 60.0
"""From the end of all faults until every node serves: links are retried after 30 s at the latest."""
RESTORED_S: Final = 120.0
"""Until every chunk has its copies again: links, then the few hundred MiB that a test stores, on a busy machine."""
CAPACITY: Final = "4GiB"
"""What each node says that it offers: rings then weigh all the same, whatever disk a test gives one."""
KINDS: Final = ("missing", "corrupt", "unreachable", "under_replicated", "misplaced")
_KEPT: Final = ("identity", "config.yaml")  # what somebody who has a backup of a node's identity brings back
_CRASH: Final = ("Traceback (most recent call last)", " CRITICAL ")

Report = dict[str, Any]


class ChunkNode(MeshNode):
    """A node whose disk can be looked at, damaged and taken away."""

    def __init__(self, home: Path, name: str, host: Host | None = None, capacity: str = CAPACITY) -> None:
        super().__init__(home, name, host)
        self.paused = False
        config = yaml.safe_load((home / "config.yaml").read_text())
        config["node"]["capacity"] = capacity
        (home / "config.yaml").write_text(yaml.safe_dump(config))

    def kill(self) -> None:
        """End the daemon as a power cut would, a paused one too."""
        super().kill()
        self.paused = False

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

    def run(self, *words: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run one command line on this node to its end, however long it takes up to `timeout_s`."""
        program = [*self.program, *words]
        return subprocess.run(
            program if self.host is None else self.host.command(*program),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def wipe_chunks(self) -> None:
        """Remove all chunks of a node that does not run; its index stays."""
        assert self.process is None
        shutil.rmtree(self.home / "chunks")

    def wipe_all(self) -> None:
        """Remove all of a node that does not run but its identity: it has to be let into its mesh again."""
        assert self.process is None
        for path in self.home.iterdir():
            if path.name in _KEPT:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def chunk_files(self, vault: str) -> dict[str, Path]:
        """Return the files of the vault's chunks by the chunks' names; those in quarantine are none."""
        found: dict[str, Path] = {}
        for folder in (self.home / "chunks" / vault).glob("[0-9a-f][0-9a-f]"):
            with suppress(FileNotFoundError):
                found |= {folder.name + path.name: path for path in folder.iterdir() if len(path.name) == 62}
        return found

    def crash(self) -> str:
        """Return what the log says of an error that nobody foresaw, "" if there was none."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        at = min((text.index(sign) for sign in _CRASH if sign in text), default=-1)
        return "" if at < 0 else f"{self.name} met an unexpected error:\n{text[max(0, at - 200) : at + 4000]}"


def is_sound(name: str, path: Path) -> bool:
    """Tell whether a chunk's file holds what its name says."""
    try:
        return hash_bytes(path.read_bytes()).hex() == name
    except FileNotFoundError:
        return False


class ChunkCluster:
    """Nodes of one mesh that keep one vault's chunks. `nodes` are trusted members, `strangers` untrusted ones."""

    def __init__(self, mesh: Mesh, network: Network | None, factor: int) -> None:
        self.mesh = mesh
        self.network = network
        self.factor = factor
        self.nodes: list[ChunkNode] = []
        self.strangers: list[ChunkNode] = []
        self.vault = ""
        self.key: dict[str, str] = {}
        self.journal = Journal()

    # -- making it --------------------------------------------------------------------------------------------------

    def furnish(self, nodes: Sequence[ChunkNode], strangers: Sequence[ChunkNode] = ()) -> None:
        """Make the vault, its bucket and a key, let every node hold it, and wait until each serves it."""
        self.nodes = [nodes[0]]
        first = nodes[0]
        self.vault = first.call("vault.create", name=VAULT, replication_factor=self.factor)["id"]
        first.call("vault.alias", vault=VAULT, alias=BUCKET)
        self.key = first.call("key.add", label="clients")
        first.call("grant.set", access_key_id=self.key["access_key_id"], vault=VAULT, permissions="rw")
        for node in nodes[1:]:
            self.add_member(node)
        for node in strangers:
            self.add_member(node, trusted=False)
        if len(nodes) > 1:
            wait_until(lambda: self.all_vote(min(3, len(nodes))), RECOVERY_S, "all replicas vote")
        self.wait_serving()

    def add(self, name: str) -> ChunkNode:
        """Make a node and let it into the mesh; it is no member of the vault yet."""
        node = self.mesh.add(name)
        assert isinstance(node, ChunkNode)
        self.let_in(node)
        return node

    def let_in(self, node: ChunkNode) -> None:
        """Let a node into the mesh."""
        token = self.nodes[0].call("mesh.invite")["token"]
        node.call("mesh.join", token=token)

    def add_member(self, node: ChunkNode, *, trusted: bool = True) -> None:
        """Let a node hold the vault."""
        through = next(each for each in self.up() if each is not node)
        wait_until(lambda: node.name in through.nodes(), RECOVERY_S, f"{through.name} knows {node.name}")
        through.call("vault.member_add", vault=VAULT, node=node.name, trusted=trusted)
        (self.nodes if trusted else self.strangers).append(node)

    def all_vote(self, count: int) -> bool:
        """Tell whether `count` nodes keep the index, all of them take part, and no change is under way."""
        for node in self.up():
            with suppress(MeshHoldError):
                view = node.call("vault.replicas", vault=VAULT)
                states = [replica["state"] for replica in view["replicas"]]
                return states == ["votes"] * count and not view["changing"]
        return False

    def replicas(self) -> set[str]:
        """Return the names of the nodes that keep the index."""
        view = self.up()[0].call("vault.replicas", vault=VAULT)
        return {replica["name"] for replica in view["replicas"]}

    # -- using it ---------------------------------------------------------------------------------------------------

    def client(self, node: ChunkNode) -> Client:
        """Return a client of a node's S3 door, whose changes are noted in the cluster's journal."""
        return Client(node, self.key, BUCKET, self.journal)

    def clients(self) -> list[Client]:
        """Return a client for each trusted node that runs."""
        return [self.client(node) for node in self.up()]

    def wait_serving(self, patience_s: float = RECOVERY_S) -> float:
        """Wait until a put and a get of a chunk work through every trusted node that runs; return the seconds."""
        began = time.monotonic()
        for client in self.clients():
            client.wait_serving(patience_s)
        return time.monotonic() - began

    def up(self) -> list[ChunkNode]:
        """Return the trusted nodes whose daemons run and are not paused."""
        return [node for node in self.nodes if node.process is not None and not node.paused]

    def everyone(self) -> list[ChunkNode]:
        """Return all members."""
        return [*self.nodes, *self.strangers]

    def heal(self) -> None:
        """Start what is down, resume what is paused, mend the network."""
        if self.network is not None:
            self.network.heal()
        for node in self.everyone():
            if node.paused:
                node.resume()
        start([node for node in self.everyone() if node.process is None])

    def cut_power(self) -> None:
        """End all daemons at the same moment."""
        for node in self.everyone():
            if node.process is not None:
                node.send(signal.SIGKILL)
        for node in self.everyone():
            node.kill()

    # -- what is on the disks ---------------------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """How many copies each chunk is to have."""
        return min(self.factor, len(self.everyone()))

    def copies(self, nodes: Iterable[ChunkNode] | None = None) -> dict[str, dict[str, Path]]:
        """Return for each chunk that is anywhere its files by the names of the nodes."""
        found: dict[str, dict[str, Path]] = {}
        for node in self.everyone() if nodes is None else nodes:
            for name, path in node.chunk_files(self.vault).items():
                found.setdefault(name, {})[node.name] = path
        return found

    def lacking(self, chunks: Iterable[str] | None = None) -> list[str]:
        """Return the chunks with fewer files than wanted; None: of all that are anywhere."""
        copies = self.copies()
        return [name for name in (copies if chunks is None else chunks) if len(copies.get(name, ())) < self.wanted]

    def unsound(self) -> list[str]:
        """Return the copies whose bytes are not what their names say."""
        return [
            f"{name} on {node}"
            for name, files in self.copies().items()
            for node, path in files.items()
            if path.exists() and not is_sound(name, path)
        ]

    def wait_restored(self, patience_s: float = RESTORED_S, what: str = "every chunk has its copies") -> float:
        """Wait until every chunk that is anywhere now is on as many disks as wanted; return after how many seconds."""
        chunks = set(self.copies())
        return self.mesh.measure(what, lambda: not self.lacking(chunks), patience_s)

    def check(self, through: ChunkNode | None = None, *, deep: bool = False) -> Report:
        """Return what `vault check` reports."""
        (report,) = (through or self.up()[0]).call("vault.check", vault=VAULT, deep=deep)
        return dict(report)

    def wait_checked(self, patience_s: float = RESTORED_S) -> Report:
        """Wait until `vault check --deep` finds nothing at all, not even a misplaced copy; return its report."""
        last: list[Report] = []

        def is_clean() -> bool:
            last[:] = [self.check(deep=True)]
            return is_clean_report(last[0])

        try:
            wait_until(is_clean, patience_s, "vault check --deep finds nothing")
        except AssertionError as error:
            raise AssertionError(f"{error}: {[shown(report) for report in last]}") from None
        return last[0]

    def assert_whole(self) -> Report:
        """Read everything back through every trusted node, wait for all copies, check deeply; see `wait_checked`."""
        self.read_back()
        self.wait_restored()
        report = self.wait_checked()
        assert self.unsound() == []
        assert not (crashes := "\n".join(filter(None, (node.crash() for node in self.everyone())))), crashes
        return report

    def read_back(self, excused: Iterable[str] = ()) -> int:
        """Read every key through every trusted node that runs: it must be in a state that the journal allows.

        Returns how many objects there were. `excused` keys are left out.
        """
        keys = [key for key in self.journal.names() if key not in set(excused)]
        return read_back(self.clients(), keys)


def read_back(clients: Sequence[Client], keys: Sequence[str]) -> int:
    """Read keys through all clients, side by side; each has to show the same, and what the journal allows."""
    found = Client.read_all(clients, keys)
    wrong = [
        f"{key} through {client.name}: {state[:60]}, allowed {sorted(client.journal.allowed(key))}"
        for client, states in zip(clients, found, strict=True)
        for key, state in states.items()
        if state not in client.journal.allowed(key)
    ]
    assert wrong == [], f"{len(wrong)} of {len(keys)}: {wrong[:10]}"
    differing = [key for key in keys if len({states[key] for states in found}) > 1]
    assert differing == [], differing[:10]
    return len(keys)


def start(nodes: Iterable[ChunkNode]) -> None:
    """Start daemons side by side."""
    chosen = list(nodes)
    for node in chosen:
        node.begin()
    for node in chosen:
        node.wait_ready()


def is_clean_report(report: Report) -> bool:
    """Tell whether a check found nothing that is not as it should be."""
    return not any(report["totals"].get(kind) for kind in KINDS) and not report["damaged"] and not report["silent"]


def shown(report: Report) -> Report:
    """Return the parts of a report that say what is wrong, few names of each."""
    return {name: value[:5] if isinstance(value, list) else value for name, value in report.items() if value}


@contextmanager
def open_chunk_cluster(
    folder: Path,
    count: int,
    factor: int,
    *,
    strangers: int = 0,
    namespaces: bool = True,
    make_node: Callable[[Path, str, Host | None], ChunkNode] = ChunkNode,
) -> Iterator[ChunkCluster]:
    """Give a cluster that serves: `count` trusted nodes n1, n2 …, and `strangers` untrusted ones u1, u2 and so on."""
    with ExitStack() as stack:
        network = stack.enter_context(open_network()) if namespaces else None
        mesh = stack.enter_context(open_mesh(folder, network, make_node))
        names = [f"n{number}" for number in range(1, count + 1)] + [f"u{n}" for n in range(1, strangers + 1)]
        nodes = [node for node in mesh.form(*names) if isinstance(node, ChunkNode)]
        cluster = ChunkCluster(mesh, network, factor)
        cluster.furnish(nodes[:count], nodes[count:])
        yield cluster
