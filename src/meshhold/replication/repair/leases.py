"""When may a copy be removed because others keep the chunk? Counts time and marks; knows no store and no wire.

A copy on a node that is no holder is surplus. Its node removes it only by an *attempt*:
1. it begins: the chunk is marked as leaving here. It does not begin if this process is younger than LEASE_S, or has
   granted a lease of the chunk within LEASE_S;
2. it asks every effective holder of its view. A holder that is asked grants a lease unless the chunk is leaving there
   or its view has another version; then it reads and hashes its copy, and says yes only if that is good. From the grant
   on, it begins no attempt of its own with this chunk for LEASE_S;
3. if every holder said yes, it removes its copy, at the latest USE_S after the time before it asked;
4. it ends: the chunk is no more marked.

Why no interleaving removes the last copy, whatever the views. Two reasons, each enough alone:

By leases. Let A remove at time r after asking from time a, and let H be any holder of A's view. H granted at some time
g with a <= g <= r, and no attempt was under way there (leaving chunks are answered with no). H's copy was found good
after g. An attempt of H begins at g + LEASE_S or later, and g + LEASE_S >= a + LEASE_S > a + USE_S >= r. So at the
very instant r *all* holders of A's view have a good copy, and none is about to remove it for what it heard before r.

By marks, without any clock. A chunk is marked from before its node asks until after it has removed. Of all attempts
that have removed copies up to some time, take A's, the one that began last. Each holder H of A's view said yes after A
had begun, and was not marked then. If H's copy has gone since, H's attempt began after that yes, later than A's, which
was the last to begin. So no such H exists: all of A's holders still have theirs.

Either holds at each removal, so removals one after the other, at once, in a ring, or by nodes that believe different
members to be holders never leave less than what one view wants. That versions are compared is not needed for this; it
keeps nodes of different views from handing a chunk to and fro, and from counting on a node that does not know that it
is to keep it.

Restarts: leases and marks are in memory. A process that granted a lease and ends is followed by one that begins no
attempt in its first LEASE_S, which outlasts what was granted. A restart of the asker forgets its attempt with the
mark: a process that is gone removes nothing, and the next one asks anew. A slow asker: yeses count until USE_S after
it began to ask, by its own clock, and that is looked at directly before each removal; LEASE_S - USE_S is the room for
clocks that differ in rate and for a thread that stops between looking and removing.

Writes: a chunk that is put or renewed here after the asking began is newer than the cutoff of the removal, and stays
(`ChunkStore.remove_if_unused_since`); a copy that this node acknowledged meanwhile is not taken away. As that is told
by the clock on the wall, an attempt during which it stepped back by more than STEP_S removes nothing.

What it relies on: the clock goes on while the machine sleeps (the one used by default does). A holder that lies about
its copy has lost that copy, no other; losses of disks are what the other holders are for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from meshhold.model.ids import ChunkId, VaultId
from meshhold.replication.steady import steady_s

LEASE_S: Final = 120.0
"""For so long, a holder that said yes keeps its copy for certain."""
USE_S: Final = 60.0
"""For so long, a yes may be relied on. Half of the lease: clocks may run twice as fast as others."""
STEP_S: Final = 2.0
"""By so much a clock that is set by the network may step back unnoticed; younger surplus waits that long to go."""
GRANTS_MAX: Final = 100_000
"""Leases at once, 20 MiB: 800 chunks a second. Beyond it the answer is no, and surplus stays a while longer."""


class Leases:
    """The leases that this node granted and the chunks that are leaving here. Thread-safe.

    `view_version` tells the version of this node's view of a vault, None if it is no member. `clock_s` is steady.
    """

    def __init__(
        self, view_version: Callable[[VaultId], str | None], *, clock_s: Callable[[], float] = steady_s
    ) -> None:
        self.clock_s = clock_s
        self._view_version = view_version
        self._began_s = clock_s()
        self._lock = threading.Lock()
        self._granted_s: OrderedDict[tuple[VaultId, ChunkId], float] = OrderedDict()  # by time
        self._leaving: set[tuple[VaultId, ChunkId]] = set()

    @property
    def ready_in_s(self) -> float:
        """In how many seconds this process may begin attempts."""
        return max(0.0, self._began_s + LEASE_S - self.clock_s())

    def grant(self, vault: VaultId, chunk: ChunkId, view_version: str) -> bool:
        """Promise that this node will not begin to remove its copy as surplus for LEASE_S; False if it does not.

        Called before the copy is read and hashed for the answer.
        """
        if self._view_version(vault) != view_version:
            return False
        name = (vault, chunk)
        with self._lock:
            if name in self._leaving:
                return False
            self._expire()
            if name not in self._granted_s and len(self._granted_s) >= GRANTS_MAX:
                return False
            self._granted_s[name] = self.clock_s()
            self._granted_s.move_to_end(name)
            return True

    def begin(self, vault: VaultId, chunks: Iterable[ChunkId]) -> list[ChunkId]:
        """Mark as leaving those chunks with which an attempt may begin; return them. `end` undoes it."""
        if self.ready_in_s > 0:
            return []
        with self._lock:
            self._expire()
            begun = [
                chunk
                for chunk in chunks
                if (vault, chunk) not in self._granted_s and (vault, chunk) not in self._leaving
            ]
            self._leaving.update((vault, chunk) for chunk in begun)
            return begun

    def end(self, vault: VaultId, chunks: Iterable[ChunkId]) -> None:
        """End the attempt with these chunks, which `begin` returned."""
        with self._lock:
            self._leaving.difference_update((vault, chunk) for chunk in chunks)

    def _expire(self) -> None:
        """Forget what is over. Grants are in order of time, so that this looks at no others."""
        until_s = self.clock_s() - LEASE_S
        while self._granted_s:
            name = next(iter(self._granted_s))
            if self._granted_s[name] > until_s:
                return
            self._granted_s.popitem(last=False)
