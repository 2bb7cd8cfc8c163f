"""May this machine be switched off? Empties a node, or asks another one to be emptied; moves no byte itself.

A node that is drained says so in its own record. Every ring leaves it out, so that all it keeps is surplus and repair
moves it to others; indexes that it keeps are given to other members. It takes no chunk any more, also from whoever has
not heard yet. It is safe to switch off when it has nothing left, and nothing is on its way to it, twice in a row.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from meshhold.errors import (
    ConflictError,
    DeniedError,
    FatalError,
    MeshHoldError,
    PeerUnreachableError,
    ProtocolError,
)
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.peering.dispatch import Dispatch
from meshhold.registry.record import Kind
from meshhold.replication.chunks.holders import View
from meshhold.replication.chunks.survey_wire import Caller, Stock
from meshhold.replication.tasks import open_tasks
from meshhold.store.directory import TRUSTED, Bucket, Directory
from meshhold.store.fellows import Mendable
from meshhold.store.nodes import Nodes

_LOG: Final = logging.getLogger("meshhold.drain")
DRAIN: Final = "node.drain/1"
LOOK_EVERY_S: Final = 2.0
LOOKS_EMPTY: Final = 2
CALL_S: Final = 60.0
"""A node counts all its chunks for an answer."""
ASK_S: Final = 15.0
INDEX_EVERY_S: Final = 10.0
SILENCES_MAX: Final = 15
"""So many looks in a row a node that is drained may not answer: a restart and a link that is made anew."""
WORDS_MAX: Final = 100
_BEGIN: Final = "begin"
_END: Final = "end"
_LOOK: Final = "look"
Progress = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class DrainView:
    """How far a node is. `chunks` and `bytes` are still there; `indexes` names the vaults whose index it keeps.

    `waiting` says what is in the way; `is_safe`: nothing is lost if it is switched off for good.
    """

    node_id: str
    name: str
    draining: bool
    chunks: int
    bytes: int
    indexes: tuple[str, ...]
    waiting: tuple[str, ...]
    is_safe: bool


class Indexes(Protocol):
    """Who keeps the indexes; see `store.index_replicas`."""

    def keeps(self, vault: VaultId, node: NodeId) -> bool:
        """Tell whether a node keeps a vault's index."""

    async def take_from(self, bucket: Bucket, node: NodeId, *, patience_s: float) -> bool:
        """Let others keep an index in place of `node`; return whether that is done."""


