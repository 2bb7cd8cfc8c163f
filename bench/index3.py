"""`python -m bench.index3`: 4 KiB objects and pages on three nodes that all keep the index, beside one node alone.

Both are started first; then each round measures each of them in turn, as `bench.run` does, so that a noisy minute meets
both. What counts is the median of the rounds, and of the ratios within a round. The three share this machine's
processors and its disk: three machines would have three of each, and a network between them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.cases import CASES
from bench.contender import Contender
from bench.failures import BenchError
from bench.install import wrk
from bench.meshhold_target import MeshHold
from bench.presign import Endpoint
from bench.processes import START_TIMEOUT_S, free_ports, last_words
from bench.report import layout
from bench.run import Plan, Sample, run_cases
from bench.targets import BUCKET, Target
from bench.workspace import describe_machine, open_workspace
from meshhold.admin.client import call_daemon
from meshhold.config.places import control_socket

MEASURED: Final = ("put4k", "get4k", "list500")
NODES: Final = 3
_PROGRAM: Final = Path(sys.executable).parent / "meshhold"
_COMMAND_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.2


class Three(Target):
    """Three daemons in one mesh, one vault that all are trusted with and keep the index of; the first one is asked."""

    name = "three"
    title = "3 nodes"
    promise = "fsync on two of three nodes before the answer, sealed, signatures checked"
    stop_timeout_s = 10.0

    def start(self) -> Endpoint:
        """Start three nodes, let them form a mesh and share the vault; wait until each one's replica takes part."""
        if not _PROGRAM.exists():
            raise BenchError(f"{_PROGRAM.name} is not installed beside {Path(sys.executable).name}: run make install")
        doors = free_ports(2 * NODES)
        for number in range(NODES):
            addresses = [f"127.0.0.1:{port}" for port in doors[2 * number : 2 * number + 2]]
            self._start_node(number, *addresses)
            self.servers.wait_port(doors[2 * number])
        self._wait(lambda: all(self._is_ready(number) for number in range(NODES)), "the nodes answer")
        token = self._ask(0, "invite")["token"]
        for number in range(1, NODES):
            self._ask(number, "join", token)
        vault = self._ask(0, "vault", "create", "bench")["id"]
        names = [f"n{number}" for number in range(NODES)]
        for name in names[1:]:
            self._ask(0, "vault", "add-member", vault, name)
        self._ask(0, "vault", "s3-alias", vault, BUCKET)
        self._ask(0, "vault", "set", vault, "--index-replicas", ",".join(names))
        self._wait(lambda: self._all_vote(vault), "all three keep the index")
        key = self._ask(0, "s3-key", "add", "--label", "bench")
        self._ask(0, "s3-perm", "grant", key["access_key_id"], vault, "rw")
        return Endpoint(doors[0], BUCKET, "meshhold", key["access_key_id"], key["secret_access_key"])

    def _start_node(self, number: int, s3: str, mesh: str) -> None:
        home = self.folder / f"n{number}"
        done = subprocess.run(
            [str(_PROGRAM), "init", "--data-dir", str(home), "--s3-addr", s3, "--listen-addr", mesh],
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"meshhold init failed: {last_words(done.stderr)}")
        config = home / "config.yaml"
        config.write_text(config.read_text().replace("node:\n", f"node:\n  name: n{number}\n", 1))
        self.servers.start([str(_PROGRAM), "--config", str(config), "daemon"], self.folder)

    def _ask(self, number: int, *words: str) -> Any:
        """Run a command against a node; return what it prints as JSON. Errors: `BenchError` with what it said."""
        command = [str(_PROGRAM), "--config", str(self.folder / f"n{number}" / "config.yaml"), *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
        if done.returncode:
            raise BenchError(f"meshhold {' '.join(words[:2])} failed: {last_words(done.stderr or done.stdout)}")
        return json.loads(done.stdout)

    def _is_ready(self, number: int) -> bool:
        try:
            self._ask(number, "status")
        except BenchError:
            return False
        return True

    def _all_vote(self, vault: str) -> bool:
        view = call_daemon(control_socket(self.folder / "n0"), "vault.replicas", {"vault": vault})
        states = [replica["state"] for replica in view["replicas"]]
        return states == ["votes"] * NODES and not view["changing"]

    def _wait(self, is_so: Any, what: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_so():
            self.servers.check()
            if time.monotonic() > deadline:
                raise BenchError(f"not within {START_TIMEOUT_S:.0f} s: {what}")
            time.sleep(_POLL_S)

    def version(self) -> str:
        """Return what `meshhold --version` says."""
        done = subprocess.run([str(_PROGRAM), "--version"], capture_output=True, text=True, timeout=30, check=False)
        return (done.stdout.strip().splitlines() or ["unknown"])[0]


def _table(samples: Sequence[Sample]) -> str:
    """Return a line for each case: medians, and the median of the ratios within rounds."""
    found = {(s.case, s.concurrency, s.target, s.round): s.measurement for s in samples if s.measurement is not None}
    lines: list[tuple[str, ...]] = [
        ("case", "conc", "one node /s", "median ms", "p99 ms", "3 nodes /s", "median ms", "p99 ms", "3 against one")
    ]
    for case, concurrency in dict.fromkeys((s.case, s.concurrency) for s in samples):
        cells = [case, str(concurrency)]
        for target in (MeshHold.name, Three.name):
            rounds = [m for (c, n, t, _), m in found.items() if (c, n, t) == (case, concurrency, target)]
            if rounds:
                cells.append(f"{median(m.rate for m in rounds):,.0f}")
                cells += [f"{median(m.p50_ms for m in rounds):.2f}", f"{median(m.p99_ms for m in rounds):.2f}"]
            else:
                cells += ["-", "-", "-"]
        ratios = [
            three.rate / found[case, concurrency, MeshHold.name, turn].rate
            for (c, n, t, turn), three in found.items()
            if (c, n, t) == (case, concurrency, Three.name) and (case, concurrency, MeshHold.name, turn) in found
        ]
        cells.append(f"{median(ratios):.2f}x" if ratios else "-")
        lines.append(tuple(cells))
    failures = sorted({f"{s.case} on {s.target}: {s.failure}" for s in samples if s.failure})
    return "\n".join([layout(lines), *failures])


def main(words: Sequence[str]) -> int:
    """Measure, print the table, write `index3.json`."""
    parser = argparse.ArgumentParser(prog="python -m bench.index3", description="Measure three nodes beside one.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for results (build/bench)")
    parser.add_argument("--work", type=Path, help="folder for the nodes' data (a new one under ~/.cache)")
    found = parser.parse_args(words)
    plan = Plan(found.rounds, found.seconds, found.seconds)
    cases = [case for case in CASES if case.name in MEASURED]
    try:
        driver = wrk()
        with open_workspace(found.work) as folder, ExitStack() as stack:
            machine = describe_machine(folder)
            contenders = [Contender(kind(folder / kind.name), driver) for kind in (MeshHold, Three)]
            for contender in contenders:
                stack.callback(contender.close)
                contender.open()
            samples = run_cases(contenders, cases, plan, folder)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(_table(samples))
    found.out.mkdir(parents=True, exist_ok=True)
    path = found.out / "index3.json"
    path.write_text(json.dumps({"machine": machine, "samples": [asdict(s) for s in samples]}, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return 0 if any(s.measurement for s in samples) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
