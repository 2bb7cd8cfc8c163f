"""What a node stands on: its disk, its index, its mesh, and the keeping of indexes and chunks with others.

The one place that names concrete adapters. Decides no behaviour.
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
from typing import Final

from meshhold.blocking import RunBlocking, open_threads
from meshhold.chunkstore.cache import ChunkCache
from meshhold.chunkstore.contract import ChunkStore
from meshhold.chunkstore.disk import RESERVE_BYTES, DiskChunkStore
from meshhold.chunkstore.disk_labels import DiskLabels
from meshhold.chunkstore.places import cache_folder
from meshhold.config import Config
from meshhold.crypto.identity import Identity
from meshhold.index.sqlite import SqliteIndex, open_index
from meshhold.model.stamp import Clock
from meshhold.node.chunk_keeping import ChunkKeeping, ChunkSurroundings
from meshhold.node.identity_file import load_identity
from meshhold.node.index_keeping import IndexKeeping, Surroundings
from meshhold.node.index_replicas import (
    count_replicas,
    founded_here,
    goes_alone,
    is_trusted_member,
    keeps_index,
    known_epoch,
    told_configuration,
)
from meshhold.node.mesh import Mesh
from meshhold.node.vault_keepers import VaultKeepers
from meshhold.replication.collecting.clock_watch import ClockWatch
from meshhold.replication.index.index_room import IndexRoom
from meshhold.replication.index.seats import Seats
from meshhold.replication.records.record_keeper import RecordKeeper
from meshhold.replication.repair.settings import Settings
from meshhold.replication.throttle import Throttle
from meshhold.store.directory import Directory
from meshhold.store.labels import Labelling
from meshhold.store.nodes import Nodes

COMMIT_THREADS: Final = 2  # one commits, one moves the log into the file
PEER_THREADS: Final = 4  # disk work for peers and for repair
STORAGE_THREADS: Final = 8  # disk and hashing work at once: more threads only queue for two cores and one disk


@dataclass(frozen=True, slots=True)
class Foundation:
    """What the use-cases of a node share."""

    config: Config
    identity: Identity
    clock: Clock
    run_blocking: RunBlocking
    chunks: ChunkStore
    keeper: RecordKeeper
    directory: Directory
    nodes: Nodes
    mesh: Mesh
    keeping: IndexKeeping
    chunk_keeping: ChunkKeeping
    labelling: Labelling


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def open_foundation(config: Config) -> AsyncIterator[Foundation]:
    """Open what `config` describes; its data directory is made if there is none.

    Resources: everything opened here is closed on leaving, after what was submitted has become durable.
    Errors: `FatalError` and `IntegrityError` of identity, index and chunk store.
    """
    data_dir: Path = config.node.data_dir
    identity = load_identity(data_dir / "identity")
    async with (
        open_threads(STORAGE_THREADS, COMMIT_THREADS, PEER_THREADS) as (run_blocking, run_commits, run_for_others),
        open_index(data_dir / "index.db", run_blocking=run_commits) as index,
    ):
        watch = ClockWatch()
        chunks, cache = await run_blocking(_open_chunks, config, watch)
        clock = Clock(identity.stamp_node)
        keeper = RecordKeeper(index, clock, now_ms)
        directory = Directory(identity, keeper, clock, now_ms)
        nodes = Nodes(identity, directory, keeper)
        seats = Seats(identity.node_id, index, partial(told_configuration, keeper.registry))
        await seats.found_earlier(founded_here(keeper.registry, identity.node_id))
        disk_bytes = chunks.usage().total
        pace = Settings(config.repair.bytes_per_s, config.repair.stand_in_after_s)
        mesh = Mesh(config, identity, keeper, nodes, index, clock, now_ms, disk_bytes=disk_bytes)
        throttle = Throttle(pace.index_bytes_per_s)
        keeping = _keep_index(config, identity, index, seats, clock, keeper, directory, nodes, mesh, throttle)
        around = ChunkSurroundings(
            keepers=VaultKeepers(keeper.registry, nodes, mesh.reach, identity.node_id, lambda: disk_bytes),
            reach=mesh.reach,
            is_trusted=partial(is_trusted_member, keeper.registry),
            is_alone_allowed=partial(goes_alone, seats),
            keeps_index=partial(keeps_index, seats),
            index_replicas=partial(count_replicas, seats),
            index_epoch=partial(known_epoch, seats),
            name_of=nodes.name_of,
            watch=watch,
            chance=_new_chance(),
        )
        chunk_keeping = ChunkKeeping(chunks, cache, identity.node_id, around, run_blocking, run_for_others, pace)
        mesh.serve(chunk_keeping.register, chunk_keeping.greet)
        keeper.follow(chunk_keeping.hear)
        labels = DiskLabels(data_dir / "chunks")
        labelling = Labelling(labels, keeper, run_for_others, chunk_keeping.vaults, identity.node_id)
        await labelling.take_unknown()
        yield Foundation(
            config,
            identity,
            clock,
            run_blocking,
            chunks,
            keeper,
            directory,
            nodes,
            mesh,
            keeping,
            chunk_keeping,
            labelling,
        )


def _open_chunks(config: Config, watch: ClockWatch) -> tuple[DiskChunkStore, ChunkCache]:
    """Open the store of chunks, and the read cache in the room that it leaves: none where no door reads."""
    root = config.node.data_dir / "chunks"
    has_doors = config.s3.enabled or config.web.enabled
    cache = ChunkCache(
        Path(cache_folder(str(root))), config.node.cache_size if has_doors else 0, reserve_bytes=RESERVE_BYTES
    )
    return DiskChunkStore(root, capacity_bytes=config.node.capacity, now=watch.now, reclaimable=cache), cache


def _keep_index(
    config: Config,
    identity: Identity,
    index: SqliteIndex,
    seats: Seats,
    clock: Clock,
    keeper: RecordKeeper,
    directory: Directory,
    nodes: Nodes,
    mesh: Mesh,
    throttle: Throttle,
) -> IndexKeeping:
    room = IndexRoom(partial(_free_bytes, config.node.data_dir), index.reusable_bytes)
    around = Surroundings(
        peers=mesh.reach,
        linked=mesh.reach.linked,
        vaults=lambda: list(directory.by_id),
        may_ask=partial(is_trusted_member, keeper.registry),
        name_of=nodes.name_of,
        publish=directory.publish,
        chance=_new_chance(),
    )
    stamp_node = identity.stamp_node
    keeping = IndexKeeping(
        index, seats, clock, now_ms, around, stamp_node=stamp_node, check_room=room.check, throttle=throttle
    )
    mesh.serve(keeping.register, keeping.sync.greet)
    return keeping


def _new_chance() -> random.Random:
    return random.Random(os.urandom(16))  # noqa: S311 - spreads retries, guards nothing


def _free_bytes(folder: Path) -> int:
    """Return what the folder's file system has free for this process."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
