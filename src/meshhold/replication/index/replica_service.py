"""Who may ask this node's replica, and what? Answers other nodes' questions; knows no round and no link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from meshhold.errors import DeniedError, IntegrityError, ProtocolError
from meshhold.model.configuration import unpack_configuration
from meshhold.model.entry import Entry, decode_entry
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.peering.dispatch import Dispatch
from meshhold.register.rounds import Answer
from meshhold.replication.index import replica_wire as wire
from meshhold.replication.index.contract import Listing, Register, Scan
from meshhold.replication.index.replica import LocalReplica

LISTED_MAX: Final = 1_001
"""Rows of one answer: a page of S3's and one more, about 128 KiB."""
NAMES_MAX: Final = 2_000
KEY_SIZE_MAX: Final = 1_100
"""An object's key of 1,024 bytes and what a register's name adds to it."""
MayAsk = Callable[[VaultId, NodeId], bool]


class ReplicaService:
    """Serves one replica to peers. `may_ask` tells whether a node is a trusted member of a vault."""

    def __init__(self, replica: LocalReplica, may_ask: MayAsk) -> None:
        self._replica = replica
        self._may_ask = may_ask

    def register(self, dispatch: Dispatch) -> None:
        """Answer peers' calls."""
        handlers: dict[str, Callable[[wire.Question], Awaitable[Any]]] = {
            wire.READ: self._read,
            wire.PREPARE: self._prepare,
            wire.ACCEPT: self._accept,
            wire.MERGE: self._merge,
            wire.LIST: self._list,
            wire.SCAN: self._scan,
            wire.DIGESTS: self._digests,
            wire.NAMES: self._names,
            wire.ADOPT: self._adopt,
            wire.COUNTS: self._counts,
        }
        for name, handler in handlers.items():
            dispatch.on_call(name, self._guarded(handler))

    def _guarded(self, handler: Callable[[wire.Question], Awaitable[Any]]) -> Callable[[NodeId, Any], Awaitable[Any]]:
        async def answer(peer: NodeId, body: Any) -> Any:
            question = wire.Question(body)
            check_asker(self._may_ask, question.vault, peer)
            return await handler(question)

        return answer

    async def _read(self, asked: wire.Question) -> Any:
        answer = await self._replica.read(asked.epoch, asked.name, asked.stamp("a"))
        return wire.pack_answer(answer) if isinstance(answer, Answer) else wire.pack_refusal(answer)

    async def _prepare(self, asked: wire.Question) -> Any:
        name = asked.name
        if len(name.key) > KEY_SIZE_MAX:
            raise ProtocolError(f"a register's key has {len(name.key)} bytes, more than {KEY_SIZE_MAX}")
        answer = await self._replica.prepare(asked.epoch, name, asked.stamp("b"), asked.stamp("a"))
        return wire.pack_answer(answer) if isinstance(answer, Answer) else wire.pack_refusal(answer)

    async def _accept(self, asked: wire.Question) -> Any:
        name, entry = _named_entry(asked)
        refusal = await self._replica.accept(asked.epoch, name, asked.stamp("b"), entry)
        return wire.pack_done() if refusal is None else wire.pack_refusal(refusal)

    async def _merge(self, asked: wire.Question) -> Any:
        name, entry = _named_entry(asked)
        answer = await self._replica.merge(asked.epoch, name, asked.stamp("b"), entry)
        return wire.pack_answer(answer) if isinstance(answer, Answer) else wire.pack_refusal(answer)

    async def _list(self, asked: wire.Question) -> Any:
        after, prefix = asked.field("f", bytes), asked.field("p", bytes)
        page = await self._replica.list_page(asked.epoch, asked.vault, after, prefix, asked.limit(LISTED_MAX))
        return wire.pack_listing(page) if isinstance(page, Listing) else wire.pack_refusal(page)

    async def _scan(self, asked: wire.Question) -> Any:
        after, prefix, limit = asked.field("f", bytes), asked.field("p", bytes), asked.limit(LISTED_MAX)
        page = await self._replica.scan_page(asked.epoch, asked.vault, asked.space, after, prefix, limit)
        return wire.pack_scan(page) if isinstance(page, Scan) else wire.pack_refusal(page)

    async def _digests(self, asked: wire.Question) -> Any:
        found = await self._replica.digests(asked.epoch, asked.vault, asked.intervals())
        return wire.pack_done(found) if isinstance(found, list) else wire.pack_refusal(found)

    async def _names(self, asked: wire.Question) -> Any:
        intervals = asked.intervals()
        if len(intervals) != 1:
            raise ProtocolError("names are asked for one interval at a time")
        found = await self._replica.names(asked.epoch, asked.vault, intervals[0], asked.limit(NAMES_MAX))
        return wire.pack_done(wire.pack_names(found)) if isinstance(found, list) else wire.pack_refusal(found)

    async def _adopt(self, asked: wire.Question) -> Any:
        try:
            configuration = unpack_configuration(asked.field("c", list))
        except IntegrityError as error:
            raise ProtocolError(f"a configuration cannot be read: {error.message}") from error
        await self._replica.adopt(asked.vault, configuration)
        return None

    async def _counts(self, asked: wire.Question) -> Any:
        return list(await self._replica.counts(asked.vault))


def _named_entry(asked: wire.Question) -> tuple[Register, Entry]:
    """Return the register of a question and the entry that came for it."""
    name = asked.name
    if len(name.key) > KEY_SIZE_MAX:
        raise ProtocolError(f"a register's key has {len(name.key)} bytes, more than {KEY_SIZE_MAX}")
    try:
        return name, decode_entry(asked.field("x", bytes))
    except IntegrityError as error:
        raise ProtocolError(f"an entry for a register cannot be read: {error.message}") from error


def check_asker(may_ask: MayAsk, vault: VaultId, peer: NodeId) -> None:
    """Errors: `DeniedError` for a node that is no trusted member of the vault."""
    if not may_ask(vault, peer):
        raise DeniedError(
            f"node {short_id(peer)} is no trusted member of vault {short_id(vault)} here",
            "see `meshhold vault members`",
        )
