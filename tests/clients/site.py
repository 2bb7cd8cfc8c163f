"""A node as the guide sets one up, and what its clients need: buckets, keys, examples filled in, sample files."""

from __future__ import annotations

import filecmp
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.clients.programs import ROOT
from tests.cluster.daemons import NodeFolder

BUCKET: Final = "my-bucket"
MIB: Final = 2**20


class Site:
    """A running node, its folder for a test's files, and an access key that reads and writes `my-bucket`."""

    def __init__(self, node: NodeFolder, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self.key = self.mint("clients")
        self.bucket(BUCKET)

    def mint(self, label: str, *words: str) -> dict[str, str]:
        """Mint another access key."""
        key: dict[str, str] = self.node.ask("s3-key", "add", "--label", label, *words)
        return key

    def bucket(self, alias: str, permissions: str = "read,write", *, public: bool = False) -> str:
        """Make a vault with this alias that the site's key may use; return the vault's id."""
        vault: str = self.node.ask("vault", "create", f"vault of {alias}")["id"]
        self.type("vault", "s3-alias", vault, alias)
        self.type("s3-perm", "grant", self.key["access_key_id"], vault, permissions)
        if public:
            self.type("s3-perm", "grant", "anonymous", vault, "read")
        return vault

    def type(self, *words: str) -> str:
        """Run a command of MeshHold that must succeed; return what it printed."""
        done = self.node.type(*words)
        assert done.returncode == 0, f"meshhold {' '.join(words)}: {done.stderr}"
        return done.stdout

    def environment(self, key: dict[str, str] | None = None) -> dict[str, str]:
        """Return what the guide exports, and nothing of this machine's own AWS configuration."""
        chosen = key or self.key
        return {
            "AWS_ACCESS_KEY_ID": chosen["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": chosen["secret_access_key"],
            "AWS_DEFAULT_REGION": "meshhold",
            "AWS_ENDPOINT_URL": self.node.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def example(self, name: str) -> str:
        """Return a file of examples/ with this node's address and key in the places of the documented ones."""
        text = (ROOT / "examples" / name).read_text()
        places = {
            "127.0.0.1:3900": f"127.0.0.1:{self.node.port}",
            "YOUR_ACCESS_KEY_ID": self.key["access_key_id"],
            "YOUR_SECRET_ACCESS_KEY": self.key["secret_access_key"],
        }
        for documented, actual in places.items():
            text = text.replace(documented, actual)
        return text

    def sample(self, name: str, size: int) -> Path:
        """Make a file of `size` bytes that compress to nothing less, the same ones for the same name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = random.Random(name)
        with path.open("wb") as file:
            for start in range(0, size, MIB):
                file.write(rng.randbytes(min(MIB, size - start)))
        return path

    def tree(self, name: str) -> Path:
        """Make a folder of small files with names that are hard to carry over HTTP, and a larger one."""
        folder = self.folder / name
        rng = random.Random(name)
        names = ("a.txt", "b c/d+e.txt", "b c/100%.txt", "ünï/😀.bin", "deep/er/and/deeper/x", "empty", "q?&=#;:.txt")
        for at, each in enumerate(names):
            path = folder / each
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.randbytes(at * 999) if each != "empty" else b"")
        self.sample(f"{name}/large.bin", 20 * MIB + 7)
        return folder


def assert_same_file(found: Path, expected: Path) -> None:
    """Compare two files byte for byte."""
    assert filecmp.cmp(found, expected, shallow=False), f"{found} differs from {expected}"


def assert_same_tree(found: Path, expected: Path) -> None:
    """Compare two folders: the same names, each file byte for byte."""
    names = {str(p.relative_to(expected)) for p in expected.rglob("*") if p.is_file()}
    assert {str(p.relative_to(found)) for p in found.rglob("*") if p.is_file()} == names
    _, differing, unreadable = filecmp.cmpfiles(found, expected, sorted(names), shallow=False)
    assert (differing, unreadable) == ([], [])


@contextmanager
def open_site(folder: Path, config: str = "") -> Iterator[Site]:
    """Create a node in `folder`, with further lines of configuration, and run it until the block ends."""
    node = NodeFolder(folder / "home")
    made = node.type("init", "--s3-addr", f"127.0.0.1:{node.port}")
    assert made.returncode == 0, made.stderr
    if config:
        (node.home / "config.yaml").write_text(config.replace("127.0.0.1:3900", f"127.0.0.1:{node.port}"))
    work = folder / "work"
    work.mkdir()
    with node.running("daemon", "--log-level", "error") as daemon:
        yield Site(node, work)
        daemon.send(signal.SIGTERM)
        code, _, said = daemon.wait_end()
        assert code == 0, said
        assert "Traceback" not in said, said
