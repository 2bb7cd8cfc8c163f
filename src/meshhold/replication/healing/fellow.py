"""Another node's replica, as healing asks it. Decides what a refusal leads to; knows no order of questions.

A fellow that is in an earlier epoch is told of this node's and asked again; one in a later epoch tells of it, and the
question is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from meshhold.errors import ProtocolError, ReplicaRefusedError
from meshhold.index.contract import Name, Row
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Space
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.model.stamp import Stamp, unpack_stamp
from meshhold.register.acceptor import Skewed, Stale
from meshhold.replication.healing import healing_wire as wire
from meshhold.replication.healing.copying import reason_of
from meshhold.replication.healing.differences import BucketNames
from meshhold.replication.healing.healing_wire import Health, Phase
from meshhold.replication.index.contract import Absent, Outdated, Refusal, Unaware
from meshhold.replication.index.remote_replica import Caller
from meshhold.replication.index.replica_wire import ADOPT, pack_names, unpack
from meshhold.replication.index.seats import Seats

CALL_S: Final = 10.0
"""A message of 128 KiB takes a second over a link of 1 Mbit/s; nobody waits for healing."""
ENROL_S: Final = 5.0
"""How long a node may take to say whether it is enrolled; it is asked again until it is."""
_T = TypeVar("_T")


class Fellow:
    """The replica of node `node`.

    Errors of every method: `PeerError`, `CallRefusedError`, `UnavailableError` of the link; `ReplicaRefusedError` if it
    takes no part in the epoch; `ProtocolError` for an answer that cannot be read.
    """

    def __init__(self, peers: Caller, seats: Seats, node: NodeId) -> None:
        self.node = node
        self._peers = peers
        self._seats = seats

    async def bucket_digests(self, vault: VaultId, epoch: int, root: bytes) -> bytes | None:
        """Return the digests of all buckets, or None if they have this root."""
        return await self._ask(wire.BUCKET_DIGESTS, wire.read_bucket_digests, vault, epoch, r=root)

    async def bucket_names(
        self, vault: VaultId, epoch: int, buckets: Sequence[int], above: Stamp, after: tuple[Space, bytes] | None
    ) -> list[BucketNames]:
        """Return the names of the first buckets; see `differences.read_page`."""
        position = [] if after is None else [int(after[0]), after[1]]
        found = await self._ask(
            wire.BUCKET_NAMES, wire.read_bucket_names, vault, epoch, b=list(buckets), a=above.pack(), f=position
        )
        if [each.bucket for each in found] != list(buckets[: len(found)]):
            raise ProtocolError("a replica told of other buckets than it was asked for")
        return found

    async def rows(self, vault: VaultId, epoch: int, names: Sequence[Name]) -> list[Row | None]:
        """Return what the registers of the first names hold now; the rest is to be asked for again."""
        rows = await self._ask(wire.ROWS, wire.read_rows, vault, epoch, m=pack_names(names))
        if not 0 < len(rows) <= len(names):
            raise ProtocolError("a replica told of another number of rows than it was asked for")
        return rows

    async def holds(self, vault: VaultId, epoch: int, names: Sequence[Name]) -> list[bool]:
        """Tell of each name whether the replica holds exactly that ballot."""
        return await self._flags(wire.HOLDS, vault, epoch, names)

    async def settle(self, vault: VaultId, epoch: int, names: Sequence[Name]) -> list[bool]:
        """Let the node settle registers by rounds that see what its own replica holds; tell which it could."""
        return await self._flags(wire.SETTLE, vault, epoch, names)

    async def floor(self, vault: VaultId, epoch: int, until: Stamp) -> Stamp:
        """Let the replica take nothing below `until` any more; return a ballot that it never promised beyond."""
        return await self._ask(wire.FLOOR, unpack_stamp, vault, epoch, u=until.pack())

    async def sweep(self, vault: VaultId, epoch: int, names: Sequence[Name], phase: Phase) -> list[bool]:
        """Do one step of the removal of tombstones; tell of each whether the replica agrees."""
        return await self._flags(wire.FORGET, vault, epoch, names, p=int(phase))

    async def enrol(self, vault: VaultId, epoch: int) -> bool:
        """Tell whether the node holds all that it needs for the epoch after this joint one; it sees to it."""
        return await self._ask(wire.ENROL, bool, vault, epoch, timeout_s=ENROL_S)

    async def health(self, vault: VaultId) -> Health:
        """Return what the node tells of its replica."""
        return await self._ask(wire.HEALTH, wire.read_health, vault, 0)

    async def adopt(self, vault: VaultId, configuration: Configuration) -> None:
        """Let the replica go by a chosen configuration; see `contract.Replica.adopt`."""
        await self._peers.call(self.node, ADOPT, {"v": vault, "c": configuration.pack()}, timeout_s=CALL_S)

    async def _flags(self, call: str, vault: VaultId, epoch: int, names: Sequence[Name], **fields: Any) -> list[bool]:
        flags = await self._ask(call, wire.read_flags, vault, epoch, m=pack_names(names), **fields)
        if len(flags) != len(names):
            raise ProtocolError("a replica gave another number of answers than it was asked for")
        return flags

    async def _ask(
        self,
        call: str,
        read: Callable[..., _T],
        vault: VaultId,
        epoch: int,
        *,
        timeout_s: float = CALL_S,
        **fields: Any,
    ) -> _T:
        body = {"v": vault, "e": epoch, **fields}
        told = False
        while True:
            answer = unpack(await self._peers.call(self.node, call, body, timeout_s=timeout_s), read)
            if not isinstance(answer, Outdated | Unaware | Absent | Stale | Skewed):
                return answer
            known = self._seats.adopted(vault)
            if told or not isinstance(answer, Unaware) or known is None or known.epoch != epoch:
                raise await self._refused(vault, answer)
            await self.adopt(vault, known)
            told = True

    async def _refused(self, vault: VaultId, refusal: Refusal) -> Exception:
        if isinstance(refusal, Stale | Skewed):
            return ProtocolError("a replica refused a ballot in a question without one")
        if isinstance(refusal, Outdated):
            await self._seats.adopt(vault, refusal.configuration)
        return ReplicaRefusedError(
            f"the index replica on node {short_id(self.node)} takes no part: {reason_of(refusal)}", "it is tried again"
        )


class Fellows:
    """How the others' replicas are reached. Resources: borrows `peers` and `seats`."""

    def __init__(self, peers: Caller, seats: Seats) -> None:
        self._peers = peers
        self._seats = seats

    def __call__(self, node: NodeId) -> Fellow:
        """Return the replica of a node."""
        return Fellow(self._peers, self._seats, node)
