"""A target while it is being measured: its endpoint, its memory, its objects, or the reason why it is out."""

from __future__ import annotations

import os
import random
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.cases import GIB_FREE_MIN, KIB, MIB, Case, prepared_keys, request_targets, written_keys
from bench.client import open_client, signer_now
from bench.failures import BenchError
from bench.load import Load, Measurement, run_load
from bench.memory import Memory, MemorySampler
from bench.presign import Endpoint
from bench.targets import Target

_SEED: Final = 20_260_101  # the same bodies for every target and in every run


class Contender:
    """Started by `open`, ended by `close`. After a failed start `failure` says why and every measurement raises."""

    def __init__(self, target: Target, wrk: str) -> None:
        self.target = target
        self.version = "unknown"
        self.failure = ""
        self.memory: Memory | None = None
        self._wrk = wrk
        self._endpoint: Endpoint | None = None
        self._resources = ExitStack()
        self._sampler: MemorySampler | None = None

    def open(self) -> None:
        """Start the target. A failure is kept, not raised."""
        try:
            self.version = self.target.version()
            self._resources.callback(self.target.stop)
            self._endpoint = self.target.start()
            self._sampler = self._resources.enter_context(MemorySampler(lambda: self.target.servers.leaders))
        except (BenchError, OSError) as error:
            self.failure = str(error)

    def close(self) -> None:
        """Note the peak of the memory, end the target and remove its data."""
        if self._sampler is not None:
            self.memory = self._sampler.read()
        self._resources.close()
        shutil.rmtree(self.target.folder, ignore_errors=True)

    def prepare(self, case: Case) -> None:
        """Store what a reading case reads, and check that it reads back. Errors: `BenchError`."""
        size = case.size or 4 * KIB
        keys = prepared_keys(case)
        source = random.Random(_SEED)
        with open_client(self._ready()) as client:
            for key in keys:
                client.put(key, source.randbytes(size))
            if keys and client.get(keys[0]) != random.Random(_SEED).randbytes(size):
                raise BenchError(f"{keys[0]} did not read back as it was written")
            if case.query:
                page = client.get_target(client.signer.target("GET", "", dict(case.query)))
                wanted = int(dict(case.query)["max-keys"])
                if page.count(b"<Key>") != wanted:
                    raise BenchError(f"the listing has {page.count(b'<Key>')} keys instead of {wanted}")

    def measure(self, case: Case, concurrency: int, seconds: float, label: str, bodies: Path) -> Measurement:
        """Run one case once. Errors: `BenchError`."""
        endpoint = self._ready()
        self.target.servers.check()
        free = os.statvfs(self.target.folder)
        if free.f_bavail * free.f_frsize < GIB_FREE_MIN * KIB * MIB:
            raise BenchError(f"less than {GIB_FREE_MIN} GiB of disk left: make room and run again")
        signer = signer_now(endpoint)
        if case.method == "DELETE":
            filled = self._fill(case, seconds, label, bodies)
            targets = request_targets(case, label, signer)[:filled]
        else:
            targets = request_targets(case, label, signer)
        body = body_file(bodies, case.size) if case.method == "PUT" else None
        load = Load(case.method, endpoint.host, targets, concurrency, seconds, body, once=case.is_once)
        return run_load(self._wrk, load)

    def _fill(self, case: Case, seconds: float, label: str, bodies: Path) -> int:
        """Write the objects that a DELETE case removes; return how many there are.

        Takes twice the time, since most targets delete faster than they write.
        """
        endpoint = self._ready()
        signer = signer_now(endpoint)
        targets = [signer.target("PUT", key) for key in written_keys(case, label)]
        body = body_file(bodies, 4 * KIB)
        return run_load(self._wrk, Load("PUT", endpoint.host, targets, 16, 2 * seconds, body, once=True)).completed

    def _ready(self) -> Endpoint:
        if self._endpoint is None or self.failure:
            raise BenchError(self.failure or "not started")
        return self._endpoint


def body_file(folder: Path, size: int) -> Path:
    """Return a file of `size` random bytes, made on first use."""
    path = folder / f"body-{size}"
    if not path.exists():
        path.write_bytes(random.Random(_SEED).randbytes(size))
    return path
