"""Many memberships on one virtual clock: latency, loss, partitions, crashes and starved nodes, all from one seed.

A plain heap of events, no tasks: the decisions are the product's own, only their links and clocks are played here.
"""

from __future__ import annotations

import base64
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from typing import Final

from meshhold.membership.machine import Membership
from meshhold.membership.member import Member, State, first_incarnation
from meshhold.membership.messages import Ack, Action, Gossip, Message, Ping, Rumor, Send, decode, encode, size_bytes
from meshhold.membership.roster import Entry
from meshhold.membership.settings import Settings
from meshhold.model.ids import NodeId

LATENCY_MIN_S: Final = 0.001
LATENCY_SPAN_S: Final = 0.020
OVERHEAD_BYTES: Final = 140
"""Added to each message: call envelope 16, frame and tag 18, TCP and IPv4 headers with timestamps 52, and 54 for the
acknowledgement that TCP sends for it."""
PAUSE_S: Final = (0.2, 16.0)
RUN_S: Final = (0.05, 5.0)
"""A starved node is deaf for the one, runs for the other, and so on; both are drawn evenly from these ranges."""
START_S: Final = 1_000.0
_EMPTY_SIZES: Final = {Ping: 13, Ack: 12, Gossip: 10}
"""Type of message → its size without rumors, with a sequence number of 5 bytes as nearly all have."""
_WEIGHTS_MAX: Final = 100_000

Watch = Callable[[float, int, Action], None]


def sign_as(node: NodeId) -> Callable[[bytes], bytes]:
    """Return a stand-in for a node's signature: as long and as even, and a hundred times faster."""
    return lambda message: blake2b(message, key=node.encode()).digest()


def verify(node: NodeId, message: bytes, proof: bytes) -> bool:
    """Tell whether `sign_as(node)` made the proof."""
    return blake2b(message, key=node.encode()).digest() == proof


def node_id(number: int) -> NodeId:
    """Return an id whose place in the order of ids says nothing about `number`."""
    raw = blake2b(number.to_bytes(4), digest_size=32).digest()
    return NodeId(base64.b32encode(raw).decode().rstrip("=").lower())


def member_of(number: int, incarnation: int, life: int = 0) -> Member:
    """Return a plausible statement, not signed yet."""
    return Member(
        node=node_id(number),
        name=f"node-{number}",
        addresses=(f"10.0.{number // 250}.{number % 250}:7777", f"[fd00::{number:x}]:7777"),
        incarnation=incarnation,
        life=life.to_bytes(8),
        zone=f"zone-{number % 3}",
        capacity=10**12,
        version="0.1.0",
    )


@dataclass(slots=True)
class Node:
    """One simulated machine: its membership, or None while it is down."""

    number: int
    membership: Membership | None = None
    tick_s: float = float("inf")  # the tick that stands in the heap
    paused_until_s: float = 0.0
    backlog: list[tuple[Message, NodeId]] = field(default_factory=list)
    group: int = 0
    lives: int = 0
    snapshot: list[Member] = field(default_factory=list)
    sent_bytes: int = 0
    sent_messages: int = 0


