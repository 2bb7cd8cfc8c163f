"""How nodes come to hold the same registry records: news at once, the rest by comparing. Decides no record's worth.

A record that is news here is given to every linked peer except the one it came from, so it crosses the mesh in as many
steps as the mesh is wide. One call to a peer is under way at a time; what becomes news meanwhile goes with the next.
What a broken link lost is found by comparing digests when a link opens, and with a random peer every `COMPARE_EVERY_S`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import Any, Final, Protocol, TypeVar

import trio

from meshhold.errors import MeshHoldError, ProtocolError
from meshhold.model.ids import NodeId, short_id
from meshhold.peering.dispatch import Dispatch
from meshhold.registry.digest import BUCKETS, Held, bucket_of, differing, digests, missing
from meshhold.registry.record import Kind, Record, encode_record
from meshhold.replication.records.record_keeper import RECORDS_MAX, RecordKeeper
from meshhold.replication.tasks import open_tasks

COMPARE: Final = "registry.compare/1"
FETCH: Final = "registry.fetch/1"
GIVE: Final = "registry.give/1"
COMPARE_EVERY_S: Final = 30.0  # as often as membership exchanges its whole state
CALL_S: Final = 20.0
TELL_S: Final = 2.0  # a linked peer that needs longer is slow at everything else too
BATCH_SIZE_MAX: Final = (
    176 * 1024
)  # bytes of records in one message of 256 KiB, less one record of 64 KiB that goes over
NAMES_MAX: Final = 2_000  # names in one message: about 200 bytes each
ROUNDS_MAX: Final = 1 + RECORDS_MAX // NAMES_MAX  # messages of names in one comparison
_QUEUED_MAX: Final = 1_000  # batches that wait to be shared out, records that wait for a peer; comparing finds the rest
_LOG: Final = logging.getLogger("meshhold.registry")


class Peers(Protocol):
    """What of the mesh this room needs."""

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        """Ask a peer and return its answer."""

    def linked(self) -> Sequence[NodeId]:
        """Return the peers that have a link now."""


class RecordSync:
    """Keeps the registry of this node and its peers the same.

    Resources: borrows the keeper and the peers. Errors of peers end one exchange, never the sync.
    """

    def __init__(self, keeper: RecordKeeper, *, chance: random.Random) -> None:
        self._keeper = keeper
        self._chance = chance
        self._news, self._outbox = trio.open_memory_channel[tuple[list[Record], NodeId | None]](_QUEUED_MAX)
        self._waiting: dict[NodeId, dict[tuple[Kind, str], Record]] = {}  # for each peer that a task is giving news to
        keeper.follow(self._queue)

    def register(self, dispatch: Dispatch) -> None:
        """Answer peers' calls."""
        dispatch.on_call(COMPARE, self._handle_compare)
        dispatch.on_call(FETCH, self._handle_fetch)
        dispatch.on_call(GIVE, self._handle_give)

    # -- answering --------------------------------------------------------------------------------------------------

    async def _handle_compare(self, _: NodeId, body: Any) -> Any:
        held = self._keeper.held
        buckets = differing(digests(held), _field(body, "digests", bytes))
        names = self._in_buckets(held, buckets)
        told = [list(name) for name in names[:NAMES_MAX]]
        return {"buckets": sorted(buckets), "held": told, "whole": len(names) <= NAMES_MAX}

    def _in_buckets(self, held: Sequence[Held], buckets: set[int]) -> list[Held]:
        """Return the names in these buckets, one bucket after the other, so that a part of them settles whole buckets.

        From a random bucket on and in random order within: no bucket that somebody has filled keeps the others waiting.
        """
        first = self._chance.randrange(BUCKETS)
        found = [((at - first) % BUCKETS, name) for name in held if (at := bucket_of(name.kind, name.key)) in buckets]
        self._chance.shuffle(found)
        return [name for _, name in sorted(found, key=itemgetter(0))]

    async def _handle_fetch(self, _: NodeId, body: Any) -> Any:
        raws: list[bytes] = []
        size = 0
        for kind, key in _names(body)[:NAMES_MAX]:
            record = self._keeper.registry.known(kind, key)
            if record is not None:
                raws.append(encode_record(record))
                size += len(raws[-1])
            if size > BATCH_SIZE_MAX:  # the rest is asked for again
                break
        return {"records": raws}

    async def _handle_give(self, peer: NodeId, body: Any) -> Any:
        return {"taken": await self._receive(_raws(body), peer)}

    async def _receive(self, raws: Sequence[bytes], peer: NodeId) -> int:
        return await self._keeper.receive(raws, peer)

    # -- telling ----------------------------------------------------------------------------------------------------

    def _queue(self, records: Sequence[Record], source: NodeId | None) -> None:
        try:
            self._news.send_nowait((list(records), source))
        except trio.WouldBlock:
            _LOG.debug("news of %d records is left to the next comparison", len(records))

    async def run(self, peers: Peers) -> None:
        """Spread news and compare now and then, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._spread, peers, nursery)
            nursery.start_soon(self._compare_now_and_then, peers)

    async def _spread(self, peers: Peers, nursery: trio.Nursery) -> None:
        async for records, source in self._outbox:
            self._forget_waiting(source, records)
            for peer in peers.linked():
                if peer == source:
                    continue
                if peer not in self._waiting:
                    self._waiting[peer] = {}
                    nursery.start_soon(self._give_waiting, peers, peer)
                waiting = self._waiting[peer]
                for record in records:
                    if len(waiting) < _QUEUED_MAX or (record.kind, record.key) in waiting:
                        waiting[record.kind, record.key] = record

    def _forget_waiting(self, source: NodeId | None, records: Sequence[Record]) -> None:
        """Do not give a peer older forms of what it has just given."""
        waiting = self._waiting.get(source, {}) if source is not None else {}
        for record in records:
            waiting.pop((record.kind, record.key), None)

    async def _give_waiting(self, peers: Peers, peer: NodeId) -> None:
        """Give a peer its news until none wait."""
        try:
            while waiting := self._waiting[peer]:
                self._waiting[peer] = {}
                await self._give(peers, peer, list(waiting.values()))
        finally:
            del self._waiting[peer]

    async def _give(self, peers: Peers, peer: NodeId, records: Sequence[Record]) -> None:
        for batch in _batches([encode_record(record) for record in records]):
            if not await self._try(peers, peer, GIVE, {"records": batch}):
                return

    async def tell(self, peers: Peers, nodes: Collection[NodeId], records: Sequence[Record]) -> None:
        """Return when these nodes hold the records, as far as they are linked and answer within `TELL_S`.

        For what somebody may ask them for at once: news gets there too, a little later.
        """
        with trio.move_on_after(TELL_S):
            async with open_tasks() as nursery:
                for peer in peers.linked():
                    if peer in nodes:
                        nursery.start_soon(self._give, peers, peer, records)

    async def _compare_now_and_then(self, peers: Peers) -> None:
        while True:
            await trio.sleep(COMPARE_EVERY_S * self._chance.uniform(0.5, 1.0))
            linked = peers.linked()
            if linked:
                await self.compare(peers, self._chance.choice(list(linked)))

    async def compare(self, peers: Peers, peer: NodeId) -> bool:
        """Make this node and a peer hold the same records; return whether the exchange came to its end."""
        for _ in range(ROUNDS_MAX):
            before = self._keeper.held
            whole = await self._compare_once(peers, peer)
            if whole is not False or self._keeper.held == before:
                return whole is True
        return False

    async def _compare_once(self, peers: Peers, peer: NodeId) -> bool | None:
        """Return whether the peer named all that it holds; None if the exchange broke off."""
        held = self._keeper.held
        answer = await self._try(peers, peer, COMPARE, {"digests": digests(held)})
        if answer is None:
            return None
        try:
            theirs = [Held(*name) for name in _field(answer, "held", list)]
            buckets = set(_field(answer, "buckets", list))
            whole = _field(answer, "whole", bool)
            await self._fetch(peers, peer, missing(held, theirs))
        except (ProtocolError, TypeError) as error:
            _LOG.warning("node %s sent a comparison that cannot be read: %s", short_id(peer), error)
            return None
        if whole:  # else the peer holds more than it named: what it lacks shows once this node has the rest
            known = set(theirs)
            ours = [name for name in held if bucket_of(name.kind, name.key) in buckets and name not in known]
            records = [self._keeper.registry.known(Kind(name.kind), name.key) for name in ours]
            await self._give(peers, peer, [record for record in records if record is not None])
        return whole

    async def _fetch(self, peers: Peers, peer: NodeId, wanted: list[tuple[Kind, str]]) -> None:
        """Ask for records until all came or the peer gives no more. Errors: `ProtocolError`."""
        while wanted:
            answer = await self._try(peers, peer, FETCH, {"names": [list(name) for name in wanted[:NAMES_MAX]]})
            raws = [] if answer is None else _raws(answer)
            if not raws:
                return
            await self._receive(raws, peer)
            wanted = wanted[len(raws) :]

    async def _try(self, peers: Peers, peer: NodeId, name: str, body: Any) -> Any:
        try:
            return await peers.call(peer, name, body, timeout_s=CALL_S)
        except MeshHoldError as error:
            _LOG.debug("%s with node %s: %s", name, short_id(peer), error)
            return None


def _batches(raws: Sequence[bytes]) -> list[list[bytes]]:
    """Cut records into messages of about `BATCH_SIZE_MAX` bytes."""
    batches: list[list[bytes]] = []
    size = BATCH_SIZE_MAX
    for raw in raws:
        if size + len(raw) > BATCH_SIZE_MAX:
            batches.append([])
            size = 0
        batches[-1].append(raw)
        size += len(raw)
    return batches


_T = TypeVar("_T")


def _field(body: Any, name: str, kind: type[_T]) -> _T:
    """Return a field of a message. Errors: `ProtocolError` that names it."""
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, kind):
        raise ProtocolError(f"the field {name!r} of a registry message is not a {kind.__name__}")
    return value


def _raws(body: Any) -> list[bytes]:
    raws = _field(body, "records", list)
    if not all(isinstance(raw, bytes) for raw in raws):
        raise ProtocolError("a registry message holds a record that is no byte string")
    return raws


def _names(body: Any) -> list[tuple[Kind, str]]:
    names = []
    for pair in _field(body, "names", list):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(each, str) for each in pair)):
            raise ProtocolError("a registry message holds a name that is no pair of texts")
        if pair[0] in set(Kind):
            names.append((Kind(pair[0]), pair[1]))
    return names
