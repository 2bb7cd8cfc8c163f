"""Secrets that leave and come back, and indexes founded anew when those that kept them are gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.store_kit import SEED, StoreKit, Wall, open_kit, run_inline

from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ConflictError, InvalidError, NoMajorityError, NotFoundError, UnavailableError
from meshhold.model.configuration import Configuration, Seat
from meshhold.model.entry import Space
from meshhold.model.ids import NodeId
from meshhold.registry.record import Kind, encode_record
from meshhold.replication.collecting.snapshots import Snapshots
from meshhold.store.directory import Bucket
from meshhold.store.recovery import EPOCHS_AHEAD, IndexNews, Recovery
from meshhold.store.renewal import Renewal
from meshhold.store.roll_call import ReplicaView
from meshhold.store.secrets import Secrets, decode_secrets, encode_secrets

LARGE = bytes(range(256)) * 800
AWAY = NodeId("z" * 52)
OTHER = NodeId("y" * 52)


async def ignore(_: dict[str, Any]) -> None:
    """Nobody watches."""


class Roll:
    """Replicas that are asked one by one; `states` of those that are not silent."""

    def __init__(self) -> None:
        self.states: dict[NodeId, str] = {}

    async def views(self, _vault: Any, configuration: Configuration) -> dict[NodeId, ReplicaView]:
        states = {node: self.states.get(node, "silent") for node in configuration.nodes}
        return {node: ReplicaView(node, node[:1], "", True, state) for node, state in states.items()}


@dataclass
class Rig:
    """A kit with snapshots and recovery."""

    kit: StoreKit
    snapshots: Snapshots
    recovery: Recovery
    news: IndexNews
    secrets: Secrets
    roll: Roll

    async def lose_majority(self, bucket: Bucket, *, seat: bool) -> None:
        """Let the index be kept by nodes that never answer; with `seat` this one is a minority of them."""
        known = self.kit.seats.configuration(bucket.id)
        mine = known.seats if seat else ()
        configuration = Configuration(known.epoch + 2, (*mine, Seat(AWAY, 3), Seat(OTHER, 3)))
        await self.kit.seats.adopt(bucket.id, configuration)


class Deaf:
    """Replicas that do not answer."""

    def __init__(self, kit: StoreKit) -> None:
        self._kit = kit

    async def current(self, vault: Any) -> Configuration:
        configuration = self._kit.seats.configuration(vault)
        if len(configuration.members) > 1 or not self._kit.seats.votes(vault):
            raise NoMajorityError("nobody answers")
        return configuration


def make_rig(kit: StoreKit) -> Rig:
    renewal = Renewal(kit.chunks, kit.reader, run_inline)
    snapshots = Snapshots(kit.directory, kit.registers, kit.index, kit.writer, kit.reader, renewal, kit.wall.now_ms)
    roll = Roll()
    recovery = Recovery(
        kit.directory,
        kit.vaults,
        kit.registers,
        kit.replica,
        Deaf(kit),
        roll,
        snapshots,
        stamp_node=kit.directory.identity.stamp_node,
    )
    news = IndexNews(kit.keeper, kit.seats)
    return Rig(kit, snapshots, recovery, news, Secrets(kit.directory, kit.vaults), roll)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with open_kit() as kit:
        yield make_rig(kit)


@pytest.fixture
async def bucket(rig: Rig) -> Bucket:
    return await rig.kit.bucket()


async def keys_of(rig: Rig, bucket: Bucket) -> list[bytes]:
    reading = rig.kit.registers.open_reading(bucket.id)
    rows = await reading.rows(b"", b"", 5000)
    assert await reading.settle()
    return [row.key for row in rows]


# -- recovery ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seat", [False, True])
async def test_what_the_snapshot_holds_comes_back(rig: Rig, bucket: Bucket, seat: bool) -> None:
    names = [b"%04d" % number for number in range(700)]
    for name in names:
        await rig.kit.put(bucket, name, name)
    await rig.kit.put(bucket, b"large", LARGE)
    upload_id, claims = await rig.kit.upload(bucket, b"later", LARGE + b"!")
    assert (await rig.kit.vaults.view("photos")).snapshot_ms is None
    snapshot = await rig.snapshots.take(bucket.keys)
    assert snapshot is not None
    assert (await rig.kit.vaults.view("photos")).snapshot_ms == snapshot.taken_ms
    rig.kit.wall.pass_s(1800)
    await rig.kit.put(bucket, b"0005", b"newer than the snapshot")
    await rig.lose_majority(bucket, seat=seat)
    plan = await rig.recovery.plan("photos")
    assert (plan.objects, plan.keeps_rows) == (701, seat)
    view = await rig.recovery.recover("photos", ignore)
    assert view.rows == 701 + 2
    assert await keys_of(rig, bucket) == [*names, b"large"]
    assert await rig.kit.get(bucket, b"large") == LARGE
    assert await rig.kit.get(bucket, b"0005") == (b"newer than the snapshot" if seat else b"0005")
    await rig.kit.complete(bucket, b"later", upload_id, claims)
    assert await rig.kit.get(bucket, b"later") == LARGE + b"!"
    assert await rig.kit.damaged() == 0
    await rig.kit.put(bucket, b"0001", b"written after")
    assert await rig.kit.get(bucket, b"0001") == b"written after"


async def test_the_mesh_is_told_of_an_epoch_beyond_all_others(rig: Rig, bucket: Bucket) -> None:
    await rig.snapshots.take(bucket.keys)
    await rig.lose_majority(bucket, seat=False)
    before = rig.kit.seats.configuration(bucket.id).epoch
    await rig.recovery.recover("photos", ignore)
    assert rig.news.epoch_known(bucket.id) == before + EPOCHS_AHEAD
    entry = await rig.kit.registers.read(bucket.id, Space.CONFIGURATION, b"")
    assert entry is not None
    assert entry.value == rig.kit.seats.configuration(bucket.id)


async def test_it_refuses_while_a_majority_answers(rig: Rig, bucket: Bucket) -> None:
    await rig.kit.put(bucket, b"k", b"v")
    await rig.snapshots.take(bucket.keys)
    for call in (rig.recovery.plan("photos"), rig.recovery.recover("photos", ignore)):
        with pytest.raises(ConflictError, match="nothing is lost"):
            await call
    assert await rig.kit.get(bucket, b"k") == b"v"


async def test_it_is_to_be_run_where_a_part_of_the_index_is(rig: Rig, bucket: Bucket) -> None:
    await rig.snapshots.take(bucket.keys)
    await rig.lose_majority(bucket, seat=False)
    rig.roll.states[AWAY] = "votes"
    with pytest.raises(ConflictError, match="z has a part"):
        await rig.recovery.recover("photos", ignore)
    rig.roll.states[AWAY] = "refilling"
    assert (await rig.recovery.recover("photos", ignore)).rows == 0


async def test_without_a_snapshot_nothing_changes(rig: Rig, bucket: Bucket) -> None:
    await rig.lose_majority(bucket, seat=True)
    before = rig.kit.seats.configuration(bucket.id)
    with pytest.raises(NotFoundError, match="has a snapshot"):
        await rig.recovery.recover("photos", ignore)
    assert rig.kit.seats.configuration(bucket.id) == before


async def test_unreadable_blocks_are_met_before_anything_changes(rig: Rig, bucket: Bucket) -> None:
    await rig.kit.put(bucket, b"k", b"v")
    snapshot = await rig.snapshots.take(bucket.keys)
    assert snapshot is not None
    rig.kit.chunks.remove_if_unused_since(bucket.id, snapshot.content.refs[0].chunk, float("inf"))
    await rig.lose_majority(bucket, seat=True)
    before = rig.kit.seats.configuration(bucket.id)
    with pytest.raises(Exception, match="chunk"):
        await rig.recovery.recover("photos", ignore)
    assert rig.kit.seats.configuration(bucket.id) == before


@pytest.mark.parametrize("seat", [False, True])
async def test_an_attempt_that_broke_off_is_begun_again(rig: Rig, bucket: Bucket, seat: bool) -> None:
    for number in range(700):
        await rig.kit.put(bucket, b"%04d" % number, b"v")
    await rig.snapshots.take(bucket.keys)
    await rig.lose_majority(bucket, seat=seat)

    async def break_off(_: dict[str, Any]) -> None:
        raise UnavailableError("the power went")

    with pytest.raises(UnavailableError):
        await rig.recovery.recover("photos", break_off)
    assert rig.kit.seats.votes(bucket.id) is seat
    await rig.recovery.recover("photos", ignore)
    assert len(await keys_of(rig, bucket)) == 700
    with pytest.raises(ConflictError):
        await rig.recovery.recover("photos", ignore)


async def test_until_all_rows_are_back_a_new_index_is_silent(rig: Rig, bucket: Bucket) -> None:
    await rig.kit.put(bucket, b"k", b"v")
    await rig.snapshots.take(bucket.keys)
    await rig.lose_majority(bucket, seat=False)
    states: list[bool] = []

    async def look(_: dict[str, Any]) -> None:
        states.append(rig.kit.seats.votes(bucket.id))

    await rig.recovery.recover("photos", look)
    assert states == [False]
    assert rig.kit.seats.votes(bucket.id)


async def test_an_old_replica_that_hears_of_it_drops_its_rows(rig: Rig, bucket: Bucket) -> None:
    """It had a seat in an earlier epoch, whatever it missed in between."""
    await rig.kit.put(bucket, b"old", b"v")
    published = Configuration(5000, (Seat(AWAY, 5000),))
    await rig.news.follow()
    assert await rig.kit.get(bucket, b"old") == b"v"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.news.run)
        await trio.testing.wait_all_tasks_blocked()
        await rig.kit.directory.publish(bucket.id, published)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert rig.kit.seats.configuration(bucket.id) == published
    assert rig.kit.object_count(bucket.id) == 0


async def test_what_is_published_of_an_earlier_epoch_changes_nothing(rig: Rig, bucket: Bucket) -> None:
    await rig.kit.directory.publish(bucket.id, Configuration(2, (Seat(AWAY, 2),)))
    await rig.kit.seats.adopt(bucket.id, Configuration(9, rig.kit.seats.configuration(bucket.id).seats))
    await rig.news.follow()
    assert rig.kit.seats.configuration(bucket.id).epoch == 9


# -- secrets -----------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), st.dictionaries(st.integers(2, 9), st.binary(min_size=32, max_size=32)))
def test_secrets_come_back_as_they_left(secret: bytes, later: dict[int, bytes]) -> None:
    keys = VaultKeys(secret, later)
    word = encode_secrets(keys)
    assert decode_secrets(f" {word[:20]}\n{word[20:]} ").secrets == keys.secrets


@given(st.text(max_size=80))
def test_other_words_are_refused_without_repeating_them(word: str) -> None:
    for each in (word, "mhv1" + word, encode_secrets(VaultKeys(b"k" * 32))[:-3]):
        with pytest.raises(InvalidError) as caught:
            decode_secrets(each)
        assert len(each) < 4 or each not in str(caught.value)


async def test_import_makes_a_trusted_member(rig: Rig, bucket: Bucket) -> None:
    word = rig.secrets.export("photos")
    async with open_kit() as kit:
        newcomer = make_kit_of_another_node(kit)
        for record in rig.kit.keeper.registry.all():
            await newcomer.keeper.receive([encode_record(record)], rig.kit.directory.identity.node_id)
        assert not newcomer.directory.by_id
        view = await Secrets(newcomer.directory, newcomer.vaults).take(word)
        assert (view.id, view.name) == (bucket.id, "photos")
        assert newcomer.directory.by_id[bucket.id].keys.secrets == bucket.keys.secrets
        with pytest.raises(ConflictError, match="already"):
            await Secrets(newcomer.directory, newcomer.vaults).take(word)


def make_kit_of_another_node(kit: StoreKit) -> StoreKit:
    """Return a kit on the same empty index whose identity is another one."""
    from tests.unit import store_kit  # noqa: PLC0415 - its seed is exchanged for a moment

    store_kit.SEED = b"t" * 32
    try:
        return StoreKit(kit.index, kit.chunks, Wall())
    finally:
        store_kit.SEED = SEED


async def test_import_where_nobody_knows_the_vault(rig: Rig, bucket: Bucket) -> None:
    with pytest.raises(NotFoundError, match="join its mesh first"):
        await rig.secrets.take(encode_secrets(VaultKeys(b"other" * 6 + b"!!")))
    with pytest.raises(ConflictError, match="already"):
        await rig.secrets.take(encode_secrets(bucket.keys))


async def test_secrets_from_before_a_rotation_are_told_apart(rig: Rig, bucket: Bucket) -> None:
    word = rig.secrets.export("photos")
    rotated = VaultKeys(bucket.keys.secrets[1], {2: b"2" * 32})
    record = rig.kit.keeper.registry.get(Kind.VAULT, bucket.id)
    member = rig.kit.keeper.registry.get(Kind.MEMBER, f"{bucket.id}/{rig.kit.directory.identity.node_id}")
    assert record is not None
    assert member is not None
    directory = rig.kit.directory
    private = {"name": "photos", "created_ms": 1}
    await directory.write(
        directory.vault_record(rotated, Kind.VAULT, bucket.id, public=record.public, private=private),
        directory.vault_deletion(rotated, Kind.MEMBER, member.key),
    )
    with pytest.raises(InvalidError, match="rotated after"):
        await rig.secrets.take(word)
