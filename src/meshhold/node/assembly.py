"""The one place that names concrete adapters and ties the rooms together. Decides no behaviour.

Everything is opened inside one async context manager, so that a test assembles a node exactly as the daemon does.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from meshhold import __version__
from meshhold.blocking import RunBlocking, open_threads
from meshhold.chunkstore.contract import ChunkStore
from meshhold.chunkstore.disk import DiskChunkStore
from meshhold.config import Config
from meshhold.crypto.identity import Identity
from meshhold.crypto.random import new_salt
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.index.sqlite import open_index
from meshhold.model.ids import short_id
from meshhold.model.stamp import Clock
from meshhold.node.chunk_keeping import ChunkKeeping, ChunkSurroundings
from meshhold.node.identity_file import load_identity
from meshhold.node.index_keeping import IndexKeeping, Surroundings
from meshhold.node.index_replicas import (
    founded_here,
    goes_alone,
    is_trusted_member,
    keeps_index,
    known_epoch,
    told_configuration,
)
from meshhold.node.mesh import Mesh
from meshhold.node.vault_keepers import VaultKeepers
from meshhold.replication.collector import Collector, Company
from meshhold.replication.index_room import IndexRoom
from meshhold.replication.record_keeper import RecordKeeper
from meshhold.replication.seats import Seats
from meshhold.replication.snapshots import Snapshots
from meshhold.s3.door import Door, Settings
from meshhold.store.access import Access
from meshhold.store.care import Care
from meshhold.store.conflicts import Conflicts
from meshhold.store.directory import Directory
from meshhold.store.drains import Drains
from meshhold.store.gates import Gates
from meshhold.store.index_replicas import IndexReplicas
from meshhold.store.listing import Listing
from meshhold.store.members import Members
from meshhold.store.nodes import Nodes
from meshhold.store.objects import Objects
from meshhold.store.recovery import IndexNews, Recovery
from meshhold.store.renewal import Renewal
from meshhold.store.repairs import Repairs
from meshhold.store.rings import Rings
from meshhold.store.roll_call import RollCall
from meshhold.store.secrets import Secrets
from meshhold.store.uploads import Uploads
from meshhold.store.vaults import Vaults

COMMIT_THREADS: Final = 2  # one commits, one moves the log into the file
PEER_THREADS: Final = 4  # disk work for peers and for repair
STORAGE_THREADS: Final = 8  # disk and hashing work at once: more threads only queue for two cores and one disk
COLLECT_GRACE_S: Final = 24 * 3600.0  # longer than any upload that is still alive


@dataclass(slots=True)
class Node:
    """A node that is assembled and open. `s3_addr` is where S3 listens, `""` until it does."""

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
    mesh: Mesh
    door: Door
    keeping: IndexKeeping
    chunk_keeping: ChunkKeeping
    rings: Rings
    drains: Drains
    snapshots: Snapshots
    recovery: Recovery
    secrets: Secrets
    index_news: IndexNews
    repairs: Repairs
    chunks: ChunkStore
    started_s: float
    s3_addr: str = ""

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
            "region": self.config.s3.region,
            "disk_total": usage.total,
            "disk_free": usage.free,
            "vaults": len(self.directory.by_id),
            "objects": sum(self.keeping.replica.index.counts(vault).objects for vault in self.directory.by_id),
            "mesh": self.mesh.summary(),
            "indexes": self._indexes(),
        }

    def _indexes(self) -> list[dict[str, Any]]:
        known = self.directory.by_id
        shown = [{"vault": vault, "name": known[vault].name, **how} for vault, how in self.keeping.shown().items()]
        return sorted(shown, key=lambda index: (index["name"], index["vault"]))


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def open_node(config: Config) -> AsyncIterator[Node]:
    """Open the node that `config` describes; its data directory is made if there is none.

    Resources: everything opened here is closed on leaving, after what was submitted has become durable.
    Errors: `FatalError` and `IntegrityError` of identity, index and chunk store.
    """
    data_dir: Path = config.node.data_dir
    identity = load_identity(data_dir / "identity")
    async with (
        open_threads(STORAGE_THREADS, COMMIT_THREADS, PEER_THREADS) as (run_blocking, run_commits, run_for_others),
        open_index(data_dir / "index.db", run_blocking=run_commits) as index,
    ):
        chunks = await run_blocking(partial(DiskChunkStore, data_dir / "chunks", capacity_bytes=config.node.capacity))
        clock = Clock(identity.stamp_node)
        keeper = RecordKeeper(index, clock, now_ms)
        directory = Directory(identity, keeper, clock, now_ms)
        room = IndexRoom(partial(_free_bytes, data_dir), index.reusable_bytes)
        seats = Seats(identity.node_id, index, partial(told_configuration, keeper.registry))
        await seats.found_earlier(founded_here(keeper.registry, identity.node_id))
        nodes = Nodes(identity, directory, keeper)
        disk_bytes = chunks.usage().total
        mesh = Mesh(config, identity, keeper, nodes, index, clock, now_ms, disk_bytes=disk_bytes)
        chance = random.Random(os.urandom(16))  # noqa: S311 - spreads retries, guards nothing
        around = Surroundings(
            peers=mesh.reach,
            linked=mesh.reach.linked,
            vaults=lambda: list(directory.by_id),
            may_ask=partial(is_trusted_member, keeper.registry),
            name_of=nodes.name_of,
            publish=directory.publish,
            chance=chance,
        )
        keeping = IndexKeeping(
            index, seats, clock, now_ms, around, stamp_node=identity.stamp_node, check_room=room.check
        )
        mesh.serve(keeping.register, keeping.sync.greet)
        around_chunks = ChunkSurroundings(
            keepers=VaultKeepers(keeper.registry, nodes, mesh.reach, identity.node_id, lambda: disk_bytes),
            reach=mesh.reach,
            is_trusted=partial(is_trusted_member, keeper.registry),
            is_alone_allowed=partial(goes_alone, seats),
            keeps_index=partial(keeps_index, seats),
            index_epoch=partial(known_epoch, seats),
            name_of=nodes.name_of,
            chance=chance,
        )
        chunk_keeping = ChunkKeeping(chunks, identity.node_id, around_chunks, run_blocking, run_for_others)
        mesh.serve(chunk_keeping.register, chunk_keeping.greet)
        keeper.follow(chunk_keeping.hear)
        yield _assemble(
            config, identity, keeper, directory, nodes, mesh, keeping, chunk_keeping, chunks, clock, run_blocking
        )


def _free_bytes(folder: Path) -> int:
    """Return what the folder's file system has free for this process."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _assemble(
    config: Config,
    identity: Identity,
    keeper: RecordKeeper,
    directory: Directory,
    nodes: Nodes,
    mesh: Mesh,
    keeping: IndexKeeping,
    chunk_keeping: ChunkKeeping,
    chunks: ChunkStore,
    clock: Clock,
    run_blocking: RunBlocking,
) -> Node:
    registers = keeping.registers
    writer, reader, fellowship = chunk_keeping.writer, chunk_keeping.reader, chunk_keeping.fellowship
    gates = Gates()
    vaults = Vaults(directory, registers, chunks, run_blocking, gates)
    access = Access(directory, vaults)
    renewal = Renewal(chunks, reader, run_blocking, copies=chunk_keeping.copies)
    objects = Objects(registers, writer, reader, renewal, gates, now_ms)
    uploads = Uploads(registers, writer, objects, clock, now_ms)
    snapshots = Snapshots(
        directory,
        registers,
        keeping.replica.index,
        writer,
        reader,
        renewal,
        now_ms,
        leads=lambda vault: not chunk_keeping.copies.is_alone(vault) and collector.leads(vault),
    )
    collector = Collector(
        registers,
        chunks,
        reader,
        writer,
        run_blocking,
        obeying=chunk_keeping.obeying,
        company=Company(chunk_keeping.holders, chunk_keeping.holder_of),
        roots=snapshots,
    )
    care = Care(
        directory,
        vaults,
        registers,
        chunks,
        reader,
        collector,
        run_blocking,
        tombstones=keeping.tombstones,
        grace_s=COLLECT_GRACE_S,
        new_salt=new_salt,
        fellows=fellowship,
        own=chunk_keeping.witness,
        name_of=nodes.name_of,
        kept=chunk_keeping.vaults,
    )
    roll_call = RollCall(nodes, registers.replica)
    index_replicas = IndexReplicas(directory, nodes, keeping.seats, roll_call, keeping.reconfiguration)
    recovery = Recovery(
        directory,
        vaults,
        registers,
        keeping.replica,
        keeping.reconfiguration,
        roll_call,
        snapshots,
        stamp_node=identity.stamp_node,
        name_of=nodes.name_of,
    )
    drains = Drains(
        directory,
        nodes,
        fellowship,
        index_replicas,
        mesh.reach,
        vaults=chunk_keeping.vaults,
        waiting=chunk_keeping.waiting,
        is_member=chunk_keeping.is_member,
    )
    mesh.serve(drains.register, lambda _peer: None)
    settings = Settings(region=config.s3.region, put_size_max=config.s3.max_put_bytes)
    door = Door(objects, uploads, Listing(registers), vaults, access, settings, now_ms)
    return Node(
        config=config,
        identity=identity,
        keeper=keeper,
        directory=directory,
        vaults=vaults,
        access=access,
        care=care,
        conflicts=Conflicts(vaults, registers, objects),
        uploads=uploads,
        members=Members(directory, vaults, nodes, index_replicas, fellowship),
        rings=Rings(directory, vaults, nodes, fellowship, run_blocking, chunk_keeping.rate),
        drains=drains,
        snapshots=snapshots,
        recovery=recovery,
        secrets=Secrets(directory, vaults),
        index_news=IndexNews(keeper, keeping.seats),
        repairs=Repairs(directory, vaults, fellowship, chunk_keeping.repair, nodes.name_of),
        index_replicas=index_replicas,
        mesh=mesh,
        door=door,
        keeping=keeping,
        chunk_keeping=chunk_keeping,
        chunks=chunks,
        started_s=time.time(),
    )
