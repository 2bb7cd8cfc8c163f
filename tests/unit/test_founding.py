"""Vaults made like another one: who keeps them, who is waited for, and what is left of one that could not be shared."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgpack
import pytest
import trio
from tests.door import DoorUnderTest, open_door
from tests.unit.store_kit import open_kit
from tests.unit.test_store_members import Home, virtual

from meshhold.errors import ConflictError, InvalidError, NoSuchVaultError, UnavailableError
from meshhold.model.configuration import Mode
from meshhold.model.grant import Permission
from meshhold.model.ids import AccessKeyId, NodeId, VaultId
from meshhold.registry.record import Kind, Record
from meshhold.rules.lock import BucketLock
from meshhold.store.directory import Bucket
from meshhold.store.founding import SHARE_S, Founding
from meshhold.store.index_replicas import LOOK_EVERY_S, NEWCOMER_S
from meshhold.store.nodes import NodeFacts

FULL = Permission.READ | Permission.WRITE | Permission.LIST | Permission.OWN


class Foundry:
    """A home with a vault `photos`, and vaults made like it; who was told of what."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.told: list[tuple[set[str], set[Kind]]] = []
        kit, index = home.kit, home.index
        self.founding = Founding(kit.directory, kit.vaults, kit.access, home.nodes, kit.seats, index, self._tell)

    async def _tell(self, nodes: Sequence[NodeId], records: Sequence[Record]) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append(({self.home.around.names[node] for node in nodes}, {record.kind for record in records}))

    async def create(self, name: str = "music", *, like: str = "photos", lock: BucketLock | None = None) -> Bucket:
        key = AccessKeyId((await self.home.kit.access.add_key("app")).access_key_id)
        wish = {} if lock is None else {"lock": lock}
        view = await self.founding.create(name, like=like, alias=name, owner=key, **wish)
        assert self.home.kit.directory.grants[key, VaultId(view.id)].permissions == FULL
        return self.home.kit.vaults.find(view.id)

    def kept_by(self, name: str) -> set[str]:
        return self.home.around.kept_by(self.home.kit.vaults.find(name).id)

    def roles(self, name: str) -> dict[str, str]:
        return {member.name: member.role for member in self.home.members.views(name)}

    def names(self) -> set[str]:
        return {bucket.name for bucket in self.home.kit.directory.by_id.values()}


@pytest.fixture
async def foundry() -> AsyncIterator[Foundry]:
    async with open_kit() as kit:
        home = Home(kit, await kit.bucket("photos"))
        await home.nodes.announce(NodeFacts(home.around.ids["me"], "me", (), "home", 0, reliable=True, version="1"))
        yield Foundry(home)


@virtual
async def test_members_roles_factor_and_replicas_are_taken_over(foundry: Foundry) -> None:
    await foundry.home.add("bob", "cid")
    await foundry.home.meet("dan")
    await foundry.home.members.add("photos", "dan", trusted=False)
    await foundry.home.kit.vaults.set_factor("photos", 2)
    made = await foundry.create()
    assert foundry.roles("music") == {"me": "trusted", "bob": "trusted", "cid": "trusted", "dan": "untrusted"}
    assert (made.alias, made.replication_factor, made.index_pinned) == ("music", 2, False)
    assert foundry.kept_by("music") == {"me", "bob", "cid"}
    assert made.keys.vault_id != foundry.home.vault


@virtual
async def test_members_know_of_the_grant_before_the_answer(foundry: Foundry) -> None:
    await foundry.home.add("bob")
    await foundry.create()
    [(nodes, kinds)] = foundry.told
    assert nodes == {"bob"}
    assert {Kind.VAULT, Kind.MEMBER, Kind.ALIAS, Kind.GRANT} <= kinds


@virtual
async def test_without_a_model_a_vault_is_on_this_node_alone(foundry: Foundry) -> None:
    await foundry.home.add("bob")
    await foundry.founding.create("diary")
    assert (foundry.roles("diary"), foundry.kept_by("diary"), foundry.told) == ({"me": "trusted"}, {"me"}, [])


