"""What may other nodes ask of this one to heal? Answers their questions; decides nothing of its own.

All but `health` and `enrol` are answered by a replica that votes, in its own epoch only: what it says then counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from meshhold.errors import ProtocolError
from meshhold.index.contract import Row
from meshhold.model.ids import NodeId
from meshhold.model.stamp import ZERO
from meshhold.peering.dispatch import Dispatch
from meshhold.replication.healing import healing_wire as wire
from meshhold.replication.healing.copying import Copying
from meshhold.replication.healing.differences import read_page, root_of
from meshhold.replication.healing.enrolment import Enrolment
from meshhold.replication.healing.healing_wire import Phase
from meshhold.replication.index.replica_service import MayAsk, check_asker
from meshhold.replication.index.replica_wire import Question, pack_done, pack_refusal
from meshhold.replication.index.seats import Seats

ROWS_SIZE_MAX: Final = 128 * 1024
"""Bytes of entries in one answer: half of what a message may hold, and one entry may go over."""
_Handler = Callable[[Question], Awaitable[Any]]


class HealingService:
    """Serves this node's replica to those that heal. `may_ask` tells whether a node is a trusted member of a vault."""

    def __init__(self, copying: Copying, seats: Seats, enrolment: Enrolment, may_ask: MayAsk) -> None:
        self._copying = copying
        self._replica = copying.replica
        self._seats = seats
        self._enrolment = enrolment
        self._may_ask = may_ask

    def register(self, dispatch: Dispatch) -> None:
        """Answer peers' calls."""
        voting: dict[str, _Handler] = {
            wire.BUCKET_DIGESTS: self._bucket_digests,
            wire.BUCKET_NAMES: self._bucket_names,
            wire.ROWS: self._rows,
            wire.HOLDS: self._holds,
            wire.SETTLE: self._settle,
            wire.FLOOR: self._floor,
            wire.FORGET: self._forget,
        }
        for name, handler in voting.items():
            dispatch.on_call(name, self._guarded(self._in_epoch(handler)))
        dispatch.on_call(wire.ENROL, self._guarded(self._enrol))
        dispatch.on_call(wire.HEALTH, self._guarded(self._health))

    def _guarded(self, handler: _Handler) -> Callable[[NodeId, Any], Awaitable[Any]]:
        async def answer(peer: NodeId, body: Any) -> Any:
            question = Question(body)
            check_asker(self._may_ask, question.vault, peer)
            return await handler(question)

        return answer

    def _in_epoch(self, handler: _Handler) -> _Handler:
        async def answer(asked: Question) -> Any:
            refusal = self._seats.stance(asked.vault, asked.epoch)
            return await handler(asked) if refusal is None else pack_refusal(refusal)

        return answer

    async def _bucket_digests(self, asked: Question) -> Any:
        digests = self._replica.index.bucket_digests(asked.vault)
        return pack_done(None if root_of(digests) == asked.field("r", bytes) else digests)

    async def _bucket_names(self, asked: Question) -> Any:
        buckets, above, after = wire.buckets_of(asked), wire.above_of(asked), wire.position_of(asked)
        found = list(read_page(self._replica.index, asked.vault, buckets, above, after))
        return pack_done(wire.pack_bucket_names(found))

    async def _rows(self, asked: Question) -> Any:
        rows: list[Row | None] = []
        size = 0
        for name in wire.names_of(asked):
            rows.append(row := self._replica.index.load(asked.vault, name.space, name.key))
            size += 0 if row is None else len(row.entry)
            if size > ROWS_SIZE_MAX:
                break
        return pack_done(wire.pack_rows(rows))

    async def _holds(self, asked: Question) -> Any:
        rows = self._replica.rows(asked.vault, wire.names_of(asked))
        return pack_done(wire.pack_flags([row is not None for row in rows]))

    async def _settle(self, asked: Question) -> Any:
        names = wire.names_of(asked, wire.SETTLED_ASKED_MAX)
        return pack_done(wire.pack_flags(await self._enrolment.sync.settle(asked.vault, names)))

    async def _floor(self, asked: Question) -> Any:
        until = asked.stamp("u")
        if until > ZERO:
            await self._copying.raise_floor(until)
        refusal = self._seats.stance(asked.vault, asked.epoch)
        return pack_done(self._copying.horizon.pack()) if refusal is None else pack_refusal(refusal)

    async def _forget(self, asked: Question) -> Any:
        vault, epoch, names = asked.vault, asked.epoch, wire.names_of(asked)
        agreed = [True] * len(names)
        match asked.field("p", int):
            case Phase.FENCE:
                await self._copying.fence(vault, epoch, names)
            case Phase.CONFIRM:
                agreed = await self._copying.confirm(vault, epoch, names)
            case Phase.FORGET:
                await self._copying.forget(vault, epoch, names)
            case unknown:
                raise ProtocolError(f"the removal of tombstones has no step {unknown}")
        return pack_done(wire.pack_flags(agreed))

    async def _enrol(self, asked: Question) -> Any:
        known = self._seats.adopted(asked.vault)
        if known is None or known.epoch != asked.epoch:
            refusal = self._seats.stance(asked.vault, asked.epoch)
            if refusal is not None:
                return pack_refusal(refusal)
        return pack_done(await self._enrolment.wait_enrolled(asked.vault, asked.epoch))

    async def _health(self, asked: Question) -> Any:
        vault = asked.vault
        known = self._seats.adopted(vault)
        epoch = 0 if known is None else known.epoch
        return pack_done(epoch, self._seats.votes(vault), self._enrolment.state(vault))