class Drains:
    """Drains this node, and forwards to others.

    `vaults` names the vaults that this node is a member of; `waiting` says why repair of one does not go on, or `""`;
    `is_member` tells whether a node is a member of a vault. Resources: borrows its collaborators.
    """

    def __init__(
        self,
        directory: Directory,
        nodes: Nodes,
        fellows: Mendable,
        indexes: Indexes,
        peers: Caller,
        *,
        vaults: Callable[[], Iterable[VaultId]],
        waiting: Callable[[VaultId], str] = lambda _vault: "",
        is_member: Callable[[VaultId, NodeId], bool],
    ) -> None:
        self._directory = directory
        self._nodes = nodes
        self._fellows = fellows
        self._indexes = indexes
        self._peers = peers
        self._vaults = vaults
        self._waiting = waiting
        self._is_member = is_member
        self._me = directory.identity.node_id
        self._index_due_s = float("-inf")

    def register(self, dispatch: Dispatch) -> None:
        """Answer peers' calls."""
        dispatch.on_call(DRAIN, self._handle)

    # -- asked by people ----------------------------------------------------------------------------------------------

    async def run(
        self, node: str | None, progress: Progress, *, undo: bool = False, force: bool = False, wait: bool = True
    ) -> DrainView:
        """Drain a node, this one if it is None, and with `wait` go on until it is empty; with `undo` let it fill again.

        To end the wait changes nothing: the node goes on being emptied. `force` drains it although others cannot take
        over everything.
        Errors: `ConflictError` says what others cannot take over; nothing has changed then. `PeerUnreachableError`;
        `CallRefusedError` of a node that takes no such order from this one.
        """
        target = self._me if node is None else self._nodes.find(node).id
        view = await self._order(target, _END if undo else _BEGIN, force=force)
        empty = silences = 0
        while wait and not undo:
            empty = empty + 1 if view.is_safe else 0
            if empty >= LOOKS_EMPTY:
                break
            await progress(_step(view))
            await trio.sleep(LOOK_EVERY_S)
            try:
                view = await self._order(target, _LOOK)
                silences = 0
            except FatalError:
                raise
            except MeshHoldError:
                silences, empty = silences + 1, 0
                if silences >= SILENCES_MAX:
                    raise
            if not view.draining:
                raise ConflictError(f"the draining of {view.name} was undone meanwhile", "run this again")
        return view

    async def _order(self, node: NodeId, what: str, *, force: bool = False) -> DrainView:
        if node == self._me:
            return await self._obey(what, force=force)
        name = self._nodes.name_of(node)
        if not self._fellows.is_live(node):
            raise PeerUnreachableError(
                f"{name} is not connected to this node", "start it, or run `meshhold node drain` on that machine"
            )
        answer = await self._peers.call(node, DRAIN, {"a": what, "f": force}, timeout_s=CALL_S)
        return _unpack(answer, node, name)

    # -- here ---------------------------------------------------------------------------------------------------------

    async def _handle(self, peer: NodeId, body: Any) -> Any:
        what, force = (body.get("a"), body.get("f")) if isinstance(body, dict) else (None, None)
        if what not in {_BEGIN, _END, _LOOK} or type(force) is not bool:
            raise ProtocolError("an order to drain has another form")
        for vault in self._vaults():
            record = self._directory.registry.get(Kind.MEMBER, f"{vault}/{peer}")
            if record is None or record.public["role"] != TRUSTED or self._nodes.is_banned(peer):
                raise DeniedError(
                    "only a trusted member of all vaults that this node holds may drain it from afar",
                    "run `meshhold node drain` on that machine",
                )
        return _pack(await self._obey(str(what), force=force))

    async def _obey(self, what: str, *, force: bool) -> DrainView:
        if what == _END:
            await self._nodes.set_draining(draining=False)
        elif what == _BEGIN and not self._is_draining():
            await self._refuse_unless_others_can(force=force)
            await self._nodes.set_draining(draining=True)
        if what != _LOOK:
            for vault in self._vaults():
                self._fellows.repair_soon(vault)
        return await self._look()

    def _is_draining(self) -> bool:
        facts = self._nodes.facts(self._me)
        return facts is not None and facts.draining

    async def _look(self) -> DrainView:
        draining = self._is_draining()
        waiting = await self._give_indexes() if draining else []
        chunks = size = 0
        is_open = False
        indexes, stays = [], []
        for vault in self._vaults():
            stock = await self._fellows.witness_of(self._me).stock(vault)
            chunks += stock.chunks
            size += stock.bytes
            is_open = is_open or stock.may_take
            if self._indexes.keeps(vault, self._me):
                indexes.append(self._name_of(vault))
            if stock.chunks and draining and (reason := self._waiting(vault)):
                waiting.append(f"{self._name_of(vault)}: {reason}")
            view = self._fellows.view(vault)
            if view is not None and self._me in {member.node for member in view.ring.members}:
                stays.append(f"{self._name_of(vault)}: nobody else could keep it, or the news has not settled yet")
        return DrainView(
            node_id=self._me,
            name=self._nodes.name_of(self._me),
            draining=draining,
            chunks=chunks,
            bytes=size,
            indexes=tuple(sorted(indexes)),
            waiting=tuple([*waiting, *stays][:WORDS_MAX]) if draining else (),
            is_safe=draining and not (chunks or is_open or indexes or stays),
        )

    async def _give_indexes(self) -> list[str]:
        """Let others keep the indexes that this node keeps; return what is in the way."""
        kept = [bucket for bucket in self._directory.by_id.values() if self._indexes.keeps(bucket.id, self._me)]
        now_s = trio.current_time()
        if now_s < self._index_due_s:
            return []
        self._index_due_s = now_s + INDEX_EVERY_S
        waiting = []
        for bucket in kept:
            try:
                await self._indexes.take_from(bucket, self._me, patience_s=0.0)
            except FatalError:
                raise
            except MeshHoldError as error:
                _LOG.info("the index of vault %s stays here for now: %s", short_id(bucket.id), error)
                waiting.append(f"{bucket.name}: its index stays here: {error.message}")
        return waiting

    def _name_of(self, vault: VaultId) -> str:
        bucket = self._directory.by_id.get(vault)
        return short_id(vault) if bucket is None else bucket.name

    # -- can others take over? ----------------------------------------------------------------------------------------

    async def _refuse_unless_others_can(self, *, force: bool) -> None:
        if self._nodes.facts(self._me) is None:
            raise ConflictError("this node is in no mesh: nobody could take over what it keeps", "see `meshhold join`")
        never, lacks, need = [], [], 0
        others: set[NodeId] = set()
        for vault in self._vaults():
            view = self._fellows.view(vault)
            if view is None:
                continue
            stock = await self._fellows.witness_of(self._me).stock(vault)
            staying = [member.node for member in view.ring.members if member.node != self._me]
            name = self._name_of(vault)
            if not staying:
                never.append(f"no other reliable machine holds vault {name}")
            elif self._me in self._ring_of(view) and len(staying) < min(view.factor, len(view.ring.members)):
                lacks.append(f"vault {name} would have {len(staying)} machines for its {view.factor} copies")
            if vault in self._directory.by_id and not self._others_can_open(vault):
                never.append(f"no other machine can open vault {name} and keep its index")
            need += stock.bytes
            others.update(staying)
        if never:
            raise ConflictError(
                "; ".join(never[:WORDS_MAX]), "add a member first: meshhold vault add-member VAULT NODE"
            )
        room = await self._room(others)
        if need > room:
            lacks.append(f"others have room for {room} bytes, as far as they answer, and this node keeps {need}")
        if lacks and not force:
            raise ConflictError(
                "; ".join(lacks[:WORDS_MAX]), "add a machine first, or use --force to drain as far as it goes"
            )

    def _ring_of(self, view: View) -> set[NodeId]:
        return {member.node for member in view.ring.members}

    def _others_can_open(self, vault: VaultId) -> bool:
        for record in self._directory.registry.live(Kind.MEMBER):
            node = NodeId(record.key.split("/", 1)[1])
            if record.scope != vault or record.public["role"] != TRUSTED or node == self._me:
                continue
            facts = self._nodes.facts(node)
            if facts is not None and not facts.draining and record.public.get("leaving") is not True:
                return True
        return False

    async def _room(self, nodes: Iterable[NodeId]) -> int:
        """Return the bytes that are free on those nodes that tell."""
        free: list[int] = []
        shared = {
            node: vault
            for node in nodes
            for vault in self._vaults()
            if self._is_member(vault, node) and self._fellows.is_live(node)
        }

        async def ask(node: NodeId, vault: VaultId) -> None:
            try:
                stock: Stock = await self._fellows.witness_of(node).stock(vault)
            except FatalError:
                raise
            except MeshHoldError:
                return  # who does not tell is not counted on
            free.append(stock.free)

        with trio.move_on_after(ASK_S):
            async with open_tasks() as nursery:
                for node, vault in shared.items():
                    nursery.start_soon(ask, node, vault)
        return sum(free)


