"""Where chunks go as machines come, leave, are full or crawl: always to as many disks as their vault wants.

The moments of it run on few objects; the long tests, with `make chunks`, on hundreds.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from tests.cluster.chunks_clients import Client, Load, told
from tests.cluster.chunks_cluster import RESTORED_S, ChunkCluster, ChunkNode, open_chunk_cluster, shown
from tests.cluster.chunks_faults import crawling, moved_to_small_disk, thin_line
from tests.cluster.consistency_cluster import open_folder
from tests.cluster.meshes import wait_until
from tests.faults.node_load import content_of

SEED = int(os.environ.get("MESHHOLD_SEED", "0")) or 1
KIB, MIB = 2**10, 2**20
SMALL_DISK = 96 * MIB  # of which the store leaves 64 free
SLOW_KBIT_S = 4_000  # half a MiB/s: the others get a hundred times as much through the kernel
ANSWERED_S = 10.0
"""The longest that a request may take while a machine crawls: its patience with a first unknown holder, twice."""
DRAIN_S = 600.0
ROOM_AGAIN_S = 150.0  # a node that was full looks again at least once a minute
SURPLUS_GONE_S = 600.0  # two leases of two minutes, and the passes between
LONG = [pytest.mark.slow, pytest.mark.timeout(1800)]


def sizes(count: int, least: int, most: int) -> list[int]:
    """Return sizes between two bounds, many small ones and few large ones, always the same."""
    rng = random.Random(SEED)
    return [int(least * (most / least) ** (rng.random() ** 2)) for _ in range(count)]


def fill(clients: Sequence[Client], prefix: str, chosen: Sequence[int]) -> int:
    """Put an object of each size through the clients in turn; return how many bytes that were. None may be refused."""
    for number, size in enumerate(chosen):
        client = clients[number % len(clients)]
        assert client.put(f"{prefix}/{number}", content_of(f"{SEED} {prefix} {number}", size)), client.asked[-1]
    return sum(chosen)


def drain(node: ChunkNode) -> subprocess.CompletedProcess[str]:
    """Type `node drain` and wait until it says that the machine may be switched off."""
    done = node.run("node", "drain", timeout_s=DRAIN_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "safe" in done.stdout + done.stderr
    return done


@pytest.mark.parametrize(("count", "most"), [(16, MIB), pytest.param(500, 8 * MIB, marks=LONG)])
def test_one_machine_becomes_three(count: int, most: int) -> None:
    """All data is on three machines after two `add-member`, with no other command."""
    with open_folder() as folder, open_chunk_cluster(folder, 1, 3) as cluster:
        size = fill(cluster.clients(), "kept", sizes(count, 20 * KIB, most))
        for name in ("n2", "n3"):
            cluster.add_member(cluster.add(name))
        took_s = cluster.wait_restored(what="three copies of all")
        cluster.wait_serving()
        print(f"{count} objects, {size / MIB:.0f} MiB: three copies of all after {took_s:.1f} s")  # noqa: T201 - a figure
        cluster.assert_whole()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("count", "factor"), [(4, 3), (3, 2)])
def test_a_drained_machine_may_be_thrown_away(count: int, factor: int) -> None:
    """Once `node drain` says that it is safe, the others have all of it: chunks at the full factor, and the index."""
    with open_folder() as folder, open_chunk_cluster(folder, count, factor) as cluster:
        fill(cluster.clients(), "kept", sizes(100, 20 * KIB, 4 * MIB))
        gone = cluster.nodes[1]
        stay = [client for client in cluster.clients() if client.name != gone.name]
        began_s = time.monotonic()
        with Load(stay, SEED, keys=10, pause_s=0.5):
            done = drain(gone)
        print(f"drained after {time.monotonic() - began_s:.0f} s: {done.stdout}")  # noqa: T201 - a figure
        assert gone.chunk_files(cluster.vault) == {}
        assert gone.name not in cluster.replicas()
        gone.stop()
        shutil.rmtree(gone.home)
        cluster.nodes.remove(gone)
        assert cluster.lacking() == []
        cluster.wait_serving()
        cluster.read_back()
        report = cluster.check(deep=True)
        assert not report["damaged"], shown(report)
        assert not any(report["totals"].values()), shown(report)
        cluster.nodes[0].call("vault.member_remove", vault="shared", node=gone.name, gone=True)
        cluster.assert_whole()


@pytest.mark.parametrize(("count", "kind"), [(40, "tmpfs"), pytest.param(120, "ext4", marks=LONG)])
def test_a_full_disk_is_nobodys_error(count: int, kind: str) -> None:
    """One node's disk fills up: clients notice nothing, and its share goes to the next nodes."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder(on_disk=kind == "ext4"))  # a file in memory is no loop device's
        cluster = stack.enter_context(open_chunk_cluster(folder, 3, 2))
        small = cluster.nodes[2]
        stack.enter_context(moved_to_small_disk(cluster, small, SMALL_DISK, kind))
        clients = cluster.clients()
        for client in clients:
            client.wait_serving(60)
        fill(clients, "kept", [2 * MIB] * count)
        took_s = cluster.wait_restored(what="two copies of all beside a full disk")
        kept = sum(path.stat().st_size for path in small.chunk_files(cluster.vault).values())
        print(f"{kept / MIB:.0f} MiB on the full disk; two copies of all after {took_s:.1f} s\n{told(clients)}")  # noqa: T201 - figures
        assert kept > (SMALL_DISK - 64 * MIB) / 2, "the disk is not full: that tells nothing"
        cluster.read_back()
        report = cluster.check(deep=True)
        found = {name: count for name, count in report["totals"].items() if count and name != "misplaced"}
        assert found == {}, shown(report)
        assert cluster.unsound() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_full_disk_lacks_comes_once_it_has_room() -> None:
    """Three nodes, three copies: there is no next node to go to. Clients notice nothing, people are told."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        cluster = stack.enter_context(open_chunk_cluster(folder, 3, 3))
        small = cluster.nodes[2]
        disk = stack.enter_context(moved_to_small_disk(cluster, small, SMALL_DISK))
        fill(cluster.clients(), "kept", [2 * MIB] * 30)
        cluster.read_back()
        report = cluster.check()
        assert report["totals"]["under_replicated"] > 5, shown(report)
        assert not report["damaged"]
        subprocess.run(["mount", "-o", f"remount,size={1024 * MIB}", str(disk.path)], check=True)
        took_s = cluster.wait_restored(ROOM_AGAIN_S, "three copies of all once there is room")
        print(f"three copies of all {took_s:.1f} s after there was room")  # noqa: T201 - a figure
        cluster.assert_whole()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_another_factor_makes_copies_and_gives_room_back() -> None:
    """From one copy to three, then to two: each chunk is soon on exactly so many disks."""
    with open_folder() as folder, open_chunk_cluster(folder, 4, 1) as cluster:
        fill(cluster.clients(), "kept", sizes(60, 20 * KIB, 4 * MIB))
        for factor in (3, 2):
            cluster.nodes[0].call("vault.set", vault="shared", replication_factor=factor)
            cluster.factor = factor
            took_s = cluster.wait_restored()
            settled_s = wait_until(lambda: are_exact(cluster), SURPLUS_GONE_S, "no copy is one too many")
            print(f"{factor} copies of all after {took_s:.1f} s, none too many after {settled_s:.0f} s")  # noqa: T201 - figures
            cluster.assert_whole()


def are_exact(cluster: ChunkCluster) -> bool:
    """Tell whether each chunk is on as many disks as wanted, and on no more."""
    return all(len(files) == cluster.wanted for files in cluster.copies().values())


@pytest.mark.parametrize(
    ("how", "count", "factor", "seconds"),
    [
        ("crawls", 3, 2, 6.0),
        pytest.param("crawls", 4, 3, 60.0, marks=LONG),
        pytest.param("has a thin line", 3, 2, 60.0, marks=LONG),
        pytest.param("has a thin line", 4, 3, 60.0, marks=LONG),
    ],
)
def test_a_machine_that_is_100_times_slower_holds_nobody_up(how: str, count: int, factor: int, seconds: float) -> None:
    """Every request through the others is done, none takes long, and most are as fast as ever."""
    with open_folder() as folder, open_chunk_cluster(folder, count, factor) as cluster:
        slow = cluster.nodes[-1]
        clients = [cluster.client(node) for node in cluster.nodes[:-1]]
        with ExitStack() as stack:
            if how == "crawls":
                stack.enter_context(crawling(slow))
            else:
                assert cluster.network is not None
                assert slow.host is not None
                stack.enter_context(thin_line(cluster.network, slow.host, SLOW_KBIT_S))
            with Load(clients, SEED, keys=10, sizes=(20_000, 90_000, MIB + 1)) as load:
                load.stop.wait(seconds)  # the run's length, no wait for something
        print(told(clients))  # noqa: T201 - figures
        asked = [each for client in clients for each in client.asked]
        assert [each for each in asked if not each.is_done] == []
        assert max(each.took_s for each in asked) < ANSWERED_S
        # A thin line is good enough to keep copies, so a write waits for it, within bounds; nobody reads over it.
        quick = [each for each in asked if each.kind == "get" or how == "crawls"]
        late = [each for each in quick if each.took_s > 1]
        assert len(late) <= len(quick) / 20, late[:10]
        cluster.wait_serving()
        wait_until(lambda: not cluster.lacking(), RESTORED_S, "the slow one catches up")
        cluster.assert_whole()
