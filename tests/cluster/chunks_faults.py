"""What goes wrong with nodes that keep chunks: kills, lost and damaged disks, disks that are full, machines that crawl.

A fault that costs copies strikes one node, and strikes again only when all copies are back: what has lost more copies
at once than it had is lost for good, and tells nothing of the program.
"""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.cluster.chunks_clients import Load
from tests.cluster.chunks_cluster import RESTORED_S, ChunkCluster, ChunkNode, is_sound
from tests.cluster.meshes import wait_until
from tests.cluster.namespaces import Host, Network
from tests.faults.small_disk import SmallDisk, mounted

DAMAGES: Final = ("flipped", "truncated", "zeroed", "emptied")
AWAY_S: Final = (0.5, 4.0)
CALM_S: Final = (0.5, 2.0)
CRAWL_S: Final = 1.0
CRAWL_PART: Final = 0.01
"""A crawling daemon runs so much of each `CRAWL_S`: it is 100 times slower than the others."""
LANES_END_S: Final = 2 * RESTORED_S
_TC_S: Final = 20.0


def damage(path: Path, how: str) -> None:
    """Damage a chunk's file in place, as a disk does: name, folder and times of the folder stay as they are."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        if how == "flipped":
            file.seek(size // 2)
            byte = file.read(1)[0]
            file.seek(size // 2)
            file.write(bytes([byte ^ 1]))
        elif how == "zeroed":
            file.write(bytes(size))
        else:
            file.truncate(size // 2 if how == "truncated" else 0)
    assert not is_sound(path.parent.name + path.name, path)


def kill_for_a_while(victim: ChunkNode, _vault: str, rng: random.Random, stop: threading.Event) -> str:
    """Kill a node and start it again."""
    victim.kill()
    stop.wait(rng.uniform(*AWAY_S))
    victim.start()
    return f"kill -9 {victim.name}"


def pause_for_a_while(victim: ChunkNode, _vault: str, rng: random.Random, stop: threading.Event) -> str:
    """Stop a node in its tracks, and let it go on."""
    victim.pause()
    stop.wait(rng.uniform(*AWAY_S))
    victim.resume()
    return f"pause {victim.name}"


def part_for_a_while(victim: ChunkNode, _vault: str, rng: random.Random, stop: threading.Event) -> str:
    """Part a node from all others, or lose only what it sends, and mend the network."""
    assert victim.host is not None
    network = victim.host._network
    others = [host for host in network.hosts.values() if host is not victim.host]
    is_one_way = rng.random() < 0.5
    if is_one_way:
        for host in others:
            network.drop(victim.host, host)
    else:
        network.partition([victim.host], others)
    stop.wait(rng.uniform(*AWAY_S))
    network.heal()
    return f"part {victim.name}{' one way' if is_one_way else ''}"


def wipe_chunks(victim: ChunkNode, vault: str, rng: random.Random, stop: threading.Event) -> str:
    """Kill a node, take its chunks away and start it again."""
    victim.kill()
    stop.wait(rng.uniform(*AWAY_S))
    lost = len(victim.chunk_files(vault))
    victim.wipe_chunks()
    victim.start()
    return f"wipe {lost} chunks of {victim.name}"


def damage_some(victim: ChunkNode, vault: str, rng: random.Random, stop: threading.Event) -> str:
    """Damage a fifth of a node's chunks while it runs, then let it read its disk, as it does from time to time."""
    files = victim.chunk_files(vault)
    chosen = rng.sample(sorted(files), len(files) // 5)
    for name in chosen:
        damage(files[name], rng.choice(DAMAGES))
    stop.wait(rng.uniform(*CALM_S))  # clients meet the damage first
    victim.call("scrub", vault=None)
    return f"damage {len(chosen)} chunks of {victim.name}"


Fault = Callable[[ChunkNode, str, random.Random, threading.Event], str]
MILD: Final[tuple[Fault, ...]] = (kill_for_a_while, pause_for_a_while, part_for_a_while)
COSTLY: Final[tuple[Fault, ...]] = (wipe_chunks, damage_some)


@contextmanager
def striking(
    cluster: ChunkCluster, seed: int, faults: Sequence[Fault], victims: Sequence[ChunkNode] | None = None
) -> Iterator[list[str]]:
    """Let one fault after the other strike while the block runs; give the list of what was done, which grows."""
    stop = threading.Event()
    log: list[str] = []
    errors: list[BaseException] = []

    def strike() -> None:
        rng = random.Random(f"{seed} faults")
        try:
            while not stop.wait(rng.uniform(*CALM_S)):
                fault = rng.choice(faults)
                victim = rng.choice(victims or cluster.nodes)
                if fault in COSTLY:
                    wait_repaired(cluster)
                log.append(fault(victim, cluster.vault, rng, stop))
        except BaseException as error:  # noqa: BLE001 - a thread's error is raised by who waits for the thread
            errors.append(error)

    lane = threading.Thread(target=strike, daemon=True)
    lane.start()
    try:
        yield log
    finally:
        stop.set()
        lane.join(LANES_END_S)
    assert not lane.is_alive(), "a fault does not end"
    if errors:
        raise AssertionError(f"a fault failed after {log}: {errors[0]!r}") from errors[0]


def wait_repaired(cluster: ChunkCluster, patience_s: float = RESTORED_S) -> float:
    """Wait until every chunk that is anywhere now has as many sound copies as wanted."""
    chunks = set(cluster.copies())

    def is_repaired() -> bool:
        if cluster.lacking(chunks):
            return False
        copies = cluster.copies()
        return all(
            sum(is_sound(name, path) for path in copies.get(name, {}).values()) >= cluster.wanted for name in chunks
        )

    return wait_until(is_repaired, patience_s, "every chunk has its sound copies")


def cut_while_uploading(cluster: ChunkCluster, rng: random.Random, name: str, sizes: tuple[int, ...]) -> int:
    """Let each node's client upload until the power of all nodes is cut; start them; return what was acknowledged."""
    clients = cluster.clients()
    with Load(clients, rng.randrange(10**9), name=name, readers=0, sizes=sizes, pause_s=0.0) as load:
        load.wait_more(rng.randint(0, 3))
        load.stop.wait(rng.uniform(0, 0.5))  # the moment of the cut, not a wait for something
        cluster.cut_power()
        load.stop.set()
    done = load.done("put") + load.done("complete")
    cluster.heal()
    cluster.wait_serving()
    cluster.read_back([key for key in cluster.journal.names() if not key.startswith(name)])
    return done


# -- slow machines -------------------------------------------------------------------------------------------------


@contextmanager
def thin_line(network: Network, host: Host, kbit_s: int) -> Iterator[None]:
    """Give a machine a line of so few kbit/s, both ways, while the block runs.

    The kernel's token bucket: what waits longer than half a second for its turn is lost, as in a home router.
    """
    ends = ((host.namespace, "mesh0"), (f"{network.prefix}-switch", f"port-{host.name}"))
    words = ["root", "tbf", "rate", f"{kbit_s}kbit", "burst", "16kb", "latency", "500ms"]
    for namespace, device in ends:
        _tc(namespace, "add", device, words)
    try:
        yield
    finally:
        for namespace, device in ends:
            _tc(namespace, "del", device, ["root"])


def _tc(namespace: str, action: str, device: str, words: Sequence[str]) -> None:
    inside = ["ip", "netns", "exec", namespace, "tc", "qdisc", action, "dev", device, *words]
    done = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=_TC_S)
    assert done.returncode == 0, done.stderr


