"""What one node asks another about the chunks that it keeps, and how the answers look. Decides nothing, knows no link.

chunk.survey/1  {"v": vault, "c": ids, one after the other, "d": read them too?}  →  one byte for each: a `State`
chunk.stock/1    {"v": vault}  →  {"c": chunks, "b": bytes, "f": bytes free, "k": keeps the index?, "t": takes chunks?}
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol

from meshhold.errors import DeniedError, ProtocolError
from meshhold.model.ids import CHUNK_ID_SIZE, ChunkId, NodeId, VaultId, short_id
from meshhold.peering.dispatch import Dispatch

SURVEY: Final = "chunk.survey/1"
STOCK: Final = "chunk.stock/1"
ASK_S: Final = 15.0
"""Stats of so many files take a sleeping disk no longer."""
READ_S: Final = 60.0
IDS_MAX: Final = 2_000
"""Chunks that one question names: 64 KiB."""
READ_MAX: Final = 32
"""Chunks that one question lets a node read: 32 MiB, a few seconds of a slow disk."""
_COUNT_MAX: Final = 2**62


class State(IntEnum):
    """How a chunk is on one node. It travels: never renumber."""

    ABSENT = 0
    HERE = 1
    DAMAGED = 2
    """Read, found to be other bytes, and moved to quarantine."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What a node keeps of a vault: chunks, bytes of their sealed form; `free` bytes of its disk, for any vault.

    `may_take`: more may come; False only of one that knows that it is leaving, with nothing on its way to it.
    """

    chunks: int
    bytes: int
    free: int
    keeps_index: bool = False
    may_take: bool = True


class Witness(Protocol):
    """Whoever keeps chunks and can be asked about them: this node, or another one behind a link."""

    async def survey(self, vault: VaultId, chunks: Sequence[ChunkId], *, deep: bool) -> list[State]:
        """Tell of each chunk how it is; with `deep` it is read and hashed.

        Errors: `PeerError`, `CallRefusedError` of a node that cannot be asked.
        """

    async def stock(self, vault: VaultId) -> Stock:
        """Tell how much there is of a vault. Errors: as `survey`."""


class Caller(Protocol):
    """Whoever reaches peers."""

    async def call(self, peer: NodeId, name: str, body: Any, *, timeout_s: float) -> Any:
        """Ask a peer and return its answer."""


class RemoteWitness:
    """The chunks of node `node`, behind a link."""

    def __init__(self, peers: Caller, node: NodeId) -> None:
        self._peers = peers
        self._node = node

    async def survey(self, vault: VaultId, chunks: Sequence[ChunkId], *, deep: bool) -> list[State]:
        """Ask in questions of bounded size, one after the other."""
        states: list[State] = []
        step = READ_MAX if deep else IDS_MAX
        for at in range(0, len(chunks), step):
            batch = chunks[at : at + step]
            body = {"v": vault, "c": b"".join(batch), "d": deep}
            answer = await self._peers.call(self._node, SURVEY, body, timeout_s=READ_S if deep else ASK_S)
            if not isinstance(answer, bytes) or len(answer) != len(batch) or max(answer) > State.DAMAGED:
                raise ProtocolError(f"node {short_id(self._node)} answers about chunks in another form")
            states += map(State, answer)
        return states

    async def stock(self, vault: VaultId) -> Stock:
        """Ask for the counts."""
        answer = await self._peers.call(self._node, STOCK, {"v": vault}, timeout_s=READ_S)
        try:
            counts = [answer[name] for name in ("c", "b", "f")]
            flags = [answer[name] for name in ("k", "t")]
        except (KeyError, TypeError):
            counts, flags = [], [None]
        if not all(type(flag) is bool for flag in flags) or not all(
            type(n) is int and 0 <= n < _COUNT_MAX for n in counts
        ):
            raise ProtocolError(f"node {short_id(self._node)} counts its chunks in another form")
        return Stock(counts[0], counts[1], counts[2], *flags)


class SurveyService:
    """Answers fellow members. `may_exchange` tells whether a node is a member of a vault, as this one is."""

    def __init__(self, own: Witness, may_exchange: Callable[[VaultId, NodeId], bool]) -> None:
        self._own = own
        self._may_exchange = may_exchange

    def register(self, dispatch: Dispatch) -> None:
        """Answer peers' calls."""
        dispatch.on_call(SURVEY, self._guarded(self._survey))
        dispatch.on_call(STOCK, self._guarded(self._stock))

    def _guarded(self, answer: Callable[[VaultId, Any], Awaitable[Any]]) -> Callable[[NodeId, Any], Awaitable[Any]]:
        async def handle(peer: NodeId, body: Any) -> Any:
            vault = body.get("v") if isinstance(body, dict) else None
            if not isinstance(vault, str):
                raise ProtocolError("a question about chunks names no vault")
            if not self._may_exchange(VaultId(vault), peer):
                raise DeniedError(
                    "the two nodes are not members of the same vault, as far as this one has heard",
                    "see `meshhold vault members`; news of a new member takes a few seconds",
                )
            return await answer(VaultId(vault), body)

        return handle

    async def _survey(self, vault: VaultId, body: Any) -> bytes:
        joined, deep = body.get("c"), body.get("d")
        if not isinstance(joined, bytes) or len(joined) % CHUNK_ID_SIZE or type(deep) is not bool:
            raise ProtocolError("a question about chunks does not name them in whole ids")
        if not 0 < len(joined) // CHUNK_ID_SIZE <= (READ_MAX if deep else IDS_MAX):
            raise ProtocolError("a question names no chunk, or too many at once")
        ids = [ChunkId(joined[at : at + CHUNK_ID_SIZE]) for at in range(0, len(joined), CHUNK_ID_SIZE)]
        return bytes(await self._own.survey(vault, ids, deep=deep))

    async def _stock(self, vault: VaultId, _body: Any) -> dict[str, Any]:
        stock = await self._own.stock(vault)
        return {"c": stock.chunks, "b": stock.bytes, "f": stock.free, "k": stock.keeps_index, "t": stock.may_take}
