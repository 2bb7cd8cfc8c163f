"""Who may do what: access keys and their grants. Knows no signature algorithm and no HTTP."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from meshhold.crypto.random import new_key_secret, new_salt
from meshhold.errors import DeniedError, InvalidError, NoSuchAccessKeyError, NotFoundError
from meshhold.model.grant import Permission
from meshhold.model.ids import ANONYMOUS, AccessKeyId
from meshhold.registry.record import Kind
from meshhold.store.directory import Bucket, Directory, GrantFacts
from meshhold.store.vaults import Vaults

LABEL_LENGTH_MAX = 128


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just minted: the only time its secret is shown."""

    access_key_id: str
    secret_access_key: str
    label: str


@dataclass(frozen=True, slots=True)
class KeyView:
    """What people see of an access key; never its secret."""

    access_key_id: str
    label: str
    created_ms: int
    create_buckets: bool


@dataclass(frozen=True, slots=True)
class GrantView:
    """One grant as people see it."""

    access_key_id: str
    label: str
    vault_id: str
    vault_name: str
    alias: str
    permissions: str


class Access:
    """Access keys and grants of the vaults that this node can open."""

    def __init__(self, directory: Directory, vaults: Vaults) -> None:
        self._directory = directory
        self._vaults = vaults
        self._changes = trio.Lock()

    # -- asked at each request --------------------------------------------------------------------------------------

    def secret(self, key: AccessKeyId) -> str | None:
        """Return the secret that signs for this key, or None for a key that this node does not know."""
        return self._directory.secrets.get(key)

    def require(self, key: AccessKeyId, bucket: Bucket, permission: Permission) -> None:
        """Let the request pass. Errors: `DeniedError` names the command that would grant it."""
        grant = self._directory.grants.get((key, bucket.id))
        if grant is None or permission not in grant.permissions:
            raise DeniedError(
                f"access key {key} may not {permission} bucket {bucket.alias!r}",
                f"grant it with `meshhold s3-perm grant {key} {bucket.alias} {permission}`",
            )

    def may(self, key: AccessKeyId, bucket: Bucket, permission: Permission) -> bool:
        """Tell whether `require` would pass."""
        grant = self._directory.grants.get((key, bucket.id))
        return grant is not None and permission in grant.permissions

    def may_create_buckets(self, key: AccessKeyId) -> bool:
        """Tell whether the key was minted with `--create-buckets`."""
        facts = self._directory.keys.get(key)
        return facts is not None and facts.create_buckets

    # -- handled by people ------------------------------------------------------------------------------------------

    async def add_key(self, label: str, *, create_buckets: bool = False) -> NewKey:
        """Mint a key. Its secret is in the answer and nowhere else in the clear."""
        if len(label) > LABEL_LENGTH_MAX or not (label.isprintable() or not label):
            raise InvalidError(f"label {label!r} is not usable", f"use up to {LABEL_LENGTH_MAX} printable characters")
        nonce, secret = new_salt(), new_key_secret()
        private = {
            "secret": secret,
            "label": label,
            "created_ms": self._directory.now_ms(),
            "create_buckets": create_buckets,
        }
        record = self._directory.key_record(nonce, private)
        await self._directory.write(record)
        return NewKey(record.key, secret, label)

    def keys(self) -> list[KeyView]:
        """Return the keys minted here, oldest first."""
        facts = sorted(self._directory.keys.values(), key=lambda k: (k.created_ms, k.id))
        return [KeyView(k.id, k.label, k.created_ms, k.create_buckets) for k in facts]

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

    async def grant(self, key: str, vault: str, permissions: Permission, *, allow_list: bool = False) -> GrantView:
        """Let the key use the vault; replaces an earlier grant of the pair.

        Errors: `NoSuchAccessKeyError`, `NoSuchVaultError`; `InvalidError` for anonymous writes.
        """
        async with self._changes:
            directory = self._directory
            bucket = self._vaults.find(vault)
            access_key = self._known_key(key)
            if access_key == ANONYMOUS:
                if Permission.WRITE in permissions:
                    raise InvalidError("anonymous requests may never write", "grant `read` only")
                permissions |= Permission.LIST if allow_list else Permission.NONE
            elif Permission.READ in permissions:
                permissions |= Permission.LIST  # whoever may read a bucket with a key may list it
            facts = directory.keys.get(access_key)
            earlier = next((g for g in directory.grants.values() if g.key == access_key), None)
            private = {
                "permissions": permissions.value,
                "secret": directory.secrets.get(access_key, ""),
                "label": facts.label if facts else (earlier.label if earlier else ""),
            }
            record = directory.vault_record(
                bucket.keys, Kind.GRANT, f"{access_key}/{bucket.id}", public={}, private=private
            )
            await directory.write(record)
            return self._view(directory.grants[access_key, bucket.id])

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
        granted = any(holder == access_key for holder, _ in self._directory.grants)
        if access_key != ANONYMOUS and access_key not in self._directory.keys and not granted:
            raise NoSuchAccessKeyError(f"no access key {key!r} is known", "see `meshhold s3-key list`")
        return access_key

    def _view(self, grant: GrantFacts) -> GrantView:
        bucket = self._directory.by_id[grant.vault]
        shown = grant.permissions if grant.key == ANONYMOUS else grant.permissions & ~Permission.LIST
        return GrantView(grant.key, grant.label, bucket.id, bucket.name, bucket.alias, str(shown))
