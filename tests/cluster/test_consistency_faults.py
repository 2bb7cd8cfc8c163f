"""Real daemons on machines of their own, broken while clients work: what `make jepsen` plays for long, for moments."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

from tests.cluster.consistency_cluster import ClockedNode, Cluster, faketime_library, open_cluster, open_folder
from tests.cluster.consistency_history import Outcome
from tests.cluster.consistency_nemeses import Scenario, kill_some
from tests.cluster.consistency_run import run_scenario
from tests.cluster.consistency_workloads import Set
from tests.cluster.daemons import DEADLINE_S
from tests.cluster.meshes import wait_until

SEED = int(os.environ.get("MESHHOLD_SEED", "0")) or 1
SHORT_S = 8.0


def test_a_moment_of_kills_breaks_no_rule(tmp_path: Path) -> None:
    """Registers, races, lists and sets on three nodes of which one is killed and comes back, again and again."""
    scenario = Scenario(((kill_some,),), hold_s=(0.5, 1.5), pause_s=(0.5, 1.0))
    with open_folder() as folder:
        report = run_scenario("kills", scenario, folder, SHORT_S, SEED, tmp_path / "kept")
    print(report)  # noqa: T201 - shown with a failure
    assert report.violations == []
    assert report.strikes >= 1
    assert report.counts["put", "ok"] > 10
    assert report.counts["list", "ok"] > 6, "each workload lists at the end, and clients list meanwhile"


def test_a_disk_that_goes_back_in_time_is_found_out(tmp_path: Path) -> None:
    """The rules see what they are for: a lone replica that forgets what it had acknowledged."""
    with open_cluster(tmp_path, 1, 1) as cluster:
        (node,) = cluster.nodes
        work = Set(cluster.doors, cluster.history, SEED)
        (client,) = (threading.Thread(target=client) for client in work.clients())
        client.start()
        wait_acknowledged(cluster, 3)
        node.kill()
        copies = [(path, path.with_name(f"old-{path.name}")) for path in node.home.glob("index.db*")]
        for path, copy in copies:
            shutil.copyfile(path, copy)
        node.start()
        wait_acknowledged(cluster, 3)
        node.kill()
        work.stop.set()
        client.join()
        for path in node.home.glob("index.db*"):
            path.unlink()
        for path, copy in copies:
            copy.replace(path)
        node.start()
        cluster.wait_serving()
        work.finish()
    violations = work.check()
    assert sum("acknowledged and lost" in violation for violation in violations) >= 3


def wait_acknowledged(cluster: Cluster, more: int) -> None:
    """Wait until some more keys of the set are acknowledged."""

    def count() -> int:
        return sum(op.key.startswith("set/") and op.outcome is Outcome.OK for op in cluster.history.operations)

    known = count()
    wait_until(lambda: count() >= known + more, DEADLINE_S, "more writes are acknowledged")


def test_a_daemons_wall_clock_is_set_while_it_runs_and_its_monotonic_clock_is_not(tmp_path: Path) -> None:
    """Objects carry the time that their node believes; every request is answered, whatever the clock does meanwhile."""
    assert faketime_library(), "libfaketime is missing: apt-get install faketime"
    with open_cluster(tmp_path, 1, 1) as cluster:
        node: ClockedNode = cluster.nodes[0]
        for skew_s in (-200.0, 200.0):
            cluster.skew(node, skew_s)
            assert cluster.doors[0].put("clock", "k", f"{skew_s}").outcome is Outcome.OK
            seen_s = cluster.doors[0].modified_s("k") - time.time()
            assert abs(seen_s - skew_s) < 30, "a request took longer than its deadline, or the clock is another one"
