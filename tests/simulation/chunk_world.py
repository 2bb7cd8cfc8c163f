"""One seed's life of a mesh that keeps chunks, and the judges of it. The same seed is the same life.

What must hold: a read of what was acknowledged gives exactly its bytes, or says honestly that too many machines are
away; what is acknowledged has as many copies as promised at that moment; no removal takes the last copy of what is
referred to; once all is healed, within a bound, each chunk that is referred to is on its holders and nowhere else, and
no other chunk is left; what is under way stays within its bounds, and nothing of it is left over.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final
from unittest.mock import patch

import trio
from tests.simulation.chunk_disk import ChunkIlls
from tests.simulation.chunk_faults import ChunkFaults
from tests.simulation.chunk_node import ChunkMachine, ChunkRun, right_s
from tests.simulation.chunk_plan import ChunkPlan, draw
from tests.simulation.chunk_roster import Roster, plan, view_of
from tests.simulation.chunk_workload import ChunkClient
from tests.simulation.index_node import KEYS, VAULT, Machine, Run
from tests.simulation.index_world import Report, World, play_in

import meshhold.replication.chunks.chunk_wire
import meshhold.replication.chunks.holders
import meshhold.replication.chunks.writer
import meshhold.replication.repair.inventory
import meshhold.sealing.chunker
import meshhold.sealing.content
import meshhold.sealing.manifest
from meshhold.model.entry import ObjectVersion, Part, Ref, Space, decode_entry, sealed_to
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.replication.chunks.holders import Keeper, View
from meshhold.replication.chunks.keeping import BEHIND_MAX
from meshhold.sealing.content import open_content
from meshhold.sealing.manifest import open_node

REPAIRED_WITHIN_S: Final = 30 * 60.0
"""Two rounds of repair that nobody asks for, a scrub before them, and leases between them."""
CHECK_EVERY_S: Final = 30.0
WATCH_EVERY_S: Final = 20.0
QUIET_S: Final = 300.0
"""What is under way is given up within that time, as the slowest answer is not waited for longer."""
TASKS_MAX: Final = 3_000
SMALL_INLINE: Final = 512
_REFERRING: Final = (Space.PARTS, Space.OBJECTS, Space.VERSIONS, Space.CONFLICTS)


@dataclass(slots=True)
class ChunkReport(Report):
    """What came of a seed. Times are virtual seconds after everything was healed."""

    repaired_s: float = 0.0
    collected_s: float = 0.0
    chunks: int = 0
    acknowledged: int = 0
    removed: int = 0
    tasks_max: int = 0
    sending_max: int = 0


class _LostError(Exception):
    """A manifest chunk that no machine has: what lies below it is not known."""


class ChunkWorld(World):
    """Machines that keep chunks, their network and their clients."""

    plan: ChunkPlan

    def __init__(self, seed: int, plan: ChunkPlan) -> None:
        self.boxes: list[ChunkMachine] = []
        self._boxes_made = random.Random(f"disks {seed}")
        super().__init__(seed, plan)
        self.healed_within_s += REPAIRED_WITHIN_S + 3 * plan.pace.grace_s + 3 * plan.pace.collect_s
        members = tuple(sorted(self.keeper_of(box) for box in self.boxes[: plan.members]))
        trusted = frozenset(box.node for box in self.boxes[: plan.members - plan.untrusted])
        self.roster = Roster(1, plan.factor, members, trusted)
        self.rosters: list[tuple[float, Roster]] = [(0.0, self.roster)]
        """When each state of the records was published."""
        self.acknowledged = 0
        self.removed = 0
        self.repaired_s = 0.0
        self.collected_s = 0.0
        self.tasks_max = 0
        self.sending_max = 0
        self._lost: defaultdict[ChunkId, list[tuple[float, str]]] = defaultdict(list)
        self._healed_at_s: float | None = None
        self._looked_at_s = -1.0
        self._future_s = 0.0
        """How far clocks that were wrong have put the last touch of a copy into the future: nothing takes it before."""
        self._said = ""
        for box in self.boxes:
            box.chunks.removed = self._watch_removals(box)

    # -- what is made otherwise ----------------------------------------------------------------------------------------

    def make_machine(self, number: int) -> Machine:
        """Return a machine with a disk for chunks."""
        box = ChunkMachine(
            number, self.plan.grain_ms, random.Random(self._boxes_made.random()), lambda: self.rosters[0][1]
        )
        self.boxes.append(box)
        return box

    def make_run(self, machine: Machine, chance: random.Random, window_ms: int) -> Run:
        """Return one run of a node that keeps chunks; its disk has lost what was not written."""
        box = self.box_of(machine.node)
        box.chunks.crash()
        return ChunkRun(box, self.network, chance, window_ms, self.note_adopted, self.plan.pace)

    def make_client(self, name: str, chance: random.Random) -> ChunkClient:
        """Return a program whose objects have chunks."""
        return ChunkClient(name, chance, self.history, self.plan.mix, self.doors, self.check_acknowledged)

    def make_faults(self, chance: random.Random) -> ChunkFaults:
        """Return what goes wrong, with chunks too."""
        return ChunkFaults(self, self.plan, chance)

    def founders(self) -> list[Machine]:
        """Return the machines that are trusted from the beginning: they keep the index."""
        return list(self.boxes[: self.plan.members - self.plan.untrusted])

    def doors(self) -> list[Run]:
        """Return the running nodes that have the vault's keys."""
        return [run for run in self.runs() if run.is_trusted]

    def runs(self) -> list[ChunkRun]:
        """Return the running nodes."""
        return [box.run for box in self.boxes if isinstance(box.run, ChunkRun) and box.run.arrived]

    async def founded(self) -> None:
        """Begin to look after bounds."""
        assert self._nursery is not None, "the world lives"
        self._nursery.start_soon(self._watch_bounds)

    def box_of(self, node: NodeId) -> ChunkMachine:
        """Return a node's machine."""
        return next(box for box in self.boxes if box.node == node)

    def name_of(self, node: NodeId) -> str:
        """Return a machine's name."""
        return self.box_of(node).name

    def keeper_of(self, box: ChunkMachine) -> Keeper:
        """Return a machine's record as a member."""
        room = self.plan.rooms[box.number % len(self.plan.rooms)]
        return Keeper(box.node, room, f"z{box.number % self.plan.zones}")

    # -- records -----------------------------------------------------------------------------------------------------

    def publish_roster(self, roster: Roster) -> None:
        """Make records known: to one machine after the other."""
        self.roster = roster
        self.rosters.append((trio.current_time(), roster))
        if self._nursery is not None:
            for box in self.boxes:
                self._nursery.start_soon(self._tell, box, roster, self.plan.lag_s * self.chance.random())

    async def _tell(self, box: ChunkMachine, roster: Roster, after_s: float) -> None:
        await trio.sleep(after_s)
        if isinstance(box.run, ChunkRun):
            box.run.hear(roster)
        else:
            box.hear(roster)

    # -- what faults may take ------------------------------------------------------------------------------------------

    def can_lose(self, box: ChunkMachine, chunk: ChunkId) -> bool:
        """Tell whether another of those who are to keep the chunk has a good copy."""
        holders = [self.box_of(node) for node in view_of(self.roster).holders(chunk)]
        return any(other is not box and other.chunks.is_good(VAULT, chunk) for other in holders)

    def can_spare_chunks(self, box: ChunkMachine) -> bool:
        """Tell whether all chunks outlive the loss of this machine's."""
        return all(self.can_lose(box, chunk) for chunk in box.chunks.names(VAULT))

    def lose(self, box: ChunkMachine, chunks: Iterable[ChunkId]) -> None:
        """Note that copies are lost by no fault of the program's."""
        for chunk in chunks:
            self._lost[chunk].append((trio.current_time(), box.name))

    # -- what is referred to -------------------------------------------------------------------------------------------

    def _rows(self, machine: Machine) -> Iterator[tuple[Space, bytes, bytes, ObjectVersion | Part]]:
        rows = machine.disk.vaults[VAULT].rows
        for (space, key), change in rows.items():
            value = decode_entry(change.row.entry).value
            if space in _REFERRING and isinstance(value, ObjectVersion | Part):
                yield space, key, change.row.accepted.pack(), value

    def _refs(self, space: Space, key: bytes, value: ObjectVersion | Part) -> Iterator[Ref]:
        content = open_content(KEYS, sealed_to(space, key), value.content)
        yield from () if content.part_table is None else (content.part_table,)
        stack = list(content.refs)
        while stack:
            ref = stack.pop()
            yield ref
            if ref.depth > 0:
                stack.extend(self._node(ref))

    def _node(self, ref: Ref) -> Sequence[Ref]:
        for box in self.boxes:
            sealed = box.chunks.peek(VAULT, ref.chunk)
            if sealed is not None:
                return open_node(ref, sealed)
        raise _LostError(f"manifest chunk {ref.chunk.hex()[:8]}")

    def has_alone(self, machine: Machine) -> bool:
        """Tell whether a machine has accepted an object that no other one has."""
        others = [other.disk.vaults[VAULT].rows for other in self.machines if other is not machine]
        return any(
            all((row := rows.get((space, key))) is None or row.row.accepted.pack() < accepted for rows in others)
            for space, key, accepted, _ in self._rows(machine)
            if space is Space.OBJECTS
        )

    def _chosen_refs(self) -> dict[ChunkId, str]:
        """Return the chunks that rows on a majority of the replicas refer to, and a key of each."""
        newest = self.newest()
        if newest is None or newest.is_joint:
            return {}
        keeping = [machine for machine in self.machines if machine.node in newest.nodes]
        counts: defaultdict[tuple[Space, bytes, bytes], list[ObjectVersion | Part]] = defaultdict(list)
        for machine in keeping:
            for space, key, accepted, value in self._rows(machine):
                counts[space, key, accepted].append(value)
        found: dict[ChunkId, str] = {}
        for (space, key, _), values in counts.items():
            if len(values) * 2 > len(keeping):
                found |= {ref.chunk: f"{space.name} {key!r}" for ref in self._refs(space, key, values[0])}
        return found

    # -- judges of moments ---------------------------------------------------------------------------------------------

    def check_acknowledged(self, version: ObjectVersion, key: str, asked_s: float) -> None:
        """Accuse if what was acknowledged has fewer copies than any records in force meanwhile ask for."""
        self.acknowledged += 1
        least = min(_least(roster) for roster in self._in_force_since(asked_s))
        try:
            refs = list(self._refs(Space.OBJECTS, key.encode(), version))
        except _LostError as error:
            self.history.accuse(f"{key!r} was acknowledged, and {error} is on no disk")
            return
        for ref in refs:
            having = {box.name for box in self.boxes if box.chunks.is_good(VAULT, ref.chunk)}
            # A copy that was good when it was put or renewed, or that rots unnoticed, is the disk's fault; parts were
            # put by earlier requests.
            having |= {
                name
                for at_s, name in self._lost[ref.chunk]
                if at_s >= asked_s or version.parts_count or self._has_any(name, ref.chunk)
            }
            if len(having) < least:
                self.history.accuse(
                    f"{key!r} was acknowledged with chunk {_short(ref.chunk)} on {sorted(having)} only, not {least}"
                )
                return

    def _has_any(self, name: str, chunk: ChunkId) -> bool:
        return any(box.name == name and box.chunks.has(VAULT, chunk) for box in self.boxes)

    def _in_force_since(self, since_s: float) -> Iterator[Roster]:
        """Yield all records that some node may have gone by since then."""
        ends = [at_s for at_s, _ in self.rosters[1:]]
        for (_, roster), end_s in zip(self.rosters, [*ends, float("inf")], strict=True):
            if end_s + self.plan.lag_s + 10.0 >= since_s:
                yield roster

    def _watch_removals(self, box: ChunkMachine) -> Callable[[VaultId, ChunkId, bytes], None]:
        def removed(_: VaultId, chunk: ChunkId, sealed: bytes) -> None:
            self.removed += 1
            if any(other.chunks.is_good(VAULT, chunk) for other in self.boxes):
                return
            try:
                user = self._chosen_refs().get(chunk)
            except _LostError:
                return
            if user is not None and sealed:
                self.history.accuse(f"{box.name} removed the last copy of chunk {_short(chunk)}, which {user} needs")

        return removed

    async def _watch_bounds(self) -> None:
        while True:
            await trio.sleep(WATCH_EVERY_S)
            tasks = trio.lowlevel.current_statistics().tasks_living
            self.tasks_max = max(self.tasks_max, tasks)
            if tasks > TASKS_MAX:
                self.history.accuse(f"{tasks} tasks live")
            for run in self.runs():
                keeping = run.copies._keeping
                behind = sum(keeping.behind.values())
                self.sending_max = max(self.sending_max, behind)
                if behind > BEHIND_MAX:
                    self.history.accuse(f"{run.machine.name} has {behind} bytes under way that nobody waits for")

    # -- judges of the end ---------------------------------------------------------------------------------------------

    async def heal(self) -> None:
        """End every ill, then wait until the index is well, all copies are in place and nothing dead is left."""
        for box in self.boxes:
            box.chunks.ills = ChunkIlls()
            box.slow_s = 0.0
        self._healed_at_s = trio.current_time()
        self._future_s = max((box.chunks.future_s(VAULT, right_s()) for box in self.boxes), default=0.0)
        self.healed_within_s += self._future_s
        await super().heal()
        self.collected_s = trio.current_time() - self._healed_at_s
        if self._leftovers():
            await trio.sleep(QUIET_S)
        self.history.violations += self._leftovers()

    def ailing(self) -> str:
        """Return what is not well yet, or an empty text; chunks are looked at now and then."""
        reason = super().ailing()
        if reason:
            return reason
        now_s = trio.current_time()
        if now_s >= self._looked_at_s + CHECK_EVERY_S:
            self._looked_at_s = now_s
            self._said = self._ailing_chunks(now_s - (self._healed_at_s or 0.0))
        return self._said

    def _ailing_chunks(self, healed_for_s: float) -> str:
        if late := [box.name for box in self.boxes if box.roster.version != self.roster.version]:
            return f"{late} have not heard of all records"
        view = view_of(self.roster)
        replicas = [machine for machine in self.machines if (newest := self.newest()) and machine.node in newest.nodes]
        try:
            needed = {
                ref.chunk: key
                for space, key, _, value in self._rows(replicas[0])
                for ref in self._refs(space, key, value)
            }
        except _LostError as error:
            return f"{error} is on no disk"
        reason = self._misplaced(view, needed)
        if not self.repaired_s and (not reason or healed_for_s > REPAIRED_WITHIN_S + self._future_s):
            self.repaired_s = healed_for_s
            if reason:
                self.history.accuse(f"{healed_for_s:g} s after healing {reason}")
        return reason or self._uncollected(needed)

    def _misplaced(self, view: View, needed: dict[ChunkId, bytes]) -> str:
        """Return which chunk is not exactly where it belongs, or an empty text."""
        members = [box for box in self.boxes if box.node in self.roster.nodes]
        for chunk, key in needed.items():
            holders = {self.name_of(node) for node in view.holders(chunk)}
            having = {box.name for box in members if box.chunks.is_good(VAULT, chunk)}
            if having != holders:
                return f"chunk {_short(chunk)} of {key!r} is on {sorted(having)}, not on {sorted(holders)}"
        return ""

    def _uncollected(self, needed: dict[ChunkId, bytes]) -> str:
        for box in self.boxes:
            if box.node in self.roster.nodes:
                dead = [chunk for chunk in box.chunks.names(VAULT) if chunk not in needed]
                if dead:
                    return f"{box.name} keeps {len(dead)} chunks that nothing refers to, {_short(dead[0])} the first"
        return ""

    def _leftovers(self) -> list[str]:
        """Return what is counted as under way: nothing, a while after the last request."""
        found = []
        for run in self.runs():
            keeping = run.copies._keeping
            if any(keeping.behind.values()):
                found.append(f"{run.machine.name} counts bytes under way though all is quiet: {keeping.behind}")
            if keeping.budget.free != keeping.budget.size:
                found.append(f"{run.machine.name} gave back no more than {keeping.budget.free} bytes")
        return found

    def judge(self, report: Report) -> None:
        """Write into the report what was wrong and what was measured."""
        super().judge(report)
        if isinstance(report, ChunkReport):
            report.repaired_s, report.collected_s = self.repaired_s, self.collected_s
            report.chunks = sum(len(box.chunks.names(VAULT)) for box in self.boxes)
            report.acknowledged, report.removed = self.acknowledged, self.removed
            report.tasks_max, report.sending_max = self.tasks_max, self.sending_max


