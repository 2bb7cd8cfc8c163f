"""Membership carried out: messages to and from peers, ticks when due, and who is told of changes. Decides nothing.

The decisions are `membership/`'s; here are the clock, the links and the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import trio

from meshhold.errors import MeshHoldError, ProtocolError
from meshhold.membership.machine import Membership
from meshhold.membership.messages import Action, Changed, Conflict, Deliver, Raised, Refused, Send, decode, encode
from meshhold.model.ids import NodeId, short_id
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.links import Peering
from meshhold.peering.settings import LinkEvent, LinkOpened

NOTE: Final = "membership/1"
MEET_EVERY_S: Final = 1.1  # a node answers the exchanges of another one once a second
FAREWELL_S: Final = 2.0  # a farewell is sent 28 times at 2,000 nodes, three times in each fifth of a second
_LOG: Final = logging.getLogger("meshhold.mesh")

OnChange = Callable[[Changed], None]


class Gossip:
    """Drives one node's membership over its links.

    `on_change` is told of each change of a member, `on_raised` of incarnations to keep. Resources: borrows the peering.
    """

    def __init__(
        self, membership: Membership, dispatch: Dispatch, on_change: OnChange, on_raised: Callable[[int], None]
    ) -> None:
        self.membership = membership
        self._on_change = on_change
        self._on_raised = on_raised
        self._peering: Peering | None = None
        self._sooner = trio.Event()
        dispatch.on_note(NOTE, self._handle_note)

    def start(self, peering: Peering, addresses: tuple[str, ...]) -> None:
        """Begin to take part; `addresses` are where others can dial this node."""
        self._peering = peering
        self.carry_out(self.membership.start(trio.current_time()))
        if addresses != self.membership.me.addresses:
            self.carry_out(self.membership.update(trio.current_time(), addresses=addresses))

    def watch(self, event: LinkEvent) -> None:
        """Take a link's opening or end as a hint; it proves neither life nor death."""
        if self._peering is None:
            return
        now_s = trio.current_time()
        if isinstance(event, LinkOpened):
            self.carry_out(self.membership.contact(event.link.peer, now_s))
        else:
            self.carry_out(self.membership.doubt(event.peer, now_s))

    async def run(self) -> None:
        """Tick whenever it is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._meet_linked)
            await self._tick()

    async def _meet_linked(self) -> None:
        """Exchange rosters again with linked nodes that are not known to live.

        The exchange that an opening link begins may be refused, as by a node that had one a moment ago, or be lost; and
        a node that is held to have left is not probed by anybody.
        """
        while True:
            await trio.sleep(MEET_EVERY_S)
            for link in self._peering.links() if self._peering is not None else ():
                self.carry_out(self.membership.contact(link.peer, trio.current_time()))

    async def _tick(self) -> None:
        while True:
            self._sooner = trio.Event()
            with trio.move_on_at(self.membership.next_tick_s()):
                await self._sooner.wait()
                continue  # what was carried out meanwhile may have moved the next tick
            self.carry_out(self.membership.tick(trio.current_time()))

    async def leave(self) -> None:
        """Say farewell and let it spread for at most `FAREWELL_S`."""
        self.carry_out(self.membership.leave(trio.current_time()))
        with trio.move_on_after(FAREWELL_S):
            while self.membership.has_rumors:  # noqa: ASYNC110 - the machine has no tasks that could set an event
                await trio.sleep(0.05)

    def _handle_note(self, peer: NodeId, body: Any) -> None:
        if self._peering is None:
            return
        try:
            message = decode(body)
        except ProtocolError as error:
            self._peering.refusals.note(short_id(peer), str(error))
            return
        self.carry_out(self.membership.handle(message, peer, trio.current_time()))

    def carry_out(self, actions: Iterable[Action]) -> None:
        """Do what membership decided, in order."""
        for action in actions:
            self._carry_out(action)
        self._sooner.set()

    def _carry_out(self, action: Action) -> None:
        peering = self._peering
        if peering is None:
            return
        match action:
            case Send(to, message):
                try:
                    peering.send(to, NOTE, encode(message))
                except MeshHoldError as error:
                    _LOG.error("membership could not be told to node %s: %s", short_id(to), error)
            case Changed(member, was, now):
                if was is not now:
                    _LOG.info("node %s (%s) is %s", member.name, short_id(member.node), now)
                self._on_change(action)
            case Raised(incarnation):
                self._on_raised(incarnation)
            case Conflict(ours, theirs):
                _LOG.error(
                    "two running nodes have the id %s (%s and %s): one is a copy; give it its own data directory",
                    short_id(ours.node),
                    ", ".join(ours.addresses) or "no address",
                    ", ".join(theirs.addresses) or "no address",
                )
            case Refused(sender, reason):
                peering.refusals.note(short_id(sender), reason)
            case Deliver():
                pass  # the registry spreads its news itself
