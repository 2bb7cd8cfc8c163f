"""How fast and how surely does a mesh know its members? Tables from the product's own decisions on a virtual clock.

`python -m tests.simulation.membership_sim --nodes 5,20,100 --loss 0,5,20 --seed 1`; `--help` tells the rest. The seed
is printed; the same seed gives the same tables.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from tests.simulation.membership_world import PAUSE_S, RUN_S, World, node_id

from meshhold.membership.member import State
from meshhold.membership.messages import Action, Changed, Deliver, News
from meshhold.membership.settings import Settings

SETTLE_S: Final = 5.0
PATIENCE_S: Final = 240.0
NEWS_PATIENCE_S: Final = 20.0  # a rumor is spent by then; who missed it learns by comparing registries
LARGE: Final = 500
"""From here on fewer rounds are played: each costs minutes of this machine."""
_MISSED: Final = float("inf")


@dataclass(slots=True)
class Outcome:
    """Seconds of one round each: until the first and the last node got there."""

    first_s: list[float] = field(default_factory=list)
    last_s: list[float] = field(default_factory=list)

    def shown(self) -> list[str]:
        """Return median and worst of both."""
        return [*_median_and_worst(self.first_s), *_median_and_worst(self.last_s)]


@dataclass(slots=True)
class Seen:
    """Waits until so many nodes saw one thing, and says when the first and the last did."""

    wanted: int
    fits: Callable[[int, Action], bool]
    start_s: float
    times_s: dict[int, float] = field(default_factory=dict)

    def __call__(self, now_s: float, number: int, action: Action) -> None:
        if number not in self.times_s and self.fits(number, action):
            self.times_s[number] = now_s - self.start_s

    def is_done(self) -> bool:
        """Tell whether all saw it."""
        return len(self.times_s) >= self.wanted

    def add_to(self, outcome: Outcome) -> None:
        """Count this round."""
        first_s = min(self.times_s.values(), default=_MISSED)
        outcome.first_s.append(first_s)
        outcome.last_s.append(max(self.times_s.values()) if self.is_done() else _MISSED)


def became(number: int, state: State) -> Callable[[int, Action], bool]:
    """Return a test for another node's belief that `number` is in that state now."""
    node = node_id(number)
    return lambda seer, action: (
        isinstance(action, Changed) and action.member.node == node and action.now is state and seer != number
    )


def who_holds(world: World, number: int, state: State) -> list[int]:
    """Return the nodes that hold `number` in that state now."""
    holders = []
    for node in world.nodes:
        entry = None if node.membership is None else node.membership.entry(node_id(number))
        if entry is not None and entry.state is state:
            holders.append(node.number)
    return holders


def known_to_live(world: World) -> list[int]:
    """Return how many nodes each node believes to live, itself included; 0 for one that is down."""
    return [0 if node.membership is None else node.membership._roster.size for node in world.nodes]


def rounds_of(size: int, chosen: int) -> int:
    """Return how often a short scenario is repeated: `chosen` times, or by the size if that is 0."""
    return chosen or (20 if size < LARGE else 3)


# -- scenarios ------------------------------------------------------------------------------------------------------


def play_deaths(size: int, loss: float, seed: int, rounds: int) -> list[str]:
    """Cut the power of one node after another; see it suspected, declared dead, and back after its restart."""
    world = World(size, seed, loss=loss)
    world.boot_all_acquainted()
    suspected, dead, back = Outcome(), Outcome(), Outcome()
    for _ in range(rounds):
        world.run(SETTLE_S + world.rng.random())
        victim = world.rng.randrange(size)
        world.crash(victim)
        noticed = Seen(1, became(victim, State.SUSPECT), world.now_s)
        buried = Seen(size - 1, became(victim, State.DEAD), world.now_s)
        buried.times_s.update(dict.fromkeys(who_holds(world, victim, State.DEAD), 0.0))  # heavy loss does that
        world.watch = partial(_tell, [noticed, buried])
        world.run(PATIENCE_S, buried.is_done)
        noticed.add_to(suspected)
        buried.add_to(dead)
        returned = Seen(size - 1, became(victim, State.ALIVE), world.now_s)
        world.watch = returned
        world.boot(victim)
        world.run(PATIENCE_S, returned.is_done)
        returned.add_to(back)
    return [
        *_median_and_worst(suspected.first_s),
        *dead.shown(),
        *_median_and_worst(back.last_s),
    ]


