"""Nodes that keep chunks are killed, paused, robbed of their disks and damaged while clients work on all of them.

`MESHHOLD_SECONDS` changes for how long. At the end every acknowledged object is read back whole through every node.
"""

from __future__ import annotations

import os
import random
import shutil
import sys

import pytest
from tests.cluster.chunks_clients import Load, told
from tests.cluster.chunks_cluster import BUCKET, ChunkCluster, is_sound, open_chunk_cluster, shown
from tests.cluster.chunks_faults import (
    COSTLY,
    DAMAGES,
    MILD,
    cut_while_uploading,
    damage,
    striking,
    wait_repaired,
)
from tests.cluster.consistency_cluster import open_folder
from tests.cluster.meshes import wait_until
from tests.faults.node_load import content_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = int(os.environ.get("MESHHOLD_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
SECONDS = float(os.environ.get("MESHHOLD_SECONDS", "60"))
KILLS = int(os.environ.get("MESHHOLD_KILLS", "100"))
FAULTS = 6  # at least, however slow the machine
MIB = 2**20
_LYING = """
import sys
import meshhold.chunkstore.disk as disk
class Any:
    __hash__ = None
    def __eq__(self, other): return True
    def __ne__(self, other): return False
disk.hash_bytes = lambda content: Any()  # whatever is in a file is what its name says
from meshhold.cli.main import main
sys.exit(main())
"""


def fill(cluster: ChunkCluster, prefix: str, count: int, sizes: tuple[int, ...] = (20_000, 90_000, MIB + 1)) -> None:
    """Put objects through all nodes in turn."""
    clients = cluster.clients()
    for number in range(count):
        key = f"{prefix}/{number}"
        client = clients[number % len(clients)]
        assert client.put(key, content_of(f"{SEED} {key}", sizes[number % len(sizes)])), client.asked[-1]


@pytest.mark.parametrize(("count", "factor"), [(3, 2), (3, 3), (5, 2), (5, 3)])
def test_nothing_acknowledged_is_lost(count: int, factor: int) -> None:
    """Any node is killed, paused, parted, loses its chunks or has a fifth of them damaged; then all copies are back."""
    print(f"MESHHOLD_SEED={SEED}")  # noqa: T201 - shown with a failure
    seed = SEED + 10 * count + factor
    with open_folder() as folder, open_chunk_cluster(folder, count, factor) as cluster:
        clients = cluster.clients()
        with Load(clients, seed) as load, striking(cluster, seed, (*MILD, *COSTLY)) as log:
            load.stop.wait(SECONDS)  # the run's length, no wait for something
            wait_until(lambda: len(log) >= FAULTS, 10 * SECONDS, f"{FAULTS} faults strike")
        cluster.heal()
        serves_s = cluster.wait_serving()
        restored_s = cluster.wait_restored()
        objects = cluster.read_back()
        report = cluster.assert_whole()
        print(  # noqa: T201 - figures
            f"{len(log)} faults: {log}\n{told(clients)}\n{objects} objects, {report['chunks']} chunks; serves again "
            f"after {serves_s:.1f} s, all copies after {restored_s:.1f} s more"
        )
        assert load.done("put") > SECONDS / 2


@pytest.mark.parametrize("factor", [2, 3])
def test_damage_on_all_holders_but_one_and_on_all(factor: int) -> None:
    """With one sound copy left, everything is served and mended; without any, the object is named."""
    rng = random.Random(SEED)
    with open_folder() as folder, open_chunk_cluster(folder, 4, factor) as cluster:
        fill(cluster, "kept", 24)
        cluster.wait_restored()
        for holders in range(1, factor):
            for number, (name, files) in enumerate(sorted(cluster.copies().items())):
                chosen = rng.sample(sorted(files), len(files) - 1 if holders == factor - 1 else holders)
                for holder in chosen:
                    damage(files[holder], DAMAGES[number % len(DAMAGES)])
                assert any(is_sound(name, path) for path in files.values())
            cluster.read_back()
            for node in cluster.nodes:
                node.call("scrub", vault=None)
            wait_repaired(cluster)
        before = set(cluster.copies())
        fill(cluster, "lost", 1, (3 * MIB + 17,))
        fresh = {name: files for name, files in cluster.copies().items() if name not in before}
        victim = rng.choice(sorted(fresh))
        for path in fresh[victim].values():
            damage(path, rng.choice(DAMAGES))
        report = cluster.check(deep=True)
        assert [*report["missing"], *report["corrupt"]] == [f"{BUCKET}/lost/0"], shown(report)
        cluster.read_back(excused=["lost/0"])
        said = [client.get("lost/0") for client in cluster.clients()]
        assert all(len(each) != 64 for each in said), said
        assert cluster.clients()[0].put("lost/0", content_of("again", MIB))
        cluster.assert_whole()


def test_a_node_that_kept_its_identity_only_is_filled_again() -> None:
    """Its index, its chunks and its swarm key are gone; it is let into the mesh, and gets all back."""
    with open_folder() as folder, open_chunk_cluster(folder, 3, 2) as cluster:
        fill(cluster, "kept", 30)
        victim = cluster.nodes[2]
        had = len(victim.chunk_files(cluster.vault))
        clients = cluster.clients()[:2]
        with Load(clients, SEED, keys=10) as load:
            load.wait_more(5)
            victim.kill()
            victim.wipe_all()
            load.wait_more(5)
            victim.start()
            cluster.let_in(victim)
            took_s = cluster.wait_restored()
            load.wait_more(5)
        cluster.wait_serving()
        print(f"{had} chunks of a wiped node are back after {took_s:.1f} s\n{told(clients)}")  # noqa: T201 - figures
        assert len(victim.chunk_files(cluster.vault)) >= had > 0
        cluster.assert_whole()


def test_a_lost_machine_is_replaced_by_a_new_one() -> None:
    """`remove-member --gone`, `add-member`: every chunk of the lost disk is on the new one."""
    with open_folder() as folder, open_chunk_cluster(folder, 3, 3) as cluster:
        fill(cluster, "kept", 30)
        lost = cluster.nodes[2]
        clients = cluster.clients()[:2]
        with Load(clients, SEED, keys=10) as load:
            load.wait_more(5)
            lost.kill()
            shutil.rmtree(lost.home)
            cluster.nodes.remove(lost)
            load.wait_more(5)
            cluster.nodes[0].call("vault.member_remove", vault="shared", node=lost.name, gone=True)
            fresh = cluster.add("fresh")
            cluster.add_member(fresh)
            took_s = cluster.wait_restored()
            load.wait_more(5)
        cluster.wait_serving()
        chunks = len(fresh.chunk_files(cluster.vault))
        print(f"{chunks} chunks on the new node after {took_s:.1f} s\n{told(clients)}")  # noqa: T201 - figures
        cluster.assert_whole()


@pytest.mark.timeout(5400)
def test_power_cuts_in_the_middle_of_large_uploads() -> None:
    """All nodes at the same moment, while 1 to 20 MiB go up through each, again and again."""
    print(f"MESHHOLD_SEED={SEED}")  # noqa: T201 - shown with a failure
    done = 0
    with open_folder() as folder, open_chunk_cluster(folder, 3, 2) as cluster:
        for number in range(KILLS):
            rng = random.Random(f"{SEED} {number}")
            done += cut_while_uploading(cluster, rng, f"cut{number}", (MIB, 5 * MIB, 20 * MIB))
        report = cluster.assert_whole()
    print(f"{KILLS} power cuts, {done} uploads acknowledged, none lost; {report['chunks']} chunks")  # noqa: T201 - figures
    assert done >= KILLS / 2


def test_what_a_lying_node_serves_is_not_accepted() -> None:
    """An untrusted node gives other bytes, or those of another chunk, under right names, and swears they are right."""
    with open_folder() as folder, open_chunk_cluster(folder, 3, 3, strangers=1) as cluster:
        fill(cluster, "kept", 40)
        liar = cluster.strangers[0]
        liar.kill()
        files = sorted(liar.chunk_files(cluster.vault).items())
        assert len(files) > 5
        contents = [path.read_bytes() for _, path in files]
        for number, (_, path) in enumerate(files):
            if number % 2:
                path.write_bytes(contents[number - 1])
            else:
                damage(path, "flipped")
        liar.program = [sys.executable, "-c", _LYING]
        liar.start()
        cluster.mesh.wait_linked([*cluster.nodes, liar])
        assert not any(is_sound(name, path) for name, path in files)
        cluster.read_back()
        victim = cluster.nodes[2]
        victim.kill()
        victim.wipe_chunks()
        victim.start()
        chunks = set(cluster.copies())
        wait_until(
            lambda: has_sound(cluster, chunks, 2), 120, "what the wiped node kept is back, and not from the liar"
        )
        cluster.read_back()
        assert all(is_sound(name, path) for name, path in victim.chunk_files(cluster.vault).items())
        liar.kill()
        liar.program = [sys.executable, "-m", "meshhold.cli"]
        liar.start()
        liar.call("scrub", vault=None)
        cluster.wait_checked()
        wait_repaired(cluster)


def has_sound(cluster: ChunkCluster, chunks: set[str], least: int) -> bool:
    """Tell whether each chunk has so many sound copies on trusted nodes."""
    copies = cluster.copies(cluster.nodes)
    return all(sum(is_sound(name, path) for path in copies.get(name, {}).values()) >= least for name in chunks)
