"""The read cache of real nodes: what was read through a node once is read there again, and counts as no copy."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
import yaml
from tests.cluster.chunks_cluster import ChunkNode, open_chunk_cluster, shown
from tests.cluster.chunks_faults import moved_to_small_disk
from tests.cluster.consistency_cluster import open_folder
from tests.cluster.meshes import wait_until
from tests.cluster.namespaces import Host
from tests.faults.node_load import content_of, digest_of

MIB = 2**20
CACHED_S = 30.0  # chunks go into the cache in the background
RESERVE = 64 * MIB
CACHE = 16 * MIB
SMALL_DISK = RESERVE + 64 * MIB


class CachingNode(ChunkNode):
    """A node with a read cache of 16 MiB, whatever disk a test gives it."""

    def __init__(self, home: Path, name: str, host: Host | None = None) -> None:
        super().__init__(home, name, host)
        config = yaml.safe_load((home / "config.yaml").read_text())
        config["node"]["cache_size"] = "16MiB"
        (home / "config.yaml").write_text(yaml.safe_dump(config))

    def cache(self) -> dict[str, int]:
        """Return what `status` says of the cache."""
        return dict(self.call("status")["read_cache"])

    def cache_files(self) -> list[Path]:
        """Return the files of the cache."""
        return [path for path in (self.home / "chunks" / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [90_000, 12 * MIB + 17])
def test_the_second_read_comes_from_the_machines_own_disk(size: int) -> None:
    """Once all copies are gone the cache alone still serves clients; no check and no repair takes it for a copy."""
    with open_folder() as folder, open_chunk_cluster(folder, 3, 1, namespaces=False, make_node=CachingNode) as cluster:
        door, *others = (node for node in cluster.nodes if isinstance(node, CachingNode))
        client = cluster.client(door)
        names = [f"object/{number}" for number in range(12 if size < MIB else 1)]
        before, start = set(cluster.copies()), door.cache()
        for name in names:
            assert client.put(name, content_of(name, size))
        digests = [digest_of(content_of(name, size)) for name in names]
        away = {name for name in cluster.copies(others) if name not in before}
        assert away
        assert [client.get(name) for name in names] == digests
        wait_until(
            lambda: door.cache()["chunks"] == start["chunks"] + len(away), CACHED_S, "what came from others is cached"
        )
        first = door.cache()
        assert (first["hits"], first["misses"]) == (start["hits"], start["misses"] + len(away))
        assert [client.get(name) for name in names] == digests
        assert door.cache() == first | {"hits": first["hits"] + len(away)}, "others were asked for nothing"
        for node in others:
            for name, path in node.chunk_files(cluster.vault).items():
                if name in away:
                    path.unlink()
        assert [client.get(name) for name in names] == digests
        report = cluster.check(door, deep=True)
        assert report["damaged"] > 0
        assert report["totals"]["missing"] > 0
        assert not away & set(cluster.copies()), "nothing made a copy of a cached chunk"
        files = door.cache_files()
        assert len(files) == door.cache()["chunks"]
        door.stop()
        door.start()
        client.wait_serving(60)
        assert [client.get(name) for name in names] != digests, "the cache is gone with the process"
        wait_until(lambda: not any(path.exists() for path in files), CACHED_S, "its files are gone too")


def test_a_full_disk_takes_the_room_back() -> None:
    """Puts go on, on the disk that the cache has filled, and clients notice nothing."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        cluster = stack.enter_context(open_chunk_cluster(folder, 3, 2, namespaces=False, make_node=CachingNode))
        door = cluster.nodes[0]
        assert isinstance(door, CachingNode)
        disk = stack.enter_context(moved_to_small_disk(cluster, door, SMALL_DISK))
        client = cluster.client(door)
        client.wait_serving(60)
        away, before = 0, cluster.copies().keys()  # of the index, too, which no client reads
        for number in count():  # whether a chunk is kept by the other two is chance, one time in three
            name = f"film/{number}"
            assert client.put(name, content_of(name, 4 * MIB))
            assert client.get(name) == digest_of(content_of(name, 4 * MIB))
            away = len(cluster.copies().keys() - before - door.chunk_files(cluster.vault).keys())
            if away > 4:
                break
        wait_until(lambda: door.cache()["chunks"] > 4, CACHED_S, f"the cache has chunks, of {away}")
        disk.leave(RESERVE + MIB // 2)
        kept = len(door.chunk_files(cluster.vault))
        for number in range(16):  # more than the store writes before it asks again how much is free
            assert client.put(f"after/{number}", content_of(f"after/{number}", 2 * MIB)), client.asked[-1]
        assert len(door.chunk_files(cluster.vault)) > kept, "its own chunks came onto the disk that was full"
        wait_until(lambda: door.cache()["bytes"] == 0, CACHED_S, "the cache is empty")
        cluster.read_back()
        report = cluster.check(deep=True)
        found = {name: count for name, count in report["totals"].items() if count and name != "misplaced"}
        assert found == {}, shown(report)
