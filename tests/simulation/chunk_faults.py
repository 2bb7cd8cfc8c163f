"""What goes wrong with chunks, and how it ends again. Decides no schedule: `chunk_plan` says how often.

What the index's faults do, these do besides. A fault never takes the last of those copies that are where they belong:
with `factor` copies, fewer than `factor` are lost within the time that repair takes.
"""

from __future__ import annotations

import random
from itertools import permutations
from typing import TYPE_CHECKING, Final

import trio
from tests.simulation.chunk_disk import ChunkIlls
from tests.simulation.chunk_node import ChunkMachine, ChunkRun
from tests.simulation.chunk_plan import ChunkPlan
from tests.simulation.index_faults import Faults
from tests.simulation.index_node import VAULT

from meshhold.replication.chunks.holders import Keeper
from meshhold.replication.chunks.survey import OwnWitness
from meshhold.replication.chunks.survey_wire import Stock

if TYPE_CHECKING:  # the world runs the faults
    from tests.simulation.chunk_world import ChunkWorld

_DRAIN_S: Final = 3600.0
_LOOK_S: Final = 20.0
_ALONE_S: Final = 10.0
_GLIMPSE_S: Final = 0.01
_SHORT_S: Final = (1.0, 30.0, 400.0)


class ChunkFaults(Faults):
    """The faults of one world."""

    def __init__(self, world: ChunkWorld, plan: ChunkPlan, chance: random.Random) -> None:
        super().__init__(world, plan, chance)
        self._mesh = world
        self._life = plan
        self._kinds |= {
            "wipe": self._wipe_all,
            "wipe_chunks": self._wipe_chunks,
            "rot": self._rot,
            "ill_chunks": self._ill_chunks,
            "slow": self._slow,
            "factor": self._factor,
            "join": self._join,
            "leave": self._leave,
            "away": self._away,
            "orphan": self._orphan,
            "jump": self._jump,
            "collect": self._collect,
            "weigh": self._weigh,
        }

    def _pick_box(self) -> ChunkMachine:
        return self._chance.choice(self._mesh.boxes)

    async def _passes(self) -> None:
        await trio.sleep(self._chance.choice(_SHORT_S) * self._chance.uniform(0.5, 1.0))

    # -- copies ------------------------------------------------------------------------------------------------------

    async def _wipe_all(self) -> None:
        """Lose a whole disk, index and chunks."""
        box = self._pick_box()
        if not self._mesh.can_spare(box) or not self._mesh.can_spare_chunks(box):
            return
        self._mesh.say(f"{box.name} loses its whole disk")
        await self._mesh.stop(box)
        box.disk.wipe()
        self._mesh.lose(box, box.chunks.names(VAULT))
        box.chunks.wipe()
        await self._passes()
        await self._mesh.start(box)

    async def _wipe_chunks(self) -> None:
        """Lose a directory of chunks, with the node switched off or under its feet."""
        box = self._pick_box()
        restarts = self._chance.random() < 0.5
        if not self._mesh.can_spare_chunks(box):
            return
        self._mesh.say(f"{box.name} loses its {len(box.chunks.names(VAULT))} chunks")
        if restarts:
            await self._mesh.stop(box)
        if self._mesh.can_spare_chunks(box):
            self._mesh.lose(box, box.chunks.names(VAULT))
            box.chunks.wipe()
        if restarts:
            await trio.sleep(self._chance.random())
            await self._mesh.start(box)

    async def _rot(self) -> None:
        """Damage some copies on one disk."""
        box = self._pick_box()
        names = box.chunks.names(VAULT)
        share = self._chance.choice([0.05, 0.5, 1.0])
        bad = [chunk for chunk in names if self._chance.random() < share and self._mesh.can_lose(box, chunk)]
        self._mesh.say(f"{len(bad)} of {len(names)} chunks rot on {box.name}")
        self._mesh.lose(box, bad)
        for chunk in bad:
            box.chunks.damage(VAULT, chunk)

    # -- disks and speed -----------------------------------------------------------------------------------------------

    async def _ill_chunks(self) -> None:
        box = self._pick_box()
        box.chunks.ills = self._chance.choice(
            [
                ChunkIlls(full=True),
                ChunkIlls(full=True),
                ChunkIlls(write_fails=0.3),
                ChunkIlls(read_fails=0.2, write_fails=0.1),
                ChunkIlls(delay_s=1.0),
            ]
        )
        self._mesh.say(f"{box.name}'s chunks: {box.chunks.ills}")
        await self._passes()
        box.chunks.ills = ChunkIlls()

    async def _slow(self) -> None:
        """Let one node do everything slowly."""
        box = self._pick_box()
        box.slow_s = self._chance.choice([0.1, 1.0, 8.0])
        self._mesh.say(f"{box.name} takes {box.slow_s:g} s for a chunk")
        await self._passes()
        box.slow_s = 0.0

    # -- clocks ------------------------------------------------------------------------------------------------------

    async def _jump(self) -> None:
        """Set a clock wrong by far, for a while."""
        box = self._pick_box()
        before = box.skew_ms
        box.skew_ms = int(
            self._chance.choice([-1, 1]) * self._chance.uniform(0.3, 3.0) * self._life.pace.grace_s * 1000
        )
        self._mesh.say(f"{box.name}'s clock jumps to {box.skew_ms} ms")
        await self._passes()
        box.skew_ms = before

    async def _collect(self) -> None:
        """Let some trusted node collect, whether it leads or not."""
        runs = [run for run in self._mesh.runs() if run.is_trusted]
        if runs:
            run: ChunkRun = self._chance.choice(runs)
            with run.alive():
                removed = await run.collect()
                self._mesh.say(f"{run.machine.name} collects: {removed}")

    async def _away(self) -> None:
        """Switch a machine off until others stand in for it, now and then until dead chunks are collected."""
        box = self._pick_box()
        pace = self._life.pace
        self._mesh.say(f"{box.name} is away")
        await self._mesh.stop(box)
        await trio.sleep(self._chance.choice([pace.out_after_s, pace.grace_s]) * self._chance.uniform(1.0, 1.8))
        await self._mesh.start(box)

    async def _orphan(self) -> None:
        """Cut all links in the middle of a write that one replica has accepted; it stops, and comes back after long.

        What it alone has accepted may be in force once it is back, though others took its chunks for dead.
        """
        machine = self._chance.choice(self._mesh.founders())
        with trio.move_on_after(_ALONE_S):
            while not self._mesh.has_alone(machine):  # noqa: ASYNC110 - nobody but the world sees that moment
                await trio.sleep(_GLIMPSE_S)
        self._mesh.say(f"all are cut off, and then {machine.name} is away for long")
        for sender, receiver in permutations(self._mesh.machines, 2):
            self._mesh.network.cut(sender.node, receiver.node)
        await trio.sleep(self._life.mix.patience_s + 1.0)
        await self._mesh.stop(machine)
        self._mesh.network.mend()
        self._mesh.greet_all()
        await trio.sleep(self._life.pace.grace_s * self._chance.uniform(1.6, 2.2))
        await self._mesh.start(machine)

    # -- members -----------------------------------------------------------------------------------------------------

    async def _factor(self) -> None:
        factor = self._chance.choice([each for each in (1, 2, 3) if each != self._mesh.roster.factor])
        self._mesh.say(f"the factor becomes {factor}")
        self._mesh.publish_roster(self._mesh.roster.with_factor(factor))

    async def _weigh(self) -> None:
        """Let a member offer another amount of room: much of the ring changes."""
        keeper = self._chance.choice(self._mesh.roster.members)
        changed = keeper._replace(capacity=max(1, int(keeper.capacity * self._chance.choice([0.1, 0.5, 3.0]))))
        self._mesh.say(f"{self._mesh.name_of(keeper.node)} offers {changed.capacity} bytes")
        self._mesh.publish_roster(
            self._mesh.roster.with_member(changed, trusted=keeper.node in self._mesh.roster.trusted)
        )

    async def _join(self) -> None:
        outside = [box for box in self._mesh.boxes if box.node not in self._mesh.roster.nodes]
        if not outside:
            return
        box = self._chance.choice(outside)
        self._mesh.say(f"{box.name} becomes a member")
        self._mesh.publish_roster(self._mesh.roster.with_member(self._mesh.keeper_of(box), trusted=False))

    async def _leave(self) -> None:
        """Drain a member; once nothing is left there it goes, with its disk."""
        roster = self._mesh.roster
        founders = {machine.node for machine in self._mesh.founders()}
        able = [keeper for keeper in roster.staying if len(roster.staying) > max(2, roster.factor)]
        if not able:
            return
        keeper: Keeper = self._chance.choice(able)
        self._mesh.say(f"{self._mesh.name_of(keeper.node)} is to leave")
        trusted = keeper.node in roster.trusted
        self._mesh.publish_roster(roster.with_member(keeper._replace(leaving=True), trusted=trusted))
        with trio.move_on_after(_DRAIN_S * self._chance.random()):
            while not await self._is_empty(keeper):  # noqa: ASYNC110 - whoever waits for a drain asks again and again
                await trio.sleep(_LOOK_S)
            if keeper.node not in founders:
                self._mesh.say(f"{self._mesh.name_of(keeper.node)} has left")
                self._mesh.publish_roster(self._mesh.roster.without(keeper.node))
                return
        if self._chance.random() < 0.5:
            self._mesh.say(f"{self._mesh.name_of(keeper.node)} stays")
            self._mesh.publish_roster(self._mesh.roster.with_member(keeper, trusted=trusted))

    async def _is_empty(self, keeper: Keeper) -> bool:
        """Ask a leaving member whether anything is left there."""
        box = self._mesh.box_of(keeper.node)
        run = box.run
        if not isinstance(run, ChunkRun):
            return False
        witness = OwnWitness(box.chunks, run.run_blocking, may_take=run.service.may_take)
        stock: Stock | None = None
        with run.alive():
            stock = await witness.stock(VAULT)
        return stock is not None and not stock.chunks and not stock.may_take
