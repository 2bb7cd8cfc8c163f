"""restic and rclone back up through one node while another is killed, robbed of its disk and back, and a third drained.

What they stored is then verified, byte by byte, by the same programs through yet another node.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.clients.programs import Program, debian_program, note_version, pypi_program
from tests.cluster.chunks_cluster import BUCKET, ChunkCluster, ChunkNode, open_chunk_cluster
from tests.cluster.consistency_cluster import open_folder
from tests.cluster.meshes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MIB = 2**20
DRAIN_S = 600.0
ROUNDS = 3  # at least; they go on until the nodes' story is told


def restic_at(cluster: ChunkCluster, node: ChunkNode, home: Path) -> Program:
    """Return restic with a repository behind a node's door."""
    settings = {
        "AWS_ACCESS_KEY_ID": cluster.key["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": cluster.key["secret_access_key"],
        "AWS_DEFAULT_REGION": "meshhold",
        "RESTIC_REPOSITORY": f"s3:http://127.0.0.1:{node.port}/{BUCKET}/restic",
        "RESTIC_PASSWORD": "a password for tests",
    }
    return Program(debian_program("restic", "restic"), home, settings)


def rclone_at(cluster: ChunkCluster, node: ChunkNode, home: Path) -> Program:
    """Return rclone with a remote `mesh` behind a node's door."""
    config = home / f"rclone-{node.name}.conf"
    lines = ["[mesh]", "type = s3", "provider = Other", "region = meshhold", "force_path_style = true"]
    lines.append(f"endpoint = http://127.0.0.1:{node.port}")
    lines += [f"{name} = {cluster.key[name]}" for name in ("access_key_id", "secret_access_key")]
    config.write_text("\n".join(lines) + "\n")
    return Program(pypi_program("rclone"), home, {"RCLONE_CONFIG": str(config)})


def grow(tree: Path, rng: random.Random) -> None:
    """Add files to a folder, and change one of those that are there."""
    tree.mkdir(exist_ok=True)
    number = len(list(tree.iterdir()))
    for size in (900, 30_000, MIB + 1, 6 * MIB):
        (tree / f"{number:03d}-{size}").write_bytes(rng.randbytes(size))
    rng.choice(sorted(tree.iterdir())).write_bytes(rng.randbytes(70_000))


def tell_story(cluster: ChunkCluster, log: list[str], errors: list[BaseException]) -> None:
    """Kill the second node, take its chunks, let it return; then drain the fourth and take it away."""
    _, second, _, fourth = cluster.nodes
    try:
        second.kill()
        lost = len(second.chunk_files(cluster.vault))
        second.wipe_chunks()
        second.start()
        log.append(f"{second.name}: {lost} chunks lost, all back after {cluster.wait_restored():.1f} s")
        done = fourth.run("node", "drain", timeout_s=DRAIN_S)
        assert done.returncode == 0, done.stdout + done.stderr
        fourth.stop()
        cluster.nodes.remove(fourth)
        log.append(f"{fourth.name} is drained")
    except BaseException as error:  # noqa: BLE001 - a thread's error is raised by who waits for the thread
        errors.append(error)


def run_beside_story(cluster: ChunkCluster, work: Callable[[int], None]) -> list[str]:
    """Let the story happen while work is done round by round, until both are over; return the story."""
    log: list[str] = []
    errors: list[BaseException] = []
    story = threading.Thread(target=tell_story, args=(cluster, log, errors), daemon=True)
    story.start()
    number = 0
    while story.is_alive() or number < ROUNDS:
        work(number)
        number += 1
    story.join()
    assert errors == [], (errors, log)
    return [*log, f"{number} rounds"]


def test_backups_go_on_while_machines_come_and_go(tmp_path: Path) -> None:
    """`restic check --read-data` and `rclone check --download` find nothing, asked of a node that took no part."""
    rng = random.Random(1)
    with open_folder() as folder, open_chunk_cluster(folder, 4, 2, namespaces=False) as cluster:
        first, _, third, _ = cluster.nodes
        restic, rclone = restic_at(cluster, first, tmp_path), rclone_at(cluster, first, tmp_path)
        note_version(restic.path, "version")
        note_version(rclone.path, "version")
        tree = tmp_path / "tree"
        grow(tree, rng)
        restic.run("--no-cache", "init")

        def work(_: int) -> None:
            grow(tree, rng)
            restic.run("--no-cache", "backup", tree)
            rclone.run("sync", tree, f"mesh:{BUCKET}/rclone")

        work(0)
        cluster.wait_restored()
        print(run_beside_story(cluster, work))  # noqa: T201 - figures
        wait_until(lambda: not cluster.lacking(), 120, "two copies of all")
        restic_at(cluster, third, tmp_path).run("--no-cache", "check", "--read-data")
        rclone_at(cluster, third, tmp_path).run("check", "--download", tree, f"mesh:{BUCKET}/rclone")
        target = tmp_path / "restored"
        restic_at(cluster, third, tmp_path).run("--no-cache", "restore", "latest", "--target", target)
        found = target / str(tree).lstrip("/")
        assert {path.name: path.read_bytes() for path in found.iterdir()} == {
            path.name: path.read_bytes() for path in tree.iterdir()
        }
        report = cluster.check(deep=True)
        assert not any(report["totals"].get(kind) for kind in ("missing", "corrupt", "under_replicated")), report