def _step(view: DrainView) -> dict[str, Any]:
    step: dict[str, Any] = {"node": view.name, "chunks": view.chunks, "bytes": view.bytes, "indexes": len(view.indexes)}
    if view.waiting:
        step["waiting"] = view.waiting[0]
    return step


def _pack(view: DrainView) -> dict[str, Any]:
    return {
        "d": view.draining,
        "c": view.chunks,
        "b": view.bytes,
        "i": list(view.indexes),
        "w": list(view.waiting),
        "s": view.is_safe,
    }


def _unpack(raw: Any, node: NodeId, name: str) -> DrainView:
    """Undo `_pack`. Errors: `ProtocolError`."""
    try:
        draining, chunks, size, indexes, waiting, is_safe = (raw[field] for field in "dcbiws")
    except (KeyError, TypeError):
        raise ProtocolError(f"{name} tells how far its draining is in another form") from None
    lists = (indexes, waiting)
    flags_fit = type(draining) is bool and type(is_safe) is bool and type(chunks) is int and type(size) is int
    if not flags_fit or not all(isinstance(words, list) and all(isinstance(w, str) for w in words) for words in lists):
        raise ProtocolError(f"{name} tells how far its draining is in another form")
    return DrainView(node, name, draining, chunks, size, tuple(indexes), tuple(waiting), is_safe)
