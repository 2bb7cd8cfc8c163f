"""Three real daemons: buckets that S3 creates through one of them are shared as a vault is, and used through all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.cluster.meshes import Facts, Mesh, MeshNode, open_mesh

SHARED_S = 60.0  # until a vault's index is kept by three, or a machine that came back keeps one more


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with open_mesh(tmp_path_factory.mktemp("like")) as opened:
        ann, *others = opened.form("ann", "bob", "cid")
        ann.call("vault.create", name="model", replication_factor=2)
        for node in others:
            ann.call("vault.member_add", vault="model", node=node.name)
        opened.measure("three replicas", lambda: len(replicas(ann, "model")) == 3, SHARED_S)
        yield opened


@pytest.fixture(scope="module")
def key(mesh: Mesh) -> Facts:
    made: Facts = mesh.nodes[0].call("key.add", label="app", create_buckets=True, like="model")
    return made


def replicas(node: MeshNode, vault: str) -> list[str]:
    found: list[str] = node.call("vault.show", vault=vault)["index_replicas"]
    return found


def put_and_get(writer: Any, reader: Any, bucket: str) -> None:
    writer.put_object(Bucket=bucket, Key="song", Body=b"la")
    assert reader.get_object(Bucket=bucket, Key="song")["Body"].read() == b"la"


def test_a_bucket_made_here_is_read_there_at_once(mesh: Mesh, key: Facts) -> None:
    ann, bob, cid = mesh.nodes
    here, there, elsewhere = (node.s3(key) for node in mesh.nodes)
    here.create_bucket(Bucket="empty")
    assert (
        there.list_objects_v2(Bucket="empty")["KeyCount"] == elsewhere.list_objects_v2(Bucket="empty")["KeyCount"] == 0
    )
    here.create_bucket(Bucket="music")
    put_and_get(here, there, "music")
    shown = bob.call("vault.show", vault="music")
    assert (len(shown["index_replicas"]), shown["replication_factor"]) == (3, 2)
    assert {member["name"] for member in cid.call("vault.members", vault="music")} == {"ann", "bob", "cid"}
    made = ann.call("vault.create", name="diary", like="model")
    assert (len(made["index_replicas"]), made["replication_factor"]) == (3, 2)


@pytest.mark.slow
def test_one_machine_is_off(mesh: Mesh, key: Facts) -> None:
    """The bucket is made without it, and with it once it is back."""
    ann, bob, cid = mesh.nodes
    cid.kill()
    ann.s3(key).create_bucket(Bucket="films")
    put_and_get(ann.s3(key), bob.s3(key), "films")
    assert len(replicas(ann, "films")) == 2
    cid.start()
    mesh.measure("a third replica", lambda: len(replicas(ann, "films")) == 3, SHARED_S)
    mesh.measure("read there too", lambda: cid.s3_get(key, "/films/song")[0] == 200, SHARED_S)


@pytest.mark.slow
def test_two_machines_are_off(mesh: Mesh, key: Facts) -> None:
    ann, bob, cid = mesh.nodes
    bob.kill()
    cid.kill()
    with pytest.raises(ClientError, match="must answer to keep the new index, and bob, cid cannot be asked") as refused:
        ann.s3(key).create_bucket(Bucket="books")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert "books" not in {vault["name"] for vault in ann.call("vault.list")}
    for node in (bob, cid):
        node.start()
    mesh.wait_linked(mesh.nodes)
    ann.s3(key).create_bucket(Bucket="books")
    put_and_get(ann.s3(key), cid.s3(key), "books")
