"""A machine that was given up with the only copies of some chunks comes back: nothing of it is lost, nothing stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from tests.cluster.meshes import MeshNode, open_mesh, wait_until

HANDED_OVER_S: Final = 30.0
REMOVED_S: Final = 300.0
"""Leases of two minutes, and up to a minute until the next attempt."""
BUCKET: Final = "my-bucket"
LARGE: Final = bytes(range(256)) * 2_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_hands_over_what_others_lack_and_keeps_nothing(tmp_path: Path) -> None:
    with open_mesh(tmp_path) as mesh:
        attic, cellar, shed = mesh.form("attic", "cellar", "shed")
        attic.call("vault.create", name="photos", replication_factor=1)
        attic.call("vault.alias", vault="photos", alias=BUCKET)
        key = attic.ask("s3-key", "add", "--label", "app")
        attic.call("grant.set", access_key_id=key["access_key_id"], vault="photos", permissions="read,write")
        for node in (cellar, shed):
            attic.call("vault.member_add", vault="photos", node=node.name)
        s3 = attic.s3(key)
        for number in range(30):
            s3.put_object(Bucket=BUCKET, Key=str(number), Body=LARGE + b"%d" % number)
        mesh.measure("all in place", lambda: is_whole(attic), HANDED_OVER_S)
        assert chunks_of(shed), "of thirty chunks, one of three machines has some"
        shed.kill()
        done = attic.type("vault", "remove-member", "photos", "shed", "--gone", "--yes")
        assert done.returncode == 0, done.stderr
        assert check(attic)["damaged"] > 0

        shed.start()
        mesh.measure("handed over", lambda: is_whole(attic), HANDED_OVER_S)
        assert shed.call("vault.list") == []
        [told] = wait_for_words(shed)
        assert told["chunks"] == len(chunks_of(shed)) > 0
        for number in range(30):
            assert s3.get_object(Bucket=BUCKET, Key=str(number))["Body"].read() == LARGE + b"%d" % number

        mesh.measure("nothing is left", lambda: not chunks_of(shed), REMOVED_S)
        wait_until(lambda: shed.call("status")["given_up"] == [], HANDED_OVER_S, "nothing is told any more")
        assert is_whole(attic)


def wait_for_words(node: MeshNode) -> list[dict[str, Any]]:
    """Return what a node says of vaults that took it for lost, between two of its passes."""
    wait_until(lambda: bool(node.call("status")["given_up"]), HANDED_OVER_S, "it tells what it has")
    found: list[dict[str, Any]] = node.call("status")["given_up"]
    return found


def check(node: MeshNode) -> dict[str, Any]:
    [report] = node.call("vault.check")
    found: dict[str, Any] = report
    return found


def is_whole(node: MeshNode) -> bool:
    """Tell whether each chunk is where it belongs."""
    report = check(node)
    return not report["damaged"] and not any(report["totals"].values())


def chunks_of(node: MeshNode) -> list[Path]:
    """Return the chunks on a machine's disk."""
    return list((node.home / "chunks").glob("*/??/*"))
