"""Another node's replica, behind a link: questions become calls. Decides only how long an answer may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from meshhold.index.contract import Counts, Name
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Entry, Space, encode_entry
from meshhold.model.ids import NodeId, VaultId
from meshhold.model.stamp import ZERO, Stamp
from meshhold.register.rounds import Answer
from meshhold.replication.index import replica_wire as wire
from meshhold.replication.index.contract import Interval, Listing, Refusal, Register, Scan

CALL_S: Final = 2.0
"""A replica answers within milliseconds and makes an entry durable within tens; a disk that takes seconds is as good as
down, and the other replicas go on without it."""
_INTERVALS_SIZE_MAX: Final = 128 * 1024
_T = TypeVar("_T")


class Caller(Protocol):
    """Whoever reaches peers by calls."""

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        """Ask a peer and return its answer. Errors: `PeerError`, `UnavailableError`."""


class RemoteReplica:
    """The replica of node `node`; see `contract.Replica`."""

    def __init__(self, peers: Caller, node: NodeId, call_s: float = CALL_S) -> None:
        self._peers = peers
        self._node = node
        self._call_s = call_s

    async def read(self, epoch: int, name: Register, known: Stamp = ZERO) -> Answer | Refusal:
        """Return what the replica has accepted; see `Replica.read`."""
        return await self._ask(wire.READ, wire.read_answer, _about(epoch, name, a=known.pack()))

    async def prepare(self, epoch: int, name: Register, ballot: Stamp, known: Stamp = ZERO) -> Answer | Refusal:
        """Ask for a promise; see `Replica.prepare`."""
        body = _about(epoch, name, b=ballot.pack(), a=known.pack())
        return await self._ask(wire.PREPARE, wire.read_answer, body)

    async def accept(self, epoch: int, name: Register, ballot: Stamp, entry: Entry) -> Refusal | None:
        """Hand over an entry; see `Replica.accept`."""
        body = _about(epoch, name, b=ballot.pack(), x=encode_entry(entry))
        return await self._ask(wire.ACCEPT, wire.read_nothing, body)

    async def merge(self, epoch: int, name: Register, ballot: Stamp, entry: Entry) -> Answer | Refusal:
        """Hand over an entry that was written alone; see `Replica.merge`."""
        body = _about(epoch, name, b=ballot.pack(), x=encode_entry(entry))
        return await self._ask(wire.MERGE, wire.read_answer, body)

    async def list_page(self, epoch: int, vault: VaultId, after: bytes, prefix: bytes, limit: int) -> Listing | Refusal:
        """Return a page of live objects; see `Replica.list_page`."""
        body = {"v": vault, "e": epoch, "f": after, "p": prefix, "n": limit}
        return await self._ask(wire.LIST, wire.read_listing, body)

    async def scan_page(
        self, epoch: int, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int
    ) -> Scan | Refusal:
        """Return a page of rows; see `Replica.scan_page`."""
        body = {"v": vault, "e": epoch, "s": int(space), "f": after, "p": prefix, "n": limit}
        return await self._ask(wire.SCAN, wire.read_scan, body)

    async def digests(self, epoch: int, vault: VaultId, intervals: Sequence[Interval]) -> list[bytes] | Refusal:
        """Return one digest per interval; see `Replica.digests`."""
        found: list[bytes] = []
        for batch in _batches(intervals):
            body = {"v": vault, "e": epoch, "i": wire.pack_intervals(batch)}
            answer = await self._ask(wire.DIGESTS, wire.read_digests, body)
            if not isinstance(answer, list):
                return answer
            found += answer
        return found

    async def names(self, epoch: int, vault: VaultId, interval: Interval, limit: int) -> list[Name] | Refusal:
        """Return names of an interval; see `Replica.names`."""
        body = {"v": vault, "e": epoch, "i": wire.pack_intervals([interval]), "n": limit}
        return await self._ask(wire.NAMES, wire.read_names_form, body)

    async def adopt(self, vault: VaultId, configuration: Configuration) -> None:
        """Let the replica go by a chosen configuration; see `Replica.adopt`."""
        body = {"v": vault, "c": configuration.pack()}
        await self._peers.call(self._node, wire.ADOPT, body, timeout_s=self._call_s)

    async def counts(self, vault: VaultId) -> Counts:
        """Return what the replica counts: live objects and bytes."""
        objects, size = await self._peers.call(self._node, wire.COUNTS, {"v": vault}, timeout_s=self._call_s)
        return Counts(objects, size)

    async def _ask(self, call: str, read: Callable[..., _T], body: dict[str, Any]) -> _T | Refusal:
        return wire.unpack(await self._peers.call(self._node, call, body, timeout_s=self._call_s), read)


def _about(epoch: int, name: Register, **more: Any) -> dict[str, Any]:
    return {"v": name.vault, "e": epoch, "s": int(name.space), "k": name.key, **more}


def _batches(intervals: Sequence[Interval]) -> list[list[Interval]]:
    """Cut the intervals into messages of bounded size."""
    batches: list[list[Interval]] = []
    size = _INTERVALS_SIZE_MAX
    for interval in intervals:
        cost = len(interval.after) + len(interval.upto or b"") + 8
        if size + cost > _INTERVALS_SIZE_MAX:
            batches.append([])
            size = 0
        batches[-1].append(interval)
        size += cost
    return batches
