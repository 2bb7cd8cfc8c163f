"""Who belongs to a vault, and in which role: add, remove, rotate the keys. Knows no link and no objects."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from meshhold.crypto.identity import seal_to
from meshhold.crypto.random import new_secret
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ConflictError, NotFoundError
from meshhold.model.ids import NodeId
from meshhold.registry.record import Kind, Record
from meshhold.store.directory import TRUSTED, UNTRUSTED, Bucket, Directory
from meshhold.store.nodes import Nodes
from meshhold.store.vaults import Vaults


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member of a vault as people see it; `reliable` counts towards the replication factor."""

    node_id: str
    name: str
    role: str
    zone: str
    reliable: bool


class Members:
    """Members of the vaults that this node is trusted in. Resources: borrows its collaborators."""

    def __init__(self, directory: Directory, vaults: Vaults, nodes: Nodes) -> None:
        self._directory = directory
        self._vaults = vaults
        self._nodes = nodes
        self._changes = trio.Lock()

    def views(self, vault: str) -> list[MemberView]:
        """Return a vault's members, by name."""
        found = []
        for record in self._records(self._vaults.find(vault)):
            node = NodeId(record.key.split("/", 1)[1])
            facts = self._nodes.facts(node)
            found.append(
                MemberView(
                    node_id=node,
                    name=facts.name if facts else "",
                    role=record.public["role"],
                    zone=facts.zone if facts else "",
                    reliable=facts.reliable if facts else False,
                )
            )
        return sorted(found, key=lambda view: (view.name, view.node_id))

    async def add(self, vault: str, node: str, *, trusted: bool = True) -> MemberView:
        """Let a node hold the vault: a trusted one gets its secrets, an untrusted one only ciphertext.

        Errors: `ConflictError` if it is a member in this role already. Making a trusted member untrusted takes
        `remove` first, which rotates the keys.
        """
        async with self._changes:
            bucket = self._vaults.find(vault)
            facts = self._nodes.find(node)
            role = TRUSTED if trusted else UNTRUSTED
            known = self._directory.registry.get(Kind.MEMBER, f"{bucket.id}/{facts.id}")
            if known is not None and known.public["role"] == role:
                raise ConflictError(f"{facts.name} is a {role} member of vault {bucket.name!r} already")
            if known is not None and known.public["role"] == TRUSTED:
                raise ConflictError(
                    f"{facts.name} is a trusted member of vault {bucket.name!r}",
                    "remove it first: that rotates the keys",
                )
            await self._directory.write(self._record(bucket.keys, facts.id, role))
        return next(view for view in self.views(vault) if view.node_id == facts.id)

    async def remove(self, vault: str, node: str) -> None:
        """End a membership. After a trusted member the keys are rotated: it cannot open what is written from now on.

        Errors: `NotFoundError`; `ConflictError` for this node itself while it is the last trusted member.
        """
        async with self._changes:
            bucket = self._vaults.find(vault)
            gone = self._named(bucket, node)
            others = [r for r in self._trusted(bucket) if r.key != gone.key]
            if not others:
                raise ConflictError(
                    f"it is the last trusted member of vault {bucket.name!r}",
                    "add another one first, or delete the vault",
                )
            deletion = self._directory.vault_deletion(bucket.keys, Kind.MEMBER, gone.key)
            rotated = self._rotated(bucket, others) if gone.public["role"] == TRUSTED else []
            await self._directory.write(*rotated, deletion)

    async def rotate(self, vault: str) -> int:
        """Give the vault's keys a new epoch, known to its present trusted members only; return the epoch."""
        async with self._changes:
            bucket = self._vaults.find(vault)
            await self._directory.write(*self._rotated(bucket, self._trusted(bucket)))
            return self._directory.by_id[bucket.id].keys.epoch

    def _named(self, bucket: Bucket, node: str) -> Record:
        """Find a member by name or unique prefix of its id, also one whose node was never heard of."""
        members = self._records(bucket)
        ids = [record for record in members if node and record.key.split("/", 1)[1].startswith(node)]
        if len(ids) == 1:
            return ids[0]
        facts = self._nodes.find(node)
        for record in members:
            if record.key == f"{bucket.id}/{facts.id}":
                return record
        raise NotFoundError(f"{facts.name} is no member of vault {bucket.name!r}", "see `meshhold vault members`")

    def _records(self, bucket: Bucket) -> list[Record]:
        return [record for record in self._directory.registry.live(Kind.MEMBER) if record.scope == bucket.id]

    def _trusted(self, bucket: Bucket) -> list[Record]:
        return [record for record in self._records(bucket) if record.public["role"] == TRUSTED]

    def _rotated(self, bucket: Bucket, members: list[Record]) -> list[Record]:
        secrets = dict(bucket.keys.secrets)
        first = secrets.pop(1)
        keys = VaultKeys(first, {**secrets, bucket.keys.epoch + 1: new_secret()})
        return [self._record(keys, NodeId(record.key.split("/", 1)[1]), TRUSTED) for record in members]

    def _record(self, keys: VaultKeys, node: NodeId, role: str) -> Record:
        public: dict[str, object] = {"role": role}
        if role == TRUSTED:
            public["secrets"] = [[epoch, seal_to(node, secret)] for epoch, secret in sorted(keys.secrets.items())]
        return self._directory.vault_record(keys, Kind.MEMBER, f"{keys.vault_id}/{node}", public=public, private={})
