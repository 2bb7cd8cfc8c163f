"""What is in a range of keys, as a quorum holds it? Reads one replica's rows and lets the others confirm them.

A reading takes its rows from one replica, the base, and remembers which intervals it looked at and which names (key and
ballot) were in them. `settle` asks the others for digests of those intervals: where a quorum holds the same names, what
was read was chosen, and nothing newer was acknowledged before the reading began. Keys that differ are read one by one,
through a quorum of their own, and laid over the rows; the reader then looks again. In the quiet case that is one round
trip, however many intervals there are. Knows neither delimiters nor pages of S3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import trio

from meshhold.errors import FatalError, MeshHoldError, NoMajorityError
from meshhold.index.contract import Index, Listed
from meshhold.index.projection import listed_of
from meshhold.model.configuration import Configuration
from meshhold.model.entry import Entry, Space, decode_entry
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.model.stamp import ZERO, Stamp, unpack_stamp
from meshhold.replication.index.contract import Ballot, Interval, Listing, Outdated, Refusal, Replica, Scan, Unaware
from meshhold.replication.index.intervals import digest_of, interval_of
from meshhold.replication.index.panel import Panel, Poll
from meshhold.replication.index.rounds import Rounds
from meshhold.replication.tasks import open_tasks

SETTLED_MAX: Final = 4_096
"""Keys of one reading that may differ between replicas: more means that one of them is still catching up."""
PATIENCE_S: Final = 3.0
"""So long a reading begins anew while replicas fail or change under it."""
PAUSE_S: Final = 0.1
_SIDE_BY_SIDE: Final = 16
_NAMES_PAGE: Final = 1_000
_Row = TypeVar("_Row", bound=tuple[Any, ...])
ReadOne = Callable[[VaultId, Space, bytes], Awaitable[Entry | None]]


class Listings(Protocol):
    """A listing under way; see `RangeReading`."""

    async def rows(self, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """Return up to `limit` live objects whose key begins with `prefix` and is greater than `after`."""

    async def settle(self) -> bool:
        """Confirm what was read; False: look again."""


class OwnReading:
    """The only replica's rows need nobody's word."""

    def __init__(self, index: Index, vault: VaultId) -> None:
        self._index = index
        self._vault = vault

    async def rows(self, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """Return a page; see `Index.list_keys`."""
        return self._index.list_keys(self._vault, after, prefix, limit)

    async def settle(self) -> bool:
        """Return True."""
        return True


class _Page(NamedTuple, Generic[_Row]):
    """Rows of the base in key order; `upto` is where the next page begins, None if nothing can follow."""

    rows: list[_Row]
    names: list[Ballot]
    interval: Interval
    upto: bytes | None


class RangeReading(ABC, Generic[_Row]):
    """A look at ranges of one space of a vault, until all of it is confirmed. The first item of a row is its key."""

    space: Space

    def __init__(self, panel: Panel, rounds: Rounds, vault: VaultId, read_one: ReadOne) -> None:
        self._panel = panel
        self._rounds = rounds
        self._vault = vault
        self._read_one = read_one
        self._failing_since_s: float | None = None
        self._is_torn = False
        self._base: NodeId | None = None
        self._pages: dict[tuple[bytes, bytes, int], _Page[_Row]] = {}
        self._open: list[_Page[_Row]] = []
        self._settled: dict[bytes, _Row | None] = {}

    async def rows(self, after: bytes, prefix: bytes, limit: int) -> list[_Row]:
        """Return up to `limit` rows whose key begins with `prefix` and is greater than `after`, in key order.

        They hold only once `settle` returned True. Errors: `NoMajorityError` when no replica answers.
        """
        found: list[_Row] = []
        while len(found) < limit:
            page = await self._page(after, prefix, limit - len(found))
            found += self._laid_over(page)
            if page.upto is None or page.upto <= after:
                break
            after = page.upto
        return found[:limit]

    async def settle(self) -> bool:
        """Confirm what was read since the last time; False: look again, it was not so everywhere.

        Errors: `NoMajorityError` naming who is missing.
        """
        if self._is_torn:  # rows of a base that is forgotten by now were handed out, and can be confirmed no more
            self._is_torn = False
            return False
        pages, self._open = self._open, []
        if not pages:
            return True
        configuration = self._rounds.seats.configuration(self._vault)
        poll: Poll[list[bytes]] = Poll(configuration)
        base = self._base or self._panel.node
        poll.asked.add(base)
        poll.answers[base] = [digest_of(page.names) for page in pages]
        intervals = [page.interval for page in pages]

        async def question(replica: Replica) -> list[bytes] | Refusal:
            return await replica.digests(configuration.epoch, self._vault, intervals)

        await self._panel.ask(poll, self._vault, question)
        doubted = _doubted(poll, base)
        if doubted and poll.has_quorum:
            await self._panel.ask(poll, self._vault, question, everybody=True)
            doubted = _doubted(poll, base)
        if not poll.has_quorum:
            return await self._begin_anew(await self._rounds.failed(self._vault, poll))
        if not doubted:
            return True
        other = _agreed(poll, base, doubted)
        if other is not None:  # the base is behind
            self._forget(other)
            return False
        if await self._settle_keys(configuration, poll, [pages[at] for at in doubted]):
            return False
        return await self._begin_anew(await self._rounds.failed(self._vault, poll))

    # -- the base -----------------------------------------------------------------------------------------------------

    async def _page(self, after: bytes, prefix: bytes, limit: int) -> _Page[_Row]:
        name = after, prefix, limit
        while name not in self._pages:
            configuration = self._rounds.seats.configuration(self._vault)
            nodes = self._panel.by_readiness(configuration.nodes)
            for node in [self._base] if self._base in nodes else nodes:
                page = await self._ask_base(node, configuration, after, prefix, limit)
                if page is not None:
                    self._base = node
                    self._pages[name] = page
                    self._open.append(page)
                    return page
            self._is_torn |= bool(self._pages)
            await self._begin_anew(
                NoMajorityError(
                    f"no replica of the index of vault {short_id(self._vault)} answers",
                    "start those machines, or see `meshhold vault show`",
                )
            )
        return self._pages[name]

    async def _ask_base(
        self, node: NodeId | None, configuration: Configuration, after: bytes, prefix: bytes, limit: int
    ) -> _Page[_Row] | None:
        if node is None:
            return None
        replica = self._panel.replica(node)
        try:
            page = await self._fetch(replica, configuration.epoch, after, prefix, limit)
            if isinstance(page, Unaware):
                await replica.adopt(self._vault, configuration)
                page = await self._fetch(replica, configuration.epoch, after, prefix, limit)
        except FatalError:
            raise
        except MeshHoldError:
            return None
        if isinstance(page, Outdated):
            await self._rounds.seats.adopt(self._vault, page.configuration)
        return page if isinstance(page, _Page) else None

    @abstractmethod
    async def _fetch(
        self, replica: Replica, epoch: int, after: bytes, prefix: bytes, limit: int
    ) -> _Page[_Row] | Refusal:
        """Ask a replica for a page."""

    @abstractmethod
    def _row_of(self, key: bytes, entry: Entry) -> _Row | None:
        """Return the row that a settled entry is, or None if it is not to be seen."""

    def _forget(self, base: NodeId | None) -> None:
        self._base = base
        self._pages.clear()
        self._open.clear()

    async def _begin_anew(self, error: MeshHoldError) -> bool:
        """Forget what was read, and let some time pass; when that went on for too long, raise the error."""
        now_s = trio.current_time()
        self._failing_since_s = now_s if self._failing_since_s is None else self._failing_since_s
        if now_s >= self._failing_since_s + PATIENCE_S:
            raise error
        self._forget(None)
        await trio.sleep(PAUSE_S)
        return False

    # -- differences --------------------------------------------------------------------------------------------------

    def _laid_over(self, page: _Page[_Row]) -> list[_Row]:
        """Return the page's rows with what was settled since in their place."""
        if not self._settled:
            return page.rows
        _, after, upto = page.interval
        rows: dict[bytes, _Row | None] = {row[0]: row for row in page.rows}
        rows.update({k: row for k, row in self._settled.items() if k > after and (upto is None or k <= upto)})
        return sorted((row for row in rows.values() if row is not None), key=itemgetter(0))

    async def _settle_keys(
        self, configuration: Configuration, poll: Poll[list[bytes]], pages: Sequence[_Page[_Row]]
    ) -> bool:
        """Read the keys of these pages one by one whose ballots no quorum shares with the base.

        False if too few tell their names: a key that the base lacks could be missed.
        """
        base = self._base or self._panel.node
        keys: list[bytes] = []
        for page in pages:
            held: dict[NodeId, dict[bytes, Stamp]] = {base: {key: unpack_stamp(raw) for key, raw in page.names}}
            for node in list(poll.answers):  # late answers may still come
                names = None if node == base else await self._names(node, configuration, page.interval)
                if names is not None:
                    held[node] = names
            if not configuration.has_quorum(held):
                return False
            for key in sorted(set().union(*held.values())):
                ballot = held[base].get(key, ZERO)
                same = {node for node, names in held.items() if names.get(key, ZERO) == ballot}
                if key not in self._settled and not configuration.has_quorum(same):
                    keys.append(key)
        if len(self._settled) + len(keys) > SETTLED_MAX:
            raise NoMajorityError(
                f"the replicas of the index of vault {short_id(self._vault)} differ in {len(keys)} keys of this range",
                "retry in a moment: they are catching up",
            )
        for at in range(0, len(keys), _SIDE_BY_SIDE):
            async with open_tasks() as nursery:
                for key in keys[at : at + _SIDE_BY_SIDE]:
                    nursery.start_soon(self._settle_key, key)
        return True

    async def _settle_key(self, key: bytes) -> None:
        entry = await self._read_one(self._vault, self.space, key)
        self._settled[key] = None if entry is None else self._row_of(key, entry)

    async def _names(self, node: NodeId, configuration: Configuration, interval: Interval) -> dict[bytes, Stamp] | None:
        """Return the names of an interval as another replica has them, or None if it does not tell."""
        found: dict[bytes, Stamp] = {}
        while True:
            try:
                page = await self._panel.replica(node).names(configuration.epoch, self._vault, interval, _NAMES_PAGE)
            except FatalError:
                raise
            except MeshHoldError:
                return None
            if not isinstance(page, list):
                return None
            found.update((name.key, name.accepted) for name in page)
            if len(page) < _NAMES_PAGE:
                return found
            interval = interval._replace(after=page[-1].key)