def play_news(size: int, loss: float, seed: int, rounds: int, settings: Settings | None = None) -> list[str]:
    """Tell one node something; see when everybody knows."""
    world = World(size, seed, loss=loss, settings=settings)
    world.boot_all_acquainted()
    heard = Outcome()
    reached = 0
    for turn in range(rounds):
        world.run(SETTLE_S + world.rng.random())
        teller = world.rng.randrange(size)
        seen = Seen(size - 1, lambda _number, action: isinstance(action, Deliver), world.now_s)
        world.watch = seen
        membership = world.nodes[teller].membership
        if membership is None:
            raise AssertionError("nobody died in this scenario")
        news = News("registry", turn.to_bytes(16), bytes(300))
        world.act(teller, membership.spread(news, world.now_s))
        world.run(NEWS_PATIENCE_S, seen.is_done)
        seen.add_to(heard)
        reached += len(seen.times_s)
    return [*_median_and_worst(heard.last_s), f"{reached / rounds / (size - 1):.4%}"]


def play_idle(size: int, seed: int, seconds: float) -> list[str]:
    """Let nothing happen for a while; see what it costs."""
    world = World(size, seed, weigh=True)
    world.boot_all_acquainted()
    world.run(seconds)
    rates = [node.sent_bytes / seconds for node in world.nodes]
    messages = sum(node.sent_messages for node in world.nodes) / size / seconds
    return [f"{messages:.1f}", f"{statistics.mean(rates):,.0f}", f"{max(rates):,.0f}"]


