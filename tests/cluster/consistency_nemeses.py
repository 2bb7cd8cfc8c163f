"""What goes wrong while clients work: each fault strikes a cluster and returns how it is undone. Knows no workload.

A scenario has lanes; each lane is a thread that lets one fault after the other happen, so that faults of different
lanes meet. Which faults, on whom and how long follows from the seed; when requests meet them does not.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.cluster.consistency_cluster import ClockedNode, Cluster
from tests.cluster.meshes import wait_until
from tests.cluster.namespaces import Host

from meshhold.errors import MeshHoldError

WINDOW_S: Final = 600.0
"""A wiped replica waits as long before it asks to be filled again, and replicas refuse ballots further off."""
JUMP_MORE_S: Final = 60.0
NOTICED_S: Final = 20.0  # from a wiped replica's start until it has heard of its vaults and begun to wait
SKEW_S: Final = 240.0  # two nodes then differ by less than the window: beyond it a replica rightly refuses


class Strike(NamedTuple):
    """What was done, for people, and how it is undone."""

    what: str
    undo: Callable[[], None]


Fault = Callable[[Cluster, random.Random], Strike | None]
"""Returns None where the cluster's state leaves nothing to do."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens during a run. Holding times and pauses are drawn between the two bounds, in seconds."""

    lanes: tuple[tuple[Fault, ...], ...]
    nodes: int = 3
    replicas: int = 3
    hold_s: tuple[float, float] = (1.0, 7.0)
    pause_s: tuple[float, float] = (0.5, 3.0)
    base_s: float = 0.0
    """How far all clocks are off from the beginning: room for those that jump over a window, within what S3 signs."""


