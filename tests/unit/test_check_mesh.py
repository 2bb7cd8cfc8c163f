"""A check and a scrub of a vault that several machines hold: what each lacks, says or hides is in the report."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from tests.unit.store_kit import GRACE_S, KIB, MIB, StoreKit, open_kit, run_inline

from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.crypto.hashing import hash_bytes
from meshhold.errors import (
    CallTimeoutError,
    ContentElsewhereError,
    DeniedError,
    PeerUnreachableError,
    ProtocolError,
    StorageFailedError,
)
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.peering.dispatch import Dispatch
from meshhold.placement.planner import plan_ring
from meshhold.placement.ring import RingMember
from meshhold.replication.chunks.holders import View
from meshhold.replication.chunks.survey import COUNTED_FOR_S, OwnWitness
from meshhold.replication.chunks.survey_wire import (
    IDS_MAX,
    READ_MAX,
    STOCK,
    SURVEY,
    RemoteWitness,
    State,
    Stock,
    SurveyService,
)
from meshhold.store import checking
from meshhold.store.care import Care, ScrubReport
from meshhold.store.checking import CheckReport
from meshhold.store.directory import Bucket

LARGE = bytes(range(256)) * 800
VAULT = VaultId("v" * 32)
PHONE = NodeId("p" * 52)


class Machines:
    """Other members of the vault behind a link each, with stores in memory; `asleep` ones have no link."""

    def __init__(self, kit: StoreKit, names: Sequence[str], factor: int) -> None:
        self.kit = kit
        self.me = kit.directory.identity.node_id
        self.nodes = [NodeId(name * 52) for name in names]
        self.stores: dict[NodeId, Any] = {node: MemoryChunkStore(now=kit.wall.now_s) for node in self.nodes}
        self.stores[self.me] = kit.chunks
        self.asleep: set[NodeId] = set()
        self.failing: dict[NodeId, Exception] = {}
        self.calls = 0
        self.repairs: list[VaultId] = []
        self.extra: tuple[NodeId, ...] = ()
        self.factor = factor

    def view(self, _vault: VaultId) -> View:
        ring = plan_ring([RingMember(node, 100, node) for node in (self.me, *self.nodes)], 4)
        return View(ring, self.factor, frozenset(), self.extra, "1")

    def is_live(self, node: NodeId) -> bool:
        return node not in self.asleep

    def witness_of(self, node: NodeId) -> RemoteWitness:
        return RemoteWitness(self, node)

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        """Serve a call as the peer's own service would."""
        assert timeout_s > 0
        self.calls += 1
        if peer in self.failing:
            raise self.failing[peer]
        dispatch = Dispatch()
        SurveyService(OwnWitness(self.stores[peer], run_inline), lambda _vault, _node: True).register(dispatch)
        return await dispatch.calls[name](self.me, body)

    async def fetch(self, vault: VaultId, chunk: ChunkId, size_hint: int) -> bytes | None:
        assert size_hint > KIB
        found = [s for n, s in self.stores.items() if n != self.me and self.is_live(n) and s.has(vault, chunk)]
        return found[0].get(vault, chunk) if found else None

    def repair_soon(self, vault: VaultId) -> None:
        self.repairs.append(vault)

    def place(self, vault: VaultId) -> None:
        """Put every chunk of this node where it belongs."""
        view = self.view(vault)
        for stat in list(self.kit.chunks.scan(vault)):
            sealed = self.kit.chunks.get(vault, stat.chunk)
            for node in view.holders(stat.chunk):
                self.stores[node].put(vault, stat.chunk, sealed)
            if self.me not in view.holders(stat.chunk):
                drop(self.kit.chunks, vault, stat.chunk)


def drop(store: Any, vault: VaultId, chunk: ChunkId) -> None:
    assert store.remove_if_unused_since(vault, chunk, float("inf"))


def spoil(store: Any, vault: VaultId, chunk: ChunkId) -> None:
    sealed, *rest = store._vaults[vault][chunk]
    store._vaults[vault][chunk] = (bytes([sealed[0] ^ 1]) + sealed[1:], *rest)


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as opened:
        yield opened


@pytest.fixture
async def bucket(kit: StoreKit) -> Bucket:
    return await kit.bucket()


def machines_of(kit: StoreKit, names: Sequence[str] = "bc", factor: int = 2) -> Machines:
    """Return a mesh around the kit, whose care knows of it from now on."""
    machines = Machines(kit, names, factor)
    kit.care = Care(
        kit.directory,
        kit.vaults,
        kit.registers,
        kit.chunks,
        kit.reader,
        kit.collector,
        run_inline,
        tombstones=kit.keeping.tombstones,
        grace_s=GRACE_S,
        new_salt=lambda: b"salt" * 6,
        fellows=machines,
        name_of=lambda node: "me" if node == machines.me else node[0],
    )
    return machines


