"""Do pages and deletions cost the same among ten thousand keys and among ten million? One node for each size, in turns.

`python -m bench.millions --keys 10000,10000000`; ten million keys take some GiB under `--work`, removed at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import random
import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from bench.bulk import bulk_fill
from bench.cases import page_key
from bench.client import open_client, signer_now
from bench.cpu import cpu_s
from bench.failures import BenchError
from bench.meshhold_target import MeshHold
from bench.presign import Endpoint
from bench.report import layout
from bench.workspace import open_workspace

PAGE: Final = 1_000
FOLDERS: Final = 10  # common prefixes of a page: each hides a thousand keys
DELETED: Final = 1_000  # S3's limit for one request
_TIMEOUT_S: Final = 120.0


@dataclass(slots=True)
class Costs:
    """What requests of one kind took: milliseconds of the clock and of the daemon's processors."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


class Sized:
    """A node with so many keys, and what its requests cost."""

    def __init__(self, folder: Path, keys: int) -> None:
        self.keys = keys
        self.costs: dict[str, Costs] = {}
        self.fill_s = self.start_s = 0.0
        self.node = MeshHold(folder / f"keys-{keys}")
        self._random = random.Random(keys)
        self._endpoint: Endpoint | None = None

    def fill(self) -> None:
        """Start the node, fill its index while it is stopped, start it again."""
        self._endpoint = self.node.start()
        with open_client(self._endpoint) as client:
            client.put("first", b"makes the vault's row")
        self.node.stop()
        began = time.monotonic()
        bulk_fill(self.node.data_dir, self.node.vault_id, self.keys)
        self.fill_s = time.monotonic() - began
        began = time.monotonic()
        self.node.launch()
        self.start_s = time.monotonic() - began

    def list_pages(self, rounds: int) -> None:
        """Ask for each kind of page once a round; all of them full."""
        for _ in range(rounds):
            deep = self._random.randrange(self.keys // 2, self.keys - PAGE)
            self._page("first page", PAGE, {})
            self._page("deep page", PAGE, {"start-after": page_key(deep - 1)})
            folder = self._random.randrange(self.keys // PAGE - FOLDERS + 1)
            after = {"start-after": page_key(folder * PAGE - 1)} if folder else {}
            self._page("delimiter page", FOLDERS, {"delimiter": "/", **after})

    def delete(self, requests: int) -> None:
        """Delete a thousand keys with each request, from the first key on."""
        for request in range(min(requests, self.keys // DELETED)):
            keys = range(request * DELETED, (request + 1) * DELETED)
            rows = "".join(f"<Object><Key>{page_key(number)}</Key></Object>" for number in keys)
            body = f"<Delete><Quiet>true</Quiet>{rows}</Delete>".encode()
            answer = self._timed("delete 1,000", "POST", {"delete": ""}, body)
            if b"<Error>" in answer:
                raise BenchError(f"a deletion failed: {answer[:300]!r}")

    def _page(self, kind: str, limit: int, more: dict[str, str]) -> None:
        query = {"list-type": "2", "max-keys": str(limit), "prefix": "photos/", **more}
        page = self._timed(kind, "GET", query, None)
        shown = page.count(b"<Key>") + page.count(b"<CommonPrefixes>")
        if shown != limit:
            raise BenchError(f"a page has {shown} rows instead of {limit}")

    def _timed(self, kind: str, method: str, query: dict[str, str], body: bytes | None) -> bytes:
        costs = self.costs.setdefault(kind, Costs())
        cpu, began = cpu_s(self.node.daemon_pid), time.perf_counter()
        answer = self._call(method, query, body)
        costs.wall_ms.append((time.perf_counter() - began) * 1000)
        costs.cpu_ms.append((cpu_s(self.node.daemon_pid) - cpu) * 1000)
        return answer

    def _call(self, method: str, query: dict[str, str], body: bytes | None) -> bytes:
        if self._endpoint is None:
            raise BenchError("the node was not filled")
        connection = http.client.HTTPConnection("127.0.0.1", self._endpoint.port, timeout=_TIMEOUT_S)
        headers = {}
        if body is not None:
            headers["Content-MD5"] = b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        try:
            connection.request(method, signer_now(self._endpoint).target(method, "", query), body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise BenchError(f"{method} answered {answer.status}: {content[:300]!r}")
        return content


def table(nodes: Sequence[Sized]) -> str:
    """Return medians as text, and how they compare with the smallest size."""
    lines: list[tuple[str, ...]] = [("request", "keys", "ms", "CPU ms", "time vs least")]
    for kind in nodes[0].costs:
        base = median(nodes[0].costs[kind].wall_ms)
        for node in nodes:
            costs = node.costs[kind]
            wall = median(costs.wall_ms)
            cpu = sum(costs.cpu_ms) / len(costs.cpu_ms)  # ticks of 10 ms: the mean says more than the median
            lines.append((kind, f"{node.keys:,}", f"{wall:.1f}", f"{cpu:.1f}", f"{wall / base:.2f}x"))
    filled = [f"{node.keys:,} keys: filled in {node.fill_s:.0f} s, started in {node.start_s:.1f} s" for node in nodes]
    return layout(lines) + "\n" + "\n".join(filled)


def main(words: Sequence[str]) -> int:
    """Run what the words ask for."""
    parser = argparse.ArgumentParser(prog="python -m bench.millions", description="Pages and deletions at size.")
    parser.add_argument("--keys", default="10000,10000000", help="comma-separated sizes, the least first")
    parser.add_argument("--rounds", type=int, default=20, help="how often each page is asked for, at each turn")
    parser.add_argument("--turns", type=int, default=3, help="how often the nodes take turns")
    parser.add_argument("--work", type=Path, help="folder for the nodes' data (a new one under ~/.cache)")
    found = parser.parse_args(words)
    with open_workspace(found.work) as folder, ExitStack() as stack:
        nodes = [Sized(folder, int(size)) for size in found.keys.split(",")]
        for node in nodes:
            stack.callback(node.node.stop)
            print(f"  filling {node.keys:,} keys", file=sys.stderr, flush=True)
            node.fill()
        for turn in range(found.turns):
            for node in nodes if turn % 2 else reversed(nodes):
                node.list_pages(found.rounds)
        for node in nodes:
            node.delete(found.rounds)
        print(table(nodes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
