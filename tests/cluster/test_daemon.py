"""A real daemon, driven by the real commands: the guide works as written, and every end of the process is survived."""

from __future__ import annotations

import re
import signal
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.daemons import DEADLINE_S, NodeFolder


@pytest.fixture
def folder(tmp_path: Path) -> NodeFolder:
    """Make a node that was never started."""
    node = NodeFolder(tmp_path / "home")
    done = node.type("init", "--s3-addr", f"127.0.0.1:{node.port}")
    assert done.returncode == 0, done.stderr
    return node


def furnish(node: NodeFolder) -> tuple[str, dict[str, str]]:
    """Follow the guide: a vault, its bucket my-bucket, a key with read and write; return vault id and key."""
    vault = node.ask("vault", "create", "photos")["id"]
    assert node.type("vault", "s3-alias", vault, "my-bucket").returncode == 0
    key = node.ask("s3-key", "add", "--label", "ci")
    assert node.type("s3-perm", "grant", key["access_key_id"], vault, "read,write").returncode == 0
    return vault, key


def body_of(s3: Any, key: str) -> bytes:
    content: bytes = s3.get_object(Bucket="my-bucket", Key=key)["Body"].read()
    return content


def fetch(node: NodeFolder, path: str) -> tuple[int, bytes]:
    """GET without a signature; return status and body."""
    connection = HTTPConnection("127.0.0.1", node.port, timeout=DEADLINE_S)
    connection.request("GET", path)
    answer = connection.getresponse()
    found = (answer.status, answer.read())
    connection.close()
    return found


def test_the_guide_from_init_to_an_object(folder: NodeFolder) -> None:
    with folder.running():
        vault, key = furnish(folder)
        s3 = folder.s3(key)
        large = bytes(range(256)) * 12_000  # three chunks
        s3.put_object(Bucket="my-bucket", Key="small.txt", Body=b"hello")
        s3.put_object(Bucket="my-bucket", Key="large.bin", Body=large)
        assert body_of(s3, "small.txt") == b"hello"
        assert body_of(s3, "large.bin") == large
        [shown] = folder.ask("vault", "list")
        assert (shown["id"], shown["alias"], shown["objects"]) == (vault, "my-bucket", 2)
        assert folder.ask("status")["objects"] == 2
        done = folder.type("vault", "check", "--deep")
        assert done.returncode == 0, done.stdout
        assert "all whole" in done.stdout
        assert folder.type("scrub").returncode == 0
        assert folder.type("collect").returncode == 0


def test_anonymous_reads_by_grant_only(folder: NodeFolder) -> None:
    with folder.running():
        vault, key = furnish(folder)
        folder.s3(key).put_object(Bucket="my-bucket", Key="page.html", Body=b"<p>")
        assert fetch(folder, "/my-bucket/page.html")[0] == 403
        assert folder.type("s3-perm", "grant", "anonymous", vault, "read").returncode == 0
        assert fetch(folder, "/my-bucket/page.html") == (200, b"<p>")
        assert fetch(folder, "/my-bucket/")[0] == 403
        assert folder.type("s3-perm", "grant", "anonymous", vault, "read", "--list").returncode == 0
        assert fetch(folder, "/my-bucket/")[0] == 200
        assert folder.type("s3-perm", "grant", "anonymous", vault, "read,write").returncode == 1
        assert folder.type("s3-perm", "revoke", "anonymous", vault).returncode == 0
        assert fetch(folder, "/my-bucket/page.html")[0] == 403


def test_sigterm_ends_well_and_the_next_start_has_everything(folder: NodeFolder) -> None:
    with folder.running() as daemon:
        _, key = furnish(folder)
        folder.s3(key).put_object(Bucket="my-bucket", Key="a", Body=b"kept")
        daemon.send(signal.SIGTERM)
        daemon.wait_for("STOPPING=1")
        code, _, err = daemon.wait_end()
        assert code == 0, err
        assert key["secret_access_key"] not in err
    assert not (folder.home / "control.sock").exists()
    assert folder.type("status").returncode == 3
    with folder.running():
        assert body_of(folder.s3(key), "a") == b"kept"


