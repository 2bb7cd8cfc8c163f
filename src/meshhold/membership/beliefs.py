"""What does this node believe after hearing that? Takes statements, accusations and farewells; spreads what is new.

Rules (SWIM §4, Lifeguard §IV, and what a mesh of machines that do not trust each other needs):

- only its owner raises an incarnation, by a signed statement. A statement of a higher incarnation overrules all that
  was said of lower ones, so an accused refutes by stating itself anew;
- an accusation of an older incarnation is answered with the newer statement; one of an incarnation that nobody here has
  seen stated counts as one of the known: numbers in accusations are unsigned and prove nothing;
- a suspect dies when its deadline passes, or when another member says that it did;
- what a roster exchange calls dead is only suspected: it may be an old belief of a node that was away;
- a life (one run of a process) that was replaced does not return: if it does, two running nodes share one id.

Ignored here: when anything is sent, and who is probed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from meshhold.membership.awareness import Awareness
from meshhold.membership.member import (
    ALIVE,
    DEAD,
    INCARNATION_MAX,
    LEFT,
    SUSPECT,
    Member,
    Sign,
    State,
    Verify,
    check_own,
)
from meshhold.membership.messages import (
    Action,
    Changed,
    Conflict,
    Dead,
    Raised,
    Refused,
    Rumor,
    Suspect,
)
from meshhold.membership.roster import Entry, Roster, beats
from meshhold.membership.rumors import Rumors
from meshhold.membership.settings import Settings
from meshhold.membership.suspicion import Suspicion, Suspicions
from meshhold.model.ids import NodeId

_LIVES_MAX: Final = 16  # of other runs of this very node that are remembered


class Beliefs:
    """The roster of one node, its suspicions, and what it says of itself.

    Every `hear_…` appends to `actions` what others shall do, to `fresh` the members that became live, to `doubted` the
    suspects that are worth an own probe, to `answers` what the sender should know better, and sets `revived` when a
    dead member returned. The caller empties them.
    """

    def __init__(self, me: Member, settings: Settings, awareness: Awareness, sign: Sign, verify: Verify) -> None:
        self._settings = settings
        self._awareness = awareness
        self._sign = sign
        self._verify = verify
        self._other_lives: dict[bytes, int] = {}
        self._truce_until_s = 0.0
        self.me = check_own(me.signed(sign))
        self.leaving = False
        self.banned: set[NodeId] = set()
        self.roster = Roster(me.node)
        self.rumors = Rumors()
        self.suspicions = Suspicions()
        self.actions: list[Action] = []
        self.fresh: list[NodeId] = []
        self.revived = False
        self.doubted: list[NodeId] = []
        self.answers: list[Rumor] = []

    # -- statements ---------------------------------------------------------------------------------------------

    def hear_member(self, member: Member, sender: NodeId, now_s: float, *, repeat: bool = True) -> None:
        """Take a member's statement about itself, whoever brings it; `repeat` tells whether to spread what is new."""
        node = member.node
        entry = self.roster.get(node)
        if entry is not None:  # in a large mesh nearly all was heard before
            ahead = entry.member.incarnation - member.incarnation
            if ahead > 0 or (ahead == 0 and entry.member.proof == member.proof and not entry.remembered):
                return
        if node == self.me.node:
            self._hear_of_me(member, sender, now_s)
            return
        if node in self.banned or (entry is not None and not self._is_newer(member, entry)):
            return
        if not member.is_proven(self._verify):
            self.actions.append(Refused(sender, "a member's statement is not signed by that member"))
            return
        if entry is None and len(self.roster) >= self._settings.roster_max:
            self.actions.append(Refused(sender, f"more than {self._settings.roster_max} members"))
            return
        if entry is not None and self._is_conflict(member, entry):
            self.actions.append(Conflict(entry.member, member))
        state = LEFT if member.left else ALIVE
        former_life = b""
        if entry is not None:
            former_life = entry.former_life if entry.member.life == member.life else entry.member.life
        self._believe(Entry(member, state, now_s, former_life), entry)
        if repeat:
            self.rumors.add(member)

    def _is_newer(self, member: Member, entry: Entry) -> bool:
        if entry.remembered:  # the disk's word stands until anybody else speaks
            return member.incarnation >= entry.member.incarnation
        if member.incarnation == entry.member.incarnation and member.proof != entry.member.proof:
            return beats((member, entry.state), (entry.member, entry.state))
        return member.incarnation > entry.member.incarnation

    def _is_conflict(self, member: Member, entry: Entry) -> bool:
        if member.life == entry.member.life or entry.remembered:
            return False
        return member.incarnation == entry.member.incarnation or member.life == entry.former_life

    def _hear_of_me(self, member: Member, sender: NodeId, now_s: float) -> None:
        """Rise above what an earlier life said; notice another one that is running now."""
        if member.life == self.me.life or member.incarnation < self.me.incarnation:
            return
        if not member.is_proven(self._verify):
            self.actions.append(Refused(sender, "a statement in this node's name is not signed by it"))
            return
        before = self._other_lives.get(member.life)
        if before is not None and before < member.incarnation:  # it refuted, so it runs
            if now_s < self._truce_until_s:
                return
            self._truce_until_s = now_s + self._settings.truce_s
            self.actions.append(Conflict(self.me, member))
        if before is None and len(self._other_lives) >= _LIVES_MAX:
            self._other_lives.pop(next(iter(self._other_lives)))
        self._other_lives[member.life] = member.incarnation
        self._refute(member.incarnation, now_s)

    # -- accusations --------------------------------------------------------------------------------------------

    def hear_suspect(self, claim: Suspect, now_s: float) -> None:
        """Take an accusation: begin a suspicion, confirm one, refute it, or answer with what is newer."""
        entry = self._accused(claim, now_s)
        if entry is None:
            return
        node, incarnation = entry.member.node, entry.member.incarnation
        suspicion = self.suspicions.get(node)
        if suspicion is None:
            suspicion = self._new_suspicion(now_s)
            suspicion.accuse(claim.accusers)
            self.suspicions.begin(node, suspicion)
            self._believe(entry.turned(SUSPECT, now_s), entry)
            if self.me.node not in claim.accusers:
                self.doubted.append(node)
        elif suspicion.is_settled or not self.suspicions.accuse(node, suspicion, claim.accusers):
            return
        self.rumors.add(Suspect(node, incarnation, tuple(suspicion.accusers)))

    def hear_dead(self, claim: Dead, now_s: float) -> None:
        """Take a verdict: the member is dead until it refutes."""
        entry = self._accused(claim, now_s)
        if entry is not None:
            self._bury(entry, claim.accuser, now_s)

    def hear_entry(self, member: Member, state: State, sender: NodeId, now_s: float, *, repeat: bool) -> None:
        """Take one line of another roster. Only what its owner signed is taken at its word."""
        if member.node == self.me.node:
            self._hear_of_me(member, sender, now_s)
            if state is SUSPECT or state is DEAD:
                self.hear_suspect(Suspect(member.node, member.incarnation, (sender,)), now_s)
            return
        if state is DEAD and self.roster.get(member.node) is None:
            self._list_dead(member, sender, now_s)
            return
        self.hear_member(member, sender, now_s, repeat=repeat)
        if state is SUSPECT or state is DEAD:
            self.hear_suspect(Suspect(member.node, member.incarnation, (sender,)), now_s)

    def bury_overdue(self, now_s: float) -> None:
        """Declare dead who did not refute in time."""
        for node in self.suspicions.close_overdue(now_s):
            entry = self.roster.get(node)
            if entry is not None:
                self._bury(entry, self.me.node, now_s)

    def accusation_of(self, node: NodeId) -> tuple[Rumor, ...]:
        """Return what the member itself must hear to refute it; nothing if it is held alive."""
        entry = self.roster.get(node)
        if entry is None or entry.remembered or entry.state is ALIVE:
            return ()
        if entry.state is LEFT:
            return (entry.member,)
        if entry.state is DEAD:
            return entry.member, Dead(node, entry.member.incarnation, self.me.node)
        suspicion = self.suspicions.get(node)
        accusers = (self.me.node,) if suspicion is None else tuple(suspicion.accusers)
        return entry.member, Suspect(node, entry.member.incarnation, accusers)

    # -- about this node ----------------------------------------------------------------------------------------

    def state_anew(self, now_s: float, above: int = 0) -> None:
        """Sign and spread this node's statement, with a higher incarnation."""
        incarnation = max(self.me.incarnation, above) + 1
        if incarnation > INCARNATION_MAX:
            return  # only this node's own key could bring it here; it cannot refute any more and restarts as another
        self.me = replace(self.me, incarnation=incarnation, left=self.leaving).signed(self._sign)
        self.roster.put(Entry(self.me, LEFT if self.leaving else ALIVE, now_s))
        self.rumors.add(self.me)
        self.actions.append(Raised(incarnation))

    def _refute(self, above: int, now_s: float) -> None:
        self._awareness.apply(1)
        self.state_anew(now_s, above)
        self.answers.append(self.me)

    # -- steps --------------------------------------------------------------------------------------------------

    def _accused(self, claim: Suspect | Dead, now_s: float) -> Entry | None:
        """Return the entry that an accusation is to change, or None if it changes nothing here."""
        if claim.node == self.me.node:
            if claim.incarnation == self.me.incarnation and not self.leaving:
                self._refute(self.me.incarnation, now_s)
            else:  # an old one, or a number out of thin air: who has seen it stated shows the statement
                self.answers.append(self.me)
            return None
        entry = self.roster.get(claim.node)
        if entry is None or not (entry.state is ALIVE or entry.state is SUSPECT):  # not `is_live`: this is hot
            return None
        if claim.incarnation < entry.member.incarnation:
            self.answers.append(entry.member)
            return None
        return entry

    def _new_suspicion(self, now_s: float) -> Suspicion:
        members = self.roster.size
        # The accused and this node confirm nothing; where too few others are left, none is waited for.
        wanted = self._settings.confirmations if members - 2 >= self._settings.confirmations else 0
        min_s = self._settings.suspicion_min_s(members)
        return Suspicion(now_s, wanted, min_s, min_s * self._settings.suspicion_stretch)

    def _bury(self, entry: Entry, accuser: NodeId, now_s: float) -> None:
        self._believe(entry.turned(DEAD, now_s), entry)
        self.rumors.add(Dead(entry.member.node, entry.member.incarnation, accuser))

    def _list_dead(self, member: Member, sender: NodeId, now_s: float) -> None:
        if member.node in self.banned or len(self.roster) >= self._settings.roster_max:
            return
        if not member.is_proven(self._verify):
            self.actions.append(Refused(sender, "a member's statement is not signed by that member"))
            return
        self._believe(Entry(member, DEAD, now_s), None)

    def _believe(self, entry: Entry, before: Entry | None) -> None:
        node = entry.member.node
        self.roster.put(entry)
        if entry.state is not SUSPECT:
            self.suspicions.close(node)
        if entry.is_live and (before is None or not before.is_live):
            self.fresh.append(node)
            self.revived = self.revived or (before is not None and before.state is DEAD)
        self.actions.append(Changed(entry.member, None if before is None else before.state, entry.state))