@contextmanager
def crawling(node: ChunkNode) -> Iterator[None]:
    """Let a daemon run a hundredth of the time while the block runs."""
    stop = threading.Event()

    def crawl() -> None:
        while not stop.is_set():
            node.pause()
            stop.wait(CRAWL_S * (1 - CRAWL_PART))
            node.resume()
            stop.wait(CRAWL_S * CRAWL_PART)

    lane = threading.Thread(target=crawl, daemon=True)
    lane.start()
    try:
        yield
    finally:
        stop.set()
        lane.join(10 * CRAWL_S)
        assert not lane.is_alive()


# -- small disks ---------------------------------------------------------------------------------------------------


@contextmanager
def moved_to_small_disk(
    cluster: ChunkCluster, node: ChunkNode, size_bytes: int, kind: str = "tmpfs"
) -> Iterator[SmallDisk]:
    """Give a node that runs a new, small disk for its chunks, until the block ends, which kills it.

    When the block begins, the node is back among the others and has its chunks again.
    """
    cluster.wait_restored()
    node.kill()
    node.wipe_chunks()
    with mounted(kind, node.home / "chunks", size_bytes) as disk:
        try:
            node.start()
            cluster.mesh.wait_linked([*cluster.nodes])
            cluster.wait_restored()
            yield disk
        finally:
            node.kill()
