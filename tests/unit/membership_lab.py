"""One node's membership on a clock that the test moves, and short words for what it is told and what it does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from tests.simulation.membership_world import member_of, node_id, sign_as, verify

from meshhold.membership.machine import Membership
from meshhold.membership.member import Member, State
from meshhold.membership.messages import (
    Ack,
    Action,
    Changed,
    Dead,
    Gossip,
    Message,
    Ping,
    Rumor,
    Send,
    Suspect,
)
from meshhold.membership.settings import Settings

SETTINGS = Settings()
ME = 0


def stated(number: int, incarnation: int = 5, life: int = 1, *, left: bool = False) -> Member:
    """Return that node's signed statement."""
    return replace(member_of(number, incarnation, life), left=left).signed(sign_as(node_id(number)))


class Lab:
    """One membership at a clock that the test moves; `others` are known to it and alive."""

    def __init__(self, others: Sequence[int] = (), seed: int = 1, known: Sequence[Member] = ()) -> None:
        self.now_s = 100.0
        me = member_of(ME, 5, 1)
        self.it = Membership(me, SETTINGS, random.Random(seed), sign_as(me.node), verify, known)
        self.started = self.it.start(self.now_s)
        for number in others:
            self.hear(stated(number), sender=number)

    def hear(self, *rumors: Rumor, sender: int = 9) -> list[Action]:
        return self.it.handle(Gossip(rumors), node_id(sender), self.now_s)

    def get(self, message: Message, sender: int) -> list[Action]:
        return self.it.handle(message, node_id(sender), self.now_s)

    def wait(self, seconds: float, *, answering: Sequence[int] = ()) -> list[Action]:
        """Tick exactly when asked to; those in `answering` answer probes at once."""
        end_s, done = self.now_s + seconds, []
        while self.it.next_tick_s() <= end_s:
            self.now_s = max(self.now_s, self.it.next_tick_s())
            queue = self.it.tick(self.now_s)
            while queue:
                action = queue.pop(0)
                done.append(action)
                match action:
                    case Send(to, Ping(seq, _)) if to in map(node_id, answering):
                        queue += self.it.handle(Ack(seq), to, self.now_s)
        self.now_s = end_s
        return done

    def state(self, number: int) -> State | None:
        entry = self.it.entry(node_id(number))
        return None if entry is None else entry.state

    def incarnation(self, number: int) -> int:
        entry = self.it.entry(node_id(number))
        assert entry is not None
        return entry.member.incarnation


def suspect(number: int, incarnation: int = 5, *accusers: int) -> Suspect:
    return Suspect(node_id(number), incarnation, tuple(node_id(each) for each in accusers or (9,)))


def dead(number: int, incarnation: int = 5, accuser: int = 9) -> Dead:
    return Dead(node_id(number), incarnation, node_id(accuser))


def changes(actions: Sequence[Action]) -> list[tuple[State | None, State]]:
    return [(each.was, each.now) for each in actions if isinstance(each, Changed)]


def sent(actions: Sequence[Action], kind: type[Message]) -> list[tuple[str, Message]]:
    return [(each.to, each.message) for each in actions if isinstance(each, Send) and isinstance(each.message, kind)]


def told_to(actions: Sequence[Action], number: int) -> list[Rumor]:
    found: list[Rumor] = []
    for each in actions:
        if isinstance(each, Send) and each.to == node_id(number) and isinstance(each.message, Gossip | Ping | Ack):
            found += each.message.rumors
    return found


def exchange(one: Lab, other: Lab, first: list[Action], numbers: tuple[int, int]) -> None:
    """Carry what two nodes send each other until both are silent; what they send to others is lost."""
    queue = [(one, each) for each in first]
    while queue:
        lab, action = queue.pop(0)
        to, sender = (other, numbers[0]) if lab is one else (one, numbers[1])
        if isinstance(action, Send) and action.to == to.it.me.node:
            queue += [(to, each) for each in to.get(action.message, sender)]


class Named(Lab):
    """A lab of another node than number 0."""

    def __init__(self, number: int, others: Sequence[int] = ()) -> None:
        super().__init__()
        me = member_of(number, 5, 1)
        self.it = Membership(me, SETTINGS, random.Random(number), sign_as(me.node), verify)
        self.it.start(self.now_s)
        for each in others:
            self.hear(stated(each), sender=each)
