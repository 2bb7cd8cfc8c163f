"""How even are rings, how much moves with one member, how long does planning take? `python -m bench.placement`.

Prints a table and draws it. Everything but the times is the same on each run and machine.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.placement_plot import Dot, draw
from meshhold.crypto.hashing import hash_bytes
from meshhold.model.ids import NodeId, encode_id
from meshhold.placement.moves import plan_moves
from meshhold.placement.planner import plan_ring
from meshhold.placement.ring import Ring, RingMember
from meshhold.placement.shares import ONE, fair_shares

FACTORS: Final = (2, 3)
BALANCE_AIM: Final = 1.10
MOVED_AIM: Final = 1.15
SIZES: Final = {"equal": (1,), "1:2:8": (1, 2, 8)}
NODES: Final = {3: 6, 10: 6, 100: 2, 500: 1}
"""Size of the mesh → how many newcomers are tried, one at a time."""
TIB: Final = 2**40


@dataclass(frozen=True, slots=True)
class Row:
    """One mesh and factor. `moved` are the worst of the newcomers: by what each got, and by its fair share."""

    nodes: int
    sizes: str
    zones: int
    factor: int
    bits: int
    balance: float
    moved: float
    moved_of_fair: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=list(NODES))
    parser.add_argument("--zones", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--bits", type=int, help="partitions as a power of two, instead of the planner's choice")
    parser.add_argument("--svg", type=Path, default=Path("docs/placement.svg"))
    args = parser.parse_args()
    rows: list[Row] = []
    print("| nodes | capacities | zones | factor | partitions | max/mean | moved/least | moved/fair | planned in |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for nodes in args.nodes:
        for sizes in SIZES:
            for zones in args.zones:
                if zones <= nodes:
                    for row in measure(nodes, sizes, zones, args.bits):
                        rows.append(row)
                        print(as_line(row), flush=True)
    print("\n" + summary(rows))
    args.svg.write_text(draw([Dot(row.nodes, row.factor, row.zones, row.balance, row.moved) for row in rows]))
    print(f"written: {args.svg}")


def measure(nodes: int, sizes: str, zones: int, bits: int | None) -> Iterator[Row]:
    """Plan one mesh, then the same with each newcomer; members get zones in turn and capacities in random order."""
    rng = random.Random(f"{nodes} {sizes} {zones}")
    capacities = [SIZES[sizes][place % len(SIZES[sizes])] for place in range(nodes)]
    rng.shuffle(capacities)
    members = [member(rng, capacity, place % zones) for place, capacity in enumerate(capacities)]
    started = time.process_time()
    old = plan_ring(members, bits)
    seconds = time.process_time() - started
    steps = []
    for number in range(NODES.get(nodes, 1)):
        newcomer = member(rng, SIZES[sizes][(number + 1) % len(SIZES[sizes])], (nodes + number) % zones)
        steps.append((newcomer, plan_ring([*members, newcomer], old.bits)))
    for factor in FACTORS:
        found = [moved(old, new, newcomer, factor) for newcomer, new in steps]
        worst, worst_of_fair = (max(pair[at] for pair in found) for at in (0, 1))
        even = max(balance(ring, factor) for ring in (old, *(new for _, new in steps)))
        yield Row(nodes, sizes, zones, factor, old.bits, even, worst, worst_of_fair, seconds)


def member(rng: random.Random, capacity: int, zone: int) -> RingMember:
    return RingMember(NodeId(encode_id(hash_bytes(rng.randbytes(32)))), capacity * TIB, f"zone {zone}")


def balance(ring: Ring, factor: int) -> float:
    """Return what the fullest member holds over its fair share: max/mean per byte, but for limits of one copy."""
    held = Counter(node for partition in range(ring.partitions) for node in ring.holders_in(partition, factor))
    shares = zip(ring.members, fair_shares(ring.members, factor), strict=True)
    return max(held[each.node] / (share * ring.partitions / ONE) for each, share in shares)


def moved(old: Ring, new: Ring, newcomer: RingMember, factor: int) -> tuple[float, float]:
    """How much is copied when the newcomer comes, over what it gets, and over its fair share."""
    moves = plan_moves(old, new, factor)
    fair = fair_shares(new.members, factor)[new.members.index(newcomer)] / ONE
    return moves.volume / moves.gained[newcomer.node], moves.volume / fair


def as_line(row: Row) -> str:
    return (
        f"| {row.nodes} | {row.sizes} | {row.zones} | {row.factor} | {1 << row.bits:,} | {row.balance:.3f} "
        f"| {row.moved:.3f} | {row.moved_of_fair:.3f} | {row.seconds * 1000:.0f} ms |"
    )


def summary(rows: Sequence[Row]) -> str:
    """One line for each size of the mesh: the worst and the median of all that were planned."""
    lines = ["| nodes | max/mean, worst | moved/least, median | worst | within the aim | planned in, median | worst |"]
    lines.append("|---:|---:|---:|---:|---:|---:|---:|")
    for nodes in dict.fromkeys(row.nodes for row in rows):
        some = [row for row in rows if row.nodes == nodes]
        shares = sorted(row.moved for row in some)
        spent = sorted(row.seconds for row in some)
        good = sum(row.moved <= MOVED_AIM and row.balance <= BALANCE_AIM for row in some)
        lines.append(
            f"| {nodes} | {max(row.balance for row in some):.3f} | {shares[len(shares) // 2]:.3f} | {shares[-1]:.3f} "
            f"| {good} of {len(some)} | {spent[len(spent) // 2] * 1000:.0f} ms | {spent[-1] * 1000:.0f} ms |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
