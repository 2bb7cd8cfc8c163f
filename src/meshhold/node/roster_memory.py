"""What of membership survives a restart? Whom this node knew, and how high its incarnation was. Knows no link."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

import msgpack

from meshhold import __version__
from meshhold.crypto.identity import Identity, verify
from meshhold.errors import MeshHoldError
from meshhold.index.contract import Index
from meshhold.membership.chance import Chance
from meshhold.membership.machine import Membership
from meshhold.membership.member import Member, decode_member, encode_member, first_incarnation
from meshhold.membership.settings import Settings
from meshhold.store.nodes import NodeFacts

_LOG: Final = logging.getLogger("meshhold.mesh")
_ROSTER: Final = "membership roster"
_INCARNATION: Final = "membership incarnation"


class RosterMemory:
    """One node's memory of its mesh, in its index. Resources: borrows the index."""

    def __init__(self, identity: Identity, index: Index, now_ms: Callable[[], int]) -> None:
        self._identity = identity
        self._index = index
        self._now_ms = now_ms

    def membership(self, facts: NodeFacts, chance: Chance) -> Membership:
        """Return this node's membership as a new life begins it, with the members it knew before."""
        stored = int.from_bytes(self._index.setting(_INCARNATION) or b"", "big")
        me = Member(
            node=self._identity.node_id,
            name=facts.name,
            addresses=(),
            incarnation=first_incarnation(stored, self._now_ms()),
            life=os.urandom(8),
            zone=facts.zone,
            capacity=facts.capacity,
            reliable=facts.reliable,
            version=__version__,
        )
        return Membership(me, Settings(), chance, self._identity.sign, verify, self._known())

    def _known(self) -> list[Member]:
        known = []
        for raw in msgpack.unpackb(self._index.setting(_ROSTER) or b"\x90"):
            try:
                known.append(decode_member(raw))
            except MeshHoldError as error:
                _LOG.warning("a remembered node is left out: %s", error)
        return known

    async def keep(self, membership: Membership) -> None:
        """Remember the members."""
        roster = [encode_member(member) for member in membership.snapshot()]
        await self._index.save_setting(_ROSTER, msgpack.packb(roster))

    async def keep_incarnation(self, incarnation: int) -> None:
        """Remember what this node's next life must rise above."""
        await self._index.save_setting(_INCARNATION, incarnation.to_bytes(8, "big"))

    async def forget(self) -> None:
        """Know no member any more."""
        await self._index.save_setting(_ROSTER, b"\x90")