def _least(roster: Roster) -> int:
    """Return how many copies a write has at least when it is acknowledged: a majority of those that are wanted."""
    wanted = min(roster.factor, len(view_of(roster).ring.members))
    return wanted // 2 + 1


def _short(chunk: ChunkId) -> str:
    return chunk.hex()[:8]


def play(seed: int, life: ChunkPlan | None = None) -> ChunkReport:
    """Live the life of a seed and return what came of it."""
    chosen = life or draw(seed)
    with ExitStack() as changes:
        for room, name, value in (
            (meshhold.sealing.chunker, "CHUNK_SIZE", chosen.mix.sizes.chunk),
            (meshhold.replication.chunks.writer, "INLINE_SIZE_MAX", SMALL_INLINE),
            (meshhold.replication.chunks.writer, "REFS_IN_ENTRY_MAX", chosen.refs_max),
            (meshhold.replication.chunks.writer, "LONG_WRITE_S", chosen.pace.grace_s / 4),
            (meshhold.replication.chunks.chunk_wire, "IN_CALL_MAX", chosen.in_call_max),
            (meshhold.replication.chunks.holders, "plan_ring", plan),
            (meshhold.replication.repair.inventory, "SLICES_AT_ONCE", meshhold.replication.repair.inventory.SLICES),
        ):
            changes.enter_context(patch.object(room, name, value))
        return play_in(lambda: ChunkWorld(seed, chosen), ChunkReport(seed))
