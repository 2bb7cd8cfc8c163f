"""A whole node: the use-cases on their foundation. Decides no behaviour.

Everything is opened inside one async context manager, so that a test assembles a node exactly as the daemon does.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from meshhold import __version__
from meshhold.blocking import in_threads
from meshhold.chunkstore.contract import ChunkStore
from meshhold.config import Config
from meshhold.crypto.identity import Identity
from meshhold.crypto.random import new_salt
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.model.ids import short_id
from meshhold.node.chunk_keeping import ChunkKeeping
from meshhold.node.foundation import Foundation, now_ms, open_foundation
from meshhold.node.index_keeping import IndexKeeping
from meshhold.node.mesh import Mesh
from meshhold.replication.collecting.collector import Collector, Company
from meshhold.replication.collecting.snapshots import Snapshots
from meshhold.replication.records.record_keeper import RecordKeeper
from meshhold.rules.quota import Room
from meshhold.s3.door import Door, Settings
from meshhold.s3.recording.access_log import AccessLog, LogSettings
from meshhold.s3.recording.counters import Counters
from meshhold.store.access import Access
from meshhold.store.bucket_rules import BucketRulesKeeper
from meshhold.store.care import Care
from meshhold.store.conflicts import Conflicts
from meshhold.store.directory import Directory
from meshhold.store.drains import Drains
from meshhold.store.expiry import Expiry
from meshhold.store.expiry_walk import Stores
from meshhold.store.founding import Founding
from meshhold.store.gates import Gates
from meshhold.store.index_replicas import IndexReplicas
from meshhold.store.labels import Labelling
from meshhold.store.listing import Listing
from meshhold.store.lock_clock import LockClock
from meshhold.store.members import Members
from meshhold.store.objects import Objects
from meshhold.store.recovery import IndexNews, Recovery
from meshhold.store.renewal import Renewal
from meshhold.store.repairs import Repairs
from meshhold.store.rings import Rings
from meshhold.store.roll_call import RollCall
from meshhold.store.safekeeping import Safekeeping
from meshhold.store.secrets import Secrets
from meshhold.store.uploads import Uploads
from meshhold.store.vaults import Vaults
from meshhold.store.versions import Versions

COLLECT_GRACE_S: Final = 24 * 3600.0  # longer than any upload that is still alive


@dataclass(slots=True)
class Node:
    """A node that is assembled and open. `s3_addr` and `web_addr` are where it listens, `""` until it does."""

    config: Config
    identity: Identity
    keeper: RecordKeeper
    directory: Directory
    vaults: Vaults
    access: Access
    care: Care
    conflicts: Conflicts
    uploads: Uploads
    members: Members
    index_replicas: IndexReplicas
    founding: Founding
    mesh: Mesh
    door: Door
    keeping: IndexKeeping
    chunk_keeping: ChunkKeeping
    rings: Rings
    drains: Drains
    snapshots: Snapshots
    recovery: Recovery
    safekeeping: Safekeeping
    secrets: Secrets
    index_news: IndexNews
    labelling: Labelling
    repairs: Repairs
    chunks: ChunkStore
    expiry: Expiry
    counters: Counters
    access_log: AccessLog | None
    started_s: float
    s3_addr: str = ""
    web_addr: str = ""

    def open_keys(self) -> list[VaultKeys]:
        """Return the keys of the vaults that this node can open."""
        return [bucket.keys for bucket in self.directory.by_id.values()]

    def status(self) -> dict[str, Any]:
        """Return what `meshhold status` shows; sizes in bytes, times in seconds."""
        usage = self.chunks.usage()
        return {
            "node_id": self.identity.node_id,
            "name": self.config.node.name or short_id(self.identity.node_id),
            "version": __version__,
            "uptime_s": round(time.time() - self.started_s, 1),
            "data_dir": str(self.config.node.data_dir),
            "s3_addr": self.s3_addr,
            "web_addr": self.web_addr,
            "region": self.config.s3.region,
            "disk_total": usage.total,
            "disk_free": usage.free,
            "vaults": len(self.directory.by_id),
            "objects": sum(self.keeping.replica.index.counts(vault).objects for vault in self.directory.by_id),
            "mesh": self.mesh.summary(),
            "indexes": self._indexes(),
            "quotas": self._quotas(),
            "lifecycle": self._lifecycles(),
            "given_up": self.chunk_keeping.given_up(),
            "pace": self._pace(),
            "read_cache": self._read_cache(),
            "access_log_dropped": 0 if self.access_log is None else self.access_log.dropped,
        }

    def _pace(self) -> dict[str, int]:
        """Return how fast copies are mended and read again here, and after how long absent members are stood in for."""
        repair = self.config.repair
        return {
            "repair_bytes_per_s": repair.bytes_per_s,
            "scrub_bytes_per_s": repair.scrub_bytes_per_s,
            "stand_in_after_s": repair.stand_in_after_s,
        }

    def _read_cache(self) -> dict[str, int]:
        """Return how full the cache of others' chunks is, in bytes, and what it was good for since the start."""
        use = self.chunk_keeping.cache.use()
        found = {"bytes": use.used, "bytes_max": use.size_max, "chunks": use.chunks}
        return found | {"hits": use.hits, "misses": use.misses}

    def _quotas(self) -> list[dict[str, Any]]:
        """Return how full each vault with a quota is, of those whose index this node keeps."""
        kept = self.keeping.shown()
        shown = []
        for vault, bucket in self.directory.by_id.items():
            if bucket.rules.quota is not None and vault in kept:
                counts = self.keeping.replica.index.counts(vault)
                share = Room(bucket.rules.quota, counts.bytes, counts.objects).share
                shown.append({"vault": vault, "name": bucket.name, "percent": int(share * 100)})
        return shown

    def _lifecycles(self) -> list[dict[str, Any]]:
        """Return what the last walk over each vault with a lifecycle did."""
        return [
            {"vault": view.vault, "name": view.name, "ended_ms": view.last.ended_ms, "removed": view.last.removed}
            | {"error": view.last.error, "next_ms": view.next_ms}
            for view in self.expiry.views()
            if view.last is not None
        ]

    def _indexes(self) -> list[dict[str, Any]]:
        known = self.directory.by_id
        shown = [{"vault": vault, "name": known[vault].name, **how} for vault, how in self.keeping.shown().items()]
        return sorted(shown, key=lambda index: (index["name"], index["vault"]))


