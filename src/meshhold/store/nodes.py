"""The mesh's nodes as records: who they say they are, who is banned. Knows no link and not who is alive."""

from __future__ import annotations

from dataclasses import dataclass, replace

from meshhold.crypto.identity import Identity
from meshhold.errors import ConflictError, InvalidError, NotFoundError
from meshhold.model.ids import NodeId, decode_id, short_id
from meshhold.registry.record import Kind, Record, sign_by_node
from meshhold.replication.records.record_keeper import RecordKeeper
from meshhold.store.directory import Directory

NAME_LENGTH_MAX = 64
ADDRESSES_MAX = 16  # a machine with more is misconfigured; each is dialled in turn


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node says of itself.

    `capacity` in bytes, 0 for whatever its disk has, which is `disk` bytes in all. `draining`: it is to be emptied.
    """

    id: NodeId
    name: str
    addresses: tuple[str, ...]
    zone: str
    capacity: int
    reliable: bool
    version: str
    disk: int = 0
    draining: bool = False

    @property
    def room(self) -> int:
        """Bytes that it offers, by its disk where it does not say; 0 if nothing is known."""
        return self.capacity or self.disk


class Nodes:
    """The nodes that this one has heard of, alive or not."""

    def __init__(self, identity: Identity, directory: Directory, keeper: RecordKeeper) -> None:
        self._identity = identity
        self._directory = directory
        self._keeper = keeper

    def facts(self, node: NodeId) -> NodeFacts | None:
        """Return what a node says of itself, or None if it has not been heard of."""
        record = self._keeper.registry.get(Kind.NODE, node)
        return None if record is None else _read(record)

    def name_of(self, node: NodeId) -> str:
        """Return the node's name for messages, or its short id."""
        facts = self.facts(node)
        return short_id(node) if facts is None else facts.name

    def all(self, *, banned: bool = False) -> list[NodeFacts]:
        """Return every node that is not banned, or with `banned` those that are, by name."""
        found = [_read(record) for record in self._keeper.registry.live(Kind.NODE)]
        wanted = (node for node in found if self.is_banned(node.id) is banned)
        return sorted(wanted, key=lambda node: (node.name, node.id))

    def find(self, reference: str, *, banned: bool = False) -> NodeFacts:
        """Return the one node that a name or a unique prefix of an id names, among those banned or not.

        Errors: `NotFoundError`; `InvalidError` when several match.
        """
        known = self.all(banned=banned)
        exact = [node for node in known if reference in (node.id, node.name)] if reference else []
        found = exact or [node for node in known if reference and node.id.startswith(reference)]
        if not found:
            which = "banned node" if banned else "node"
            raise NotFoundError(f"no {which} is called {reference!r}", "see `meshhold node list`")
        if len(found) > 1:
            names = ", ".join(f"{node.name} ({short_id(node.id)})" for node in found)
            raise InvalidError(f"{reference!r} names several nodes: {names}", "use a longer prefix of the id")
        return found[0]

    async def announce(self, facts: NodeFacts) -> bool:
        """Make this node's facts known; return whether they had changed. `set_draining` alone changes `draining`."""
        _check(facts)
        known = self.facts(self._identity.node_id)
        facts = replace(facts, draining=known is not None and known.draining)
        if known == facts:
            return False
        await self._write_facts(facts)
        return True

    async def set_draining(self, draining: bool) -> bool:
        """Say that what this node keeps is to go elsewhere, or no more; return whether that is news.

        Errors: `ConflictError` for a node that is in no mesh: it has nowhere to put anything.
        """
        known = self.facts(self._identity.node_id)
        if known is None:
            raise ConflictError("this node is in no mesh", "join one with `meshhold join` first")
        if known.draining is draining:
            return False
        await self._write_facts(replace(known, draining=draining))
        return True

    async def _write_facts(self, facts: NodeFacts) -> None:
        public: dict[str, object] = {
            "name": facts.name,
            "addresses": list(facts.addresses),
            "zone": facts.zone,
            "capacity": facts.capacity,
            "reliable": facts.reliable,
            "version": facts.version,
            "disk": facts.disk,
            "draining": facts.draining,
        }
        await self._write(Kind.NODE, facts.id, public, deleted=False)

    async def withdraw(self) -> None:
        """Take this node's facts back: it leaves, and nobody shall list it."""
        await self._write(Kind.NODE, self._identity.node_id, {}, deleted=True)

    def is_banned(self, node: NodeId) -> bool:
        """Tell whether the mesh refuses this node."""
        return self._keeper.registry.get(Kind.BAN, node) is not None

    async def ban(self, node: NodeId, *, lift: bool = False) -> None:
        """Refuse a node everywhere from now on, or with `lift` let it in again. Errors: `ConflictError` for oneself."""
        if node == self._identity.node_id:
            raise ConflictError("a node cannot ban itself", "run this on another node, or use `meshhold node leave`")
        decode_id(node)
        await self._write(Kind.BAN, node, {}, deleted=lift)

    async def _write(self, kind: Kind, key: str, public: dict[str, object], *, deleted: bool) -> None:
        record = Record(kind, key, self._directory.next_stamp(), deleted=deleted, public=public, private=b"")
        await self._keeper.write(sign_by_node(record, self._identity))


def _check(facts: NodeFacts) -> None:
    if not facts.name or len(facts.name) > NAME_LENGTH_MAX or not facts.name.isprintable():
        raise InvalidError(
            f"node name {facts.name!r} is not usable", f"use 1 to {NAME_LENGTH_MAX} printable characters"
        )
    if len(facts.addresses) > ADDRESSES_MAX:
        raise InvalidError(f"{len(facts.addresses)} addresses are too many", f"advertise at most {ADDRESSES_MAX}")


def _read(record: Record) -> NodeFacts:
    """Return a record's facts; what a newer or hostile node left out or wrote otherwise becomes the default."""
    public = record.public
    addresses = public.get("addresses", [])
    return NodeFacts(
        id=NodeId(record.key),
        name=str(public.get("name", ""))[:NAME_LENGTH_MAX] or short_id(record.key),
        addresses=tuple(str(each) for each in addresses[:ADDRESSES_MAX]) if isinstance(addresses, list) else (),
        zone=str(public.get("zone", "default"))[:NAME_LENGTH_MAX],
        capacity=public["capacity"] if type(public.get("capacity")) is int else 0,
        reliable=public.get("reliable") is True,
        version=str(public.get("version", ""))[:NAME_LENGTH_MAX],
        disk=public["disk"] if type(public.get("disk")) is int else 0,
        draining=public.get("draining") is True,
    )