@virtual
async def test_one_of_three_that_sleeps_takes_part_when_it_wakes(foundry: Foundry) -> None:
    await foundry.home.add("bob", "cid")
    foundry.home.around.asleep = {"cid"}
    async with foundry.home.running():
        await foundry.create()
        assert foundry.kept_by("music") == {"me", "bob"}
        assert set(foundry.roles("music")) == {"me", "bob", "cid"}
        foundry.home.around.asleep = set()
        await trio.sleep(4 * LOOK_EVERY_S)
    assert foundry.kept_by("music") == {"me", "bob", "cid"}


@virtual
async def test_replicas_that_people_chose_are_waited_for_and_no_others(foundry: Foundry) -> None:
    await foundry.home.add("bob", "cid", "dan")
    await foundry.home.set("me", "bob", "dan")
    foundry.home.around.asleep = {"dan"}
    async with foundry.home.running():
        made = await foundry.create()
        assert (made.index_pinned, len(made.index_awaited)) == (True, 3)
        await trio.sleep(4 * LOOK_EVERY_S)
        assert foundry.kept_by("music") == {"me", "bob"}
        foundry.home.around.asleep = set()
        await trio.sleep(8 * LOOK_EVERY_S)
        assert foundry.kept_by("music") == {"me", "bob", "dan"}
    known = foundry.home.kit.vaults.find("music")
    assert (known.index_pinned, known.index_awaited) == (True, ())


@virtual
async def test_chosen_replicas_that_all_answer_are_awaited_no_more(foundry: Foundry) -> None:
    await foundry.home.add("bob", "cid", "dan")
    await foundry.home.set("me", "dan")
    made = await foundry.create()
    assert (made.index_pinned, made.index_awaited) == (True, ())
    assert foundry.kept_by("music") == {"me", "dan"}


@virtual
async def test_a_majority_that_sleeps_leaves_no_vault(foundry: Foundry) -> None:
    await foundry.home.add("bob", "cid")
    foundry.home.around.asleep = {"bob", "cid"}
    begun = trio.current_time()
    with pytest.raises(UnavailableError, match=r"2 of .* must answer .*bob, cid cannot be asked; nothing was created"):
        await foundry.create()
    assert trio.current_time() - begun < NEWCOMER_S + 1
    assert foundry.names() == {"photos"}
    foundry.home.around.asleep = set()
    await foundry.create()
    assert foundry.names() == {"photos", "music"}


@virtual
async def test_a_change_that_takes_too_long_leaves_no_vault(foundry: Foundry) -> None:
    await foundry.home.add("bob")
    foundry.home.around.takes_s = 10 * SHARE_S
    with pytest.raises(UnavailableError, match="did not take the new index over within 20 s"):
        await foundry.create()
    assert foundry.names() == {"photos"}


@virtual
async def test_whoever_hangs_up_leaves_no_vault(foundry: Foundry) -> None:
    await foundry.home.add("bob")
    foundry.home.around.takes_s = SHARE_S / 2
    with trio.move_on_after(1.0) as patience:
        await foundry.create()
    assert patience.cancelled_caught
    assert foundry.names() == {"photos"}


@virtual
async def test_two_that_go_on_alone_are_copied_with_one_of_them_away(foundry: Foundry) -> None:
    await foundry.home.add("bob")
    await foundry.home.set(mode="available")
    foundry.home.around.asleep = {"bob"}
    made = await foundry.create()
    configuration = foundry.home.kit.seats.configuration(made.id)
    assert (configuration.mode, foundry.kept_by("music")) == (Mode.AVAILABLE, {"me"})
    with pytest.raises(ConflictError, match="could not agree on the order of locked versions"):
        await foundry.create("locked", lock=BucketLock(enabled=True))
    assert foundry.names() == {"photos", "music"}


