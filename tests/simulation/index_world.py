"""One seed's life of a mesh: machines, clients, faults, healing, judgement. The same seed is the same life.

A life has episodes, in which clients and faults meet, and pauses between them, in which windows pass. At the end
everything is healed: then all replicas must become equal, and every node reads every key.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, TypeVar
from unittest.mock import patch

import trio
from tests.simulation.index_disk import Ills
from tests.simulation.index_faults import Faults
from tests.simulation.index_network import Network, Weather
from tests.simulation.index_node import VAULT, Machine, Run
from tests.simulation.index_plan import Plan, draw
from tests.simulation.index_workload import Client, History, where
from tests.simulation.linearizability import check
from trio._core import _run as scheduler
from trio.testing import MockClock

import meshhold.store.objects
import meshhold.store.stacks
import meshhold.store.uploads
from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.errors import MeshHoldError
from meshhold.model.configuration import Configuration, found_configuration

HEALED_WITHIN_S: Final = 45 * 60.0
"""A window of ten minutes for a replica that was wiped last, another for promises, and room for chores' pace."""
_HEAL_STEP_S: Final = 10.0
_GREETINGS: Final = 200
_READ_TRIES: Final = 30
_DISK_DELAY_S: Final = 0.004


@dataclass(slots=True)
class Report:
    """What came of a seed."""

    seed: int
    violations: list[str] = field(default_factory=list)
    requests: int = 0
    unknown: int = 0
    messages: int = 0
    epochs: int = 0
    virtual_s: float = 0.0
    digest: str = ""
    """Hash of the whole history: the same for the same seed."""
    lines: list[str] = field(default_factory=list)


_R = TypeVar("_R", bound=Report)


