"""Does a member answer? Whom to probe next, and what an answer or its absence means. Knows no roster law and no clock.

Two watches run side by side, each with one probe per interval:

- the *round*: every member once in a shuffled order, shuffled anew after each round, newcomers at a random place. It
  bounds how long any failure goes unnoticed by everyone, whatever else breaks;
- the *neighbour*: the member whose id follows one's own. It bounds how long one failure goes unnoticed by anyone: one
  interval and one probe. (With the round alone, more than one death in five stays unnoticed for 2.5 intervals.)

Members that somebody else suspects, or whose link broke, are asked for out of turn.

Whoever does not answer in time is pinged again, twice, while others are asked to. Where a fifth of all messages is
lost, 36 of 100 pings stay without an answer; of three in a row, less than 5 in 100.

Ignored here: what follows from a failed probe.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from meshhold.membership.awareness import Awareness
from meshhold.membership.chance import Chance
from meshhold.membership.messages import SEQ_MAX, Action, Nack, PingFor, Send, Vouch
from meshhold.membership.roster import Roster
from meshhold.membership.settings import Settings
from meshhold.model.ids import NodeId

RELAYED_MAX: Final = 64
"""Probes for others at once; beyond it they are answered by a nack at once."""
URGENT_MAX: Final = 64
NEVER: Final = float("inf")


class ProbeOrder:
    """Each member once in a round, in an order that is not known to others."""

    def __init__(self, rng: Chance) -> None:
        self._rng = rng
        self._order: list[NodeId] = []
        self._index = 0

    def add(self, node: NodeId) -> None:
        """Insert a member that became live at a random place, so that a crowd of newcomers is not probed last."""
        place = self._rng.randrange(len(self._order) + 1)
        self._order.append(node)
        self._order[place], self._order[-1] = self._order[-1], self._order[place]

    def next(self, roster: Roster) -> NodeId | None:
        """Return the next live member, or None if there is none."""
        for _ in range(2 * len(self._order) + 1):
            if self._index >= len(self._order):
                self._order = list(roster.live)
                self._rng.shuffle(self._order)
                self._index = 0
                if not self._order:
                    return None
            node = self._order[self._index]
            self._index += 1
            entry = roster.get(node)
            if entry is not None and entry.is_live:
                return node
        return None


@dataclass(slots=True)
class _Probe:
    target: NodeId
    sent_s: float
    ask_s: float  # when relays are asked
    deadline_s: float
    relays: list[NodeId] = field(default_factory=list)
    nacks: int = 0
    repeats: int = 0  # pings after the first
    due_s: float = 0.0


class _Relayed(NamedTuple):
    target: NodeId
    origin: NodeId
    origin_seq: int
    due_s: float


class Expired(NamedTuple):
    """What to send, whom to ping once more with which number, and who failed a probe."""

    actions: list[Action]
    again: list[tuple[NodeId, int]]
    failed: list[NodeId]


class Detector:
    """The probes of one node, under way and to come."""

    def __init__(self, roster: Roster, awareness: Awareness, settings: Settings, rng: Chance) -> None:
        self._roster = roster
        self._awareness = awareness
        self._settings = settings
        self._rng = rng
        self._seq = rng.randrange(SEQ_MAX)
        self._probes: dict[int, _Probe] = {}
        self._relayed: dict[int, _Relayed] = {}
        self._urgent: deque[NodeId] = deque()
        self._watch_neighbour = False
        self.order = ProbeOrder(rng)
        self.rtt_s: dict[NodeId, float] = {}
        """Smoothed round trips of direct answers."""

    @property
    def due_s(self) -> float:
        """When `expire` has something to do."""
        due_s = NEVER
        for probe in self._probes.values():
            due_s = min(due_s, probe.due_s)
        for relayed in self._relayed.values():
            due_s = min(due_s, relayed.due_s)
        return due_s

    def hurry(self, node: NodeId) -> None:
        """Probe the node at the next turn."""
        if node not in self._urgent and len(self._urgent) < URGENT_MAX:
            self._urgent.append(node)

    def choose(self) -> NodeId | None:
        """Return whom to probe now: the urgent first, else round and neighbour by turns."""
        while self._urgent:
            entry = self._roster.get(node := self._urgent.popleft())
            if entry is not None and entry.is_live:
                return node
        self._watch_neighbour = not self._watch_neighbour
        if self._watch_neighbour:
            return self.order.next(self._roster)
        # A pair of nodes probe each other by the round alone.
        return self._roster.neighbour() if len(self._roster.live) > 1 else None

    def begin(self, target: NodeId, now_s: float) -> int:
        """Open a probe of `target`; return the number that its `Ping` carries."""
        seq = self.next_seq()
        stretch = self._awareness.multiplier
        ask_s = now_s + self._settings.probe_timeout_s * stretch
        deadline_s = now_s + self._settings.probe_interval_s * stretch
        self._probes[seq] = _Probe(target, now_s, ask_s, deadline_s, due_s=ask_s)
        return seq

    def relay(self, origin: NodeId, seq: int, target: NodeId, now_s: float) -> int | None:
        """Open a probe for `origin`; return the number that its `Ping` carries, or None to answer by a nack at once."""
        entry = self._roster.get(target)
        if len(self._relayed) >= RELAYED_MAX or entry is None or not entry.is_live:
            return None
        own = self.next_seq()
        due_s = now_s + self._settings.probe_timeout_s * self._settings.nack_fraction
        self._relayed[own] = _Relayed(target, origin, seq, due_s)
        return own

    def handle_ack(self, seq: int, sender: NodeId, now_s: float) -> list[Action]:
        """Close the probe that `sender` answers; return what a relay passes on. Others' answers count for nothing."""
        probe = self._probes.get(seq)
        if probe is not None and probe.target == sender:
            del self._probes[seq]
            self._awareness.apply(-1)
            if probe.repeats:
                return []  # which of the pings it answers, nobody can tell, nor how long that took
            rtt_s = max(0.0, now_s - probe.sent_s)
            known_s = self.rtt_s.get(sender)
            self.rtt_s[sender] = rtt_s if known_s is None else known_s + (rtt_s - known_s) / 8
            return []
        relayed = self._relayed.get(seq)
        if relayed is not None and relayed.target == sender:
            del self._relayed[seq]
            return [Send(relayed.origin, Vouch(relayed.origin_seq))]
        return []

    def handle_vouch(self, seq: int, sender: NodeId) -> None:
        """Close the probe that a relay answered."""
        probe = self._probes.get(seq)
        if probe is not None and sender in probe.relays:
            del self._probes[seq]
            self._awareness.apply(-1)

    def handle_nack(self, seq: int, sender: NodeId) -> None:
        """Count a relay that is there but was not answered: our own link works."""
        probe = self._probes.get(seq)
        if probe is not None and sender in probe.relays:
            probe.relays.remove(sender)  # none counts twice, and none of them may vouch afterwards
            probe.nacks += 1

    def expire(self, now_s: float) -> Expired:
        """Return what answers that are late lead to."""
        actions: list[Action] = []
        again: list[tuple[NodeId, int]] = []
        failed: list[NodeId] = []
        for seq, probe in [(seq, probe) for seq, probe in self._probes.items() if probe.due_s <= now_s]:
            if probe.repeats < self._settings.repeats:
                if not probe.repeats:
                    probe.relays = self._roster.sample(self._settings.relays, self._rng, without=probe.target)
                    actions += [Send(relay, PingFor(seq, probe.target)) for relay in probe.relays]
                again.append((probe.target, seq))
                probe.repeats += 1
                left = 1 - probe.repeats / self._settings.repeats
                probe.due_s = probe.deadline_s - left * (probe.deadline_s - probe.ask_s)
                continue
            del self._probes[seq]
            failed.append(probe.target)
            asked = len(probe.relays) + probe.nacks
            # Relays that say "not me either" speak for this node's health; silent ones against it.
            self._awareness.apply(len(probe.relays) if asked else 1)
        for seq, relayed in [(seq, each) for seq, each in self._relayed.items() if each.due_s <= now_s]:
            del self._relayed[seq]
            actions.append(Send(relayed.origin, Nack(relayed.origin_seq)))
        return Expired(actions, again, failed)

    def abandon(self) -> None:
        """Draw no conclusion from the probes under way: this node was deaf meanwhile."""
        self._probes.clear()
        self._relayed.clear()

    def forget(self, node: NodeId) -> None:
        """Keep nothing of a member that is gone."""
        self.rtt_s.pop(node, None)

    def next_seq(self) -> int:
        """Return a number for a `Ping` whose answer closes no probe."""
        self._seq = self._seq + 1 & SEQ_MAX
        return self._seq
