"""A replica that missed ten thousand objects has them again within a minute, and not much more goes over its link.

`MESHHOLD_MISSED` changes how many. The bytes are those that its machine received and sent, as its link counts them.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.cluster.consistency_cluster import ClockedNode, Cluster, open_cluster, open_folder
from tests.cluster.consistency_doors import content_of
from tests.cluster.consistency_history import Outcome
from tests.cluster.meshes import wait_until

MISSED = int(os.environ.get("MESHHOLD_MISSED", "10000"))
CATCH_UP_S = 60.0
WRITERS = 16
MORE_MAX = 1_500
"""Bytes that may be moved for each object beside its content: its entry's other fields, and who else holds it."""
LOOK_EVERY_S = 0.25


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_replica_that_was_away_catches_up() -> None:
    with open_folder() as folder, open_cluster(folder, 3, 3) as cluster:
        away = cluster.nodes[2]
        away.kill()
        write(cluster, MISSED)
        before = cluster.traffic()[away.name]
        away.start()
        began = time.monotonic()
        wait_until(lambda: held(away) >= MISSED, 5 * CATCH_UP_S, "the replica holds what it missed")
        took_s = time.monotonic() - began
        assert held(away) == MISSED
        moved = cluster.traffic()[away.name] - before
    content = sum(len(content_of(f"missed-{number}")) for number in range(MISSED)) / MISSED
    more = moved / MISSED - content
    shown = f"{MISSED} objects caught up in {took_s:.1f} s; over the link {more:,.0f} bytes for each beside its content"
    print(f"{shown} of {content:,.0f}")  # noqa: T201 - a figure
    assert took_s <= CATCH_UP_S
    assert more <= MORE_MAX


def write(cluster: Cluster, count: int) -> None:
    """Put that many objects through the nodes that are there."""
    numbers: Iterator[int] = iter(range(count))
    lock = threading.Lock()

    def client(door_number: int) -> None:
        door = cluster.doors[door_number % 2]
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            while door.put("writer", f"missed/{number:06}", f"missed-{number}").outcome is not Outcome.OK:
                pass

    clients = [threading.Thread(target=client, args=(number,)) for number in range(WRITERS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()


def held(node: ClockedNode) -> int:
    """Return how many of the objects a node's own replica has."""
    time.sleep(LOOK_EVERY_S)  # counting takes time of the machine that is measured
    with closing(sqlite3.connect(f"file:{node.home / 'index.db'}?mode=ro", uri=True)) as index:
        (count,) = index.execute("SELECT count(*) FROM register WHERE key >= ? AND key < ?", (b"missed/", b"missed0"))
        return int(count[0])
