"""Who belongs to a vault, and in which role: add, remove, rotate the keys. Knows no link and no objects.

A trusted member may be one of those that keep the vault's index: so whoever comes may become one, and whoever goes is
replaced first. Any member may keep chunks that others lack: so whoever goes is marked as leaving, and is a member until
repair has moved all of them away.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from meshhold.crypto.random import new_secret
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ConflictError, FatalError, MeshHoldError, NotFoundError, UnavailableError
from meshhold.model.configuration import Mode
from meshhold.model.ids import NodeId
from meshhold.registry.record import Kind, Record, sign_by_vault
from meshhold.replication.chunks.survey_wire import Witness
from meshhold.store.directory import TRUSTED, UNTRUSTED, Bucket, Directory
from meshhold.store.fellows import Mendable
from meshhold.store.index_replicas import IndexReplicas, IndexView
from meshhold.store.nodes import Nodes
from meshhold.store.vaults import Vaults

_LOG: Final = logging.getLogger("meshhold.index")
ADD_S: Final = 10.0
"""A person waits so long for a new member to keep the index too; a larger index is copied behind his back."""
AUTO: Final = "auto"
CHANGE_S: Final = 30.0
"""So long for what he asked for by name."""
LOOK_EVERY_S: Final = 2.0
LOOKS_EMPTY: Final = 2
"""So many looks in a row find nothing left: a write that began before others heard of it may still have come."""
SILENCES_MAX: Final = 15
"""So many looks in a row a member that leaves may not answer: a restart and a link that is made anew."""
Progress = Callable[[dict[str, Any]], Awaitable[None]]


async def _unwatched(_: dict[str, Any]) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member of a vault as people see it; `reliable` counts towards the replication factor.

    `leaving`: it is a member until what it keeps has been moved away.
    """

    node_id: str
    name: str
    role: str
    zone: str
    reliable: bool
    leaving: bool = False


