"""Which vaults, aliases, keys and grants does this node know and can it open? Knows no objects and no HTTP.

Opens what the registry's records seal, keeps the answers ready for the hot path, and writes new records: durable first,
then visible.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import msgpack

from meshhold.crypto.identity import Identity, seal_to
from meshhold.crypto.random import new_salt
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import IntegrityError, NoSuchVaultError
from meshhold.model.configuration import REPLICAS_MAX, Configuration, unpack_configuration
from meshhold.model.grant import UNLIMITED, Limits, Permission, pack_limits, stricter, unpack_limits
from meshhold.model.ids import ANONYMOUS, AccessKeyId, NodeId, VaultId
from meshhold.model.stamp import Clock, Stamp
from meshhold.registry.record import Kind, Record, access_key_id, secret_commitment, sign_by_node, sign_by_vault
from meshhold.registry.state import Registry
from meshhold.replication.records.record_keeper import RecordKeeper
from meshhold.rules.bucket import UNSET, Aspect, BucketRules, with_rule

TRUSTED: Final = "trusted"
UNTRUSTED: Final = "untrusted"
_FIRST_EPOCH: Final = 1  # the vault's own record tells of it
_NAMED_MAX: Final = 1_000  # records that could not be opened and were named in the log
_LOG: Final = logging.getLogger("meshhold.registry")
_Opened = TypeVar("_Opened")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A vault that this node can open. `alias` is `""` for one that S3 does not show.

    `index_pinned`: people chose who keeps its index, and nothing else changes that; `index_awaited` are those of their
    choice that did not answer when the vault was made, to be taken in when they do.
    """

    id: VaultId
    keys: VaultKeys
    name: str
    alias: str
    created_ms: int
    replication_factor: int
    index_pinned: bool = False
    rules: BucketRules = UNSET
    index_awaited: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """An access key as its minting node knows it. `may_publish`: it may let everybody read buckets that it owns.

    `like`: the vault whose members share what it creates.
    """

    id: AccessKeyId
    nonce: bytes
    secret: str
    label: str
    created_ms: int
    create_buckets: bool
    may_publish: bool = False
    limits: Limits = UNLIMITED
    like: VaultId | None = None


@dataclass(frozen=True, slots=True)
class GrantFacts:
    """What one access key may do on one vault; `secret` lets this node check the key's signatures."""

    key: AccessKeyId
    vault: VaultId
    permissions: Permission
    secret: str
    label: str
    limits: Limits = UNLIMITED


