"""Who is to keep how much of a vault, who does, and what would move if machines came or went? Moves nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from meshhold.blocking import RunBlocking
from meshhold.errors import FatalError, InvalidError, MeshHoldError, NotFoundError
from meshhold.model.ids import NodeId, VaultId
from meshhold.placement.moves import count_copies, plan_moves
from meshhold.placement.planner import plan_ring
from meshhold.placement.ring import CAPACITY_BYTES_MAX, DEPTH_MAX, Ring, RingMember
from meshhold.registry.record import Kind
from meshhold.replication.chunks.holders import View
from meshhold.replication.chunks.survey_wire import Stock
from meshhold.replication.tasks import open_tasks
from meshhold.store.directory import Bucket, Directory
from meshhold.store.fellows import Counted
from meshhold.store.nodes import Nodes
from meshhold.store.vaults import Vaults

ASK_S: Final = 15.0
"""A person waits so long for machines to count what they have."""
CHANGES_MAX: Final = 64
SIZE_DIGITS: Final = 20
NODE_ID_LENGTH: Final = 52
BYTES_PER_S: Final = 100_000_000
"""What repair moves over a gigabit link; taken where nothing was moved lately to measure."""


@dataclass(frozen=True, slots=True)
class MemberShare:
    """One member. `capacity` in bytes, as the ring counts it.

    `state`: `holds`; `away`, it does not answer; `out`, it is stood in for; `leaving`; `unreliable`. `planned_percent`
    is the part of all copies that it is to have, `held_percent` that of all copies that were counted, None where it
    does not tell, as are `chunks` and `bytes`.
    """

    node_id: str
    name: str
    zone: str
    capacity: int
    state: str
    planned_percent: float
    held_percent: float | None
    chunks: int | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class RingShow:
    """A vault's ring. `version` is the same on machines that agree on who keeps what.

    `wanted` copies are possible with the present members of `factor` that are asked for. `max_over_mean` is how much
    more than the average the fullest member is to have for its capacity, and `held_max_over_mean` has; None where not
    everybody tells.
    """

    vault: str
    vault_id: str
    version: str
    partitions: int
    factor: int
    wanted: int
    members: tuple[MemberShare, ...]
    max_over_mean: float
    held_max_over_mean: float | None


@dataclass(frozen=True, slots=True)
class Gain:
    """What one machine gets and gives, in bytes."""

    node: str
    gets: int
    gives: int


@dataclass(frozen=True, slots=True)
class RingPlan:
    """What a change of members would mean for one vault.

    `moves_bytes` have to be copied, as estimated from `bytes_from` (this node's chunks, or the index); None if neither
    tells. `moves_percent` is that of one copy of everything. `copies_min` is how many copies of anything there are
    while it moves, if those that go are gone at once, and `copies_after` how many at the end. `seconds` is how long it
    takes at `bytes_per_s`, which `is_measured` or assumed.
    """

    vault: str
    vault_id: str
    factor: int
    factor_after: int
    members_after: int
    copies_before: int
    copies_min: int
    copies_after: int
    moves_percent: float
    moves_bytes: int | None
    bytes_from: str
    gains: tuple[Gain, ...]
    seconds: float | None
    bytes_per_s: int
    is_measured: bool


class Rings:
    """Rings as people see them.

    `rate` gives the bytes per second of a vault's repair, 0 if nothing moved lately; `rate_max` bounds it.
    Resources: borrows its collaborators.
    """

    def __init__(
        self,
        directory: Directory,
        vaults: Vaults,
        nodes: Nodes,
        fellows: Counted,
        run_blocking: RunBlocking,
        rate: Callable[[VaultId], float] = lambda _vault: 0.0,
        *,
        rate_max: float = BYTES_PER_S,
    ) -> None:
        self._directory = directory
        self._vaults = vaults
        self._nodes = nodes
        self._fellows = fellows
        self._rate = rate
        self._assumed = min(BYTES_PER_S, rate_max)
        self._run_blocking = run_blocking
        self._me = directory.identity.node_id

    # -- as it is -----------------------------------------------------------------------------------------------------

    async def show(self, vault: str | None) -> list[RingShow]:
        """Return the rings of one vault, or of all by name; members are asked what they have.

        Errors: `NoSuchVaultError`.
        """
        return [await self._show(bucket, view) for bucket, view in self._chosen(vault)]

    def _chosen(self, vault: str | None) -> list[tuple[Bucket, View]]:
        if vault is not None:
            buckets = [self._vaults.find(vault)]
        else:
            buckets = sorted(self._directory.by_id.values(), key=lambda bucket: (bucket.name, bucket.id))
        found = [(bucket, self._fellows.view(bucket.id)) for bucket in buckets]
        return [(bucket, view) for bucket, view in found if view is not None]

    async def _show(self, bucket: Bucket, view: View) -> RingShow:
        stocks = await self.stocks(bucket.id, view.members)
        planned = planned_shares(view)
        counted = sum(stock.chunks for stock in stocks.values())
        rows = {member.node: member for member in view.ring.members}
        members = []
        for node in view.members:
            facts, stock = self._nodes.facts(node), stocks.get(node)
            members.append(
                MemberShare(
                    node_id=node,
                    name=self._nodes.name_of(node),
                    zone=rows[node].zone if node in rows else facts.zone if facts else "",
                    capacity=rows[node].capacity if node in rows else facts.room if facts else 0,
                    state=self._state(bucket.id, view, node),
                    planned_percent=_percent(planned.get(node, 0.0), sum(planned.values())),
                    held_percent=None if stock is None else _percent(stock.chunks, counted),
                    chunks=None if stock is None else stock.chunks,
                    bytes=None if stock is None else stock.bytes,
                )
            )
        held = {node: float(stock.chunks) for node, stock in stocks.items() if node in rows}
        return RingShow(
            vault=bucket.name,
            vault_id=bucket.id,
            version=view.version,
            partitions=view.ring.partitions,
            factor=view.factor,
            wanted=view.wanted,
            members=tuple(sorted(members, key=lambda member: (member.name, member.node_id))),
            max_over_mean=max_over_mean(planned, view.ring),
            held_max_over_mean=max_over_mean(held, view.ring) if len(held) == len(rows) and counted else None,
        )

    def _state(self, vault: VaultId, view: View, node: NodeId) -> str:
        if node in view.out:
            return "out"
        if node in view.extra:
            record, facts = self._directory.registry.get(Kind.MEMBER, f"{vault}/{node}"), self._nodes.facts(node)
            leaving = record is not None and record.public.get("leaving") is True
            return "leaving" if leaving or (facts is not None and facts.draining) else "unreliable"
        return "holds" if self._fellows.is_live(node) else "away"

    async def stocks(self, vault: VaultId, nodes: Sequence[NodeId]) -> dict[NodeId, Stock]:
        """Return what those nodes have of a vault that tell within `ASK_S`."""
        found: dict[NodeId, Stock] = {}

        async def ask(node: NodeId) -> None:
            try:
                found[node] = await self._fellows.witness_of(node).stock(vault)
            except FatalError:
                raise
            except MeshHoldError:
                return  # it is shown as one that does not tell

        with trio.move_on_after(ASK_S):
            async with open_tasks() as nursery:
                for node in nodes:
                    if self._fellows.is_live(node):
                        nursery.start_soon(ask, node)
        return found

    # -- as it would be -----------------------------------------------------------------------------------------------

    async def plan(
        self, vault: str | None, without: Sequence[str], added: Sequence[str], factor: int | None
    ) -> list[RingPlan]:
        """Return what would move if the nodes `without` went and those `added` came, each `NODE[:BYTES[:ZONE]]`.

        A node of the mesh comes with what it says of itself unless that is given; one that is not known yet takes a
        capacity. Errors: `InvalidError`, `NotFoundError` for what cannot be; `NoSuchVaultError`.
        """
        if not without and not added and factor is None:
            raise InvalidError(
                "ring plan: nothing is to change", "use --without NODE, --with NODE[:CAPACITY[:ZONE]] or --factor N"
            )
        if len(without) + len(added) > CHANGES_MAX:
            raise InvalidError(f"more than {CHANGES_MAX} nodes come or go", "plan fewer at once")
        if factor is not None and not 1 <= factor <= DEPTH_MAX:
            raise InvalidError(f"a factor of {factor} is out of range", f"use 1 to {DEPTH_MAX}")
        newcomers = [self._newcomer(text) for text in added]
        chosen = self._chosen(vault)
        if vault is None:  # whoever goes takes part in some vaults only
            chosen = [each for each in chosen if newcomers or factor or self._going(each[1], without, strict=False)]
        return [await self._plan(bucket, view, without, newcomers, factor) for bucket, view in chosen]

    async def _plan(
        self, bucket: Bucket, view: View, without: Sequence[str], newcomers: Sequence[RingMember], factor: int | None
    ) -> RingPlan:
        going = self._going(view, without, strict=True)
        rows = {member.node: member for member in view.ring.members if member.node not in going}
        rows |= {member.node: member for member in newcomers}
        if not rows:
            raise InvalidError(f"nobody would keep vault {bucket.name!r} any more", "leave one member at least")
        after = view.factor if factor is None else factor
        ring = await self._run_blocking(plan_ring, list(rows.values()))
        moves = plan_moves(view.ring, ring, view.factor, after)
        copy_bytes, source = await self._copy_bytes(bucket, view)
        gained, lost = moves.gained, moves.lost
        size = copy_bytes or 0
        gains = [
            Gain(self._name_of(node), round(gained.get(node, 0) * size), round(lost.get(node, 0) * size))
            for node in sorted(gained.keys() | lost.keys(), key=self._name_of)
        ]
        measured = self._rate(bucket.id)
        rate = measured or self._assumed
        slowest = max((gain.gets for gain in gains), default=0)  # machines fetch side by side, each at that rate
        return RingPlan(
            vault=bucket.name,
            vault_id=bucket.id,
            factor=view.factor,
            factor_after=after,
            members_after=len(rows),
            copies_before=min(view.factor, len(view.ring.members)),
            copies_min=min(count_copies(view.ring, view.factor, going)),
            copies_after=min(after, len(rows)),
            moves_percent=round(100 * moves.volume, 1),
            moves_bytes=None if copy_bytes is None else round(moves.volume * copy_bytes),
            bytes_from=source,
            gains=tuple(gains),
            seconds=None if copy_bytes is None else round(slowest / rate, 1),
            bytes_per_s=round(rate),
            is_measured=bool(measured),
        )

    async def _copy_bytes(self, bucket: Bucket, view: View) -> tuple[int | None, str]:
        """Return the bytes of one copy of everything, and what that is estimated from."""
        share = planned_shares(view).get(self._me, 0.0)
        if share:
            stock = (await self.stocks(bucket.id, [self._me])).get(self._me)
            if stock is not None and stock.chunks:
                return round(stock.bytes / share), "this node's chunks"
        counted = (await self._vaults.view(bucket.id)).bytes
        return counted, "the index" if counted is not None else "nothing"

    def _going(self, view: View, references: Sequence[str], *, strict: bool) -> frozenset[NodeId]:
        """Return the members of a ring that are named. Errors: `NotFoundError` for one who is none, if `strict`."""
        going = set()
        for reference in references:
            nodes = [m.node for m in view.ring.members if reference in (m.node, self._nodes.name_of(m.node))]
            nodes = nodes or [m.node for m in view.ring.members if reference and m.node.startswith(reference)]
            if len(nodes) > 1:
                raise InvalidError(f"{reference!r} names several nodes", "use a longer prefix of the id")
            if not nodes and strict:
                raise NotFoundError(f"no member of the ring is called {reference!r}", "see `meshhold ring show`")
            going.update(nodes)
        return frozenset(going)

    def _name_of(self, node: NodeId) -> str:
        """Return a node's name; a machine that is not there yet is called as it was given."""
        return node if self._nodes.facts(node) is None and len(node) < NODE_ID_LENGTH else self._nodes.name_of(node)

    def _newcomer(self, text: str) -> RingMember:
        name, _, rest = text.partition(":")
        size, _, zone = rest.partition(":")
        try:
            facts = self._nodes.find(name)
        except NotFoundError:
            facts = None
        capacity = facts.room if facts else 0
        if size:
            capacity = int(size) if size.isascii() and size.isdigit() and len(size) < SIZE_DIGITS else 0
        if not name or not 1 <= capacity <= CAPACITY_BYTES_MAX:
            raise InvalidError(
                f"how much {name!r} can keep is not known", f"say how many bytes it offers, as in --with {name}:500GiB"
            )
        return RingMember(facts.id if facts else NodeId(name), capacity, zone or (facts.zone if facts else name))


def planned_shares(view: View) -> Mapping[NodeId, float]:
    """Return the part of everything that each holder is to have a copy of."""
    held = Counter(node for partition in range(view.ring.partitions) for node in view.holders_in(partition))
    return {node: count / view.ring.partitions for node, count in held.items()}


def max_over_mean(amounts: Mapping[NodeId, float], ring: Ring) -> float:
    """Return how much more than the average the fullest member has for its capacity: 1 is even, 0 for nothing."""
    mean = sum(amounts.values()) / sum(member.capacity for member in ring.members)
    return round(max(amounts.get(m.node, 0.0) / m.capacity for m in ring.members) / mean, 3) if mean else 0.0


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 1) if whole else 0.0
