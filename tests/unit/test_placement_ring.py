"""Looking up in a ring: orders, versions, the packed form."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import InvalidError, UnknownFormatError
from meshhold.model.ids import ChunkId, NodeId, encode_id
from meshhold.placement.planner import BITS_SMALL, SMALL_MESH, bits_for, plan_ring
from meshhold.placement.ring import BITS_MAX, DEPTH_MAX, Ring, RingMember, unpack_ring

BITS = 6


def member(number: int, capacity: int = 10**12, zone: str = "") -> RingMember:
    return RingMember(NodeId(encode_id(hash_bytes(b"node %d" % number))), capacity, zone or f"zone {number % 3}")


def ring_of(count: int, bits: int = BITS) -> Ring:
    return plan_ring([member(number) for number in range(count)], bits)


def chunk(number: int) -> ChunkId:
    return ChunkId(hash_bytes(b"chunk %d" % number))


def test_a_chunk_is_in_the_partition_that_its_first_bits_name() -> None:
    ring = ring_of(3)
    assert ring.partition_of(ChunkId(bytes([0b1010_1011]) + bytes(31))) == 0b101010
    assert ring.partition_of(ChunkId(b"\xff" * 32)) == ring.partitions - 1
    assert ring.partition_of(ChunkId(bytes(32))) == 0


@pytest.mark.parametrize("count", [1, 2, 3, DEPTH_MAX, DEPTH_MAX + 1, 40])
def test_the_order_names_every_member_once_and_begins_with_the_holders(count: int) -> None:
    ring = ring_of(count)
    for number in range(100):
        order = list(ring.order(chunk(number)))
        assert Counter(order) == Counter(member(each).node for each in range(count))
        for factor in (1, 2, 3, DEPTH_MAX):
            assert ring.holders(chunk(number), factor) == tuple(order[:factor])


def test_nobody_keeps_anything_in_a_ring_without_members() -> None:
    ring = plan_ring([])
    assert ring.holders(chunk(1), 3) == ()
    assert list(ring.order(chunk(1))) == []
    assert unpack_ring(ring.pack()) == ring


@pytest.mark.parametrize("factor", [0, -1, DEPTH_MAX + 1])
def test_a_factor_that_no_vault_can_have_is_refused(factor: int) -> None:
    with pytest.raises(InvalidError, match="out of range"):
        ring_of(3).holders(chunk(1), factor)


def test_the_version_changes_with_every_fact_and_with_nothing_else() -> None:
    members = [member(number) for number in range(3)]
    first = plan_ring(members, BITS)
    assert plan_ring(reversed(members), BITS).version == first.version
    others = [
        plan_ring(members, BITS + 1),
        plan_ring(members[:2], BITS),
        plan_ring([*members[:2], member(2, capacity=10**12 + 1)], BITS),
        plan_ring([*members[:2], member(2, zone="elsewhere")], BITS),
        plan_ring([*members[:2], member(3)], BITS),
    ]
    assert len({first.version, *(ring.version for ring in others)}) == len(others) + 1


def test_names_of_zones_cannot_be_mistaken_for_facts() -> None:
    forged = f"a\n{member(1).node} 1 b"
    one = plan_ring([member(0, zone=forged)], BITS)
    two = plan_ring([member(0, zone="a"), member(1, 1, "b")], BITS)
    assert one.version != two.version


def test_the_ring_of_these_members_is_this_one_on_every_machine() -> None:
    """Changed arithmetic must not pass unseen: nodes of two releases would place the same chunk differently."""
    sizes = [(number, 10**12 * (1, 2, 8)[number % 3], f"zone {number % 4}") for number in range(10)]
    ring = plan_ring([member(*facts) for facts in sizes])
    assert (ring.version, hash_bytes(ring.table).hex()[:16]) == ("25f9096ff14762e7", "3cd1b1218aee2c77")


def test_packing_loses_nothing() -> None:
    for count in (1, 3, 20):
        ring = ring_of(count)
        again = unpack_ring(ring.pack())
        assert again == ring
        assert again.version == ring.version


def broken(change: Any) -> list[Any]:
    packed = ring_of(3).pack()
    change(packed)
    return packed


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: packed.append(0),
        lambda packed: packed.__setitem__(0, 2),
        lambda packed: packed.__setitem__(1, BITS_MAX + 1),
        lambda packed: packed.__setitem__(1, -1),
        lambda packed: packed.__setitem__(1, True),
        lambda packed: packed.__setitem__(1, BITS + 1),
        lambda packed: packed.__setitem__(2, None),
        lambda packed: packed[2].reverse(),
        lambda packed: packed[2].pop(),
        lambda packed: packed[2].__setitem__(0, packed[2][1]),
        lambda packed: packed[2][0].append(0),
        lambda packed: packed[2][0].__setitem__(0, 7),
        lambda packed: packed[2][0].__setitem__(1, 0),
        lambda packed: packed[2][0].__setitem__(1, True),
        lambda packed: packed[2][0].__setitem__(2, b""),
        lambda packed: packed.__setitem__(3, packed[3][:-1]),
        lambda packed: packed.__setitem__(3, b"\x00\x03" + packed[3][2:]),
        lambda packed: packed.__setitem__(3, packed[3][:2] * 2 + packed[3][4:]),
        lambda packed: packed.__setitem__(3, "text"),
    ],
)
def test_a_packed_ring_that_none_can_have_made_is_refused(change: Any) -> None:
    with pytest.raises(UnknownFormatError):
        unpack_ring(broken(change))


@pytest.mark.parametrize("raw", [None, 1, [], {}, b"", [1, 2, 3, 4]])
def test_what_is_no_ring_is_refused(raw: Any) -> None:
    with pytest.raises(UnknownFormatError):
        unpack_ring(raw)


@pytest.mark.parametrize("capacity", [0, -1, 2**63])
def test_a_capacity_that_says_nothing_is_refused(capacity: int) -> None:
    with pytest.raises(InvalidError, match="capacity"):
        member(1, capacity)


def test_a_node_that_is_listed_twice_is_refused() -> None:
    with pytest.raises(InvalidError, match="twice"):
        plan_ring([member(1), member(1, 5)])


def test_more_members_than_a_ring_takes_are_refused() -> None:
    with pytest.raises(InvalidError, match="4097 members"):
        plan_ring([member(number) for number in range(4_097)])


@pytest.mark.parametrize("bits", [2, BITS_MAX + 1])
def test_partitions_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(InvalidError, match="out of range"):
        plan_ring([member(1)], bits)


def test_a_home_never_changes_its_number_of_partitions() -> None:
    assert {bits_for(count) for count in range(SMALL_MESH + 1)} == {BITS_SMALL}
    assert bits_for(SMALL_MESH + 1) == bits_for(4_096) == BITS_MAX