async def ignore(_: dict[str, Any]) -> None:
    """Nobody watches."""


async def check(kit: StoreKit, *, deep: bool = False) -> CheckReport:
    [report] = await kit.care.check("photos", ignore, deep=deep)
    return report


async def put_one(kit: StoreKit, bucket: Bucket, key: bytes, content: bytes = LARGE) -> ChunkId:
    """Put an object of one chunk, and return the chunk."""
    before = {stat.chunk for stat in kit.chunks.scan(bucket.id)}
    await kit.put(bucket, key, content)
    chunk: ChunkId
    [chunk] = {stat.chunk for stat in kit.chunks.scan(bucket.id)} - before
    return chunk


# -- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
async def test_all_copies_where_they_belong(kit: StoreKit, bucket: Bucket, deep: bool) -> None:
    machines = machines_of(kit)
    for number in range(9):
        await put_one(kit, bucket, b"%d" % number, LARGE + bytes([number]))
    await kit.put(bucket, b"small", b"x")
    await kit.upload(bucket, b"unfinished", LARGE)
    machines.place(bucket.id)
    report = await check(kit, deep=deep)
    assert (report.objects, report.chunks, report.copies, report.uploads) == (10, 10, 20, 1)
    assert (report.members, report.wanted, report.factor) == (3, 2, 3)
    assert (report.damaged, report.totals, report.silent) == (0, {}, {})
    assert machines.repairs == []


async def test_a_chunk_that_nobody_has_is_lost(kit: StoreKit, bucket: Bucket) -> None:
    """All members answer, so that it is certain; another machine's doing is no excuse."""
    machines = machines_of(kit)
    chunk = await put_one(kit, bucket, b"k")
    await put_one(kit, bucket, b"whole", LARGE + b"!")
    machines.place(bucket.id)
    for store in machines.stores.values():
        drop(store, bucket.id, chunk)
    report = await check(kit)
    assert (report.damaged, report.missing, report.totals) == (1, ["photos/k"], {"missing": 1})


async def test_a_chunk_that_nobody_has_who_answers_is_not_called_lost(kit: StoreKit, bucket: Bucket) -> None:
    machines = machines_of(kit)
    chunk = await put_one(kit, bucket, b"k")
    machines.place(bucket.id)
    asleep = next(node for node in machines.view(bucket.id).holders(chunk) if node != machines.me)
    for node, store in machines.stores.items():
        if node != asleep:
            drop(store, bucket.id, chunk)
    machines.asleep = {asleep}
    report = await check(kit)
    assert (report.damaged, report.unreachable, report.totals) == (0, ["photos/k"], {"unreachable": 1})
    assert report.silent == {asleep[0]: "it is not connected"}


async def test_fewer_copies_than_wanted_go_to_repair(kit: StoreKit, bucket: Bucket) -> None:
    machines = machines_of(kit)
    chunk = await put_one(kit, bucket, b"k")
    machines.place(bucket.id)
    drop(machines.stores[machines.view(bucket.id).holders(chunk)[0]], bucket.id, chunk)
    report = await check(kit)
    assert (report.damaged, report.under_replicated, report.copies) == (0, ["photos/k"], 1)
    assert machines.repairs == [bucket.id]


async def test_a_phones_copy_does_not_count(kit: StoreKit, bucket: Bucket) -> None:
    """It may be read from, but is gone when somebody needs it."""
    machines = machines_of(kit)
    chunk = await put_one(kit, bucket, b"k")
    machines.place(bucket.id)
    machines.extra = (PHONE,)
    machines.stores[PHONE] = MemoryChunkStore(now=kit.wall.now_s)
    holder = machines.view(bucket.id).holders(chunk)[0]
    machines.stores[PHONE].put(bucket.id, chunk, machines.stores[holder].get(bucket.id, chunk))
    assert (await check(kit)).totals == {}
    drop(machines.stores[holder], bucket.id, chunk)
    assert (await check(kit)).totals == {"under_replicated": 1}
    for store in [machines.stores[node] for node in (machines.me, *machines.nodes)]:
        drop(store, bucket.id, chunk)
    report = await check(kit)
    assert (report.damaged, report.totals, report.members) == (0, {"under_replicated": 1}, 4)