class Reading(RangeReading[Listed]):
    """Live objects, as a listing shows them."""

    space = Space.OBJECTS

    async def _fetch(
        self, replica: Replica, epoch: int, after: bytes, prefix: bytes, limit: int
    ) -> _Page[Listed] | Refusal:
        page = await replica.list_page(epoch, self._vault, after, prefix, limit)
        if not isinstance(page, Listing):
            return page
        interval = interval_of(self.space, after, prefix, page.upto)
        return _Page(page.rows, page.names, interval, page.upto)

    def _row_of(self, key: bytes, entry: Entry) -> Listed | None:
        return listed_of(key, entry)


class Scanning(RangeReading[tuple[bytes, Entry]]):
    """Registers of a space with their entries, tombstones too."""

    def __init__(self, panel: Panel, rounds: Rounds, vault: VaultId, read_one: ReadOne, space: Space) -> None:
        super().__init__(panel, rounds, vault, read_one)
        self.space = space

    async def _fetch(
        self, replica: Replica, epoch: int, after: bytes, prefix: bytes, limit: int
    ) -> _Page[tuple[bytes, Entry]] | Refusal:
        page = await replica.scan_page(epoch, self._vault, self.space, after, prefix, limit)
        if not isinstance(page, Scan):
            return page
        interval = interval_of(self.space, after, prefix, page.rows[-1][0] if page.rows else None)
        names = [(key, row.accepted.pack()) for key, row in page.rows]
        rows = [(key, decode_entry(row.entry)) for key, row in page.rows]
        return _Page(rows, names, interval, page.rows[-1][0] if page.rows else None)

    def _row_of(self, key: bytes, entry: Entry) -> tuple[bytes, Entry] | None:
        return key, entry


def _doubted(poll: Poll[list[bytes]], base: NodeId) -> list[int]:
    """Return which intervals no quorum holds as the base does."""
    own = poll.answers[base]
    return [
        at
        for at, digest in enumerate(own)
        if not poll.configuration.has_quorum(
            {node for node, each in poll.answers.items() if each[at : at + 1] == [digest]}
        )
    ]


def _agreed(poll: Poll[list[bytes]], base: NodeId, doubted: Sequence[int]) -> NodeId | None:
    """Return a node whose digests of the doubted intervals a quorum shares, if there is one beside the base."""
    for node, digests in poll.answers.items():
        same = {
            other
            for other, each in poll.answers.items()
            if all(each[at : at + 1] == digests[at : at + 1] for at in doubted)
        }
        if node != base and len(digests) == len(poll.answers[base]) and poll.configuration.has_quorum(same):
            return node
    return None
