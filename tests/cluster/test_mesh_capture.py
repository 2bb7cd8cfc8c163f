"""What somebody on the wire, and a member that is not trusted, get to see: nothing that a vault holds or is called."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.cluster.daemons import DEADLINE_S
from tests.cluster.meshes import VISIBLE_S, Mesh, MeshNode, open_mesh, wait_until

from meshhold.config.swarm_files import SwarmFiles

VAULT: Final = "canary-vault-of-the-family"
BUCKET: Final = "canary-bucket-4711"
LABEL: Final = "canary label of the camera"
OBJECT: Final = "canary/object/name.jpg"
PAYLOAD: Final = b"canary payload: nobody else shall read this. "


class Tap:
    """A tunnel to a daemon's mesh port that keeps every byte of either way."""

    def __init__(self, target: int) -> None:
        self.seen = bytearray()
        self.connections = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target), DEADLINE_S)
                far.settimeout(None)
                self.connections += 1
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self.seen += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Carry nothing any more."""
        for each in (self._listener, *self._open):
            each.close()


def secrets_of(node: MeshNode, key: dict[str, Any]) -> dict[str, bytes]:
    """Return everything that must be seen nowhere, in each form that a leak could have."""
    swarm = SwarmFiles(node.home).key()
    assert swarm is not None
    plain = {
        "vault name": VAULT.encode(),
        "bucket name": BUCKET.encode(),
        "key label": LABEL.encode(),
        "object name": OBJECT.encode(),
        "payload": PAYLOAD,
        "access secret": key["secret_access_key"].encode(),
        "swarm key": swarm,
    }
    forms = {f"{what}, base64": base64.b64encode(raw)[:-4] for what, raw in plain.items()}
    forms |= {f"{what}, hex": raw.hex().encode() for what, raw in plain.items()}
    return plain | forms


def found_in(content: bytes, secrets: dict[str, bytes]) -> list[str]:
    """Return what of the secrets can be read in these bytes."""
    return [what for what, raw in secrets.items() if raw in content]


def advertise(node: MeshNode, port: int) -> None:
    """Let a node that is not running tell others another port than its own."""
    path = node.home / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["node"]["advertise_addrs"] = [f"127.0.0.1:{port}"]
    path.write_text(yaml.safe_dump(settings))


def listen_port(node: MeshNode) -> int:
    """Return the port of a node's mesh, as configured."""
    address: str = yaml.safe_load((node.home / "config.yaml").read_text())["node"]["listen_addr"]
    return int(address.rpartition(":")[2])


def furnish(mesh: Mesh, names: tuple[MeshNode, MeshNode, MeshNode]) -> dict[str, Any]:
    """Share a vault with the second node, let the third store it unseen, and put canaries into all that has a name."""
    first, second, third = names
    first.call("vault.create", name=VAULT)
    first.call("vault.alias", vault=VAULT, alias=BUCKET)
    key: dict[str, Any] = first.call("key.add", label=LABEL, create_buckets=False)
    used = key["access_key_id"]
    first.call("grant.set", access_key_id=used, vault=VAULT, permissions="read,write", allow_list=False)
    first.call("vault.member_add", vault=VAULT, node=second.name)
    first.call("vault.member_add", vault=VAULT, node=third.name, trusted=False)
    first.s3(key).put_object(Bucket=BUCKET, Key=OBJECT, Body=PAYLOAD)
    first.s3(key).put_object(Bucket=BUCKET, Key=f"{OBJECT}.large", Body=PAYLOAD * 2_000)
    mesh.measure("the bucket on the trusted member", lambda: second.s3_get(key, "/") == (200, BUCKET))
    first.call("vault.rotate_key", vault=VAULT)
    other = first.call("mesh.invite", expires_s=600, single_use=True)["token"]
    assert other
    mesh.measure("the members on the trusted member", lambda: len(second.call("vault.members", vault=VAULT)) == 3)
    return key


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mesh, list[Tap], dict[str, Any]]]:
    """Three nodes that reach each other through taps only, and what was done with a vault on them."""
    with open_mesh(tmp_path_factory.mktemp("capture")) as mesh:
        nodes = [mesh.add(name, start=False) for name in ("n1", "n2", "n3")]
        taps = [Tap(listen_port(node)) for node in nodes]
        for node, tap in zip(nodes, taps, strict=True):
            advertise(node, tap.port)
            node.start()
        token = nodes[0].call("mesh.invite")["token"]
        for node in nodes[1:]:
            node.call("mesh.join", token=token)
        mesh.wait_linked(nodes)
        key = furnish(mesh, (nodes[0], nodes[1], nodes[2]))
        yield mesh, taps, key
        for tap in taps:
            tap.close()


