"""What replicas of an index ask of each other, and how one refuses. Knows neither wire nor disk.

Every question names the epoch of the configuration that the asker goes by, and a replica answers in its own epoch only:
so no round mixes the quorums of two configurations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from meshhold.index.contract import Counts, Listed, Name, Row
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Entry, Space
from meshhold.model.ids import NodeId, VaultId
from meshhold.model.stamp import Stamp
from meshhold.register.acceptor import Skewed, Stale
from meshhold.register.rounds import Answer


class Register(NamedTuple):
    """The name of one register."""

    vault: VaultId
    space: Space
    key: bytes


Ballot = tuple[bytes, bytes]
"""A key and the ballot of its row, packed: what names are compared by."""


class Interval(NamedTuple):
    """The registers of a space whose key is greater than `after` and at most `upto` (None: to the end)."""

    space: Space
    after: bytes
    upto: bytes | None


class Outdated(NamedTuple):
    """Refused: the asker's configuration is history; this one is in force."""

    configuration: Configuration


class Unaware(NamedTuple):
    """Refused: this replica is still in an earlier epoch. Let it `adopt` the asker's configuration, then ask again."""

    epoch: int


class Absent(NamedTuple):
    """Refused: this replica does not vote, since what it held is lost or not here yet."""

    reason: str


Refusal = Stale | Skewed | Outdated | Unaware | Absent


class Listing(NamedTuple):
    """A page of live objects, and all names in the interval that it was read from, at the same moment.

    The interval ends with the key `upto`, after which there may be more; None: with the prefix.
    """

    rows: list[Listed]
    names: list[Ballot]
    upto: bytes | None


class Scan(NamedTuple):
    """A page of rows with their entries, tombstones too: its interval ends with its last row, or with the prefix."""

    rows: list[tuple[bytes, Row]]


class Replica(Protocol):
    """One node that keeps registers: this one, or another one behind a link.

    Errors of every method: `StorageFailedError`, `StorageFullError`, and `PeerError` of a link.
    """

    async def read(self, epoch: int, name: Register, known: Stamp) -> Answer | Refusal:
        """Return what the replica has durably accepted; without the entry if its ballot is `known` to the asker."""

    async def prepare(self, epoch: int, name: Register, ballot: Stamp, known: Stamp) -> Answer | Refusal:
        """Promise to take nothing below `ballot`, and return what was accepted so far, as `read` does; or refuse."""

    async def accept(self, epoch: int, name: Register, ballot: Stamp, entry: Entry) -> Refusal | None:
        """Take `entry` durably (None), or refuse. Repeating it is harmless."""

    async def merge(self, epoch: int, name: Register, ballot: Stamp, entry: Entry) -> Answer | Refusal:
        """Merge an entry that another replica, or a node without one, has just written alone; see `merging`.

        Returns what the replica durably holds then, without the entry if it is this one. Repeating it is harmless.
        """

    async def list_page(self, epoch: int, vault: VaultId, after: bytes, prefix: bytes, limit: int) -> Listing | Refusal:
        """Return up to `limit` live objects whose key begins with `prefix` and is greater than `after`.

        Fewer, even none, do not mean the end: keys or tombstones may be too many for one page.
        """

    async def scan_page(
        self, epoch: int, vault: VaultId, space: Space, after: bytes, prefix: bytes, limit: int
    ) -> Scan | Refusal:
        """Return up to `limit` rows whose key begins with `prefix` and is greater than `after`, fewer if large.

        Fewer than `limit` rows mean the end only if the page is empty.
        """

    async def digests(self, epoch: int, vault: VaultId, intervals: Sequence[Interval]) -> list[bytes] | Refusal:
        """Return one digest per interval: equal digests mean equal names (space, key, accepted ballot)."""

    async def names(self, epoch: int, vault: VaultId, interval: Interval, limit: int) -> list[Name] | Refusal:
        """Return the first `limit` names of an interval, in key order."""

    async def counts(self, vault: VaultId) -> Counts:
        """Return live objects and bytes as this replica holds them."""

    async def adopt(self, vault: VaultId, configuration: Configuration) -> None:
        """Go by this configuration from now on, durably, unless a later one is known. It must have been chosen."""


class Replicas(Protocol):
    """How a replica is reached."""

    def __call__(self, node: NodeId) -> Replica:
        """Return the replica of a node."""
