"""What kind of life do chunks have in a seed? Mixes members, sizes, paces and ills. Knows no node.

As in `index_plan`, each seed leaves most ills out, so that one does not hide what another would show.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.chunk_node import Pace
from tests.simulation.chunk_workload import ChunkMix, Sizes
from tests.simulation.index_network import Weather
from tests.simulation.index_plan import FAULTS as INDEX_FAULTS
from tests.simulation.index_plan import MINUTE_S, Plan, keep_versions
from tests.simulation.index_workload import KEYS

ROOM_BYTES: Final = 1 << 30
KEYS_OF_CHUNKS: Final = (*KEYS, "e", "f", "g")
CHUNK_FAULTS: Final = {
    "wipe_chunks": 8,
    "rot": 10,
    "ill_chunks": 8,
    "slow": 5,
    "factor": 6,
    "join": 5,
    "leave": 7,
    "away": 6,
    "orphan": 3,
    "jump": 3,
    "collect": 8,
    "weigh": 3,
}
FAULTS: Final = {**INDEX_FAULTS, **CHUNK_FAULTS, "change": 2, "two_changes": 1}
LAGS_S: Final = (0.1, 5.0, 60.0, 240.0)
"""How long records of members take to spread."""


@dataclass(slots=True)
class ChunkPlan(Plan):
    """One life of a mesh that keeps chunks."""

    members: int = 3
    """The first machines are members; the others may join."""
    untrusted: int = 0
    """So many of the members, the last ones, hold ciphertext only."""
    factor: int = 2
    zones: int = 3
    rooms: tuple[int, ...] = (ROOM_BYTES,)
    """What machines offer, in turn."""
    in_call_max: int = 192 * 1024
    """Chunks above this size travel in streams."""
    refs_max: int = 16
    """Longer objects have manifest chunks."""
    lag_s: float = 0.1
    mix: ChunkMix = field(default_factory=ChunkMix)
    pace: Pace = field(default_factory=Pace)


VERSIONED_PART: Final = 0.25
"""Part of the mixed lives in which the bucket keeps versions, and clients remove earlier ones."""


def draw(seed: int, lives: str = "mixed") -> ChunkPlan:
    """Return the seed's plan; `lives` is one of `LIVES`: then each life is of that kind, else some are of any."""
    chance = random.Random(f"chunk plan {seed}")
    members = chance.choice([3, 3, 4, 4, 5])
    untrusted = chance.choice([0, 0, 1, 2 if members > 3 else 1])
    plan = ChunkPlan(
        machines=members + chance.choice([0, 1]),
        members=members,
        untrusted=untrusted,
        replicas=min(members - untrusted, 3),
        episodes=chance.choice([1, 2, 2]),
        clients=chance.choice([2, 3, 4]),
        faults=chance.choice([1, 3, 5, 8]),
        factor=chance.choice([1, 2, 2, 2, 3, 3]),
        zones=chance.choice([1, 2, 3]),
        rooms=chance.choice(
            [(ROOM_BYTES,), (ROOM_BYTES, 4 * ROOM_BYTES), (ROOM_BYTES, 2 * ROOM_BYTES, 8 * ROOM_BYTES)]
        ),
        in_call_max=chance.choice([192 * 1024, 192 * 1024, 2048]),
        refs_max=chance.choice([16, 4]),
        lag_s=chance.choice(LAGS_S),
        grain_ms=chance.choice([1, 1, 1000]),
    )
    plan.requests = max(3, 60 // (plan.clients * plan.episodes))
    kinds = chance.sample(list(FAULTS), chance.randint(2, 6))
    plan.weights = {kind: FAULTS[kind] for kind in kinds}
    plan.skew_s = chance.choice([0.0, 0.05, 0.4]) * plan.window_s
    plan.pace = Pace(
        grace_s=chance.choice([20 * MINUTE_S, 40 * MINUTE_S]),
        collect_s=chance.choice([5 * MINUTE_S, 15 * MINUTE_S]),
        scrub_s=20 * MINUTE_S,
        out_after_s=chance.choice([2 * MINUTE_S, 10 * MINUTE_S]),
    )
    plan.pauses_s = chance.choice(
        [(1.0, 60.0), (60.0,), (1.5 * plan.pace.out_after_s,), (1.2 * plan.pace.grace_s, 2.0 * plan.pace.grace_s)]
    )
    plan.mix = _draw_mix(chance, plan.pace)
    plan.weather = Weather(
        delay_s=chance.choice([0.005, 0.05, 0.3]),
        spread=chance.choice([1, 3]),
        drop=chance.choice([0.0, 0.0, 0.02, 0.1]),
        repeat=chance.choice([0.0, 0.05]),
        late=chance.choice([0.0, 0.02]),
        late_s=chance.choice([3.0, 30.0, 150.0]),
        deaf=chance.choice([0.0, 0.5, 1.0]),
    )
    kind = lives if lives in LIVES else chance.choice([*list(LIVES)[1:], *["mixed"] * MIXED_WEIGHT])
    if kind in LIVES:
        LIVES[kind](plan, chance)
    if lives == "mixed" and random.Random(f"versions {seed}").random() < VERSIONED_PART:
        keep_versions(plan.mix)
    return plan


def _long(plan: ChunkPlan, chance: random.Random) -> None:
    """Let uploads take longer than a collection waits, on nodes of which many keep none of their chunks."""
    plan.mix.sizes.slow = 0.5
    plan.mix.sizes.slow_s = chance.choice([1.2, 2.0]) * plan.pace.grace_s
    plan.requests = 5
    plan.mix.sizes.shared = 0.0
    plan.factor = min(plan.factor, 2)
    plan.weights = {"collect": 4, "crash": 1, "storm": 1}
    plan.faults = 4
    plan.pace.collect_s = 5 * MINUTE_S


def _views(plan: ChunkPlan, chance: random.Random) -> None:
    """Let nodes believe different things about who keeps what, again and again, while disks are slow."""
    plan.lag_s = chance.choice([5.0, 60.0])
    plan.weights = {"weigh": 10, "factor": 3, "leave": 3, "join": 3, "slow": 6, "away": 1}
    plan.faults = 16
    plan.factor = chance.choice([1, 1, 2])
    plan.pauses_s = (5 * MINUTE_S,)
    plan.mix.think_s = 10.0


def _blind(plan: ChunkPlan, chance: random.Random) -> None:
    """Let index replicas miss much of what is written, and come back while others collect."""
    plan.weights = {"away": 4, "sleep": 4, "partition": 4, "one_way": 6, "collect": 8, "change": 3}
    plan.faults = 10
    plan.factor = 1
    plan.replicas = min(3, plan.members - plan.untrusted)
    plan.mix.think_s = chance.choice([10.0, 60.0])
    plan.pauses_s = (1.2 * plan.pace.grace_s,)


def _clocks(plan: ChunkPlan, chance: random.Random) -> None:
    """Let clocks be set wrong by far while collections run."""
    plan.weights = {"jump": 8, "collect": 8, "skew": 2}
    plan.faults = 12
    plan.factor = chance.choice([1, 2])
    plan.mix.think_s = chance.choice([1.0, 10.0])


def _short(plan: ChunkPlan, chance: random.Random) -> None:
    """Let little time pass."""
    plan.episodes = 1
    plan.pauses_s = (chance.choice([1.0, 60.0, 1.5 * plan.pace.out_after_s]),)
    plan.pace.grace_s = 20 * MINUTE_S
    plan.pace.collect_s = 5 * MINUTE_S
    plan.mix.think_s = min(plan.mix.think_s, 1.0)
    plan.mix.sizes.slow = 0.0
    for kind in ("away", "orphan", "sleep", "jump"):
        plan.weights.pop(kind, None)
    plan.weights.setdefault("crash", 1)


def _rot_often(plan: ChunkPlan, chance: random.Random) -> None:
    """Let disks rot while copies move."""
    _short(plan, chance)
    plan.weights = {"rot": 10, "weigh": 6, "factor": 3, "leave": 3, "ill_chunks": 2}
    plan.faults = 14
    plan.factor = chance.choice([2, 3])
    plan.mix.think_s = 10.0
    plan.pauses_s = (5 * MINUTE_S,)


def _orphans(plan: ChunkPlan, chance: random.Random) -> None:
    """Let replicas accept what nobody else does, stop, and come back after a collection."""
    plan.members, plan.machines, plan.untrusted = 5, 5, 0
    plan.replicas = 3
    plan.episodes, plan.clients, plan.requests = 2, 6, 12
    plan.weights, plan.faults = {"orphan": 1}, 1
    plan.factor = chance.choice([1, 2])
    plan.mix.keys = [f"k{number}" for number in range(80)]
    plan.mix.weights = {"put": 6, "get": 6}
    plan.mix.think_s = 0.1
    plan.mix.sizes.inline = plan.mix.sizes.shared = plan.mix.sizes.slow = 0.0
    plan.weather = Weather(delay_s=0.3)
    plan.pace.grace_s, plan.pace.collect_s = 20 * MINUTE_S, 5 * MINUTE_S
    plan.pauses_s = (2.6 * plan.pace.grace_s,)


LIVES: Final = {
    "short": _short,
    "orphans": _orphans,
    "rot": _rot_often,
    "long": _long,
    "views": _views,
    "blind": _blind,
    "clocks": _clocks,
}
MIXED_WEIGHT: Final = 12


def _draw_mix(chance: random.Random, pace: Pace) -> ChunkMix:
    mix = ChunkMix(
        keys=chance.choice([KEYS_OF_CHUNKS, KEYS_OF_CHUNKS[:3]]),
        think_s=chance.choice([0.2, 1.0, 10.0, 60.0]),
        faithful=chance.choice([0.2, 0.9]),
        sizes=Sizes(
            blocks_max=chance.choice([3, 6, 12]),
            shared=chance.choice([0.0, 0.5, 0.9]),
            slow=chance.choice([0.0, 0.0, 0.2]),
            slow_s=chance.choice([0.3, 1.5]) * pace.grace_s,
        ),
    )
    favourite = chance.choice([None, None, *mix.weights])
    if favourite is not None:
        mix.weights[favourite] *= 3
    return mix
