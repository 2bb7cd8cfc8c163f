"""What kind of life does a seed have? Each seed mixes some ills and leaves others out. Knows no node.

Swarm testing: a run that has every ill at once hides what one of them would show. Source: Groce et al., "Swarm
Testing" (2012).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Final

from tests.simulation.index_network import Weather
from tests.simulation.index_workload import KEYS, Mix

from meshhold.rules.bucket import BucketRules
from meshhold.rules.versioning import Versioning

MINUTE_S: Final = 60.0
RACES: Final = 0.25
"""Part of the seeds that are races for one key."""
SLEEPS: Final = 0.1
"""Part of the seeds in which some sleep while others delete and forget."""


@dataclass(slots=True)
class Plan:
    """One life. Chances of faults are weights; times are seconds."""

    machines: int = 3
    replicas: int = 3
    episodes: int = 2
    clients: int = 4
    requests: int = 8
    """Per client and episode."""
    faults: int = 4
    """Per episode."""
    weights: dict[str, int] = field(default_factory=dict)
    mix: Mix = field(default_factory=Mix)
    weather: Weather = field(default_factory=Weather)
    window_s: float = 10 * MINUTE_S
    pauses_s: tuple[float, ...] = (1.0,)
    """Between episodes one of these passes."""
    skew_s: float = 0.0
    grain_ms: int = 1
    greets_s: float = 0.0
    """So often two nodes compare what they hold, beyond what they do by themselves; 0 is never."""
    grows: bool = False
    """The vault begins on one machine, and a change brings it to its first set of replicas."""


FAULTS: Final = {
    "crash": 6,
    "crash_all": 2,
    "blink": 4,
    "sleep": 2,
    "wipe": 4,
    "partition": 6,
    "one_way": 4,
    "skew": 4,
    "storm": 5,
    "disk": 4,
    "change": 6,
    "two_changes": 2,
}


def draw(seed: int, races: float = RACES) -> Plan:
    """Return the seed's plan; `races` is the chance of a race for one key."""
    chance = random.Random(f"plan {seed}")
    machines = chance.choice([3, 3, 4, 5])
    plan = Plan(
        machines=machines,
        replicas=min(machines, chance.choice([2, 3, 3, 3, 5])),
        episodes=chance.choice([1, 2, 2, 3]),
        clients=chance.choice([2, 3, 4, 6]),
        faults=chance.choice([0, 2, 4, 6]),
        window_s=chance.choice([MINUTE_S, 10 * MINUTE_S]),
        greets_s=chance.choice([0.0, 0.0, 0.3]),
        grows=chance.random() < 0.25,
        grain_ms=chance.choice([1, 1, 15, 1000]),
    )
    plan.requests = max(3, 64 // (plan.clients * plan.episodes))
    kinds = chance.sample(list(FAULTS), chance.randint(2, 5))
    plan.weights = {kind: FAULTS[kind] for kind in kinds}
    plan.skew_s = chance.choice([0.0, 0.05, 0.4]) * plan.window_s
    plan.pauses_s = chance.choice([(0.0, 1.0, 10.0), (10.0, 1.2 * plan.window_s), (2.5 * plan.window_s,)])
    plan.mix.keys = chance.choice([KEYS, KEYS[:2], KEYS[:1]])
    plan.mix.think_s = chance.choice([0.02, 0.2, 1.0])
    plan.mix.faithful = chance.choice([0.2, 0.9])
    _bias(plan.mix, chance)
    plan.weather = Weather(
        delay_s=chance.choice([0.005, 0.05, 0.5]),
        spread=chance.choice([1, 3]),
        drop=chance.choice([0.0, 0.0, 0.02, 0.15]),
        repeat=chance.choice([0.0, 0.05, 0.2]),
        late=chance.choice([0.0, 0.02, 0.1]),
        late_s=chance.choice([3.0, 30.0, 2 * plan.window_s]),
        deaf=chance.choice([0.0, 0.5, 1.0]),
    )
    kind = chance.random()
    if kind < races:
        _race(plan, chance)
    elif kind < races + SLEEPS:
        _sleep(plan, chance)
    return plan


def _race(plan: Plan, chance: random.Random) -> None:
    """Let many want one key while nodes start anew again and again: rounds meet halfway.

    Where messages take less than a hedge, most rounds meet at the first replica, so that one starts anew most often;
    late messages are what it has forgotten then.
    """
    plan.clients, plan.requests, plan.episodes = 6, 11, 1
    plan.replicas = min(plan.machines, 3)
    plan.greets_s = chance.choice([0.0, 0.1])
    plan.weights = {"blink": 8, "crash_all": 1, "storm": 1, "change": 1}
    plan.faults = 6
    plan.mix = Mix(
        {"swap": 10, "create": 2, "delete_match": 1, "get": 2}, KEYS[:1], chance.choice([0.02, 0.2]), faithful=0.2
    )
    plan.weather = Weather(
        delay_s=chance.choice([0.02, 0.1, 1.0]),
        spread=chance.choice([1, 3]),
        drop=chance.choice([0.0, 0.02, 0.15]),
        late=chance.choice([0.05, 0.2, 0.4]),
        late_s=2.5,
        deaf=1.0,
    )


def _sleep(plan: Plan, chance: random.Random) -> None:
    """Let a replica be away, once for long, while much is deleted, and the deletions are forgotten."""
    plan.episodes = 2
    plan.replicas = min(plan.machines, 3)
    plan.window_s = MINUTE_S
    plan.skew_s = 0.0
    plan.pauses_s = (2.5 * plan.window_s,)
    plan.weights = {"sleep": 4, "crash": 1, "change": 1}
    plan.faults = 2
    plan.mix = Mix({"put": 4, "delete": 4, "create": 1, "get": 1, "list": 1}, KEYS, think_s=chance.choice([0.2, 1.0]))


def _bias(mix: Mix, chance: random.Random) -> None:
    """Let some clients mostly do one kind of thing."""
    favourite = chance.choice([None, *mix.weights])
    if favourite is not None:
        mix.weights[favourite] *= 4


def keep_versions(mix: Mix) -> None:
    """Let the bucket keep versions, of which clients remove earlier ones: what is current is as it would be anyway."""
    mix.bucket = replace(mix.bucket, rules=BucketRules(versioning=Versioning.ENABLED))
    mix.weights = {**mix.weights, "prune": sum(mix.weights.values()) // 8}