class Directory:
    """The registry as this node can read it: derived anew whenever a record changes."""

    def __init__(self, identity: Identity, keeper: RecordKeeper, clock: Clock, now_ms: Callable[[], int]) -> None:
        self._identity = identity
        self._keeper = keeper
        self._registry = keeper.registry
        self._clock = clock
        self._now_ms = now_ms
        self.by_id: dict[VaultId, Bucket] = {}
        self.by_alias: dict[str, Bucket] = {}
        self.conflicts: dict[VaultId, str] = {}  # a vault whose alias another one claimed earlier → that one's name
        self.keys: dict[AccessKeyId, KeyFacts] = {}
        self.grants: dict[tuple[AccessKeyId, VaultId], GrantFacts] = {}
        self.secrets: dict[AccessKeyId, str] = {}
        self.limits: dict[AccessKeyId, Limits] = {}  # of the few keys that end, or only read
        self._unusable: set[bytes] = set()
        keeper.follow(self._open_all)
        self._open_all()

    @property
    def identity(self) -> Identity:
        """This node's identity."""
        return self._identity

    @property
    def registry(self) -> Registry:
        """The records themselves."""
        return self._registry

    def now_ms(self) -> int:
        """Milliseconds since 1970 by this node's clock."""
        return self._now_ms()

    def deleted_vaults(self) -> list[VaultId]:
        """Return the vaults whose deletion is recorded: whatever rests of them may go."""
        return [VaultId(record.key) for record in self._registry.deleted(Kind.VAULT)]

    # -- writing ----------------------------------------------------------------------------------------------------

    def next_stamp(self) -> Stamp:
        """Return a stamp above every record known."""
        return self._clock.tick(self._now_ms())

    def vault_record(
        self, keys: VaultKeys, kind: Kind, key: str, *, public: dict[str, Any], private: dict[str, Any]
    ) -> Record:
        """Return a new record signed and sealed by the vault."""
        sealed = keys.seal_small("registry", f"{kind}/{key}".encode(), new_salt(), msgpack.packb(private))
        return sign_by_vault(Record(kind, key, self.next_stamp(), deleted=False, public=public, private=sealed), keys)

    def vault_deletion(self, keys: VaultKeys, kind: Kind, key: str) -> Record:
        """Return the record that deletes what the vault signed."""
        return sign_by_vault(Record(kind, key, self.next_stamp(), deleted=True, public={}, private=b""), keys)

    def member_record(self, keys: VaultKeys, node: NodeId, role: str, *, leaving: bool = False) -> Record:
        """Return the record of a membership: a trusted member's carries the vault's secrets, sealed to it."""
        public: dict[str, object] = {"role": role}
        if leaving:
            public["leaving"] = True
        if role == TRUSTED:
            public["secrets"] = [[epoch, seal_to(node, secret)] for epoch, secret in sorted(keys.secrets.items())]
        return self.vault_record(keys, Kind.MEMBER, f"{keys.vault_id}/{node}", public=public, private={})

    def changed_vault(self, bucket: Bucket, **public: Any) -> Record:
        """Return the vault's own record with these public fields changed."""
        known = self._registry.get(Kind.VAULT, bucket.id)
        if known is None:
            raise NoSuchVaultError(f"vault {bucket.name!r} has been deleted meanwhile", "see `meshhold vault list`")
        private = _open_private(known, bucket.keys)
        return self.vault_record(bucket.keys, Kind.VAULT, bucket.id, public={**known.public, **public}, private=private)

    async def publish(self, vault: VaultId, configuration: Configuration) -> None:
        """Tell the registry who keeps a vault's index, for nodes that look for it; what is known already is not told.

        A hint: what binds is what the replicas chose. Nothing is told of a vault that this node cannot open.
        """
        bucket = self.by_id.get(vault)
        known = self._registry.get(Kind.INDEX, vault)
        told = _FIRST_EPOCH if known is None else unpack_configuration(known.public["configuration"]).epoch
        if bucket is None or told >= configuration.epoch:
            return
        public = {"configuration": configuration.pack()}
        await self.write(self.vault_record(bucket.keys, Kind.INDEX, vault, public=public, private={}))

    def key_record(self, nonce: bytes, private: dict[str, Any] | None) -> Record:
        """Return a new access key record of this node, or with None its deletion; the nonce makes the key's id."""
        node = self._identity.node_id
        sealed = b"" if private is None else seal_to(node, msgpack.packb(private))
        key = access_key_id(node, nonce)
        public: dict[str, Any] = {"nonce": nonce}
        if private is not None:
            public["commitment"] = secret_commitment(key, private["secret"])
        record = Record(Kind.KEY, key, self.next_stamp(), deleted=private is None, public=public, private=sealed)
        return sign_by_node(record, self._identity)

    async def write(self, *records: Record) -> None:
        """Make the records durable together, then let every reader see them."""
        await self._keeper.write(*records)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _open_all(self, _: Sequence[Record] = (), __: NodeId | None = None) -> None:
        """Derive the ready answers from the records. Vaults, keys and grants are few: all of them, at each change."""
        vaults: dict[VaultId, Bucket] = {}
        for record in self._registry.live(Kind.MEMBER):
            vault = VaultId(record.scope)
            if record.key == f"{vault}/{self._identity.node_id}" and record.public["role"] == TRUSTED:
                bucket = self._try(record, partial(self._open_vault, vault, record))
                if bucket is not None:
                    vaults[vault] = bucket
        self.by_id = vaults
        self.by_alias = self._settle_aliases(vaults)
        keys = [self._try(record, partial(self._open_key, record)) for record in self._registry.live(Kind.KEY)]
        self.keys = {key.id: key for key in keys if key is not None}
        self.grants = {}
        for record in self._registry.live(Kind.GRANT):
            opened = vaults.get(VaultId(record.scope))
            grant = None if opened is None else self._try(record, partial(_open_grant, record, opened))
            if grant is not None and self._is_proven(grant):
                self.grants[grant.key, grant.vault] = grant
        self.secrets = {grant.key: grant.secret for grant in self.grants.values() if grant.secret}
        self.secrets.update({key.id: key.secret for key in self.keys.values()})
        self.limits = self._limits()

    def _try(self, record: Record, open_record: Callable[[], _Opened]) -> _Opened | None:
        """Open a record, or leave it out and say so once: whoever has a vault's key may seal any nonsense with it."""
        try:
            return open_record()
        except Exception as error:  # noqa: BLE001 - whatever msgpack or unpacking says about hostile bytes
            if record.signature not in self._unusable and len(self._unusable) < _NAMED_MAX:
                self._unusable.add(record.signature)
                _LOG.warning("%s record %s cannot be used: %s", record.kind, record.key, error or type(error).__name__)
            return None

    def _is_proven(self, grant: GrantFacts) -> bool:
        """Tell whether the grant carries the secret that the key's minting node committed to.

        Otherwise a vault that anybody made could let its maker sign as somebody else's key.
        """
        if grant.key == ANONYMOUS:
            return True
        minted = self._registry.get(Kind.KEY, grant.key)
        return minted is not None and minted.public.get("commitment") == secret_commitment(grant.key, grant.secret)

    def _limits(self) -> dict[AccessKeyId, Limits]:
        """Return the limits of keys: as their minting node knows them, of others the narrowest that grants tell."""
        found: dict[AccessKeyId, Limits] = {}
        for grant in self.grants.values():
            if grant.limits.expires_ms or grant.limits.read_only:
                found[grant.key] = stricter(grant.limits, found.get(grant.key, UNLIMITED))
        found.update({key.id: key.limits for key in self.keys.values()})
        return {key: limits for key, limits in found.items() if limits != UNLIMITED}

    def _open_vault(self, vault: VaultId, member: Record) -> Bucket | None:
        record = self._registry.get(Kind.VAULT, vault)
        if record is None:
            return None
        secrets = {epoch: self._identity.open_sealed(box) for epoch, box in member.public["secrets"]}
        keys = VaultKeys(secrets.pop(1), secrets)
        if keys.vault_id != vault:
            raise IntegrityError("the secret in it is another vault's")
        facts = _open_private(record, keys, name=str, created_ms=int)
        alias = self._registry.get(Kind.ALIAS, vault)
        return Bucket(
            id=vault,
            keys=keys,
            name=facts["name"],
            alias=_open_private(alias, keys, alias=str)["alias"] if alias is not None else "",
            created_ms=facts["created_ms"],
            replication_factor=record.public["replication_factor"],
            index_pinned=record.public.get("index_pinned") is True,
            rules=self._open_rules(vault, keys),
            index_awaited=_awaited(record),
        )

    def _open_rules(self, vault: VaultId, keys: VaultKeys) -> BucketRules:
        rules = UNSET
        for aspect in Aspect:
            record = self._registry.get(Kind.RULES, f"{vault}/{aspect}")
            if record is not None:
                opened = self._try(record, partial(_open_rule, record, keys, rules, aspect))
                rules = rules if opened is None else opened
        return rules

    def _settle_aliases(self, vaults: dict[VaultId, Bucket]) -> dict[str, Bucket]:
        """Give each alias to its oldest claim, so that a later claim made elsewhere never swaps a bucket's content."""
        claims = []
        for vault, bucket in vaults.items():
            record = self._registry.get(Kind.ALIAS, vault)
            if record is not None and bucket.alias:
                claims.append((record.stamp, bucket))
        owners: dict[str, Bucket] = {}
        self.conflicts = {}
        for _, bucket in sorted(claims, key=lambda claim: claim[0]):
            owner = owners.setdefault(bucket.alias, bucket)
            if owner is not bucket:
                self.conflicts[bucket.id] = owner.name
        return owners

    def _open_key(self, record: Record) -> KeyFacts | None:
        if record.public.get("node") != self._identity.node_id:
            return None
        facts = msgpack.unpackb(self._identity.open_sealed(record.private))
        limits, create_buckets = UNLIMITED, facts["create_buckets"]
        if "limited" in facts:
            limits, more = unpack_limits(facts["limited"], create_buckets=bool)
            create_buckets = more["create_buckets"]
        return KeyFacts(
            id=AccessKeyId(record.key),
            nonce=record.public["nonce"],
            secret=facts["secret"],
            label=facts["label"],
            created_ms=facts["created_ms"],
            create_buckets=create_buckets,
            may_publish=facts.get("may_publish") is True,
            limits=limits,
            like=VaultId(facts["like"]) if isinstance(facts.get("like"), str) else None,
        )


