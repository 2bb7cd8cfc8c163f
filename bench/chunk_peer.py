"""A node without repair that reads another one's chunks: `chunk_peer.py DATA_DIR OTHER_DATA_DIR VAULT_ID`.

It opens the node of `DATA_DIR`, whose daemon must be stopped, takes part in its mesh, and prints bytes a second of
reading all of the other node's large chunks one after the other, and four at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from bench.failures import BenchError
from meshhold.config import load_config
from meshhold.model.ids import ChunkId, NodeId, VaultId
from meshhold.node.assembly import open_node
from meshhold.node.identity_file import load_identity
from meshhold.replication.chunks.holder_contract import Holder

AT_ONCE: Final = 4
_LINK_S_MAX: Final = 60.0
_POLL_S: Final = 0.05


async def _measure(mine: Path, other: Path, vault: VaultId) -> dict[str, float]:
    config = load_config(mine / "config.yaml")
    peer = load_identity(other / "identity").node_id
    stored = [path for path in (other / "chunks" / vault).glob("[0-9a-f][0-9a-f]/*") if path.is_file()]
    chunks = [(ChunkId(bytes.fromhex(path.parent.name + path.name)), path.stat().st_size) for path in stored]
    figures = {}
    async with open_node(config) as node, trio.open_nursery() as background:
        background.start_soon(node.mesh.run)
        with trio.fail_after(_LINK_S_MAX):
            while not node.mesh.reach.is_linked(peer):  # noqa: ASYNC110 - the mesh tells of links, not its reach
                await trio.sleep(_POLL_S)
        holder = node.chunk_keeping.holder_of(NodeId(peer))
        for name, lanes in (("one", 1), ("four", AT_ONCE)):
            figures[name] = await _read(holder, vault, chunks, lanes)
        background.cancel_scope.cancel()
    return figures


async def _read(holder: Holder, vault: VaultId, chunks: Sequence[tuple[ChunkId, int]], lanes: int) -> float:
    waiting = iter(chunks)

    async def lane() -> None:
        for chunk, size in waiting:
            if len(await holder.get(vault, chunk, size)) != size:
                raise BenchError(f"chunk {chunk.hex()} has another size than its file")

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(lanes):
            nursery.start_soon(lane)
    return sum(size for _, size in chunks) / (trio.current_time() - began_s)


if __name__ == "__main__":
    print(json.dumps(trio.run(_measure, Path(sys.argv[1]), Path(sys.argv[2]), VaultId(sys.argv[3]))))