def test_the_wire_shows_nothing(tapped: tuple[Mesh, list[Tap], dict[str, Any]]) -> None:
    """Joining, sharing, granting, rotating: all of it crossed the taps, and nothing of it can be read there."""
    mesh, taps, key = tapped
    seen = b"".join(bytes(tap.seen) for tap in taps)
    assert sum(tap.connections for tap in taps) >= 3
    assert len(seen) > 5_000
    assert found_in(seen, secrets_of(mesh.nodes[0], key)) == []
    ids = [view["id"].encode() for view in mesh.nodes[0].nodes().values()]
    words = [b"registry", b"membership", b"meshhold", b"photos", *ids]  # not even who talks, or in which words
    assert [word for word in words if word in seen] == []
    compressible = 1 - len({seen[i : i + 4] for i in range(0, len(seen) - 4, 4)}) / (len(seen) // 4)
    assert compressible < 0.02  # what is sealed does not repeat itself


def test_an_untrusted_member_holds_nothing_readable(tapped: tuple[Mesh, list[Tap], dict[str, Any]]) -> None:
    """It has the vault's records, and no file of it gives anything away; its daemon, asked directly, knows no more."""
    mesh, _, key = tapped
    first, second, third = mesh.nodes
    vault = first.call("vault.show", vault=VAULT)["id"]
    members = [view["node_id"] for view in first.call("vault.members", vault=VAULT)]
    assert third.nodes()["n3"]["id"] in members
    index = third.home / "index.db"
    holds = lambda: any(vault.encode() in path.read_bytes() for path in index.parent.glob("index.db*"))  # noqa: E731
    wait_until(holds, VISIBLE_S, "the vault's records on the untrusted member")
    assert third.call("vault.list") == []
    assert third.call("grant.list") == []
    assert third.s3_get(key, "/")[0] == 403
    third.stop()
    secrets = secrets_of(first, key)
    del secrets["swarm key"], secrets["swarm key, hex"], secrets["swarm key, base64"]  # it is a node of the mesh
    files = [path for path in third.home.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"index.db", "identity", "swarm.key"}
    leaks = {path.name: found_in(path.read_bytes(), secrets) for path in files}
    assert {name: what for name, what in leaks.items() if what} == {}
    logs = b"".join(node.log.read_bytes() for node in (first, second, third))
    assert found_in(logs, {**secrets, **secrets_of(first, key)}) == []
    third.start()
    wait_until(lambda: third.has_linked(mesh.nodes), DEADLINE_S, "the untrusted member is back")


_HEADER_SIZE_MAX = 1024  # what a capture file holds before its first packet; a few connections make more


@contextmanager
def tshark(port: int, path: Path) -> Iterator[None]:
    """Capture a port of loopback into a file, from the moment that the capture runs."""
    program = ["tshark", "-q", "-i", "lo", "-f", f"tcp port {port}", "-w", str(path)]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "Capturing on" in line:
                break
        begun = time.monotonic()
        while not path.exists() or path.stat().st_size <= _HEADER_SIZE_MAX:  # until a packet of ours is in it
            assert time.monotonic() - begun < DEADLINE_S
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            time.sleep(0.05)
        try:
            yield
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE_S)


@pytest.mark.slow
def test_tshark_sees_nothing(tmp_path: Path) -> None:
    """The same with a real capture of the mesh's own port, without anything of ours between the nodes."""
    assert shutil.which("tshark"), "tshark is not installed: `make mesh` installs it, or apt-get install tshark"
    (tmp_path / "nodes").mkdir()
    with open_mesh(tmp_path / "nodes") as mesh:
        nodes = [mesh.add(name) for name in ("n1", "n2", "n3")]
        capture = tmp_path / "capture.pcapng"
        with tshark(listen_port(nodes[0]), capture):
            token = nodes[0].call("mesh.invite")["token"]
            for node in nodes[1:]:
                node.call("mesh.join", token=token)
            mesh.wait_linked(nodes)
            key = furnish(mesh, (nodes[0], nodes[1], nodes[2]))
        raw = capture.read_bytes()
        fields = ["tshark", "-r", str(capture), "-T", "fields", "-e", "tcp.payload"]
        done = subprocess.run(fields, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
        payload = bytes.fromhex("".join(done.stdout.split()))
        assert len(payload) > 5_000
        assert found_in(raw, secrets_of(nodes[0], key)) == []
        assert found_in(payload, secrets_of(nodes[0], key)) == []
        named = subprocess.run(
            ["tshark", "-r", str(capture), "-Y", "data-text-lines || json || tls"],
            capture_output=True, text=True, timeout=DEADLINE_S, check=True,
        )  # fmt: skip
        assert named.stdout == ""  # nothing that tshark can dissect
