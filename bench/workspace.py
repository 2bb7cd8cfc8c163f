"""Where the servers keep their data during a run, and on what machine. Knows no server."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.failures import BenchError
from bench.install import CACHE


@contextmanager
def open_workspace(parent: Path | None) -> Iterator[Path]:
    """Give an empty folder on a real disk and remove it afterwards. Errors: `BenchError` on a file system in memory."""
    parent = (parent or CACHE).resolve()
    parent.mkdir(parents=True, exist_ok=True)
    kind = file_system(parent)
    if kind in ("tmpfs", "ramfs"):
        raise BenchError(f"{parent} is on {kind}, where fsync costs nothing: name a folder on a disk with --work")
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, found = line.split()[:3]
        inside = mount == "/" or path == Path(mount) or Path(mount) in path.parents
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def describe_machine(folder: Path) -> dict[str, Any]:
    """Return what a reader must know of the machine to compare figures."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "system": platform.platform(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "memory_bytes": memory,
        "file_system": file_system(folder.resolve()),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