class Log:
    """What the lanes did, with the monotonic time of it. Thread-safe."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()

    def note(self, what: str) -> None:
        """Add a line."""
        with self._lock:
            self.lines.append((time.monotonic_ns(), what))

    def told(self, origin: int) -> str:
        """Return the lines, times in seconds since `origin`."""
        return "\n".join(f"{(at - origin) / 1e9:8.3f} {what}" for at, what in self.lines)


def run_lane(cluster: Cluster, scenario: Scenario, lane: int, seed: str, stop: threading.Event, log: Log) -> None:
    """Let the faults of one lane happen until `stop` is set; the last one is undone."""
    rng = random.Random(f"{seed} {lane}")
    try:
        while not stop.wait(rng.uniform(*scenario.pause_s)):
            strike = rng.choice(scenario.lanes[lane])(cluster, rng)
            if strike is None:
                continue
            log.note(strike.what)
            stop.wait(rng.uniform(*scenario.hold_s))
            strike.undo()
            log.note(f"undone: {strike.what}")
    except BaseException as error:  # noqa: BLE001 - a thread's error is raised by who waits for the thread
        log.errors.append(error)


def _some(cluster: Cluster, rng: random.Random, most: int) -> list[ClockedNode]:
    return rng.sample(cluster.up(), min(len(cluster.up()), rng.randint(1, most)))


def _called(nodes: Sequence[ClockedNode]) -> str:
    return ", ".join(node.name for node in nodes)


# -- processes -----------------------------------------------------------------------------------------------------


def kill_some(cluster: Cluster, rng: random.Random) -> Strike:
    """Kill a minority."""
    return _kill(_some(cluster, rng, (len(cluster.nodes) - 1) // 2))


def kill_any(cluster: Cluster, rng: random.Random) -> Strike:
    """Kill one, several or all."""
    return _kill(_some(cluster, rng, len(cluster.nodes)))


def _kill(victims: list[ClockedNode]) -> Strike:
    for node in victims:
        node.kill()

    def undo() -> None:
        for node in victims:
            node.begin()
        for node in victims:
            node.wait_ready()

    return Strike(f"kill -9 {_called(victims)}", undo)


def pause_some(cluster: Cluster, rng: random.Random) -> Strike:
    """Stop one, several or all in their tracks: longer than clients wait, at times."""
    victims = _some(cluster, rng, len(cluster.nodes))
    for node in victims:
        node.pause()

    def undo() -> None:
        for node in victims:
            node.resume()

    return Strike(f"pause {_called(victims)}", undo)


# -- network -------------------------------------------------------------------------------------------------------


def _hosts(cluster: Cluster, rng: random.Random) -> list[Host]:
    hosts = [node.host for node in cluster.nodes if node.host is not None]
    rng.shuffle(hosts)
    return hosts


def _healing(cluster: Cluster, what: str) -> Strike:
    assert cluster.network is not None
    return Strike(what, cluster.network.heal)


def part_halves(cluster: Cluster, rng: random.Random) -> Strike:
    """Part a minority, of one or more, from a majority."""
    hosts = _hosts(cluster, rng)
    at = rng.randint(1, len(hosts) // 2)
    assert cluster.network is not None
    cluster.network.partition(hosts[:at], hosts[at:])
    return _healing(cluster, f"part {[host.name for host in hosts[:at]]} from the others")


def part_all(cluster: Cluster, rng: random.Random) -> Strike:
    """Part every node from every other."""
    assert cluster.network is not None
    cluster.network.partition(*([host] for host in _hosts(cluster, rng)))
    return _healing(cluster, "part all from all")


def part_ring(cluster: Cluster, rng: random.Random) -> Strike:
    """Let each node reach its two neighbours of a ring only; of three nodes, let one stand between the others."""
    hosts = _hosts(cluster, rng)
    assert cluster.network is not None
    last = len(hosts) - 1
    apart = {(a, b) for a in range(last + 1) for b in range(a + 2, last + 1) if last == 2 or (a, b) != (0, last)}
    for a, b in apart:
        cluster.network.partition([hosts[a]], [hosts[b]])
    return _healing(cluster, f"ring {[host.name for host in hosts]}")


def lose_one_way(cluster: Cluster, rng: random.Random) -> Strike:
    """Lose what some send to some, and nothing of the opposite way."""
    hosts = _hosts(cluster, rng)
    pairs = [(a, b) for a in hosts for b in hosts if a is not b]
    chosen = rng.sample(pairs, rng.randint(1, len(hosts)))
    assert cluster.network is not None
    for a, b in chosen:
        cluster.network.drop(a, b)
    return _healing(cluster, "lose " + ", ".join(f"{a.name}>{b.name}" for a, b in chosen))


# -- clocks --------------------------------------------------------------------------------------------------------


def skew_some(cluster: Cluster, rng: random.Random) -> Strike:
    """Set some clocks wrong by up to minutes; undone, they jump to other wrong times rather than to the right one."""
    victims = _some(cluster, rng, len(cluster.nodes)) or [rng.choice(cluster.nodes)]
    chosen = [(node, rng.choice((rng.uniform(-SKEW_S, SKEW_S), rng.uniform(-2, 2)))) for node in victims]
    later = [rng.uniform(-SKEW_S, SKEW_S) for _ in victims]
    for node, skew_s in chosen:
        cluster.skew(node, skew_s)

    def undo() -> None:
        for node, skew_s in zip(victims, later, strict=True):
            cluster.skew(node, skew_s)

    return Strike("skew " + ", ".join(f"{node.name} {skew_s:+.1f} s" for node, skew_s in chosen), undo)


def strobe_clock(cluster: Cluster, rng: random.Random) -> Strike:
    """Let one clock jump to and fro, thirty times within a second and a half."""
    victim = rng.choice(cluster.nodes)
    reach_s = rng.choice((0.2, 5.0, 120.0))
    for number in range(30):
        cluster.skew(victim, reach_s * (-1) ** number)
        time.sleep(0.05)  # the rhythm of the jumps

    def undo() -> None:
        cluster.skew(victim, 0)

    return Strike(f"strobe {victim.name} by {reach_s:g} s", undo)


# -- disks ---------------------------------------------------------------------------------------------------------


def wipe_one(cluster: Cluster, rng: random.Random) -> Strike | None:
    """Take one replica's index away, once in a run: it must not vote again within the run."""
    if cluster.wiped:
        return None
    victim = rng.choice(cluster.up())
    return _wipe(cluster, victim, rng)


