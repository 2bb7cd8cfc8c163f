"""Who belongs to a vault, and in which role: add, remove, rotate the keys. Knows no link and no objects.

A trusted member may be one of those that keep the vault's index: so whoever comes may become one, and whoever goes is
replaced first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from meshhold.crypto.identity import seal_to
from meshhold.crypto.random import new_secret
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ConflictError, FatalError, MeshHoldError, NotFoundError, UnavailableError
from meshhold.model.configuration import Mode
from meshhold.model.ids import NodeId
from meshhold.registry.record import Kind, Record
from meshhold.store.directory import TRUSTED, UNTRUSTED, Bucket, Directory
from meshhold.store.index_replicas import IndexReplicas, IndexView
from meshhold.store.nodes import Nodes
from meshhold.store.vaults import Vaults

_LOG: Final = logging.getLogger("meshhold.index")
ADD_S: Final = 10.0
"""A person waits so long for a new member to keep the index too; a larger index is copied behind his back."""
AUTO: Final = "auto"
CHANGE_S: Final = 30.0
"""So long for what he asked for by name."""


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

    def __init__(self, directory: Directory, vaults: Vaults, nodes: Nodes, index_replicas: IndexReplicas) -> None:
        self._directory = directory
        self._vaults = vaults
        self._nodes = nodes
        self._index = index_replicas
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

        A trusted one may become an index replica; where that takes long, or it does not answer, it goes on by itself.
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
        if trusted:
            try:
                await self._index.renew(bucket.id, patience_s=ADD_S)
            except FatalError:
                raise
            except MeshHoldError as error:  # it is a member; the index is looked after by those that keep it
                _LOG.warning("the index replicas of vault %s stay as they are for now: %s", bucket.name, error)
        return next(view for view in self.views(vault) if view.node_id == facts.id)

    async def remove(self, vault: str, node: str, *, gone: bool = False) -> None:
        """End a membership. After a trusted member the keys are rotated: it cannot open what is written from now on.

        One that keeps the index is replaced first. `gone`: the machine is lost for good and never comes back with its
        data; then the other one of two index replicas, this node, goes on alone.
        Errors: `NotFoundError`; `ConflictError` for the last trusted member, or if this node cannot go on alone;
        `UnavailableError` while the index cannot be taken from it, or is still being moved: nothing was removed then.
        """
        async with self._changes:
            bucket = self._vaults.find(vault)
            member = self._named(bucket, node)
            others = [r for r in self._trusted(bucket) if r.key != member.key]
            if not others:
                raise ConflictError(
                    f"it is the last trusted member of vault {bucket.name!r}",
                    "add another one first, or delete the vault",
                )
            await self._take_index_from(bucket, NodeId(member.key.split("/", 1)[1]), gone=gone)
            deletion = self._directory.vault_deletion(bucket.keys, Kind.MEMBER, member.key)
            rotated = self._rotated(bucket, others) if member.public["role"] == TRUSTED else []
            await self._directory.write(*rotated, deletion)

    async def rotate(self, vault: str) -> int:
        """Give the vault's keys a new epoch, known to its present trusted members only; return the epoch."""
        async with self._changes:
            bucket = self._vaults.find(vault)
            await self._directory.write(*self._rotated(bucket, self._trusted(bucket)))
            return self._directory.by_id[bucket.id].keys.epoch

    # -- the index --------------------------------------------------------------------------------------------------

    async def index_view(self, vault: str) -> IndexView:
        """Return who keeps the vault's index, each of them asked. Errors: `NoMajorityError`."""
        return await self._index.view(self._vaults.find(vault))

    async def set_index(self, vault: str, replicas: Sequence[str] | None, consistency: str | None) -> bool:
        """Let these nodes keep the vault's index, `["auto"]` for those that this program chooses; None: as it is.

        Returns whether it is done; otherwise it goes on by itself.
        Errors: see `IndexReplicas.set`.
        """
        async with self._changes:
            bucket = self._vaults.find(vault)
            mode = None if consistency is None else Mode(consistency)
            auto = list(replicas or ()) == [AUTO]
            nodes = None if replicas is None or auto else [self._nodes.find(node).id for node in replicas]
            return await self._index.set(bucket, nodes, auto=auto, mode=mode, patience_s=CHANGE_S)

    async def _take_index_from(self, bucket: Bucket, node: NodeId, *, gone: bool) -> None:
        if not self._index.keeps(bucket.id, node):
            return
        if not await self._index.take_from(bucket, node, patience_s=CHANGE_S, gone=gone):
            raise UnavailableError(
                f"{self._nodes.name_of(node)} still keeps the index of vault {bucket.name!r}, while others take it "
                "over; it has not been removed yet",
                "run this again when `meshhold vault show` tells of no change any more",
            )

    # -- records ----------------------------------------------------------------------------------------------------

    def _named(self, bucket: Bucket, node: str) -> Record:
        """Find a member by name or unique prefix of its id, also one that is banned or was never heard of."""
        members = {record.key.split("/", 1)[1]: record for record in self._records(bucket)}
        found = [record for member, record in members.items() if self._nodes.name_of(NodeId(member)) == node]
        found = found or [record for member, record in members.items() if node and member.startswith(node)]
        if len(found) == 1:
            return found[0]
        facts = self._nodes.find(node)
        if facts.id in members:
            return members[facts.id]
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
