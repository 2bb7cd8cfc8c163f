"""Every procedure of the operator's guide, typed on real daemons as it stands there."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from tests.cluster.chunks_clients import Client
from tests.cluster.chunks_cluster import BUCKET, VAULT, ChunkCluster, ChunkNode, start
from tests.cluster.consistency_cluster import open_folder
from tests.cluster.daemons import free_port
from tests.cluster.meshes import open_mesh, wait_until
from tests.cluster.namespaces import Host
from tests.cluster.operations_guide import Operator, Step, is_shown, read_blocks
from tests.faults.node_journal import Journal
from tests.faults.node_load import content_of

KIB, MIB = 2**10, 2**20
SIZES = (9 * KIB, 20 * KIB, 90 * KIB, 90 * KIB, MIB + 1)
SAFE = "What belongs in the safe"
LONG = [pytest.mark.slow, pytest.mark.timeout(1200)]
SNAPSHOT_S = 30.0
RETURN_S = 120.0
_LATER = ("meshhold vault remove-member", "meshhold vault check", "(umask")
_EAGER = """
import sys
import meshhold.replication.collecting.snapshots as snapshots
snapshots.SETTLE_S, snapshots.EVERY_S = 1.0, 1.0  # nobody learns anything from an hour's wait
from meshhold.cli.main import main
sys.exit(main())
"""
_HURRIED = """
import sys
import meshhold.register.acceptor as acceptor
acceptor.WINDOW_MS = 20_000  # before anybody takes it from there
from meshhold.cli.main import main
sys.exit(main())
"""


class EagerNode(ChunkNode):
    """A node that takes a snapshot of the index every second if it changed."""

    def __init__(self, home: Path, name: str, host: Host | None = None) -> None:
        super().__init__(home, name, host)
        self.program = [sys.executable, "-c", _EAGER]


class HurriedNode(ChunkNode):
    """A node of a mesh in which a replica that lost its disk is silent for 20 s, not for ten minutes."""

    def __init__(self, home: Path, name: str, host: Host | None = None) -> None:
        super().__init__(home, name, host)
        self.program = [sys.executable, "-c", _HURRIED]


@contextmanager
def open_home(
    trusted: Sequence[str],
    factor: int,
    *,
    untrusted: Sequence[str] = (),
    strangers: Sequence[str] = (),
    kind: type[ChunkNode] = ChunkNode,
) -> Iterator[tuple[ChunkCluster, Operator]]:
    """Give machines that keep a vault with some objects, and whoever types; `strangers` are in no mesh and off."""
    with open_folder() as folder, open_mesh(folder, make_node=kind) as mesh:
        named = {node.name: node for node in mesh.form(*trusted, *untrusted) if isinstance(node, ChunkNode)}
        cluster = ChunkCluster(mesh, None, factor)
        cluster.furnish([named[name] for name in trusted], [named[name] for name in untrusted])
        more = [node for name in strangers if isinstance(node := mesh.add(name, start=False), ChunkNode)]
        fill(cluster, "kept")
        yield cluster, Operator(folder / "desk", [*named.values(), *more])


def fill(cluster: ChunkCluster, prefix: str, sizes: Sequence[int] = SIZES) -> None:
    """Put objects of all kinds through all trusted nodes that run."""
    clients = cluster.clients()
    for number, size in enumerate(sizes):
        client = clients[number % len(clients)]
        assert client.put(f"{prefix}/{number}", content_of(f"{prefix} {number}", size)), client.asked[-1]


def steps_of(section: str) -> list[Step]:
    """Return a section's commands, all blocks in order."""
    return [step for block in read_blocks(section, VAULT) for step in block]


def put_in_safe(operator: Operator, *machines: str) -> None:
    """Do for each machine what the guide says of the first; the secrets once are enough."""
    of_machine, of_vault = steps_of(SAFE)[:2], steps_of(SAFE)[2:]
    for name in machines:
        operator.follow([Step(name, step.command.replace("attic", name), step.shown) for step in of_machine])
    operator.follow(of_vault)


def assert_works(cluster: ChunkCluster) -> None:
    """Old objects are whole on all that there is, and new ones can be put through every trusted node."""
    cluster.wait_serving()
    fill(cluster, f"new/{len(cluster.nodes)}")
    cluster.assert_whole()


# -- the guide itself --------------------------------------------------------------------------------------------------


