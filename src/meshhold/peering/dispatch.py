"""Who answers a call, a note or a stream of this name? And how do errors travel? Knows no link.

A name carries its version, as in `registry.digest/1`: what a program does not know is refused by name. A refusal
carries an error's kind, message and fix, never a traceback: what an unforeseen error says stays in this node's log.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from meshhold.errors import CallRefusedError, CallTimeoutError, MeshHoldError
from meshhold.model.ids import NodeId, short_id
from meshhold.wire.events import Failure

if TYPE_CHECKING:  # a stream's handler is given a stream, which is of a room above this one
    from meshhold.peering.streams import PeerStream

CallHandler = Callable[[NodeId, Any], Awaitable[Any]]
"""Peer and decoded body → the answer's body. Cancelled when the caller gives up or its time is over."""

StreamHandler = Callable[[NodeId, Any, "PeerStream"], Awaitable[None]]
"""Serves one stream; what it leaves open is broken off when it returns."""

NoteHandler = Callable[[NodeId, Any], None]
"""Takes one note. Runs inside the link's reader, so it hands long work on."""

TOO_LATE: Final = Failure("CallTimeoutError", "the call was not answered within the time that the caller gave")
_Handler = TypeVar("_Handler")
_log = logging.getLogger(__name__)


class Dispatch:
    """The table of names. Names are added before the mesh is joined; a second handler of one name is a mistake."""

    def __init__(self) -> None:
        self.calls: dict[str, CallHandler] = {}
        self.streams: dict[str, StreamHandler] = {}
        self.notes: dict[str, NoteHandler] = {}

    def on_call(self, name: str, handler: CallHandler) -> None:
        """Let `handler` answer calls of this name."""
        _add(self.calls, name, handler)

    def on_stream(self, name: str, handler: StreamHandler) -> None:
        """Let `handler` serve streams of this name."""
        _add(self.streams, name, handler)

    def on_note(self, name: str, handler: NoteHandler) -> None:
        """Let `handler` take notes of this name."""
        _add(self.notes, name, handler)


def _add(table: dict[str, _Handler], name: str, handler: _Handler) -> None:
    if name in table:
        raise ValueError(f"{name} has a handler already")
    table[name] = handler


def unknown_name(what: str, name: str) -> Failure:
    """Return the refusal of a name that this node does not know."""
    return Failure("UnknownCallError", f"this node knows no {what} {name!r}", "run the same release on both nodes")


def failure_of(error: Exception, peer: NodeId, name: str) -> Failure:
    """Return what the peer may know of an error."""
    if isinstance(error, MeshHoldError):
        kind = error.kind if isinstance(error, CallRefusedError) and error.kind else type(error).__name__
        return Failure(kind, error.message, error.fix)
    _log.error("%s for node %s failed", name, short_id(peer), exc_info=error)
    return Failure("DefectError", "the node met an error that it does not know", "its log has the details")


def refusal_of(failure: Failure, peer: NodeId, name: str) -> MeshHoldError:
    """Return the error that a peer's failure is here."""
    if failure.kind == TOO_LATE.kind:
        return CallTimeoutError(f"node {short_id(peer)} did not finish {name} in time")
    return CallRefusedError(f"node {short_id(peer)} refused {name}: {failure.message}", failure.fix, kind=failure.kind)
