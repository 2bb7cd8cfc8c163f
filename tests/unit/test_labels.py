"""Records beside chunks: written as they change, and enough, with the secrets, where nothing else is left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.unit import store_kit
from tests.unit.store_kit import StoreKit, Wall, open_kit, run_inline

from meshhold.chunkstore.labels import LABEL_SIZE_MAX
from meshhold.chunkstore.memory import MemoryChunkStore
from meshhold.chunkstore.memory_labels import MemoryLabels
from meshhold.errors import NotFoundError, StorageFailedError, StorageFullError
from meshhold.index.sqlite import open_index
from meshhold.model.grant import Permission
from meshhold.model.ids import AccessKeyId, VaultId
from meshhold.model.stamp import Stamp
from meshhold.registry.record import Kind, Record, encode_record
from meshhold.store.directory import Bucket
from meshhold.store.labels import Labelling, decode_label, encode_label
from meshhold.store.secrets import Secrets, encode_secrets


@pytest.fixture
async def kit() -> AsyncIterator[StoreKit]:
    async with open_kit() as kit:
        yield kit


@pytest.fixture
async def newcomer() -> AsyncIterator[StoreKit]:
    """Give a node of another identity that knows nothing."""
    async with open_index(None, run_blocking=run_inline) as index:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(store_kit, "SEED", b"t" * 32)
            kit = StoreKit(index, MemoryChunkStore(), Wall())
        yield kit


@pytest.fixture
async def bucket(kit: StoreKit) -> Bucket:
    return await kit.bucket()


def make_labelling(kit: StoreKit, labels: Any) -> Labelling:
    me = kit.directory.identity.node_id
    return Labelling(labels, kit.keeper, run_inline, lambda: list(kit.directory.by_id), me)


async def test_the_word_and_the_label_bring_a_vault_back(kit: StoreKit, newcomer: StoreKit, bucket: Bucket) -> None:
    key = await kit.access.add_key("app")
    await kit.access.grant(key.access_key_id, "photos", Permission.READ)
    labels = MemoryLabels()
    await make_labelling(kit, labels).write()
    secrets = Secrets(newcomer.directory, newcomer.vaults, make_labelling(newcomer, labels))
    view = await secrets.take(encode_secrets(bucket.keys))
    assert (view.id, view.name, view.alias) == (bucket.id, "photos", "photos")
    assert newcomer.directory.secrets[AccessKeyId(key.access_key_id)] == key.secret_access_key
    members = [record.key for record in newcomer.keeper.registry.live(Kind.MEMBER)]
    assert members == [f"{bucket.id}/{newcomer.directory.identity.node_id}"]


async def test_a_new_node_learns_of_all_vaults_on_its_disk(kit: StoreKit, newcomer: StoreKit) -> None:
    await kit.bucket("photos")
    await kit.bucket("music")
    labels = MemoryLabels()
    await make_labelling(kit, labels).write()
    await make_labelling(newcomer, labels).take_unknown()
    assert {record.key for record in newcomer.keeper.registry.live(Kind.VAULT)} == set(kit.directory.by_id)


async def test_a_label_says_what_is_true_now(kit: StoreKit, newcomer: StoreKit, bucket: Bucket) -> None:
    labels = MemoryLabels()
    labelling = make_labelling(kit, labels)
    await labelling.write()
    before = labels.read(bucket.id)
    await kit.vaults.set_alias("photos", "pictures")
    await labelling.write()
    assert labels.read(bucket.id) != before
    await make_labelling(newcomer, labels).take(bucket.id)
    alias = newcomer.keeper.registry.get(Kind.ALIAS, bucket.id)
    assert alias == kit.keeper.registry.get(Kind.ALIAS, bucket.id)


async def test_a_grant_that_was_revoked_stays_revoked(kit: StoreKit, newcomer: StoreKit, bucket: Bucket) -> None:
    key = await kit.access.add_key("app")
    await kit.access.grant(key.access_key_id, "photos", Permission.READ)
    stale, labels = MemoryLabels(), MemoryLabels()
    await make_labelling(kit, stale).write()
    await kit.access.revoke(key.access_key_id, "photos")
    await make_labelling(kit, labels).write()
    await make_labelling(newcomer, labels).take(bucket.id)
    await make_labelling(newcomer, stale).take(bucket.id)  # of a disk that was away longer
    assert newcomer.keeper.registry.live(Kind.GRANT) == []


async def test_what_did_not_change_is_not_written_again(kit: StoreKit, bucket: Bucket) -> None:
    class Counting(MemoryLabels):
        writes = 0

        def write(self, vault: VaultId, label: bytes) -> bool:
            self.writes += 1
            return super().write(vault, label)

    labels = Counting()
    await make_labelling(kit, labels).write()
    again = make_labelling(kit, labels)  # after a restart
    await again.write()
    await again.write()
    assert labels.writes == 1
    await kit.vaults.set_factor(bucket.id, 2)
    await again.write()
    assert labels.writes == 2


async def test_the_first_chunk_brings_the_label(kit: StoreKit, bucket: Bucket) -> None:
    labels = MemoryLabels(lambda vault: kit.stored(kit.directory.by_id[vault]) > 0)
    labelling = make_labelling(kit, labels)
    await labelling.write()
    assert labels.labelled() == []
    await kit.put(bucket, b"large", bytes(range(256)) * 800)
    await labelling.write()
    assert labels.labelled() == [bucket.id]


async def test_news_are_written_by_themselves(
    kit: StoreKit, bucket: Bucket, autojump_clock: trio.testing.MockClock
) -> None:
    """A disk that is full for a moment is tried again."""

    class Filling(MemoryLabels):
        is_full = True

        def write(self, vault: VaultId, label: bytes) -> bool:
            if self.is_full:
                self.is_full = False
                raise StorageFullError("full", "free some space")
            return super().write(vault, label)

    labels = Filling()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(make_labelling(kit, labels).run)
        await trio.sleep(90)
        first = labels.read(bucket.id)
        assert first is not None
        await kit.vaults.set_factor(bucket.id, 2)
        await trio.sleep(5)
        assert labels.read(bucket.id) != first
        nursery.cancel_scope.cancel()
    assert trio.current_time() < 200
    del autojump_clock


async def test_a_deleted_vault_does_not_come_back(kit: StoreKit, newcomer: StoreKit, bucket: Bucket) -> None:
    labels = MemoryLabels()
    await make_labelling(kit, labels).write()
    word = encode_secrets(bucket.keys)
    await kit.vaults.delete("photos")
    deletion = kit.keeper.registry.known(Kind.VAULT, bucket.id)
    assert deletion is not None
    await newcomer.keeper.receive([encode_record(deletion)], kit.directory.identity.node_id)
    with pytest.raises(NotFoundError, match="was deleted"):
        await Secrets(newcomer.directory, newcomer.vaults, make_labelling(newcomer, labels)).take(word)


async def test_without_mesh_and_label_it_says_what_to_do(newcomer: StoreKit, kit: StoreKit, bucket: Bucket) -> None:
    secrets = Secrets(newcomer.directory, newcomer.vaults, make_labelling(newcomer, MemoryLabels()))
    with pytest.raises(NotFoundError, match="no chunks of it are on this disk") as caught:
        await secrets.take(encode_secrets(bucket.keys))
    assert bucket.id in caught.value.fix
    assert kit.directory.by_id


async def test_an_altered_label_brings_nothing_in(kit: StoreKit, newcomer: StoreKit, bucket: Bucket) -> None:
    records = [record for record in kit.keeper.registry.all() if record.kind is not Kind.MEMBER]
    forged = [
        Record(each.kind, each.key, each.stamp, each.deleted, {**each.public, "x": 1}, each.private, each.signer)
        for each in records
    ]
    labels = MemoryLabels()
    labels.write(bucket.id, encode_label(forged))
    assert await make_labelling(newcomer, labels).take(bucket.id) == 0
    assert newcomer.keeper.registry.all() == []


async def test_a_disk_that_cannot_be_read_does_not_stop_the_start(newcomer: StoreKit) -> None:
    class Failing(MemoryLabels):
        def labelled(self) -> list[VaultId]:
            return [VaultId("a" * 32)]

        def read(self, vault: VaultId) -> bytes | None:
            raise StorageFailedError(f"reading the label of {vault} failed", "check the disk")

    labelling = make_labelling(newcomer, Failing())
    await labelling.take_unknown()
    with pytest.raises(StorageFailedError):
        await labelling.take(VaultId("a" * 32))
    assert newcomer.keeper.registry.all() == []


@given(st.binary(max_size=200) | st.builds(msgpack.packb, st.lists(st.none() | st.binary() | st.integers(0, 3))))
def test_nonsense_is_no_label(label: bytes) -> None:
    assert all(isinstance(raw, bytes) for raw in decode_label(label))


def test_a_label_ends_where_it_is_full() -> None:
    def record(number: int) -> Record:
        return Record(Kind.GRANT, f"{number}/v", Stamp(number, b"n" * 8), False, {}, bytes(60_000))

    label = encode_label(map(record, range(200)))
    assert len(label) <= LABEL_SIZE_MAX
    assert 130 < len(decode_label(label)) < 140
