"""Who may do what: access keys and their grants. Knows no signature algorithm and no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import trio

from meshhold.crypto.random import new_key_secret, new_salt
from meshhold.errors import ExpiredKeyError, InvalidError, NoSuchAccessKeyError, NotFoundError
from meshhold.model.grant import PREFIX_SIZE_MAX, PREFIXES_MAX, UNLIMITED, Limits, Permission
from meshhold.model.ids import ANONYMOUS, AccessKeyId, VaultId
from meshhold.registry.record import Kind, Record, access_key_id
from meshhold.store.directory import Bucket, Directory, GrantFacts, KeyFacts, pack_grant, pack_key
from meshhold.store.vaults import Vaults

LABEL_LENGTH_MAX: Final = 128
EXPIRES_S_MAX: Final = 3650 * 86_400  # a key for longer is one that does not end


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just minted: the only time its secret is shown."""

    access_key_id: str
    secret_access_key: str
    label: str


@dataclass(frozen=True, slots=True)
class KeyView:
    """What people see of an access key; never its secret. `expires_ms` is 0 for a key that does not end.

    `like` is the id of the vault whose members share what the key creates, `like_name` its name; `""` for none.
    """

    access_key_id: str
    label: str
    created_ms: int
    create_buckets: bool
    may_publish: bool = False
    read_only: bool = False
    expires_ms: int = 0
    expired: bool = False
    like: str = ""
    like_name: str = ""


@dataclass(frozen=True, slots=True)
class GrantView:
    """One grant as people see it. `prefixes` are those of the keys that it covers, none for all of them.

    `blocked`: it is for everybody, and the bucket's public access block says that such grants do not count.
    """

    access_key_id: str
    label: str
    vault_id: str
    vault_name: str
    alias: str
    permissions: str
    prefixes: tuple[str, ...] = ()
    read_only: bool = False
    expires_ms: int = 0
    expired: bool = False
    blocked: bool = False


