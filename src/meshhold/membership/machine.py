"""What does membership do next? SWIM with Lifeguard for one node, sans I/O: messages and time in, actions out.

The driver calls `start` once, `handle` for each message, `tick` no later than at `next_tick_s`, `contact` when a link
opens and `doubt` when one breaks, and carries out the actions that each of them returns, in order. `now_s` is a clock
that never goes back; its zero means nothing.

A call that comes later than it was asked for by `stall_s` says that this process was paused, starved or suspended. It
then draws no conclusion from silence: probes under way are abandoned, suspicions are prolonged by the pause, and nobody
is declared dead before the messages that waited meanwhile can have been read.

Source: Das, Gupta, Motivala, "SWIM" (2002); Dadgar, Phillips, Currey, "Lifeguard" (2018). Stall detection, the
neighbour's watch, signed statements and digests are not in either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from meshhold.errors import InvalidError
from meshhold.membership.awareness import Awareness
from meshhold.membership.beliefs import Beliefs
from meshhold.membership.chance import Chance
from meshhold.membership.detector import NEVER, Detector
from meshhold.membership.exchange import answer_bucket, answer_digest
from meshhold.membership.member import ALIVE, DEAD, LEFT, Member, Sign, Verify, check_own
from meshhold.membership.messages import (
    Ack,
    Action,
    Bucket,
    Changed,
    Dead,
    Deliver,
    Gossip,
    Message,
    Nack,
    News,
    Ping,
    PingFor,
    Refused,
    Rumor,
    Send,
    Suspect,
    Sync,
    Vouch,
    size_bytes,
)
from meshhold.membership.roster import Entry
from meshhold.membership.settings import Settings
from meshhold.model.ids import NodeId

ANSWERS_SIZE_BYTES_MAX: Final = 4096
"""Corrections in one answer; the others come by the next sync."""
NEWS_KEPT_MAX: Final = 8192
"""Names of news that are known not to be new; an older one that comes back is delivered once more."""
STRANGERS_MAX: Final = 1024
_UPDATED: Final = frozenset({"name", "addresses", "zone", "capacity", "reliable", "version", "meta"})
_SYNC_PAUSE_S: Final = 1.0  # a node asks another for its roster, and answers it, no more often
_FIRST_SYNC_S: Final = (1.0, 3.0)  # soon, for others may have joined at the same moment
_FIRST_CALLS: Final = 3  # remembered members that a starting node calls at once


class Membership:
    """One node's membership.

    `me` is its statement, whose incarnation comes from `first_incarnation`; `known` what `snapshot` gave before a
    restart.
    `sign` and `verify` are Ed25519 with the node's identity. `rng` decides whom, never what.
    """

    def __init__(
        self,
        me: Member,
        settings: Settings,
        rng: Chance,
        sign: Sign,
        verify: Verify,
        known: Iterable[Member] = (),
    ) -> None:
        self._settings = settings
        self._rng = rng
        self.awareness = Awareness(settings.awareness_max)
        self._beliefs = Beliefs(me, settings, self.awareness, sign, verify)
        self._roster = self._beliefs.roster
        self._rumors = self._beliefs.rumors
        self._detector = Detector(self._roster, self.awareness, settings, rng)
        self._known = tuple(known)
        self._news: dict[bytes, None] = {}
        self._synced: dict[NodeId, float] = {}
        self._told: dict[NodeId, float] = {}
        self._started_s = self._probe_s = self._gossip_s = self._sync_s = self._revive_s = self._due_s = NEVER
        self._now_s = self._no_death_before_s = self._heal_s = -NEVER
        self._handlers: dict[type[Any], Callable[[Any, NodeId, float], None]] = {
            Ping: self._handle_ping,
            Ack: self._handle_ack,
            PingFor: self._handle_ping_for,
            Vouch: lambda message, sender, _now_s: self._detector.handle_vouch(message.seq, sender),
            Nack: lambda message, sender, _now_s: self._detector.handle_nack(message.seq, sender),
            Gossip: self._handle_gossip,
            Sync: self._handle_sync,
            Bucket: self._handle_bucket,
        }

    # -- what is known ------------------------------------------------------------------------------------------

    @property
    def me(self) -> Member:
        """This node's own statement, signed."""
        return self._beliefs.me

    @property
    def has_rumors(self) -> bool:
        """Tell whether anything is still being spread; after `leave`, False says that the farewell is out."""
        return len(self._rumors) > 0 and bool(self._roster.live)

    def entries(self) -> list[Entry]:
        """Return all entries, this node's own included."""
        return list(self._roster)

    def entry(self, node: NodeId) -> Entry | None:
        """Return what is believed of one node."""
        return self._roster.get(node)

    def accusers(self, node: NodeId) -> tuple[NodeId, ...]:
        """Return who suspects the node; nobody if it is no suspect."""
        suspicion = self._beliefs.suspicions.get(node)
        return () if suspicion is None else tuple(suspicion.accusers)

    def rtt_s(self, node: NodeId) -> float | None:
        """Return the smoothed round trip of probes, or None before the first answer."""
        return self._detector.rtt_s.get(node)

    def snapshot(self) -> list[Member]:
        """Return the statements to keep on disk, from which a restarted node finds the mesh again."""
        return [entry.member for entry in self._roster if entry.state is not LEFT and entry.member.node != self.me.node]

    def next_tick_s(self) -> float:
        """Return when `tick` is wanted: finite once started. A call that is much later counts as a stall."""
        return self._due_s

    # -- what happens -------------------------------------------------------------------------------------------

    def start(self, now_s: float) -> list[Action]:
        """Begin: call remembered members, and take part from now on."""
        settings, rng = self._settings, self._rng
        self._now_s = self._started_s = now_s
        self._probe_s = now_s + rng.uniform(0, settings.probe_interval_s / 2)
        self._gossip_s = now_s
        self._sync_s = now_s + rng.uniform(*_FIRST_SYNC_S)
        self._revive_s = now_s + rng.uniform(0, settings.revive_interval_s)
        self._roster.put(Entry(self.me, ALIVE, now_s))
        self._rumors.add(self.me)
        for member in self._known[: settings.roster_max // 2]:
            if member.node != self.me.node:
                self._roster.put(Entry(member, DEAD, now_s, remembered=True))
        called = list(self._roster.dead)
        for node in rng.sample(called, min(len(called), _FIRST_CALLS)):
            self._ask_roster(node, now_s)
        return self._finish()

    def handle(self, message: Message, sender: NodeId, now_s: float) -> list[Action]:
        """Take a message that the link with `sender` authenticated."""
        self._notice_stall(now_s)
        if sender in self._beliefs.banned or sender == self.me.node:
            reason = "this node's own id" if sender == self.me.node else "a banned member"
            return [*self._finish(), Refused(sender, f"a message comes from {reason}")]
        before = self._roster.get(sender)
        self._handlers[type(message)](message, sender, now_s)
        after = self._roster.get(sender)
        if after is None:
            self._ask_roster(sender, now_s)
        elif before is not None and before.state is DEAD and after.state is ALIVE:
            self._heal(sender, now_s)
        if self._beliefs.answers:
            self._send(sender, Gossip(self._take_answers()))
        return self._finish()

    def tick(self, now_s: float) -> list[Action]:
        """Do what is due."""
        self._notice_stall(now_s)
        expired = self._detector.expire(now_s)
        self._beliefs.actions += expired.actions
        for node, seq in expired.again:
            self._ping(node, seq)
        for node in expired.failed:
            entry = self._roster.get(node)
            if entry is not None and not self._beliefs.leaving:
                accusation = Suspect(node, entry.member.incarnation, (self.me.node,))
                self._beliefs.hear_suspect(accusation, now_s)
        if now_s >= self._no_death_before_s:
            self._beliefs.bury_overdue(now_s)
        if now_s >= self._probe_s:
            self._probe(now_s)
        if now_s >= self._gossip_s:
            self._gossip(now_s)
        if now_s >= self._sync_s:
            self._sync(now_s)
        if now_s >= self._revive_s:
            self._revive(now_s)
        return self._finish()

    def contact(self, node: NodeId, now_s: float) -> list[Action]:
        """Exchange rosters with a node to which a link opened, unless it is known to live. This is how a node joins."""
        self._notice_stall(now_s)
        entry = self._roster.get(node)
        if node not in self._beliefs.banned and (entry is None or entry.state is not ALIVE):
            self._ask_roster(node, now_s)
        return self._finish()

    def doubt(self, node: NodeId, now_s: float) -> list[Action]:
        """Probe a node whose link broke now rather than at its turn. No accusation by itself."""
        self._notice_stall(now_s)
        entry = self._roster.get(node)
        if entry is not None and entry.is_live and not self._beliefs.leaving:
            self._detector.hurry(node)
            self._probe_s = min(self._probe_s, now_s)
        return self._finish()

    def update(self, now_s: float, **fields: Any) -> list[Action]:
        """State other `name`, `addresses`, `zone`, `capacity`, `reliable`, `version` or `meta` of this node.

        Errors: `InvalidError` names a field that cannot change, or that others would not take.
        """
        self._notice_stall(now_s)
        if not fields.keys() <= _UPDATED:
            raise InvalidError(
                f"a node does not change its {', '.join(sorted(fields.keys() - _UPDATED))} while it runs"
            )
        self._beliefs.me = check_own(replace(self.me, **fields))
        self._beliefs.state_anew(now_s)
        self._gossip_s = min(self._gossip_s, now_s)
        return self._finish()

    def leave(self, now_s: float) -> list[Action]:
        """Say farewell. Tick on until `has_rumors` is False or patience ends, then stop."""
        self._notice_stall(now_s)
        self._beliefs.leaving = True
        self._beliefs.suspicions.clear()
        self._detector.abandon()
        self._beliefs.state_anew(now_s)
        self._gossip_s = now_s
        self._gossip(now_s)
        return self._finish()

    def spread(self, news: News, now_s: float) -> list[Action]:
        """Tell everybody; `Deliver` comes out at each of them, not here."""
        self._notice_stall(now_s)
        if self._is_news(news):
            self._rumors.add(news)
            self._gossip_s = min(self._gossip_s, now_s)
        return self._finish()

    def ban(self, node: NodeId) -> list[Action]:
        """Have nothing to do with the node any more. Who may ban, and who is told, is decided elsewhere."""
        self._beliefs.banned.add(node)
        self._beliefs.suspicions.close(node)
        self._rumors.drop(node)
        entry = self._roster.get(node)
        if entry is not None:
            self._roster.drop(node)
            self._beliefs.actions.append(Changed(entry.member, entry.state, LEFT))
        return self._finish()

    def unban(self, node: NodeId) -> list[Action]:
        """Take the node in again when it calls."""
        self._beliefs.banned.discard(node)
        return self._finish()

    # -- messages -----------------------------------------------------------------------------------------------

    def _handle_ping(self, message: Ping, sender: NodeId, now_s: float) -> None:
        self._hear(message.rumors, sender, now_s)
        told = (*self._beliefs.accusation_of(sender), *self._take_answers())
        self._send(sender, Ack(message.seq, told + self._picked(self._settings.piggyback_size_bytes_max)))

    def _handle_ack(self, message: Ack, sender: NodeId, now_s: float) -> None:
        self._beliefs.actions += self._detector.handle_ack(message.seq, sender, now_s)
        self._hear(message.rumors, sender, now_s)

    def _handle_ping_for(self, message: PingFor, sender: NodeId, now_s: float) -> None:
        seq = self._detector.relay(sender, message.seq, message.target, now_s)
        if message.target == self.me.node:
            self._send(sender, Vouch(message.seq))
        elif seq is None:
            self._send(sender, Nack(message.seq))
        else:
            self._ping(message.target, seq)

    def _handle_gossip(self, message: Gossip, sender: NodeId, now_s: float) -> None:
        self._hear(message.rumors, sender, now_s)

    def _handle_sync(self, message: Sync, sender: NodeId, now_s: float) -> None:
        if not self._may(self._told, sender, now_s):
            return
        for piece in answer_digest(self._roster, message.marks):
            self._send(sender, piece)

    def _handle_bucket(self, message: Bucket, sender: NodeId, now_s: float) -> None:
        young = now_s < self._started_s + self._settings.join_s
        for member, state in message.entries:
            # What a newcomer learns, all others know; but of itself each node tells something new.
            repeat = not young or member.node == sender
            self._beliefs.hear_entry(member, state, sender, now_s, repeat=repeat)
        for piece in answer_bucket(self._roster, message):
            self._send(sender, piece)

    def _hear(self, rumors: tuple[Rumor, ...], sender: NodeId, now_s: float) -> None:
        beliefs = self._beliefs
        for rumor in rumors:
            if isinstance(rumor, Member):
                beliefs.hear_member(rumor, sender, now_s)
            elif isinstance(rumor, Suspect):
                beliefs.hear_suspect(rumor, now_s)
            elif isinstance(rumor, Dead):
                beliefs.hear_dead(rumor, now_s)
            elif self._is_news(rumor):
                self._rumors.add(rumor)
                beliefs.actions.append(Deliver(rumor, sender))

    # -- turns --------------------------------------------------------------------------------------------------

    def _probe(self, now_s: float) -> None:
        """Two probes in each interval: the round's and the neighbour's."""
        step_s = self._settings.probe_interval_s / 2 * self.awareness.multiplier
        self._probe_s = max(self._probe_s + step_s, now_s + step_s / 2)
        if not self._beliefs.leaving and (target := self._detector.choose()):
            self._ping(target, self._detector.begin(target, now_s))

    def _gossip(self, now_s: float) -> None:
        self._gossip_s = now_s + self._settings.gossip_interval_s
        live = self._roster.live  # suspects too: most of them are falsely accused, and none else tells them
        for node in self._rng.sample(live, min(len(live), self._settings.gossip_fanout)):
            if rumors := self._picked(self._settings.gossip_size_bytes_max):
                self._send(node, Gossip(rumors))

    def _sync(self, now_s: float) -> None:
        self._sync_s = now_s + self._settings.sync_interval_s * self._rng.uniform(0.75, 1.25)
        for node in self._roster.sample(1, self._rng):
            self._ask_roster(node, now_s)

    def _revive(self, now_s: float) -> None:
        """Try a dead member, so often that all nodes together try each about once in an interval; forget the oldest."""
        settings = self._settings
        self._revive_s = now_s + settings.revive_interval_s * self._rng.uniform(0.75, 1.25)
        self._roster.forget(now_s - settings.forget_s)
        dead = self._roster.dead
        if not dead or self._beliefs.leaving or self._rng.random() >= len(dead) / self._roster.size:
            return
        entry = list(dead.values())[self._rng.randrange(len(dead))]
        rarity = min(settings.revive_rarity_max, max(1.0, (now_s - entry.since_s) / settings.revive_age_s))
        if self._rng.random() * rarity < 1:
            self._ping(entry.member.node, self._detector.next_seq())
            if entry.remembered:
                self._ask_roster(entry.member.node, now_s)

    def _heal(self, node: NodeId, now_s: float) -> None:
        """Compare rosters with a member that returned: it may be the first of another side after a partition.

        Between two sides nearly everything differs, so the larger the mesh, the fewer such exchanges at once.
        """
        if now_s >= self._heal_s:
            self._heal_s = now_s + max(1.0, self._roster.size / self._settings.heal_members_s)
            self._ask_roster(node, now_s)

    # -- steps --------------------------------------------------------------------------------------------------

    def _notice_stall(self, now_s: float) -> None:
        self._now_s = now_s
        late_s = now_s - self._due_s
        if late_s <= self._settings.stall_s:
            return
        self.awareness.apply(1)
        self._detector.abandon()
        self._beliefs.suspicions.postpone(late_s)
        self._no_death_before_s = now_s + 2 * self._settings.probe_interval_s
        self._due_s = now_s

    def _ping(self, target: NodeId, seq: int) -> None:
        told = self._beliefs.accusation_of(target)
        self._send(target, Ping(seq, told + self._picked(self._settings.piggyback_size_bytes_max)))

    def _picked(self, size_bytes_max: int) -> tuple[Rumor, ...]:
        return self._rumors.take(size_bytes_max, self._settings.sends_max(self._roster.size)) if self._rumors else ()

    def _ask_roster(self, node: NodeId, now_s: float) -> None:
        if self._may(self._synced, node, now_s):
            self._send(node, Sync(tuple(self._roster.marks)))

    def _take_answers(self) -> tuple[Rumor, ...]:
        if not self._beliefs.answers:
            return ()
        taken, room = [], ANSWERS_SIZE_BYTES_MAX
        for rumor in dict.fromkeys(self._beliefs.answers):
            room -= size_bytes(rumor)
            if room < 0:
                break
            taken.append(rumor)
        self._beliefs.answers.clear()
        return tuple(taken)

    def _send(self, to: NodeId, message: Message) -> None:
        self._beliefs.actions.append(Send(to, message))

    def _is_news(self, news: News) -> bool:
        if news.ident in self._news:
            return False
        if len(self._news) >= NEWS_KEPT_MAX:
            del self._news[next(iter(self._news))]
        self._news[news.ident] = None
        return True

    def _may(self, times: dict[NodeId, float], node: NodeId, now_s: float) -> bool:
        if now_s - times.get(node, -NEVER) < _SYNC_PAUSE_S:
            return False
        times.pop(node, None)
        if len(times) >= STRANGERS_MAX:
            del times[next(iter(times))]
        times[node] = now_s
        return True

    def _finish(self) -> list[Action]:
        """Settle what beliefs left to do, find when the next tick is due, and hand out the actions."""
        beliefs = self._beliefs
        for node in beliefs.fresh:
            self._detector.order.add(node)
        if beliefs.revived and (
            self._roster.dead or self._roster.left
        ):  # where one returns, others may: do not wait for the next turn
            soon_s = self._now_s + self._rng.uniform(0, self._settings.heal_spread_s)
            self._revive_s = min(self._revive_s, soon_s)
        beliefs.revived = False
        for node in beliefs.doubted:
            if self._rng.random() * self._roster.size < self._settings.checkers:
                self._detector.hurry(node)
        beliefs.fresh.clear()
        beliefs.doubted.clear()
        due_s = min(self._probe_s, self._sync_s, self._revive_s, self._detector.due_s)
        if self.has_rumors:
            due_s = min(due_s, self._gossip_s)
        death_s = beliefs.suspicions.due_s
        if death_s < due_s:
            due_s = min(due_s, max(death_s, self._no_death_before_s))
        self._due_s = max(due_s, self._now_s)  # what became urgent just now is not late
        actions, beliefs.actions = beliefs.actions, []
        return actions
