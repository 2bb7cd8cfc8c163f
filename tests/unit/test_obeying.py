"""What a holder does with an order to collect: ages by its own clock, doubts that keep everything, hostile bytes."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.store_kit import Wall, run_inline

from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import ConflictError, InvalidError, UnknownFormatError
from meshhold.model.ids import ChunkId, VaultId
from meshhold.replication.collecting.clock_watch import ClockWatch
from meshhold.replication.collecting.marks import BYTES_MAX, Marks, Order, unpack_order
from meshhold.replication.collecting.obeying import ORDERS_MAX, Obeying

VAULT = VaultId("v" * 32)
GRACE_S = 1000.0
HEAD_SIZE = 1 + 3 * 8 + 8 + 4 + 8


class Holder:
    """One holder with a clock that the test turns."""

    def __init__(self) -> None:
        self.wall = Wall()
        self.steady_s = 50.0
        self.oldest_s = float("inf")
        self.known = 3
        watch = ClockWatch(self.wall.now_s, lambda: self.steady_s)
        self.store = MemoryChunkStore(now=watch.now)
        self.obeying = Obeying(
            self.store,
            run_inline,
            watch=watch,
            now_s=self.wall.now_s,
            oldest_start_s=lambda: self.oldest_s,
            epoch_known=lambda _: self.known,
        )

    def put(self, text: bytes, age_s: float = 0.0) -> ChunkId:
        """Keep a chunk of this age."""
        chunk = ChunkId(hash_bytes(text))
        self.store.put(VAULT, chunk, text, self.wall.now_s() - age_s)
        return chunk

    def pass_s(self, seconds: float) -> None:
        """Let time pass, which both clocks see."""
        self.wall.pass_s(seconds)
        self.steady_s += seconds

    async def obey(self, *live: ChunkId, ago_s: float = 0.0, skew_s: float = 0.0, epoch: int = 3) -> int:
        """Carry out an order; return how many chunks went."""
        marks = Marks(len(live), 7)
        for chunk in live:
            marks.add(chunk)
        order = Order(marks, GRACE_S, ago_s, self.wall.now_s() + skew_s, epoch)
        return (await self.obeying.obey(VAULT, order.pack())).removed


@pytest.fixture
def holder() -> Holder:
    return Holder()


async def test_what_is_marked_or_young_stays(holder: Holder) -> None:
    live, young = holder.put(b"live", 9999), holder.put(b"young", GRACE_S - 1)
    old = holder.put(b"old", GRACE_S + 1)
    assert await holder.obey(live) == 1
    assert [holder.store.has(VAULT, chunk) for chunk in (live, young, old)] == [True, True, False]


async def test_ages_count_from_when_the_walk_began(holder: Holder) -> None:
    holder.put(b"put while the index was walked", GRACE_S + 50)
    assert await holder.obey(ago_s=60) == 0
    assert await holder.obey(ago_s=40) == 1


async def test_a_write_in_flight_here_keeps_what_it_put(holder: Holder) -> None:
    holder.put(b"first piece", 5 * GRACE_S)
    holder.oldest_s = holder.wall.now_s() - 6 * GRACE_S
    assert await holder.obey() == 0
    holder.oldest_s = float("inf")
    assert await holder.obey() == 1


async def test_a_copy_that_travelled_keeps_its_age(holder: Holder) -> None:
    """Else what is dead would be made young by each move from one machine to another, and live for ever."""
    other = Holder()
    chunk = holder.put(b"dead", GRACE_S - 10)
    stat = holder.store.stat(VAULT, chunk)
    assert stat is not None
    other.store.put(VAULT, chunk, b"dead", other.wall.now_s() - (holder.wall.now_s() - stat.touched_s))
    other.pass_s(11)
    assert await other.obey() == 1


async def test_an_age_from_a_time_without_clock_is_made_new(holder: Holder) -> None:
    chunk = ChunkId(hash_bytes(b"1970"))
    holder.store.put(VAULT, chunk, b"1970", 3600.0)
    assert await holder.obey() == 0
    holder.pass_s(GRACE_S + 1)
    assert await holder.obey() == 1


@pytest.mark.parametrize("jump_s", [-86_400, -601, 601, 10**8])
async def test_after_the_clock_was_set_nothing_goes_for_a_grace(holder: Holder, jump_s: float) -> None:
    holder.put(b"dead", 10 * GRACE_S)
    holder.put(b"just put")
    holder.wall.pass_s(jump_s)
    with pytest.raises(ConflictError, match="clock was set"):
        await holder.obey()
    holder.pass_s(GRACE_S - 1)
    with pytest.raises(ConflictError, match="clock was set"):
        await holder.obey()
    holder.pass_s(2)
    holder.put(b"dead too", 10 * GRACE_S)
    assert await holder.obey() >= 1


async def test_a_clock_that_was_wrong_only_while_a_chunk_came_is_noticed(holder: Holder) -> None:
    holder.wall.pass_s(-86_400)
    chunk = ChunkId(hash_bytes(b"in flight"))
    holder.store.put(VAULT, chunk, b"in flight")
    holder.wall.pass_s(86_400)
    with pytest.raises(ConflictError):
        await holder.obey()
    assert holder.store.has(VAULT, chunk)


async def test_small_corrections_of_the_clock_are_no_jump(holder: Holder) -> None:
    holder.put(b"dead", 10 * GRACE_S)
    holder.wall.pass_s(500)
    assert await holder.obey() == 1


async def test_a_sender_with_another_time_is_not_obeyed(holder: Holder) -> None:
    holder.put(b"dead", 10 * GRACE_S)
    with pytest.raises(ConflictError, match="clocks differ by 700 s"):
        await holder.obey(skew_s=700)
    assert await holder.obey(skew_s=-500) == 1


async def test_a_sender_that_walked_a_replaced_index_is_not_obeyed(holder: Holder) -> None:
    holder.put(b"dead", 10 * GRACE_S)
    with pytest.raises(ConflictError, match="others keep the index"):
        await holder.obey(epoch=2)
    assert await holder.obey(epoch=4) == 1


async def test_orders_wait_in_a_short_line(holder: Holder) -> None:
    refused: list[ConflictError] = []

    async def obey() -> None:
        try:
            await holder.obey()
        except ConflictError as error:
            refused.append(error)

    holder.put(b"dead", 10 * GRACE_S)
    async with trio.open_nursery() as nursery:
        for _ in range(ORDERS_MAX + 2):
            nursery.start_soon(obey)
    assert len(refused) == 2
    assert await holder.obey() == 0


# -- the form that travels ---------------------------------------------------------------------------------------------


def make_order(count: int = 3000) -> tuple[Order, list[ChunkId]]:
    """Return an order that marks so many chunks."""
    chance = random.Random(5)
    chunks = [ChunkId(chance.randbytes(32)) for _ in range(count)]
    marks = Marks(count, 99)
    for chunk in chunks:
        marks.add(chunk)
    return Order(marks, 86400.0, 12.5, 1.7e9, 4), chunks


def test_an_order_arrives_as_it_was_sent() -> None:
    order, chunks = make_order()
    back = unpack_order(order.pack())
    assert all(chunk in back.marks for chunk in chunks)
    times = back.grace_s, back.walk_ago_s, back.sent_s, back.epoch
    assert times == (order.grace_s, order.walk_ago_s, order.sent_s, order.epoch)
    assert len(order.pack()) == HEAD_SIZE + 3000 * 2 + 1
    assert back.pack() == order.pack()


def test_marks_never_exceed_their_bound() -> None:
    marks = Marks(10**9, 3)
    assert len(marks.pack()) <= BYTES_MAX
    assert marks.salt == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"grace_s": -1.0},
        {"grace_s": float("nan")},
        {"grace_s": float("inf")},
        {"walk_ago_s": -0.5},
        {"walk_ago_s": 1e12},
        {"sent_s": -1.0},
        {"epoch": -1},
        {"epoch": 2**60},
    ],
)
def test_times_out_of_bounds_are_neither_sent_nor_taken(fields: dict[str, float]) -> None:
    order, _ = make_order(1)
    bad = replace(order, **fields)  # type: ignore[arg-type]  # whatever the case names
    with pytest.raises(InvalidError):
        bad.pack()
    if fields.get("epoch", 0) >= 0:
        with pytest.raises(UnknownFormatError):
            unpack_order(_packed(bad))


def _packed(order: Order) -> bytes:
    """Pack without looking."""
    head = (1, order.grace_s, order.walk_ago_s, order.sent_s, order.epoch, order.marks.salt, order.marks.size)
    return struct.pack(">BdddQIQ", *head) + order.marks.pack()


@given(st.binary(max_size=200), st.integers(0, HEAD_SIZE))
def test_hostile_bytes_are_refused_by_name(junk: bytes, cut: int) -> None:
    whole = make_order(1)[0].pack()
    for raw in (junk, whole[:cut] + junk, whole + b"\0", whole[:-1], b"\x01" + junk):
        try:
            unpack_order(raw)
        except UnknownFormatError:
            continue
        assert len(raw) == len(whole)


@pytest.mark.parametrize("salt", [0, 2])
def test_an_even_salt_is_refused(salt: int) -> None:
    whole = bytearray(make_order(1)[0].pack())
    whole[33:37] = salt.to_bytes(4, "big")
    with pytest.raises(UnknownFormatError, match="another size"):
        unpack_order(bytes(whole))