class Access:
    """Access keys and grants of the vaults that this node can open."""

    def __init__(self, directory: Directory, vaults: Vaults) -> None:
        self._directory = directory
        self._vaults = vaults
        self._changes = trio.Lock()

    # -- asked at each request --------------------------------------------------------------------------------------

    def secret(self, key: AccessKeyId) -> str | None:
        """Return the secret that signs for this key, or None for a key that this node does not know.

        Errors: `ExpiredKeyError` for one whose time is over.
        """
        limits = self._directory.limits.get(key)
        if limits is not None and limits.has_expired(self._directory.now_ms()):
            raise ExpiredKeyError(
                f"access key {key} has expired: it was minted to end at {_when(limits.expires_ms)}",
                "mint another one with `meshhold s3-key add`",
            )
        return self._directory.secrets.get(key)

    def grant_of(self, key: AccessKeyId, bucket: Bucket) -> GrantFacts | None:
        """Return what the key was granted on the bucket, None for nothing."""
        return self._directory.grants.get((key, bucket.id))

    def knows(self, key: str) -> bool:
        """Tell whether a key of this id was minted here, or has a grant that this node knows."""
        directory = self._directory
        return key in directory.keys or any(key == holder != ANONYMOUS for holder, _ in directory.grants)

    def is_read_only(self, key: AccessKeyId) -> bool:
        """Tell whether the key was minted never to do more than read."""
        limits = self._directory.limits.get(key)
        return limits is not None and limits.read_only

    def may(self, key: AccessKeyId, bucket: Bucket, permission: Permission) -> bool:
        """Tell whether the key was granted this on the whole bucket."""
        grant = self._directory.grants.get((key, bucket.id))
        return grant is not None and permission in grant.permissions and not grant.limits.prefixes

    def may_create_buckets(self, key: AccessKeyId) -> bool:
        """Tell whether the key was minted with `--create-buckets`."""
        facts = self._directory.keys.get(key)
        return facts is not None and facts.create_buckets

    def may_publish(self, key: AccessKeyId) -> bool:
        """Tell whether the key was minted with `--may-publish`."""
        facts = self._directory.keys.get(key)
        return facts is not None and facts.may_publish

    def like_of(self, key: AccessKeyId) -> VaultId | None:
        """Return the vault whose members share what the key creates."""
        facts = self._directory.keys.get(key)
        return None if facts is None else facts.like

    # -- handled by people ------------------------------------------------------------------------------------------

    async def add_key(
        self,
        label: str,
        *,
        create_buckets: bool = False,
        may_publish: bool = False,
        read_only: bool = False,
        expires_s: int = 0,
        like: str = "",
    ) -> NewKey:
        """Mint a key. Its secret is in the answer and nowhere else in the clear.

        `may_publish`: it may let everybody read a bucket that it owns. `expires_s`: it ends so many seconds from now, 0
        for never. `like`: buckets that it creates are shared as this vault is. Errors: `InvalidError`,
        `NoSuchVaultError`.
        """
        if like and not create_buckets:
            raise InvalidError("`--like` is for a key that creates buckets", "mint it with --create-buckets")
        model = self._vaults.find(like).id if like else None
        if len(label) > LABEL_LENGTH_MAX or not (label.isprintable() or not label):
            raise InvalidError(f"label {label!r} is not usable", f"use up to {LABEL_LENGTH_MAX} printable characters")
        if read_only and (create_buckets or may_publish):
            raise InvalidError("a read-only key neither creates nor publishes buckets", "mint one key for each purpose")
        if not 0 <= expires_s <= EXPIRES_S_MAX:
            raise InvalidError(f"a key cannot end {expires_s} s from now", f"use 1 to {EXPIRES_S_MAX}, 0 for never")
        nonce, secret, now_ms = new_salt(), new_key_secret(), self._directory.now_ms()
        limits = Limits(expires_ms=now_ms + expires_s * 1000 if expires_s else 0, read_only=read_only)
        key = access_key_id(self._directory.identity.node_id, nonce)
        facts = KeyFacts(key, nonce, secret, label, now_ms, create_buckets, may_publish, limits, model)
        await self._directory.write(self._directory.key_record(nonce, pack_key(facts)))
        return NewKey(key, secret, label)

    def keys(self) -> list[KeyView]:
        """Return the keys minted here, oldest first."""
        now_ms, known = self._directory.now_ms(), self._directory.by_id
        return [
            KeyView(
                key.id,
                key.label,
                key.created_ms,
                key.create_buckets,
                key.may_publish,
                key.limits.read_only,
                key.limits.expires_ms,
                key.limits.has_expired(now_ms),
                key.like or "",
                known[key.like].name if key.like in known else "",
            )
            for key in sorted(self._directory.keys.values(), key=lambda k: (k.created_ms, k.id))
        ]

    async def remove_key(self, key: str) -> None:
        """Delete the key and every grant of it: from the next request on it signs nothing."""
        async with self._changes:
            directory = self._directory
            access_key = self._known_key(key)
            gone = [
                directory.vault_deletion(directory.by_id[grant.vault].keys, Kind.GRANT, f"{access_key}/{grant.vault}")
                for grant in directory.grants.values()
                if grant.key == access_key
            ]
            if access_key in directory.keys:
                gone.append(directory.key_record(directory.keys[access_key].nonce, None))
            await directory.write(*gone)

    async def grant(
        self, key: str, vault: str, permissions: Permission, *, allow_list: bool = False, prefixes: Sequence[str] = ()
    ) -> GrantView:
        """Let the key use the vault, or of its objects those whose keys begin with a prefix; replaces an earlier grant.

        Errors: `NoSuchAccessKeyError`, `NoSuchVaultError`; `InvalidError` for anonymous writes, for a read-only key
        that would write, for a prefix that is no prefix of a key.
        """
        async with self._changes:
            bucket = self._vaults.find(vault)
            access_key = self._known_key(key)
            limits = replace(self._directory.limits.get(access_key, UNLIMITED), prefixes=_check_prefixes(prefixes))
            if access_key == ANONYMOUS:
                if permissions & (Permission.WRITE | Permission.OWN):
                    raise InvalidError("anonymous requests may never write", "grant `read` only")
                permissions |= Permission.LIST if allow_list else Permission.NONE
            elif Permission.READ in permissions:
                permissions |= Permission.LIST  # whoever may read a bucket with a key may list it
            if limits.read_only and permissions & (Permission.WRITE | Permission.OWN):
                raise InvalidError(f"access key {access_key} was minted to read only", "grant `read`, or mint another")
            if limits.prefixes and Permission.OWN in permissions:
                raise InvalidError("`own` is for what holds for the whole bucket", "grant it without --prefix")
            await self._directory.write(self._grant_record(access_key, bucket, permissions, limits))
            return self._view(self._directory.grants[access_key, bucket.id])

    def _grant_record(self, key: AccessKeyId, bucket: Bucket, permissions: Permission, limits: Limits) -> Record:
        directory = self._directory
        facts = directory.keys.get(key)
        earlier = next((g for g in directory.grants.values() if g.key == key), None)
        label = facts.label if facts else (earlier.label if earlier else "")
        private = pack_grant(permissions, directory.secrets.get(key, ""), label, limits)
        return directory.vault_record(bucket.keys, Kind.GRANT, f"{key}/{bucket.id}", public={}, private=private)

    async def publish(self, bucket: Bucket) -> None:
        """Let everybody read and list the bucket, whatever everybody was granted before."""
        async with self._changes:
            known = self.grant_of(ANONYMOUS, bucket)
            wanted = Permission.READ | Permission.LIST
            if known is None or known.permissions != wanted or known.limits != UNLIMITED:
                await self._directory.write(self._grant_record(ANONYMOUS, bucket, wanted, UNLIMITED))

    async def withdraw(self, bucket: Bucket) -> None:
        """Take back whatever everybody was granted on the bucket."""
        async with self._changes:
            if self.grant_of(ANONYMOUS, bucket) is not None:
                key = f"{ANONYMOUS}/{bucket.id}"
                await self._directory.write(self._directory.vault_deletion(bucket.keys, Kind.GRANT, key))

    def grants(self) -> list[GrantView]:
        """Return all grants, by vault and key."""
        views = [self._view(grant) for grant in self._directory.grants.values()]
        return sorted(views, key=lambda view: (view.vault_name, view.access_key_id))

    async def revoke(self, key: str, vault: str) -> None:
        """Take the grant back. Errors: `NotFoundError` if there is none."""
        async with self._changes:
            bucket = self._vaults.find(vault)
            access_key = self._known_key(key)
            if (access_key, bucket.id) not in self._directory.grants:
                raise NotFoundError(
                    f"access key {access_key} has no grant on vault {bucket.name!r}", "see `meshhold s3-perm list`"
                )
            record = self._directory.vault_deletion(bucket.keys, Kind.GRANT, f"{access_key}/{bucket.id}")
            await self._directory.write(record)

    def _known_key(self, key: str) -> AccessKeyId:
        access_key = AccessKeyId(key)
        if access_key != ANONYMOUS and not self.knows(key):
            raise NoSuchAccessKeyError(f"no access key {key!r} is known", "see `meshhold s3-key list`")
        return access_key

    def _view(self, grant: GrantFacts) -> GrantView:
        bucket = self._directory.by_id[grant.vault]
        is_anonymous = grant.key == ANONYMOUS
        shown = grant.permissions if is_anonymous else grant.permissions & ~Permission.LIST
        limits = self._directory.limits.get(grant.key, grant.limits)
        block = bucket.rules.block
        return GrantView(
            grant.key,
            grant.label,
            bucket.id,
            bucket.name,
            bucket.alias,
            str(shown),
            tuple(prefix.decode() for prefix in grant.limits.prefixes),
            limits.read_only,
            limits.expires_ms,
            limits.has_expired(self._directory.now_ms()),
            is_anonymous and block is not None and block.ignore_acls,
        )


def _check_prefixes(prefixes: Sequence[str]) -> tuple[bytes, ...]:
    found = tuple(dict.fromkeys(prefix.encode() for prefix in prefixes))
    if len(found) > PREFIXES_MAX:
        raise InvalidError(f"a grant takes {PREFIXES_MAX} prefixes, not {len(found)}", "grant a shorter, common prefix")
    for prefix in found:
        if not 0 < len(prefix) <= PREFIX_SIZE_MAX or b"\0" in prefix:
            raise InvalidError(
                f"prefix {prefix.decode()!r} begins no key", f"use 1 to {PREFIX_SIZE_MAX} bytes of UTF-8"
            )
    return found


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