def _open_private(record: Record, keys: VaultKeys, **fields: type) -> dict[str, Any]:
    """Return what a record seals. Errors: `IntegrityError` names a field that is not of its type."""
    opened = msgpack.unpackb(keys.open_small("registry", f"{record.kind}/{record.key}".encode(), record.private))
    for name, kind in fields.items():
        if not isinstance(opened, dict) or type(opened.get(name)) is not kind:
            raise IntegrityError(f"the sealed field {name!r} is not a {kind.__name__}")
        if kind is str and not opened[name].isprintable():
            raise IntegrityError(f"the sealed field {name!r} is not printable")
    return dict(opened)


def _awaited(record: Record) -> tuple[NodeId, ...]:
    """Return the nodes that a vault's record says are awaited; what is no list of a few of them is none."""
    raw = record.public.get("index_awaited", [])
    is_fit = isinstance(raw, list) and len(raw) <= REPLICAS_MAX and all(isinstance(each, str) for each in raw)
    return tuple(map(NodeId, raw)) if is_fit else ()


def _open_rule(record: Record, keys: VaultKeys, rules: BucketRules, aspect: Aspect) -> BucketRules:
    return with_rule(rules, aspect, _open_private(record, keys)["value"])


def _open_grant(record: Record, bucket: Bucket) -> GrantFacts:
    facts = _open_private(record, bucket.keys, permissions=int, secret=str, label=str)
    key = AccessKeyId(record.key.split("/", 1)[0])
    limits, permissions = UNLIMITED, facts["permissions"]
    if "limited" in facts:
        limits, more = unpack_limits(facts["limited"], permissions=int)
        permissions = more["permissions"]
    return GrantFacts(key, bucket.id, Permission(permissions), facts["secret"], facts["label"], limits)


def pack_grant(permissions: Permission, secret: str, label: str, limits: Limits) -> dict[str, Any]:
    """Return what a grant's record seals: `_open_grant` undoes it.

    A limited grant says `permissions` 0 where an older program looks for them: that lets nothing pass instead of all.
    """
    if limits == UNLIMITED:
        return {"permissions": permissions.value, "secret": secret, "label": label}
    limited = pack_limits(limits, permissions=permissions.value)
    return {"permissions": 0, "secret": secret, "label": label, "limited": limited}


def pack_key(facts: KeyFacts) -> dict[str, Any]:
    """Return what a key's record seals: `Directory` undoes it.

    For an older program a limited key creates no buckets.
    """
    packed: dict[str, Any] = {
        "secret": facts.secret,
        "label": facts.label,
        "created_ms": facts.created_ms,
        "create_buckets": facts.create_buckets and facts.limits == UNLIMITED,
    }
    if facts.may_publish:
        packed["may_publish"] = True
    if facts.like:  # what an older program creates for the key is on its node alone
        packed["like"] = facts.like
    if facts.limits != UNLIMITED:
        packed["limited"] = pack_limits(facts.limits, create_buckets=facts.create_buckets)
    return packed