def test_blocks_are_read_as_people_read_them() -> None:
    """Commands, what is shown below each, and where a section ends."""
    text = "### A\n```console\nx$ a photos\none … photos\ntwo\ny$ b\n```\nwords\n#### B\n```console\nx$ c\n```\n"
    assert read_blocks("A", "v", text) == [[Step("x", "a v", ("one … v", "two")), Step("y", "b", ())]]
    assert read_blocks("B", "v", text) == [[Step("x", "c", ())]]
    with pytest.raises(AssertionError, match="no commands"):
        read_blocks("C", "v", text)
    with pytest.raises(AssertionError, match="not typed"):
        read_blocks("D", "v", "### D\n```sh\nrm\n```\n")


def test_what_is_shown_is_compared_line_by_line() -> None:
    """Dots stand for anything within a line; everything else has to be there."""
    output = "ID  NAME   STATE\nabc  shed   alive  direct 0.2\n12 objects: all whole\n"
    assert is_shown("… shed … alive …", output)
    assert is_shown("… all whole", output)
    assert not is_shown("all whole", output)
    assert not is_shown("… shed … dead …", output)
    assert not is_shown("ID … all whole", output)


# -- procedures --------------------------------------------------------------------------------------------------------


def test_growing() -> None:
    with open_home(["attic"], 2, strangers=["shed"]) as (cluster, operator):
        shed = operator.nodes["shed"]
        operator.follow(steps_of("Growing"))
        cluster.nodes.append(shed)
        wait_until(lambda: cluster.all_vote(2), 60, "both keep the index")
        assert_works(cluster)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_moving_house() -> None:
    """All addresses are others afterwards, and nobody tells of them but the token."""
    with open_home(["attic", "cellar", "office"], 2) as (cluster, operator):
        before, after = read_blocks("Moving house", VAULT)
        operator.follow(before)
        for node in cluster.nodes:
            config = yaml.safe_load((node.home / "config.yaml").read_text())
            config["node"]["listen_addr"] = f"127.0.0.1:{free_port()}"
            (node.home / "config.yaml").write_text(yaml.safe_dump(config))
        operator.follow(after)
        assert_works(cluster)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_shrinking() -> None:
    with open_home(["attic", "cellar", "office"], 2) as (cluster, operator):
        cellar = operator.nodes["cellar"]
        operator.follow(steps_of("Shrinking"))
        assert cellar.chunk_files(cluster.vault) == {}
        cluster.nodes.remove(cellar)
        shutil.rmtree(cellar.home)
        assert_works(cluster)
        assert cluster.replicas() == {"attic", "office"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_replacing_a_disk_that_can_be_read() -> None:
    with open_home(["attic", "cellar", "office"], 2) as (cluster, operator):
        operator.follow(steps_of("Replacing a disk"))
        cluster.mesh.wait_linked([*cluster.nodes])
        assert_works(cluster)
        assert cluster.all_vote(3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("others", [["office"], []])
def test_replacing_a_disk_that_is_dead(others: list[str]) -> None:
    """Where three keep the index, clients go on meanwhile; where two do, once the one that lost it votes again."""
    with open_home(["attic", "cellar", *others], 2, kind=HurriedNode) as (cluster, operator):
        cellar = operator.nodes["cellar"]
        put_in_safe(operator, "cellar")
        cellar.kill()
        shutil.rmtree(cellar.home)
        if others:
            fill(cluster, "meanwhile")
        operator.follow(steps_of("A disk that is dead"))
        assert cellar.chunk_files(cluster.vault)
        wait_until(lambda: cluster.all_vote(2 + len(others)), RETURN_S, "it votes again")
        assert_works(cluster)


@pytest.mark.parametrize(
    "others", [pytest.param(["office", "shed"], marks=LONG), pytest.param(["office"], marks=LONG), []]
)
def test_losing_a_machine_for_good(others: list[str]) -> None:
    """All that it kept is on the others again, and they keep the index without it, even if only one is left."""
    with open_home(["attic", "cellar", *others], 2) as (cluster, operator):
        cellar = operator.nodes["cellar"]
        put_in_safe(operator, "attic")
        cellar.kill()
        shutil.rmtree(cellar.home)
        cluster.nodes.remove(cellar)
        word = (operator.desk / "safe" / f"{VAULT}.secrets").read_text()
        operator.follow(steps_of("Losing a machine for good"))
        assert (operator.desk / "safe" / f"{VAULT}.secrets").read_text() != word
        wait_until(lambda: cluster.all_vote(1 + len(others)), 60, "all that are left keep the index")
        assert cluster.replicas() == {"attic", *others}
        assert_works(cluster)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_losing_a_machine_that_runs_elsewhere() -> None:
    """A thief lets it run: it is banned first, and sees nothing of what comes later."""
    with open_home(["attic", "cellar", "office"], 2) as (cluster, operator):
        cellar = operator.nodes["cellar"]
        put_in_safe(operator, "attic")
        cluster.nodes.remove(cellar)
        remove, ban, *rest = steps_of("Losing a machine for good")
        operator.follow([ban, remove, *rest])
        fill(cluster, "later")
        assert_works(cluster)
        status, _ = cellar.s3_get(cluster.key, f"/{BUCKET}/later/0")
        assert status == 503


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("others", [["office"], []])
def test_a_machine_that_was_given_up_turns_up(others: list[str]) -> None:
    """It was an index replica; it is a member again, and what was stored meanwhile is what it shows."""
    with open_home(["attic", "cellar", *others], 2) as (cluster, operator):
        cellar = operator.nodes["cellar"]
        put_in_safe(operator, "attic")
        cellar.kill()
        cluster.nodes.remove(cellar)
        operator.follow(steps_of("Losing a machine for good"))
        cluster.wait_serving()
        for client in cluster.clients():  # over what it has
            assert client.put("kept/0", content_of(f"new through {client.name}", SIZES[0]))
        operator.follow(steps_of("It turns up after all"))
        cluster.nodes.append(cellar)
        wait_until(lambda: cluster.all_vote(2 + len(others)), RETURN_S, "all keep the index")
        assert_works(cluster)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_disaster_recovery() -> None:
    """Both trusted machines burn; an untrusted one becomes the vault's first, and the clients' keys work there."""
    with open_home(["attic", "cellar"], 3, untrusted=["rented", "shed"], kind=EagerNode) as (cluster, operator):
        put_in_safe(operator, "attic", "cellar")
        burn(cluster, operator, "attic", "cellar")
        rented = operator.nodes["rented"]
        cluster.nodes.append(rented)
        cluster.strangers.remove(rented)
        operator.follow(steps_of("Disaster recovery"))
        assert_works(cluster)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_disaster_recovery_on_a_trusted_machine() -> None:
    """Two of three burn; the third needs no word from the safe, and keeps what is newer than the snapshot."""
    with open_home(["office", "attic", "cellar"], 3, kind=EagerNode) as (cluster, operator):
        put_in_safe(operator, "attic")
        burn(cluster, operator, "attic", "cellar")
        word, *rest = steps_of("Disaster recovery")
        assert word.command.startswith("meshhold vault import")
        operator.follow([Step(step.node.replace("rented", "office"), step.command, step.shown) for step in rest])
        assert_works(cluster)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("through", ["office", "rented"])
def test_machines_thought_lost_return_after_a_recovery(through: str) -> None:
    """Nobody removed them: they drop their old index, take the new one, and what was stored meanwhile stays."""
    trusted = ["office", "attic", "cellar"] if through == "office" else ["attic", "cellar"]
    untrusted = ["rented", "shed"] if through == "rented" else []
    with open_home(trusted, 3, untrusted=untrusted, kind=EagerNode) as (cluster, operator):
        put_in_safe(operator, "attic")
        gone = burn(cluster, operator, "attic", "cellar", keep=True)
        first = operator.nodes[through]
        if first in cluster.strangers:
            cluster.strangers.remove(first)
            cluster.nodes.append(first)
        typed = [step for step in steps_of("Disaster recovery") if not step.command.startswith(_LATER)]
        word, *rest = [Step(through, step.command, step.shown) for step in typed]
        operator.follow([word, *rest] if through == "rented" else rest)
        fill(cluster, "meanwhile", SIZES[:1])  # in office, larger ones need another machine for their second copy
        cluster.nodes.extend(gone)
        start(gone)
        cluster.mesh.wait_linked([*cluster.nodes])
        wait_until(lambda: cluster.all_vote(3), RETURN_S, "three keep the index")
        assert_works(cluster)


def burn(cluster: ChunkCluster, operator: Operator, *names: str, keep: bool = False) -> list[ChunkNode]:
    """Lose machines with all they have, as soon as a snapshot of the index has all that is in the journal.

    `keep`: their disks are found later.
    """
    gone = [operator.nodes[name] for name in names]
    filled_ms = time.time_ns() // 1_000_000
    change = Client(gone[0], cluster.key, BUCKET, Journal())  # nobody asks whether the snapshot has this one, too
    assert change.put("a change that makes for a snapshot", b"")
    wait_until(lambda: is_taken_after(gone[0], filled_ms), SNAPSHOT_S, "a snapshot has all of it")
    for node in gone:
        node.kill()
        cluster.nodes.remove(node)
        if not keep:
            shutil.rmtree(node.home)
    return gone


def is_taken_after(node: ChunkNode, at_ms: int) -> bool:
    """Tell whether a snapshot of the index was begun after a time."""
    taken_ms = node.call("vault.show", vault=VAULT)["snapshot_ms"]
    return taken_ms is not None and taken_ms > at_ms