class World:
    """Machines, their network and their clients."""

    healed_within_s = HEALED_WITHIN_S

    def __init__(self, seed: int, plan: Plan) -> None:
        self.plan = plan
        self.chance = random.Random(f"world {seed}")
        self.seed = seed
        self.machines = [self.make_machine(number) for number in range(plan.machines)]
        self.network = Network(self.chance, plan.weather)
        self.history = History()
        self.lines: list[str] = []
        self.epochs = 1
        self._chunks = MemoryChunkStore(now=trio.current_time)
        self._names = {machine.node: machine.name for machine in self.machines}
        self._nursery: trio.Nursery | None = None

    # -- what another simulation makes otherwise -----------------------------------------------------------------------

    def make_machine(self, number: int) -> Machine:
        """Return a new machine."""
        return Machine(number, self.plan.grain_ms)

    def make_run(self, machine: Machine, chance: random.Random, window_ms: int) -> Run:
        """Return one run of a machine's node."""
        return Run(machine, self.network, self._chunks, chance, window_ms, self.note_adopted)

    def make_client(self, name: str, chance: random.Random) -> Client:
        """Return a program that uses the store."""
        return Client(name, chance, self.history, self.plan.mix, self.doors)

    def make_faults(self, chance: random.Random) -> Faults:
        """Return what goes wrong."""
        return Faults(self, self.plan, chance)

    def founders(self) -> list[Machine]:
        """Return the machines that may keep the index, the first of them first."""
        return self.machines

    async def founded(self) -> None:
        """Do what is to be done before the first client comes."""

    def say(self, line: str) -> None:
        """Note an event for people."""
        self.lines.append(f"{trio.current_time():12.6f} {line}")

    def shown(self, configuration: Configuration) -> str:
        """Return a configuration in machines' names."""
        sets = (configuration.before, configuration.seats) if configuration.is_joint else (configuration.seats,)
        each = " -> ".join(",".join(f"{self._names[seat.node]}@{seat.since}" for seat in seats) for seats in sets)
        return f"epoch {configuration.epoch}: {each}"

    # -- machines ----------------------------------------------------------------------------------------------------

    async def start(self, machine: Machine) -> None:
        """Start a machine unless it runs; with a disk that cannot be read it ends at once."""
        if self._nursery is None or machine.run is not None:
            return
        machine.runs += 1
        chance = random.Random(f"{self.seed} {machine.name} {machine.runs}")
        window_ms = int(self.plan.window_s * 1000)
        machine.run = run = self.make_run(machine, chance, window_ms)
        await self._nursery.start(self._live, run)
        self.greet_all()

    def greet_all(self) -> None:
        """Tell each node whom it can reach, as links that open do."""
        for run in self.running():
            for peer in run.peers.linked():
                run.sync.greet(peer)

    async def _live(self, run: Run, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await run.live(task_status=task_status)
        except* MeshHoldError as group:
            self.say(f"{run.machine.name} ends: {group.exceptions[0]!r}")
        except* Exception as group:  # noqa: BLE001 - a defect is a finding, not the end of the run
            self.history.accuse(f"{run.machine.name} ended: {where(group)}")
        finally:
            run.crash()
            if run.machine.run is run:
                run.machine.run = None
            if not run.arrived:
                task_status.started()

    async def stop(self, machine: Machine) -> None:
        """Crash a machine, if it runs, and see it end."""
        run = machine.run
        if run is not None:
            run.crash()
            await run.ended.wait()

    def running(self) -> list[Run]:
        """Return the nodes that run."""
        return [machine.run for machine in self.machines if machine.run is not None]

    def doors(self) -> list[Run]:
        """Return the nodes that serve clients now."""
        return self.running()

    def note_adopted(self, run: Run, configuration: Configuration) -> None:
        """Tell people of a configuration that a node goes by."""
        self.epochs = max(self.epochs, configuration.epoch)
        self.say(f"{run.machine.name} adopts {self.shown(configuration)}")

    def newest(self) -> Configuration | None:
        """Return the newest configuration that a running node adopted."""
        known = [adopted for run in self.running() if (adopted := run.seats.adopted(VAULT)) is not None]
        return max(known, key=lambda each: each.epoch, default=None)

    def can_spare(self, machine: Machine) -> bool:
        """Tell whether everything acknowledged outlives the loss of this machine's disk."""
        newest = self.newest()
        if newest is None or newest.is_joint or len(self.running()) < len(self.machines):
            return False
        agreed = all(run.seats.adopted(VAULT) in (newest, None) for run in self.running())
        voting = all(run.seats.votes(VAULT) for run in self.running() if run.node in newest.nodes)
        return agreed and voting and (len(newest.seats) > 1 or machine.node not in newest.nodes)

    # -- life --------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Live from the founding to the last reads."""
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self.network.run)
            for machine in self.machines:
                machine.disk.ills = Ills(delay_s=_DISK_DELAY_S)
                await self.start(machine)
            await self._found()
            await self.founded()
            async with trio.open_nursery() as ills:
                if self.plan.greets_s:
                    ills.start_soon(self._greet_often)
                for _ in range(self.plan.episodes):
                    await self._live_episode(ills)
                    await trio.sleep(self.chance.choice(self.plan.pauses_s) * self.chance.uniform(0.8, 1.2))
                ills.cancel_scope.cancel()
            await self.heal()
            await self._read_all()
            for machine in self.machines:
                await self.stop(machine)
            self._nursery.cancel_scope.cancel()

    async def _found(self) -> None:
        """Begin the vault, on one machine or on its first replicas."""
        chosen = [machine.run for machine in self.founders()[: self.plan.replicas] if machine.run is not None]
        first = chosen[0]
        if self.plan.grows:
            await first.seats.found(VAULT)
            await first.publish(found_configuration([first.node]))
            try:
                await first.change_replicas([run.node for run in chosen])
            except MeshHoldError as error:
                self.say(f"the first change did not end: {error}")
        else:
            founding = found_configuration([run.node for run in chosen])
            for run in chosen:
                await run.seats.adopt(VAULT, founding)
                await run.seats.enrol(VAULT, 1)
                await run.publish(founding)

    async def _live_episode(self, ills: trio.Nursery) -> None:
        """Let clients do their requests; faults that happen meanwhile may outlast them."""
        plan = self.plan
        lasting_s = max(1.0, plan.requests * (plan.mix.think_s + plan.weather.delay_s * 3))
        ills.start_soon(self.make_faults(random.Random(self.chance.random())).happen, lasting_s)
        async with trio.open_nursery() as nursery:
            for number in range(plan.clients):
                chance = random.Random(self.chance.random())
                nursery.start_soon(self.make_client(f"c{number}", chance).run, plan.requests)

    async def _greet_often(self) -> None:
        for _ in range(_GREETINGS):
            await trio.sleep(self.plan.greets_s * self.chance.random())
            one, other = self.chance.sample(self.machines, 2)
            if one.run is not None:
                one.run.sync.greet(other.node)

    async def heal(self) -> None:
        """End every ill, then wait until all replicas vote and are equal."""
        self.say("everything is healed")
        self.network.mend()
        self.network.weather = Weather()
        for machine in self.machines:
            machine.skew_ms = 0
            machine.disk.ills = Ills(delay_s=_DISK_DELAY_S)
            await self.start(machine)
        began_s = trio.current_time()
        while (reason := self.ailing()) and trio.current_time() < began_s + self.healed_within_s:  # noqa: ASYNC110 - it looks into nodes, as nobody else may
            await trio.sleep(_HEAL_STEP_S)
        if reason:
            self.history.accuse(f"{self.healed_within_s:g} s after healing {reason}")

    def ailing(self) -> str:
        """Return what is not well yet, or an empty text."""
        newest = self.newest()
        if newest is None:
            return "nobody knows who keeps the index"
        if newest.is_joint:
            return f"a change is still under way: {self.shown(newest)}"
        for run in self.running():
            if run.published is None:
                return f"{run.machine.name} has not heard who keeps the index"
        keeping = [run for run in self.running() if run.node in newest.nodes]
        for run in keeping:
            if run.seats.adopted(VAULT) != newest or not run.seats.votes(VAULT):
                return f"{run.machine.name} does not vote in {self.shown(newest)}"
        if len({run.index.bucket_digests(VAULT) for run in keeping}) > 1:
            return f"replicas differ in {self.shown(newest)}"
        return ""

    async def _read_all(self) -> None:
        """Let every node read every key, through a quorum."""
        for run in self.doors():
            reader = self.make_client(f"last {run.machine.name}", self.chance)
            for _ in range(_READ_TRIES):
                if await reader.read_all(run, self.plan.mix.keys):
                    break
                await trio.sleep(1.0)
            else:
                self.history.accuse(f"{run.machine.name} cannot read though everything is healed")

    def judge(self, report: Report) -> None:
        """Write into the report what was wrong."""
        report.violations += self.history.violations
        report.violations += [f"a handler met {where(error)}" for error in self.network.defects]
        report.violations += [str(violation) for violation in check(self.history.operations)]
        report.requests = len(self.history.operations)
        report.unknown = sum(not each.is_known for each in self.history.operations)
        report.epochs = self.epochs
        report.messages = self.network.sent
        report.lines = self.lines
        told = "\n".join([*map(str, self.history.operations), *self.lines])
        report.digest = blake2b(told.encode(), digest_size=16).hexdigest()


def play(seed: int, plan: Plan | None = None) -> Report:
    """Live the life of a seed and return what came of it."""
    return play_in(lambda: World(seed, plan or draw(seed)), Report(seed))


def play_in(make_world: Callable[[], World], report: _R) -> _R:
    """Live the life of a world and return what came of it, in the report."""

    async def main() -> None:
        world = make_world()
        await world.live()
        report.virtual_s = trio.current_time()
        world.judge(report)

    with repeatable(report.seed):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    return report


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Make trio's order of tasks, and the salts of sealed contents, follow from the seed; allow parts of few bytes."""
    salts = random.Random(f"salts {seed}")
    with ExitStack() as changes:
        changes.enter_context(patch.object(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True))
        changes.enter_context(patch.object(scheduler, "_r", random.Random(f"tasks {seed}")))
        for room in (meshhold.store.objects, meshhold.store.stacks, meshhold.store.uploads):
            changes.enter_context(patch.object(room, "new_salt", lambda: salts.randbytes(16)))
        changes.enter_context(patch.object(meshhold.store.uploads, "PART_SIZE_MIN", 1))
        changes.callback(logging.disable, logging.root.manager.disable)
        logging.disable()
        yield
