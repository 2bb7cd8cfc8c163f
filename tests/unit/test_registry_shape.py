"""Records that are rightly signed and no use to anybody: what is refused before it is kept, what is left out later."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from tests.unit.store_kit import open_kit

from meshhold.crypto.identity import Identity, seal_to
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import UnknownFormatError
from meshhold.model.grant import Permission
from meshhold.model.ids import AccessKeyId, NodeId
from meshhold.model.stamp import Stamp
from meshhold.registry.record import Kind, Record, encode_record, sign_by_node, sign_by_vault
from meshhold.registry.shape import check_shape
from meshhold.replication.records.record_keeper import SIZE_MAX

OTHER = Identity(b"o" * 32)
KEYS = VaultKeys(b"v" * 32)
VAULT = KEYS.vault_id
NODE = OTHER.node_id
BOX = b"b" * 80


def record(kind: Kind, key: str, public: dict[str, Any], *, deleted: bool = False) -> Record:
    return Record(kind, key, Stamp(1 << 16, bytes(8)), deleted=deleted, public=public, private=b"")


@pytest.mark.parametrize(
    ("kind", "key", "public"),
    [
        (Kind.VAULT, "vault", {"replication_factor": 3, "index_replicas": []}),
        (Kind.VAULT, VAULT, {"replication_factor": True, "index_replicas": []}),
        (Kind.VAULT, VAULT, {"replication_factor": 17, "index_replicas": []}),
        (Kind.VAULT, VAULT, {"replication_factor": 3, "index_replicas": [5]}),
        (Kind.VAULT, VAULT, {"replication_factor": 3, "index_replicas": [NODE] * 17}),
        (Kind.MEMBER, VAULT, {"role": "untrusted"}),
        (Kind.MEMBER, f"{VAULT}/{NODE}", {}),
        (Kind.MEMBER, f"{VAULT}/{NODE}", {"role": ["trusted"]}),
        (Kind.MEMBER, f"{VAULT}/{NODE}", {"role": "trusted"}),
        (Kind.MEMBER, f"{VAULT}/{NODE}", {"role": "trusted", "secrets": [[2, BOX]]}),
        (Kind.MEMBER, f"{VAULT}/{NODE}", {"role": "trusted", "secrets": [[1, "text"]]}),
        (Kind.MEMBER, f"{VAULT}/{NODE}", {"role": "trusted", "secrets": [[1, BOX], 2]}),
        (Kind.ALIAS, f"{VAULT}\n", {}),
        (Kind.GRANT, f"{'x' * 60_000}/{VAULT}", {}),
        (Kind.BAN, "nobody", {}),
        (Kind.SWARM, "another", {"boxes": [], "until_ms": 1}),
        (Kind.SWARM, "key", {"boxes": [1, 2], "until_ms": 1}),
        (Kind.SWARM, "key", {"boxes": [], "until_ms": 2**63}),
    ],
)
def test_what_readers_cannot_use_is_refused(kind: Kind, key: str, public: dict[str, Any]) -> None:
    with pytest.raises(UnknownFormatError, match=f"{kind}"):
        check_shape(record(kind, key, public))


def test_deletions_and_unknown_fields_pass() -> None:
    check_shape(record(Kind.MEMBER, f"{VAULT}/{NODE}", {}, deleted=True))
    check_shape(record(Kind.MEMBER, f"{VAULT}/{NODE}", {"role": "untrusted", "since": [1, {"a": 2}]}))
    check_shape(record(Kind.SWARM, "key", {"boxes": [[NODE, BOX]], "until_ms": 5, "more": b"x"}))


def sealed(keys: VaultKeys, kind: Kind, key: str, public: dict[str, Any], private: Any) -> bytes:
    box = keys.seal_small("registry", f"{kind}/{key}".encode(), b"s" * 16, msgpack.packb(private))
    return encode_record(sign_by_vault(Record(kind, key, Stamp(1 << 16, bytes(8)), False, public, box), keys))


def lets_in(keys: VaultKeys, node: NodeId) -> bytes:
    public = {"role": "trusted", "secrets": [[1, seal_to(node, keys.secrets[1])]]}
    return sealed(keys, Kind.MEMBER, f"{keys.vault_id}/{node}", public, {})


@pytest.mark.parametrize(
    "private",
    [b"no map", {}, {"name": 5, "created_ms": 1}, {"name": "x"}, {"name": "\x1b[2J", "created_ms": 1}, [["name", "x"]]],
    ids=range(6),
)
async def test_a_vault_that_cannot_be_opened_takes_nothing_else_with_it(private: Any) -> None:
    async with open_kit() as kit:
        bucket = await kit.bucket()
        public = {"replication_factor": 3, "index_replicas": [NODE]}
        raws = [sealed(KEYS, Kind.VAULT, VAULT, public, private), lets_in(KEYS, kit.directory.identity.node_id)]
        assert await kit.keeper.receive(raws, NODE) == 2
        assert [view.name for view in await kit.vaults.views()] == [bucket.name]
        assert (await kit.vaults.create("another")).name == "another"


async def test_a_membership_with_another_vaults_secret_opens_nothing() -> None:
    async with open_kit() as kit:
        bucket = await kit.bucket()
        me = kit.directory.identity.node_id
        public = {"role": "trusted", "secrets": [[1, seal_to(me, bucket.keys.secrets[1])]]}
        raws = [
            sealed(
                KEYS, Kind.VAULT, VAULT, {"replication_factor": 1, "index_replicas": []}, {"name": "x", "created_ms": 1}
            ),
            sealed(KEYS, Kind.MEMBER, f"{VAULT}/{me}", public, {}),
        ]
        assert await kit.keeper.receive(raws, NODE) == 2
        assert [view.id for view in await kit.vaults.views()] == [bucket.id]


async def test_a_grant_without_the_keys_own_secret_is_none() -> None:
    """A vault's maker may write any grant; only who minted the key knows the secret that the others expect."""
    async with open_kit() as kit, open_kit() as minting:
        me = kit.directory.identity.node_id
        minting.directory._identity = OTHER  # another node mints the key
        key = await minting.access.add_key("app")
        minted = minting.keeper.registry.live(Kind.KEY)[0]
        vault = sealed(
            KEYS, Kind.VAULT, VAULT, {"replication_factor": 1, "index_replicas": []}, {"name": "x", "created_ms": 1}
        )
        name = f"{key.access_key_id}/{VAULT}"
        facts = {"permissions": Permission.READ.value, "label": ""}
        false = sealed(KEYS, Kind.GRANT, name, {}, {**facts, "secret": "mine"})
        await kit.keeper.receive([vault, lets_in(KEYS, me), false], NODE)
        assert kit.access.secret(AccessKeyId(minted.key)) is None
        await kit.keeper.receive([encode_record(minted)], NODE)
        assert kit.access.secret(AccessKeyId(minted.key)) is None
        assert kit.access.grants() == []
        box = KEYS.seal_small(
            "registry", f"grant/{name}".encode(), b"t" * 16, msgpack.packb({**facts, "secret": key.secret_access_key})
        )
        right = sign_by_vault(Record(Kind.GRANT, name, Stamp(2 << 16, bytes(8)), False, {}, box), KEYS)
        await kit.keeper.receive([encode_record(right)], NODE)
        assert kit.access.secret(AccessKeyId(minted.key)) == key.secret_access_key
        assert len(kit.access.grants()) == 1


async def test_records_without_end_meet_a_bound() -> None:
    """Large records fill no memory: beyond the bound only what takes no more room is let in."""
    async with open_kit() as kit:
        kit.keeper._size = SIZE_MAX - 1_000
        facts = Record(Kind.NODE, NODE, Stamp(1 << 16, bytes(8)), False, {"name": "x" * 1_000}, b"")
        assert await kit.keeper.receive([encode_record(sign_by_node(facts, OTHER))], NODE) == 0
        assert kit.keeper.refused == {"room": 1}
        small = Record(Kind.NODE, NODE, Stamp(1 << 16, bytes(8)), False, {"name": "x"}, b"")
        assert await kit.keeper.receive([encode_record(sign_by_node(small, OTHER))], NODE) == 1
