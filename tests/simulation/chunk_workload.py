"""Clients whose objects have chunks: long and short, shared and copied, sent slowly, read in ranges. Knows no fault.

Contents are made of blocks that are drawn from a small pool, so that objects share chunks, and what was deleted comes
again: chunks that nothing refers to are in use again a moment later.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import trio
from tests.simulation.index_node import Run
from tests.simulation.index_workload import Client, History, Mix, ValueBody
from tests.simulation.linearizability import Kind

from meshhold.model.entry import ObjectVersion, Upload

POOL: Final = 24
"""Blocks that contents are made of, beside those that are new."""
_LEFT_ALONE: Final = 0.15
"""Chance of an upload with which nobody goes on."""
_WEIGHTS: Final = {
    "put": 24, "create": 4, "match": 4, "delete": 12, "delete_match": 2, "swap": 2, "get": 20, "head": 1, "list": 1,
    "multipart": 8, "copy": 10,
}  # fmt: skip


@dataclass(slots=True)
class Sizes:
    """What contents are like. Sizes in bytes; chances per content."""

    chunk: int = 4096
    blocks_max: int = 12
    """An object has up to so many chunks, now and then ten times as many."""
    shared: float = 0.5
    """Chance of a block that others have too."""
    inline: float = 0.1
    """Chance of a content that fits in its entry."""
    slow: float = 0.0
    """Chance of a body that takes up to `slow_s` to arrive."""
    slow_s: float = 0.0


@dataclass(slots=True)
class ChunkMix(Mix):
    """How often clients ask for what, and what they send."""

    weights: dict[str, int] = field(default_factory=lambda: dict(_WEIGHTS))
    sizes: Sizes = field(default_factory=Sizes)


@lru_cache(4096)
def block(number: int, size: int) -> bytes:
    """Return the bytes of one block of that number."""
    return random.Random(f"block {number}").randbytes(size)


class SlowBody(ValueBody):
    """A body that comes in pieces, with pauses of up to `pause_s` between them."""

    def __init__(self, value: str, content: bytes, pieces: int, pause_s: float, chance: random.Random) -> None:
        super().__init__(value, content)
        self._rest = content
        self._piece = max(1, -(-len(content) // pieces))
        self._pause_s = pause_s
        self._dice = chance

    async def receive(self) -> bytes:
        """Return the next piece."""
        await trio.sleep(self._pause_s * self._dice.random())
        piece, self._rest = self._rest[: self._piece], self._rest[self._piece :]
        return piece


class ChunkClient(Client):
    """One program that uses the store.

    `check` looks at what was acknowledged: the version, its key, and when it was asked for.
    """

    def __init__(
        self,
        name: str,
        chance: random.Random,
        history: History,
        mix: ChunkMix,
        doors: Callable[[], list[Run]],
        check: Callable[[ObjectVersion, str, float], None],
    ) -> None:
        super().__init__(name, chance, history, mix, doors)
        self._sizes = mix.sizes
        self._check = check
        self._slow = False
        self._asked_s = 0.0
        self._actions["copy"] = self._copy

    # -- contents ----------------------------------------------------------------------------------------------------

    def make_content(self, value: str, *, is_part: bool) -> bytes:
        """Return blocks, some of which others have too, and a tail of its own."""
        chance, sizes = self._chance, self._sizes
        if not is_part and chance.random() < sizes.inline:
            return value.encode()
        count = chance.randint(1, sizes.blocks_max) * (10 if chance.random() < 0.03 else 1)
        numbers = [
            chance.randrange(POOL) if chance.random() < sizes.shared else chance.randrange(POOL, 2**32)
            for _ in range(count)
        ]
        content = b"".join([block(number, sizes.chunk) for number in numbers])
        return content if chance.random() < 0.3 else content + value.encode()

    def make_body(self, value: str, content: bytes) -> ValueBody:
        """Return a body that comes at once, or slowly."""
        if not self._slow:
            return ValueBody(value, content)
        pieces = self._chance.randint(2, 4)
        return SlowBody(value, content, pieces, 2 * self._sizes.slow_s / pieces, self._chance)

    def choose_range(self, size: int, *, run_given: bool) -> tuple[int, int]:
        """Return all, or any part."""
        if run_given or not size or self._chance.random() < 0.6:
            return 0, size
        start = self._chance.randrange(size)
        return start, self._chance.randint(start + 1, size)

    # -- asking ------------------------------------------------------------------------------------------------------

    async def _ask(self, request: Any, run: Run | None = None, patience_s: float = 0.0) -> Any:
        self._asked_s = trio.current_time()
        slow_s = 3 * self._sizes.slow_s if self._slow else 0.0
        return await super()._ask(request, run, patience_s or self._mix.patience_s + slow_s)

    async def _put(self, key: str, kind: Kind = Kind.PUT) -> None:
        self._slow = self._chance.random() < self._sizes.slow
        try:
            await super()._put(key, kind)
        finally:
            self._slow = False

    async def _multipart(self, key: str) -> None:
        """Upload in parts; now and then nobody goes on with it, and its part stays."""
        if self._chance.random() >= _LEFT_ALONE:
            await super()._multipart(key)
            return
        upload = await self._ask(lambda run: run.uploads.begin(self._mix.bucket, key.encode(), Upload(0, self.name)))
        if isinstance(upload, str):
            await self._ask(self._part_request(key, upload, 1, self._history.new_value()))

    def acknowledged(self, answer: Any, key: str) -> None:
        """Have the world look whether what was acknowledged is as durable as it is to be."""
        if isinstance(answer, ObjectVersion):
            self._check(answer, key, self._asked_s)

    async def _copy(self, key: str) -> None:
        """Copy another object to this key, within the vault: no byte moves."""
        source = self._chance.choice(self._mix.keys)
        found = await self._ask(lambda run: run.objects.find(self._mix.bucket, source.encode()))
        if not isinstance(found, ObjectVersion):
            return
        asked = self._history.begin(self.name, Kind.PUT, key, found.etag)
        answer = await self._ask(
            lambda run: run.objects.copy(self._mix.bucket, source.encode(), found, self._mix.bucket, key.encode(), None)
        )
        self._conclude(asked, key, answer, found.etag)
        self.acknowledged(answer, key)
