"""How patient, how loud and how large is membership? Each number with its reason; knows nobody's state."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """The knobs of one node. Nodes of one mesh may differ: none of these is agreed on the wire.

    Source: Das, Gupta, Motivala, "SWIM" (2002); Dadgar, Phillips, Currey, "Lifeguard" (2018).
    """

    probe_interval_s: float = 1.0
    """Each node is watched by its neighbour this often, so a death is noticed within this and one probe. Halving it
    doubles idle traffic."""
    probe_timeout_s: float = 0.5
    """A direct answer later than this is asked for through others: several times a transcontinental round trip."""
    relays: int = 3
    """Others asked to probe in our place."""
    repeats: int = 2
    """Pings to a target that is late, evenly over what is left of the probe. With 5 % loss a living node then fails one
    probe in 169,000, with 20 % one in 104: without them one in 1,600 and in 13, and at 2,000 nodes nothing else is
    told any more. Costs nothing where answers come; at least 1."""
    nack_fraction: float = 0.8
    """A relay admits failure after this part of the timeout, so that its answer still arrives in time to be counted."""
    suspicion_factor: float = 4.0
    """Shortest suspicion in probe intervals at up to 10 nodes; more accuses less and finds the dead later."""
    suspicion_stretch: float = 6.0
    """A suspicion that nobody confirms lasts this many times longer: one starved accuser is no proof."""
    confirmations: int = 2
    """Further accusers that make a suspicion as short as it gets: two short of `suspicion_factor`, as phases differ."""
    checkers: int = 6
    """About so many members probe a fresh suspect at once, whatever the size of the mesh: thrice what is needed."""
    awareness_max: int = 8
    """A node that doubts its own health slows its probes down by at most this factor."""
    rumor_factor: int = 2
    rumor_spare: int = 6
    """Each node sends a rumor k = λ·⌈log2(n+1)⌉ + spare times, to members drawn anew each time. Where a part p of all
    messages is lost, n·e^(-k·(1 - p)) of all rumors miss somebody: λ keeps that from growing with the mesh, and the
    spare makes it one in 18,000 at p = 0.2 and 20 nodes, where it was one in 150. Costs nothing in silence."""
    gossip_interval_s: float = 0.2
    """While there are rumors they do not wait for the next probe. Costs nothing when there are none."""
    gossip_fanout: int = 3
    gossip_size_bytes_max: int = 8 * 1024
    """About 25 rumors in one message: a mesh of thousands that splits and heals drains its rumors in a minute."""
    piggyback_size_bytes_max: int = 1024
    """Probes stay in one packet."""
    sync_interval_s: float = 30.0
    """Digests are compared with one other member this often: bounds how long a lost rumor is missed."""
    revive_interval_s: float = 3.0
    """All nodes together try each dead member about this often while it is freshly dead: bounds the time to heal."""
    revive_age_s: float = 60.0
    """Members dead for `a` seconds are tried a/`revive_age_s` times more rarely,"""
    revive_rarity_max: float = 20.0
    """but not more rarely than by this factor."""
    heal_spread_s: float = 0.5
    """A dead member that returns lets each node try another dead one this soon: both sides of a partition meet."""
    heal_members_s: float = 50.0
    """Bounds exchanges between sides that differ in nearly all: one in a second at 50 members, in 40 s at 2,000."""
    join_s: float = 5.0
    """A node this young does not repeat what it learns by sync: all others know it already."""
    forget_s: float = 7 * 86_400.0
    """Dead and left members are listed this long."""
    stall_s: float = 0.3
    """A timer this much too late says that this process was not running: it was deaf, not the others dead."""
    roster_max: int = 4096
    """Members known at once; about 2 MiB."""
    truce_s: float = 30.0
    """Two running nodes with one id refute each other no more often than this."""

    def suspicion_min_s(self, members: int) -> float:
        """Return 4·max(1, log10 n) probe intervals."""
        return self.suspicion_factor * max(1.0, math.log10(max(1, members))) * self.probe_interval_s

    def sends_max(self, members: int) -> int:
        """Return how often one node tells a rumor: λ·⌈log2(n+1)⌉ + spare."""
        return self.rumor_factor * math.ceil(math.log2(members + 1)) + self.rumor_spare