async def test_enough_copies_in_other_places(kit: StoreKit, bucket: Bucket) -> None:
    machines = machines_of(kit)
    chunk = await put_one(kit, bucket, b"k")
    machines.place(bucket.id)
    first, *_ = holders = machines.view(bucket.id).holders(chunk)
    other = next(node for node in machines.stores if node not in holders)
    machines.stores[other].put(bucket.id, chunk, machines.stores[first].get(bucket.id, chunk))
    assert (await check(kit)).totals == {}, "one copy too many is no trouble"
    drop(machines.stores[first], bucket.id, chunk)
    report = await check(kit)
    assert (report.misplaced, report.totals, report.copies) == (["photos/k"], {"misplaced": 1}, 2)
    assert machines.repairs == [bucket.id]


async def test_a_deep_check_reads_every_copy(kit: StoreKit, bucket: Bucket) -> None:
    machines = machines_of(kit)
    chunk = await put_one(kit, bucket, b"k")
    machines.place(bucket.id)
    one, two = machines.view(bucket.id).holders(chunk)
    spoil(machines.stores[one], bucket.id, chunk)
    assert (await check(kit)).totals == {}
    report = await check(kit, deep=True)
    assert (report.damaged, report.damaged_copies, report.under_replicated) == (0, 1, ["photos/k"])
    assert machines.repairs == [bucket.id]
    spoil(machines.stores[two], bucket.id, chunk)
    report = await check(kit, deep=True)
    assert (report.damaged, report.corrupt, report.totals) == (1, ["photos/k"], {"corrupt": 1})


