"""SeaweedFS on three volume servers as a contender: master, three volume servers, filer and S3 door. Knows no load."""

from __future__ import annotations

import json
from typing import ClassVar, Final

from bench.install import tool
from bench.presign import Endpoint
from bench.processes import GRPC_OFFSET, free_ports
from bench.targets import BUCKET, S3_ONLY, SeaweedFS, make_bucket, seaweed_identities

VOLUME_SERVERS: Final = 3


class SeaweedThree(SeaweedFS):
    """Six processes. `replication` is theirs: `002` puts two more copies of each needle on other servers of a rack."""

    replication: ClassVar[str]

    def start(self) -> Endpoint:
        """Start the six in the order in which they need each other; wait until a bucket can be written."""
        weed = [str(tool("weed")), "-logtostderr=true"]
        master, filer, s3, *volumes = free_ports(3 + VOLUME_SERVERS)
        at, here = f"127.0.0.1:{master}", "-ip=127.0.0.1"
        endpoint = Endpoint(s3, BUCKET, "us-east-1", "benchaccess", "benchsecretbenchsecret")
        config = self.folder / "s3.json"
        config.write_text(json.dumps(seaweed_identities(endpoint)))
        to_filer = f"-filer=127.0.0.1:{filer}"
        plan = [(master, ["master", here, "-mdir=master", f"-defaultReplication={self.replication}"])]
        plan += [
            (port, ["volume", here, f"-dir=volume{at_}", "-max=1000", f"-master={at}", "-preStopSeconds=0"])
            for at_, port in enumerate(volumes)
        ]
        plan += [
            (filer, ["filer", here, "-defaultStoreDir=filer", f"-master={at}", "-localSocket=filer.sock"]),
            (s3, ["s3", here, "-ip.bind=127.0.0.1", to_filer, f"-config={config}", *S3_ONLY]),
        ]
        for name in ("master", "filer", *(f"volume{number}" for number in range(VOLUME_SERVERS))):
            (self.folder / name).mkdir()
        for port, words in plan:
            self.servers.start([*weed, *words, f"-port={port}", f"-port.grpc={port + GRPC_OFFSET}"], self.folder)
            self.servers.wait_port(port)
        make_bucket(endpoint, self.servers)
        return endpoint


class SeaweedTwoCopies(SeaweedThree):
    """Two copies of everything."""

    name = "seaweed2"
    title = "SeaweedFS 001"
    promise = "two copies in page caches, no fsync before the answer, no encryption"
    replication = "001"


class SeaweedThreeCopies(SeaweedThree):
    """Three copies of everything."""

    name = "seaweed3"
    title = "SeaweedFS 002"
    promise = "three copies in page caches, no fsync before the answer, no encryption"
    replication = "002"
