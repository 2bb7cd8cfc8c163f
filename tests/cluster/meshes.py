"""Meshes of real daemons for tests: on loopback, or on machines of their own; what they believe is polled.

A word to a daemon goes over its control socket, as the commands' words do: a program started for each look would be
slower than what is measured.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from tests.cluster.daemons import DEADLINE_S, NodeFolder, free_port
from tests.cluster.namespaces import Host, Network

from meshhold.admin.client import call_daemon
from meshhold.config.places import control_socket
from meshhold.errors import MeshHoldError

POLL_S: Final = 0.02
_LOOK_S: Final = 0.25  # how soon the end of a daemon that is waited for is noticed
MESH_PORT: Final = 7777
S3_PORT: Final = 3900
VISIBLE_S: Final = 3.0  # until a command's effect is seen on every node
DEAD_S: Final = 10.0  # until all know that a node was killed
BACK_S: Final = 5.0  # until all know that it was started again

Facts = dict[str, Any]


class MeshNode(NodeFolder):
    """One node of a mesh: its home, its daemon, and words to it."""

    def __init__(self, home: Path, name: str, host: Host | None = None) -> None:
        super().__init__(home)
        self.name = name
        self.host = host
        self.log = home.parent / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.program = [sys.executable, "-m", "meshhold.cli"]
        self._ready: socket.socket | None = None
        self.port = self.port if host is None else S3_PORT
        listen = f"127.0.0.1:{free_port()}" if host is None else f"0.0.0.0:{MESH_PORT}"
        node = {"name": name, "listen_addr": listen, "mdns": False, "upnp": False}
        home.mkdir()
        (home / "config.yaml").write_text(
            yaml.safe_dump({"node": {**node, "s3": {"listen_addr": f"127.0.0.1:{self.port}"}}})
        )

    def start(self) -> None:
        """Start the daemon and wait until it is ready."""
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Start the daemon; its log goes on in one file."""
        assert self.process is None
        program = [*self.program, "daemon"]
        path = self.home.parent / f"{self.name}.notify"
        path.unlink(missing_ok=True)
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(path))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                program if self.host is None else self.host.command(*program),
                env=self.environment({"NOTIFY_SOCKET": str(path)}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> None:
        """Wait until the daemon that was begun serves."""
        assert self._ready is not None
        with self._ready as ready:
            ready.settimeout(_LOOK_S)
            deadline = time.monotonic() + DEADLINE_S
            while True:
                try:
                    assert ready.recv(256) == b"READY=1"
                    return
                except TimeoutError:
                    ended = self.process is None or self.process.poll() is not None
                    if ended or time.monotonic() > deadline:
                        raise AssertionError(f"{self.name} is not ready: {self.log.read_text()}") from None

    def kill(self) -> None:
        """End the daemon as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End the daemon in good order."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(DEADLINE_S) == 0, self.log.read_text()
        self.process = None

    def call(self, name: str, /, **args: Any) -> Any:
        """Ask the daemon as the commands do. Errors: `CallRefusedError`, `DaemonUnreachableError`."""
        return call_daemon(control_socket(self.home), name, args)

    def nodes(self) -> dict[str, Facts]:
        """Return what `node list` shows, by name."""
        return {view["name"]: view for view in self.call("node.list")}

    def states(self, others: Iterable[MeshNode]) -> set[str]:
        """Return the states that this node believes of others; "unknown" for those it does not list."""
        nodes = self.nodes()
        return {nodes[other.name]["state"] if other.name in nodes else "unknown" for other in others}

    def has_linked(self, others: Iterable[MeshNode]) -> bool:
        """Tell whether it knows all the others alive and has a way to each."""
        nodes = self.nodes()
        views = [nodes.get(other.name) for other in others if other is not self]
        return all(view is not None and view["state"] == "alive" and view["route"] != "none" for view in views)

    def s3_get(self, key: Mapping[str, str], path: str, method: str = "GET") -> tuple[int, str]:
        """Send a signed request; return status and error code, or what a good answer names as buckets."""
        url = f"http://127.0.0.1:{self.port}{path}"
        request = AWSRequest(method=method, url=url, headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"})
        SigV4Auth(Credentials(key["access_key_id"], key["secret_access_key"]), "s3", "meshhold").add_auth(request)
        with ExitStack() as stack:
            if self.host is not None:
                stack.enter_context(self.host.entered())
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
            connection.connect()
        connection.request(method, path, headers=dict(request.headers.items()))
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        words = [piece.partition("<")[0] for tag in ("<Code>", "<Name>") for piece in body.split(tag)[1:]]
        return answer.status, ",".join(words)


def wait_until(is_so: Callable[[], bool], patience_s: float, what: str) -> float:
    """Wait until something is so, and return after how many seconds. A daemon that is starting may refuse meanwhile."""
    begun = time.monotonic()
    while True:
        try:
            if is_so():
                return time.monotonic() - begun
        except MeshHoldError as error:
            last = str(error)
        else:
            last = "it is not so"
        assert time.monotonic() - begun < patience_s, f"{what}: not within {patience_s:g} s ({last})"
        time.sleep(POLL_S)


class Mesh:
    """Nodes that tests form a mesh of. Made by `open_mesh`; `times` are what was measured, in seconds."""

    def __init__(
        self, folder: Path, network: Network | None, make_node: Callable[[Path, str, Host | None], MeshNode] = MeshNode
    ) -> None:
        self.nodes: list[MeshNode] = []
        self.times: dict[str, list[float]] = {}
        self._folder = folder
        self._network = network
        self._make_node = make_node

    def add(self, name: str, *, behind_nat: bool = False, start: bool = True) -> MeshNode:
        """Make a node, in no mesh yet."""
        host = None if self._network is None else self._network.add(name, behind_nat=behind_nat)
        node = self._make_node(self._folder / name, name, host)
        self.nodes.append(node)
        if start:
            node.start()
        return node

    def form(self, *names: str) -> list[MeshNode]:
        """Make nodes and let all of them join the first; return them once each has a way to each."""
        nodes = [self.add(name, start=False) for name in names]
        for node in nodes:  # together: a start is mostly the loading of modules
            node.begin()
        for node in nodes:
            node.wait_ready()
        token = nodes[0].call("mesh.invite")["token"] if nodes[1:] else ""
        for node in nodes[1:]:
            begun = time.monotonic()
            node.call("mesh.join", token=token)
            self.times.setdefault("join", []).append(time.monotonic() - begun)
        self.wait_linked(nodes)
        return nodes

    def wait_linked(self, nodes: list[MeshNode], patience_s: float = DEADLINE_S) -> float:
        """Wait until each of the nodes knows the others alive and has a way to them."""
        return self.measure("all linked", lambda: all(node.has_linked(nodes) for node in nodes), patience_s)

    def measure(self, what: str, is_so: Callable[[], bool], patience_s: float = VISIBLE_S) -> float:
        """Wait until something is so, and keep how long that took."""
        took_s = wait_until(is_so, patience_s, what)
        self.times.setdefault(what, []).append(took_s)
        return took_s

    def seen(self, what: str, nodes: Iterable[MeshNode], is_seen: Callable[[MeshNode], bool]) -> None:
        """Wait until every one of the nodes sees a command's effect, no longer than people are promised."""
        self.measure(f"{what} seen by all", lambda: all(map(is_seen, nodes)), VISIBLE_S)

    def believe(self, state: str, gone: MeshNode, patience_s: float) -> None:
        """Wait until every other running node believes this of one."""
        others = [node for node in self.nodes if node is not gone and node.process is not None]
        self.measure(f"a node {state} for all", lambda: all(n.states([gone]) == {state} for n in others), patience_s)

    def report(self) -> str:
        """Return the times as a table."""
        rows = [f"{what:<44} {len(t):>3} times, at most {max(t):6.2f} s" for what, t in self.times.items()]
        return "\n".join(["", *rows])

    def close(self) -> None:
        """End every daemon."""
        for node in self.nodes:
            node.kill()


@contextmanager
def open_mesh(
    folder: Path, network: Network | None = None, make_node: Callable[[Path, str, Host | None], MeshNode] = MeshNode
) -> Iterator[Mesh]:
    """Give a mesh to fill, on loopback or on a network's machines; at its end print its times and kill its daemons."""
    mesh = Mesh(folder, network, make_node)
    try:
        yield mesh
    finally:
        mesh.close()
        sys.stdout.write(mesh.report() + "\n")
