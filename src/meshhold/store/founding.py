"""How is a vault made ready for use: on this node alone, or shared as another one is? Knows no S3 and no socket.

A vault that is made like another one begins with this node's replica alone and goes to the others by an ordinary change
of replicas, which of an empty index takes a few rounds. To give all of them seats from the beginning would save these,
and is not safe: a node that finds itself with a seat and no state cannot tell whether it is new or was wiped, and has
to stay silent for a whole ballot window before it votes (see `replication.healing.enrolment`). The joint epoch is what
proves that it is new.

Whoever asked for the vault gets the right to write to it last: so one that could not be shared can be taken back, since
nobody has put anything into it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from meshhold.errors import ConflictError, FatalError, NoSuchVaultError
from meshhold.model.configuration import Mode
from meshhold.model.grant import Permission
from meshhold.model.ids import AccessKeyId, NodeId, VaultId
from meshhold.registry.record import Kind, Record
from meshhold.replication.index.seats import Seats
from meshhold.rules.lock import NO_LOCK, BucketLock
from meshhold.store.access import Access
from meshhold.store.directory import Directory
from meshhold.store.index_replicas import IndexReplicas
from meshhold.store.likeness import Likeness, likeness_of
from meshhold.store.nodes import Nodes
from meshhold.store.vaults import Vaults, VaultView

SHARE_S: Final = 20.0
"""So long others may take to keep the index of an empty vault: less than S3 clients wait for an answer."""
TAKE_BACK_S: Final = 10.0
FOUNDER: Final = Permission.READ | Permission.WRITE | Permission.OWN
"""What the key that a bucket was made for may do."""
Tell = Callable[[Sequence[NodeId], Sequence[Record]], Awaitable[None]]
"""Gives records to these nodes, as far as they answer at once. Idempotent; no error of theirs is raised."""


async def _tell_nobody(_: Sequence[NodeId], __: Sequence[Record]) -> None:
    """Tell nobody: a node alone has no peers."""


class Founding:
    """Makes vaults. Resources: borrows its collaborators."""

    def __init__(
        self,
        directory: Directory,
        vaults: Vaults,
        access: Access,
        nodes: Nodes,
        seats: Seats,
        index: IndexReplicas,
        tell: Tell = _tell_nobody,
    ) -> None:
        self._directory = directory
        self._vaults = vaults
        self._access = access
        self._nodes = nodes
        self._seats = seats
        self._index = index
        self._tell = tell

    async def create(
        self,
        name: str,
        *,
        like: str | None = None,
        alias: str = "",
        lock: BucketLock = NO_LOCK,
        owner: AccessKeyId | None = None,
    ) -> VaultView:
        """Make a vault that `owner` may do everything with, shared as `like` is or else on this node alone.

        When this returns, a majority of the replicas that `like` has keeps the index, and the members that answer know
        of the vault and of the owner's grant; members that are away take part when they return.
        Errors: those of `Vaults.create`; `NoSuchVaultError` for `like`; `ConflictError` if its consistency does not go
        with `lock`; `UnavailableError` and `NoMajorityError` if too few of its members answer: there is no vault then.
        """
        if like is None:
            made = await self._vaults.create(name, alias=alias, lock=lock)
        else:
            likeness = self._likeness(like, lock)
            made = await self._vaults.create(name, alias=alias, lock=lock, likeness=likeness)
            await self._share(VaultId(made.id), likeness)
        if owner is not None:
            await self._access.grant(owner, made.id, FOUNDER)
        if like is not None:
            await self._tell_members(VaultId(made.id), likeness)
            made = await self._vaults.view(made.id)
        return made

    def _likeness(self, like: str, lock: BucketLock) -> Likeness:
        model = self._vaults.find(like)
        found = likeness_of(self._directory, self._nodes, model, self._seats.configuration(model.id))
        if found.mode is Mode.AVAILABLE and lock != NO_LOCK:
            raise ConflictError(
                f"vault {model.name!r} goes on where its replicas do not reach each other, and they could not agree on "
                "the order of locked versions",
                "create it without object lock, or like a vault that is linearizable",
            )
        return found

    async def _share(self, vault: VaultId, likeness: Likeness) -> None:
        """Let the replicas keep the vault's index, or delete it."""
        try:
            await self._index.share(vault, likeness.replicas, likeness.mode, patience_s=SHARE_S)
        except FatalError:
            raise
        except BaseException:  # cancellation too: whoever asked will not hear that there is a vault
            with trio.CancelScope(shield=True, deadline=trio.current_time() + TAKE_BACK_S):
                await self._take_back(vault)
            raise

    async def _take_back(self, vault: VaultId) -> None:
        try:
            await self._vaults.delete(vault, force=True, break_locks=True)
        except NoSuchVaultError:
            return  # somebody deleted it meanwhile

    async def _tell_members(self, vault: VaultId, likeness: Likeness) -> None:
        """Give the vault's records to its members: clients ask any of them as soon as they have the answer."""
        kinds = (Kind.VAULT, Kind.MEMBER, Kind.ALIAS, Kind.RULES, Kind.INDEX, Kind.GRANT)
        registry = self._directory.registry
        records = [record for kind in kinds for record in registry.live(kind) if record.scope == vault]
        me = self._directory.identity.node_id
        await self._tell([node for node, _ in likeness.members if node != me], records)
