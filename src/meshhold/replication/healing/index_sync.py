"""How a replica gets what it missed: row by row from another one, as much as differs. Decides no epoch and no vote.

What another replica holds may be taken for three reasons:
- a quorum holds the entry under one ballot: it is chosen, and whoever got a promise for a higher ballot has seen it or
  a later one at that quorum. So it may be taken whatever was promised here. While the configuration is joint a majority
  of the old set is proof enough, because every round needs one. A proof counts in the epoch it was made in;
- this replica would take the proposer's own message with this ballot, come late: the ordinary rule;
- this replica does not vote, so it has promised nothing that counts; what it holds counts once it is enrolled.
What is none of that is settled by a round of its own, after which a quorum knows. That quorum may be one without the
source, whose entry was never chosen and stays alone; then the source is asked for a round, which sees it. Where each
side goes on alone the replica merges what it is given (see `LocalReplica.take_copies`), and nobody is asked for proof.
Entries are compared by ballot; one that is replaced at the source meanwhile is taken as it is there by then.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, NoReturn

import trio

from meshhold.errors import FatalError, IntegrityError, MeshHoldError, ProtocolError, ReplicaRefusedError
from meshhold.index.contract import Name, Row
from meshhold.model.configuration import Configuration, Mode
from meshhold.model.entry import decode_entry
from meshhold.model.ids import NodeId, VaultId, short_id
from meshhold.model.stamp import COUNTER_BITS, ZERO, Stamp
from meshhold.register.acceptor import WINDOW_MS
from meshhold.replication.healing.copying import Copy, Copying
from meshhold.replication.healing.differences import (
    BucketNames,
    batches,
    differing,
    lacking,
    read_bucket,
    root_of,
    size_of,
)
from meshhold.replication.healing.fellow import Fellow, Fellows
from meshhold.replication.healing.healing_wire import BUCKETS_ASKED_MAX, SETTLED_ASKED_MAX
from meshhold.replication.healing.pulling import Progress, Pulled
from meshhold.replication.index.contract import Register
from meshhold.replication.index.registers import Registers
from meshhold.replication.index.seats import Seats
from meshhold.replication.tasks import open_tasks
from meshhold.replication.throttle import Throttle

SYNC_EVERY_S: Final = 60.0
"""A row that a broken link lost is elsewhere within that time; equal replicas exchange one hash."""
SETTLING_MAX: Final = 16
"""Rounds side by side: more would only wait for the same disks."""
SETTLED_MAX: Final = 2_000
"""Rows that one routine pull settles; the next one goes on."""
OLD_BUCKETS_MAX: Final = 64
"""Buckets of which one routine pull asks all names: a fellow that lags far behind would make it ask for every one."""
TRIES_MAX: Final = 3
"""How often a page of rows is read again because a removal of tombstones made it void."""
PULLS_MAX: Final = 4
"""Vaults that are pulled side by side."""
GREETED_MAX: Final = 256
BUCKET_PAGES_MAX: Final = 1_000
"""Messages of one bucket's names: a million of them, in a vault of a thousand million rows."""
MARGIN_MS: Final = WINDOW_MS + 60_000
"""Ballots lag behind the time of their acceptance by a window at most; older rows are found by their digest."""
_PER_BUCKET: Final = 10
_LOG: Final = logging.getLogger("meshhold.index")


class _Pull(NamedTuple):
    """One pull: from whom, in which configuration, and what it must reach."""

    vault: VaultId
    source: Fellow
    configuration: Configuration
    takes_all: bool
    """Whether entries need no proof."""
    strict: bool
    silent: set[NodeId]
    """Nodes that did not answer a question of this pull: they are not asked again."""
    progress: Progress