class World:
    """`size` nodes that know and trust each other, at virtual time `now_s`.

    `watch` sees each action but `Send`; `loss` is the part of messages that vanish; with `codec` every message goes
    through its wire form; with `weigh` the bytes that each node sends are counted, for half as much time again.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        *,
        loss: float = 0.0,
        settings: Settings | None = None,
        codec: bool = False,
        weigh: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.now_s = START_S
        self.loss = loss
        self.settings = settings or Settings()
        self.codec = codec
        self.weigh = weigh
        self._weights: dict[int, tuple[Rumor, int]] = {}  # by identity: most rumors are sent a thousand times
        self.nodes = [Node(number) for number in range(size)]
        self.numbers = {node_id(number): number for number in range(size)}
        self.watch: Watch = lambda _now_s, _number, _action: None
        self.events = 0
        self.blocked: set[frozenset[int]] = set()
        self._serial = count()
        self._heap: list[tuple[float, int, Node, object]] = []

    # -- machines -----------------------------------------------------------------------------------------------

    def boot(self, number: int) -> Membership:
        """Start a node, with what its disk kept from the time before."""
        node = self.nodes[number]
        node.lives += 1
        stored = node.membership.me.incarnation if node.membership else 0
        me = member_of(number, first_incarnation(stored, int(self.now_s * 1000)), node.lives)
        chance = random.Random(self.rng.randrange(2**32))
        node.membership = Membership(me, self.settings, chance, sign_as(me.node), verify, node.snapshot)
        node.tick_s = float("inf")
        node.backlog.clear()
        self._carry_out(node, node.membership.start(self.now_s))
        return node.membership

    def boot_all_acquainted(self) -> None:
        """Start all nodes as a mesh that has stood for long: everybody knows everybody, nothing is being said."""
        for node in self.nodes:
            self.boot(node.number)
        self._heap.clear()
        booted = [node.membership for node in self.nodes if node.membership is not None]
        shared = {each.me.node: Entry(each.me, State.ALIVE, self.now_s) for each in booted}
        model = booted[0]._roster
        for entry in shared.values():
            model.put(entry)
        everyone = sorted(shared)
        for each in booted:
            roster = each._roster
            roster._entries.update(shared)
            roster._parts = [list(part) for part in model._parts]
            roster.marks = list(model.marks)
            roster.live = [node for node in everyone if node != each.me.node]
            each._rumors.drop(each.me.node)
            node = self.nodes[self.numbers[each.me.node]]
            node.tick_s = float("inf")
            self._carry_out(node, each._finish())

    def crash(self, number: int) -> None:
        """Cut the power: no farewell, nothing more is sent or heard."""
        node = self.nodes[number]
        if node.membership is not None:
            node.snapshot = node.membership.snapshot()
        node.membership = None
        node.backlog.clear()

    def starve(self, number: int) -> None:
        """From now on, let the node run only now and then."""
        node = self.nodes[number]
        node.paused_until_s = self.now_s + self.rng.uniform(*PAUSE_S)
        self._push(node.paused_until_s, node, "resume")

    def split(self, groups: Callable[[int], int]) -> None:
        """Let messages pass only between nodes of one group; `split(lambda _: 0)` heals."""
        for node in self.nodes:
            node.group = groups(node.number)

    def block(self, one: int, other: int) -> None:
        """Let no message pass between two nodes."""
        self.blocked.add(frozenset((one, other)))

    def act(self, number: int, actions: list[Action]) -> None:
        """Carry out what a call on a node's membership returned."""
        self._carry_out(self.nodes[number], actions)

    # -- time ---------------------------------------------------------------------------------------------------

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let `seconds` pass, or less if `until` holds after an event; return whether it did."""
        end_s = self.now_s + seconds
        heap = self._heap
        while heap and heap[0][0] <= end_s:
            self.now_s, _, node, what = heapq.heappop(heap)
            self.events += 1
            if type(what) is tuple:
                self._deliver(node, *what)
            elif what == "tick":
                self._tick(node)
            elif what == "resume":
                self._resume(node)
            else:
                node.paused_until_s = self.now_s + self.rng.uniform(*PAUSE_S)
                self._push(node.paused_until_s, node, "resume")
            if until is not None and until():
                return True
        self.now_s = end_s
        return False

    def _deliver(self, node: Node, message: Message, sender: NodeId) -> None:
        if node.membership is None:
            return
        if node.paused_until_s > self.now_s:
            node.backlog.append((message, sender))
            return
        self._carry_out(node, node.membership.handle(message, sender, self.now_s))

    def _tick(self, node: Node) -> None:
        if node.tick_s != self.now_s:
            return  # another tick took the place of this one
        node.tick_s = float("inf")
        if node.membership is None or node.paused_until_s > self.now_s:
            return
        late = node.membership.next_tick_s() <= self.now_s
        self._carry_out(node, node.membership.tick(self.now_s) if late else [])

    def _resume(self, node: Node) -> None:
        """Wake a deaf node in the worst order: its timers fire before it reads what waited."""
        self._push(self.now_s + self.rng.uniform(*RUN_S), node, "pause")
        node.paused_until_s = 0.0
        if node.membership is None:
            return
        self._carry_out(node, node.membership.tick(self.now_s))
        backlog, node.backlog = node.backlog, []
        for message, sender in backlog:
            self._carry_out(node, node.membership.handle(message, sender, self.now_s))

    def _carry_out(self, node: Node, actions: list[Action]) -> None:
        for action in actions:
            if type(action) is Send:
                self._send(node, action)
            else:
                self.watch(self.now_s, node.number, action)
        membership = node.membership
        if membership is not None and membership.next_tick_s() < node.tick_s:
            node.tick_s = max(membership.next_tick_s(), self.now_s)
            self._push(node.tick_s, node, "tick")

    def _send(self, node: Node, action: Send) -> None:
        message = action.message
        node.sent_messages += 1
        if self.weigh:
            node.sent_bytes += OVERHEAD_BYTES + self._size_of(message)
        to = self.nodes[self.numbers[action.to]]
        rng = self.rng
        if to.group != node.group or to.membership is None or (self.loss and rng.random() < self.loss):
            return
        if self.blocked and frozenset((node.number, to.number)) in self.blocked:
            return
        if self.codec:
            message = decode(encode(message))
        arrival_s = self.now_s + LATENCY_MIN_S + LATENCY_SPAN_S * rng.random()
        self._push(arrival_s, to, (message, node_id_of(node)))

    def _size_of(self, message: Message) -> int:
        """Return `size_bytes` of the message, without packing each rumor anew."""
        if not isinstance(message, Ping | Ack | Gossip):
            return size_bytes(message)
        rumors = message.rumors
        size = _EMPTY_SIZES[type(message)] + (2 if len(rumors) > 15 else 0)
        if len(self._weights) > _WEIGHTS_MAX:
            self._weights.clear()
        for rumor in rumors:
            known = self._weights.get(id(rumor))
            if known is None:
                known = self._weights[id(rumor)] = rumor, size_bytes(rumor)
            size += known[1]
        return size

    def _push(self, when_s: float, node: Node, what: object) -> None:
        heapq.heappush(self._heap, (when_s, next(self._serial), node, what))


def node_id_of(node: Node) -> NodeId:
    """Return the id of a running node."""
    if node.membership is None:
        raise AssertionError("a node that is down sent something")
    return node.membership.me.node
