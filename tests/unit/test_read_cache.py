"""What this node fetched for its clients is read here the second time: by clients only, and never wrongly."""

# ruff: noqa: ARG001 - pytest-trio finds the clock among the arguments only
from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.unit.copies_lab import Lab, running
from tests.unit.store_kit import KIB, MIB, BytesBody, run_inline
from trio.testing import MockClock

from meshhold.chunkstore.cache import ChunkCache
from meshhold.crypto.vault_keys import VaultKeys
from meshhold.errors import ChunkMissingError, ContentElsewhereError
from meshhold.model.ids import ChunkId
from meshhold.replication.chunks import copies as copies_module
from meshhold.replication.chunks.reader import ChunkReader
from meshhold.replication.chunks.walk import walk_refs
from meshhold.replication.chunks.writer import ChunkWriter
from meshhold.sealing.content import Content
from meshhold.sealing.manifest import REFS_IN_ENTRY_MAX

KEYS = VaultKeys(b"k" * 32)
SETTLED_S = 60.0
"""By then nothing is under way any more: the clock of these tests jumps there."""


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Scene:
    """A node that keeps nothing itself and caches what the others send; `reader` is its clients'."""

    def __init__(self, folder: Path, size_max: int, blocking: Any = run_inline, *, me_reliable: bool = False) -> None:
        self.lab = Lab(3, 2, me_reliable=me_reliable, blocking=blocking)
        self.cache = ChunkCache(folder / "cache", size_max, reserve_bytes=0)
        self.writer = ChunkWriter(self.lab.chunks, run_inline, copies=self.lab.copies)
        self.reader = ChunkReader(self.lab.chunks, blocking, copies=self.lab.copies, cache=self.cache)
        self.upkeep = ChunkReader(self.lab.chunks, blocking, copies=self.lab.copies)

    async def write(self, body: bytes) -> Content:
        return (await self.writer.write(KEYS, BytesBody(body))).content

    async def read(self, content: Content, size: int, reader: ChunkReader | None = None) -> bytes:
        """Read it all, and wait until what it starts in the background has ended."""
        pieces: list[bytes] = []

        async def sink(piece: bytes) -> None:
            pieces.append(piece)

        await (reader or self.reader).copy(KEYS, content, 0, size, sink)
        await trio.sleep(SETTLED_S)
        assert self.lab.is_idle
        assert self.lab.copies._to_cache.free == self.lab.copies._to_cache.size
        return b"".join(pieces)

    def asked(self) -> int:
        """Return how often others were asked for chunks."""
        return sum(question in ("get", "has") for shelf in self.lab.shelves.values() for question, _ in shelf.asked)

    def damage(self, chunk: ChunkId, how: Callable[[bytes], bytes]) -> None:
        path = Path(self.cache._path(self.cache._kept[chunk].number))
        path.write_bytes(how(path.read_bytes()))


OpenScene = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
def open_scene(tmp_path: Path) -> OpenScene:
    @asynccontextmanager
    async def opened(size_max: int = 64 * MIB, *args: Any, **words: Any) -> AsyncIterator[Scene]:
        scene = Scene(tmp_path, size_max, *args, **words)
        async with running(scene.lab):
            yield scene

    return opened


@pytest.mark.parametrize("size", [40 * KIB, 300 * KIB, 3 * MIB + 5])
async def test_the_second_read_asks_nobody(autojump_clock: MockClock, open_scene: OpenScene, size: int) -> None:
    async with open_scene() as scene:
        content = await scene.write(noise(size))
        assert await scene.read(content, size) == noise(size)
        asked = scene.asked()
        assert asked >= len(content.refs)
        scene.lab.down = set(scene.lab.shelves)
        assert await scene.read(content, size) == noise(size)
        assert scene.asked() == asked
        assert scene.cache.use().hits == len(content.refs)
        assert list(scene.lab.chunks.scan(KEYS.vault_id)) == [], "a cached chunk is no copy"


async def test_manifests_are_kept_too(autojump_clock: MockClock, open_scene: OpenScene) -> None:
    async with open_scene() as scene:
        refs = (await scene.write(noise(20 * KIB))).refs
        content = await scene.writer.pack(KEYS, [*refs] * (REFS_IN_ENTRY_MAX + 1))
        size = (REFS_IN_ENTRY_MAX + 1) * 20 * KIB
        assert await scene.read(content, size) == noise(20 * KIB) * (REFS_IN_ENTRY_MAX + 1)
        scene.lab.down = set(scene.lab.shelves)
        again = ChunkReader(scene.lab.chunks, run_inline, copies=scene.lab.copies, cache=scene.cache)
        assert await scene.read(content, size, again) == noise(20 * KIB) * (REFS_IN_ENTRY_MAX + 1)


@pytest.mark.parametrize("how", [lambda raw: raw[:-1], lambda raw: raw[:100] + b"?" + raw[101:], lambda _raw: b""])
@pytest.mark.parametrize("size", [40 * KIB, 300 * KIB])
async def test_a_bad_cached_file_is_fetched_anew(
    autojump_clock: MockClock, open_scene: OpenScene, size: int, how: Callable[[bytes], bytes]
) -> None:
    async with open_scene() as scene:
        content = await scene.write(noise(size))
        await scene.read(content, size)
        asked = scene.asked()
        scene.damage(content.refs[0].chunk, how)
        assert await scene.read(content, size) == noise(size)
        assert scene.asked() == asked + 1
        assert scene.lab.damaged == [], "nothing that counts is damaged: repair has nothing to do"
        assert await scene.read(content, size) == noise(size)
        assert scene.asked() == asked + 1