@asynccontextmanager
async def open_node(config: Config) -> AsyncIterator[Node]:
    """Open the node that `config` describes; see `open_foundation`."""
    async with open_foundation(config) as base:
        yield _assemble(base)


def _assemble(base: Foundation) -> Node:
    """Tie the use-cases together."""
    directory, nodes, keeping, chunk_keeping = base.directory, base.nodes, base.keeping, base.chunk_keeping
    registers, writer, reader = keeping.registers, chunk_keeping.writer, chunk_keeping.reader
    fellowship = chunk_keeping.fellowship
    gates = Gates()
    locks = LockClock(now_ms)
    vaults = Vaults(directory, registers, base.chunks, base.run_blocking, gates, locks.now_ms)
    access = Access(directory, vaults)
    renewal = Renewal(base.chunks, reader, base.run_blocking, copies=chunk_keeping.copies)
    objects = Objects(registers, writer, reader, renewal, gates, now_ms, locks.now_ms)
    uploads = Uploads(registers, writer, objects, base.clock, now_ms)
    snapshots, collector = _make_collection(base, renewal)
    roll_call = RollCall(nodes, registers.replica)
    index_replicas = IndexReplicas(directory, nodes, keeping.seats, roll_call, keeping.reconfiguration)
    founding = Founding(directory, vaults, access, nodes, keeping.seats, index_replicas, base.mesh.tell)
    versions = Versions(registers, objects.stacks)
    stores = Stores(registers, objects, uploads, versions, day_ms=base.config.s3.lifecycle_day_s * 1000)
    settings = Settings(region=base.config.s3.region, put_size_max=base.config.s3.max_put_bytes)
    return Node(
        config=base.config,
        identity=base.identity,
        keeper=base.keeper,
        directory=directory,
        vaults=vaults,
        access=access,
        care=_make_care(base, vaults, collector),
        conflicts=Conflicts(vaults, registers, objects),
        uploads=uploads,
        members=Members(directory, vaults, nodes, index_replicas, fellowship),
        rings=Rings(
            directory,
            vaults,
            nodes,
            fellowship,
            base.run_blocking,
            chunk_keeping.rate,
            rate_max=base.config.repair.bytes_per_s,
        ),
        drains=_make_drains(base, index_replicas),
        snapshots=snapshots,
        recovery=_make_recovery(base, vaults, roll_call, snapshots),
        safekeeping=Safekeeping(
            vaults, snapshots, fellowship, base.identity.node_id, base.labelling, name_of=nodes.name_of
        ),
        secrets=Secrets(directory, vaults, base.labelling),
        labelling=base.labelling,
        index_news=IndexNews(base.keeper, keeping.seats),
        repairs=Repairs(directory, vaults, fellowship, chunk_keeping.repair, nodes.name_of),
        index_replicas=index_replicas,
        founding=founding,
        mesh=base.mesh,
        door=Door(
            objects,
            uploads,
            Listing(registers),
            vaults,
            access,
            BucketRulesKeeper(directory),
            settings,
            versions,
            founding,
            now_ms,
        ),
        keeping=keeping,
        chunk_keeping=chunk_keeping,
        chunks=base.chunks,
        expiry=Expiry(directory, vaults, stores, leads=collector.leads, now_ms=locks.now_ms),
        counters=Counters(lambda name: vaults.known_alias(name) is not None, time.time()),
        access_log=_make_access_log(base),
        started_s=time.time(),
    )