async def test_a_manifest_out_of_reach(kit: StoreKit, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = machines_of(kit)
    await kit.put(bucket, b"huge", b"".join(bytes([number]) * MIB for number in range(18)))
    [manifest] = [stat.chunk for stat in kit.chunks.scan(bucket.id) if stat.size < 3 * KIB]
    machines.place(bucket.id)
    node = kit.reader.node

    async def out_of_reach(keys: Any, ref: Any) -> Any:
        if ref.chunk == manifest:
            raise ContentElsewhereError("it is on b, which does not answer", "start b")
        return await node(keys, ref)

    monkeypatch.setattr(kit.reader, "node", out_of_reach)
    report = await check(kit)
    assert (report.damaged, report.unreachable) == (0, ["photos/huge"])


async def test_one_object_counts_once_by_its_worst_chunk(kit: StoreKit, bucket: Bucket) -> None:
    machines = machines_of(kit)
    await kit.put(bucket, b"huge", b"".join(bytes([number]) * MIB for number in range(3)))
    machines.place(bucket.id)
    chunks = sorted({stat.chunk for store in machines.stores.values() for stat in store.scan(bucket.id)})
    view = machines.view(bucket.id)
    data = [chunk for chunk in chunks if machines.stores[view.holders(chunk)[0]].stat(bucket.id, chunk).size > MIB]
    drop(machines.stores[view.holders(data[0])[0]], bucket.id, data[0])
    for node in view.holders(data[1]):
        drop(machines.stores[node], bucket.id, data[1])
    report = await check(kit)
    assert (report.damaged, report.totals) == (1, {"missing": 1})


# -- those who are asked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [CallTimeoutError("too slow"), PeerUnreachableError("gone"), ProtocolError("nonsense")]
)
async def test_who_fails_twice_is_asked_no_more(
    kit: StoreKit, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(checking, "BATCH", 2)
    machines = machines_of(kit, "b", 2)
    for number in range(6):
        await put_one(kit, bucket, b"%d" % number, LARGE + bytes([number]))
    machines.place(bucket.id)
    machines.failing[machines.nodes[0]] = error
    report = await check(kit)
    assert machines.calls == 2
    assert report.silent == {"b": str(error)}
    assert report.totals == {"under_replicated": 6}


async def test_batches_are_bounded_and_objects_span_them(
    kit: StoreKit, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "BATCH", 4)
    machines = machines_of(kit, "b", 2)
    await kit.put(bucket, b"huge", b"".join(bytes([number]) * MIB for number in range(10)))
    await kit.put(bucket, b"twin", b"".join(bytes([number]) * MIB for number in range(10)))
    await put_one(kit, bucket, b"z", LARGE)
    machines.place(bucket.id)
    report = await check(kit)
    assert report.chunks == 21
    assert report.copies == 42
    assert machines.calls == 6
    for stat in list(kit.chunks.scan(bucket.id)):
        drop(machines.stores[machines.nodes[0]], bucket.id, stat.chunk)
    assert (await check(kit)).totals == {"under_replicated": 3}, "each object once"


async def test_lists_are_bounded_and_counts_are_not(
    kit: StoreKit, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "NAMED_MAX", 3)
    machines = machines_of(kit, "b", 2)
    for number in range(5):
        await put_one(kit, bucket, b"%d" % number, LARGE + bytes([number]))
    report = await check(kit)
    assert (len(report.under_replicated), report.totals) == (3, {"under_replicated": 5})
    assert machines.calls == 1


async def test_alone_in_a_vault_nobody_else_is_asked(kit: StoreKit, bucket: Bucket) -> None:
    machines = machines_of(kit, "", 3)
    chunk = await put_one(kit, bucket, b"k")
    assert (await check(kit)).totals == {}
    drop(kit.chunks, bucket.id, chunk)
    report = await check(kit)
    assert (report.damaged, report.totals, machines.calls) == (1, {"missing": 1}, 0)


async def test_a_disk_that_fails_is_an_error_on_a_node_alone(
    kit: StoreKit, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_one(kit, bucket, b"k")

    def fail(*_: object) -> bool:
        raise StorageFailedError("the disk does not answer", "look at its cable")

    monkeypatch.setattr(kit.chunks, "has", fail)
    with pytest.raises(StorageFailedError):
        await check(kit)
    machines_of(kit)
    assert (await check(kit)).silent == {"me": "the disk does not answer"}


# -- the wire -------------------------------------------------------------------------------------------------------


def sealed(number: int) -> tuple[ChunkId, bytes]:
    content = number.to_bytes(4, "big") * 10
    return ChunkId(hash_bytes(content)), content


def served(store: MemoryChunkStore, *, may: bool = True, damaged: list[VaultId] | None = None) -> Dispatch:
    dispatch = Dispatch()
    heard: list[VaultId] = [] if damaged is None else damaged
    own = OwnWitness(store, run_inline, lambda _vault: True, on_damage=heard.append)
    SurveyService(own, lambda _vault, _node: may).register(dispatch)
    return dispatch


class Wire:
    """Carries calls to a service, and notes their sizes."""

    def __init__(self, dispatch: Dispatch) -> None:
        self.dispatch = dispatch
        self.bodies: list[Any] = []
        self.answer: Any = None

    async def call(self, _peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        assert timeout_s > 1
        self.bodies.append(body)
        return self.answer if self.answer is not None else await self.dispatch.calls[name](PHONE, body)


async def test_long_lists_are_asked_in_bounded_questions() -> None:
    store = MemoryChunkStore()
    chunks = [sealed(number)[0] for number in range(IDS_MAX + 1)]
    store.put(VAULT, *sealed(7))
    wire = Wire(served(store))
    for deep, questions in ((False, 2), (True, -(-len(chunks) // READ_MAX))):
        wire.bodies.clear()
        states = await RemoteWitness(wire, PHONE).survey(VAULT, chunks, deep=deep)
        assert [at for at, state in enumerate(states) if state is State.HERE] == [7]
        assert (len(states), len(wire.bodies)) == (len(chunks), questions)


async def test_reading_tells_damage_once() -> None:
    store, damaged = MemoryChunkStore(), list[VaultId]()
    for number in range(3):
        store.put(VAULT, *sealed(number))
    spoil(store, VAULT, sealed(1)[0])
    witness = RemoteWitness(Wire(served(store, damaged=damaged)), PHONE)
    chunks = [sealed(number)[0] for number in range(4)]
    first = await witness.survey(VAULT, chunks, deep=True)
    assert first == [State.HERE, State.DAMAGED, State.HERE, State.ABSENT]
    assert damaged == [VAULT]
    assert (await witness.survey(VAULT, chunks, deep=True))[1] is State.ABSENT
    assert damaged == [VAULT]


async def test_counts_travel_and_are_kept_for_a_moment() -> None:
    store, now_s = MemoryChunkStore(), [100.0]
    own = OwnWitness(store, run_inline, lambda _vault: True, now_s=lambda: now_s[0])
    dispatch = Dispatch()
    SurveyService(own, lambda _vault, _node: True).register(dispatch)
    witness = RemoteWitness(Wire(dispatch), PHONE)
    free = store.usage().free
    assert await witness.stock(VAULT) == Stock(0, 0, free, keeps_index=True)
    store.put(VAULT, *sealed(1))
    assert (await witness.stock(VAULT)).chunks == 1, "nothing is not remembered"
    store.put(VAULT, *sealed(2))
    assert (await witness.stock(VAULT)).chunks == 1
    now_s[0] += COUNTED_FOR_S
    assert (await witness.stock(VAULT)) == Stock(2, 80, store.usage().free, keeps_index=True)


@pytest.mark.parametrize(
    "body",
    [
        None,
        {},
        {"v": VAULT},
        {"v": VAULT, "c": b"", "d": False},
        {"v": VAULT, "c": b"x" * 33, "d": False},
        {"v": VAULT, "c": b"x" * 32, "d": 1},
        {"v": VAULT, "c": "x" * 32, "d": True},
        {"v": VAULT, "c": b"x" * 32 * (IDS_MAX + 1), "d": False},
        {"v": VAULT, "c": b"x" * 32 * (READ_MAX + 1), "d": True},
        {"v": 7, "c": b"x" * 32, "d": False},
    ],
)
async def test_questions_that_are_none_are_refused(body: Any) -> None:
    with pytest.raises(ProtocolError):
        await served(MemoryChunkStore()).calls[SURVEY](PHONE, body)


async def test_only_members_are_answered() -> None:
    dispatch = served(MemoryChunkStore(), may=False)
    for name, body in ((SURVEY, {"v": VAULT, "c": b"x" * 32, "d": False}), (STOCK, {"v": VAULT})):
        with pytest.raises(DeniedError, match="not members of the same vault"):
            await dispatch.calls[name](PHONE, body)


@pytest.mark.parametrize("answer", ["x", b"", b"\x00\x00", b"\x03", 7])
async def test_answers_of_another_form_about_chunks(answer: Any) -> None:
    wire = Wire(Dispatch())
    wire.answer = answer
    with pytest.raises(ProtocolError):
        await RemoteWitness(wire, PHONE).survey(VAULT, [sealed(1)[0]], deep=False)


GOOD_COUNTS = {"c": 1, "b": 2, "f": 3, "k": False, "t": False}


@pytest.mark.parametrize(
    "answer",
    [
        b"x",
        {},
        GOOD_COUNTS | {"c": -1},
        GOOD_COUNTS | {"b": True},
        GOOD_COUNTS | {"f": 2**62},
        GOOD_COUNTS | {"k": 1},
        GOOD_COUNTS | {"t": 1},
    ],
)
async def test_answers_of_another_form_about_counts(answer: Any) -> None:
    wire = Wire(Dispatch())
    wire.answer = answer
    with pytest.raises(ProtocolError):
        await RemoteWitness(wire, PHONE).stock(VAULT)
    wire.answer = GOOD_COUNTS
    assert await RemoteWitness(wire, PHONE).stock(VAULT) == Stock(1, 2, 3, may_take=False)


# -- scrub ----------------------------------------------------------------------------------------------------------


async def scrub(kit: StoreKit) -> ScrubReport:
    return await kit.care.scrub("photos", ignore)


async def test_scrub_fetches_a_damaged_chunk_anew(kit: StoreKit, bucket: Bucket) -> None:
    """The copy keeps its age: a chunk that nothing refers to does not become young by being mended."""
    machines = machines_of(kit, "b", 2)
    chunk = await put_one(kit, bucket, b"k")
    machines.place(bucket.id)
    [before] = kit.chunks.scan(bucket.id)
    kit.wall.pass_s(3600)
    spoil(kit.chunks, bucket.id, chunk)
    report = await scrub(kit)
    assert (report.corrupt, report.repaired, machines.repairs) == ([chunk.hex()], 1, [])
    assert list(kit.chunks.scan(bucket.id)) == [before]
    assert await kit.get(bucket, b"k") == LARGE


async def test_what_nobody_else_has_is_left_to_repair(kit: StoreKit, bucket: Bucket) -> None:
    machines = machines_of(kit, "b", 2)
    chunk = await put_one(kit, bucket, b"k")
    spoil(kit.chunks, bucket.id, chunk)
    report = await scrub(kit)
    assert (report.corrupt, report.repaired, machines.repairs) == ([chunk.hex()], 0, [bucket.id])
    assert (await check(kit)).missing == ["photos/k"]


async def test_scrub_takes_no_keys(kit: StoreKit, bucket: Bucket) -> None:
    """What an untrusted member keeps of a vault that it cannot open is read and mended as all else."""
    machines = machines_of(kit, "b", 2)
    kit.care._kept = lambda: [bucket.id, VAULT]
    content = LARGE + b"of another vault"
    chunk = ChunkId(hash_bytes(content))
    for store in machines.stores.values():
        store.put(VAULT, chunk, content)
    spoil(kit.chunks, VAULT, chunk)
    report = await kit.care.scrub(None, ignore)
    assert (report.chunks, report.corrupt, report.repaired) == (1, [chunk.hex()], 1)
    assert kit.chunks.get(VAULT, chunk) == content
