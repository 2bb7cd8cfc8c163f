"""Which servers are measured, how each is started and what it promises. Knows no load.

A target is started in an empty folder and serves one bucket on loopback; `promise` is what its acknowledgement means,
because a figure without it compares nothing.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Final

from bench.client import signer_now
from bench.failures import BenchError
from bench.install import tool
from bench.presign import Endpoint
from bench.processes import GRPC_OFFSET, Servers, free_ports

BUCKET: Final = "bench-bucket"
_READY_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.2


class Target(ABC):
    """One contender."""

    name: ClassVar[str]
    title: ClassVar[str]
    promise: ClassVar[str]
    stop_timeout_s: ClassVar[float] = 2.0
    """How long the servers may take to end; short where nothing reads their data again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.servers = Servers(folder / "server.log", self.stop_timeout_s)

    @abstractmethod
    def start(self) -> Endpoint:
        """Start the servers and make the bucket. Errors: `BenchError`."""

    @abstractmethod
    def version(self) -> str:
        """Return the program's own words for its version."""

    def stop(self) -> None:
        """End the servers."""
        self.servers.stop()


class SeaweedFS(Target):
    """Master, volume, filer and S3 door in four processes, with the defaults of each but the number of volumes."""

    name = "seaweedfs"
    title = "SeaweedFS"
    promise = "no fsync before the answer, no encryption, signatures checked"

    def start(self) -> Endpoint:
        """Start the four in the order in which they need each other; wait until a bucket can be written."""
        weed = [str(tool("weed")), "-logtostderr=true"]
        master, volume, filer, s3 = free_ports(4)
        at = f"127.0.0.1:{master}"
        here = "-ip=127.0.0.1"
        for name in ("master", "volume", "filer"):
            (self.folder / name).mkdir()
        endpoint = Endpoint(s3, BUCKET, "us-east-1", "benchaccess", "benchsecretbenchsecret")
        config = self.folder / "s3.json"
        config.write_text(json.dumps(seaweed_identities(endpoint)))
        plan = [
            (master, ["master", here, "-mdir=master"]),
            (volume, ["volume", here, "-dir=volume", "-max=1000", f"-master={at}", "-preStopSeconds=0"]),
            (filer, ["filer", here, "-defaultStoreDir=filer", f"-master={at}", "-localSocket=filer.sock"]),
            (s3, ["s3", here, "-ip.bind=127.0.0.1", f"-filer=127.0.0.1:{filer}", f"-config={config}", *S3_ONLY]),
        ]
        for port, words in plan:
            self.servers.start([*weed, *words, f"-port={port}", f"-port.grpc={port + GRPC_OFFSET}"], self.folder)
            self.servers.wait_port(port)
        make_bucket(endpoint, self.servers)
        return endpoint

    def version(self) -> str:
        """Return what `weed version` says."""
        return _first_line([str(tool("weed")), "version"])


S3_ONLY: Final = (
    "-localSocket=s3.sock",  # by default it lies in /tmp and stays there
    "-port.iceberg=0",  # doors of other protocols, whose default ports may be taken
    "-port.lance=0",
)


def seaweed_identities(endpoint: Endpoint) -> dict[str, object]:
    """Return SeaweedFS's configuration of one key that may do everything."""
    credentials = {"accessKey": endpoint.access_key_id, "secretKey": endpoint.secret_access_key}
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    return {"identities": [{"name": "bench", "credentials": [credentials], "actions": actions}]}


class Rclone(Target):
    """`rclone serve s3` over a folder: each object is a plain file."""

    name = "rclone"
    title = "rclone serve s3"
    promise = "no fsync before the answer, no encryption, signatures checked"

    def start(self) -> Endpoint:
        """Start the server over an empty folder; a bucket is a folder in it."""
        (port,) = free_ports(1)
        endpoint = Endpoint(port, BUCKET, "us-east-1", "benchaccess", "benchsecretbenchsecret")
        (self.folder / "data" / BUCKET).mkdir(parents=True)
        self.servers.start(
            [
                *[str(tool("rclone")), "serve", "s3", "data", "--config=", f"--addr=127.0.0.1:{port}"],
                f"--auth-key={endpoint.access_key_id},{endpoint.secret_access_key}",
            ],
            self.folder,
        )
        self.servers.wait_port(port)
        return endpoint

    def version(self) -> str:
        """Return what `rclone version` says."""
        return _first_line([str(tool("rclone")), "version"])


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return (done.stdout.strip().splitlines() or ["unknown"])[0]


def make_bucket(endpoint: Endpoint, servers: Servers) -> None:
    """Create the bucket and write one object, repeating both until the parts of the target have found each other."""
    signer = signer_now(endpoint)
    deadline = time.monotonic() + _READY_TIMEOUT_S
    for target in (signer.target("PUT", ""), signer.target("PUT", "ready")):
        while (answer := _put(endpoint, target)) not in (200, 409):
            servers.check()
            if time.monotonic() > deadline:
                raise BenchError(f"the bucket cannot be written after {_READY_TIMEOUT_S:.0f} s: {answer}")
            time.sleep(_POLL_S)


def _put(endpoint: Endpoint, target: str) -> int | str:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=10)
    try:
        connection.request("PUT", target, body=b"")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()
