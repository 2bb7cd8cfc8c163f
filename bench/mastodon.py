"""`python -m bench.mastodon`: very many pictures into a vault with two copies on three nodes, as Mastodon puts them.

It tells how fast they come in, what they take on the disks over copies x payload, what the nodes hold in memory, how
long a node takes from its start to ready, and how long a check of the whole vault takes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.cases import KIB, MIB
from bench.client import open_client
from bench.failures import BenchError
from bench.footprint import Footprint, footprint
from bench.media import SIZE_MAX, SIZE_MIN, Fed, Media, feed
from bench.presign import Endpoint
from bench.report import mib
from bench.three import NODES, TwoCopies
from bench.workspace import describe_machine, open_workspace
from meshhold.model.entry import INLINE_WHERE_DEAR_MAX

_SEED: Final = 20_260_101
_CONNECTIONS: Final = 16
_READ_BACK: Final = 200
_CHECK_S_MAX: Final = 3600.0
_SPARE: Final = 1024 * MIB
_BLOCK: Final = 512  # of st_blocks


@dataclass(frozen=True, slots=True)
class OnDisk:
    """What one node's data directory takes: files and bytes of chunks, as long as they are and as the disk has them."""

    files: int
    chunks: int
    chunks_allocated: int
    index_allocated: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `ready_s` of a restarted node; `check_s` and `verdict` of `vault check`."""

    objects: int
    payload: int
    fed: Fed
    disks: list[OnDisk]
    memory: list[Footprint]
    ready_s: float
    memory_restarted: Footprint
    check_s: float
    verdict: dict[str, Any]
    load: tuple[float, float]


def measure(folder: Path, objects: int, connections: int) -> Report:
    """Feed a new mesh and look at it. Errors: `BenchError`."""
    media = Media(objects, _SEED)
    target = TwoCopies(folder / "mastodon")
    before = os.getloadavg()[0]
    try:
        endpoint = target.start()
        fed = feed(endpoint, media, connections, lambda done: _say(f"{done:,} of {objects:,} objects"))
        _read_back(endpoint, media)
        memory = [footprint(target.pids[number]) for number in range(NODES)]
        os.sync()
        disks = [on_disk(target.home(number)) for number in range(NODES)]
        _say("restarting the first node")
        target.stop_node(0)
        began_s = time.monotonic()
        target.start_node(0)
        _read_back(endpoint, media, 1)
        ready_s = time.monotonic() - began_s
        target.wait(lambda: target.is_ready(0), "the restarted node answers")
        restarted = footprint(target.pids[0])
        _say("checking the vault")
        began_s = time.monotonic()
        verdict = _check(target)
        check_s = time.monotonic() - began_s
    finally:
        target.stop()
    load = (before, os.getloadavg()[0])
    return Report(objects, media.payload, fed, disks, memory, ready_s, restarted, check_s, verdict, load)


def _read_back(endpoint: Endpoint, media: Media, count: int = _READ_BACK) -> None:
    """Compare some objects with what was put."""
    chance = random.Random(_SEED)
    with open_client(endpoint) as client:
        for number in chance.choices(range(len(media.sizes)), k=count):
            if client.get(media.key(number)) != media.body(number):
                raise BenchError(f"object {number} did not read back as it was written")


def _check(target: TwoCopies) -> dict[str, Any]:
    (report,) = target.ask(0, "vault", "check", target.vault, timeout_s=_CHECK_S_MAX)
    return {name: report[name] for name in ("objects", "chunks", "bytes", "copies", "damaged", "totals", "silent")}


def on_disk(home: Path) -> OnDisk:
    """Measure one node's data directory."""
    files = chunks = allocated = index = 0
    for folder, _, names in os.walk(home):
        for name in names:
            stat = (Path(folder) / name).stat()
            if "chunks" in Path(folder).relative_to(home).parts:
                files, chunks, allocated = files + 1, chunks + stat.st_size, allocated + stat.st_blocks * _BLOCK
            elif name.startswith("index.db"):
                index += stat.st_blocks * _BLOCK
    return OnDisk(files, chunks, allocated, index)


def report_text(found: Report) -> str:
    """Return the report for a terminal."""
    fed, copies = found.fed, TwoCopies.factor
    wanted = copies * found.payload
    chunks = sum(disk.chunks_allocated for disk in found.disks)
    used = chunks + sum(disk.index_allocated for disk in found.disks)
    lines = [
        ("objects", f"{found.objects:,} of {SIZE_MIN // KIB} to {SIZE_MAX // KIB} KiB, log-uniform"),
        ("payload", f"{mib(found.payload)}, {found.payload / found.objects / KIB:.1f} KiB each"),
        ("put", f"{found.objects / fed.seconds:,.0f}/s, {found.payload / fed.seconds / 1e6:,.1f} MB/s"),
        ("took", f"{fed.seconds:,.0f} s; the client took {fed.client_cpu:.2f} of a processor, {fed.retries} retries"),
        ("by tenths", "  ".join(f"{rate / 1e6:.1f}" for rate in fed.tenths) + " MB/s"),
        ("disk", f"{mib(used)} = {used / wanted:.3f} x {copies} copies of the payload (aim: 1.05)"),
        ("chunks", f"{mib(chunks)} = {chunks / wanted:.3f} x; files on disk: {sum(d.files for d in found.disks):,}"),
        ("indexes", f"{mib(used - chunks)} on {NODES} nodes, objects up to {INLINE_WHERE_DEAR_MAX // KIB} KiB inside"),
        ("memory", ", ".join(f"{mib(each.rss)} (peak {mib(each.peak)})" for each in found.memory)),
        ("restart", f"{found.ready_s:.2f} s to the first object; then {mib(found.memory_restarted.rss)}"),
        ("check", f"{found.check_s:.1f} s: {found.verdict}"),
        ("load", f"{found.load[0]:.1f} before, {found.load[1]:.1f} after"),
    ]
    return "\n".join(f"{name:10}{text}" for name, text in lines)


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main(words: Sequence[str]) -> int:
    """Measure, print, write `mastodon.json`."""
    parser = argparse.ArgumentParser(prog="python -m bench.mastodon", description="Put very many pictures.")
    parser.add_argument("--objects", type=int, default=5_000)
    parser.add_argument("--connections", type=int, default=_CONNECTIONS)
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for results (build/bench)")
    parser.add_argument("--work", type=Path, help="folder for the nodes' data (a new one under ~/.cache)")
    options = parser.parse_args(words)
    try:
        with open_workspace(options.work) as folder:
            machine = describe_machine(folder)
            free = os.statvfs(folder)
            need = TwoCopies.factor * options.objects * 100 * KIB + _SPARE
            if free.f_bavail * free.f_frsize < need:
                raise BenchError(f"this takes up to {mib(need)} of disk: make room, or put fewer objects")
            found = measure(folder, options.objects, options.connections)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(report_text(found))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "mastodon.json"
    path.write_text(json.dumps({"machine": machine, **asdict(found)}, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
