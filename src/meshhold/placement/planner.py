"""Which members make which ring? A pure function of the members: no history, so that all machines agree unasked.

Weighted rendezvous hashing with bounded loads. Each member visits the partitions in an order of its own (`visits`),
at a speed that goes with its capacity; first come is first holder, and so on for the next ranks. Chance alone would
give some members a quarter more than their share, so a member that is full is passed by. Rules:

1. Ranks are given one after the other: first holders of all partitions, then second ones, so that each factor up to
   `FACTOR_EVEN` is even by itself.
2. Copies are in distinct zones while there are zones left.
3. A member is full for a factor at `CLAIM_PERMILLE` of its share (`shares`). Within that, nothing is evened out: what
   hangs on others moves data when others come and go.
4. The large are sped up, and who would still win too often by the rules of the race, not by chance, is slowed down
   (`handicaps`).

Of each rank, the result is the only one in which no member and no partition would both rather have each other (a stable
matching), so a member that comes displaces little beyond what it takes.
Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998); Mirrokni, Thorup and
Zadimoghaddam, "Consistent hashing with bounded loads" (2018); Gale and Shapley (1962).
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Sequence
from itertools import chain, islice, repeat
from operator import add
from typing import Final, NamedTuple

from meshhold.errors import InvalidError
from meshhold.placement.handicaps import PAR, plan_handicaps
from meshhold.placement.ring import BITS_MAX, DEPTH_MAX, MEMBERS_MAX, Ring, RingMember, build_ring
from meshhold.placement.shares import ONE, fair_shares
from meshhold.placement.visits import shuffle_partitions, visit_times

FACTOR_EVEN: Final = 3
"""Up to this factor, the usual one, loads are bounded. Beyond it the race decides alone."""
CLAIM_PERMILLE: Final = 1_095
"""Aim: 1,100, with room for rounding. Each per cent less moves more data."""
ZONE_PERMILLE: Final = 1_070
"""A zone is full at so much of its share, where zones hold more than one copy."""
REACH: Final = 8
"""A member visits so many times the partitions that it is to hold: 24 members pass by each partition on average."""
SMALL_MESH: Final = 32
BITS_SMALL: Final = 12
BITS_MIN: Final = 3

_NOBODY: Final = -1
_MEMBER_BITS: Final = 12
_REACH_MIN: Final = 64
_PACE: Final = 1 << 8
"""The fastest clock's time from one tick to the next: leaves 8 bits for the difference between speeds."""
_PACE_MAX: Final = 1 << 48


def bits_for(members: int) -> int:
    """Return how many bits of a chunk's id tell its partition, in a mesh of so many members.

    Where a member holds few partitions, chance makes loads uneven: some 128 for each member keep it in bounds. A step
    to more partitions is another ring altogether and moves everything, so there is one, which no home takes.
    """
    return BITS_SMALL if members <= SMALL_MESH else BITS_MAX


def plan_ring(members: Iterable[RingMember], bits: int | None = None) -> Ring:
    """Return the ring of these members, the same for the same members in whatever order.

    `bits` is for whoever keeps the number of partitions while a mesh grows over the step of `bits_for`.
    Errors: `InvalidError` for a node that is listed twice, too many members, or `bits` out of range.
    """
    ranked = tuple(sorted(members))
    if len({member.node for member in ranked}) != len(ranked):
        raise InvalidError("a node is listed twice among the members of a ring", "list each once")
    if len(ranked) > MEMBERS_MAX:
        raise InvalidError(f"{len(ranked)} members are more than a ring takes", f"use up to {MEMBERS_MAX}")
    bits = bits_for(len(ranked)) if bits is None else bits
    if not BITS_MIN <= bits <= BITS_MAX:
        raise InvalidError(f"a ring of 2^{bits} partitions is out of range", f"use {BITS_MIN} to {BITS_MAX} bits")
    return build_ring(bits, ranked, _Plan(ranked, bits).run() if ranked else repeat((), 1 << bits))