def wipe_one_after_the_other(cluster: Cluster, rng: random.Random) -> Strike | None:
    """Take a replica's index away, let all clocks pass the window so that it is filled again, then the next one's.

    A majority of the replicas has then lost what it held, one by one: what was filled again is all there is.
    """
    if len(cluster.wiped) >= 2 or not cluster.all_vote(len(cluster.nodes)):
        return None
    victim = rng.choice([node for node in cluster.up() if node not in cluster.wiped])
    strike = _wipe(cluster, victim, rng)

    def undo() -> None:
        strike.undo()
        with suppress(AssertionError):  # parted from the others it may not say so: the jump is then in vain
            wait_until(lambda: cluster.waits(victim), NOTICED_S, f"{victim.name} notices its loss")
        for node in sorted(
            cluster.nodes, key=lambda node: node is victim
        ):  # its own clock last: it is the one that waits
            cluster.skew(node, WINDOW_S + JUMP_MORE_S)
        cluster.base_s += WINDOW_S + JUMP_MORE_S

    return Strike(f"{strike.what}, then all clocks jump over the window", undo)


def _wipe(cluster: Cluster, victim: ClockedNode, rng: random.Random) -> Strike:
    victim.kill()
    if rng.random() < 0.5:
        victim.begin()  # half of the time it was up for a moment between the crash and the loss
        with suppress(AssertionError):
            victim.wait_ready()
        victim.kill()
    victim.wipe()
    cluster.wiped.append(victim)

    def undo() -> None:
        victim.start()

    return Strike(f"wipe the index of {victim.name}", undo)


# -- membership ----------------------------------------------------------------------------------------------------


def change_replicas(cluster: Cluster, rng: random.Random) -> Strike | None:
    """Let other nodes keep the index, three or five; ask through any node."""
    size = rng.choice((3, 3, 5)) if len(cluster.nodes) >= 5 else len(cluster.nodes)
    present = [node for node in cluster.nodes if node not in cluster.removed]
    keepers = rng.sample(present, min(size, len(present)))
    through = rng.choice(present)
    return _changed(
        f"index on {_called(keepers)}, asked of {through.name}", lambda: cluster.set_replicas(keepers, through)
    )


def swap_member(cluster: Cluster, rng: random.Random) -> Strike | None:
    """Remove a member, with its replica; undone, it is a member again."""
    present = [node for node in cluster.nodes if node not in cluster.removed]
    if len(present) <= 3:
        return None
    victim, through = rng.sample(present, 2)
    cluster.removed.append(victim)
    gone = _changed(
        f"remove member {victim.name}, asked of {through.name}",
        lambda: through.call("vault.member_remove", vault="shared", node=victim.name),
    )

    def undo() -> None:
        if cluster.add_member(victim, first=through):
            cluster.removed.remove(victim)

    return Strike(gone.what, undo)


def _changed(what: str, change: Callable[[], object]) -> Strike:
    """Make a change that other faults may prevent, or leave half done."""
    try:
        change()
    except MeshHoldError as error:
        return Strike(f"{what}: {error}", lambda: None)
    return Strike(what, lambda: None)


def _nothing(_cluster: Cluster, _rng: random.Random) -> None:
    """Let a moment of calm pass."""


_NETWORK: Final = (part_halves, part_ring, lose_one_way)
SCENARIOS: Final[dict[str, Scenario]] = {
    "kill": Scenario(((kill_any,),)),
    "pause": Scenario(((pause_some,),)),
    "partition": Scenario(((part_halves, part_all, part_ring),)),
    "one-way": Scenario(((lose_one_way,),)),
    "clock": Scenario(((skew_some, strobe_clock),), hold_s=(0.5, 3.0)),
    "clock-partition": Scenario((_NETWORK, (skew_some, strobe_clock), (kill_some,)), hold_s=(0.5, 4.0)),
    "wipe": Scenario(((wipe_one, pause_some, kill_some),)),
    "wipe-in-turn": Scenario(
        ((wipe_one_after_the_other,), (*_NETWORK, _nothing)), hold_s=(1.0, 4.0), pause_s=(1.0, 4.0), base_s=-780.0
    ),
    "five": Scenario((_NETWORK, (kill_some, pause_some), (skew_some,)), nodes=5, replicas=5),
    "replicas": Scenario(((change_replicas,),), nodes=5),
    "members": Scenario(((change_replicas, swap_member), (*_NETWORK, kill_some, pause_some)), nodes=5),
}
