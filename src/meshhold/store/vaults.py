"""Vaults as people handle them: create, find, name, show, delete. Knows neither S3 nor signatures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from meshhold.blocking import RunBlocking
from meshhold.chunkstore.contract import ChunkStore
from meshhold.crypto.random import new_secret
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import (
    AliasTakenError,
    BucketNotEmptyError,
    ConflictError,
    InvalidError,
    LockedError,
    NoMajorityError,
    NoSuchBucketError,
    NoSuchVaultError,
)
from meshhold.index.contract import Counts
from meshhold.model.configuration import Configuration, Mode
from meshhold.model.entry import Lock, ObjectVersion, Space, describe_key
from meshhold.model.ids import AccessKeyId, VaultId, check_bucket_name, short_id
from meshhold.registry.record import Kind, Record
from meshhold.registry.shape import FACTOR_MAX
from meshhold.replication.index.registers import Registers
from meshhold.replication.tasks import open_tasks
from meshhold.rules.bucket import Aspect
from meshhold.rules.lock import NO_LOCK, BucketLock, check_removal
from meshhold.rules.quota import NO_QUOTA, Quota
from meshhold.rules.stack import top_of
from meshhold.rules.versioning import Versioning
from meshhold.store.bucket_rules import BucketRulesKeeper
from meshhold.store.directory import TRUSTED, Bucket, Directory
from meshhold.store.gates import Gates
from meshhold.store.likeness import Likeness

NAME_LENGTH_MAX = 128
COUNTS_S = 3.0  # a list of vaults does not wait longer for a machine that is gone
_PAGE = 500


@dataclass(frozen=True, slots=True)
class VaultView:
    """What people see of a vault; `bytes` are plaintext bytes of live objects.

    `objects` and `bytes` are None while no replica tells them. `index_replicas` are node ids, none while this node does
    not know who keeps the index; `consistency` is one of `model.configuration.Mode`, `index_changing` whether the
    replicas are being changed, `index_pinned` whether people chose them; `votes` is False while a replica of this node
    is refilled.

    `snapshot_ms` (since 1970) is when the newest snapshot of the index that is known here was begun: what `recover`
    would bring back. None if there is none yet.
    `alias_conflict` names the vault that claimed the same alias earlier, so that S3 shows that one; else it is `""`.
    """

    id: str
    name: str
    alias: str
    created_ms: int
    replication_factor: int
    objects: int | None
    bytes: int | None
    index_replicas: tuple[str, ...]
    consistency: str
    index_changing: bool
    index_pinned: bool
    votes: bool
    snapshot_ms: int | None = None
    alias_conflict: str = ""
    quota_bytes: int | None = None
    quota_objects: int | None = None


class Vaults:
    """The vaults that this node is trusted in.

    Resources: borrows its collaborators; closes nothing.
    """

    def __init__(
        self,
        directory: Directory,
        registers: Registers,
        chunks: ChunkStore,
        run_blocking: RunBlocking,
        gates: Gates,
        lock_now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._directory = directory
        self._registers = registers
        self._chunks = chunks
        self._run_blocking = run_blocking
        self._gates = gates
        self._lock_now_ms = lock_now_ms or directory.now_ms
        self._changes = trio.Lock()
        self._rules = BucketRulesKeeper(directory)
        self._dropped: set[VaultId] = set()

    async def create(
        self,
        name: str,
        *,
        replication_factor: int = 3,
        alias: str = "",
        lock: BucketLock = NO_LOCK,
        likeness: Likeness | None = None,
    ) -> VaultView:
        """Make a vault with fresh keys, durable when this returns, and with it whether its versions can be locked.

        With a `likeness` it has its members and factor; its index is kept by this node alone in any case: see
        `Founding`, which lets others keep it.
        Errors: `InvalidError` for a name or factor out of range, `AliasTakenError`.
        """
        _check_name(name)
        _check_factor(replication_factor if likeness is None else likeness.replication_factor)
        async with self._changes:
            if alias:
                self._check_alias(alias, VaultId(""))
            if any(bucket.name == name for bucket in self._directory.by_id.values()):
                raise ConflictError(f"a vault named {name!r} exists", "choose another name")
            vault = await self._write_new(name, likeness or Likeness(replication_factor), alias, lock)
            return await self._view(self._directory.by_id[vault])

    async def _write_new(self, name: str, likeness: Likeness, alias: str, lock: BucketLock) -> VaultId:
        directory = self._directory
        secret = new_secret()
        keys = VaultKeys(secret)
        node = directory.identity.node_id
        public: dict[str, Any] = {"replication_factor": likeness.replication_factor, "index_replicas": [node]}
        if likeness.pinned:
            public |= {"index_pinned": True, "index_awaited": list(likeness.replicas)}
        private = {"name": name, "created_ms": directory.now_ms()}
        roles = dict(likeness.members) | {node: TRUSTED}
        records = [
            directory.vault_record(keys, Kind.VAULT, keys.vault_id, public=public, private=private),
            *(directory.member_record(keys, member, role) for member, role in roles.items()),
        ]
        if alias:
            records.append(directory.vault_record(keys, Kind.ALIAS, keys.vault_id, public={}, private={"alias": alias}))
        if lock != NO_LOCK:
            rule = {"value": lock.pack()}
            key = f"{keys.vault_id}/{Aspect.LOCK}"
            records.append(directory.vault_record(keys, Kind.RULES, key, public={}, private=rule))
        await self._registers.seats.found(keys.vault_id)
        await directory.write(*records)
        return keys.vault_id

    async def views(self) -> list[VaultView]:
        """Return all vaults by name."""
        buckets = sorted(self._directory.by_id.values(), key=lambda b: (b.name, b.id))
        found: dict[VaultId, VaultView] = {}

        async def look(bucket: Bucket) -> None:
            found[bucket.id] = await self._view(bucket)

        async with open_tasks() as nursery:  # side by side: a replica that is gone costs its time-out once
            for bucket in buckets:
                nursery.start_soon(look, bucket)
        return [found[bucket.id] for bucket in buckets]

    async def view(self, reference: str) -> VaultView:
        """Return one vault by unique id prefix, name or alias."""
        return await self._view(self.find(reference))

    def find(self, reference: str) -> Bucket:
        """Return the one vault that `reference` names: an id or unique prefix of it, a name, or an alias.

        Errors: `NoSuchVaultError`; `InvalidError` when several match.
        """
        buckets = self._directory.by_id.values()
        exact = [b for b in buckets if reference in (b.id, b.name, b.alias)] if reference else []
        found = exact or [b for b in buckets if reference and b.id.startswith(reference)]
        if not found:
            raise NoSuchVaultError(f"no vault is called {reference!r}", "see `meshhold vault list`")
        if len(found) > 1:
            names = ", ".join(f"{b.name} ({short_id(b.id)})" for b in found)
            raise InvalidError(f"{reference!r} names several vaults: {names}", "use a longer prefix of the id")
        return found[0]

    def bucket(self, alias: str) -> Bucket:
        """Return the vault behind an S3 bucket name. Errors: `NoSuchBucketError`."""
        bucket = self._directory.by_alias.get(alias)
        if bucket is None:
            raise NoSuchBucketError(f"no vault carries the alias {alias!r}", "see `meshhold vault s3-alias`")
        return bucket

    def known_alias(self, alias: str) -> Bucket | None:
        """Return the vault that carries an alias, or None."""
        return self._directory.by_alias.get(alias)

    async def set_alias(self, reference: str, alias: str) -> VaultView:
        """Let S3 show the vault as bucket `alias`; `""` hides it. A vault carries at most one alias.

        Errors: `InvalidError` for a name that S3 does not allow, `AliasTakenError`.
        """
        async with self._changes:
            bucket = self.find(reference)
            keys = bucket.keys
            if alias:
                self._check_alias(alias, bucket.id)
            if alias == bucket.alias:
                return await self._view(bucket)
            if alias:
                record = self._directory.vault_record(keys, Kind.ALIAS, bucket.id, public={}, private={"alias": alias})
            else:
                record = self._directory.vault_deletion(keys, Kind.ALIAS, bucket.id)
            await self._directory.write(record)
            return await self._view(self._directory.by_id[bucket.id])

    async def set_factor(self, reference: str, replication_factor: int) -> VaultView:
        """Change on how many machines each chunk is kept. Errors: `InvalidError`."""
        _check_factor(replication_factor)
        async with self._changes:
            bucket = self.find(reference)
            if bucket.replication_factor != replication_factor:
                changed = self._directory.changed_vault(bucket, replication_factor=replication_factor)
                await self._directory.write(changed)
        return await self.view(bucket.id)

    async def set_quota(self, reference: str, most_bytes: int | None, most_objects: int | None) -> VaultView:
        """Change how much the vault may hold: None leaves a limit as it is, 0 takes it away."""
        async with self._changes:
            bucket = self.find(reference)
            earlier = bucket.rules.quota or NO_QUOTA
            quota = Quota(
                earlier.bytes if most_bytes is None else most_bytes or None,
                earlier.objects if most_objects is None else most_objects or None,
            )
            await self._rules.set(bucket, Aspect.QUOTA, None if quota == NO_QUOTA else quota)
        return await self.view(bucket.id)

    async def delete(
        self, reference: str, *, force: bool = False, with_uploads: bool = False, break_locks: bool = False
    ) -> None:
        """Delete the vault, its grants and its alias; its objects and chunks go with it.

        `with_uploads`: unfinished uploads are no reason to keep it, as S3's DeleteBucket sees it.
        Errors: `BucketNotEmptyError` while it holds objects or uploads, unless `force`; `LockedError` while compliance
        or a legal hold keeps a version, unless `break_locks`: governance gives way to who operates the machine.
        """
        async with self._changes:
            bucket = self.find(reference)
            async with self._gates.closed(bucket.id):
                if not force and await self._holds_anything(bucket, with_uploads=with_uploads):
                    raise BucketNotEmptyError(
                        f"vault {bucket.name!r} holds objects{'' if with_uploads else ' or unfinished uploads'}",
                        "delete them, or use --force",
                    )
                if bucket.rules.lock.enabled and not break_locks:
                    await self._check_locks(bucket)
                await self._directory.write(*self._deletions(bucket))
                await self._drop(bucket.id)

    def _deletions(self, bucket: Bucket) -> list[Record]:
        directory = self._directory
        gone = [
            directory.vault_deletion(bucket.keys, Kind.GRANT, f"{grant.key}/{bucket.id}")
            for grant in directory.grants.values()
            if grant.vault == bucket.id
        ]
        gone += [
            directory.vault_deletion(bucket.keys, Kind.MEMBER, member.key)
            for member in directory.registry.live(Kind.MEMBER)
            if member.scope == bucket.id
        ]
        gone += [
            directory.vault_deletion(bucket.keys, Kind.RULES, rule.key)
            for rule in directory.registry.live(Kind.RULES)
            if rule.scope == bucket.id
        ]
        if directory.registry.get(Kind.SNAPSHOT, bucket.id) is not None:
            gone.append(directory.vault_deletion(bucket.keys, Kind.SNAPSHOT, bucket.id))
        gone.append(directory.vault_deletion(bucket.keys, Kind.ALIAS, bucket.id))
        gone.append(directory.vault_deletion(bucket.keys, Kind.VAULT, bucket.id))
        return gone

    async def drop_deleted(self) -> None:
        """Drop the data of vaults that were deleted: elsewhere, or here before a crash. Each is dropped once a run."""
        for vault in self._directory.deleted_vaults():
            if vault not in self._dropped:
                async with self._changes, self._gates.closed(vault):
                    await self._drop(vault)

    async def _drop(self, vault: VaultId) -> None:
        await self._registers.drop_vault(vault)
        await self._run_blocking(self._chunks.drop_vault, vault)
        self._dropped.add(vault)

    async def _holds_anything(self, bucket: Bucket, *, with_uploads: bool) -> bool:
        reading = self._registers.open_reading(bucket.id)
        while True:
            found = await reading.rows(b"", b"", 1)
            if await reading.settle():
                break
        if found or (bucket.rules.versioning is not Versioning.NEVER and await self._holds_versions(bucket)):
            return True
        if with_uploads:
            return False
        after = b""
        while page := await self._registers.scan(bucket.id, Space.UPLOADS, after, b"", _PAGE):
            if any(entry.value is not None for _, entry in page):
                return True
            after = page[-1][0]
            await trio.lowlevel.checkpoint()
        return False

    async def _holds_versions(self, bucket: Bucket) -> bool:
        """Tell whether there is any version or delete marker: below every version that is left is a current one."""
        after = b""
        while page := await self._registers.scan(bucket.id, Space.OBJECTS, after, b"", _PAGE):
            if any(top_of(entry.value) is not None for _, entry in page):
                return True
            after = page[-1][0]
            await trio.lowlevel.checkpoint()
        return False

    async def _check_locks(self, bucket: Bucket) -> None:
        for space in (Space.OBJECTS, Space.VERSIONS):
            after = b""
            while page := await self._registers.scan(bucket.id, space, after, b"", _PAGE):
                for key, entry in page:
                    if isinstance(entry.value, ObjectVersion) and entry.value.extras.lock is not None:
                        self._check_lock(bucket, describe_key(space, key), entry.value.extras.lock)
                after = page[-1][0]
                await trio.lowlevel.checkpoint()

    def _check_lock(self, bucket: Bucket, name: str, lock: Lock) -> None:
        try:
            check_removal(lock, self._lock_now_ms(), may_bypass=True)
        except LockedError as error:
            raise LockedError(
                f"vault {bucket.name!r} holds locked versions, such as {name}: {error.message}",
                "wait, or delete it in spite of them with --force --break-locks",
            ) from error

    def _check_alias(self, alias: str, vault: VaultId) -> None:
        check_bucket_name(alias)
        owner = self._directory.by_alias.get(alias)
        if owner is not None and owner.id != vault:
            raise AliasTakenError(
                f"alias {alias!r} belongs to vault {owner.name!r} ({short_id(owner.id)})",
                'choose another alias, or clear that one with `meshhold vault s3-alias VAULT ""`',
            )

    def granted(self, key: AccessKeyId) -> list[Bucket]:
        """Return the buckets that S3 shows to an access key, by alias."""
        granted = {vault for (holder, vault) in self._directory.grants if holder == key}
        return [b for alias, b in sorted(self._directory.by_alias.items()) if b.id in granted]

    async def _view(self, bucket: Bucket) -> VaultView:
        seats = self._registers.seats
        counts: Counts | None = None
        configuration: Configuration | None = None
        with suppress(NoMajorityError), trio.move_on_after(COUNTS_S):
            configuration = seats.configuration(bucket.id)
            counts = await self._registers.counts(bucket.id)
        is_keeper = configuration is not None and configuration.seat_of(seats.node) is not None
        votes = not is_keeper or seats.votes(bucket.id)
        if not votes:
            counts = None  # of what has come back so far
        quota = bucket.rules.quota or NO_QUOTA
        return VaultView(
            id=bucket.id,
            name=bucket.name,
            alias=bucket.alias,
            created_ms=bucket.created_ms,
            replication_factor=bucket.replication_factor,
            objects=None if counts is None else counts.objects,
            bytes=None if counts is None else counts.bytes,
            index_replicas=() if configuration is None else configuration.members,
            consistency=str(Mode.LINEARIZABLE if configuration is None else configuration.mode),
            index_changing=configuration is not None and configuration.is_joint,
            index_pinned=bucket.index_pinned,
            votes=votes,
            snapshot_ms=self._snapshot_ms(bucket.id),
            alias_conflict=self._directory.conflicts.get(bucket.id, ""),
            quota_bytes=quota.bytes,
            quota_objects=quota.objects,
        )

    def _snapshot_ms(self, vault: VaultId) -> int | None:
        record = self._directory.registry.get(Kind.SNAPSHOT, vault)
        return None if record is None else int(record.public["taken_ms"])


def _check_factor(replication_factor: int) -> None:
    if not 1 <= replication_factor <= FACTOR_MAX:
        raise InvalidError(f"replication factor {replication_factor} is out of range", f"use 1 to {FACTOR_MAX}")


def _check_name(name: str) -> None:
    if not name or len(name) > NAME_LENGTH_MAX or not name.isprintable() or name.strip() != name:
        raise InvalidError(
            f"vault name {name!r} is not usable", f"use 1 to {NAME_LENGTH_MAX} printable characters, no space around"
        )
