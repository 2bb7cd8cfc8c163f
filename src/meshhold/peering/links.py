"""Who is this node linked with, and how does a word reach a node? Listens, dials, keeps, settles; calls over links.

Knows no message's meaning: handlers come in a `Dispatch`. Nobody but `LinkTable` decides between two links to one peer.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any, Final

import trio

from meshhold.crypto.identity import Identity
from meshhold.crypto.random import new_secret
from meshhold.errors import (
    CallTimeoutError,
    ChannelBrokenError,
    HandshakeRefusedError,
    MeshHoldError,
    OverloadedError,
    PeerError,
    PeerUnreachableError,
    ProtocolError,
)
from meshhold.model.ids import NodeId, short_id
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.guests import Guests
from meshhold.peering.handshakes import Gate, check_room, check_welcome, host_of, shake_hands
from meshhold.peering.link import Link, LinkState, UnservedError
from meshhold.peering.refusals import Refusals
from meshhold.peering.routes import Attempt, Route, Ways, approach
from meshhold.peering.settings import Detour, LinkClosed, LinkOpened, Settings, Watch, backoff_s
from meshhold.peering.streams import PeerStream
from meshhold.peering.table import LinkTable
from meshhold.transport.contract import ByteStream, Transport
from meshhold.wire import codec
from meshhold.wire.handshake import Handshake
from meshhold.wire.limits import NOTE_SIZE_MAX
from meshhold.wire.session import Session

_log = logging.getLogger(__name__)
INSTANCE_SIZE: Final = 8
ATTEMPTS_MAX: Final = 3  # links that one call is begun on, when each ends before the peer has begun it


class Peering:
    """The links of this node. Made by `open_peering`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        identity: Identity,
        swarm_keys: Sequence[bytes],
        transport: Transport,
        settings: Settings,
        dispatch: Dispatch,
        new_secret: Callable[[], bytes],
        rng: random.Random,
        watch: Watch,
        guests: Guests,
    ) -> None:
        self.node_id = identity.node_id
        self.addresses: tuple[str, ...] = ()
        """Where this node listens."""
        self.refusals = Refusals(trio.current_time)
        self._nursery = nursery
        self._identity = identity
        self._transport = transport
        self._settings = settings
        self._dispatch = dispatch
        self._guests = guests
        self._new_secret = new_secret
        self._rng = rng
        self._watch = watch
        self._static = new_secret()
        self._instance = new_secret()[:INSTANCE_SIZE]
        self._dials = count(1)
        self._gate = Gate(settings.handshakes_max, settings.handshakes_per_address_max)
        self._table: LinkTable[Link] = LinkTable(identity.node_id)
        self._routes: dict[NodeId, Route] = {}
        self._banned: frozenset[NodeId] = frozenset()
        self._leaving = False
        self._detour: Detour | None = None
        self._body_limits = codec.Limits(size_max=settings.limits.message_size)
        self.set_swarm_keys(swarm_keys)

    async def call(self, peer: NodeId, name: str, body: codec.Value, *, timeout_s: float) -> Any:
        """Return the peer's answer; it is dialled if there is no link.

        A cancellation reaches the peer's handler. A link that ends before the peer has begun the call is replaced; one
        that breaks later is not, since the call may have been served.
        Errors: `PeerUnreachableError`, `CallTimeoutError`, `CallRefusedError` with the remote error's kind,
        `TooLargeError`, `ProtocolError` (local) for a body that cannot be encoded.
        """
        raw = codec.encode(body, self._body_limits)
        deadline_s = trio.current_time() + timeout_s
        for attempt in range(1, ATTEMPTS_MAX + 1):
            link = self._table.best(peer)
            if link is None:
                with trio.move_on_at(deadline_s):
                    link = await self._wait_link(peer)
                if link is None:
                    break
            try:
                return codec.decode(await link.call(name, raw, deadline_s), self._body_limits)
            except UnservedError:
                if attempt == ATTEMPTS_MAX:
                    raise
        raise CallTimeoutError(f"node {short_id(peer)} could not be reached for {name} within {timeout_s:g} s")

    def send(self, peer: NodeId, name: str, body: codec.Value) -> bool:
        """Send a one-way message; return whether it went to a link.

        Without a link the peer is dialled and a few messages wait for it. Nothing tells whether one arrives.
        Errors: `ProtocolError` (local) and `TooLargeError` for a body that no note can carry.
        """
        raw = codec.encode(body, codec.Limits(size_max=NOTE_SIZE_MAX))
        if (link := self._table.best(peer)) is not None:
            try:
                return link.send_note(name, raw)
            except UnservedError:
                pass
        route = self._routes.get(peer)
        is_wanted = not self._leaving and peer not in self._banned
        if route is not None and (route.addresses or self._detour) and is_wanted:
            route.notes.append((name, raw))
            self._attempt(peer, route)
        return False

    @asynccontextmanager
    async def open_stream(
        self, peer: NodeId, name: str, body: codec.Value, *, timeout_s: float
    ) -> AsyncIterator[PeerStream]:
        """Open a stream within `timeout_s`; what has not ended when the block ends is broken off.

        Errors: `PeerUnreachableError`, `CallTimeoutError`, `TooLargeError`, `ProtocolError` (local). The peer's refusal
        comes from the stream's methods.
        """
        stream = await self.begin_stream(peer, name, body, timeout_s=timeout_s)
        try:
            yield stream
        finally:
            with trio.CancelScope(shield=True):  # closing takes no time
                await stream.aclose()

    async def begin_stream(self, peer: NodeId, name: str, body: codec.Value, *, timeout_s: float) -> PeerStream:
        """Open a stream as `open_stream` does, for the caller to close."""
        raw = codec.encode(body)
        with trio.move_on_after(timeout_s):
            for attempt in range(1, ATTEMPTS_MAX + 1):
                link = self._table.best(peer) or await self._wait_link(peer)
                try:
                    return await link.open_stream(name, raw)
                except UnservedError:
                    if attempt == ATTEMPTS_MAX:
                        raise
        raise CallTimeoutError(f"no stream to node {short_id(peer)} within {timeout_s:g} s")

    def learn(self, peer: NodeId, addresses: Sequence[str]) -> None:
        """Know where a peer can be dialled: in this order, in place of what was known."""
        if peer != self.node_id:
            self._routes.setdefault(peer, Route()).addresses = tuple(addresses)

    def keep(self, peer: NodeId) -> None:
        """Dial this peer again and again while there is no link to it. Idempotent; `forget` ends it."""
        route = self._routes.setdefault(peer, Route())
        if route.keeping is None and peer != self.node_id:
            route.keeping = trio.CancelScope()
            self._nursery.start_soon(self._keep, peer, route, route.keeping)

    def forget(self, peer: NodeId) -> None:
        """Dial this peer no more, and know no address of it; links that are open stay."""
        route = self._routes.pop(peer, None)
        if route is not None and route.keeping is not None:
            route.keeping.cancel()

    def ban(self, peers: frozenset[NodeId]) -> None:
        """Take and keep no link with these nodes, in place of those banned before."""
        self._banned = peers
        for link in list(self._table):
            if link.peer in peers:
                link.break_off(PeerUnreachableError(f"node {short_id(link.peer)} is banned"))

    def doubt(self, peer: NodeId) -> None:
        """Break links on which a peer does not answer: after a partition a new one is quicker than the old TCP."""
        self._nursery.start_soon(self._settle, peer, self._table.of(peer))

    def set_swarm_keys(self, swarm_keys: Sequence[bytes], *, dialed: int = 1) -> None:
        """Take links with any of these keys; dial with the first `dialed` in turn: two nodes may share an older one.

        Where guests are answered, whoever comes with one of the others is a guest.
        """
        self._swarm_keys = tuple(swarm_keys)
        self._dialed_keys = self._swarm_keys[: max(1, dialed)]
        self._guests.set_keys(self._swarm_keys[max(1, dialed) :])

    async def join(self, address: str) -> NodeId:
        """Dial an address once, whoever is there; return who it is, linked.

        Errors: `PeerUnreachableError`, `HandshakeRefusedError`, `InvalidError`.
        """
        return (await self._dial(address, None)).peer

    async def run_bootstrap(self, address: str) -> None:
        """Keep a link to whoever is at an address, until cancelled; return if it is this node itself."""
        failures = 0
        while True:
            try:
                peer = await self.join(address)
            except HandshakeRefusedError as error:
                if error.culprit == "local" and "itself" in error.reason:
                    return
                failures += 1
                self.refusals.note_stranger(address, str(error))
            except MeshHoldError as error:
                failures += 1
                _log.debug("bootstrap: %s", error)
            else:
                failures = 0
                await self._wait_closed(peer)
            await trio.sleep(backoff_s(failures, self._settings, self._rng.random()))

    def set_detour(self, detour: Detour | None) -> None:
        """Ask `detour` for a link to a peer whose addresses do not answer."""
        self._detour = detour

    def improve(self, peer: NodeId) -> None:
        """Try a peer's addresses again although there is a link: a direct one takes the place of a relayed one."""
        route = self._routes.get(peer)
        if route is not None and route.addresses and not self._leaving and peer not in self._banned:
            self._attempt(peer, route)

    async def adopt(
        self, stream: ByteStream, *, is_dialed: bool, expected: NodeId | None = None, via: NodeId | None = None
    ) -> NodeId:
        """Shake hands over a stream that somebody else made, and keep it as a link; return the peer.

        `via` is the relay that carries the stream.

        Resources: closes `stream` when the link ends, or now on errors. Errors: `HandshakeRefusedError`,
        `PeerUnreachableError`.
        """
        link = await self._open_link(stream, self._swarm_keys[0], is_dialed=is_dialed, expected=expected, via=via)
        return link.peer

    def links(self) -> list[LinkState]:
        """Return the links that are open."""
        return [link.state for link in self._table]

    def rtt_s(self, peer: NodeId) -> float | None:
        """Return the smoothed round trip to a peer, None while it is not known."""
        return link.session.rtt_s if (link := self._table.best(peer)) else None

    def is_linked(self, peer: NodeId) -> bool:
        """Tell whether something can be said to this peer without dialling."""
        return self._table.best(peer) is not None

    async def _wait_link(self, peer: NodeId) -> Link:
        if peer == self.node_id:
            raise PeerUnreachableError("a node has no link to itself")
        while True:
            if (link := self._table.best(peer)) is not None:
                return link
            if why := "this node is leaving" if self._leaving else "it is banned" if peer in self._banned else "":
                raise PeerUnreachableError(f"node {short_id(peer)} is not dialled: {why}")
            route = self._routes.get(peer)
            if route is None or not (route.addresses or route.attempt or self._detour):
                raise PeerUnreachableError(f"no link to node {short_id(peer)}, and no address of it is known")
            attempt = self._attempt(peer, route)
            if not attempt.done.is_set():
                await route.changed.wait()
            if attempt.error is not None and self._table.best(peer) is None:
                raise PeerUnreachableError(f"node {short_id(peer)} cannot be reached: {attempt.error}")

    def _attempt(self, peer: NodeId, route: Route) -> Attempt:
        if route.attempt is None:
            route.attempt = Attempt()
            self._nursery.start_soon(self._run_attempt, peer, route, route.attempt)
        return route.attempt

    async def _run_attempt(self, peer: NodeId, route: Route, attempt: Attempt) -> None:
        """Approach a peer once."""

        async def dial(address: str) -> None:
            try:
                await self._dial(address, peer)
            except HandshakeRefusedError as error:
                self.refusals.note(short_id(peer), str(error))
                raise

        def is_direct() -> bool:
            link = self._table.best(peer)
            return link is not None and link.via is None

        detour = partial(self._detour, peer) if self._detour else None
        ways = Ways(dial, detour, lambda: self._leaving or self.is_linked(peer), is_direct)
        errors = await approach(route.addresses, ways, self._settings.head_start_s)
        if not self.is_linked(peer):
            attempt.error = errors[-1] if errors else PeerUnreachableError("no address of it is known")
            route.notes.clear()
        route.attempt = None
        attempt.done.set()
        route.wake()

    async def _keep(self, peer: NodeId, route: Route, scope: trio.CancelScope) -> None:
        failures = 0
        with scope:
            while True:
                if self._table.best(peer) is None and peer not in self._banned:
                    attempt = self._attempt(peer, route)
                    await attempt.done.wait()
                    failures = failures + 1 if attempt.error else 0
                if self._table.best(peer) is not None:
                    failures = 0
                    await self._wait_closed(peer)
                await trio.sleep(backoff_s(failures, self._settings, self._rng.random()))

    async def _wait_closed(self, peer: NodeId) -> None:
        while (link := self._table.best(peer)) is not None:
            await link.closed.wait()

    async def _dial(self, address: str, expected: NodeId | None) -> Link:
        for key in self._dialed_keys[:-1]:
            with suppress(HandshakeRefusedError):
                return await self._dial_with(key, address, expected)
        return await self._dial_with(self._dialed_keys[-1], address, expected)

    async def _dial_with(self, key: bytes, address: str, expected: NodeId | None) -> Link:
        stream = await self._transport.dial(address, timeout_s=self._settings.dial_s)
        return await self._open_link(stream, key, is_dialed=True, expected=expected)

    # -- links ------------------------------------------------------------------------------------------------------

    async def serve(self, stream: ByteStream) -> None:
        """Take a stranger's connection: shake hands if there is a place, then keep it as a link. Raises nothing."""
        host = host_of(stream.peer_address)
        try:
            with self._gate.admit(host):
                link = await self._open_link(stream, self._swarm_keys[0], is_dialed=False, expected=None)
                await self._guests.wait_gone(link)
        except (PeerError, OverloadedError) as error:
            self.refusals.note_stranger(host if isinstance(error, PeerError) else "strangers", str(error))
            await stream.aclose()

    async def _open_link(
        self, stream: ByteStream, key: bytes, *, is_dialed: bool, expected: NodeId | None, via: NodeId | None = None
    ) -> Link:
        """Shake hands and start the link; return once the peer has greeted."""
        try:
            link, early = await self._shake(stream, key, is_dialed=is_dialed, expected=expected, via=via)
        except BaseException:
            with trio.CancelScope(shield=True):  # closing takes no time
                await stream.aclose()
            raise
        self._nursery.start_soon(self._run_link, link, early)
        await link.started.wait()
        if not link.session.is_ready:
            reason = link.error or "the peer closed the connection"
            raise PeerUnreachableError(f"no session with node {short_id(link.peer)}: {reason}")
        return link

    async def _shake(
        self, stream: ByteStream, key: bytes, *, is_dialed: bool, expected: NodeId | None, via: NodeId | None
    ) -> tuple[Link, list[bytes]]:
        settings = self._settings
        handshake = Handshake(
            initiator=is_dialed,
            swarm_key=key,
            identity=self._identity,
            static_secret=self._static,
            ephemeral_secret=self._new_secret(),
            accept_keys=self._swarm_keys[1:],
        )
        reader, early = await shake_hands(stream, handshake, settings.handshake_s)
        channel = handshake.channel()
        peer = channel.peer
        check_welcome(peer, expected, self._banned, is_leaving=self._leaving)
        check_room(len(self._table.of(peer)), len(list(self._table)), settings.links_max)
        dial = next(self._dials) if is_dialed else 0
        session = Session(
            channel,
            dialed=is_dialed,
            dial=dial,
            instance=self._instance,
            limits=settings.limits if via is None else settings.relayed_limits,
            now_s=trio.current_time(),
        )
        for_guest = self._guests.dispatch_for(handshake.swarm, is_dialed=is_dialed)
        link = Link(
            stream,
            session,
            reader,
            peer=peer,
            via=via,
            is_dialed=is_dialed,
            dial=dial,
            dispatch=for_guest or self._dispatch,
            on_ready=self._guests.receive if for_guest else self._admit,
            is_guest=for_guest is not None,
            refuse=partial(self.refusals.note, short_id(peer)),
        )
        return link, early

    async def _run_link(self, link: Link, early: list[bytes]) -> None:
        """Run one link, which is its own boundary of errors, and tell when the peer's last one is gone."""
        await link.run(early, self._settings.handshake_s)
        if isinstance(link.error, ProtocolError | ChannelBrokenError) and link.error.culprit == "remote":
            self.refusals.note(short_id(link.peer), str(link.error))
        if self._table.remove(link):
            self._watch(LinkClosed(link.peer, str(link.error) if link.error else ""))
        route = self._routes.get(link.peer)
        if route is not None:
            route.wake()

    def _admit(self, link: Link) -> None:
        """Take a link into the table, now that the peer has greeted."""
        peer = link.peer
        is_first, stale, rivals = self._table.add(link)
        for other in stale:
            other.break_off(PeerUnreachableError(f"node {short_id(peer)} was started anew"))
        if is_first:
            self._watch(LinkOpened(link.state))
        link.session.ping(trio.current_time())  # to know the round trip from the start
        route = self._routes.setdefault(peer, Route())
        with suppress(PeerUnreachableError):
            while route.notes:
                link.send_note(*route.notes.popleft())
        route.wake()
        if self._leaving:
            link.retire()
        elif rivals:
            self._nursery.start_soon(self._settle, peer, rivals)

    async def _settle(self, peer: NodeId, rivals: list[Link]) -> None:
        """Find out which of several links to a peer are alive, and keep one."""
        for other in rivals:
            if not await other.ping(self._settings.doubt_s):
                other.break_off(PeerUnreachableError(f"node {short_id(peer)} does not answer on this link any more"))
        for loser in self._table.losers(peer):
            loser.retire()

    async def leave(self) -> None:
        """Begin nothing more, let what is in progress end within `drain_s`, and close every link in good order."""
        self._leaving = True
        for route in self._routes.values():
            if route.keeping is not None:
                route.keeping.cancel()
        with trio.move_on_after(self._settings.drain_s):
            for link in list(self._table):
                link.retire()
            for link in list(self._table):
                await link.closed.wait()


