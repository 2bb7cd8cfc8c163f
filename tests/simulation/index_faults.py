"""What goes wrong in a simulated mesh, and how it ends again. Decides no schedule: `index_plan` says how often.

A fault never takes away what no protocol can do without: a disk is wiped only while every other replica has all it
must hold, so that a majority of what was acknowledged is always left.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio
from tests.simulation.index_disk import Ills
from tests.simulation.index_node import Machine
from tests.simulation.index_plan import Plan

from meshhold.errors import MeshHoldError

if TYPE_CHECKING:  # the world runs the faults
    from tests.simulation.index_world import World

_DOWN_S: Final = (0.05, 1.0, 8.0, 40.0)
_LASTING_S: Final = (0.2, 2.0, 10.0, 40.0)
_BLINK_S: Final = 0.02
_WINDOWS: Final = 1.5
_CHANGE_S: Final = (5.0, 60.0, 400.0)


class Faults:
    """The faults of one world."""

    def __init__(self, world: World, plan: Plan, chance: random.Random) -> None:
        self._world = world
        self._plan = plan
        self._chance = chance
        self._kinds: dict[str, Callable[[], Awaitable[object]]] = {
            "crash": self._crash,
            "crash_all": self._crash_all,
            "blink": self._blink,
            "sleep": self._sleep,
            "wipe": self._wipe,
            "partition": self._partition,
            "one_way": self._one_way,
            "skew": self._skew,
            "storm": self._storm,
            "disk": self._disk,
            "change": self._change,
            "two_changes": self._two_changes,
        }

    async def happen(self, within_s: float) -> None:
        """Let the plan's faults happen at random moments of the next `within_s` seconds."""
        kinds, weights = list(self._plan.weights), list(self._plan.weights.values())
        async with trio.open_nursery() as nursery:
            for kind in self._chance.choices(kinds, weights, k=self._plan.faults):
                nursery.start_soon(self._strike, kind, self._chance.random() * within_s)

    async def _strike(self, kind: str, after_s: float) -> None:
        await trio.sleep(after_s)
        await self._kinds[kind]()

    def _pick(self) -> Machine:
        return self._chance.choice(self._world.machines)

    async def _lasts(self) -> None:
        longest_s = _WINDOWS * self._plan.window_s
        await trio.sleep(self._chance.choice((*_LASTING_S, longest_s)) * self._chance.uniform(0.5, 1.0))

    # -- machines ----------------------------------------------------------------------------------------------------

    async def _crash(self, machine: Machine | None = None) -> None:
        machine = machine or self._pick()
        self._world.say(f"{machine.name} crashes")
        await self._world.stop(machine)
        await trio.sleep(self._chance.choice(_DOWN_S) * self._chance.random())
        await self._world.start(machine)

    async def _crash_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for machine in self._world.machines:
                nursery.start_soon(self._crash, machine)

    async def _blink(self) -> None:
        """Start nodes anew, again and again, each so soon that messages to it are still under way."""
        for _ in range(self._chance.randint(3, 12)):
            machine = self._chance.choice([self._world.machines[0], self._pick()])
            self._world.say(f"{machine.name} starts anew")
            await self._world.stop(machine)
            await trio.sleep(self._chance.random() * _BLINK_S)
            await self._world.start(machine)
            await trio.sleep(self._chance.random())

    async def _sleep(self) -> None:
        """Stop a machine for longer than a window."""
        machine = self._pick()
        self._world.say(f"{machine.name} sleeps")
        await self._world.stop(machine)
        await trio.sleep(self._plan.window_s * self._chance.uniform(1.0, 2.0))
        await self._world.start(machine)

    async def _wipe(self) -> None:
        """Lose a disk that can be spared."""
        machine = self._pick()
        if not self._world.can_spare(machine):
            return
        self._world.say(f"{machine.name} loses its disk")
        await self._world.stop(machine)
        machine.disk.wipe()
        await trio.sleep(self._chance.choice(_DOWN_S) * self._chance.random())
        await self._world.start(machine)

    async def _skew(self) -> None:
        machine = self._pick()
        machine.skew_ms = int(self._chance.uniform(-1, 1) * self._plan.skew_s * 1000)
        self._world.say(f"{machine.name}'s clock is off by {machine.skew_ms} ms")

    async def _disk(self) -> None:
        machine = self._pick()
        before = machine.disk.ills
        machine.disk.ills = self._chance.choice(
            [
                Ills(delay_s=0.01, write_fails=0.3),
                Ills(delay_s=0.01, write_fails=0.1, read_fails=0.05),
                Ills(delay_s=2.0),
                Ills(delay_s=4.0, write_fails=0.2),
                Ills(delay_s=0.01, full=True),
            ]
        )
        self._world.say(f"{machine.name}'s disk: {machine.disk.ills}")
        await self._lasts()
        machine.disk.ills = before

    # -- network -----------------------------------------------------------------------------------------------------

    async def _partition(self) -> None:
        machines = self._chance.sample(self._world.machines, len(self._world.machines))
        at = self._chance.randrange(1, len(machines))
        self._world.say(f"{_names(machines[:at])} are cut from {_names(machines[at:])}")
        for here in machines[:at]:
            for there in machines[at:]:
                self._world.network.cut(here.node, there.node)
                self._world.network.cut(there.node, here.node)
        await self._lasts()
        self._world.network.mend()
        self._world.greet_all()

    async def _one_way(self) -> None:
        for _ in range(self._chance.randint(1, 3)):
            sender, receiver = self._chance.sample(self._world.machines, 2)
            self._world.say(f"nothing comes from {sender.name} to {receiver.name}")
            self._world.network.cut(sender.node, receiver.node)
        await self._lasts()
        self._world.network.mend()
        self._world.greet_all()

    async def _storm(self) -> None:
        weather = self._world.network.weather
        drop, repeat, late = weather.drop, weather.repeat, weather.late
        weather.drop, weather.repeat, weather.late = (self._chance.random() * 0.4 for _ in range(3))
        self._world.say(f"a storm: {weather}")
        await self._lasts()
        weather.drop, weather.repeat, weather.late = drop, repeat, late

    # -- replicas ----------------------------------------------------------------------------------------------------

    async def _change(self) -> None:
        count = self._chance.choice([1, 2, 3, 3, 3, 4, 5])
        founders = self._world.founders()
        chosen = self._chance.sample(founders, min(count, len(founders)))
        running = self._world.doors()
        if not running:
            return
        asked = self._chance.choice(running)
        self._world.say(f"{asked.machine.name} is to change the replicas to {_names(chosen)}")
        with asked.alive(), trio.move_on_after(self._chance.choice(_CHANGE_S)):
            try:
                changed = await asked.change_replicas([machine.node for machine in chosen])
                self._world.say(f"{asked.machine.name} changed the replicas: {self._world.shown(changed)}")
            except MeshHoldError as error:
                self._world.say(f"{asked.machine.name} did not change the replicas: {error}")

    async def _two_changes(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._change)
            nursery.start_soon(self._change)


def _names(machines: Sequence[Machine]) -> str:
    return ",".join(sorted(machine.name for machine in machines))
