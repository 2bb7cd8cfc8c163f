"""Services in memory for the control socket, and a daemon in a thread that serves them."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio
from tests.unit.mesh_fakes import FakeDrains, FakeMembers, FakeMesh, FakeRepairs, FakeRings, node_id

from meshhold.admin.calls import make_dispatch
from meshhold.admin.server import Dispatch, run_admin
from meshhold.errors import BucketNotEmptyError, InvalidError, LockedError, NoSuchAccessKeyError, NoSuchVaultError
from meshhold.model.grant import Permission
from meshhold.store.access import GrantView, KeyView, NewKey
from meshhold.store.care import ScrubReport
from meshhold.store.checking import CheckReport

Progress = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class VaultView:
    id: str
    name: str
    alias: str = ""
    created_ms: int = 1_700_000_000_000
    replication_factor: int = 3
    objects: int | None = 0
    bytes: int | None = 0
    index_replicas: tuple[str, ...] = (node_id("a"),)
    consistency: str = "linearizable"
    index_changing: bool = False
    index_pinned: bool = False
    votes: bool = True
    snapshot_ms: int | None = None
    quota_bytes: int | None = None
    quota_objects: int | None = None


@dataclass
class CollectReport:
    removed: int = 2
    bytes: int = 2048
    tombstones: int = 0


class FakeNode:
    """Every service of one node, in memory. `lost` and `rotten` are what checks will find.

    `found` replaces fields of a check's report; `repaired` is how many chunks a scrub fetches anew.
    """

    def __init__(self) -> None:
        self.vaults: dict[str, VaultView] = {}
        self.locked: set[str] = set()
        self.key_views: dict[str, KeyView] = {}
        self.grant_views: dict[tuple[str, str], GrantView] = {}
        self.lost: list[str] = []
        self.rotten: list[str] = []
        self.found: dict[str, Any] = {}
        self.rings, self.drains, self.repairs = FakeRings(), FakeDrains(), FakeRepairs()
        self.repaired = 0
        self.indexes: list[dict[str, Any]] = []
        self.read_cache = {"bytes": 0, "bytes_max": 1 << 30, "chunks": 0, "hits": 0, "misses": 0}
        self.s3_addr = "127.0.0.1:3900"
        self.mesh = FakeMesh()
        self.members = FakeMembers(self.mesh)

    # -- vaults
    async def create(self, name: str, *, replication_factor: int = 3) -> VaultView:
        made = VaultView(f"{len(self.vaults)}{name}".ljust(32, "x"), name, replication_factor=replication_factor)
        self.vaults[made.id] = made
        return made

    async def views(self) -> list[VaultView]:
        return list(self.vaults.values())

    async def view(self, ref: str) -> VaultView:
        return self._find(ref)

    def _find(self, ref: str) -> VaultView:
        found = [v for v in self.vaults.values() if ref in (v.name, v.alias) or v.id.startswith(ref)]
        if not found:
            raise NoSuchVaultError(f"no vault is called {ref!r}", "see meshhold vault list")
        if len(found) > 1:
            raise InvalidError(f"{ref!r} names several vaults", "use a longer prefix")
        return found[0]

    async def delete(self, ref: str, *, force: bool, break_locks: bool) -> None:
        found = self._find(ref)
        if found.name in self.locked and not break_locks:
            raise LockedError("it holds locked versions", "use --break-locks")
        if found.objects and not force:
            raise BucketNotEmptyError("it holds objects", "use --force")
        del self.vaults[found.id]

    async def set_alias(self, ref: str, alias: str) -> VaultView:
        found = replace(self._find(ref), alias=alias)
        self.vaults[found.id] = found
        return found

    async def set_factor(self, ref: str, replication_factor: int) -> VaultView:
        found = replace(self._find(ref), replication_factor=replication_factor)
        self.vaults[found.id] = found
        return found

    async def set_quota(self, ref: str, most_bytes: int | None, most_objects: int | None) -> VaultView:
        found = self._find(ref)
        found = replace(
            found,
            quota_bytes=found.quota_bytes if most_bytes is None else most_bytes or None,
            quota_objects=found.quota_objects if most_objects is None else most_objects or None,
        )
        self.vaults[found.id] = found
        return found

    # -- access
    async def add_key(
        self, label: str, *, create_buckets: bool, may_publish: bool, read_only: bool, expires_s: int, like: str
    ) -> NewKey:
        key, now_ms = f"GK{len(self.key_views):024x}", 1_700_000_000_000
        ends_ms = now_ms + expires_s * 1000 if expires_s else 0
        model = self._find(like) if like else None
        known = (model.id, model.name) if model else ("", "")
        flags = (create_buckets, may_publish, read_only)
        self.key_views[key] = KeyView(key, label, now_ms, *flags, ends_ms, False, *known)
        return NewKey(key, "s3cr3t", label)

    def keys(self) -> list[KeyView]:
        return list(self.key_views.values())

    async def remove_key(self, key: str) -> None:
        if key not in self.key_views:
            raise NoSuchAccessKeyError(f"no access key is called {key!r}")
        del self.key_views[key]

    async def grant(
        self, key: str, vault: str, permissions: Permission, *, allow_list: bool = False, prefixes: Sequence[str] = ()
    ) -> GrantView:
        found = self._find(vault)
        if allow_list:
            permissions |= Permission.LIST
        label = self.key_views[key].label if key in self.key_views else ""
        made = GrantView(key, label, found.id, found.name, found.alias, str(permissions), tuple(prefixes))
        self.grant_views[key, found.id] = made
        return made

    def grants(self) -> list[GrantView]:
        return list(self.grant_views.values())

    async def revoke(self, key: str, vault: str) -> None:
        del self.grant_views[key, self._find(vault).id]

    # -- care
    async def check(self, vault: str | None, progress: Progress, *, deep: bool = False) -> list[CheckReport]:
        await progress({"objects": 1})
        chosen = [self._find(vault)] if vault is not None else list(self.vaults.values())
        corrupt = self.rotten if deep else []
        totals = {"missing": len(self.lost), "corrupt": len(corrupt)}
        found = [
            CheckReport(v.name, 3, 4, 5, 0, 0, len(self.lost + corrupt), self.lost, corrupt, totals=totals)
            for v in chosen
        ]
        return [replace(report, **self.found) for report in found]

    async def scrub(self, _vault: str | None, progress: Progress) -> ScrubReport:
        await progress({"chunks": 1, "bytes": 4096})
        return ScrubReport(4, 5, self.rotten, self.repaired)

    async def collect(self, _vault: str | None) -> CollectReport:
        return CollectReport()

    def status(self) -> dict[str, Any]:
        return {
            "node_id": "abcdefghijkl", "name": "attic", "version": "0.1.0", "uptime_s": 90.5, "data_dir": "/data",
            "s3_addr": self.s3_addr, "region": "meshhold", "disk_total": 2**40, "disk_free": 2**39,
            "vaults": len(self.vaults), "objects": 0, "mesh": "off (no swarm key)",
            "indexes": self.indexes, "read_cache": self.read_cache,
        }  # fmt: skip

    def dispatch(self) -> Dispatch:
        return make_dispatch(
            self,
            self,
            self,
            self.status,
            self.mesh,
            self.members,
            rings=self.rings,
            drains=self.drains,
            repairs=self.repairs,
            founding=FakeFounding(self),
        )


class FakeFounding:
    """Vaults with the factor of another one."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node

    async def create(self, name: str, *, like: str) -> VaultView:
        model = await self._node.view(like)
        return await self._node.create(name, replication_factor=model.replication_factor)


@contextmanager
def serving(path: Path, dispatch: Dispatch) -> Iterator[None]:
    """Serve `dispatch` at `path` from a thread of its own, as a daemon would from another process."""
    ready = threading.Event()
    stop: list[Callable[[], None]] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(run_admin, path, dispatch)
            token = trio.lowlevel.current_trio_token()
            stop.append(lambda: token.run_sync_soon(nursery.cancel_scope.cancel))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(run,), daemon=True)
    thread.start()
    assert ready.wait(10), "the control socket did not start"
    try:
        yield
    finally:
        stop[0]()
        thread.join(10)
        assert not thread.is_alive()
