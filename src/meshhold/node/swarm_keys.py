"""Which keys open this node's mesh, now? The mesh's own, the one before a rotation, and those of open invitations.

Knows no link: the peering is told what `all` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from meshhold.config.swarm_files import SwarmFiles
from meshhold.crypto.hashing import hash_bytes
from meshhold.crypto.identity import Identity
from meshhold.crypto.random import new_secret
from meshhold.errors import ConflictError, IntegrityError
from meshhold.registry.record import Record
from meshhold.wire.handshake import swarm_id

PASSES_MAX: Final = 2  # keys besides the mesh's own that a handshake tries; each costs a stranger's refusal 0.1 ms
PREVIOUS_MAX: Final = 2  # same: so many rotations may overlap; both bounds together are the handshake's
PASS_S: Final = 86_400  # how long a single-use invitation is good for when nobody says
WINDOW_S_MAX: Final = 30 * 86_400  # how long keys before a rotation are taken at most
KEY_SIZE: Final = 32


class SwarmKeys:
    """The keys of one node; what must survive a restart is in `files`. `configured` is the configuration's own key."""

    def __init__(self, files: SwarmFiles, configured: bytes | None, now_ms: Callable[[], int]) -> None:
        self.files = files
        self.configured = configured
        self._now_ms = now_ms
        self._passes: dict[bytes, tuple[int, bool]] = {}  # pass → until when, and whether it serves once

    def current(self) -> bytes | None:
        """Return the mesh's key, None without a mesh."""
        return self.files.key() or self.configured

    def all(self) -> list[bytes]:
        """Return the key for new links, then those that are taken besides."""
        self._passes = {each: terms for each, terms in self._passes.items() if terms[0] > self._now_ms()}
        return self._mesh_keys() + list(self._passes)

    @property
    def dialed(self) -> int:
        """How many of `all` are the mesh's own and those before it."""
        return len(self._mesh_keys())

    def names(self) -> list[bytes]:
        """Return the public names of the mesh's key and of those before it: what a rotation says it comes after."""
        return [swarm_id(key) for key in self._mesh_keys()]

    def _mesh_keys(self) -> list[bytes]:
        key = self.current()
        return [] if key is None else [key, *(previous for previous, _ in self._previous())]

    def _previous(self) -> list[tuple[bytes, int]]:
        return [each for each in self.files.previous() if each[1] > self._now_ms()][:PREVIOUS_MAX]

    def open_pass(self, expires_s: int, *, single_use: bool) -> tuple[bytes, int]:
        """Make a key that lets a node in for a while; return it and until when. Errors: `ConflictError`: too many."""
        self.all()  # drops what has expired
        if len(self._passes) >= PASSES_MAX:
            raise ConflictError(f"{PASSES_MAX} invitations are open", "wait until one is used or expires")
        until_ms = self._now_ms() + (expires_s or PASS_S) * 1000
        invitation = new_secret()
        self._passes[invitation] = (until_ms, single_use)
        return invitation, until_ms

    def redeem(self, name: object) -> bytes:
        """Return the mesh's key for a pass that is named. Errors: `ConflictError` once it was used or has expired."""
        key = self.current()
        self.all()
        for invitation, (_, single_use) in list(self._passes.items()):
            if key is not None and name == pass_name(invitation):
                if single_use:
                    del self._passes[invitation]
                return key
        raise ConflictError("the invitation was used, or its time is over", "ask for another one")

    def take_rotation(self, record: Record, identity: Identity) -> bool:
        """Use the key of a rotation if it is this mesh's and this node was given it; return whether anything changed.

        Of two rotations made apart from each other the later record wins everywhere, and who took the other one
        is recognised by the key before both. A record says whatever a node of the mesh wrote: nothing in it is trusted.
        """
        key, until_ms = self.current(), record.public.get("until_ms")
        boxes, after = record.public.get("boxes"), record.public.get("after")
        if key is None or type(until_ms) is not int or not isinstance(boxes, list) or not isinstance(after, list):
            return False
        if not any(name in after for name in self.names()):
            return False
        for box in boxes:
            if isinstance(box, list) and len(box) == 2 and box[0] == identity.node_id and isinstance(box[1], bytes):
                try:
                    fresh = identity.open_sealed(box[1])
                except IntegrityError:
                    return False
                if fresh == key or len(fresh) != KEY_SIZE:
                    return False
                until_ms = min(until_ms, self._now_ms() + WINDOW_S_MAX * 1000)
                self.files.set_previous([(key, until_ms), *(each for each in self._previous() if each[0] != fresh)])
                self.files.set_key(fresh)
                return True
        return False


def pass_name(invitation: bytes) -> bytes:
    """Return how a node that holds a pass names it: nobody else can."""
    return hash_bytes(b"meshhold pass" + invitation)[:16]
