"""How patient is a node with others, and what is told of its links? Values, and the formula of back-off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from meshhold.model.ids import NodeId
from meshhold.peering.link import LinkState
from meshhold.wire.limits import Limits

_RELAYED: Final = 256 * 1024
"""A window of a relayed stream: 2.5 MB/s at 100 ms, and a connection's worth takes 0.4 s over 10 Mbit/s."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How patient, and how busy with strangers, a node is. Seconds.

    A longer `handshake_s` serves slow links and lets a silent stranger hold his place longer. Back-off doubles from
    `backoff_s_min` to `backoff_s_max`, each time shortened by chance by up to a half: nodes must not dial in step.
    """

    dial_s: float = 5.0
    handshake_s: float = 5.0
    handshakes_max: int = 64
    handshakes_per_address_max: int = 8
    links_max: int = 4_096
    """As many as members are known at once: identities cost a hostile member nothing, links cost this node memory."""
    backoff_s_min: float = 0.5
    backoff_s_max: float = 60.0
    doubt_s: float = 3.0
    """How long a link may take to answer when a second one to the same peer appears."""
    drain_s: float = 10.0
    """How long what is in progress may go on when this node leaves."""
    limits: Limits = field(default_factory=Limits)
    relayed_limits: Limits = field(
        default_factory=lambda: Limits(stream_window=_RELAYED, connection_window=2 * _RELAYED)
    )
    """Of links through a relay: what is on its way waits in the relay's memory, in front of the probes behind it."""
    head_start_s: float = 1.0
    """How long a peer's own addresses are tried alone, before another way is looked for beside them."""


class LinkOpened(NamedTuple):
    """A peer that had no link has one."""

    link: LinkState


class LinkClosed(NamedTuple):
    """A peer's last link is gone; `reason` is empty for an end in good order."""

    peer: NodeId
    reason: str


Detour = Callable[[NodeId], Awaitable[None]]
"""Makes a link to a peer that cannot be dialled (see `Peering.adopt`). Errors: `MeshHoldError` when there is no way."""

LinkEvent = LinkOpened | LinkClosed
Watch = Callable[[LinkEvent], None]
"""Is told of links in the moment that they open or close. Must return at once and raise nothing."""


def backoff_s(failures: int, settings: Settings, chance: float) -> float:
    """Return how long to wait after so many failures in a row; `chance` is from 0 to 1."""
    longest_s = min(settings.backoff_s_max, settings.backoff_s_min * 2.0 ** min(failures, 32))
    return longest_s * (1.0 - chance / 2)