@virtual
async def test_who_is_leaving_or_banned_has_no_part_in_what_is_made_now(foundry: Foundry) -> None:
    await foundry.home.add("bob", "cid", "dan")
    directory = foundry.home.kit.directory
    keys = foundry.home.bucket.keys
    await directory.write(directory.member_record(keys, foundry.home.around.ids["cid"], "trusted", leaving=True))
    await foundry.home.nodes.ban(foundry.home.around.ids["dan"])
    await foundry.create()
    assert set(foundry.roles("music")) == {"me", "bob"}
    assert foundry.kept_by("music") == {"me", "bob"}


@virtual
async def test_awaited_replicas_of_a_hostile_record_are_none(foundry: Foundry) -> None:
    directory = foundry.home.kit.directory
    for hostile in ("all", [1, 2], ["x"] * 99, None, {"a": 1}):
        await directory.write(directory.changed_vault(foundry.home.bucket, index_awaited=hostile))
        assert foundry.home.bucket.index_awaited == ()


# -- keys -------------------------------------------------------------------------------------------------------------


@virtual
async def test_a_key_names_the_vault_that_its_buckets_are_like(foundry: Foundry) -> None:
    access = foundry.home.kit.access
    with pytest.raises(InvalidError, match="is for a key that creates buckets"):
        await access.add_key("app", like="photos")
    with pytest.raises(NoSuchVaultError):
        await access.add_key("app", create_buckets=True, like="films")
    limited = await access.add_key("app", create_buckets=True, like="photos", expires_s=60)
    plain = await access.add_key("other", create_buckets=True)
    assert access.like_of(AccessKeyId(limited.access_key_id)) == foundry.home.vault
    assert access.like_of(AccessKeyId(plain.access_key_id)) is None
    told = {view.label: (view.like, view.like_name) for view in (*access.keys(),)}
    assert told == {"app": (foundry.home.vault, "photos"), "other": ("", "")}
    await foundry.home.kit.vaults.delete("photos")
    assert {view.like_name for view in (*access.keys(),)} == {""}


@virtual
async def test_a_key_of_an_older_or_odd_program_is_like_nothing(foundry: Foundry) -> None:
    access, directory = foundry.home.kit.access, foundry.home.kit.directory
    key = AccessKeyId((await access.add_key("app", create_buckets=True)).access_key_id)
    known = directory.registry.get(Kind.KEY, key)
    assert known is not None
    sealed = msgpack.unpackb(directory.identity.open_sealed(known.private))
    assert "like" not in sealed
    await directory.write(directory.key_record(directory.keys[key].nonce, {**sealed, "like": 7}))
    assert access.like_of(key) is None
    assert access.may_create_buckets(key)


# -- through the door -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def door_like(folder: Path) -> AsyncIterator[DoorUnderTest]:
    """Open a door for a key whose buckets are like the vault `model`, of factor 2."""
    async with open_door(folder) as door:
        await door.node.vaults.create("model", replication_factor=2)
        key = await door.node.access.add_key("app", create_buckets=True, like="model")
        yield door.as_other(key.access_key_id, key.secret_access_key)


async def test_a_bucket_of_such_a_key_is_like_the_vault(tmp_path: Path) -> None:
    async with door_like(tmp_path) as door:
        assert (await door.call("PUT", "/music")).status == 200
        assert (await door.call("PUT", "/music/song", b"la")).status == 200
        assert door.node.vaults.bucket("music").replication_factor == 2


async def test_a_vault_that_is_gone_is_named(tmp_path: Path) -> None:
    async with door_like(tmp_path) as door:
        await door.node.vaults.delete("model")
        refused = await door.call("PUT", "/music")
        assert (refused.status, refused.code) == (403, "AccessDenied")
        assert b"mint another key" in refused.body
        assert door.node.vaults.known_alias("music") is None


async def test_an_index_that_nobody_keeps_is_503_and_no_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody_answers(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise UnavailableError("2 of a, b, c must answer", "start these machines")

    async with door_like(tmp_path) as door:
        monkeypatch.setattr(door.node.index_replicas, "share", nobody_answers)
        refused = await door.call("PUT", "/music")
        assert (refused.status, refused.code) == (503, "ServiceUnavailable")
        assert (await door.call("HEAD", "/music")).status == 404