def play_split(size: int, loss: float, seed: int) -> list[str]:
    """Cut the mesh in halves for a minute, heal it, and see when everybody knows everybody again."""
    world = World(size, seed, loss=loss)
    world.boot_all_acquainted()
    world.run(SETTLE_S)
    halves = {number: number % 2 for number in range(size)}
    world.split(halves.__getitem__)
    world.run(60.0)
    split_s = world.now_s
    apart = all(known <= (size + 1) // 2 for known in known_to_live(world))
    world.split(lambda _number: 0)
    whole = False
    while not whole and world.now_s < split_s + PATIENCE_S:
        world.run(0.25)
        whole = all(known == size for known in known_to_live(world))
    return ["yes" if apart else "no", f"{world.now_s - split_s:.1f}" if whole else "never"]


def play_join(size: int, seed: int) -> list[str]:
    """Let all nodes but one start at once and call that one; see when everybody knows everybody."""
    world = World(size, seed)
    world.boot(0)
    for number in range(1, size):
        joining = world.boot(number)
        world.act(number, joining.contact(node_id(0), world.now_s))
    start_s = world.now_s
    complete = False
    while not complete and world.now_s < start_s + PATIENCE_S:
        world.run(0.25)
        complete = all(known == size for known in known_to_live(world))
    return [f"{world.now_s - start_s:.1f}" if complete else "never"]


@dataclass(slots=True)
class Endurance:
    """What a long time brought: deaths are counted once for each incarnation that somebody declared dead."""

    hours: float
    false_deaths: int = 0
    starved_deaths: int = 0
    false_suspicions: int = 0
    bytes_s: float = 0.0


def play_endurance(size: int, loss: float, starved_part: float, hours: float, seed: int) -> Endurance:
    """Let a part of the nodes run only now and then, for hours; see who is declared dead though it is healthy."""
    world = World(size, seed, loss=loss, weigh=True)
    world.boot_all_acquainted()
    starved = set(world.rng.sample(range(size), int(size * starved_part)))
    for number in starved:
        world.starve(number)
    believed: dict[State, set[tuple[int, int]]] = {State.DEAD: set(), State.SUSPECT: set()}

    def watch(_now_s: float, _number: int, action: Action) -> None:
        if isinstance(action, Changed) and action.now in believed:
            believed[action.now].add((world.numbers[action.member.node], action.member.incarnation))

    world.watch = watch
    world.run(hours * 3600)
    deaths = Counter(number in starved for number, _ in believed[State.DEAD])
    suspicions = Counter(number in starved for number, _ in believed[State.SUSPECT])
    sent = sum(node.sent_bytes for node in world.nodes) / size / (hours * 3600)
    return Endurance(hours, deaths[False], deaths[True], suspicions[False], sent)


# -- tables ---------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the chosen tables; return 0."""
    parser = argparse.ArgumentParser(prog="membership_sim", description=__doc__)
    parser.add_argument("--nodes", default="5,20,100", help="sizes of the mesh, comma separated")
    parser.add_argument("--loss", default="0,5,20", help="lost messages in percent, comma separated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hours", type=float, default=0.1, help="simulated hours with starved nodes; 0 leaves it out")
    parser.add_argument("--starved", type=float, default=25, help="percent of the nodes that starve")
    parser.add_argument("--rounds", type=int, default=0, help="of deaths and news; 0 leaves it to the size")
    parser.add_argument("--jobs", type=int, default=1, help="processes; the hours are shared among them")
    parser.add_argument("--only", default="deaths,news,idle,split,join,endurance")
    chosen = parser.parse_args(arguments)
    sizes = [int(each) for each in chosen.nodes.split(",")]
    losses = [float(each) / 100 for each in chosen.loss.split(",")]
    seed = chosen.seed
    say(f"membership simulation, seed {seed}")
    for name in chosen.only.split(","):
        start_s, start_cpu_s = time.monotonic(), time.process_time()
        gc.disable()  # a world has no cycles until it ends, and looking for some among its millions of objects is slow
        try:
            if name == "endurance":
                tell_endurance(sizes, losses, chosen.starved / 100, chosen.hours, seed, chosen.jobs)
            else:
                tell_table(name, sizes, losses, seed, chosen.rounds)
        finally:
            gc.enable()
        took_s, cpu_s = time.monotonic() - start_s, time.process_time() - start_cpu_s
        say(f"({name}: {took_s:.0f} s of this machine, {cpu_s:.0f} s of one core)")
    return 0


def tell_table(name: str, sizes: Sequence[int], losses: Sequence[float], seed: int, rounds: int) -> None:
    """Print one scenario at each size (and loss, where it matters)."""
    titles: dict[str, list[str]] = {
        "deaths": [
            "first suspicion, median s", "worst", "first verdict, median s", "worst", "all know, median s", "worst",
            "restart known to all, median s", "worst",
        ],
        "news": ["all know, median s", "worst", "nodes reached by rumor"],
        "idle": ["messages/node/s", "bytes/node/s", "busiest node"],
        "split": ["split seen by all within 60 s", "whole again after s"],
        "join": ["all know all after s"],
    }  # fmt: skip
    lossless = name in {"idle", "join"}
    tell_row(["nodes", *([] if lossless else ["loss"]), *titles[name]], head=True)
    for size in sizes:
        for loss in losses[:1] if lossless else losses:
            match name:
                case "deaths":
                    cells = play_deaths(size, loss, seed, rounds_of(size, rounds))
                case "news":
                    cells = play_news(size, loss, seed, rounds_of(size, rounds))
                case "idle":
                    cells = play_idle(size, seed, 120.0 if size < LARGE else 40.0)
                case "split":
                    cells = play_split(size, loss, seed)
                case _:
                    cells = play_join(size, seed)
            tell_row([str(size), *([] if lossless else [f"{loss:.0%}"]), *cells])
            gc.collect()  # the world that was


def tell_endurance(
    sizes: Sequence[int], losses: Sequence[float], starved: float, hours: float, seed: int, jobs: int
) -> None:
    """Print what `hours` with starved nodes brought."""
    if hours <= 0:
        return
    say(f"\nstarved nodes pause {PAUSE_S[0]}-{PAUSE_S[1]} s and run {RUN_S[0]}-{RUN_S[1]} s by turns")
    tell_row(
        [
            "nodes", "loss", "starved", "hours", "false deaths of healthy", "false suspicions of healthy",
            "deaths of starved", "bytes/node/s",
        ],
        head=True,
    )  # fmt: skip
    for size in sizes:
        for loss in losses:
            play = partial(play_endurance, size, loss, starved, hours / jobs)
            parts = [play(seed)] if jobs == 1 else play_side_by_side(play, range(seed, seed + jobs))
            tell_row([
                str(size), f"{loss:.0%}", f"{int(size * starved)}", f"{sum(part.hours for part in parts):g}",
                str(sum(part.false_deaths for part in parts)), str(sum(part.false_suspicions for part in parts)),
                str(sum(part.starved_deaths for part in parts)),
                f"{statistics.mean(part.bytes_s for part in parts):,.0f}",
            ])  # fmt: skip


def play_side_by_side(play: Callable[[int], Endurance], seeds: Sequence[int]) -> list[Endurance]:
    """Play one process for each seed."""
    with ProcessPoolExecutor(len(seeds)) as pool:
        return list(pool.map(play, seeds))


def tell_row(cells: Sequence[str], *, head: bool = False) -> None:
    """Print one line of a table."""
    if head:
        say("")
    say("| " + " | ".join(cells) + " |")
    if head:
        say("|" + "---:|" * len(cells))


def say(line: str) -> None:
    """Print at once, so that a long run shows where it is."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _tell(listeners: Sequence[Seen], now_s: float, number: int, action: Action) -> None:
    for each in listeners:
        each(now_s, number, action)


def _median_and_worst(values: Sequence[float]) -> list[str]:
    return [f"{each:.2f}" if each < _MISSED else "never" for each in (statistics.median(values), max(values))]


if __name__ == "__main__":
    sys.exit(main())
