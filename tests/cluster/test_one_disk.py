"""All machines are lost but the chunks on a disk, and a word on paper: what there was can be read again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.chunks_cluster import ChunkNode
from tests.cluster.daemons import NodeFolder
from tests.cluster.meshes import MeshNode, open_mesh, wait_until
from tests.cluster.operations_guide import Operator, read_blocks

from meshhold.registry.record import Kind, decode_record
from meshhold.store.labels import decode_label

LARGE = bytes(range(256)) * 12_000  # three chunks
BUCKET = "my-bucket"


def furnish(node: NodeFolder, *, factor: int = 3) -> dict[str, str]:
    """Make a vault with a bucket, and return a key for it."""
    vault = node.ask("vault", "create", "photos", "--replication-factor", str(factor))["id"]
    assert node.type("vault", "s3-alias", vault, BUCKET).returncode == 0
    key: dict[str, str] = node.ask("s3-key", "add", "--label", "app")
    assert node.type("s3-perm", "grant", key["access_key_id"], vault, "read,write").returncode == 0
    return key


def put_all(s3: Any, numbers: range) -> None:
    for number in numbers:
        s3.put_object(Bucket=BUCKET, Key=f"small/{number}", Body=b"%d" % number)
        s3.put_object(Bucket=BUCKET, Key=f"large/{number}", Body=LARGE + b"%d" % number)


def assert_all(s3: Any, numbers: range) -> None:
    listed = {found["Key"] for found in s3.list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert listed == {f"{kind}/{number}" for kind in ("small", "large") for number in numbers}
    for number in numbers:
        assert s3.get_object(Bucket=BUCKET, Key=f"small/{number}")["Body"].read() == b"%d" % number
        assert s3.get_object(Bucket=BUCKET, Key=f"large/{number}")["Body"].read() == LARGE + b"%d" % number


@pytest.mark.timeout(120)
def test_chunks_and_the_word_suffice(tmp_path: Path) -> None:
    """Identity, index and registry are gone; the client's key works again on another machine."""
    lost, found = NodeFolder(tmp_path / "lost"), NodeFolder(tmp_path / "found")
    for node in (lost, found):
        assert node.type("init", "--s3-addr", f"127.0.0.1:{node.port}").returncode == 0
    with lost.running() as daemon:
        key = furnish(lost)
        put_all(lost.s3(key), range(3))
        taken = lost.ask("vault", "snapshot", "photos")
        assert (taken["objects"], taken["lacking"], taken["is_new"]) == (6, 0, True)
        lost.s3(key).put_object(Bucket=BUCKET, Key="too-late", Body=b"after the snapshot")
        word = lost.ask("vault", "export", "photos")["secrets"]
        daemon.process.kill()
        daemon.process.wait()
    (lost.home / "chunks").rename(found.home / "chunks")
    shutil.rmtree(lost.home)
    with found.running():
        done = found.type("vault", "import", word)
        assert done.returncode == 0, done.stderr
        assert "meshhold vault recover" in done.stderr
        done = found.type("vault", "recover", "photos", "--yes")
        assert done.returncode == 0, done.stderr
        assert "6 objects, 0 of them damaged" in done.stdout
        assert_all(found.s3(key), range(3))
        put_all(found.s3(key), range(3, 4))
        assert found.type("vault", "check", "--deep").returncode == 0
    with found.running():
        assert_all(found.s3(key), range(4))


def test_without_the_disk_the_word_says_what_is_missing(tmp_path: Path) -> None:
    """A word alone brings back nothing, and whoever has only that is told what to look for."""
    lost, found = NodeFolder(tmp_path / "lost"), NodeFolder(tmp_path / "found")
    for node in (lost, found):
        assert node.type("init", "--s3-addr", f"127.0.0.1:{node.port}").returncode == 0
    with lost.running():
        furnish(lost)
        word = lost.ask("vault", "export", "photos")["secrets"]
    with found.running():
        done = found.type("vault", "import", word)
        assert done.returncode == 1
        assert "no chunks of it are on this disk" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_disks_of_three_machines(tmp_path: Path) -> None:
    """Neither has every chunk; in new machines of a new mesh, both together have. None was a trusted member's."""
    with open_mesh(tmp_path) as mesh:
        attic, cellar, shed = mesh.form("attic", "cellar", "shed")
        key = furnish(attic, factor=2)
        for node in (cellar, shed):
            attic.call("vault.member_add", vault="photos", node=node.name, trusted=False)
        put_all(attic.s3(key), range(6))
        wait_until(lambda: bool(is_whole(attic)), 60.0, "two copies of each")
        taken = attic.ask("vault", "snapshot", "photos")
        assert (taken["lacking"], taken["copies"]) == (0, 2)
        wait_until(lambda: all(knows_snapshot(node) for node in (cellar, shed)), 10.0, "labels beside the chunks")
        word = attic.call("vault.export", vault="photos")["secrets"]
        for node in (attic, cellar, shed):
            node.kill()
        new = [mesh.add(name, start=False) for name in ("one", "two")]
        for node, disk in zip(new, (cellar, shed), strict=True):
            (disk.home / "chunks").rename(node.home / "chunks")
        for node in (attic, cellar, shed):
            shutil.rmtree(node.home)
        for node in new:
            node.start()
        one, two = new
        two.call("mesh.join", token=one.call("mesh.invite")["token"])
        mesh.wait_linked(new)
        one.call("vault.import", secrets=word)
        one.call("vault.member_add", vault="photos", node="two", trusted=False)
        done = one.type("vault", "recover", "photos", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert_all(one.s3(key), range(6))
        wait_until(lambda: bool(is_whole(one)), 60.0, "two copies of each, again")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_guide_with_nothing_but_a_disk(tmp_path: Path) -> None:
    """What is typed then stands in the operator's guide. The disk is that of a machine that nobody trusted."""
    with open_mesh(tmp_path, make_node=ChunkNode) as mesh:
        attic, rented = mesh.form("attic", "rented")
        spare = mesh.add("spare", start=False)
        operator = Operator(tmp_path / "desk", [node for node in (attic, spare) if isinstance(node, ChunkNode)])
        key = furnish(attic)
        attic.call("vault.member_add", vault="photos", node="rented", trusted=False)
        put_all(attic.s3(key), range(3))
        assert attic.ask("vault", "snapshot", "photos")["copies"] == 2
        operator.follow(read_blocks("What belongs in the safe", "photos")[0])
        wait_until(lambda: knows_snapshot(rented), 10.0, "a label beside the chunks")
        for node in (attic, rented):
            node.kill()
        rented.home.rename(operator.desk / "old-disk")
        shutil.rmtree(attic.home)
        operator.follow(read_blocks("Nothing but disks", "photos")[0])
        assert_all(spare.s3(key), range(3))


def is_whole(node: MeshNode) -> bool:
    """Tell whether each chunk has its copies."""
    [report] = node.call("vault.check")
    return not any(report["totals"].get(kind) for kind in report["totals"])


def knows_snapshot(node: MeshNode) -> bool:
    """Tell whether where the snapshot is lies beside the chunks."""
    labels = (node.home / "chunks").glob("*/label")
    records = (decode_record(raw) for label in labels for raw in decode_label(label.read_bytes()))
    return any(record.kind is Kind.SNAPSHOT for record in records)