@asynccontextmanager
async def open_peering(
    identity: Identity,
    swarm_keys: Sequence[bytes],
    transport: Transport,
    *,
    dispatch: Dispatch,
    settings: Settings | None = None,
    listen: Sequence[str] = (),
    new_secret: Callable[[], bytes] = new_secret,
    rng: random.Random | None = None,
    watch: Watch = lambda _event: None,
    guest_dispatch: Dispatch | None = None,
) -> AsyncIterator[Peering]:
    """Listen at the addresses and give the links; at the end let what is in progress finish and close them.

    The first of `swarm_keys` is used, the others are taken too (see `set_swarm_keys`). `new_secret` returns 32 random
    bytes, `rng` spreads retries; simulations pass their own. A block that is left by an exception cuts the links.
    Errors: `ConflictError` if an address is taken; a handler's `FatalError`, in an exception group.
    """
    async with trio.open_nursery() as nursery:
        peering = Peering(
            nursery,
            identity=identity,
            swarm_keys=swarm_keys,
            transport=transport,
            settings=settings or Settings(),
            dispatch=dispatch,
            new_secret=new_secret,
            rng=rng or random.Random(),  # noqa: S311 - spreads retries, guards nothing
            watch=watch,
            guests=Guests(guest_dispatch),
        )
        for address in listen:
            peering.addresses += await nursery.start(transport.listen, address, peering.serve)
        yield peering
        await peering.leave()
        nursery.cancel_scope.cancel()