def _make_access_log(base: Foundation) -> AccessLog | None:
    s3 = base.config.s3
    if s3.access_log is None:
        return None
    how = LogSettings(s3.access_log, s3.access_log_format, s3.access_log_bytes, s3.access_log_files)
    return AccessLog(how, in_threads(1))  # of its own: a slow log must not keep chunks waiting


def _make_collection(base: Foundation, renewal: Renewal) -> tuple[Snapshots, Collector]:
    registers, chunk_keeping = base.keeping.registers, base.chunk_keeping
    snapshots = Snapshots(
        base.directory,
        registers,
        base.keeping.replica.index,
        chunk_keeping.writer,
        chunk_keeping.upkeep_reader,
        renewal,
        now_ms,
        leads=lambda vault: collector.leads(vault),  # noqa: PLW0108 - it is made after this, which it needs
    )
    collector = Collector(
        registers,
        base.chunks,
        chunk_keeping.upkeep_reader,
        chunk_keeping.writer,
        base.run_blocking,
        obeying=chunk_keeping.obeying,
        company=Company(chunk_keeping.holders, chunk_keeping.holder_of),
        roots=snapshots,
    )
    return snapshots, collector


def _make_care(base: Foundation, vaults: Vaults, collector: Collector) -> Care:
    chunk_keeping = base.chunk_keeping
    return Care(
        base.directory,
        vaults,
        base.keeping.registers,
        base.chunks,
        chunk_keeping.upkeep_reader,
        collector,
        base.run_blocking,
        tombstones=base.keeping.tombstones,
        grace_s=COLLECT_GRACE_S,
        new_salt=new_salt,
        fellows=chunk_keeping.fellowship,
        own=chunk_keeping.witness,
        name_of=base.nodes.name_of,
        kept=chunk_keeping.vaults,
    )


def _make_drains(base: Foundation, index_replicas: IndexReplicas) -> Drains:
    chunk_keeping = base.chunk_keeping
    drains = Drains(
        base.directory,
        base.nodes,
        chunk_keeping.fellowship,
        index_replicas,
        base.mesh.reach,
        vaults=chunk_keeping.vaults,
        waiting=chunk_keeping.waiting,
        is_member=chunk_keeping.is_member,
    )
    base.mesh.serve(drains.register, lambda _peer: None)
    return drains


def _make_recovery(base: Foundation, vaults: Vaults, roll_call: RollCall, snapshots: Snapshots) -> Recovery:
    return Recovery(
        base.directory,
        vaults,
        base.keeping.registers,
        base.keeping.replica,
        base.keeping.reconfiguration,
        roll_call,
        snapshots,
        stamp_node=base.identity.stamp_node,
        name_of=base.nodes.name_of,
    )