class _Plan:
    """The race of one plan. Members and zones are known by their places in sorted order."""

    def __init__(self, members: Sequence[RingMember], bits: int) -> None:
        self._members = members
        self._bits = bits
        self._partitions = 1 << bits
        names = sorted({member.zone for member in members})
        places = {name: place for place, name in enumerate(names)}
        self._zones = len(names)
        self._zone_of = [places[member.zone] for member in members]
        self._ranks = min(FACTOR_EVEN, len(members))
        self._shares = [fair_shares(members, factor) for factor in range(1, self._ranks + 1)]
        self._rows: list[list[int]] = [[] for _ in range(self._partitions)]
        self._held = [0] * len(members)

    def run(self) -> list[list[int]]:
        """Return for each partition the places of its members, in order."""
        reach = [
            min(self._partitions, REACH * self._partitions * share // ONE + _REACH_MIN) for share in self._shares[-1]
        ]
        wishes = [
            array("I", [partition | place << self._bits for partition in shuffle_partitions(node, self._bits, count)])
            for place, (node, count) in enumerate(zip([member.node for member in self._members], reach, strict=True))
        ]
        times = visit_times(self._bits)
        speeds: list[int] = []
        visits = _Visits(array("I"), array("H"))
        for factor in range(1, self._ranks + 1):
            before, speeds = speeds, self._speeds(factor)
            if speeds != before:
                visits = _order_visits(wishes, times, speeds, self._bits)
            self._fill_rank(factor, visits)
        self._list_handoffs(visits)
        return self._rows

    def _speeds(self, factor: int) -> list[int]:
        """Return how fast each member's clock runs in the race for the rank `factor`."""
        capacities = [member.capacity for member in self._members]
        shares = self._shares[factor - 1]
        is_large = self._bits > BITS_SMALL
        if factor <= self._zones:  # a zone's members are one runner, since one of them is chosen at most
            handicaps = plan_handicaps(self._by_zone(capacities), self._by_zone(shares), factor, is_large=is_large)
            return [size * handicaps[zone] for size, zone in zip(capacities, self._zone_of, strict=True)]
        if self._zones == 1:
            handicaps = plan_handicaps(capacities, shares, factor, is_large=is_large)
            return [size * handicap for size, handicap in zip(capacities, handicaps, strict=True)]
        return [size * PAR for size in capacities]

    def _by_zone(self, amounts: Sequence[int]) -> list[int]:
        sums = [0] * self._zones
        for amount, zone in zip(amounts, self._zone_of, strict=True):
            sums[zone] += amount
        return sums

    def _fill_rank(self, factor: int, visits: _Visits) -> None:
        """Give each partition its next holder: the first to come that may and is not full."""
        shares = self._shares[factor - 1]
        room = [
            max(-(-share * self._partitions // ONE), share * self._partitions * CLAIM_PERMILLE // (1000 * ONE)) - held
            for share, held in zip(shares, self._held, strict=True)
        ]
        zone_room = [factor * self._partitions] * self._zones
        group = self._zone_of  # of which a partition takes one
        if factor > self._zones:
            group = list(range(len(self._members)))
            limits = [share * self._partitions * ZONE_PERMILLE // (1000 * ONE) + 1 for share in self._by_zone(shares)]
            zone_room = [limit - held for limit, held in zip(limits, self._by_zone(self._held), strict=True)]
        taken = [tuple([group[place] for place in row]) for row in self._rows]
        winners = _race(visits, taken, (group, self._zone_of), room, zone_room)
        for partition, winner in enumerate(winners):
            if winner == _NOBODY:
                winners[partition] = _settle(partition, winners, taken, group, room, shares)
        for row, place in zip(self._rows, winners, strict=True):
            row.append(place)
            self._held[place] += 1

    def _list_handoffs(self, visits: _Visits) -> None:
        """Lengthen each partition's row: those who come next, distinct zones first, then whoever is left."""
        members, depth = len(self._members), min(len(self._members), DEPTH_MAX)
        if self._ranks == depth:
            return
        holders = [tuple(row) for row in self._rows]
        for partition, place in zip(visits.partitions, visits.places, strict=True):
            if place not in holders[partition]:
                self._rows[partition].append(place)
        for partition, row in enumerate(self._rows):
            start = partition % members
            if len(row) < members:
                listed = set(row)
                rest = (place for place in chain(range(start, members), range(start)) if place not in listed)
                row.extend(islice(rest, max(0, depth - len(row)) if self._zones <= self._ranks else members))
            if self._ranks < self._zones < members:
                _distinct_zones_first(row, self._zone_of, self._zones, self._ranks, depth)
            del row[depth:]


class _Visits(NamedTuple):
    """All visits in order of time: the partition that is visited, and the place of the member that comes."""

    partitions: array[int]
    places: array[int]


def _order_visits(wishes: Sequence[array[int]], times: Sequence[int], speeds: Sequence[int], bits: int) -> _Visits:
    """Return who comes where when each member goes through its wishes, which name it too, at its speed."""
    fastest = max(speeds)
    paces = [min(_PACE_MAX, _PACE * fastest // speed) << (_MEMBER_BITS + bits) for speed in speeds]
    clocks: dict[int, list[int]] = {}
    visits: list[int] = []
    for pace, wanted in zip(paces, wishes, strict=True):
        clock = clocks.get(pace)
        if clock is None or len(clock) < len(wanted):
            clock = clocks[pace] = [time * pace for time in times[: len(wanted)]]
        visits += map(add, clock, wanted)  # the shorter one ends it
    visits.sort()
    of_partition, of_member = (1 << bits) - 1, (1 << _MEMBER_BITS) - 1
    return _Visits(
        array("I", [visit & of_partition for visit in visits]),
        array("H", [visit >> bits & of_member for visit in visits]),
    )


def _race(
    visits: _Visits,
    taken: Sequence[Collection[int]],
    groups: tuple[Sequence[int], Sequence[int]],
    room: list[int],
    zone_room: list[int],
) -> list[int]:
    """Return for each partition the first to come whose group it has not taken, and who and whose zone have room.

    `groups` are each member's group and zone. Uses up `room` and `zone_room`. `_NOBODY` stands where nobody could.
    """
    group, zone_of = groups
    winners = [_NOBODY] * len(taken)
    waiting = bytearray(b"\x01") * len(taken)
    left = len(taken)
    for partition, place in zip(visits.partitions, visits.places, strict=True):
        if (
            waiting[partition]
            and room[place] > 0
            and group[place] not in taken[partition]
            and zone_room[zone_of[place]] > 0
        ):
            winners[partition] = place
            waiting[partition] = 0
            room[place] -= 1
            zone_room[zone_of[place]] -= 1
            left -= 1
            if not left:
                break
    return winners


def _settle(
    partition: int,
    winners: list[int],
    taken: Sequence[Collection[int]],
    group: Sequence[int],
    room: list[int],
    shares: Sequence[int],
) -> int:
    """Return who gets a partition that nobody won: all that may are full, or do not pass by. Rare.

    It is whoever has most room for its share. If nobody has any, one that is full gives another partition to somebody
    that has: `winners` then changes. If that is not possible either, the limit is exceeded. Uses up `room`.
    """
    may = [place for place in range(len(room)) if group[place] not in taken[partition]]
    may.sort(key=lambda place: (-room[place] / shares[place], place))
    if room[may[0]] <= 0:
        roomy = [place for place in range(len(room)) if room[place] > 0]
        for place in may:
            for other in (other for other, winner in enumerate(winners) if winner == place):
                heir = next((heir for heir in roomy if group[heir] not in taken[other]), _NOBODY)
                if heir != _NOBODY:
                    winners[other] = heir
                    room[heir] -= 1
                    return place
    room[may[0]] -= 1
    return may[0]


def _distinct_zones_first(row: list[int], zone_of: Sequence[int], zones: int, start: int, end: int) -> None:
    """Move whoever is the first of its zone forward: to place `start`, before which all zones differ, up to `end`."""
    seen = {zone_of[place] for place in row[:start]}
    front = start
    for at in range(start, len(row)):
        if front == end or len(seen) == zones:
            break
        if zone_of[row[at]] not in seen:
            seen.add(zone_of[row[at]])
            row.insert(front, row.pop(at))
            front += 1