class IndexSync:
    """Copies rows from other replicas. `vaults` names those whose index this node may keep.

    `linked` tells which nodes have a link now. Resources: borrows its collaborators. Errors of peers end one pull.
    """

    def __init__(
        self,
        copying: Copying,
        seats: Seats,
        fellows: Fellows,
        registers: Registers,
        vaults: Callable[[], Iterable[VaultId]],
        linked: Callable[[], Sequence[NodeId]],
        now_ms: Callable[[], int],
        *,
        chance: random.Random,
        throttle: Throttle | None = None,
    ) -> None:
        self._copying = copying
        self._index = copying.replica.index
        self._seats = seats
        self._fellows = fellows
        self._registers = registers
        self._vaults = vaults
        self._linked = linked
        self._now_ms = now_ms
        self._chance = chance
        self._throttle = throttle or Throttle()
        self._progress: dict[VaultId, Progress] = {}
        self._pulling: dict[VaultId, trio.Lock] = {}
        self._agreed: dict[tuple[VaultId, NodeId], Stamp] = {}
        self._since_start = _before(copying.horizon.wall_ms)
        self._greeted, self._greetings = trio.open_memory_channel[NodeId](GREETED_MAX)

    # -- when ---------------------------------------------------------------------------------------------------------

    def greet(self, node: NodeId) -> None:
        """Learn that a link to a node opened: what both keep is compared soon."""
        try:
            self._greeted.send_nowait(node)
        except trio.WouldBlock:
            _LOG.debug("node %s is left to the next comparison", short_id(node))

    async def run(self) -> NoReturn:
        """Compare with whoever is greeted, and now and then with somebody, until cancelled."""
        limit = trio.CapacityLimiter(PULLS_MAX)
        async with trio.open_nursery() as nursery:
            self._start_pulls(nursery, limit, None)
            while True:
                greeted: NodeId | None = None
                with trio.move_on_after(SYNC_EVERY_S * self._chance.uniform(0.5, 1.0)):
                    greeted = await self._greetings.receive()
                self._start_pulls(nursery, limit, greeted)

    def _start_pulls(self, nursery: trio.Nursery, limit: trio.CapacityLimiter, source: NodeId | None) -> None:
        """Begin a pull of each vault from `source`, or from somebody at random; of vaults without one under way."""
        linked = set(self._linked())
        for vault in self._vaults():
            configuration = self._seats.adopted(vault)
            if configuration is None or not self._seats.votes(vault) or self._turn(vault).locked():
                continue  # a replica that does not vote is filled by its enrolment
            others = [node for node in configuration.nodes if node != self._seats.node and node in linked]
            if source is None and others:
                nursery.start_soon(self._try_pull, vault, self._chance.choice(others), limit)
            elif source in others:
                nursery.start_soon(self._try_pull, vault, source, limit)

    async def _try_pull(self, vault: VaultId, source: NodeId, limit: trio.CapacityLimiter) -> None:
        try:
            async with limit:
                await self.pull(vault, source)
        except FatalError:
            raise
        except MeshHoldError as error:
            _LOG.debug("vault %s was not compared with node %s: %s", short_id(vault), short_id(source), error)

    def progress(self) -> dict[VaultId, dict[str, Any]]:
        """Return how far each vault's last pull is; see `Progress.show`."""
        now_s = trio.current_time()
        return {vault: each.show(now_s) for vault, each in self._progress.items()}

    def forget(self, vault: VaultId) -> None:
        """Forget what is known of a vault that was deleted."""
        self._progress.pop(vault, None)
        self._agreed = {pair: stamp for pair, stamp in self._agreed.items() if pair[0] != vault}

    # -- one pull -----------------------------------------------------------------------------------------------------

    async def pull(self, vault: VaultId, source: NodeId, *, strict: bool = False) -> Pulled:
        """Make this replica hold all that `source` holds, or a quorum know it, in this node's epoch.

        `strict` leaves nothing out to save work. Rows that are written meanwhile may be missed.
        Errors: those of `Fellow`, of the disk, and `ReplicaRefusedError` when the epoch ends meanwhile.
        """
        async with self._turn(vault):
            configuration = self._seats.adopted(vault)
            if configuration is None:
                raise ReplicaRefusedError(f"this node does not keep the index of vault {short_id(vault)} yet")
            takes_all = not self._seats.votes(vault)
            progress = self._progress[vault] = Progress(source, trio.current_time())
            pull = _Pull(vault, self._fellows(source), configuration, takes_all, strict, set(), progress)
            try:
                began_ms = self._now_ms()
                await self._pull(pull)
            except MeshHoldError as error:
                progress.error = str(error)
                raise
            finally:
                progress.ended_s = trio.current_time()
        complete = progress.left == 0
        if complete:
            self._agreed[vault, source] = _before(began_ms)
        return Pulled(complete, progress.rows, progress.bytes, progress.settled)

    async def _pull(self, pull: _Pull) -> None:
        vault, epoch, progress = pull.vault, pull.configuration.epoch, pull.progress
        mine = self._index.bucket_digests(vault)
        theirs = await pull.source.bucket_digests(vault, epoch, root_of(mine))
        if theirs is None:
            return
        progress.bytes += len(theirs)
        buckets = differing(mine, theirs)
        above = self._agreed.get((vault, pull.source.node), self._since_start)
        if self._index.counts(vault).objects == 0:
            above = ZERO
        older = await self._pull_buckets(pull, buckets, above)
        if above > ZERO and older:
            self._chance.shuffle(older)
            await self._pull_buckets(pull, older if pull.strict else older[:OLD_BUCKETS_MAX], ZERO)

    async def _pull_buckets(self, pull: _Pull, buckets: list[int], above: Stamp) -> list[int]:
        """Copy what these buckets lack above the bound; return those that differ below it."""
        older: list[int] = []
        pull.progress.buckets_left = len(buckets)
        while buckets:
            begun = self._copying.begin(pull.vault)
            found = await self._read_buckets(pull, buckets[:BUCKETS_ASKED_MAX], above)
            digests = self._index.bucket_digests(pull.vault)
            wanted: list[Name] = []
            for theirs in found:
                mine = read_bucket(self._index, pull.vault, theirs.bucket, digests, above)
                names, differs = lacking(mine, theirs, self._index, pull.vault)
                wanted += names
                if differs:
                    older.append(theirs.bucket)
            buckets = buckets[len(found) :]
            pull.progress.buckets_left -= len(found)
            pull.progress.buckets_seen += len(found)
            pull.progress.named += len(wanted)
            pull.progress.behind = len(wanted)
            await self._throttle.spend(sum(size_of(name) for each in found for name in each.names))
            for batch in batches(wanted):
                await self._pull_rows(pull, batch, begun)
        return older

    async def _read_buckets(self, pull: _Pull, buckets: Sequence[int], above: Stamp) -> list[BucketNames]:
        """Return the names of the first of these buckets, each whole."""
        epoch = pull.configuration.epoch
        found = await pull.source.bucket_names(pull.vault, epoch, buckets, above, None)
        size = sum(size_of(name) for each in found for name in each.names)
        pages = 1
        while not found[-1].whole:  # one bucket of more names than a message holds
            last = found[-1]
            pages += 1
            if not last.names or pages > BUCKET_PAGES_MAX:
                raise ProtocolError("a replica does not come to the end of a bucket's names")
            after = last.names[-1].space, last.names[-1].key
            (rest, *_) = await pull.source.bucket_names(pull.vault, epoch, [last.bucket], above, after)
            size += sum(map(size_of, rest.names))
            found[-1] = rest._replace(names=last.names + rest.names)
        pull.progress.bytes += size + _PER_BUCKET * len(found)
        return found

    async def _pull_rows(self, pull: _Pull, names: list[Name], begun: int) -> None:
        """Copy these registers' rows; what can be neither taken nor settled is counted as left."""
        progress = pull.progress
        tries = 0
        while names:
            rows = await pull.source.rows(pull.vault, pull.configuration.epoch, names)
            asked = names[: len(rows)]
            proven = await self._proven(pull, asked)
            copies = _copies(asked, rows, proven, takes_all=pull.takes_all)
            taken = await self._copying.take(pull.vault, pull.configuration.epoch, begun, copies)
            if taken is None:  # a removal of tombstones looked meanwhile: read what is there now
                begun = self._copying.begin(pull.vault)
                tries += 1
                if tries >= TRIES_MAX:
                    progress.left += len(names)
                    return
                continue
            size = sum(len(row.entry) for row in rows if row is not None) + sum(map(size_of, asked))
            progress.bytes += size
            progress.rows += sum(taken)
            progress.behind -= len(asked)
            await self._settle(pull, [copy for copy, held in zip(copies, taken, strict=True) if not held])
            progress.left += _unreadable(asked, rows, copies)
            names = names[len(rows) :]
            await self._throttle.spend(size)

    async def _proven(self, pull: _Pull, names: Sequence[Name]) -> list[bool]:
        """Tell of each name whether it is known to be chosen, or needs no proof."""
        old = pull.configuration
        if pull.takes_all:
            return [True] * len(names)
        if old.mode is Mode.AVAILABLE and not old.is_joint:
            return [False] * len(names)
        electors = replace(old, seats=old.before, before=()) if old.is_joint else old
        holders: dict[NodeId, list[bool]] = {pull.source.node: [True] * len(names)}
        others = [node for node in electors.nodes if node not in {pull.source.node, self._seats.node, *pull.silent}]

        async def ask(node: NodeId) -> None:
            try:
                holders[node] = await self._fellows(node).holds(pull.vault, old.epoch, names)
            except FatalError:
                raise
            except MeshHoldError as error:
                pull.silent.add(node)
                _LOG.debug("node %s does not tell what it holds: %s", short_id(node), error)

        if electors.has_quorum({pull.source.node, *others}):
            async with open_tasks() as nursery:
                for node in others:
                    nursery.start_soon(ask, node)
        return [electors.has_quorum({node for node, flags in holders.items() if flags[at]}) for at in range(len(names))]

    async def settle(self, vault: VaultId, names: Sequence[Name]) -> list[bool]:
        """Let a quorum decide about these registers, having seen what this replica holds; tell which it did."""
        settled = [False] * len(names)
        limit = trio.CapacityLimiter(SETTLING_MAX)

        async def settle(at: int, name: Name) -> None:
            async with limit:
                try:
                    await self._registers.settle(Register(vault, name.space, name.key))
                    settled[at] = True
                except FatalError:
                    raise
                except MeshHoldError as error:
                    _LOG.info("a register of vault %s is not settled: %s", short_id(vault), error)

        async with open_tasks() as nursery:
            for at, name in enumerate(names):
                nursery.start_soon(settle, at, name)
        return settled

    async def _settle(self, pull: _Pull, refused: Sequence[Copy]) -> None:
        """Let a quorum decide about entries that were refused here and are newer than what is here."""
        progress = pull.progress
        newer = [copy[0] for copy in refused if self._lacks(pull.vault, copy[0])]
        if not pull.strict:
            over = {name for name, row, _ in refused if self._is_over(pull.vault, name, row)}
            newer = [name for name in newer if name not in over]
            progress.left += max(0, len(newer) + progress.settled - SETTLED_MAX)
            newer = newer[: max(0, SETTLED_MAX - progress.settled)]
        settled = await self.settle(pull.vault, newer)
        progress.settled += sum(settled)
        progress.left += len(newer) - sum(settled)
        lonely = [name for name, done in zip(newer, settled, strict=True) if done and self._lacks(pull.vault, name)]
        for at in range(0, len(lonely), SETTLED_ASKED_MAX):
            await pull.source.settle(pull.vault, pull.configuration.epoch, lonely[at : at + SETTLED_ASKED_MAX])

    def _lacks(self, vault: VaultId, name: Name) -> bool:
        """Tell whether what is here is older than this ballot."""
        own = self._index.load(vault, name.space, name.key)
        return own is None or own.accepted < name.accepted

    def _is_over(self, vault: VaultId, name: Name, row: Row) -> bool:
        """Tell whether it is a deletion that this replica has forgotten: the other one will forget it too."""
        forgotten = self._copying.replica.holds(vault, [name._replace(accepted=row.accepted)])[0]
        return forgotten and decode_entry(row.entry).value is None

    def _turn(self, vault: VaultId) -> trio.Lock:
        return self._pulling.setdefault(vault, trio.Lock())


def _copies(
    names: Sequence[Name], rows: Sequence[Row | None], proven: Sequence[bool], *, takes_all: bool
) -> list[Copy]:
    """Return what can be read of the rows; a proof is for the ballot that it was asked for."""
    copies: list[Copy] = []
    for name, row, chosen in zip(names, rows, proven, strict=True):
        if row is not None and _is_readable(row):
            exact = row.accepted == name.accepted
            copies.append((name._replace(accepted=row.accepted), row, takes_all or (chosen and exact)))
    return copies


def _is_readable(row: Row) -> bool:
    try:
        decode_entry(row.entry)
    except IntegrityError:
        return False
    return True


def _unreadable(names: Sequence[Name], rows: Sequence[Row | None], copies: Sequence[Copy]) -> int:
    return sum(row is not None for row in rows[: len(names)]) - len(copies)


def _before(wall_ms: int) -> Stamp:
    """Return a stamp below all ballots that were taken since."""
    return Stamp(max(wall_ms - MARGIN_MS, 0) << COUNTER_BITS, ZERO.node)
