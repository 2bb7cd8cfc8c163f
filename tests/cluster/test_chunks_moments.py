"""Objects of many chunks on real nodes: what `make chunks` plays for long, for moments, on one cluster.

Three trusted nodes and an untrusted one, two copies of each chunk.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator

import pytest
from tests.cluster.chunks_clients import Load, told
from tests.cluster.chunks_cluster import BUCKET, ChunkCluster, open_chunk_cluster, shown
from tests.cluster.chunks_faults import (
    DAMAGES,
    cut_while_uploading,
    damage,
    kill_for_a_while,
    striking,
    wait_repaired,
    wipe_chunks,
)
from tests.cluster.consistency_cluster import open_folder
from tests.cluster.meshes import wait_until
from tests.faults.node_journal import ABSENT
from tests.faults.node_load import content_of, digest_of

SEED = int(os.environ.get("MESHHOLD_SEED", "0")) or 1
SIZE = 90_000
RESTORED_S = 30.0
KILLS = 2
MIB = 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[ChunkCluster]:
    with open_folder() as folder, open_chunk_cluster(folder, 3, 2, strangers=1) as opened:
        yield opened
        crashes = [node.crash() for node in opened.everyone()]
        assert not any(crashes), crashes


def put_alone(cluster: ChunkCluster, key: str, size: int = SIZE) -> dict[str, list[str]]:
    """Put an object while nobody else writes; return its chunks, with the nodes that have each."""
    before = set(cluster.copies())
    assert cluster.client(cluster.nodes[0]).put(key, content_of(key, size))
    return {name: sorted(files) for name, files in cluster.copies().items() if name not in before}


def test_an_acknowledged_object_is_on_as_many_disks_as_its_vault_wants(cluster: ChunkCluster) -> None:
    for number, size in enumerate((20_000, SIZE, 3 * MIB + 17)):
        chunks = put_alone(cluster, f"copies/{number}", size)
        assert len(chunks) >= 1 + size // (2 * MIB)
        assert [nodes for nodes in chunks.values() if len(nodes) < 2] == []
    cluster.read_back()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_copy_is_never_served_and_is_replaced(cluster: ChunkCluster, how: str) -> None:
    """Each of the two holders in turn: whoever reads gets the bytes that were put, and soon both copies are good."""
    chunks = put_alone(cluster, f"damaged/{how}", 2 * MIB)
    for turn in range(2):
        for name, nodes in chunks.items():
            damage(cluster.copies()[name][nodes[turn]], how)
        for client in cluster.clients():
            assert client.get(f"damaged/{how}") == digest_of(content_of(f"damaged/{how}", 2 * MIB))
        cluster.wait_checked(RESTORED_S)  # the untrusted node serves no reader of its own: this has it look, too
        wait_repaired(cluster, RESTORED_S)


def test_kills_and_a_lost_disk_cost_nothing(cluster: ChunkCluster) -> None:
    """Clients of all nodes work on; what is lost on one disk is restored with no command."""
    clients = cluster.clients()
    with Load(clients, SEED, keys=10, sizes=(20_000, 90_000, MIB + 1), pause_s=0.4) as load:
        with striking(cluster, SEED, (kill_for_a_while,), cluster.nodes[1:]) as log:
            load.wait_more(5)
            wait_until(lambda: len(log) >= 2, RESTORED_S, "two nodes are killed")
        cluster.wait_serving()
        wait_repaired(cluster, RESTORED_S)
        log.append(wipe_chunks(cluster.nodes[2], cluster.vault, random.Random(SEED), threading.Event()))
        took_s = cluster.wait_restored(RESTORED_S, "a lost disk is refilled")
        load.wait_more(5)
    print(f"{log}, refilled after {took_s:.1f} s\n{told(clients)}")  # noqa: T201 - shown with a failure
    cluster.assert_whole()


def test_power_cuts_in_the_middle_of_uploads_lose_nothing(cluster: ChunkCluster) -> None:
    """All nodes at the same moment, twice."""
    for number in range(KILLS):
        cut_while_uploading(cluster, random.Random(f"{SEED} {number}"), f"cut{number}", (MIB, 3 * MIB))
    cluster.assert_whole()


def test_an_untrusted_node_learns_nothing_and_has_no_say(cluster: ChunkCluster) -> None:
    """Names, metadata and contents are nowhere on its disk and in its log; it is no index replica, asked or not."""
    stranger = cluster.strangers[0]
    canary = "kanari"
    content = f"{canary} sings of payload ".encode() * 8_000
    client = cluster.client(cluster.nodes[0])
    before = set(cluster.copies())
    for number in range(12):  # some chunk of them is surely the untrusted node's to keep
        key = f"{canary}-key-{number}"
        assert client.put(key, content + str(number).encode(), Metadata={"note": f"{canary}-metadata"})
        assert client.put(f"{canary}-small-{number}", content[:500], Metadata={"note": f"{canary}-metadata"})
    new = {name for name in cluster.copies([stranger]) if name not in before}
    assert new, "the untrusted node keeps none of these chunks"
    secrets = [canary.encode(), BUCKET.encode() + b"-bucket"]
    cluster.nodes[0].call("vault.alias", vault="shared", alias=secrets[1].decode())
    wait_until(lambda: secrets[1].decode() in str(cluster.nodes[1].call("vault.list")), 10, "the bucket's new name")
    forms = [form for secret in secrets for form in (secret, secret.hex().encode(), secret.upper())]
    seen = [
        f"{form!r} in {path}"
        for path in [stranger.log, *(path for path in stranger.home.rglob("*") if path.is_file())]
        for form in forms
        if form in path.read_bytes() or form in str(path.relative_to(stranger.home.parent)).encode()
    ]
    cluster.nodes[0].call("vault.alias", vault="shared", alias=BUCKET)
    wait_until(lambda: BUCKET in {v["alias"] for v in cluster.nodes[1].call("vault.list")}, 10, "the old name again")
    assert seen == []
    assert cluster.replicas() == {node.name for node in cluster.nodes}


def test_an_object_that_lost_all_copies_is_named_and_costs_no_other(cluster: ChunkCluster) -> None:
    """Both copies of its chunks are damaged: `vault check --deep` names it; nobody is served a wrong byte."""
    chunks = put_alone(cluster, "lost", SIZE)
    for name in chunks:
        for number, path in enumerate(cluster.copies()[name].values()):
            damage(path, DAMAGES[number % len(DAMAGES)])
    for client in cluster.clients():
        said = client.get("lost")
        assert said != ABSENT
        assert not client.violations
        assert said.startswith(("500", "503")), said
    report = cluster.check(deep=True)
    assert [*report["missing"], *report["corrupt"]] == [f"{BUCKET}/lost"], shown(report)
    assert report["damaged"] == 1
    cluster.read_back(excused=["lost"])
    assert cluster.client(cluster.nodes[1]).put("lost", content_of("found again", SIZE))
    cluster.assert_whole()