async def test_only_clients_see_it(autojump_clock: MockClock, open_scene: OpenScene) -> None:
    """Whoever judges or mends is told that the chunk is away, though a client could read it."""
    async with open_scene() as scene:
        size = 300 * KIB
        content = await scene.write(noise(size))
        assert await scene.read(content, size, scene.upkeep) == noise(size)
        assert scene.cache.use()[:3] == (0, 64 * MIB, 0), "what upkeep reads is not kept either"
        refs = (await scene.write(noise(20 * KIB))).refs
        packed = await scene.writer.pack(KEYS, [*refs] * (REFS_IN_ENTRY_MAX + 1))
        await scene.read(content, size)
        await scene.read(packed, 20 * KIB)
        scene.lab.down = set(scene.lab.shelves)
        assert await scene.read(content, size) == noise(size)
        with pytest.raises(ContentElsewhereError):
            await scene.read(content, size, scene.upkeep)
        with pytest.raises(ContentElsewhereError):
            [ref async for ref in walk_refs(scene.upkeep, KEYS, packed)]
        with pytest.raises(ContentElsewhereError):
            await scene.lab.copies.fetch(KEYS.vault_id, content.refs[0].chunk, size)
        with pytest.raises(ChunkMissingError):
            scene.lab.chunks.get(KEYS.vault_id, content.refs[0].chunk)


@pytest.mark.parametrize("is_put_back", [True, False])
async def test_a_chunk_that_belongs_here_is_put_back_and_not_cached(
    autojump_clock: MockClock, open_scene: OpenScene, *, is_put_back: bool
) -> None:
    """Also where too many are to be put back at once: repair does it then."""
    async with open_scene(me_reliable=True) as scene:
        if not is_put_back:
            assert scene.lab.copies._back.take_now(copies_module.BACK_MAX)  # as many wait as may
        size = 8 * MIB
        content = await scene.write(noise(size))
        mine = {stat.chunk for stat in scene.lab.chunks.scan(KEYS.vault_id)}
        assert 0 < len(mine) < len(content.refs)
        scene.lab.chunks.drop_vault(KEYS.vault_id)
        assert await scene.read(content, size) == noise(size)
        assert {stat.chunk for stat in scene.lab.chunks.scan(KEYS.vault_id)} == (mine if is_put_back else set())
        assert set(scene.cache._kept) == {ref.chunk for ref in content.refs} - mine


async def test_a_damaged_own_copy_is_mended_though_a_cached_one_would_do(
    autojump_clock: MockClock, open_scene: OpenScene
) -> None:
    async with open_scene() as scene:
        size = 300 * KIB
        content = await scene.write(noise(size))
        await scene.read(content, size)
        chunk = content.refs[0].chunk
        sealed = scene.cache.get(chunk)
        assert sealed is not None
        scene.lab.chunks._vaults.setdefault(KEYS.vault_id, {})[chunk] = (b"rotten", 0)
        assert await scene.read(content, size) == noise(size)
        assert scene.lab.damaged == [chunk]


async def test_what_the_cache_has_no_time_for_is_not_kept(
    autojump_clock: MockClock, open_scene: OpenScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is slow to write costs memory for a few chunks and one thread, and no read waits for it."""
    monkeypatch.setattr(copies_module, "CACHED_MAX", 2 * MIB + 100)
    writing: list[int] = []

    async def blocking(function: Callable[..., Any], *arguments: Any) -> Any:
        if getattr(function, "__name__", "") == "put":
            writing.append(1)
            assert len(writing) == 1, "one at a time"
            await trio.sleep(SETTLED_S / 10)
            writing.clear()
        return await run_inline(function, *arguments)

    async with open_scene(64 * MIB, blocking) as scene:
        size = 6 * MIB
        content = await scene.write(noise(size))
        began_s = trio.current_time()
        assert await scene.read(content, size) == noise(size)
        assert trio.current_time() - began_s < SETTLED_S * 1.01
        assert scene.cache.use().chunks == 2
        assert await scene.read(content, size) == noise(size)
        assert scene.cache.use().chunks == 4


async def test_no_cache_no_room_and_no_disk_are_nobodys_error(
    autojump_clock: MockClock, open_scene: OpenScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 300 * KIB
    for size_max in (0, 100 * KIB):
        async with open_scene(size_max) as scene:
            content = await scene.write(noise(size))
            for turn in (1, 2):
                assert await scene.read(content, size) == noise(size)
                assert scene.asked() == turn
    async with open_scene() as scene:
        content = await scene.write(noise(size))
        monkeypatch.setattr(scene.cache, "_folder", "/dev/null/cache")
        monkeypatch.setattr(scene.cache, "_root", "/dev/null")
        for turn in (1, 2):
            assert await scene.read(content, size) == noise(size)
            assert scene.asked() == turn


@pytest.mark.parametrize("seed", range(4))
async def test_no_wrong_byte_whatever_happens_to_the_cache(
    autojump_clock: MockClock, open_scene: OpenScene, seed: int
) -> None:
    rng = random.Random(seed)
    async with open_scene(900 * KIB, me_reliable=bool(seed % 2)) as scene:
        bodies = [noise(rng.randrange(30 * KIB, 400 * KIB), number) for number in range(8)]
        contents = [await scene.write(body) for body in bodies]
        for _ in range(80):
            number = rng.randrange(len(bodies))
            body, content = bodies[number], contents[number]
            assert await scene.read(content, len(body)) == body
            if scene.cache._kept and rng.random() < 0.3:
                chunk = rng.choice(list(scene.cache._kept))
                scene.damage(chunk, rng.choice([lambda raw: raw[::-1], lambda raw: raw[1:], lambda raw: raw + b"x"]))
            if rng.random() < 0.1:
                scene.cache.give_back()
        assert scene.cache.use().hits > 3
        assert scene.lab.damaged == []