def test_sigterm_lets_a_running_upload_finish(folder: NodeFolder) -> None:
    with folder.running() as daemon:
        _, key = furnish(folder)
        url = folder.s3(key).generate_presigned_url("put_object", Params={"Bucket": "my-bucket", "Key": "slow"})
        connection = HTTPConnection("127.0.0.1", folder.port, timeout=DEADLINE_S)
        connection.putrequest("PUT", url.removeprefix(folder.endpoint))
        connection.putheader("Content-Length", "20")
        connection.putheader("Expect", "100-continue")
        connection.endheaders(b"")
        assert b"100" in connection.sock.recv(64)  # the request is being served
        connection.send(b"0123456789")
        daemon.send(signal.SIGTERM)
        daemon.wait_for("STOPPING=1")
        connection.send(b"0123456789")
        assert connection.getresponse().status == 200
        connection.close()
        assert daemon.wait_end()[0] == 0
    with folder.running():
        assert body_of(folder.s3(key), "slow") == b"0123456789" * 2


def test_kill_is_survived(folder: NodeFolder) -> None:
    """A killed daemon leaves its socket and lock behind; neither stands in the way of the next."""
    with folder.running() as daemon:
        _, key = furnish(folder)
        folder.s3(key).put_object(Bucket="my-bucket", Key="a", Body=b"kept")
        daemon.send(signal.SIGKILL)
        daemon.wait_end()
    assert (folder.home / "control.sock").exists()
    done = folder.type("vault", "list")
    assert done.returncode == 3
    assert "start it with:" in done.stderr
    with folder.running():
        assert body_of(folder.s3(key), "a") == b"kept"
        assert folder.type("vault", "check").returncode == 0


def test_second_daemon_is_refused_by_name(folder: NodeFolder) -> None:
    with folder.running() as daemon:
        done = folder.type("daemon")
        assert done.returncode == 1
        assert f"another daemon (process {daemon.process.pid})" in done.stderr
        assert str(folder.home) in done.stderr
        assert "Traceback" not in done.stderr
        assert folder.type("status").returncode == 0


def test_taken_port_is_named(folder: NodeFolder, tmp_path: Path) -> None:
    with folder.running():
        other = NodeFolder(tmp_path / "other")
        other.type("init", "--s3-addr", f"127.0.0.1:{folder.port}")
        done = other.type("daemon")
        assert done.returncode == 1
        assert f"127.0.0.1:{folder.port}" in done.stderr
        assert "Traceback" not in done.stderr


def test_secret_is_nowhere_in_clear(folder: NodeFolder) -> None:
    """Neither an access key's secret nor content, small or large, is readable in the data directory."""
    with folder.running():
        _, key = furnish(folder)
        folder.s3(key).put_object(Bucket="my-bucket", Key="large", Body=b"dear diary " * 10_000)
        folder.s3(key).put_object(Bucket="my-bucket", Key="small", Body=b"dear diary")
        hidden = [key["secret_access_key"].encode(), b"dear diary"]
        for path in folder.home.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert [text for text in hidden if text in content] == [], path


def test_quickstart_twice(tmp_path: Path) -> None:
    """The first start prints credentials that work; the second serves the same data and prints none."""
    node = NodeFolder(tmp_path / "home")
    key: dict[str, str] = {}
    with node.running("quickstart", "--s3-addr", f"127.0.0.1:{node.port}") as daemon:
        assert daemon.process.stdout is not None
        for line in daemon.process.stdout:
            if found := re.fullmatch(r"export AWS_(\w+)=(\S+)\n", line):
                key[found[1].lower()] = found[2]
            if line.startswith("Ctrl-C"):
                break
        assert key.pop("endpoint_url") == node.endpoint
        assert key.pop("default_region") == "meshhold"
        node.s3(key).put_object(Bucket="my-bucket", Key="a", Body=b"kept")
        daemon.send(signal.SIGINT)
        daemon.wait_for("STOPPING=1")
        assert daemon.wait_end()[0] == 0
    with node.running("quickstart") as daemon:
        assert body_of(node.s3(key), "a") == b"kept"
        assert daemon.process.stdout is not None
        said: list[str] = []
        for line in daemon.process.stdout:
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        daemon.send(signal.SIGTERM)
        assert daemon.wait_end()[0] == 0
        assert not [line for line in said if "export" in line]
        assert [line for line in said if "s3-key add" in line]
