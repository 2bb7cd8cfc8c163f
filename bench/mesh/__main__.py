"""`python -m bench.mesh`: bulk and small calls through MeshHold's session, TLS 1.3 and libp2p, interleaved in one run.

Each contender is two processes on loopback, all started first; then each round measures each of them in turn, so that
a noisy minute of the machine hits all alike. What counts is the median of the rounds, and of the ratios within a round.
Where others use the machine, many short rounds tell more than few long ones, and `--others-max 0.1` counts only those
in which they had at most a tenth of it. What a call costs both processes in CPU moves least of all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.failures import BenchError
from bench.install import CACHE
from bench.mesh.load import Meter
from bench.report import layout
from bench.workspace import describe_machine

SIDES: Final = ("session", "tls", "libp2p")
TITLES: Final = {"session": "MeshHold", "tls": "trio.SSLStream", "libp2p": "libp2p"}
CASES: Final = {  # name → title, figure, whether more is better
    "bulk": ("bulk, 1 MiB pieces, one stream", "mib_per_s", True),
    "calls": ("100-byte calls, one at a time", "per_s", True),
    "rtt": ("their median round trip", "median_us", False),
    "cpu": ("CPU of both sides for one", "cpu_us", False),
    "many": ("100-byte calls, 16 at a time", "per_s", True),
}
_UNITS: Final = {"mib_per_s": "MiB/s", "per_s": "/s", "median_us": "µs", "cpu_us": "µs"}
_OF_CALLS: Final = ("calls", "rtt", "cpu")  # figures of one measurement
_LIBP2P_VENV: Final = CACHE / "libp2p-venv"
_INSTALL_S_MAX: Final = 600.0


def _libp2p_python() -> str:
    """Return an interpreter that has libp2p, installed where it is not there yet: its pins are not ours."""
    python = _LIBP2P_VENV / "bin" / "python"
    if not (_LIBP2P_VENV / "installed").exists():
        print(f"installing libp2p into {_LIBP2P_VENV} (needed once)", file=sys.stderr)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "libp2p"]
        for command in ([sys.executable, "-m", "venv", str(_LIBP2P_VENV)], pip):
            done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S_MAX, check=False)
            if done.returncode:
                raise BenchError(f"{' '.join(command)} failed: {(done.stderr or 'no output').strip().splitlines()[-1]}")
        (_LIBP2P_VENV / "installed").touch()
    return str(python)


class Contender:
    """Two processes: one serves, one drives. Resources: ends both when the stack closes."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = name
        self._stack = stack
        self._processes: list[int] = []
        python = _libp2p_python() if name == "libp2p" else sys.executable
        command = [python, "-m", f"bench.mesh.{name}_side"]
        address = self._start([*command, "serve"]).stdout.readline().strip()
        self._driver = self._start([*command, "drive", address])
        self.description = json.loads(self._read("start"))

    def _start(self, command: Sequence[str]) -> Any:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._processes.append(process.pid)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def measure(self, what: str, seconds: float) -> dict[str, float]:
        """Return the figures of one case."""
        meter = Meter(self._processes)
        self._driver.stdin.write(f"{what} {seconds}\n")
        self._driver.stdin.flush()
        figures: dict[str, float] = json.loads(self._read(what))
        used = meter.read()
        figures["others"] = used.others
        if "count" in figures:
            figures["cpu_us"] = used.own_s / figures["count"] * 1e6
        return figures

    def _read(self, what: str) -> str:
        line: str = self._driver.stdout.readline()
        if not line:
            raise BenchError(f"{TITLES[self.name]} ended during {what}: its error is above")
        return line


def _run(rounds: int, seconds: float, sides: Sequence[str], cases: Sequence[str]) -> dict[str, Any]:
    with ExitStack() as stack:
        contenders = [Contender(name, stack) for name in sides]
        samples: list[dict[str, Any]] = []
        for number in range(rounds):
            print(f"  round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            sample: dict[str, dict[str, float]] = {name: {} for name in sides}
            others = 0.0
            for what in cases:
                for contender in contenders:
                    if what == "many" and not contender.description["concurrent"]:
                        continue
                    figures = contender.measure(what, seconds)
                    others = max(others, figures["others"])
                    for case, (_, figure, _) in CASES.items():
                        if case == what or (case in _OF_CALLS and what == "calls"):
                            sample[contender.name][case] = figures[figure]
            samples.append({"others": others, **sample})
        versions = {contender.name: contender.description["version"] for contender in contenders}
    return {"versions": versions, "samples": samples}


def _table(samples: Sequence[dict[str, Any]], sides: Sequence[str]) -> str:
    others = [name for name in sides if name != "session"]
    lines: list[tuple[str, ...]] = [
        ("median of rounds", *(TITLES[name] for name in sides), *(f"against {TITLES[name]}" for name in others))
    ]
    for case, (title, figure, more_is_better) in CASES.items():
        cells = []
        for name in sides:
            found = [sample[name][case] for sample in samples if case in sample[name]]
            cells.append(f"{median(found):,.0f} {_UNITS[figure]}" if found else "-")
        for name in others:
            ratios = [
                sample["session"][case] / sample[name][case]
                for sample in samples
                if case in sample[name] and case in sample.get("session", {})
            ]
            ratio = median(ratios) if ratios else 0.0
            cells.append(f"{ratio if more_is_better else 1 / ratio:.2f}x" if ratio else "-")
        if any(cell != "-" for cell in cells):
            lines.append((title, *cells))
    return layout(lines)


def main(words: Sequence[str]) -> int:
    """Measure, print the table, write `mesh.json`."""
    parser = argparse.ArgumentParser(prog="python -m bench.mesh", description="Measure links between two nodes.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--cases", default="bulk,calls,many", help="comma-separated (bulk,calls,many)")
    parser.add_argument("--others-max", type=float, default=1.0, help="share of the machine that others may take")
    parser.add_argument("--only", default=",".join(SIDES), help=f"comma-separated: {', '.join(SIDES)}")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for results (build/bench)")
    found = parser.parse_args(words)
    sides = [name for name in SIDES if name in found.only.split(",")]
    try:
        results = _run(found.rounds, found.seconds, sides, found.cases.split(","))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    counted = [sample for sample in results["samples"] if sample["others"] <= found.others_max]
    print(_table(counted, sides))
    print(f"{len(counted)} of {found.rounds} rounds count")
    found.out.mkdir(parents=True, exist_ok=True)
    path = found.out / "mesh.json"
    path.write_text(json.dumps({"machine": describe_machine(found.out), **results}, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
