"""A mesh in memory for the control socket: nodes, invitations, and the members of a vault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshhold.admin.services import NodeView
from meshhold.errors import ConflictError, InvalidError, NoMajorityError, NotFoundError
from meshhold.model.ids import NodeId, encode_id
from meshhold.model.token import Token, decode_token, encode_token
from meshhold.store.drains import DrainView
from meshhold.store.rings import RingPlan, RingShow

SWARM_KEY = b"k" * 32
EXPIRES_MS = 4_000_000_000_000  # far in the future


def node_id(letter: str) -> NodeId:
    """Return the id of a node whose public key is one letter, repeated."""
    return NodeId(encode_id(letter.encode() * 32))


def node_view(letter: str, name: str, **changes: Any) -> NodeView:
    """Return the view of a healthy peer."""
    plain = NodeView(
        id=node_id(letter), name=name, state="alive", is_me=False, route="direct", rtt_ms=0.42, zone="home", capacity=0,
        reliable=True, version="0.1.0", addresses=("192.0.2.7:7777",), last_seen_s=0.3, suspected_by=(),
    )  # fmt: skip
    return replace(plain, **changes)


class FakeMesh:
    """The mesh of three nodes: attic (this one), cellar, and a laptop that is suspected."""

    def __init__(self) -> None:
        me = node_view("a", "attic", is_me=True, route="listening", rtt_ms=None, last_seen_s=None)
        laptop = node_view(
            "c", "laptop", state="suspect", route="relayed via cellar", rtt_ms=31.7, capacity=2**39, reliable=False,
            last_seen_s=95.0, suspected_by=(node_id("b")[:8], "zzzzzzzz"),
        )  # fmt: skip
        self.views = [me, node_view("b", "cellar"), laptop]
        self.in_mesh = True
        self.banned: set[str] = set()
        self.windows: list[int] = []

    async def invite(self, *, expires_s: int = 0, single_use: bool = False) -> str:
        limited = bool(expires_s) or single_use
        token = Token(
            SWARM_KEY, node_id("a"), ("192.0.2.1:7777",), is_pass=limited, expires_ms=EXPIRES_MS if limited else 0
        )
        return encode_token(token)

    async def join(self, token: str) -> dict[str, Any]:
        if self.in_mesh:
            raise ConflictError("this node is in a mesh already", "leave it first with `meshhold node leave`")
        self.in_mesh = True
        return {"node_id": decode_token(token).node, "name": "cellar"}

    def nodes(self) -> list[NodeView]:
        return self.views

    def node(self, ref: str) -> NodeView:
        found = [view for view in self.views if ref == view.name or view.id.startswith(ref)]
        if not found:
            raise NotFoundError(f"no node is called {ref!r}", "see `meshhold node list`")
        if len(found) > 1:
            raise InvalidError(f"{ref!r} names several nodes", "use a longer prefix of the id")
        return found[0]

    async def set_facts(
        self, *, name: str | None, zone: str | None, capacity: int | None, reliable: bool | None
    ) -> NodeView:
        given: dict[str, Any] = {"name": name, "zone": zone, "capacity": capacity, "reliable": reliable}
        self.views[0] = replace(self.views[0], **{key: value for key, value in given.items() if value is not None})
        return self.views[0]

    async def ban(self, ref: str, *, lift: bool) -> None:
        found = self.node(ref)
        if found.is_me:
            raise ConflictError("a node cannot ban itself", "run this on another node")
        if lift:
            self.banned.discard(found.id)
        else:
            self.banned.add(found.id)

    async def leave(self) -> None:
        if not self.in_mesh:
            raise ConflictError("this node is in no mesh")
        self.in_mesh = False

    async def rotate(self, *, window_s: int) -> dict[str, Any]:
        self.windows.append(window_s)
        return {"accepted_until_ms": EXPIRES_MS}


@dataclass(frozen=True)
class MemberView:
    node_id: str
    name: str
    role: str
    zone: str
    reliable: bool
    leaving: bool = False


@dataclass(frozen=True)
class ReplicaView:
    node_id: str
    name: str
    zone: str
    reliable: bool
    state: str = "votes"
    reason: str = ""


@dataclass(frozen=True)
class IndexView:
    consistency: str = "linearizable"
    pinned: bool = False
    changing: bool = False
    replicas: tuple[ReplicaView, ...] = ()
    leaving: tuple[ReplicaView, ...] = ()
    awaited: tuple[str, ...] = ()
    error: str = ""
    modes: tuple[str, ...] = ("linearizable",)


class FakeMembers:
    """The members of one vault, `photos`: at first this node alone. Reliable ones keep its index, as far as awake.

    `lost`: nobody knows who keeps it. `asleep`: names of nodes that cannot be asked. `dead`: removed only as gone.
    `short`: chunks that lack a copy once one is gone.
    """

    def __init__(self, mesh: FakeMesh) -> None:
        self._mesh = mesh
        self.found = [self._view("attic", "trusted")]
        self.epoch = 1
        self.asleep: set[str] = set()
        self.dead: set[str] = set()
        self.index = IndexView()
        self.keepers: list[str] | None = None
        self.lost = False
        self.short = 0

    async def index_view(self, _vault: str) -> IndexView:
        if self.lost:
            raise NoMajorityError("this node does not know yet who keeps the index", "retry in a moment")
        names = [m.name for m in self.found if m.role == "trusted" and m.reliable] if self.keepers is None else None
        awake = [name for name in names or self.keepers or () if name not in self.asleep]
        return replace(
            self.index,
            pinned=self.keepers is not None,
            replicas=tuple(self._replica(name) for name in awake),
            awaited=tuple(name for name in names or () if name in self.asleep),
        )

    def _replica(self, name: str) -> ReplicaView:
        node = self._mesh.node(name)
        return ReplicaView(node.id, node.name, node.zone, node.reliable)

    async def set_index(self, _vault: str, replicas: Sequence[str] | None, consistency: str | None) -> bool:
        if replicas is not None:
            self.keepers = None if list(replicas) == ["auto"] else [self._mesh.node(name).name for name in replicas]
        if consistency is not None:
            if consistency not in self.index.modes:
                raise InvalidError(f"consistency {consistency} is not offered by this version", "use linearizable")
            self.index = replace(self.index, consistency=consistency)
        return True

    def _view(self, ref: str, role: str) -> MemberView:
        node = self._mesh.node(ref)
        return MemberView(node.id, node.name, role, node.zone, node.reliable)

    def views(self, vault: str) -> list[MemberView]:
        if vault != "photos":
            raise NotFoundError(f"no vault is called {vault!r}", "see `meshhold vault list`")
        return self.found

    async def add(self, vault: str, node: str, *, trusted: bool) -> MemberView:
        made = self._view(node, "trusted" if trusted else "untrusted")
        if made in self.views(vault):
            raise ConflictError(f"{made.name} is a {made.role} member of vault {vault!r} already")
        self.found = [*self.found, made]
        return made

    async def remove(self, vault: str, node: str, *, gone: bool, progress: Any) -> int:
        removed = self._mesh.node(node)
        await progress({"leaving": removed.name, "chunks": 7, "bytes": 4096})
        if removed.name in self.dead and not gone:
            raise NoMajorityError("too few of the 2 index replicas answer", "start those machines")
        left = [member for member in self.views(vault) if member.node_id != removed.id]
        if not any(member.role == "trusted" for member in left):
            raise ConflictError(f"it is the last trusted member of vault {vault!r}", "add another one first")
        self.found = left
        return self.short if gone else 0

    async def rotate(self, vault: str) -> int:
        self.views(vault)
        self.epoch += 1
        return self.epoch


class FakeRings:
    """Rings that tests fill in; `asked` is what was last planned."""

    def __init__(self) -> None:
        self.shown: list[RingShow] = []
        self.plans: list[RingPlan] = []
        self.asked: tuple[Any, ...] = ()

    async def show(self, _vault: str | None) -> list[RingShow]:
        return self.shown

    async def plan(self, vault: str | None, *changes: Any) -> list[RingPlan]:
        self.asked = (vault, *changes)
        return self.plans


class FakeDrains:
    """A node that is drained step by step: each look finds the next of `views`, the last one for ever."""

    def __init__(self) -> None:
        self.views: list[DrainView] = []
        self.asked: dict[str, Any] = {}

    async def run(self, node: str | None, progress: Any, **flags: bool) -> DrainView:
        self.asked = {"node": node, **flags}
        if not self.views:
            raise ConflictError("vault photos would have 1 machines for its 2 copies", "use --force")
        while flags["wait"] and len(self.views) > 1:
            await progress({"chunks": self.views.pop(0).chunks})
        return self.views[0]


class FakeRepairs:
    """Repairs that tests fill in; `started` are the vaults of which a pass was asked for."""

    def __init__(self) -> None:
        self.shown: list[dict[str, Any]] = []
        self.started: list[str | None] = []

    def start(self, vault: str | None) -> list[dict[str, Any]]:
        self.started.append(vault)
        return self.shown

    def views(self, _vault: str | None = None) -> list[dict[str, Any]]:
        return self.shown
