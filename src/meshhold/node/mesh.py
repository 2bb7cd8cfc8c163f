"""This node's life in its mesh: begin with the first invitation or at a start, serve, rotate, leave. Knows no vault.

Without a swarm key nothing listens and nothing runs. Links, relay, membership, registry and discovery are tied together
in `_run`; a new key or a farewell ends it and, where there is a key, begins it anew.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import msgpack
import trio

from meshhold import __version__
from meshhold.admin.services import NodeView
from meshhold.config import Config, split_address
from meshhold.config.joining import check_free, remember
from meshhold.config.swarm_files import SwarmFiles
from meshhold.crypto.identity import Identity, seal_to
from meshhold.crypto.random import new_secret
from meshhold.discovery.mdns import lan_hosts, run_mdns
from meshhold.discovery.upnp import run_upnp
from meshhold.errors import ConflictError, InvalidError, MeshHoldError, UnavailableError
from meshhold.index.contract import Index
from meshhold.membership.member import State
from meshhold.membership.messages import Changed
from meshhold.model.ids import NodeId, short_id
from meshhold.model.stamp import Clock
from meshhold.model.token import Token, decode_token, encode_token
from meshhold.node.addresses import dialable, listen_address
from meshhold.node.admission import ADMIT, redeem_pass
from meshhold.node.reach import Reach
from meshhold.node.roster_memory import RosterMemory
from meshhold.node.roster_view import RosterView
from meshhold.node.swarm_keys import WINDOW_S_MAX, SwarmKeys
from meshhold.peering.dispatch import Dispatch
from meshhold.peering.gossip import Gossip
from meshhold.peering.links import Peering, open_peering
from meshhold.peering.relay import Relay
from meshhold.peering.settings import LinkEvent, LinkOpened
from meshhold.registry.record import Kind, Record, sign_by_node
from meshhold.replication.records.record_keeper import RecordKeeper
from meshhold.replication.records.record_sync import RecordSync
from meshhold.store.nodes import NodeFacts, Nodes
from meshhold.transport.tcp import TcpTransport
from meshhold.wire.handshake import swarm_id

_LOG: Final = logging.getLogger("meshhold.mesh")
START_S: Final = 10.0  # how long `invite` and `join` wait for the mesh to listen
AGAIN_S: Final = 15.0  # until the next try of a mesh that could not begin
SAVE_EVERY_S: Final = 5.0  # the roster on disk is a hint where to call: a few seconds old is as good
_FACTS: Final = "node facts"
_SETTABLE: Final = ("name", "zone", "capacity", "reliable")
_SWARM_RECORD: Final = "key"


class Mesh:
    """The mesh as this node takes part in it.

    Resources: borrows its collaborators; what it opens, `run` closes. Peers' errors are logged, never raised.
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        keeper: RecordKeeper,
        nodes: Nodes,
        index: Index,
        clock: Clock,
        now_ms: Callable[[], int],
        *,
        disk_bytes: int = 0,
    ) -> None:
        self._config = config
        self._disk_bytes = disk_bytes
        self._identity = identity
        self._keeper = keeper
        self._nodes = nodes
        self._index = index
        self._clock = clock
        self._now_ms = now_ms
        self._files = SwarmFiles(config.node.data_dir)
        self._keys = SwarmKeys(self._files, config.swarm_key, now_ms)
        self._rng = random.Random(os.urandom(16))  # noqa: S311 - spreads retries and probes, guards nothing
        self._sync = RecordSync(keeper, chance=self._rng)
        self._memory = RosterMemory(identity, index, now_ms)
        self._facts = self._first_facts()
        self._peering: Peering | None = None
        self._gossip: Gossip | None = None
        self._tasks: trio.Nursery | None = None
        self._began = trio.Event()
        self._again = trio.Event()
        self._dirty = False
        self._mapped: str | None = None
        self._services: list[Callable[[Dispatch], None]] = []
        self._greeters: list[Callable[[NodeId], None]] = []
        self.reach = Reach(lambda: self._peering, lambda: self._gossip)
        keeper.follow(self._on_records)

    def serve(self, register: Callable[[Dispatch], None], greet: Callable[[NodeId], None]) -> None:
        """Let peers ask what `register` adds to the table of calls, and `greet` each whenever a link to it opens."""
        self._services.append(register)
        self._greeters.append(greet)

    async def tell(self, nodes: Sequence[NodeId], records: Sequence[Record]) -> None:
        """Return when these nodes hold the records, as far as they can be asked at once."""
        await self._sync.tell(self.reach, nodes, records)

    # -- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take part whenever there is a key, until cancelled."""
        while True:
            self._again = trio.Event()
            if self._keys.current() is not None or self._files.pending() is not None:
                await self._run_until_again()
            else:
                await self._again.wait()

    async def _run_until_again(self) -> None:
        failed = False
        try:
            await self._use_pass()
            if self._keys.current() is None:
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._take_part)
                await self._again.wait()
                nursery.cancel_scope.cancel()
        except* MeshHoldError as group:
            failed = True
            for error in group.exceptions:
                _LOG.error("the mesh stopped: %s", error)
        finally:
            self._peering = self._gossip = self._tasks = None
            self._began = trio.Event()
        with trio.move_on_after(AGAIN_S if failed else 0):
            await self._again.wait()

    async def _take_part(self) -> None:
        dispatch, for_guests = Dispatch(), Dispatch()
        relay = Relay(dispatch)
        self._sync.register(dispatch)
        for register in self._services:
            register(dispatch)
        for_guests.on_call(ADMIT, self._handle_admit)
        gossip = Gossip(self._memory.membership(self._facts, self._rng), dispatch, self._on_change, self._on_raised)

        def watch(event: LinkEvent) -> None:
            gossip.watch(event)
            if isinstance(event, LinkOpened) and self._tasks is not None:
                self._tasks.start_soon(self._sync.compare, self.reach, event.link.peer)
                for greet in self._greeters:
                    greet(event.link.peer)

        async with (
            open_peering(
                self._identity,
                self._keys.all()[:1],  # the others at once, told apart
                TcpTransport(),
                dispatch=dispatch,
                listen=[listen_address(self._config.node.listen_addr)],
                watch=watch,
                guest_dispatch=for_guests,
            ) as peering,
            trio.open_nursery() as tasks,
        ):
            self._peering, self._gossip, self._tasks = peering, gossip, tasks
            self._apply_bans(self._keeper.registry.live(Kind.BAN))
            await self._take_rotation()  # it may have been recorded right before a stop
            peering.set_swarm_keys(self._keys.all(), dialed=self._keys.dialed)
            addresses = self._addresses(peering)
            gossip.start(peering, addresses)
            await tasks.start(relay.run, peering)
            for run in (gossip.run, self._save_now_and_then, self._renew_keys):
                tasks.start_soon(run)
            tasks.start_soon(self._sync.run, self.reach)
            for address in dict.fromkeys((*self._config.bootstrap_peers, *self._files.peers())):
                tasks.start_soon(peering.run_bootstrap, address)
            await self._announce(addresses)
            if self._config.node.mdns:
                tasks.start_soon(self._run_mdns, peering)
            if self._config.node.upnp and not self._config.node.advertise_addrs:
                tasks.start_soon(self._run_upnp, peering)
            self._began.set()
            _LOG.info("mesh on %s", ", ".join(addresses) or "no address that others can dial")
            try:
                await trio.sleep_forever()
            finally:
                self._tasks = None  # it takes no more tasks, and links that close now tell of it
                with trio.CancelScope(shield=True, deadline=trio.current_time() + START_S):
                    await self._save()

    def _on_change(self, changed: Changed) -> None:
        self._dirty = True
        if self._peering is None or changed.member.node == self._identity.node_id:
            return
        node = changed.member.node
        if changed.now is State.LEFT:
            self._peering.forget(node)
            return
        if changed.now is State.DEAD:
            self._peering.doubt(node)
        self._peering.learn(node, changed.member.addresses)
        self._peering.keep(node)

    def _on_raised(self, incarnation: int) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self._memory.keep_incarnation, incarnation)

    def _on_records(self, records: Sequence[Record], _: NodeId | None) -> None:
        kinds = {record.kind for record in records}
        if Kind.BAN in kinds and self._peering is not None and self._gossip is not None:
            self._apply_bans(records)
        if Kind.SWARM in kinds and self._tasks is not None:
            self._tasks.start_soon(self._take_rotation)

    def _banned(self) -> frozenset[NodeId]:
        return frozenset(NodeId(record.key) for record in self._keeper.registry.live(Kind.BAN))

    def _apply_bans(self, records: Sequence[Record]) -> None:
        """Refuse whom these records ban; meet whom they let in again."""
        if self._peering is None or self._gossip is None:
            return
        self._peering.ban(self._banned())
        for record in records:
            node = NodeId(record.key)
            if record.kind is not Kind.BAN:
                continue
            if node == self._identity.node_id:
                _LOG.error("this node is banned from its mesh" if not record.deleted else "the ban was lifted")
            elif not record.deleted:
                self._gossip.carry_out(self._gossip.membership.ban(node))
            else:
                self._gossip.carry_out(self._gossip.membership.unban(node))
                facts = self._nodes.facts(node)
                self._peering.learn(node, facts.addresses if facts else ())
                self._peering.keep(node)

    async def _save_now_and_then(self) -> None:
        while True:
            await trio.sleep(SAVE_EVERY_S)
            if self._dirty:
                await self._save()

    async def _save(self) -> None:
        if self._gossip is not None:
            self._dirty = False
            await self._memory.keep(self._gossip.membership)

    async def _renew_keys(self) -> None:
        """Stop taking keys whose time is over."""
        while True:
            await trio.sleep(SAVE_EVERY_S)
            if self._peering is not None:
                self._peering.set_swarm_keys(self._keys.all(), dialed=self._keys.dialed)

    async def _run_mdns(self, peering: Peering) -> None:
        key = self._keys.current()
        port = split_address(peering.addresses[0])[1] if peering.addresses else 0
        if key is None or not port:
            return

        def found(_: NodeId | None, address: str) -> None:
            if self._tasks is not None:
                self._tasks.start_soon(self._try_address, peering, address)

        await run_mdns(swarm_id(key), self._identity.node_id, port, found)

    async def _run_upnp(self, peering: Peering) -> None:
        """Ask the router for a port, where one listens at all; announce the address that comes of it."""
        hosts = {split_address(address)[0] for address in peering.addresses}
        if not hosts - {"127.0.0.1", "::1"}:
            return

        def mapped(address: str | None) -> None:
            self._mapped = address
            if self._tasks is not None:
                self._tasks.start_soon(self._readdress, peering)

        await run_upnp(split_address(peering.addresses[0])[1], mapped)

    async def _readdress(self, peering: Peering) -> None:
        """Tell the mesh where this node can be dialled now."""
        addresses = self._addresses(peering)
        if self._gossip is not None:
            self._gossip.carry_out(self._gossip.membership.update(trio.current_time(), addresses=addresses))
        await self._announce(addresses)

    async def _try_address(self, peering: Peering, address: str) -> None:
        linked = {link.address for link in peering.links()}
        if address in linked:
            return
        try:
            await peering.join(address)
        except MeshHoldError as error:
            _LOG.debug("an address found on the LAN: %s", error)

    # -- invitations ------------------------------------------------------------------------------------------------

    async def invite(self, *, expires_s: int = 0, single_use: bool = False) -> str:
        """Return a token; see `admin.services.Mesh`."""
        if self._keys.current() is None:
            self._files.set_key(new_secret())
        await self._wait_begun()
        key = self._keys.current()
        peering = self._peering
        if key is None or peering is None:
            raise UnavailableError("the mesh has not begun", "see the daemon's log")
        addresses = self._addresses(peering)
        if not addresses:
            raise ConflictError("this node has no address that others could dial", "set node.advertise_addrs")
        node = self._identity.node_id
        if not expires_s and not single_use:
            return encode_token(Token(key, node, addresses))
        invitation, until_ms = self._keys.open_pass(expires_s, single_use=single_use)
        peering.set_swarm_keys(self._keys.all(), dialed=self._keys.dialed)
        return encode_token(Token(invitation, node, addresses, is_pass=True, expires_ms=until_ms))

    async def _handle_admit(self, peer: NodeId, body: Any) -> Any:
        """Give the mesh's key to a node that holds a pass."""
        key = self._keys.redeem(body.get("pass") if isinstance(body, dict) else None)
        _LOG.info("node %s was let in by an invitation", short_id(peer))
        return {"key": key}

    async def _use_pass(self) -> None:
        """Get the mesh's key for a pass that was left while no daemon ran. One that is refused is forgotten."""
        invitation = self._files.pending()
        if invitation is None:
            return
        try:
            self._files.set_key(await redeem_pass(self._identity, invitation, self._files.peers()))
        except UnavailableError:
            raise  # it is tried again
        except InvalidError as error:
            _LOG.error("the mesh was not joined: %s", error)
        self._files.forget_pending()

    async def join(self, token: str) -> dict[str, Any]:
        """Enter a mesh; see `admin.services.Mesh`."""
        invitation = decode_token(token)
        if invitation.expires_ms and invitation.expires_ms < self._now_ms():
            raise InvalidError("the invitation has expired", "ask for another one")
        if self._keys.configured not in (None, invitation.key):
            raise ConflictError("the configuration names another swarm_key", "empty it in config.yaml, then join")
        if invitation.node == self._identity.node_id:
            raise InvalidError("this node made the invitation itself", "use it on another machine")
        check_free(self._files, invitation)
        if invitation.is_pass:
            key = await redeem_pass(self._identity, invitation.key, invitation.addresses)
            invitation = replace(invitation, key=key, is_pass=False)
        remember(self._files, invitation)
        if self._peering is not None and self._tasks is not None:  # a mesh that has begun does not read them again
            for address in invitation.addresses:
                self._tasks.start_soon(self._try_address, self._peering, address)
        await self._wait_begun()
        with trio.move_on_after(START_S):
            while invitation.node not in self.reach.linked():  # noqa: ASYNC110 - links come and go in another room
                await trio.sleep(0.05)
        if invitation.node not in self.reach.linked():
            raise UnavailableError(
                f"node {short_id(invitation.node)} does not answer at {', '.join(invitation.addresses)}",
                "this node keeps trying; see `meshhold node list`",
            )
        await self._sync.compare(self.reach, invitation.node)
        facts = self._nodes.facts(invitation.node)
        return {"node_id": invitation.node, "name": facts.name if facts else short_id(invitation.node)}

    async def _wait_begun(self) -> None:
        if not self._began.is_set():
            self._again.set()
        with trio.move_on_after(START_S):
            while self._peering is None or not self._began.is_set():  # noqa: ASYNC110 - it may begin more than once
                await trio.sleep(0.02)
            return
        raise UnavailableError("the mesh did not begin", "see the daemon's log")

    # -- the swarm --------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Say farewell and forget the swarm key; see `admin.services.Mesh`."""
        if self._keys.current() is None:
            raise ConflictError("this node is in no mesh")
        if self._config.swarm_key is not None:
            raise ConflictError("the configuration names a swarm_key", "empty it in config.yaml and restart the daemon")
        if self._gossip is not None:
            await self._nodes.withdraw()
            await self._gossip.leave()
        self._files.forget_all()
        self._again.set()
        while self._peering is not None:  # noqa: ASYNC110 - see `_wait_begun`
            await trio.sleep(0.02)
        await self._memory.forget()
        await self._keeper.forget(self._is_of_others)

    def _is_of_others(self, record: Record) -> bool:
        """Tell whether a record means nothing outside the mesh: all but own keys, and vaults that this node holds.

        Its own farewell stays too: what it says of itself when it comes back must be stamped later, also after a
        restart.
        """
        me = self._identity.node_id
        if record.kind is Kind.NODE:
            return record.key != me
        if record.kind in {Kind.BAN, Kind.SWARM}:
            return True
        if record.kind is Kind.KEY:
            return bool(record.public.get("node") != me)
        held = self._keeper.registry.get(Kind.MEMBER, f"{record.scope}/{me}") is not None
        return not held and not (record.kind is Kind.VAULT and record.deleted)  # a deletion is not to be undone

    async def rotate(self, *, window_s: int) -> dict[str, Any]:
        """Give every node that is not banned a new swarm key, taken together with the old one for a while."""
        key = self._keys.current()
        if key is None or self._gossip is None:
            raise ConflictError("this node is in no mesh")
        if not 60 <= window_s <= WINDOW_S_MAX:
            raise InvalidError(f"a window of {window_s} s is out of range", f"use 60 to {WINDOW_S_MAX}")
        if self._config.swarm_key is not None and self._files.key() is None:
            raise ConflictError("the configuration names a swarm_key", "move it out of config.yaml first")
        fresh, until_ms = new_secret(), self._now_ms() + window_s * 1000
        entries = self._gossip.membership.entries()
        members = {entry.member.node for entry in entries if entry.state is not State.LEFT}
        members |= {facts.id for facts in self._nodes.all()}
        boxes = [[node, seal_to(node, fresh)] for node in sorted(members - self._banned())]
        public = {"boxes": boxes, "until_ms": until_ms, "after": self._keys.names()}
        record = Record(
            Kind.SWARM, _SWARM_RECORD, self._clock.tick(self._now_ms()), deleted=False, public=public, private=b""
        )
        await self._keeper.write(sign_by_node(record, self._identity))
        await self._take_rotation()
        return {"accepted_until_ms": until_ms}

    async def _take_rotation(self) -> None:
        """Use the key of the newest rotation, if this node was given it."""
        record = self._keeper.registry.get(Kind.SWARM, _SWARM_RECORD)
        if record is not None and self._keys.take_rotation(record, self._identity):
            _LOG.info("the swarm key was rotated")
            if self._peering is not None:
                self._peering.set_swarm_keys(self._keys.all(), dialed=self._keys.dialed)

    async def ban(self, ref: str, *, lift: bool) -> None:
        """Refuse a node everywhere, or let it in again; see `admin.services.Mesh`."""
        await self._nodes.ban(self._nodes.find(ref, banned=lift).id, lift=lift)

    # -- facts and views --------------------------------------------------------------------------------------------

    def _first_facts(self) -> NodeFacts:
        node = self._config.node
        me, capacity = self._identity.node_id, node.capacity or 0
        facts = NodeFacts(me, node.name, (), node.zone, capacity, node.reliable, __version__, disk=self._disk_bytes)
        changed = msgpack.unpackb(self._index.setting(_FACTS) or b"\x80")
        return replace(facts, **{name: changed[name] for name in _SETTABLE if name in changed})

    async def set_facts(
        self, *, name: str | None, zone: str | None, capacity: int | None, reliable: bool | None
    ) -> NodeView:
        """Change what this node says of itself, durably."""
        given = {"name": name, "zone": zone, "capacity": capacity, "reliable": reliable}
        changed = {field: value for field, value in given.items() if value is not None}
        stored = msgpack.unpackb(self._index.setting(_FACTS) or b"\x80")
        await self._index.save_setting(_FACTS, msgpack.packb({**stored, **changed}))
        self._facts = self._first_facts()
        if self._gossip is not None and self._peering is not None:
            self._gossip.carry_out(self._gossip.membership.update(trio.current_time(), **changed))
            await self._announce(self._addresses(self._peering))
        return self.node(self._identity.node_id)

    async def _announce(self, addresses: tuple[str, ...]) -> None:
        await self._nodes.announce(replace(self._facts, addresses=addresses))

    def _addresses(self, peering: Peering) -> tuple[str, ...]:
        """Return where others can dial this node: as configured, else what it finds out itself."""
        return self._config.node.advertise_addrs or dialable(peering.addresses, lan_hosts(), self._mapped)

    def nodes(self) -> list[NodeView]:
        """Return every node that is known, this one first, then by name."""
        return self._roster_view().views()

    def node(self, ref: str) -> NodeView:
        """Return one node's view, by name or unique prefix of its id."""
        return self._roster_view().view(ref)

    def _roster_view(self) -> RosterView:
        membership = None if self._gossip is None else self._gossip.membership
        return RosterView(self._facts, self._nodes, membership, self._peering)

    def summary(self) -> str:
        """Return one sentence for `meshhold status`."""
        if self._keys.current() is None:
            return "off (no swarm key)"
        states = [view.state for view in self.nodes()]
        return f"{states.count('alive')} of {len(states)} nodes alive, {len(self.reach.linked())} linked"