class Members:
    """Members of the vaults that this node is trusted in.

    `fellows` tells what members keep; without it nobody is waited for. Resources: borrows its collaborators.
    """

    def __init__(
        self,
        directory: Directory,
        vaults: Vaults,
        nodes: Nodes,
        index_replicas: IndexReplicas,
        fellows: Mendable | None = None,
    ) -> None:
        self._directory = directory
        self._vaults = vaults
        self._nodes = nodes
        self._index = index_replicas
        self._fellows = fellows
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
                    leaving=_is_leaving(record),
                )
            )
        return sorted(found, key=lambda view: (view.name, view.node_id))

    async def add(self, vault: str, node: str, *, trusted: bool = True) -> MemberView:
        """Let a node hold the vault: a trusted one gets its secrets, an untrusted one only ciphertext.

        A trusted one may become an index replica; where that takes long, or it does not answer, it goes on by itself.
        One that is leaving stays a member by that.
        Errors: `ConflictError` if it is a member in this role already. Making a trusted member untrusted takes
        `remove` first, which rotates the keys.
        """
        async with self._changes:
            bucket = self._vaults.find(vault)
            facts = self._nodes.find(node)
            role = TRUSTED if trusted else UNTRUSTED
            known = self._directory.registry.get(Kind.MEMBER, f"{bucket.id}/{facts.id}")
            if known is not None and known.public["role"] == role and not _is_leaving(known):
                raise ConflictError(f"{facts.name} is a {role} member of vault {bucket.name!r} already")
            if known is not None and known.public["role"] == TRUSTED and role != TRUSTED:
                raise ConflictError(
                    f"{facts.name} is a trusted member of vault {bucket.name!r}",
                    "remove it first: that rotates the keys",
                )
            await self._directory.write(self._directory.member_record(bucket.keys, facts.id, role))
        if trusted:
            try:
                await self._index.renew(bucket.id, patience_s=ADD_S)
            except FatalError:
                raise
            except MeshHoldError as error:  # it is a member; the index is looked after by those that keep it
                _LOG.warning("the index replicas of vault %s stay as they are for now: %s", bucket.name, error)
        return next(view for view in self.views(vault) if view.node_id == facts.id)

    async def remove(self, vault: str, node: str, *, gone: bool = False, progress: Progress = _unwatched) -> int:
        """End a membership. After a trusted member the keys are rotated: it cannot open what is written from now on.

        First it is marked as leaving, one that keeps the index is replaced, and what it keeps is waited for to be moved
        away; a caller that stops waiting leaves it leaving, and the next call goes on. `gone`: the machine is lost for
        good and never comes back with its data; then nothing is waited for, and the other one of two index replicas,
        this node, goes on alone. Returns how many chunks lost a copy by that, about, until repair has made others.
        Errors: `NotFoundError`; `ConflictError` for the last trusted member, or if this node cannot go on alone;
        `UnavailableError` while the index cannot be taken from it or is still being moved, or if it
        does not answer: it is a member yet.
        """
        async with self._changes:
            bucket = self._vaults.find(vault)
            member = self._named(bucket, node)
            name = NodeId(member.key.split("/", 1)[1])
            self._others(bucket, member)
            fellows = None if gone else self._who_tells(bucket, name)
            if fellows is not None and not _is_leaving(member):
                await self._directory.write(self._leaving(bucket, member))
            await self._take_index_from(bucket, name, gone=gone)
        if fellows is not None:
            fellows.repair_soon(bucket.id)
            await self._wait_until_empty(fellows.witness_of(name), bucket, name, progress)
        async with self._changes:
            bucket = self._vaults.find(bucket.id)
            member = self._named(bucket, name)
            if fellows is not None and not _is_leaving(member):
                raise ConflictError(f"{self._nodes.name_of(name)} was added again meanwhile", "remove it once more")
            others = self._others(bucket, member)
            short = await self._kept_by(bucket, name) if gone else 0
            deletion = self._deletion(bucket, member, gone=gone)
            rotated = self._rotated(bucket, others) if member.public["role"] == TRUSTED else []
            await self._directory.write(*rotated, deletion)
        if self._fellows is not None:
            self._fellows.repair_soon(bucket.id)
        return short

    def _others(self, bucket: Bucket, member: Record) -> list[Record]:
        """Return the other trusted members. Errors: `ConflictError` if there is none that stays."""
        others = [r for r in self._trusted(bucket) if r.key != member.key]
        if all(map(_is_leaving, others)):
            raise ConflictError(
                f"it is the last trusted member of vault {bucket.name!r}",
                "add another one first, or delete the vault",
            )
        return others

    # -- what it keeps ------------------------------------------------------------------------------------------------

    def _who_tells(self, bucket: Bucket, node: NodeId) -> Mendable | None:
        """Return whoever can ask a member what it keeps, or None: one that is banned keeps nothing that counts."""
        view = None if self._fellows is None else self._fellows.view(bucket.id)
        asked = view is not None and node in view.members and not self._nodes.is_banned(node)
        return self._fellows if asked else None

    def _leaving(self, bucket: Bucket, member: Record) -> Record:
        public = {**member.public, "leaving": True}
        return self._directory.vault_record(bucket.keys, Kind.MEMBER, member.key, public=public, private={})

    def _deletion(self, bucket: Bucket, member: Record, *, gone: bool) -> Record:
        """Return the end of a membership. `gone`: what it had was given up with it, and may be handed over one day."""
        public = {"gone": True} if gone else {}
        deletion = Record(
            Kind.MEMBER, member.key, self._directory.next_stamp(), deleted=True, public=public, private=b""
        )
        return sign_by_vault(deletion, bucket.keys)

    async def _wait_until_empty(self, witness: Witness, bucket: Bucket, node: NodeId, progress: Progress) -> None:
        """Return when nothing is left of a vault on a member, and nothing comes there any more.

        Errors: `UnavailableError` if it does not tell.
        """
        name = self._nodes.name_of(node)
        empty = silences = 0
        while empty < LOOKS_EMPTY:
            if empty or silences:
                await trio.sleep(LOOK_EVERY_S)
            try:
                stock = await witness.stock(bucket.id)
            except FatalError:
                raise
            except MeshHoldError as error:
                silences += 1
                if silences < SILENCES_MAX:
                    continue
                raise UnavailableError(
                    f"{name} does not tell what it keeps of vault {bucket.name!r}: {error.message}; it is leaving, and "
                    "others take nothing from it while it is away",
                    "start it and run this again; if it will never come back with its data, use --gone",
                ) from error
            silences = 0
            if not stock.chunks and not stock.may_take:
                empty += 1
                continue
            empty = 0
            await progress({"leaving": name, "chunks": stock.chunks, "bytes": stock.bytes})
            await trio.sleep(LOOK_EVERY_S)

    async def _kept_by(self, bucket: Bucket, node: NodeId) -> int:
        """Return of how many chunks a member was to keep a copy, as far as this node's own chunks tell."""
        view = None if self._fellows is None else self._fellows.view(bucket.id)
        if self._fellows is None or view is None:
            return 0
        me = self._directory.identity.node_id
        partitions = [view.holders_in(partition) for partition in range(view.ring.partitions)]
        mine, its = (sum(each in holders for holders in partitions) for each in (me, node))
        stock = await self._fellows.witness_of(me).stock(bucket.id)
        return round(stock.chunks * its / mine) if mine else 0

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
        directory = self._directory
        keys = VaultKeys(first, {**secrets, bucket.keys.epoch + 1: new_secret()})
        return [
            directory.member_record(keys, NodeId(record.key.split("/", 1)[1]), TRUSTED, leaving=_is_leaving(record))
            for record in members
        ]


def _is_leaving(record: Record) -> bool:
    return record.public.get("leaving") is True
